"""Made events: an image's payload as the catalogue writes it, and the messages of it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tintype.messaging.publisher import Message, message_of
from tintype.model.event import Event, Kind, event_id
from tintype.model.ids import new_id
from tintype.model.image import Facts, Format, Image, State
from tintype.model.payload import image_payload

WHEN = datetime(2026, 11, 22, 19, 2, tzinfo=UTC)


def image(**changes: object) -> Image:
    """A photograph of Rome, except for what the test wants otherwise."""
    rome = Image(
        id=new_id(),
        owner="local",
        filename="Rome.JPG",
        extension="jpg",
        declared_type="image/jpeg",
        size=2_345_678,
        sha256=bytes(32),
        etag='"0"',
        facts=Facts(Format.JPEG, width=4000, height=3000, camera={"make": "Leica"}),
        tags=("travel", "città eterna"),
        attributes={"album": "Rome"},
        state=State.READY,
        protocol="raw",
        created_at=WHEN,
        updated_at=WHEN,
        deleted_at=None,
        version=1,
    )
    return replace(rome, **changes)


def event(position: int = 1, kind: Kind = Kind.UPLOADED, **changes: object) -> Event:
    """What the log holds of such an image."""
    picture = image(**changes)
    return Event(
        position=position,
        id=event_id(picture.id, kind, picture.version),
        kind=kind,
        image_id=picture.id,
        owner=picture.owner,
        version=picture.version,
        payload=image_payload(picture),
        created_at=WHEN,
    )


def notice(position: int = 1, kind: Kind = Kind.SUBSCRIPTION_CONFIRMED, **payload: object) -> Event:
    """What the log holds of something that is no image."""
    return Event(
        position=position,
        id=event_id(new_id(), kind, 1),
        kind=kind,
        image_id=None,
        owner="local",
        version=1,
        payload={"summary": "ada@example.org is told of uploads from now on."} | payload,
        created_at=WHEN,
    )


def message(position: int = 1, kind: Kind = Kind.UPLOADED, **changes: object) -> Message:
    return message_of(event(position, kind, **changes))


def messages(count: int, start: int = 1) -> list[Message]:
    return [message(position) for position in range(start, start + count)]


def ids(heard: list[dict[str, Any]]) -> list[UUID]:
    return [UUID(body["id"]) for body in heard]
