"""Metadata of an original: enough that its row can be made anew from the object alone.

Values are UTF-8, percent-encoded (RFC 3986), not RFC 2047's encoded words: any language decodes them
with one call, names in ASCII stay readable, and S3 itself answers with RFC 2047 where a value is not
ASCII, which it would otherwise be hard to tell ours from.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any, cast
from urllib.parse import quote, unquote
from uuid import UUID

from tintype.model.ids import began_at
from tintype.model.image import Facts, Format
from tintype.model.upload import Upload
from tintype.objects.info import SHA256

SCHEMA = "1"
LIMIT = 2000
"""Bytes in all. S3 takes 2 KB of user metadata: the sum of the bytes of each name and value
(S3 User Guide, "User-defined object metadata"). The prefix of the names is counted here as well."""

_PREFIX = "x-amz-meta-"
_CUTTABLE = "facts,owner,protocol,filename,declared-type,tags,camera,attributes"
_MAX_EXTENSION = 16
# Visible ASCII without percent and question mark: no spaces, which signing would squeeze (SigV4,
# "Trimall"), and no `=?`, which begins an encoded word of RFC 2047.
_SAFE = "!\"#$&'()*+,/:;<=>@[\\]^`{|}"
_UNSAFE = re.compile(r"[^!-$&->@-~]")


@dataclass(frozen=True, slots=True)
class Description:
    """What an object's metadata says. `facts` are without EXIF and location: those are in the bytes."""

    upload: Upload
    facts: Facts
    size: int
    sha256: bytes
    cut: frozenset[str]
    """The fields that did not fit, and were shortened or left out."""


def describe(upload: Upload, facts: Facts, *, size: int, sha256: bytes) -> dict[str, str]:
    """Return the metadata of an original: ASCII, within `LIMIT`, the most important first.

    What does not fit is shortened (names, tags) or left out (camera, attributes), and named in `cut`.
    """
    sheet = _Sheet()
    sheet.add("schema", SCHEMA)
    sheet.add("id", str(upload.id))
    sheet.add(SHA256, sha256.hex())
    sheet.add("bytes", str(size))
    sheet.add("uploaded", began_at(upload.id).isoformat(timespec="milliseconds"))
    sheet.add("type", facts.format.value)
    sheet.add("facts", _json(_measures(facts)))
    sheet.add_text("owner", upload.owner)
    sheet.add_text("protocol", upload.protocol)
    sheet.add_filename("filename", upload.filename)
    sheet.add_text("declared-type", upload.declared_type or "")
    sheet.add_list("tags", upload.tags)
    sheet.add("camera", _json(facts.camera))
    sheet.add("attributes", _json(upload.attributes))
    return sheet.entries()


def parse(metadata: Mapping[str, str]) -> Description | None:
    """Return what `describe` had been given, or None for metadata that is not of ours.

    An empty declared type comes back as None, and neither EXIF nor location comes back at all.
    """
    if metadata.get("schema") != SCHEMA:
        return None
    try:
        return _parse({name: unquote(value, errors="surrogatepass") for name, value in metadata.items()})
    except (KeyError, ValueError, TypeError):
        return None


def _parse(fields: Mapping[str, str]) -> Description:
    upload = Upload(
        id=UUID(fields["id"]),
        owner=fields.get("owner", ""),
        filename=fields.get("filename", ""),
        declared_type=fields.get("declared-type"),
        protocol=fields.get("protocol", ""),
        tags=tuple(cast("list[str]", json.loads(fields.get("tags", "[]")))),
        attributes=cast("dict[str, Any]", json.loads(fields.get("attributes", "{}"))),
    )
    measures = cast("dict[str, Any]", json.loads(fields["facts"]))
    return Description(
        upload=upload,
        facts=_facts(fields["type"], measures, json.loads(fields.get("camera", "{}"))),
        size=int(fields["bytes"]),
        sha256=bytes.fromhex(fields[SHA256]),
        cut=frozenset(filter(None, fields.get("cut", "").split(","))),
    )


def _measures(facts: Facts) -> dict[str, Any]:
    """Return the short facts, without those that are unknown."""
    measures: dict[str, Any] = {
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "orientation": facts.orientation,
        "has_alpha": facts.has_alpha,
        "taken_at": facts.taken_at.isoformat() if facts.taken_at else None,
        "thumbhash": base64.b64encode(facts.thumbhash).decode() if facts.thumbhash else None,
        "dominant_color": facts.dominant_color,
        "phash": facts.phash,
    }
    return {name: value for name, value in measures.items() if value is not None}


def _facts(media_type: str, measures: dict[str, Any], camera: dict[str, Any]) -> Facts:
    taken_at, thumbhash = measures.get("taken_at"), measures.get("thumbhash")
    return Facts(
        format=Format(media_type),
        width=measures["width"],
        height=measures["height"],
        frames=measures["frames"],
        orientation=measures["orientation"],
        has_alpha=measures.get("has_alpha"),
        taken_at=datetime.fromisoformat(taken_at) if taken_at else None,
        camera=camera,
        thumbhash=base64.b64decode(thumbhash) if thumbhash else None,
        dominant_color=measures.get("dominant_color"),
        phash=measures.get("phash"),
    )


@dataclass(slots=True)
class _Sheet:
    """Entries, and the room that is left for more."""

    written: dict[str, str] = field(default_factory=dict[str, str])
    cut: list[str] = field(default_factory=list[str])
    room: int = LIMIT - len(_PREFIX + "cut" + _CUTTABLE)

    def add(self, name: str, value: str) -> None:
        """Write an encoded value if there is room for all of it. An empty one is not written."""
        if not value:
            return
        room = self.room - len(_PREFIX) - len(name) - len(value)
        if room < 0:
            self.cut.append(name)
            return
        self.written[name] = value
        self.room = room

    def add_text(self, name: str, text: str) -> None:
        """Write a text, or as much of its beginning as fits."""
        self._add_shortened(name, _encode(text), lambda room: _encode(_beginning(text, room)))

    def add_filename(self, name: str, filename: str) -> None:
        """Write a file name, shortened before its extension."""
        stem, dot, extension = filename.rpartition(".")
        suffix = _encode(dot + extension) if stem and len(extension) <= _MAX_EXTENSION else ""

        def shorter(room: int) -> str:
            kept = stem if suffix else filename
            return _encode(_beginning(kept, room - len(suffix))) + suffix

        self._add_shortened(name, _encode(filename), shorter)

    def add_list(self, name: str, items: Sequence[str]) -> None:
        """Write a list, or as many of its first items as fit."""

        def shorter(room: int) -> str:
            lists = (_json(items[:count]) for count in range(len(items) - 1, 0, -1))
            return next((each for each in lists if len(each) <= room), "")

        self._add_shortened(name, _json(items), shorter)

    def entries(self) -> dict[str, str]:
        """Return what was written, with the names of what was cut."""
        return self.written | ({"cut": ",".join(self.cut)} if self.cut else {})

    def _add_shortened(self, name: str, whole: str, shorter: Callable[[int], str]) -> None:
        room = max(self.room - len(_PREFIX) - len(name), 0)
        if len(whole) <= room:
            self.add(name, whole)
            return
        self.cut.append(name)
        self.add(name, shorter(room))


def _beginning(text: str, room: int) -> str:
    """Return as many first characters as take up to `room` bytes when encoded."""
    lengths = accumulate(len(_encode(character)) for character in text[:room])
    return text[: sum(1 for length in lengths if length <= room)]


def _encode(text: str) -> str:
    if _UNSAFE.search(text) is None:
        return text
    return quote(text, safe=_SAFE, errors="surrogatepass")


def _json(value: Mapping[str, Any] | Sequence[str]) -> str:
    """Return JSON in ASCII, encoded, or nothing for what is empty."""
    return _encode(json.dumps(value, separators=(",", ":"))) if value else ""
