"""What each kind of event carries, as JSON Schema: the one source of docs/events, held against what is told.

A schema's version is in its name. Within a version only optional properties are added; whatever else
changes makes another version, told beside the first for as long as a release promises.
"""

from typing import Any

from tintype.model.event import Kind

VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ID: Schema = {"type": "string", "format": "uuid"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}

_TITLES = {
    Kind.UPLOADED: "An image was uploaded.",
    Kind.UPDATED: "Name, tags or attributes of an image changed.",
    Kind.DELETED: "An image was moved to the trash.",
    Kind.RESTORED: "An image was brought back from the trash.",
    Kind.MISSING: "An image has lost its bytes.",
    Kind.CORRUPT: "An image has other bytes than were stored.",
    Kind.RECOVERED: "An image has its bytes again.",
    Kind.SUBSCRIPTION_CONFIRMED: "An address agreed to be told of events.",
    Kind.SUBSCRIPTION_PAUSED: "Nothing could be delivered to an address for a day, or it wanted no more.",
    Kind.CONSISTENCY_FINISHED: "A comparison of catalogue and objects came to its end.",
}


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


_IMAGE: dict[str, Schema] = {
    "id": _ID,
    "owner": _TEXT,
    "filename": _TEXT,
    "extension": _TEXT | {"description": "In lower case, without its dot."},
    "declared_type": _or_null(_TEXT) | {"description": "What the sender said that the bytes are."},
    "content_type": _TEXT | {"description": "What the bytes are."},
    "bytes": _COUNT,
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "width": _COUNT | {"description": "Pixels as stored; `orientation` says how to turn them."},
    "height": _COUNT,
    "frames": _COUNT,
    "orientation": {"type": "integer", "minimum": 1, "maximum": 8},
    "has_alpha": {"type": ["boolean", "null"]},
    "taken_at": _or_null(_TEXT) | {"description": "By the camera's clock; with a zone where it has one."},
    "thumbhash": _or_null(_TEXT) | {"description": "A placeholder: https://evanw.github.io/thumbhash/."},
    "dominant_color": _or_null(_TEXT),
    "phash": _or_null(_TEXT),
    "tags": {"type": "array", "items": _TEXT},
    "state": {"type": "string", "enum": ["ready", "deleted", "missing", "corrupt"]},
    "protocol": _TEXT,
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
    "deleted_at": _or_null(_MOMENT),
    "version": {"type": "integer", "minimum": 1},
}
_LONG: dict[str, Schema] = {
    "camera": {"type": "object"},
    "attributes": {"type": "object", "description": "The sender's own."},
}
"""What is left out where it is too long."""
_NOTICES: dict[Kind, dict[str, Schema]] = {
    Kind.SUBSCRIPTION_CONFIRMED: {"subscription_id": _ID, "channel": _TEXT},
    Kind.SUBSCRIPTION_PAUSED: {"subscription_id": _ID, "channel": _TEXT},
    Kind.CONSISTENCY_FINISHED: {
        "id": _ID | {"description": "The run's."},
        "mode": _TEXT,
        "task": _TEXT,
        "state": _TEXT,
        "clean": {"type": ["boolean", "null"]},
        "reason": _or_null(_TEXT),
        "counts": {"type": "object"},
        "findings": {"type": "object"},
    },
}


def schema_of(kind: Kind) -> Schema:
    """Return the schema of a whole message: what webhooks, queues, streams and `GET /v1/events` carry."""
    return {
        "$schema": DIALECT,
        "$id": f"{kind}.v{VERSION}.json",
        "title": kind.value,
        "description": _TITLES[kind],
        "type": "object",
        "required": ["type", "id", "position", "timestamp", "data"],
        "properties": {
            "type": {"const": kind.value},
            "id": _ID | {"description": "The same for ever, however often the event is told."},
            "position": _COUNT | {"description": "Its place in the log."},
            "timestamp": _MOMENT,
            "data": _data_of(kind),
            "omitted": {
                "type": "array",
                "items": _TEXT,
                "description": "Parts of the data that were too long; the API has them.",
            },
        },
    }


def documents() -> dict[str, Schema]:
    """Return all schemas by the names of their files."""
    return {f"events/{kind}.v{VERSION}.json": schema_of(kind) for kind in Kind}


def _data_of(kind: Kind) -> Schema:
    if kind.about_image:
        return {"type": "object", "required": list(_IMAGE), "properties": _IMAGE | _LONG}
    summary = _TEXT | {"description": "One sentence for people."}
    properties = {"summary": summary, **_NOTICES[kind]}
    return {"type": "object", "required": list(properties), "properties": properties}
