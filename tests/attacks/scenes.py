"""The attacks of the corpus, and what they are made of."""

import base64
import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures import picture
from service import Service

CORPUS = os.environ.get("TINTYPE_CORPUS")


@dataclass(frozen=True)
class Case:
    """One attack. `status` has the answers that are right; 0 is a connection that ends without one."""

    id: str
    group: str
    category: str
    value: Any
    expected: str
    status: tuple[int, ...]
    why: str
    checks: tuple[str, ...]
    forbidden: tuple[str, ...]

    @property
    def picture(self) -> bytes:
        """A picture of this case's own."""
        return picture(seed=int(self.id, 16))


def cases() -> list[Case]:
    """Return all attacks; none where there is no corpus."""
    if CORPUS is None:
        return []
    told = json.loads((Path(CORPUS) / "attacks.json").read_text())["cases"]
    return [_case(each) for each in told]


def _case(told: dict[str, Any]) -> Case:
    value = base64.b64decode(told["value"]) if told.get("encoding") == "base64" else told["value"]
    return Case(
        told["id"],
        told["group"],
        told["category"],
        value,
        told["expected"],
        tuple(told["status"]),
        told["why"],
        tuple(told.get("checks", ())),
        tuple(told.get("must_not_contain", ())),
    )


def request_of(case: Case, host: str) -> bytes:
    """Fill the placeholders of a request that the corpus has as text."""
    png = case.picture
    bomb = gzip.compress(bytes(20_000_000))
    filled = {
        b"HOST": host.encode(),
        b"AUTH": b"Bearer nobody",
        b"PNG": png,
        b"LEN": str(len(png)).encode(),
        b"GZBOMB": bomb,
        b"GZLEN": str(len(bomb)).encode(),
        b"PNGCHUNK": b"%x\r\n%b\r\n" % (len(png), png),
    }
    repeated = {
        b"X": b"x",
        b"XHDR": b"X-Many: 1\r\n",
        b"PART": b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n',
    }

    def fill(match: re.Match[bytes]) -> bytes:
        name, times = match.groups()
        return repeated[name] * int(times) if times else filled[name]

    head, _, body = case.value.encode().partition(b"\r\n\r\n")
    placeholder = rb"\{([A-Z]+)(?:\*(\d+))?\}"
    body = re.sub(placeholder, fill, body)
    filled[b"BODYLEN"] = str(len(body)).encode()
    return re.sub(placeholder, fill, head) + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Kept:
    """What a service holds: the newest image, the newest deleted one, and every object."""

    newest: Any
    deleted: Any
    objects: frozenset[str]


def kept(service: Service) -> Kept:
    with service.client() as client:
        newest, deleted = (
            client.get("/v1/images", params={"limit": 1, "state": state}).json()["data"]
            for state in ("ready", "deleted")
        )
    objects = files_in(service.data_dir / "objects")
    # The journal is written a moment after what it tells of, and so at any time.
    journal = ("journal/", "metadata/journal/")
    return Kept(newest, deleted, frozenset(name for name in objects if not name.startswith(journal)))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
