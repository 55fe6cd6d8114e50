"""A small picture for people to recognise an image by: upright, on white, without metadata."""

import numpy as np
import pyvips

from tintype.imaging.worker.decode import shrunk
from tintype.imaging.worker.fingerprint import upright
from tintype.imaging.worker.job import Job

QUALITIES = (80, 60, 35)
MAX_BYTES = 180 * 1024
"""What fits into a reply, as text."""


def render(job: Job, data: memoryview) -> bytes:
    """Return a JPEG of the first frame, up to `job.side` pixels along a side. Raises `Refused`."""
    pixels = upright(shrunk(job, data), job.orientation).astype(np.uint16)
    alpha = pixels[..., 3:]
    flat = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(flat), interpretation="srgb")
    sizes = (bytes(picture.jpegsave_buffer(Q=quality, keep=0)) for quality in QUALITIES)
    return next((jpeg for jpeg in sizes if len(jpeg) <= MAX_BYTES), b"")
