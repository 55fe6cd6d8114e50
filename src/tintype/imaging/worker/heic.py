"""Decoding HEIC by pillow-heif, which is installed with the `heic` extra."""

import io
import math
from typing import Any, cast

import numpy as np
import pillow_heif

from tintype.imaging.worker.decode import SMALL_SIDE, Picture, check, refusal
from tintype.imaging.worker.job import Job


def prepare() -> None:
    """Decode with one thread, and only the pictures themselves."""
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False


def decode(job: Job, data: memoryview) -> Picture:
    """Decode all pictures of the file; the main one gives the facts. Raises `Refused`."""
    try:
        images = [*pillow_heif.open_heif(io.BytesIO(data))]  # pyright: ignore[reportUnknownMemberType] - untyped
        main = next(filter(_is_main, images), images[0])
        pixels = sum(width * height for width, height in (image.size for image in images))
        check(job, *main.size, len(images), pixels)
        for image in images:
            if image is not main:
                image.load()
        return _picture(main, len(images))
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError) as error:
        raise refusal(str(error)) from error


def _is_main(image: pillow_heif.HeifImage) -> bool:
    return bool(cast("dict[str, Any]", image.info)["primary"])  # pyright: ignore[reportUnknownMemberType] - untyped


def _picture(main: pillow_heif.HeifImage, frames: int) -> Picture:
    image = main.to_pillow()
    factor = math.ceil(max(image.size) / SMALL_SIDE)
    small = image.reduce((min(factor, image.width), min(factor, image.height)))
    return Picture(image.width, image.height, frames, main.has_alpha, np.asarray(small.convert("RGBA")))
