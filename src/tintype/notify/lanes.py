"""The deliveries of one subscription: brought in order, recorded, and tried again when that fails."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4, uuid5

import orjson

from tintype.catalogue import deliveries, events, mailboxes, subscriptions
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.messaging.post import NotTaken, Post, Texts
from tintype.messaging.publisher import body_of, message_of
from tintype.messaging.webhook import Endpoint, Webhooks
from tintype.model.checkpoint import checkpoint
from tintype.model.delivery import CONFIRMATION, PATIENCE, RETRY_SECONDS, TEST, Attempt, Delivery, Lane
from tintype.model.errors import AddressRefused, TintypeError
from tintype.model.event import Kind
from tintype.model.subscription import Channel, Status, Subscription, reader_key
from tintype.model.subscription_links import confirmation_code, unsubscribe_url
from tintype.notify.letters import Letters
from tintype.telemetry import Metrics, get_logger

TURN_SECONDS = 20
"""After which a lane goes back to the others, however much is left in it."""
BACK_AFTER = 3
"""Rounds in a row that failed: when one succeeds then, all that waits for its next attempt is due."""
LONGEST_REST_SECONDS = 300
MAX_BUNDLE = 500
"""Events of one mail."""
MAIL_REST_SECONDS = (0, 10, 30, 60, 120, 300, 600)
"""After each mail of a row that came within an hour of each other; what comes meanwhile goes into one."""
LONGEST_MAIL_REST_SECONDS = 900

_log = get_logger()


@dataclass(frozen=True, slots=True)
class _Round:
    """What became of a round."""

    lane: Lane
    rest_seconds: float
    """For how long to leave the address alone, when it does not go on."""
    goes_on: bool
    notice: str | None = None
    """What the operator is told, once it is committed: that the subscription was paused."""


@dataclass(frozen=True, slots=True)
class Courier:
    """Serves lanes. Any number may, in any number of processes: the lease on a lane is what they share."""

    db: Database
    webhooks: Webhooks
    post: Post
    texts: Texts
    letters: Letters
    secret: bytes
    """Makes the codes and links of subscriptions."""
    metrics: Metrics
    timeout_seconds: float
    """Of one call or mail."""
    parallel: int
    """Calls at once to one receiver."""
    notices_to: str | None = None
    lease_margin_seconds: float = 30
    """A killed worker's lane is taken over after it and the time of a call."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: no further round is begun."""

    @property
    def lease_seconds(self) -> float:
        """How long a lane is held without a sign of life."""
        return self.timeout_seconds + self.lease_margin_seconds

    async def serve(self, lane: Lane) -> None:
        """Bring what is due in a lane, and give it back."""
        async with self.db.reading(EVERY_OWNER) as tx:
            subscription = await subscriptions.find(tx, lane.owner, lane.subscription_id)
        rest: float = 0
        if subscription is not None:
            match subscription.channel:
                case Channel.WEBHOOK:
                    rest = await self._call(lane, subscription)
                case Channel.EMAIL:
                    rest = await self._mail(lane, subscription)
                case Channel.SMS | Channel.SQS:
                    rest = await self._text(lane, subscription)
        async with self.db.transaction(EVERY_OWNER) as tx:
            if await deliveries.hold(tx, lane, 0):
                await deliveries.release(tx, lane, rest)

    async def _call(self, lane: Lane, subscription: Subscription) -> float:
        """Call a webhook as long as it answers; return for how long to leave it alone then."""
        try:
            async with self.webhooks.calling(subscription.address, parallel=self.parallel) as endpoint:

                async def bring(delivery: Delivery) -> Attempt:
                    return await self._post(endpoint, subscription, delivery)

                return await self._rounds(lane, subscription, bring)
        except AddressRefused as error:
            refusal = str(error)

            async def refuse(delivery: Delivery) -> Attempt:
                return Attempt(delivery, 0, refusal)

            return await self._rounds(lane, subscription, refuse)

    async def _text(self, lane: Lane, subscription: Subscription) -> float:
        async def bring(delivery: Delivery) -> Attempt:
            text = message_of(delivery.event).sms if delivery.event else self._words(subscription, delivery)
            return await _tried(delivery, self.texts.send_text(subscription.address, text))

        return await self._rounds(lane, subscription, bring)

    async def _rounds(
        self, lane: Lane, subscription: Subscription, bring: Callable[[Delivery], Awaitable[Attempt]]
    ) -> float:
        """Bring a few deliveries at a time until none is due, or none gets through."""
        ends = time.monotonic() + TURN_SECONDS
        last = _Round(lane, 0, goes_on=True)
        attempts: Sequence[Attempt] = ()
        while True:
            due: Sequence[Delivery] = ()
            async with self.db.transaction(EVERY_OWNER) as tx:
                if not await deliveries.hold(tx, lane, self.lease_seconds):
                    _log.warning("lane.lost", subscription_id=subscription.id)
                    return 0
                if attempts:
                    last = await self._record(tx, last.lane, subscription, attempts)
                if last.goes_on and time.monotonic() < ends and not self.stopping.is_set():
                    # An address that failed is asked with one message, not with many.
                    due = await deliveries.due(tx, lane, 1 if last.lane.failures else self.parallel)
            await self._notify(subscription, last.notice)
            if not due:
                return last.rest_seconds
            attempts = await asyncio.gather(*map(bring, due))
            checkpoint("after-delivery")

    async def _post(self, endpoint: Endpoint, subscription: Subscription, delivery: Delivery) -> Attempt:
        body = self._body(subscription, delivery)
        answer = await endpoint.post(subscription.secrets, delivery.id, body)
        attempt = Attempt(
            delivery, answer.milliseconds, answer.error, answer.status, answer.retry_seconds, answer.gone
        )
        if delivery.kind == CONFIRMATION and answer.error is None:
            if not _is_echo(answer.body, confirmation_code(self.secret, subscription)):
                return replace(attempt, error="the answer was not the challenge")
            await self._confirm(subscription)
        return attempt

    def _body(self, subscription: Subscription, delivery: Delivery) -> bytes:
        if delivery.event is not None:
            return body_of(delivery.event).encode()
        leave = unsubscribe_url(self.secret, self.letters.base_url, subscription)
        data = {"subscription_id": str(subscription.id), "unsubscribe_url": leave}
        kind = "subscription.test"
        if delivery.kind == CONFIRMATION:
            kind = "subscription.verification"
            data["challenge"] = confirmation_code(self.secret, subscription)
        return orjson.dumps(
            {"type": kind, "id": delivery.id, "timestamp": delivery.created_at, "data": data},
        )

    def _words(self, subscription: Subscription, delivery: Delivery) -> str:
        if delivery.kind == TEST:
            return "Tintype: this is a test. Messages about images will reach you here."
        code = confirmation_code(self.secret, subscription)
        return f"Tintype: your code is {code}. Enter it to be told of images. Ignore this if you did not ask."

    async def _confirm(self, subscription: Subscription) -> None:
        async with self.db.transaction(EVERY_OWNER) as tx:
            await subscriptions.confirm(tx, subscription.owner, subscription.id)

    async def _mail(self, lane: Lane, subscription: Subscription) -> float:
        """Put all that is due into one mail; return for how long this address is to have peace."""
        counts = subscription.status is not Status.PENDING  # how often strangers are asked is counted before
        mailbox = reader_key(subscription.channel, subscription.address)
        async with self.db.transaction(EVERY_OWNER) as tx:
            if not await deliveries.hold(tx, lane, self.lease_seconds):
                return 0
            if counts and (wait := await mailboxes.take(tx, mailbox)):
                return wait
            bundle = await deliveries.bundle(tx, lane, uuid4(), MAX_BUNDLE)
            if not bundle and counts:
                await mailboxes.give_back(tx, mailbox)
        if not bundle:
            return 0
        name = _name_of(bundle)
        first, *others = bundle
        letter = await self.letters.write(subscription, bundle, name)
        async with self.db.transaction(EVERY_OWNER) as tx:  # pictures take their time
            if not await deliveries.hold(tx, lane, self.lease_seconds):
                return 0
        attempt = await _tried(first, self.post.send(letter))
        checkpoint("after-delivery")
        attempts = [attempt, *(replace(attempt, delivery=other) for other in others)]
        async with self.db.transaction(EVERY_OWNER) as tx:
            if not await deliveries.hold(tx, lane, self.lease_seconds):
                return 0
            last = await self._record(tx, lane, subscription, attempts)
            mails = await deliveries.mailed(tx, lane) if attempt.error is None else 0
            if counts and not mails:
                await mailboxes.give_back(tx, mailbox)
        await self._notify(subscription, last.notice)
        return _peace(mails) if counts and mails else last.rest_seconds

    async def _record(
        self, tx: Tx, lane: Lane, subscription: Subscription, attempts: Sequence[Attempt]
    ) -> _Round:
        """Record a round, and judge the address by it."""
        await deliveries.record(tx, lane, [(attempt, _pause(attempt)) for attempt in attempts])
        self._account(subscription, attempts)
        if any(attempt.error is None for attempt in attempts):
            if lane.failures >= BACK_AFTER:
                await deliveries.hurry(tx, lane)
            if lane.failures:
                await deliveries.judge(tx, lane, failures=0)
            return _Round(replace(lane, failures=0), 0, goes_on=True)
        failures = lane.failures + 1
        is_worn = await deliveries.judge(tx, lane, failures=failures, patience=PATIENCE)
        gone = any(attempt.hopeless for attempt in attempts)
        notice = None
        if (gone or is_worn) and subscription.status is Status.ACTIVE:
            notice = await self._pause(tx, subscription, attempts[-1], gone=gone)
        wanted = max(attempt.retry_seconds or 0 for attempt in attempts)
        rest = min(LONGEST_REST_SECONDS, RETRY_SECONDS[0] * 2 ** min(failures - 1, 8)) * _jitter()
        return _Round(replace(lane, failures=failures), max(rest, wanted), goes_on=False, notice=notice)

    async def _pause(self, tx: Tx, subscription: Subscription, attempt: Attempt, *, gone: bool) -> str:
        """Tell an address nothing more, and say so to its owner: it wants to be left alone, or is dead."""
        why = (
            f"it said that it wants no more messages ({attempt.error})"
            if gone
            else f"nothing could be delivered to it for a day ({attempt.error})"
        )
        paused = await subscriptions.pause(
            tx, subscription.owner, subscription.id, f"Paused by the service: {why}."
        )
        summary = f"The {subscription.channel} subscription of {subscription.address} was paused: {why}."
        payload = {
            "subscription_id": str(subscription.id),
            "channel": subscription.channel.value,
            "summary": summary,
        }
        kind = Kind.SUBSCRIPTION_PAUSED
        await events.add_notice(
            tx, kind, subscription.owner, subscription.id, payload, version=paused.version
        )
        _log.warning("subscription.paused", subscription_id=subscription.id, reason=why)
        return summary

    async def _notify(self, subscription: Subscription, notice: str | None) -> None:
        """Tell the operator, if there is something to tell; the event tells those who asked to hear of it."""
        if notice is None or self.notices_to is None:
            return
        try:
            await self.post.send(self.letters.notice(self.notices_to, subscription, notice))
        except NotTaken as error:
            _log.warning("notice.not_taken", reason=str(error))

    def _account(self, subscription: Subscription, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            if attempt.error is None:
                outcome = "delivered"
            else:
                outcome = "dead" if _pause(attempt) is None else "failed"
            self.metrics.deliveries.labels(subscription.channel.value, outcome).inc()
        failed = [attempt for attempt in attempts if attempt.error is not None]
        if failed:
            _log.info(
                "delivery.failed",
                subscription_id=subscription.id,
                channel=subscription.channel.value,
                count=len(failed),
                reason=failed[0].error,
            )


async def _tried(delivery: Delivery, sending: Awaitable[None]) -> Attempt:
    """Send something that is taken or not."""
    begun = time.monotonic()
    try:
        await sending
    except NotTaken as error:
        return Attempt(delivery, _since(begun), str(error), error.status, None, error.for_ever)
    except TintypeError as error:
        return Attempt(delivery, _since(begun), str(error))
    return Attempt(delivery, _since(begun))


def _pause(attempt: Attempt) -> float | None:
    """Return in how many seconds a failed delivery is tried again; None: never."""
    step = attempt.delivery.step
    if attempt.hopeless or step >= len(RETRY_SECONDS):
        return None
    return max(RETRY_SECONDS[step] * _jitter(), attempt.retry_seconds or 0)


def _peace(mails: int) -> float:
    """Return for how long an address is left alone after so many mails in a row."""
    return MAIL_REST_SECONDS[mails] if mails < len(MAIL_REST_SECONDS) else LONGEST_MAIL_REST_SECONDS


def _jitter() -> float:
    """Return what keeps failures that came together from coming back together."""
    return random.uniform(0.9, 1.2)  # noqa: S311 - nobody gains by guessing it


def _name_of(bundle: Sequence[Delivery]) -> UUID:
    """Return the name of a mail: its one event's, or what all of its events make."""
    if len(bundle) == 1:
        return bundle[0].id
    return bundle[0].bundle or uuid5(bundle[0].id, str(bundle[-1].id))


def _is_echo(answer: bytes, challenge: str) -> bool:
    """Tell whether an answer is the challenge, as it is or as JSON `{"challenge": …}`."""
    text = answer.decode(errors="replace").strip()
    if text in (challenge, f'"{challenge}"'):
        return True
    try:
        told = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and told == told | {"challenge": challenge}


def _since(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)
