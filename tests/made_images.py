"""Images made for one purpose: slow ones, large ones, and ones with the metadata that a test needs."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyvips
from PIL import Image

from tintype.model.body import Body


@dataclass(slots=True)
class CountingBody(Body):
    """Counts how much of it is read."""

    taken: int = 0

    def read(self, start: int = 0, count: int = -1) -> bytes:
        piece = Body.read(self, start, count)
        self.taken += len(piece)
        return piece


def gradient(width: int, height: int) -> Image.Image:
    """Return a picture that is dark red at the upper left and bright blue at the lower right."""
    rows, columns = np.mgrid[0:height, 0:width]
    across, down = columns / max(width - 1, 1), rows / max(height - 1, 1)
    pixels = np.stack([90 * (1 - across), 80 * down, 60 + 190 * (across + down) / 2], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def blotches(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return large soft spots of colour, no two alike: a picture that is known again however turned."""
    spots = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def saved_by_vips(image: Image.Image, saver: str, **options: object) -> bytes:
    bands = len(image.getbands())
    vips = pyvips.Image.new_from_memory(image.tobytes(), image.width, image.height, bands, "uchar")
    return getattr(vips.copy(interpretation="srgb"), f"{saver}_buffer")(**options)


def jpeg_of_many_scans(more: int) -> bytes:
    """Return a progressive JPEG whose last scan is there `more` times again. Only its header is good."""
    data = encoded(gradient(64, 48), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * more + data[end:]


def slow_png(side: int = 20_000) -> bytes:
    """Return a small file that takes seconds to decode: 16 bits, four channels, 400 megapixels."""
    row, block = 1 + 8 * side, 100
    packer = zlib.compressobj(9)
    piece = packer.compress(bytes(row * block)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (row * side % 65_521) << 16 | 1  # Adler-32 of zeros
    data = piece[:2] + piece[2:] * (side // block) + b"\x03\x00" + checksum.to_bytes(4)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def hungry_png(side: int = 4000) -> bytes:
    """Return a small file that decodes to 16 bits, four channels, and all at once: it is interlaced."""
    black = pyvips.Image.black(side, side, bands=4).cast("ushort").copy(interpretation="rgb16")
    return black.pngsave_buffer(interlace=True, compression=9)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png_with(chunks: Iterable[bytes], picture: bytes) -> bytes:
    """Return a PNG with more chunks right after its header."""
    return picture[:33] + b"".join(chunks) + picture[33:]


def jpeg_with(segment: bytes, picture: bytes) -> bytes:
    """Return a JPEG with an APP1 segment of the given content in front."""
    return picture[:2] + b"\xff\xe1" + (2 + len(segment)).to_bytes(2) + segment + picture[2:]


Value = tuple[int, int, int, bytes]
"""Tag, type, count, and the bytes of the values."""


def ascii_value(tag: int, text: bytes) -> Value:
    return tag, 2, len(text) + 1, text + b"\x00"


def rational(tag: int, *pairs: tuple[int, int]) -> Value:
    return tag, 5, len(pairs), b"".join(struct.pack("<II", *pair) for pair in pairs)


def short(tag: int, number: int) -> Value:
    return tag, 3, 1, struct.pack("<H", number)


def exif_block(main: Iterable[Value] = (), camera: Iterable[Value] = (), gps: Iterable[Value] = ()) -> bytes:
    """Return a block of EXIF, without JPEG's prefix, exactly as told: nothing is checked."""
    parts = {0x8769: list(camera), 0x8825: list(gps)}
    main = sorted([*main, *((tag, 4, 1, b"") for tag, values in parts.items() if values)])
    block = bytearray(b"II*\x00\x08\x00\x00\x00")
    pointers = _append_directory(block, main)
    for tag, values in parts.items():
        if values:
            block[pointers[tag] : pointers[tag] + 4] = struct.pack("<I", len(block))
            _append_directory(block, sorted(values))
    return bytes(block)


def _append_directory(block: bytearray, values: list[Value]) -> dict[int, int]:
    """Append a directory and its values; return where each tag's field lies."""
    start = len(block)
    fields: dict[int, int] = {}
    heap = start + 2 + 12 * len(values) + 4
    entries, data = b"", b""
    for number, (tag, kind, count, raw) in enumerate(values):
        fields[tag] = start + 2 + 12 * number + 8
        place = raw.ljust(4, b"\x00") if len(raw) <= 4 else struct.pack("<I", heap + len(data))
        data += raw if len(raw) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, count) + place
    block += struct.pack("<H", len(values)) + entries + bytes(4) + data
    return fields
