"""From the log of events to deliveries: each event once for each subscription that wants it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid5

from tintype.catalogue import deliveries, errands, events, subscriptions
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.catalogue.deliveries import News
from tintype.catalogue.errands import Errand, ErrandKind
from tintype.model.checkpoint import checkpoint
from tintype.model.event import Event
from tintype.model.event_attributes import attributes_of
from tintype.model.subscription import Mode, Provider, Subscription

BATCH = 500
"""Events of one transaction."""
ERRANDS = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """What came of a look into the log."""

    deliveries: int
    more_soon: bool
    """Whether there is more that other transactions still hold back."""


async def fan_out(db: Database) -> Spread:
    """Turn all that is settled in the log into deliveries.

    The place in the log moves in the transaction that adds the deliveries, and whoever moves it has
    locked it: an event is turned into deliveries exactly once, whoever is killed when. Nothing of this
    is on the way of an upload.
    """
    made = 0
    while True:
        async with db.transaction(EVERY_OWNER) as tx:
            after = await deliveries.take_turn(tx)
            if after is None:
                return Spread(made, more_soon=True)
            batch = await events.settled(tx, after, BATCH)
            if batch:
                after = batch[-1].position
                news = await _wanted(tx, batch)
                made += len(news)
                await deliveries.add(tx, news)
                await deliveries.advance(tx, after)
                checkpoint("before-fan-out-commit")
            if len(batch) < BATCH:
                return Spread(made, more_soon=await events.newest(tx) > after)


async def run_errands(db: Database) -> int:
    """Turn what was promised to subscriptions into deliveries: confirmations, tests, replays.

    Returns how many there were.
    """
    run = 0
    while True:
        async with db.transaction(EVERY_OWNER) as tx:
            claimed = await errands.claim(tx, ERRANDS)
            for errand in claimed:
                await _run(tx, errand)
            if claimed:
                await errands.done(tx, [errand.id for errand in claimed])
        if not claimed:
            return run
        run += len(claimed)


async def _wanted(tx: Tx, batch: Sequence[Event]) -> list[News]:
    """Return who wants which of these events."""
    owners = {event.owner for event in batch}
    listeners = {owner: await subscriptions.listeners(tx, owner) for owner in owners}
    return [
        _news(listener, event)
        for event in batch
        for listener in listeners[event.owner]
        if _wants(listener, event) and listener.confirmed_at and event.created_at >= listener.confirmed_at
    ]


def _wants(subscription: Subscription, event: Event) -> bool:
    return subscription.wants(attributes_of(event.kind.value, event.owner, event.payload))


def _news(subscription: Subscription, event: Event, mode: Mode | None = None) -> News:
    return News(
        subscription.owner, subscription.id, event.id, event.kind.value, mode or subscription.mode, event
    )


async def _run(tx: Tx, errand: Errand) -> None:
    subscription = await subscriptions.find(tx, errand.owner, errand.subscription_id)
    if subscription is None:
        return
    if errand.kind is ErrandKind.REPLAY:
        await _replay(tx, errand, subscription)
        return
    identity = uuid5(subscription.id, f"{errand.kind}:{errand.id}")
    await deliveries.add(tx, [News(subscription.owner, subscription.id, identity, errand.kind.value)])


async def _replay(tx: Tx, errand: Errand, subscription: Subscription) -> None:
    """Deliver a stretch of the log again, a batch in each transaction."""
    if subscription.provider is not Provider.TINTYPE:
        return  # SNS delivers to all or none
    after, until = int(errand.detail["after"]), int(errand.detail["until"])
    batch = await events.page(tx, subscription.owner, after, BATCH, until=until)
    wanted = [_news(subscription, event, Mode.AT_ONCE) for event in batch if _wants(subscription, event)]
    await deliveries.add(tx, wanted, again=True)
    if len(batch) == BATCH:
        rest = {"after": batch[-1].position, "until": until}
        await errands.add(tx, subscription, ErrandKind.REPLAY, rest)
