"""Subscriptions that agreed, and a notifier that works when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from happenings import image
from receiver import Receiver
from tintype.catalogue import events, subscriptions
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.subscriptions import NewSubscription
from tintype.messaging.local import LoggedTexts
from tintype.messaging.post import Letter, NotTaken
from tintype.messaging.webhook import Webhooks
from tintype.model.event import Kind
from tintype.model.ids import new_id
from tintype.model.image import Image
from tintype.model.subscription import Channel, Mode, Provider, Subscription
from tintype.notify.bell import Bell
from tintype.notify.lanes import Courier
from tintype.notify.letters import Letters
from tintype.notify.notifier import Notifier
from tintype.objects.local_links import LocalLinks, MailedLinks
from tintype.settings import WebhookSettings
from tintype.telemetry import Metrics

SECRET = bytes(32)
OPERATOR = "operator@example.org"


@dataclass
class Letterbox:
    """A `Post` that keeps letters, or refuses them with what a test puts there."""

    letters: list[Letter] = field(default_factory=list)
    refusal: NotTaken | None = None

    async def send(self, letter: Letter) -> None:
        self.letters.append(letter)
        if self.refusal is not None:
            raise self.refusal


@dataclass
class Town:
    """A database with a notifier, and hands to make things happen."""

    database: Database
    notifier: Notifier
    box: Letterbox
    courier: Courier
    another: Callable[..., Notifier]
    """Gives one more worker, whose courier may have parts of its own."""

    async def subscribe(
        self,
        address: str,
        channel: Channel = Channel.WEBHOOK,
        *,
        confirmed: bool = True,
        mode: Mode = Mode.AT_ONCE,
        owner: str = "local",
        kinds: tuple[str, ...] = ("image.uploaded", "image.updated", "image.deleted"),
        **filter_: Any,  # noqa: ANN401 - JSON
    ) -> Subscription:
        new = NewSubscription(
            id=new_id(),
            owner=owner,
            channel=channel,
            address=address,
            filter=filter_,
            kinds=kinds,
            mode=mode,
            provider=Provider.TINTYPE,
            secret=SECRET if channel is Channel.WEBHOOK else None,
        )
        async with self.database.transaction(owner) as tx:
            made = await subscriptions.add(tx, new)
            if confirmed:
                made = await subscriptions.confirm(tx, owner, made.id) or made
        return made

    async def happen(self, kind: Kind = Kind.UPLOADED, **changes: object) -> Image:
        """Commit an event of an image."""
        picture = image(**changes)
        async with self.database.transaction(EVERY_OWNER) as tx:
            await events.add(tx, kind, picture)
        return picture

    async def sql(self, statement: Any, *values: object) -> list[tuple[Any, ...]]:  # noqa: ANN401
        async with self.database.transaction(EVERY_OWNER) as tx:
            cursor = await tx.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def later(self) -> None:
        """Let a day's worth of waiting be over: all that waits is due."""
        await self.sql("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'pending'")
        await self.sql(
            "UPDATE delivery_lanes SET due_at = now(), not_before = now(), leased_until = now() "
            "WHERE due_at IS NOT NULL OR leased_until > now()"
        )


async def no_picture(_: Image) -> bytes | None:
    return None


@pytest.fixture
async def town(database: Database) -> AsyncIterator[Town]:
    box = Letterbox()
    links = MailedLinks(LocalLinks(SECRET), "http://here", 3600, in_bucket=False)
    letters = Letters(database, links, no_picture, SECRET, "http://here")

    def courier() -> Courier:
        return Courier(
            db=database,
            webhooks=Webhooks(WebhookSettings(allow_private=True, timeout_seconds=2)),
            post=box,
            texts=LoggedTexts(),
            letters=letters,
            secret=SECRET,
            metrics=Metrics(),
            timeout_seconds=2,
            parallel=4,
            notices_to=OPERATOR,
        )

    def notifier(**parts: Any) -> Notifier:  # noqa: ANN401 - a courier's
        return Notifier(database, replace(courier(), **parts), Bell(database), 1, Metrics())

    first = courier()
    yield Town(database, Notifier(database, first, Bell(database), 1, Metrics()), box, first, notifier)
    await asyncio.sleep(0)


@pytest.fixture
async def hearing(town: Town, receiver: Receiver) -> Subscription:
    """A subscription of the receiver's to everything."""
    return await town.subscribe(receiver.url)
