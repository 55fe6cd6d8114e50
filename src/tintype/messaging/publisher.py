"""What is told of an event, and the port of those who tell it."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from tintype.model.event import Event, Kind
from tintype.model.event_attributes import Attribute, attributes_of
from tintype.model.image import State

MAX_BODY_BYTES = 64 * 1024
"""Of the machine's JSON. A JSON string inside JSON at most doubles, and it is put into one twice
(SNS's message structure, then the notification of a queue): 256 KB, the limit of both, is never met.
SNS also bills by 64 KB."""

MAX_SUBJECT_CHARS = 99
"""SNS, API_Publish, `Subject`: printable ASCII, fewer than 100 characters, begins with a letter."""

MAX_SMS_CHARS = 140
"""SNS sends 140 bytes as one SMS; ours are ASCII, and longer ones would be charged as several."""

LYING = 5
"""Of `orientation`, from here on width and height change places (Exif 2.3, tag 274)."""

_LONG_PARTS = ("attributes", "camera")
"""Parts of the payload whose length or content the sender or the camera decides."""

_HEADLINES = {
    Kind.UPLOADED: ("Image uploaded", "was uploaded"),
    Kind.UPDATED: ("Image changed", "was changed"),
    Kind.DELETED: ("Image deleted", "was moved to the trash"),
    Kind.RESTORED: ("Image restored", "was brought back from the trash"),
    Kind.MISSING: ("Image missing", "has lost its bytes"),
    Kind.CORRUPT: ("Image damaged", "has other bytes than were stored"),
    Kind.RECOVERED: ("Image recovered", "has its bytes again"),
}
_NOTICES = {
    Kind.SUBSCRIPTION_CONFIRMED: "Subscription confirmed",
    Kind.SUBSCRIPTION_PAUSED: "Subscription paused",
    Kind.CONSISTENCY_FINISHED: "Consistency check finished",
}

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
# What the JSON encoder leaves alone and SNS refuses (its FAQ: the characters of XML 1.0 only).
_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


Link = Callable[[UUID], tuple[str, datetime]]
"""Returns where an image is to be seen, and until when."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event in the words of each kind of listener."""

    position: int
    """Where the event stands in the log; a report speaks of messages by it."""
    id: UUID
    """The event's id: the same for ever, so receivers can drop what they have seen."""
    kind: Kind
    about: UUID
    """The image, or the notice: of one, messages are best told in the order of the log."""
    subject: str
    """Printable ASCII, up to `MAX_SUBJECT_CHARS`."""
    default: str
    """The body for machines: JSON with type, id, position, timestamp and data, as in Standard Webhooks.

    Data is the event's payload: the image, or a notice's own fields. Where it was too long, or could not
    be written as JSON, `omitted` names the parts that were left out: a receiver asks the API for them.
    """
    email: str
    """The body for people: a sentence and the facts, in plain text."""
    sms: str
    """The shortest form: ASCII, up to `MAX_SMS_CHARS`."""
    attributes: dict[str, Attribute]
    """What filters look at. Extension and type are in lower case, tags as the image has them."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of each message, by position: each one is in exactly one of the two."""

    taken: frozenset[int] = frozenset()
    refused: dict[int, str] = field(default_factory=dict[int, str])
    """With the reason. A refused message is offered again later."""


class Publisher(Protocol):
    """Hands messages to whoever listens.

    A message in `taken` is durable with the publisher. One in `refused` may have been sent all the
    same, when the answer was lost: the same message, under the same id, is then sent again. One that
    is refused holds back no other. A publisher that is down refuses everything, and soon, with the
    reason; it does not raise.
    """

    async def publish(self, messages: Sequence[Message]) -> Report:
        """Send the messages; those of one image in their order, as far as one sender can keep it."""
        ...


def message_of(event: Event, link: Link | None = None) -> Message:
    """Return what is told of an event; to people with a link to the image, where there is what makes one."""
    words = _words_of_image(event, link) if event.kind.about_image else _words_of_notice(event)
    return Message(
        position=event.position,
        id=event.id,
        kind=event.kind,
        about=event.image_id or event.id,
        subject=words.subject,
        default=body_of(event),
        email=words.email,
        sms=words.sms,
        attributes=attributes_of(event.kind.value, event.owner, event.payload),
    )


@dataclass(frozen=True, slots=True)
class _Words:
    subject: str
    email: str
    sms: str


def _words_of_image(event: Event, link: Link | None) -> _Words:
    image = event.payload
    name = visible(image["filename"])
    headline, verb = _HEADLINES[event.kind]
    return _Words(
        subject=_fit(f"{headline}: ", _ascii(name), "", MAX_SUBJECT_CHARS),
        email=_letter(event, name, verb, link),
        sms=_fit(f"{headline}: ", _ascii(name), f", {facts_of(image)}", MAX_SMS_CHARS),
    )


def _words_of_notice(event: Event) -> _Words:
    headline = _NOTICES[event.kind]
    summary = visible(event.payload["summary"])
    return _Words(
        subject=headline,
        email="\n".join([summary, "", *_signature(event)]),
        sms=_fit(f"{headline}: ", _ascii(summary), "", MAX_SMS_CHARS),
    )


def headline_of(event: Event) -> str:
    """Return an event's name for people: "Image uploaded"."""
    return _HEADLINES[event.kind][0] if event.kind.about_image else _NOTICES[event.kind]


def name_of(event: Event) -> str:
    """Return what a person calls the thing that an event is about, on one line."""
    return visible(event.payload["filename"] if event.kind.about_image else event.payload["summary"])


def storable_json(value: object) -> str:
    """Return compact JSON of which every character can travel through SNS and SQS."""
    text = _ENCODER.encode(value)
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def body_of(event: Event) -> str:
    """Return the machine's JSON of an event, without the long parts where the whole would not do."""
    envelope: dict[str, Any] = {
        "type": event.kind.value,
        "id": str(event.id),
        "position": event.position,
        "timestamp": event.created_at.astimezone(UTC).isoformat(),
        "data": event.payload,
    }
    try:
        body = storable_json(envelope)
    except (ValueError, RecursionError):  # numbers and nesting that JSON in a database can have
        body = None
    if body is not None and len(body.encode()) <= MAX_BODY_BYTES:
        return body
    short = {key: value for key, value in event.payload.items() if key not in _LONG_PARTS}
    return storable_json(envelope | {"omitted": list(_LONG_PARTS), "data": short})


def _letter(event: Event, name: str, verb: str, link: Link | None) -> str:
    """Return the plain text of a mail."""
    image = event.payload
    lines = [
        f"{name} {verb}: {facts_of(image)}.",
        *_way_to(event, link),
        "",
        f"Image: {event.image_id}",
        f"Owner: {visible(event.owner)}",
        *([f"Tags: {visible(', '.join(image['tags']))}"] if image["tags"] else []),
        *_signature(event),
    ]
    return "\n".join(lines)


def _way_to(event: Event, link: Link | None) -> list[str]:
    if link is None or event.image_id is None or event.payload["state"] != State.READY:
        return []
    url, until = link(event.image_id)
    return ["", f"Open it until {until:%Y-%m-%d %H:%M} UTC: {url}"]


def _signature(event: Event) -> list[str]:
    return [
        f"When: {event.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        f"Event: {event.id}",
        "",
    ]


def facts_of(image: Mapping[str, Any]) -> str:
    """Return an image's payload in a few words: format, dimensions, size."""
    return f"{type_of(image)} of {dimensions_of(image)}, {size_of(image)}"


def type_of(image: Mapping[str, Any]) -> str:
    """Return an image's format by its short name: "JPEG"."""
    return image["content_type"].partition("/")[2].upper()


def dimensions_of(image: Mapping[str, Any]) -> str:
    """Return an image's dimensions as it is seen: turned, where its pixels are stored lying."""
    sides = (image["width"], image["height"])
    width, height = reversed(sides) if image["orientation"] >= LYING else sides
    return f"{width} x {height} pixels"


def size_of(image: Mapping[str, Any]) -> str:
    """Return an image's length as people say it (SI units)."""
    count = image["bytes"]
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} bytes"


def _fit(before: str, name: str, after: str, limit: int) -> str:
    """Join three texts, cutting the name so that the whole fits."""
    room = limit - len(before) - len(after)
    return before + (name if len(name) <= room else name[: room - 3] + "...") + after


def visible(text: str) -> str:
    """Return text for people, without line breaks and other characters that are obeyed, not read."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _ascii(text: str) -> str:
    """Return the nearest ASCII: accents are dropped, what has no Latin form becomes a question mark."""
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in apart if not unicodedata.combining(c)).encode("ascii", "replace").decode()
