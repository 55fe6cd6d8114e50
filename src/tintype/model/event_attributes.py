"""What filters look at: the attributes of an event, the same for SNS and for our own evaluation."""

from collections.abc import Mapping
from typing import Any

MAX_NUMBER = 10**9
"""The largest that a filter policy can compare (SNS, filter policy constraints)."""

Attribute = str | int | list[str]


def attributes_of(kind: str, owner: str, payload: Mapping[str, Any]) -> dict[str, Attribute]:
    """Return the attributes of an event: extension and type in lower case, tags as the image has them.

    What is empty is left out, as SNS has no empty values: a policy finds what has no tags by
    `{"exists": false}`. A notice has its kind and owner only.
    """
    attributes: dict[str, Attribute] = {"kind": kind}
    if kind.startswith("image."):
        attributes |= {
            "ext": payload["extension"].lower(),
            "content_type": payload["content_type"].lower(),
            "bytes": min(payload["bytes"], MAX_NUMBER),
            "width": min(payload["width"], MAX_NUMBER),
            "height": min(payload["height"], MAX_NUMBER),
            "tags": list(payload["tags"]),
        }
    attributes["owner"] = owner
    return {name: value for name, value in attributes.items() if value not in ("", [])}
