"""Bombs: small files that take seconds to decode, within all limits; and a process that posts them on and on.

It reads a URL, a number of connections and a folder of bombs from its arguments, posts until its input
ends, and writes how many answers it had, by status, to its output.
"""

import asyncio
import json
import struct
import sys
import uuid
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import pyvips

PATIENCE_SECONDS = 60


def make(folder: Path) -> Path:
    """Write the bombs into a folder of their own below `folder`, unless they are there; return it."""
    bombs = folder / "bombs"
    if not bombs.exists():
        bombs.mkdir()
        (bombs / "deep.png").write_bytes(_deep_png(10_000))
        flat = pyvips.Image.black(4900, 4900, bands=3).copy(interpretation="srgb")  # pyright: ignore[reportUnknownMemberType]
        (bombs / "large.avif").write_bytes(flat.heifsave_buffer(compression="av1", effort=0))
        wide = pyvips.Image.black(6200, 6200, bands=3).copy(interpretation="srgb")  # pyright: ignore[reportUnknownMemberType]
        (bombs / "large.webp").write_bytes(wide.webpsave_buffer(effort=0))
    return bombs


def _deep_png(side: int) -> bytes:
    """Return a square of zeros: 16 bits, four channels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 8 * side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


async def post(url: str, connections: int, bombs: Sequence[bytes]) -> Counter[str]:
    """Post bombs, no two of the same bytes, on all connections until the input ends."""
    answers: Counter[str] = Counter()

    async def go_on(first: int) -> None:
        number = first
        while True:
            data = bombs[number % len(bombs)] + uuid.uuid4().bytes
            number += 1
            try:
                answers[str((await client.post(url, content=data)).status_code)] += 1
            except httpx.HTTPError:
                answers["none"] += 1
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                answers["under way at the end"] += 1
                raise

    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        posting = [asyncio.create_task(go_on(number)) for number in range(connections)]
        await asyncio.to_thread(sys.stdin.read)
        for each in posting:
            each.cancel()
        await asyncio.gather(*posting, return_exceptions=True)
    return answers


if __name__ == "__main__":
    files = [path.read_bytes() for path in sorted(Path(sys.argv[3]).iterdir())]
    print(json.dumps(asyncio.run(post(sys.argv[1], int(sys.argv[2]), files))))  # noqa: T201
