"""`Upload-Metadata`, by which clients of tus tell of a file (tus 1.0.0, "Creation")."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from tintype.model.errors import RequestInvalid, UploadRequestInvalid, UploadTooLarge
from tintype.model.filename import clean_filename
from tintype.model.labels import attributes_of, tags_of
from tintype.server.warnings import declared_type_of

MAX_METADATA = 8 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of a file. Keys of ours: `tags`, `attributes`, `on_duplicate`."""

    filename: str
    declared_type: str | None = None
    tags: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    keep_duplicate: bool = False


def metadata_of(raw: str | None) -> Told:
    """Return what the header tells; nothing where there is none.

    Raises `UploadRequestInvalid` and `UploadTooLarge`.
    """
    told = _decoded(raw)
    try:
        return Told(
            filename=clean_filename(told.get("filename") or told.get("name") or ""),
            declared_type=declared_type_of(told.get("filetype") or told.get("type")),
            tags=tags_of(told.get("tags", "").split(",")),
            attributes=attributes_of(json.loads(told.get("attributes") or "{}")),
            keep_duplicate=told.get("on_duplicate") == "keep",
        )
    except (RequestInvalid, json.JSONDecodeError, RecursionError) as error:
        raise UploadRequestInvalid(f"`Upload-Metadata`: {error}") from error


def _decoded(raw: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if raw is None or not raw.strip():
        return found
    if len(raw) > MAX_METADATA:
        raise UploadTooLarge(
            f"`Upload-Metadata` takes up to {MAX_METADATA} bytes.", details={"limit": MAX_METADATA}
        )
    for pair in raw.split(","):
        key, _, value = pair.strip().partition(" ")
        if not key or not key.isascii() or not key.isprintable() or key in found:
            raise UploadRequestInvalid("`Upload-Metadata` has ASCII keys, each once, with commas between.")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode(errors="replace")
        except (binascii.Error, ValueError) as error:
            raise UploadRequestInvalid(
                "`Upload-Metadata` has keys, each with a space and its value in Base64 behind it."
            ) from error
    return found
