"""One worker: `python -m tintype.imaging.worker <socket> <memory> <options>`. Only the cage starts it."""

import base64
import codecs
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyvips

from tintype.imaging.storable import storable
from tintype.imaging.worker import decode, sandbox
from tintype.imaging.worker.exif import Exif, read_exif
from tintype.imaging.worker.fingerprint import fingerprint
from tintype.imaging.worker.job import SHARED_BYTES, Job, Refused, frame, receive
from tintype.imaging.worker.render import render

Decoder = Callable[[Job, memoryview], decode.Picture]


@dataclass(frozen=True, slots=True)
class Options:
    """What the parent says once, at the start."""

    parent: int
    memory: int
    """Bytes of address space above what is used when ready."""
    heic: bool


def main() -> None:
    """Get ready, shut the door, and answer jobs until the parent goes."""
    channel, shared = socket.socket(fileno=int(sys.argv[1])), _mapped(int(sys.argv[2]), SHARED_BYTES)
    options = Options(**json.loads(sys.argv[3]))
    sandbox.die_with_parent(options.parent)
    decode.prepare()
    decoders: dict[str, Decoder] = dict.fromkeys(decode.FORMATS, decode.decode)
    if options.heic:
        decoders["HEIC"] = _heic()
    _warm_up()
    channel.sendall(frame({"sandbox": sandbox.confine(options.memory)}))
    serve(channel, shared, decoders)


def serve(channel: socket.socket, shared: memoryview, decoders: dict[str, Decoder]) -> None:
    """Answer one job after the other."""
    while (received := receive(channel)) is not None:
        message, descriptors = received
        job = Job(**message)
        data = _mapped(descriptors[0], job.length) if descriptors else shared[: job.length]
        channel.sendall(frame(answer(job, data, decoders)))


def answer(job: Job, data: memoryview, decoders: dict[str, Decoder]) -> dict[str, Any]:
    """Decode one file; return its facts, or why it is refused."""
    sandbox.allow_cpu(job.cpu_seconds)
    try:
        if job.side:
            return {"rendered": base64.b64encode(render(job, data)).decode()}
        return {"facts": facts(job, data, decoders[job.format])}
    except Refused as refused:
        return {"refused": refused.kind, "reason": refused.reason}


def _mapped(descriptor: int, length: int) -> memoryview:
    """Map what a descriptor holds; nothing of it is copied."""
    try:
        return memoryview(mmap.mmap(descriptor, length, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def facts(job: Job, data: memoryview, decoder: Decoder) -> dict[str, Any]:
    """Return what decoding and EXIF tell, in JSON types."""
    picture = decoder(job, data)
    found = fingerprint(picture.small, job.orientation)
    exif = _exif(job, data)
    return {
        "width": picture.width,
        "height": picture.height,
        "frames": picture.frames,
        "has_alpha": picture.has_alpha,
        "taken_at": exif.taken_at.isoformat() if exif.taken_at else None,
        "camera": storable(exif.camera),
        "exif": storable(exif.rest),
        "location": exif.location,
        "thumbhash": found.thumbhash.hex(),
        "dominant_color": found.dominant_color,
        "phash": found.phash,
    }


def _exif(job: Job, data: memoryview) -> Exif:
    if job.format == "TIFF":  # a TIFF is made of the directories that EXIF borrowed
        return read_exif(lambda start, count: bytes(data[start : start + count]))
    if job.exif is None:
        return Exif()
    offset, length = job.exif
    block = bytes(data[offset : offset + length])
    return read_exif(lambda start, count: block[start : start + count])


def _heic() -> Decoder:
    from tintype.imaging.worker import heic  # noqa: PLC0415 - an optional extra

    heic.prepare()
    return heic.decode


def _warm_up() -> None:
    """Use once what loads or allocates at its first use: afterwards no file can be opened any more."""
    for name in ("utf-8", "latin-1", "utf-16", "utf-16-le"):
        codecs.lookup(name)
    picture = pyvips.Image.black(16, 16, bands=4).copy(interpretation="srgb")  # pyright: ignore[reportUnknownMemberType]
    savers = {
        "JPEG": partial(picture.jpegsave_buffer),
        "PNG": partial(picture.pngsave_buffer),
        "GIF": partial(picture.gifsave_buffer),
        "WEBP": partial(picture.webpsave_buffer),
        "TIFF": partial(picture.tiffsave_buffer),
        "AVIF": partial(picture.heifsave_buffer, compression="av1", effort=0),
    }
    for name, save in savers.items():
        data = save()
        job = Job(name, len(data), 1, None, max_side=16, max_frames=1, max_pixels=256, cpu_seconds=1)
        frame(facts(job, memoryview(data), decode.decode))
        if name == "JPEG":
            render(replace(job, side=8), memoryview(data))


if __name__ == "__main__":
    main()
