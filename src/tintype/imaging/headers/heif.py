"""AVIF and HEIC: boxes of ISO/IEC 14496-12 that describe items (ISO/IEC 23008-12). Nothing recurses."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tintype.imaging.headers.header import (
    Header,
    Span,
    check_frames,
    check_pixels,
    check_side,
    damaged,
)
from tintype.model.body import Body
from tintype.model.errors import ImageTooLarge, UnsupportedType
from tintype.model.image import Format
from tintype.settings import ImagingSettings

MAX_BOXES = 1000
"""At the top of the file, or of property boxes."""
MAX_ITEMS = 4096
"""A photograph of a phone has about 60: its tiles."""
MAX_META = 4 << 20
"""Bytes of the box that describes all items."""

_CODED = {Format.AVIF: {b"av01"}, Format.HEIC: {b"hvc1", b"hev1"}}
_DERIVED = {b"grid", b"iden", b"iovl"}
_IMAGES = {*_DERIVED, b"av01", b"hvc1", b"hev1", b"avc1", b"j2k1", b"jpeg", b"vvc1", b"unci"}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")


@dataclass(slots=True)
class _Item:
    """One item of the file: a picture, a tile, EXIF."""

    kind: bytes
    hidden: bool
    properties: list[int] = field(default_factory=list[int])
    extents: list[Span] = field(default_factory=list[Span])
    """Where its bytes lie; empty for what lies within the description itself."""


@dataclass(slots=True)
class _Meta:
    """The description of all items."""

    primary: int = 0
    items: dict[int, _Item] = field(default_factory=dict[int, _Item])
    properties: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list[tuple[bytes, int, list[int]]])

    def of(self, item: _Item, kind: bytes) -> bytes | None:
        """Return the item's first property of a kind."""
        return next((data for name, data in self._properties(item) if name == kind), None)

    def transforms(self, item: _Item) -> Iterator[tuple[bytes, bytes]]:
        """Yield what turns or crops the picture, in the order in which it is done."""
        return (each for each in self._properties(item) if each[0] in (b"irot", b"clap"))

    def referred(self, kind: bytes, source: int) -> list[int]:
        """Return the items that `source` refers to."""
        return [
            target
            for name, start, targets in self.references
            for target in targets
            if (name, start) == (kind, source)
        ]

    def referring(self, kind: bytes, target: int) -> list[int]:
        """Return the items that refer to `target`."""
        return [start for name, start, targets in self.references if name == kind and target in targets]

    def _properties(self, item: _Item) -> Iterator[tuple[bytes, bytes]]:
        return (self.properties[index - 1] for index in item.properties if 0 < index <= len(self.properties))


def read_avif(body: Body, limits: ImagingSettings) -> Header:
    """Read the description of an AVIF file."""
    return _read(Format.AVIF, body, limits)


def read_heic(body: Body, limits: ImagingSettings) -> Header:
    """Read the description of a HEIC file."""
    return _read(Format.HEIC, body, limits)


def _read(image_format: Format, body: Body, limits: ImagingSettings) -> Header:
    meta = _meta(image_format, body)
    primary = meta.items.get(meta.primary)
    if primary is None or primary.kind not in _IMAGES:
        raise damaged(f"The {image_format.name} does not say which of its pictures is the main one.")
    _check_codec(image_format, meta)
    bits = _bits(meta)
    shown = _shown(meta)
    pixels = _pixels(meta, shown, bits, limits)
    check_frames(len(shown), limits)
    if _cut_off(meta, body.length):
        raise damaged(f"The {image_format.name} ends early: a part of it lies beyond the end.")
    width, height = _upright(meta, primary)
    return Header(
        format=image_format,
        width=width,
        height=height,
        pixels=pixels,
        frames=len(shown),
        has_alpha=_has_alpha(meta),
        bits=bits,
        exif=_exif(body, meta),
    )


def _meta(image_format: Format, body: Body) -> _Meta:
    """Find the description at the top of the file and read it."""
    position = 0
    for _ in range(MAX_BOXES):
        head = body.read(position, 16)
        if len(head) < 8:  # noqa: PLR2004 - a box header
            break
        kind, skip, size = _box(head, body.length - position)
        if kind == b"meta":
            if size > MAX_META:
                raise ImageTooLarge(
                    f"The description of the {image_format.name} is longer than {MAX_META} bytes. "
                    "Save it again without metadata.",
                    details={"limit": MAX_META},
                )
            return _parse_meta(body.read(position + skip + 4, size - skip - 4))
        position += size
    if body.read(4, 8) in (b"ftypavis", b"ftypmsf1"):
        raise UnsupportedType(
            "The file is a sequence without a still picture. Send one as AVIF, GIF or WebP."
        )
    raise damaged(f"The {image_format.name} does not describe any picture.")


def _box(head: bytes, room: int) -> tuple[bytes, int, int]:
    """Return a box's type, the length of its header and its whole size (section 4.2)."""
    size, kind, skip = int.from_bytes(head[:4]), head[4:8], 8
    if size == 1:
        size, skip = int.from_bytes(head[8:16]), 16
    if size == 0:
        size = room
    if size < skip or size > room:
        # A box that ends beyond the file is one that was cut; what lies before may still be read.
        size = max(room, skip)
    return kind, skip, size


def _boxes(data: bytes, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the boxes in `data`, one level deep."""
    position = 0
    for _ in range(most):
        if position + 8 > len(data):
            return
        kind, skip, size = _box(data[position : position + 16], len(data) - position)
        yield kind, data[position + skip : position + size]
        position += size
    raise ImageTooLarge("The image has more boxes than any program writes.", details={"limit": most})


class _Fields:
    """Numbers one after the other; beyond the end they are 0, and `over` is true."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    @property
    def over(self) -> bool:
        return self.position > len(self.data)

    def take(self, size: int) -> int:
        """Return the next number of `size` bytes."""
        start, self.position = self.position, self.position + size
        return int.from_bytes(self.data[start : self.position])


def _parse_meta(data: bytes) -> _Meta:
    meta = _Meta()
    boxes = dict(reversed([*_boxes(data, MAX_BOXES)]))  # the first of a kind counts
    if b"pitm" in boxes:
        primary = _Fields(boxes[b"pitm"], 4)
        meta.primary = primary.take(4 if boxes[b"pitm"][:1] == b"\x01" else 2)
    _item_infos(boxes.get(b"iinf", b""), meta)
    _locations(boxes.get(b"iloc", b""), meta)
    _item_properties(boxes.get(b"iprp", b""), meta)
    _references(boxes.get(b"iref", b""), meta)
    return meta


def _item_infos(data: bytes, meta: _Meta) -> None:
    """Read `iinf`: the type of each item (ISO/IEC 14496-12, section 8.11.6)."""
    skip = 8 if data[:1] > b"\x00" else 6
    for kind, info in _boxes(data[skip:], MAX_ITEMS):
        if kind != b"infe" or info[:1] < b"\x02" or len(info) < 12:  # noqa: PLR2004 - up to the type
            continue
        fields = _Fields(info, 4)
        number = fields.take(4 if info[0] > 2 else 2)  # noqa: PLR2004 - version 3 has wide ids
        start = fields.position + 2
        meta.items.setdefault(number, _Item(info[start : start + 4], hidden=bool(info[3] & 1)))


def _locations(data: bytes, meta: _Meta) -> None:
    """Read `iloc`: where the bytes of each item lie (section 8.11.3)."""
    if len(data) < 6:  # noqa: PLR2004 - version, flags and the sizes of fields
        return
    version = data[0]
    offset_size, length_size = data[4] >> 4, data[4] & 15
    base_size, index_size = data[5] >> 4, data[5] & 15 if version else 0
    wide = 4 if version > 1 else 2
    fields = _Fields(data, 6)
    budget = 4 * MAX_ITEMS
    for _ in range(min(fields.take(wide), MAX_ITEMS)):
        item = meta.items.get(fields.take(wide))
        method = fields.take(2) & 15 if version else 0
        fields.position += 2  # the data reference: this file
        base = fields.take(base_size)
        for _ in range(fields.take(2)):
            fields.position += index_size
            extent = Span(base + fields.take(offset_size), fields.take(length_size))
            budget -= 1
            if fields.over or budget < 0:
                return
            if item is not None and method == 0:
                item.extents.append(extent)


def _item_properties(data: bytes, meta: _Meta) -> None:
    """Read `iprp`: properties, and which items have them (ISO/IEC 23008-12, section 9.3)."""
    boxes = [*_boxes(data, MAX_BOXES)]
    meta.properties = [
        each for kind, content in boxes if kind == b"ipco" for each in _boxes(content, MAX_ITEMS)
    ]
    for kind, content in boxes:
        if kind == b"ipma" and len(content) >= 8:  # noqa: PLR2004 - version, flags, count
            _associations(content, meta)


def _associations(data: bytes, meta: _Meta) -> None:
    wide_item, wide_index = 4 if data[0] else 2, 2 if data[3] & 1 else 1
    fields = _Fields(data, 4)
    for _ in range(min(fields.take(4), MAX_ITEMS)):
        item = meta.items.get(fields.take(wide_item))
        for _ in range(fields.take(1)):
            index = fields.take(wide_index) & (0x7FFF if wide_index == 2 else 0x7F)  # noqa: PLR2004 - two bytes
            if fields.over:
                return
            if item is not None:
                item.properties.append(index)


def _references(data: bytes, meta: _Meta) -> None:
    """Read `iref`: which item is whose thumbnail, tile, alpha or EXIF (section 8.11.12)."""
    wide = 4 if data[:1] > b"\x00" else 2
    for kind, content in _boxes(data[4:], MAX_ITEMS):
        fields = _Fields(content)
        source, count = fields.take(wide), fields.take(2)
        targets = [fields.take(wide) for _ in range(min(count, len(content) // wide))]
        meta.references.append((kind, source, targets))


def _check_codec(image_format: Format, meta: _Meta) -> None:
    """Refuse a main picture, or tiles of it, in a codec other than the format's."""
    numbers = [meta.primary]
    if meta.items[meta.primary].kind in _DERIVED:
        numbers = meta.referred(b"dimg", meta.primary)
    kinds = {meta.items[number].kind for number in numbers if number in meta.items}
    if kinds and not kinds <= _CODED[image_format] | _DERIVED:
        names = ", ".join(sorted(kind.decode() for kind in kinds if kind.isalnum())) or "unknown"
        raise UnsupportedType(
            f"The file looks like {image_format.name}, and its picture has another coding ({names}). "
            "Export it as JPEG, PNG or WebP."
        )


def _bits(meta: _Meta) -> int:
    """Return the bit depth of the deepest picture, from the configuration of its decoder."""
    return max((_configured_bits(*each) for each in meta.properties), default=8)


def _configured_bits(kind: bytes, data: bytes) -> int:
    if kind == b"av1C" and len(data) > 2:  # noqa: PLR2004 - AV1 in ISOBMFF, section 2.3.3
        return (12 if data[2] & 0x20 else 10) if data[2] & 0x40 else 8
    if kind == b"hvcC" and len(data) > 17:  # noqa: PLR2004 - ISO/IEC 14496-15, section 8.3.2.1
        return 8 + (data[17] & 7)
    return 8


def _shown(meta: _Meta) -> set[int]:
    """Return the pictures that the file offers: neither hidden, nor a thumbnail, nor alpha or depth."""
    parts = {source for kind, source, _ in meta.references if kind in (b"thmb", b"auxl")}
    return {
        number
        for number, item in meta.items.items()
        if number == meta.primary or (item.kind in _IMAGES and not item.hidden and number not in parts)
    }


def _pixels(meta: _Meta, shown: set[int], bits: int, limits: ImagingSettings) -> int:
    """Check every picture's size, tiles included; return the pixels of those that are shown."""
    limit = limits.max_pixels_avif if bits <= 8 else limits.max_pixels_avif_deep  # noqa: PLR2004 - bits
    total = 0
    for number, item in meta.items.items():
        if item.kind in _IMAGES:
            width, height = _extent(meta, item)
            if number == meta.primary or (width, height) != (0, 0):
                check_side(width, height, limits)
            check_pixels(width * height, limit)
            total += width * height if number in shown else 0
    check_pixels(total, limit)
    return total


def _extent(meta: _Meta, item: _Item) -> tuple[int, int]:
    """Return width and height before any transform (`ispe`)."""
    data = meta.of(item, b"ispe") or b""
    return int.from_bytes(data[4:8]), int.from_bytes(data[8:12])


def _upright(meta: _Meta, item: _Item) -> tuple[int, int]:
    """Return width and height as decoders hand them out: cropped and turned."""
    width, height = _extent(meta, item)
    for kind, data in meta.transforms(item):
        if kind == b"irot" and data[:1] and data[0] & 1:
            width, height = height, width
        elif kind == b"clap":
            width, height = _cropped(data, width, height)
    return width, height


def _cropped(clap: bytes, width: int, height: int) -> tuple[int, int]:
    """Return the size of the clean aperture, where it makes sense (ISO/IEC 14496-12, section 12.1.4)."""
    fields = _Fields(clap)
    across, across_over, down, down_over = (fields.take(4) for _ in range(4))
    if fields.over or not (across_over and down_over):
        return width, height
    cropped = across // across_over, down // down_over
    return cropped if 0 < cropped[0] <= width and 0 < cropped[1] <= height else (width, height)


def _has_alpha(meta: _Meta) -> bool:
    """Tell whether some item holds the alpha of the main picture, or of its first tile."""
    pictures = [meta.primary, *meta.referred(b"dimg", meta.primary)[:1]]
    parts = {each for picture in pictures for each in meta.referring(b"auxl", picture)}
    kinds = (meta.of(meta.items[number], b"auxC") or b"" for number in parts if number in meta.items)
    return any(kind[4:].startswith(_ALPHA) for kind in kinds)


def _cut_off(meta: _Meta, length: int) -> bool:
    """Tell whether bytes of any item lie beyond the end of the file."""
    extents = (extent for item in meta.items.values() for extent in item.extents)
    return any(extent.offset + extent.length > length for extent in extents)


def _exif(body: Body, meta: _Meta) -> Span | None:
    """Find EXIF: its item begins with the distance to the TIFF header (ISO/IEC 23008-12, annex A.2.1)."""
    for number in meta.referring(b"cdsc", meta.primary):
        item = meta.items.get(number)
        if item and item.kind == b"Exif" and len(item.extents) == 1:
            extent = item.extents[0]
            skip = 4 + int.from_bytes(body.read(extent.offset, 4))
            return Span(extent.offset + skip, extent.length - skip) if skip < extent.length else None
    return None
