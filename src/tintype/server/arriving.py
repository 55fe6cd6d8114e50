"""A body on its way: what its headers say of it, and its bytes as they arrive."""

from collections.abc import AsyncGenerator

from fastapi import Request

from tintype.ingest.receive import Pace
from tintype.model.errors import CodingUnsupported, RequestInvalid, UploadIncomplete, UploadRequestInvalid
from tintype.server.announced import digests_of

MAX_DIGITS = 15
"""Of a number that a client wrote: a petabyte is enough."""


def announced_by(request: Request) -> dict[str, bytes]:
    """Return the digests that the request announces, by algorithm. Raises `RequestInvalid`."""
    return digests_of((name, field_of(request, name)) for name in ("Content-Digest", "Repr-Digest"))


def field_of(request: Request, name: str) -> str | None:
    """Return a field, all of its lines as one (RFC 9110, section 5.3); None where it is absent."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def declared_length(request: Request) -> int | None:
    """Return Content-Length; refuse a coded body: its length and digest are those of something else."""
    codings = {each.strip().lower() for each in (field_of(request, "content-encoding") or "").split(",")}
    if not codings <= {"", "identity"}:
        raise CodingUnsupported(
            "Send the image as it is, without Content-Encoding: it is compressed already.",
        )
    length = request.headers.get("content-length")
    return int(length) if length is not None else None


def whole_number(text: str, name: str) -> int:
    """Return a number of bytes, or of anything, as a client wrote it. Raises `RequestInvalid`."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise RequestInvalid(f"`{name}` is a whole number.")
    return int(text)


async def body_of(request: Request) -> AsyncGenerator[bytes]:
    """Yield what arrives. Raises `UploadIncomplete` when the client goes before the end."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise UploadIncomplete("The connection ended before the whole body had arrived. Send it again.")
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk


async def paced_body(request: Request, pace: Pace) -> AsyncGenerator[bytes]:
    """Yield what arrives, and count it towards the least rate that a body must have."""
    async for chunk in body_of(request):
        pace.add(len(chunk))
        yield chunk


def body_length(request: Request) -> int | None:
    """Return the length of the body; None: it comes in chunks, and ends when it ends."""
    length = declared_length(request)
    return 0 if length is None and "transfer-encoding" not in request.headers else length


def counted_in(request: Request, name: str) -> int | None:
    """Return the number of bytes that a field of an upload tells, or None without it.

    Raises `UploadRequestInvalid` for what is no whole number of at most 15 digits (RFC 9651, section 3.3.1).
    """
    value = field_of(request, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise UploadRequestInvalid(f"`{name.title()}` is a whole number of bytes, and not negative.")
    return int(value)
