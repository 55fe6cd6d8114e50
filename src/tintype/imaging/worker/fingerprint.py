"""What a small picture says of a large one: a placeholder, a colour, and a hash that survives resizing."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tintype.imaging.worker.decode import Pixels

Planes = npt.NDArray[np.float64]
"""One or more channels, each of rows and columns."""

_MOST = 7
"""Waves that a ThumbHash can have along a side."""

_GRID, _COEFFICIENTS = 32, 8
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])[:, None, None]
_NOTHING = 1e-9
"""Below it a wave is only the rounding of sums, which machines do differently."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of the picture as it is seen, that is, turned upright."""

    thumbhash: bytes
    dominant_color: str | None
    """`#rrggbb`; None where nothing is visible."""
    phash: int
    """64 bits, signed."""


def fingerprint(pixels: Pixels, orientation: int) -> Fingerprint:
    """Compute all three from a picture of up to 100 x 100 pixels."""
    pixels = upright(pixels, orientation)
    planes: Planes = pixels.transpose(2, 0, 1).astype(np.float64)
    planes /= 255
    alpha = planes[3]
    flat, visible = _composite(planes[:3], alpha)
    return Fingerprint(_thumbhash(flat, alpha, visible), _dominant(pixels), _phash(flat))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn a picture as its EXIF orientation (1 to 8) asks."""
    if orientation >= 5:  # noqa: PLR2004 - 5 to 8 exchange rows and columns
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _composite(colours: Planes, alpha: Planes) -> tuple[Planes, float]:
    """Lay the picture on its own average colour; return it with the sum of its alpha."""
    visible = float(alpha.sum())
    if visible == alpha.size:
        return colours, visible
    average = (colours * alpha).sum((1, 2)) / visible if visible else np.zeros(3)
    return average[:, None, None] * (1 - alpha) + colours * alpha, visible


def _thumbhash(flat: Planes, alpha: Planes, visible: float) -> bytes:
    """Encode as ThumbHash does (evanw/thumbhash): low frequencies of brightness, two colours and alpha."""
    height, width = alpha.shape
    has_alpha = visible < alpha.size
    most = 5 if has_alpha else 7
    across = max(1, _round(most * width / max(width, height)))
    down = max(1, _round(most * height / max(width, height)))
    red, green, blue = _waves(flat)
    light = _encode((red + green + blue) / 3, max(3, across), max(3, down))
    yellow_blue = _encode((red + green) / 2 - blue, 3, 3)
    red_green = _encode(red - green, 3, 3)
    landscape = width > height
    head = (
        _round(63 * light.mean)
        | _round(31.5 + 31.5 * yellow_blue.mean) << 6
        | _round(31.5 + 31.5 * red_green.mean) << 12
        | _round(31 * light.scale) << 18
        | has_alpha << 23
        | (down if landscape else across) << 24
        | _round(63 * yellow_blue.scale) << 27
        | _round(63 * red_green.scale) << 33
        | landscape << 39
    )
    encoded, nibbles = head.to_bytes(5, "little"), [*light.nibbles, *yellow_blue.nibbles, *red_green.nibbles]
    if has_alpha:
        opacity = _encode(_waves(alpha), 5, 5)
        encoded += bytes([_round(15 * opacity.mean) | _round(15 * opacity.scale) << 4])
        nibbles += opacity.nibbles
    nibbles += [0] * (len(nibbles) % 2)
    return encoded + bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def _waves(planes: Planes) -> Planes:
    """Return the lowest frequencies of each plane, 7 x 7 of them: sums of planes are sums of these."""
    height, width = planes.shape[-2:]
    return _cosines(_MOST, height) @ planes @ _cosines(_MOST, width).T / (width * height)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One channel: its mean, and its low frequencies as 4-bit parts of the strongest."""

    mean: float
    scale: float
    nibbles: list[int]


def _encode(waves: Planes, across: int, down: int) -> _Encoded:
    kept: list[float] = waves[_triangle(across, down)].tolist()
    mean, varying = kept[0], kept[1:]
    scale = max(map(abs, varying))
    if scale < _NOTHING:
        return _Encoded(mean, 0, [0] * len(varying))
    return _Encoded(mean, scale, [_round(7.5 + 7.5 / scale * each + _NOTHING) for each in varying])


@lru_cache(maxsize=1024)
def _cosines(count: int, size: int) -> Planes:
    """Return the first `count` waves of the DCT over `size` samples."""
    return np.cos(np.pi / size * np.outer(np.arange(count), np.arange(size) + 0.5))


@lru_cache(maxsize=64)
def _triangle(across: int, down: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the coefficients that are kept, in their order."""
    kept = [(y, x) for y in range(down) for x in range(across) if x * down < across * (down - y)]
    return np.array([y for y, _ in kept]), np.array([x for _, x in kept])


def _round(value: float) -> int:
    """Round as JavaScript does: halves go up."""
    return math.floor(value + 0.5)


def _dominant(pixels: Pixels) -> str | None:
    """Return the mean of the colours in the fullest of 512 bins; what is transparent does not count."""
    some = pixels[::2, ::2].astype(np.intp)
    seen = some[some[..., 3] > 127]  # noqa: PLR2004 - more than half opaque
    if len(seen) == 0:
        return None
    bins = (seen[:, 0] >> 5 << 6) | (seen[:, 1] >> 5 << 3) | (seen[:, 2] >> 5)
    fullest = int(np.bincount(bins).argmax())
    red, green, blue, _ = map(_round, seen[bins == fullest].mean(0).tolist())
    return f"#{red:02x}{green:02x}{blue:02x}"


def _phash(flat: Planes) -> int:
    """Return 64 signs of the lowest frequencies of a 32 x 32 grey picture, against their median.

    The common "pHash": bit 63 is the mean's, then along rows. Reducing and transforming are both
    matrices, so each side needs only their product.
    """
    height, width = flat.shape[-2:]
    waves = (_BRIGHTNESS * (_reduced_cosines(height) @ flat @ _reduced_cosines(width).T)).sum(0)
    waves[np.abs(waves) < _NOTHING] = 0
    ordered = np.sort(waves, axis=None)
    bits = (waves > (ordered[31] + ordered[32]) / 2).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), signed=True)


@lru_cache(maxsize=256)
def _reduced_cosines(size: int) -> Planes:
    """Return what averages `size` samples to 32, and takes the 8 lowest waves of those."""
    edges = np.linspace(0, size, _GRID + 1)
    lower, upper = edges[:-1, None], edges[1:, None]
    cells = np.arange(size)
    shares = np.clip(np.minimum(upper, cells + 1) - np.maximum(lower, cells), 0, None) * (_GRID / size)
    return _cosines(_COEFFICIENTS, _GRID) @ shares
