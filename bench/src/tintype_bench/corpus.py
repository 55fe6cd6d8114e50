"""Photographs that no camera took: JPEGs of a given size that really decode."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tintype_bench.distinct import Distinct

KB, MB = 1000, 1000 * 1000

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Photo:
    """A kind of photograph: how many bytes it is asked to have, on how many pixels."""

    name: str
    size: int
    width: int
    height: int

    @property
    def file_name(self) -> str:
        """The name of its file in the corpus."""
        return f"photo-{self.name}.jpg"


PHOTOS = {
    photo.name: photo
    for photo in (
        Photo("100KB", 100 * KB, 1024, 768),
        Photo("2MB", 2 * MB, 4000, 3000),
        Photo("20MB", 20 * MB, 7776, 5184),
    )
}

# Detail of a photograph is roughly 1/f: as strong in the large as in the small. The last of
# these octaves has the pixel's own size, as sensor noise has.
OCTAVES = 8
LOWEST_QUALITY, HIGHEST_QUALITY = 40, 97


def make(photo: Photo, folder: Path) -> Path:
    """Write the photograph into `folder`, unless it is there; return its path."""
    path = folder / photo.file_name
    if not path.exists():
        path.write_bytes(_encode(_paint(photo.width, photo.height), photo.size))
    return path


def _paint(width: int, height: int) -> Image.Image:
    """Return gradients, soft shapes and noise at every scale, the same each time."""
    random = np.random.default_rng(seed=1826)  # Niépce's view from the window
    return Image.merge("RGB", [_channel(random, width, height) for _ in range(3)])


def _channel(random: np.random.Generator, width: int, height: int) -> Image.Image:
    total: Pixels = np.zeros((height, width), dtype=np.float32)
    for octave in range(OCTAVES):
        shape = (max(2, height >> octave), max(2, width >> octave))
        noise: Pixels = random.standard_normal(shape, dtype=np.float32)
        grown = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(grown) * np.float32(2.0 + 2.5 * octave)
    slope: Pixels = np.linspace(-40, 40, width, dtype=np.float32)
    return Image.fromarray(np.clip(total + slope + 128, 0, 255).astype(np.uint8))


def _encode(picture: Image.Image, size: int) -> bytes:
    """Return the JPEG of the best quality that is no larger than `size`."""
    low, high, best = LOWEST_QUALITY, HIGHEST_QUALITY, b""
    while low <= high:
        quality = (low + high) // 2
        encoded = _jpeg(picture, quality)
        if len(encoded) <= size - Distinct.COST:
            best, low = encoded, quality + 1
        else:
            high = quality - 1
    if not best:
        raise ValueError(f"{picture.size} pixels do not fit into {size} bytes at quality {LOWEST_QUALITY}")
    return best


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()
