"""What people add to an image: tags to find it by, attributes for their own programs."""

import json
import re
from collections.abc import Iterable
from typing import Any, cast

import orjson

from tintype.model.errors import RequestInvalid

MAX_TAGS = 50
MAX_TAG_LENGTH = 64
MAX_ATTRIBUTES_BYTES = 8 * 1024

# Controls, ends of lines, what turns the direction of the text beside it (Unicode, UAX 9), surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def tags_of(raw: Iterable[str]) -> tuple[str, ...]:
    """Return the tags trimmed, each once, in the order given; raise `RequestInvalid` for a bad one."""
    tags = tuple(dict.fromkeys(tag for tag in (each.strip() for each in raw) if tag))
    if len(tags) > MAX_TAGS:
        raise RequestInvalid(f"An image takes up to {MAX_TAGS} tags; {len(tags)} were given.")
    for tag in tags:
        if len(tag) > MAX_TAG_LENGTH or _UNPRINTABLE.search(tag):
            raise RequestInvalid(f"A tag has up to {MAX_TAG_LENGTH} printable characters.")
    return tags


def attributes_of(raw: object) -> dict[str, Any]:
    """Return the attributes; raise `RequestInvalid` unless they are a small, storable JSON object."""
    if not isinstance(raw, dict):
        raise RequestInvalid('Attributes are a JSON object, for example {"album": "Rome"}.')
    try:
        text = json.dumps(raw, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
        orjson.dumps(raw)  # answers are written by it: it refuses longer numbers than it can read
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestInvalid(
            "Attributes hold JSON values in valid Unicode, whole numbers of 64 bits at most, "
            "and no NaN or Infinity."
        ) from error
    if size > MAX_ATTRIBUTES_BYTES:
        raise RequestInvalid(f"Attributes take up to {MAX_ATTRIBUTES_BYTES} bytes of JSON; these are {size}.")
    if "\\u0000" in text:
        raise RequestInvalid("Attributes cannot hold the NUL character: PostgreSQL does not store it.")
    return cast("dict[str, Any]", raw)
