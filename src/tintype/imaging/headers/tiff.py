"""TIFF 6.0 and BigTIFF: the chain of directories, one for each page."""

from tintype.imaging.headers.header import Header, Window, check_frames, check_pixels, check_side, damaged
from tintype.imaging.ifd import BadDirectory, Directory, Ifds
from tintype.model.body import Body
from tintype.model.errors import UnsupportedType
from tintype.model.image import Format
from tintype.settings import ImagingSettings

_WIDTH, _HEIGHT, _BITS, _EXTRA_SAMPLES, _DNG_VERSION = 256, 257, 258, 338, 50706
_OFFSETS = (273, 324)
"""Where strips and tiles lie."""


def read_tiff(body: Body, limits: ImagingSettings) -> Header:
    """Follow the directories; a chain that comes back to itself ends there, as for every decoder."""
    window = Window(body)
    try:
        ifds = Ifds.open(window.read)
        pages = _pages(ifds, limits)
    except BadDirectory as error:
        raise damaged(f"The TIFF cannot be followed: {error}.") from error
    first = pages[0]
    if _DNG_VERSION in first:
        raise UnsupportedType("The file is a camera's raw picture (DNG). Export it as JPEG, TIFF or PNG.")
    pixels = sum(_page_pixels(ifds, page, limits) for page in pages)
    check_pixels(pixels, limits.max_pixels)
    if _cut_off(ifds, first, body.length):
        raise damaged("The TIFF ends early: a part of its picture lies beyond the end.")
    return Header(
        format=Format.TIFF,
        width=ifds.integer(first, _WIDTH, 0),
        height=ifds.integer(first, _HEIGHT, 0),
        pixels=pixels,
        frames=len(pages),
        orientation=ifds.orientation(first),
        has_alpha=_EXTRA_SAMPLES in first,
        bits=ifds.integer(first, _BITS, 1),
    )


def _pages(ifds: Ifds, limits: ImagingSettings) -> list[Directory]:
    pages: list[Directory] = []
    seen: set[int] = set()
    offset = ifds.first
    while offset and offset not in seen:
        seen.add(offset)
        try:
            page, offset = ifds.directory(offset)
        except BadDirectory:
            if not pages:
                raise
            break  # decoders too stop at a directory that they cannot read
        pages.append(page)
        check_frames(len(pages), limits)
    if not pages:
        raise BadDirectory("it has no directory")
    return pages


def _page_pixels(ifds: Ifds, page: Directory, limits: ImagingSettings) -> int:
    width, height = ifds.integer(page, _WIDTH, 0), ifds.integer(page, _HEIGHT, 0)
    check_side(width, height, limits)
    return width * height


def _cut_off(ifds: Ifds, page: Directory, length: int) -> bool:
    """Tell whether a strip or tile begins beyond the end of the file."""
    for tag in _OFFSETS:
        if entry := page.get(tag):
            offsets = ifds.numbers(entry, 65_536)
            if offsets and max(offsets) >= length:
                return True
    return False
