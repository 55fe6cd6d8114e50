"""The suite: cases by name, and the server that they are put to."""

import base64
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urljoin, urlsplit

import httpx

VERSION = "1.0.0"
BYTES = "application/offset+octet-stream"

Verdict = Literal["pass", "fail", "not offered"]


class NotOffered(Exception):
    """The server does not have the extension that a case is about."""


@dataclass(frozen=True)
class Case:
    """One question to a server. `level`: what the specification says of it, or what clients need."""

    group: str
    name: str
    level: Literal["must", "should", "client"]
    extension: str | None
    run: "Callable[[Server], None]"


@dataclass(frozen=True)
class Result:
    """What came of a case."""

    case: Case
    verdict: Verdict
    reason: str = ""


CASES: list[Case] = []


def case(
    group: str, *, level: Literal["must", "should", "client"] = "must", extension: str | None = None
) -> "Callable[[Callable[[Server], None]], Callable[[Server], None]]":
    """Add a function to the suite. Its name is the rule."""

    def add(function: "Callable[[Server], None]") -> "Callable[[Server], None]":
        add_case(group, function.__name__.replace("_", " "), function, level=level, extension=extension)
        return function

    return add


def add_case(
    group: str,
    name: str,
    function: "Callable[[Server], None]",
    *,
    level: Literal["must", "should", "client"] = "must",
    extension: str | None = None,
) -> None:
    """Add a case under a name."""
    CASES.append(Case(group, name, level, extension, function))


def picture(size: int, seed: int | None = None) -> bytes:
    """Return a PNG of exactly so many bytes (100 at least), unlike any other.

    A small picture, with a private chunk of noise that decoders pass over.
    """
    noise = random.Random(seed) if seed is not None else random.SystemRandom()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + noise.randbytes(4) for _ in range(4))
    tail = chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    filler = size - len(head) - len(tail) - 12
    assert filler >= 0, size
    return head + chunk(b"ruNd", noise.randbytes(filler)) + tail


def metadata(**told: str | bytes | None) -> str:
    """Return an `Upload-Metadata`."""
    pairs: list[str] = []
    for name, value in told.items():
        if value is None:
            pairs.append(name)
            continue
        raw = value.encode() if isinstance(value, str) else value
        pairs.append(f"{name} {base64.b64encode(raw).decode()}")
    return ",".join(pairs)


@dataclass
class Server:
    """A server under test, and the way to speak to it."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    algorithms: frozenset[str] = frozenset()
    max_size: int | None = None

    def __post_init__(self) -> None:
        self.client = httpx.Client(headers=self.headers, timeout=20, follow_redirects=False)
        found = self.client.options(self.url)
        self.extensions = _listed(found, "Tus-Extension")
        self.algorithms = _listed(found, "Tus-Checksum-Algorithm")
        size = found.headers.get("Tus-Max-Size")
        self.max_size = int(size) if size and size.isdigit() else None

    def send(
        self,
        method: str,
        url: str | None = None,
        *,
        version: str | None = VERSION,
        content: bytes | None = None,
        **headers: str | int | None,
    ) -> httpx.Response:
        """Send a request. A header's name has underscores for its hyphens; None leaves it out."""
        told = {"Tus-Resumable": version} | {k.replace("_", "-"): v for k, v in headers.items()}
        sent = {name: str(value) for name, value in told.items() if value is not None}
        return self.client.request(method, urljoin(self.url, url or self.url), content=content, headers=sent)

    def create(self, length: int | None, **headers: str | int | None) -> str:
        """Begin an upload, and return its address."""
        told: dict[str, str | int | None] = (
            {"Upload_Length": length} if length is not None else {"Upload_Defer_Length": 1}
        )
        answer = self.send("POST", **(told | headers))  # pyright: ignore[reportArgumentType]: headers begin with a capital
        expect(answer, 201)
        return self.location(answer)

    def location(self, answer: httpx.Response) -> str:
        """Return the address of an upload that was begun."""
        assert answer.headers.get("Location"), "201 without Location"
        return urljoin(self.url, answer.headers["Location"])

    def append(self, url: str, offset: int, content: bytes, **headers: str | int | None) -> httpx.Response:
        """Send bytes."""
        told: dict[str, str | int | None] = {"Content_Type": BYTES, "Upload_Offset": offset}
        told |= headers
        return self.send("PATCH", url, content=content, **told)  # pyright: ignore[reportArgumentType]: headers begin with a capital

    def offset(self, url: str) -> int:
        """Return where an upload stands."""
        answer = self.send("HEAD", url)
        expect(answer, 200, 204)
        return int(answer.headers["Upload-Offset"])

    def upload(self, content: bytes, **headers: str | int | None) -> str:
        """Upload bytes in one go, and return the address."""
        url = self.create(len(content), **headers)
        answer = self.append(url, 0, content)
        expect(answer, 204)
        assert answer.headers["Upload-Offset"] == str(len(content)), answer.headers
        return url

    def part(self, content: bytes) -> str:
        """Upload bytes as a part."""
        return self.upload(content, Upload_Concat="partial")

    def raw(self, head: str, body: bytes, *, then: Callable[[], None] | None = None) -> None:
        """Send a head and some of a body, as they are, then break the connection off."""
        address = urlsplit(self.url)
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        told = head.replace("\n", "\r\n") + "\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
        with socket.create_connection((address.hostname or "", address.port or 80), timeout=20) as wire:
            wire.sendall(told.encode() + body)
            if then is not None:
                then()

    def path(self, url: str) -> str:
        """Return an address without its host."""
        return urlsplit(url).path


def expect(answer: httpx.Response, *statuses: int) -> httpx.Response:
    """Fail unless an answer has one of these statuses."""
    if answer.status_code not in statuses:
        wanted = " or ".join(map(str, statuses))
        raise AssertionError(f"{answer.status_code} where {wanted} was expected: {answer.text[:120]!r}")
    return answer


def gone(answer: httpx.Response) -> None:
    """Fail unless an answer says that there is no such upload."""
    expect(answer, 403, 404, 410)
    assert "Upload-Offset" not in answer.headers, "an upload that is not there has an offset"


def within(seconds: float, condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def run(server: Server, chosen: Case) -> Result:
    """Put one question to a server."""
    if chosen.extension is not None and chosen.extension not in server.extensions:
        return Result(chosen, "not offered", f"no `{chosen.extension}` in Tus-Extension")
    try:
        chosen.run(server)
    except NotOffered as error:
        return Result(chosen, "not offered", str(error))
    except AssertionError as error:
        return Result(chosen, "fail", " ".join(str(error).split()) or "an assertion failed")
    except (httpx.HTTPError, KeyError, ValueError, OSError) as error:
        return Result(chosen, "fail", f"{type(error).__name__}: {error}"[:160])
    return Result(chosen, "pass")


def _listed(answer: httpx.Response, name: str) -> frozenset[str]:
    return frozenset(each.strip() for each in answer.headers.get(name, "").split(",") if each.strip())
