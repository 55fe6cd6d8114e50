"""GIF89a: a walk over the blocks, which counts frames without unpacking any."""

from dataclasses import dataclass
from mmap import mmap

from tintype.imaging.headers.header import Header, check_frames, check_pixels, check_side, damaged
from tintype.model.body import Body
from tintype.model.image import Format
from tintype.settings import ImagingSettings

_SCREEN = 13
"""Bytes of signature and logical screen descriptor."""
_EXTENSION, _FRAME, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_DESCRIPTOR = 10

# Sizes of the screens on which GIFs were once made, and written into them; libnsgif, which decodes
# for libvips, then takes the first frame's size instead. So do we, to report what it reports.
_OLD_SCREENS = {(640, 480), (640, 512), (800, 600), (1024, 768), (1280, 1024), (1600, 1200)}
_LARGEST_SCREEN = 2048


@dataclass(slots=True)
class _Walk:
    """What the blocks have said so far."""

    frames: int = 0
    first: tuple[int, int] = (0, 0)
    """How far the first frame reaches."""
    transparent: bool = False


def read_gif(body: Body, limits: ImagingSettings) -> Header:
    """Count the frames; the picture is as large as the decoder will make it."""
    view = body.view()
    if body.length < _SCREEN:
        raise damaged("The GIF ends within its header.")
    screen = int.from_bytes(view[6:8], "little"), int.from_bytes(view[8:10], "little")
    walk = _Walk()
    _follow(view, walk, limits)
    if walk.frames == 0:
        raise damaged("The GIF has no picture in it.")
    width, height = _size(screen, walk.first)
    check_side(width, height, limits)
    pixels = width * height * walk.frames
    # Browsers unroll every frame to the whole screen, whatever our decoder makes of it.
    check_pixels(max(pixels, screen[0] * screen[1] * walk.frames), limits.max_pixels)
    return Header(
        format=Format.GIF,
        width=width,
        height=height,
        pixels=pixels,
        frames=walk.frames,
        has_alpha=walk.transparent,
    )


def _size(screen: tuple[int, int], first: tuple[int, int]) -> tuple[int, int]:
    doubtful = screen in _OLD_SCREENS or 0 in screen or max(screen) > _LARGEST_SCREEN
    width, height = (1, 1) if doubtful else screen
    return max(width, first[0]), max(height, first[1])


def _follow(view: bytes | mmap, walk: _Walk, limits: ImagingSettings) -> None:
    """Follow the blocks up to the trailer; raise IndexError where the file ends within one."""
    end = len(view)
    position = _SCREEN + _table(view[10])
    while position < end:
        kind = view[position]
        if kind == _EXTENSION:
            if view[position + 1] == _GRAPHIC_CONTROL and view[position + 2]:
                walk.transparent |= bool(view[position + 3] & 1)
            position = _skip(view, position + 2)
        elif kind == _FRAME:
            walk.frames += 1
            check_frames(walk.frames, limits)
            flags = view[position + _DESCRIPTOR - 1]
            if walk.frames == 1:
                walk.first = _reach(view[position + 1 : position + 9])
            position = _skip(view, position + _DESCRIPTOR + _table(flags) + 1)  # past the code size
        else:
            # The trailer, or something that decoders do not read. A missing trailer is common.
            return


def _table(flags: int) -> int:
    """Return the length of the colour table that follows flags (section 18)."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _reach(descriptor: bytes) -> tuple[int, int]:
    left, top, width, height = (int.from_bytes(descriptor[at : at + 2], "little") for at in (0, 2, 4, 6))
    return left + width, top + height


def _skip(view: bytes | mmap, position: int) -> int:
    """Return the position after a series of sub-blocks (section 15)."""
    while size := view[position]:
        position += size + 1
    return position + 1
