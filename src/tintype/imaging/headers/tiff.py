"""TIFF 6.0 and BigTIFF: the chain of directories, one for each page."""

from tintype.imaging.headers.header import Header, Window, check_frames, check_pixels, check_side, damaged
from tintype.imaging.ifd import BadDirectory, Directory, Ifds
from tintype.model.body import Body
from tintype.model.errors import UnsupportedType
from tintype.model.image import Format
from tintype.settings import ImagingSettings

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_EXTRA_SAMPLES, _DNG_VERSION = 338, 50706
_PARTS = ((273, 279), (324, 325))
"""Where strips and tiles lie, and how long they are."""
_UNCOMPRESSED = 1
_MOST_PARTS = 65_536


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
    """Tell whether a strip or tile ends beyond the end of the file."""
    for offsets_tag, lengths_tag in _PARTS:
        offsets, lengths = (
            [int(number) for number in ifds.numbers(entry, _MOST_PARTS)] if (entry := page.get(tag)) else []
            for tag in (offsets_tag, lengths_tag)
        )
        if len(offsets) == 1 and ifds.integer(page, _COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
            # Many writers give a wrong length for the one strip; decoders go by the size of the picture.
            lengths = [_raw_bytes(ifds, page)]
        if any(offset + size > length for offset, size in zip(offsets, lengths, strict=False)):
            return True
    return False


def _raw_bytes(ifds: Ifds, page: Directory) -> int:
    bits = ifds.integer(page, _BITS, 1) * ifds.integer(page, _SAMPLES, 1)
    return ifds.integer(page, _HEIGHT, 0) * ((ifds.integer(page, _WIDTH, 0) * bits + 7) // 8)
