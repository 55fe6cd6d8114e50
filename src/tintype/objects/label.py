"""A label: what is written about an object beside its bytes, in one form for folders and buckets."""

import json
from collections.abc import Mapping
from typing import Any, cast


def write_label(content_type: str, metadata: Mapping[str, str]) -> bytes:
    """Return the label of an object; a folder's sidecar holds it as it is."""
    told = {"content_type": content_type, "metadata": dict(metadata)}
    return json.dumps(told, sort_keys=True).encode()


def read_label(label: bytes | None) -> tuple[str, dict[str, str]]:
    """Return the content type and the metadata of a label, or as much as can be read of it."""
    try:
        told = cast("dict[str, Any]", json.loads(label or b""))
        return str(told["content_type"]), {str(name): str(value) for name, value in told["metadata"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "application/octet-stream", {}
