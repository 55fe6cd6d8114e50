"""What mails say: one event with its picture, many in a digest, or a few words."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import jinja2

from tintype.catalogue import images
from tintype.catalogue.database import Database
from tintype.messaging.post import Letter, Picture
from tintype.messaging.publisher import (
    dimensions_of,
    facts_of,
    headline_of,
    name_of,
    size_of,
    type_of,
    visible,
)
from tintype.model.delivery import CONFIRMATION, Delivery
from tintype.model.event import Event
from tintype.model.identity import LOCAL
from tintype.model.image import Image, State
from tintype.model.subscription import Subscription
from tintype.model.subscription_links import confirm_url, unsubscribe_url
from tintype.objects.local_links import MailedLinks

SHOWN = 20
"""Events that one mail tells of; the others are counted."""
MAX_SUBJECT = 150
MAX_NAME = 80
"""Of a name that stands in a list."""
GREY = "#e8e4dd"
PICTURES_SECONDS = 20
"""For all pictures of a mail: those that are not made by then are left out. A lane's lease is longer."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("tintype.notify"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)

Thumbnail = Callable[[Image], Awaitable[bytes | None]]
"""Returns a small JPEG of an image; None where there is none to be had now."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One event in a mail."""

    name: str
    headline: str
    when: str
    detail: str
    colour: str
    facts: list[tuple[str, str]]
    link: tuple[str, datetime] | None
    """And until when it works."""
    picture: Picture | None

    @property
    def url(self) -> str | None:
        """Where the image is to be seen."""
        return self.link[0] if self.link else None

    @property
    def short_name(self) -> str:
        """As it stands among others."""
        return _shortened(self.name)


@dataclass(frozen=True, slots=True)
class Letters:
    """Writes mails. Pictures and links are of images that are there now."""

    db: Database
    links: MailedLinks
    thumbnail: Thumbnail
    secret: bytes
    """Makes the links of subscriptions."""
    base_url: str
    """How people reach the service."""
    pictures_seconds: float = PICTURES_SECONDS

    async def write(self, subscription: Subscription, bundle: Sequence[Delivery], name: UUID) -> Letter:
        """Write the mail that a bundle of deliveries makes."""
        told = [delivery.event for delivery in bundle if delivery.event is not None]
        if told:
            return await self._news(subscription, told, name)
        if any(delivery.kind == CONFIRMATION for delivery in bundle):
            return self._invitation(subscription, name)
        return self._words(
            subscription.address,
            f"{name}.{subscription.id.hex}",
            "A test from Tintype",
            ["This is the test message that was asked for. Mails about images will reach you here."],
            leave=unsubscribe_url(self.secret, self.base_url, subscription),
        )

    def notice(self, address: str, subscription: Subscription, sentence: str) -> Letter:
        """Write to whoever runs the service that a subscription was paused, and what to do."""
        owner = [] if subscription.owner == LOCAL.owner else [f"It is of {visible(subscription.owner)}."]
        resume = (
            f'When the address is back, send {{"status": "active"}} by PATCH to {self.base_url}'
            f"/v1/subscriptions/{subscription.id}: it is told then what has waited."
        )
        paragraphs = [visible(sentence), *owner, resume]
        return self._words(address, str(uuid4()), "A subscription was paused", paragraphs)

    def _invitation(self, subscription: Subscription, name: UUID) -> Letter:
        return self._words(
            subscription.address,
            f"{name}.{subscription.id.hex}",
            "Please confirm your subscription",
            [
                (
                    f"{_asker(subscription)} asked that {subscription.address} is told of images by mail. "
                    "If you want that, confirm it: the link works for 48 hours."
                ),
            ],
            button=("Confirm the subscription", confirm_url(self.secret, self.base_url, subscription)),
            otherwise="If you do not, do nothing. You will hear nothing more.",
        )

    async def _news(self, subscription: Subscription, told: Sequence[Event], name: UUID) -> Letter:
        newest = list(reversed(told))[:SHOWN]
        enough = asyncio.get_running_loop().time() + self.pictures_seconds
        items = await asyncio.gather(
            *(self._item(event, number, enough) for number, event in enumerate(newest))
        )
        links = [item.link for item in items if item.link is not None]
        single = len(told) == 1
        first = items[0]
        heading = f"{first.headline}: {first.name}" if single else _count(told)
        leave = unsubscribe_url(self.secret, self.base_url, subscription)
        values = {
            "subject": heading,
            "preview": first.detail if single else ", ".join(item.short_name for item in items[:5]),
            "heading": first.headline if single else heading,
            "items": items,
            "single": single,
            "mixed": len({event.kind for event in told}) > 1,
            "more": len(told) - len(items),
            "expires": _moment(min(until for _, until in links)) if links else None,
            "unsubscribe_url": leave,
        }
        return _letter(
            "news",
            values,
            to=subscription.address,
            message_id=f"{name}.{subscription.id.hex}",
            leave=leave,
            pictures=tuple(item.picture for item in items if item.picture is not None),
        )

    async def _item(self, event: Event, number: int, enough: float) -> _Item:
        when = _moment(event.created_at)
        name, headline = name_of(event), headline_of(event)
        if event.image_id is None:
            return _Item(name, headline, when, "", GREY, [("When", when)], None, None)
        payload = event.payload
        link, data = await self._shown(event.owner, event.image_id, enough)
        picture = None if data is None else Picture(f"image{number}", "image/jpeg", data)
        facts = [
            ("Name", name),
            ("Type", type_of(payload)),
            ("Dimensions", dimensions_of(payload)),
            ("Size", size_of(payload)),
            *([] if event.owner == LOCAL.owner else [("By", visible(event.owner))]),
            *([("Tags", visible(", ".join(payload["tags"])))] if payload["tags"] else []),
            ("When", when),
        ]
        colour = payload.get("dominant_color") or GREY
        return _Item(name, headline, when, facts_of(payload), colour, facts, link, picture)

    async def _shown(
        self, owner: str, image_id: UUID, enough: float
    ) -> tuple[tuple[str, datetime] | None, bytes | None]:
        """Return a link to an image, with its end, and its picture, as far as it is there now."""
        async with self.db.reading(owner) as tx:
            image = await images.find(tx, owner, image_id)
        if image is None or image.state is not State.READY:
            return None, None
        try:
            async with asyncio.timeout_at(enough):
                picture = await self.thumbnail(image)
        except TimeoutError:
            picture = None
        return self.links.to(image.id), picture

    def _words(
        self,
        address: str,
        message_id: str,
        heading: str,
        paragraphs: list[str],
        *,
        button: tuple[str, str] | None = None,
        otherwise: str = "",
        leave: str | None = None,
    ) -> Letter:
        label, url = button or ("", None)
        values = {
            "subject": heading,
            "preview": paragraphs[0],
            "heading": heading,
            "paragraphs": paragraphs,
            "button": label,
            "button_url": url,
            "otherwise": otherwise,
            "unsubscribe_url": leave,
        }
        return _letter("words", values, to=address, message_id=message_id, leave=leave)


def _moment(moment: datetime) -> str:
    """Return a moment as people write it: "1 May 2026, 08:30 UTC"."""
    utc = moment.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def _asker(subscription: Subscription) -> str:
    """Return who asked: without identity there are no names."""
    return "Somebody" if subscription.owner == LOCAL.owner else _shortened(visible(subscription.owner))


def _shortened(name: str) -> str:
    """Return a name that leaves room for others; its end often tells more than its middle."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 16]}…{name[-15:]}"


def _letter(
    template: str,
    values: dict[str, Any],
    *,
    to: str,
    message_id: str,
    leave: str | None,
    pictures: tuple[Picture, ...] = (),
) -> Letter:
    subject = values["subject"]
    return Letter(
        to=to,
        subject=subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1] + "…",
        text=_TEMPLATES.get_template(f"{template}.txt").render(values),
        html=_TEMPLATES.get_template(f"{template}.html").render(values),
        message_id=message_id,
        unsubscribe_url=leave,
        pictures=pictures,
    )


def _count(told: Sequence[Event]) -> str:
    """Return what happened in a row of events: "12 images uploaded", or "12 changes to images"."""
    kinds = {event.kind for event in told}
    if len(kinds) == 1 and told[0].kind.about_image:
        verb = headline_of(told[0]).removeprefix("Image ")
        return f"{len(told)} images {verb}"
    return f"{len(told)} messages about images"
