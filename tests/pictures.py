"""Small pictures, made on the spot: another seed, another test or another try gives other bytes."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

_TAKEN_FOR = [0]  # the test that runs, and which try of it; 0 while tests are collected


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let no two tests send the same bytes: the second would be answered with the image of the first."""
    tried = getattr(item, "execution_count", 1)
    _TAKEN_FOR[0] = zlib.crc32(f"{item.nodeid} {tried}".encode())


def picture(kind: str = "PNG", *, seed: int, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """Return a picture with soft colours and a little noise, as cameras make them."""
    generator = np.random.default_rng([seed, *_TAKEN_FOR])
    ramp = np.linspace(0, 255, size[0])[None, :, None] * generator.random(3)[None, None, :]
    noise = generator.integers(0, 24, (size[1], size[0], 3))
    pixels = np.clip(ramp + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def animation(*, seed: int, frames: int = 3) -> bytes:
    """Return an animated GIF."""
    generator = np.random.default_rng([seed, *_TAKEN_FOR])
    images = [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(frames)]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=100)
    return out.getvalue()
