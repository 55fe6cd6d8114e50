"""Metadata as JSON and PostgreSQL can hold it: strangers write NUL, lone surrogates, NaN and megabytes."""

import json
import math
import re
from typing import Any, cast

MAX_BYTES = 64 * 1024
"""Of one image's metadata, as JSON."""
MAX_TEXT = 2000
"""Characters of one text."""
MAX_KEY = 100
MAX_NUMBER = 1 << 63

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what of the metadata can be stored: flat values and lists of them, up to `MAX_BYTES`.

    PostgreSQL's `jsonb` takes neither NUL nor lone surrogates, JSON neither NaN nor Infinity.
    """
    kept: dict[str, Any] = {}
    room = MAX_BYTES - 2
    for key, value in metadata.items():
        clean = _clean(value)
        if clean is None:
            continue
        name = _text(key)[:MAX_KEY]
        room -= len(json.dumps({name: clean})) + 2
        if room < 0:
            break
        kept[name] = clean
    return kept


def _clean(value: object) -> object:
    """Return a value that can be stored, None for one that cannot."""
    if isinstance(value, str):
        return _text(value)[:MAX_TEXT]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < MAX_NUMBER else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        cleaned = [_clean(each) for each in cast("list[object]", value) if not isinstance(each, list)]
        return [each for each in cleaned if each is not None]
    return None


def _text(value: str) -> str:
    return _NOT_TEXT.sub("", value)
