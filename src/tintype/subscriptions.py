"""Subscriptions in use: asked for, agreed to, changed, left, and kept in step with SNS."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from tintype.catalogue import confirmations, errands, events, images, signing_secrets, subscriptions
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.catalogue.errands import ErrandKind
from tintype.catalogue.subscriptions import NewSubscription
from tintype.messaging.sns_subscriptions import NOTHING, SnsSubscriptions
from tintype.model.errors import (
    AddressAskedOften,
    AddressRefused,
    ChannelUnavailable,
    CodeInvalid,
    DatabaseUnavailable,
    MessagingUnavailable,
    PolicyInvalid,
    SubscriptionExists,
    SubscriptionNotFound,
    SubscriptionState,
    TicketExpired,
    TicketInvalid,
    TicketUsed,
    TooManySubscriptions,
)
from tintype.model.event import Kind
from tintype.model.event_attributes import Attribute, attributes_of
from tintype.model.filter_policy import check_filter, failing
from tintype.model.ids import new_id
from tintype.model.image import Image
from tintype.model.payload import image_payload
from tintype.model.query import ImageQuery
from tintype.model.subscription import (
    Channel,
    Mode,
    Provider,
    Status,
    Subscription,
    address_of,
    complete_policy,
    reader_key,
)
from tintype.model.subscription_links import (
    PURPOSE,
    Purpose,
    Ticket,
    confirmation_ends,
    is_code,
    read_ticket,
    unsubscribe_url,
)
from tintype.telemetry import get_logger

MAX_LIVE = 1000
"""Subscriptions of one owner that are not over."""
MAX_CODE_ATTEMPTS = 5
"""In one round; a code of six digits is then as good as unguessable."""
OVERLAP_SECONDS = 24 * 3600
"""How long the secret before a rotation signs beside the new one."""
BATCH = 50
"""Subscriptions that are looked at together."""
MAX_BATCHES = 20
"""Of one round: those that are left wait for the next."""
LEFT_AT_SNS = "The receiver unsubscribed at SNS."

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks to hear of, and where. The address is as it was sent."""

    channel: Channel
    address: str
    filter: dict[str, Any]
    kinds: tuple[str, ...]
    mode: Mode


@dataclass(frozen=True, slots=True)
class Change:
    """What to change; None leaves a thing as it is."""

    filter: dict[str, Any] | None = None
    kinds: tuple[str, ...] | None = None
    mode: Mode | None = None
    paused: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image would have been told of, and which keys of the filter said no."""

    image: Image
    attributes: dict[str, Attribute]
    failed: list[str]


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What doors do with subscriptions. Confirmations and messages are promised here, and sent by notify."""

    database: Database
    secret: bytes = field(repr=False)
    """Signs links and makes codes; the instances share it."""
    channels: Mapping[Channel, Provider]
    """Who serves each channel; one that is not here is not available."""
    check_target: Callable[[str], Awaitable[object]]
    """Raises `AddressRefused` for a webhook that leads to where nothing is sent."""
    sns: SnsSubscriptions | None = None

    @classmethod
    async def open(
        cls,
        database: Database,
        channels: Mapping[Channel, Provider],
        check_target: Callable[[str], Awaitable[object]],
        sns: SnsSubscriptions | None,
    ) -> Self:
        """Return the subscriptions of the service; its first instance makes the secret."""
        async with database.transaction(EVERY_OWNER) as tx:
            secret = await signing_secrets.add(tx, PURPOSE, secrets.token_bytes(32))
        return cls(database, secret, channels, check_target, sns)

    # By the owner

    async def create(self, owner: str, wanted: Wanted) -> Subscription:
        """Record a subscription and promise to ask its address; it is told nothing before it agrees.

        Raises `RequestInvalid`, `PolicyInvalid`, `ChannelUnavailable`, `AddressRefused`,
        `SubscriptionExists`, `AddressAskedOften`.
        """
        provider = self._provider(wanted.channel, wanted.mode)
        check_filter(wanted.filter, wanted.kinds)
        address = address_of(wanted.channel, wanted.address)
        if wanted.channel is Channel.WEBHOOK:
            await self.check_target(address)
        new = NewSubscription(
            id=new_id(),
            owner=owner,
            channel=wanted.channel,
            address=address,
            filter=wanted.filter,
            kinds=wanted.kinds,
            mode=wanted.mode,
            provider=provider,
            secret=secrets.token_bytes(32) if wanted.channel is Channel.WEBHOOK else None,
        )

        async def record(tx: Tx) -> Subscription:
            if await subscriptions.count_live(tx, owner) >= MAX_LIVE:
                raise TooManySubscriptions(f"You have {MAX_LIVE} subscriptions. Delete some first.")
            made = await subscriptions.add(tx, new)
            await self._ask(tx, made)
            return made

        return await self._told_at_once(await self.database.run(record, owner))

    async def find(self, owner: str, subscription_id: UUID) -> Subscription:
        """Return a subscription of the owner. Raises `SubscriptionNotFound`."""
        async with self.database.reading(owner) as tx:
            found = await subscriptions.find(tx, owner, subscription_id)
        if found is None:
            raise SubscriptionNotFound("There is no subscription of that id. It may have been deleted.")
        return found

    async def page(self, owner: str, before: UUID | None, limit: int) -> list[Subscription]:
        """Return the owner's subscriptions, the newest first, from behind one on."""
        async with self.database.reading(owner) as tx:
            return await subscriptions.page(tx, owner, before, limit)

    async def change(self, owner: str, subscription_id: UUID, change: Change) -> Subscription:
        """Change what a subscription asks for, pause or resume it.

        Raises `SubscriptionNotFound`, `PolicyInvalid`, `ChannelUnavailable`; `SubscriptionState` for one
        that is over, or was never confirmed and is to be paused.
        """

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_live(current)
            if change.paused is not None:
                move = subscriptions.pause if change.paused else subscriptions.resume
                current = await move(tx, owner, subscription_id)
            wanted = current.filter if change.filter is None else change.filter
            kinds = current.kinds if change.kinds is None else change.kinds
            mode = current.mode if change.mode is None else change.mode
            if (wanted, kinds, mode) == (current.filter, current.kinds, current.mode):
                return current
            check_filter(wanted, kinds)
            _require_mode(current.provider, mode)
            return await subscriptions.change(tx, current, wanted=wanted, kinds=kinds, mode=mode)

        return await self._told_at_once(await self.database.run(work, owner))

    async def remove(self, owner: str, subscription_id: UUID) -> None:
        """Forget a subscription. Raises `SubscriptionNotFound`."""

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, owner, subscription_id)
            await subscriptions.remove(tx, owner, subscription_id)
            return replace(current, status=Status.DELETED)

        gone = await self.database.run(work, owner)
        if gone.provider is Provider.SNS:
            await self._told_at_once(gone)

    async def ask_again(self, owner: str, subscription_id: UUID) -> Subscription:
        """Have the address asked once more; earlier links and codes end.

        Raises `SubscriptionNotFound`; `SubscriptionState` unless it is pending; `AddressAskedOften`.
        """

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_pending(current)
            again = await subscriptions.ask_again(tx, current)
            await self._ask(tx, again)
            return again

        return await self._told_at_once(await self.database.run(work, owner))

    async def confirm_by_code(self, owner: str, subscription_id: UUID, code: str) -> Subscription:
        """Agree with the code that was sent to the address; for mail of SNS with its link.

        Raises `SubscriptionNotFound`, `SubscriptionState`, `CodeInvalid`, `MessagingUnavailable`.
        """
        async with self.database.transaction(owner) as tx:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_pending(current)
            attempts = await subscriptions.count_attempt(tx, current)
        if attempts > MAX_CODE_ATTEMPTS:
            raise CodeInvalid("The code was tried too often. Have another one sent by `resend`.")
        if current.provider is Provider.SNS and current.channel is Channel.EMAIL:
            await self._confirm_at_sns(current, code)
        elif not is_code(self.secret, current, code):
            raise CodeInvalid("This is not the code that was sent last.")
        return await self._confirm(current)

    async def rotate_secret(self, owner: str, subscription_id: UUID) -> Subscription:
        """Give a webhook a new secret; messages are signed with the old one too for a day.

        Raises `SubscriptionNotFound`; `SubscriptionState` for what is no webhook.
        """

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_live(current)
            if current.channel is not Channel.WEBHOOK:
                raise SubscriptionState(
                    "Only webhooks have a secret.", details={"subscription_status": current.status}
                )
            return await subscriptions.rotate_secret(tx, current, secrets.token_bytes(32), OVERLAP_SECONDS)

        return await self.database.run(work, owner)

    async def test(self, owner: str, subscription_id: UUID) -> Subscription:
        """Promise a message that says that it is a test.

        Raises `SubscriptionNotFound`; `SubscriptionState` unless it is active, or where a test is on its
        way already; `ChannelUnavailable` for what SNS tells.
        """

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_own(current)
            if await errands.is_waiting(tx, current, ErrandKind.TEST):
                raise _state(current, "A test message is on its way already.")
            await errands.add(tx, current, ErrandKind.TEST)
            return current

        return await self.database.run(work, owner)

    async def replay(
        self, owner: str, subscription_id: UUID, *, after: int | None, since: datetime | None
    ) -> tuple[int, int]:
        """Promise to tell again of what happened behind a position, or since a moment, until now.

        Return the positions between which that is: behind the first, up to the second. Raises what
        `test` raises.
        """

        async def work(tx: Tx) -> tuple[int, int]:
            current = await subscriptions.lock(tx, owner, subscription_id)
            _require_own(current)
            if await errands.is_waiting(tx, current, ErrandKind.REPLAY):
                raise _state(current, "A replay is about to begin already.")
            newest = await events.newest_position(tx, owner)
            begin = await events.position_before(tx, owner, since) if since is not None else after or 0
            begin = min(begin, newest)
            await errands.add(tx, current, ErrandKind.REPLAY, {"after": begin, "until": newest})
            return begin, newest

        return await self.database.run(work, owner)

    async def preview(
        self, owner: str, wanted: Mapping[str, Any], kinds: tuple[str, ...], last: int
    ) -> list[Verdict]:
        """Return what a filter would have said of the owner's newest images. Raises `PolicyInvalid`."""
        check_filter(wanted, kinds)
        policy = complete_policy(wanted, owner, kinds)
        async with self.database.reading(owner) as tx:
            page = await images.page(tx, owner, ImageQuery(limit=last))
        verdicts: list[Verdict] = []
        for image in page.images:
            attributes = attributes_of(Kind.UPLOADED, owner, image_payload(image))
            verdicts.append(Verdict(image, attributes, failing(policy, attributes)))
        return verdicts

    # By whoever holds a link

    async def ticket(self, text: str, purpose: Purpose) -> tuple[Ticket, Subscription]:
        """Return what a link says, and its subscription.

        Raises `TicketInvalid` for a link that is not one of ours; `TicketUsed` when there is no such
        subscription any more.
        """
        ticket = read_ticket(self.secret, text)
        if ticket is None or ticket.purpose is not purpose:
            raise TicketInvalid("This is not a whole link of this service. Open it from the message again.")
        async with self.database.reading(EVERY_OWNER) as tx:
            owner = await subscriptions.owner_of(tx, ticket.subscription_id)
        if owner is not None:
            async with self.database.reading(owner) as tx:
                found = await subscriptions.find(tx, owner, ticket.subscription_id)
            if found is not None:
                return ticket, found
        raise TicketUsed("The subscription was deleted: you will hear nothing more of it.")

    async def confirmable(self, text: str) -> Subscription:
        """Return the subscription that a link confirms, if it still does.

        Raises `TicketInvalid`, `TicketExpired` and `TicketUsed`.
        """
        ticket, found = await self.ticket(text, Purpose.CONFIRM)
        if found.status in (Status.ACTIVE, Status.PAUSED):
            raise TicketUsed("The subscription was confirmed before: there is nothing left to do.")
        if found.status is Status.UNSUBSCRIBED:
            raise TicketUsed("The subscription was given up since. Whoever set it up can ask you anew.")
        if found.status is Status.EXPIRED or ticket.expires < datetime.now(UTC).timestamp():
            raise TicketExpired("The link was good for 48 hours. Whoever set it up can ask you anew.")
        if ticket.round != found.round:
            raise TicketExpired("There is a newer message with another link: use that one.")
        return found

    async def confirm_by_link(self, text: str) -> Subscription:
        """Agree. Raises what `confirmable` raises."""
        found = await self.confirmable(text)
        return await self._confirm(found)

    def way_out(self, subscription: Subscription) -> str:
        """Return the link with which the receiver leaves, as the service's own pages write it."""
        return unsubscribe_url(self.secret, "", subscription)

    async def leavable(self, text: str) -> Subscription | None:
        """Return the subscription that a link ends; None when it has ended. Raises `TicketInvalid`."""
        try:
            _, found = await self.ticket(text, Purpose.UNSUBSCRIBE)
        except TicketUsed:
            return None
        return None if found.status in (Status.UNSUBSCRIBED, Status.EXPIRED) else found

    async def unsubscribe_by_link(self, text: str) -> None:
        """Leave; whoever has left already has. Raises `TicketInvalid`."""
        found = await self.leavable(text)
        if found is None:
            return

        async def work(tx: Tx) -> Subscription:
            current = await subscriptions.lock(tx, found.owner, found.id)
            return await subscriptions.end(tx, current, Status.UNSUBSCRIBED, "The receiver unsubscribed.")

        with suppress(SubscriptionNotFound):
            left = await self.database.run(work, found.owner)
            _LOG.info("subscription.left", subscription_id=str(left.id), channel=left.channel.value)
            await self._told_at_once(left)

    # Inside

    def _provider(self, channel: Channel, mode: Mode) -> Provider:
        provider = self.channels.get(channel)
        if provider is None:
            raise ChannelUnavailable(
                f"This service is not set up for {channel.value}: that needs an SNS topic."
            )
        _require_mode(provider, mode)
        return provider

    async def _ask(self, tx: Tx, subscription: Subscription) -> None:
        """Promise a confirmation, unless the address has had enough of them."""
        await confirmations.sweep(tx)
        wait = await confirmations.count(tx, reader_key(subscription.channel, subscription.address))
        if wait is not None:
            raise AddressAskedOften(
                f"The address was asked {confirmations.MAX_ASKED} times within a day.", retry_after=wait
            )
        if not _sns_asks(subscription):
            await errands.add(tx, subscription, ErrandKind.CONFIRMATION)

    async def _confirm(self, current: Subscription) -> Subscription:
        async def work(tx: Tx) -> Subscription:
            confirmed = await subscriptions.confirm(tx, current.owner, current.id)
            if confirmed is None:
                raise TicketUsed("The subscription was confirmed before, or given up since.")
            return confirmed

        confirmed = await self.database.run(work, current.owner)
        _LOG.info("subscription.confirmed", subscription_id=str(current.id), channel=current.channel.value)
        return await self._told_at_once(confirmed)

    async def _confirm_at_sns(self, current: Subscription, token: str) -> None:
        if self.sns is None:
            raise MessagingUnavailable("This instance has no SNS topic.")
        arn = await self.sns.confirm(token)
        if arn != current.sns_arn:
            raise CodeInvalid("This link confirms another subscription.")

    async def _told_at_once(self, current: Subscription) -> Subscription:
        """Tell SNS now if it can be told; otherwise the next round does. Return how the subscription stands.

        Raises `AddressRefused` and `SubscriptionExists` when SNS does not take a new one, which is then
        forgotten, and `PolicyInvalid` when it does not take a filter.
        """
        if self.sns is None or current.provider is not Provider.SNS:
            return current
        try:
            await InStep(self.database, self.sns).tell(current)
        except MessagingUnavailable as error:
            _LOG.warning("subscriptions.sns_unavailable", reason=str(error))
        except (AddressRefused, SubscriptionExists) as error:
            if current.sns_arn is not None:
                raise PolicyInvalid(str(error)) from error
            async with self.database.transaction(current.owner) as tx:
                await subscriptions.forget(tx, current.owner, current.id)
            raise
        async with self.database.reading(current.owner) as tx:
            return await subscriptions.find(tx, current.owner, current.id) or current


@dataclass(slots=True)
class InStep:
    """Keeps the catalogue and SNS in step: tells SNS what changed here, and learns what changed there.

    Any number may run at once: to tell and to learn twice changes nothing.
    """

    database: Database
    sns: SnsSubscriptions | None
    seconds: float = 60
    _trouble: str = ""

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            try:
                await self.round()
                self._trouble = ""
            except (DatabaseUnavailable, MessagingUnavailable) as error:
                self._note(str(error))
            except Exception as error:  # noqa: BLE001 # the next round may have better luck
                if self._trouble != repr(error):
                    _LOG.exception("subscriptions.round_failed")
                self._trouble = repr(error)
            await asyncio.sleep(self.seconds)

    async def round(self) -> None:
        """Let go what nobody confirmed in time, tell SNS, and learn from it.

        Raises `MessagingUnavailable` as soon as SNS throttles: what is left waits for the next round.
        """
        for _ in range(MAX_BATCHES):
            async with self.database.transaction(EVERY_OWNER) as tx:
                ended = await subscriptions.expire(tx, BATCH)
            if len(ended) < BATCH:
                break
        if self.sns is not None:
            await self._tell_all()
            await self._learn()

    async def tell(self, current: Subscription) -> None:
        """Have SNS be as the row says.

        Raises `MessagingUnavailable`; `AddressRefused` and `SubscriptionExists` when SNS does not want.
        """
        match current.status:
            case Status.PENDING if current.channel is Channel.SMS:
                arn = None  # its code first: SNS itself asks no phone
            case Status.PENDING:
                arn = await self._subscribe(current)
            case Status.ACTIVE | Status.PAUSED:
                arn = await self._restrict(current)
            case _:
                arn = current.sns_arn
                if arn is not None:
                    await self._sns.unsubscribe(arn)
        async with self.database.transaction(current.owner) as tx:
            await subscriptions.stepped(tx, current, arn)

    @property
    def _sns(self) -> SnsSubscriptions:
        if self.sns is None:
            raise MessagingUnavailable("This instance has no SNS topic.")
        return self.sns

    async def _subscribe(self, current: Subscription) -> str:
        known = await self._sns.subscribe(current.channel, current.address, current.policy)
        if not known.pending and current.channel is Channel.SQS:
            async with self.database.transaction(current.owner) as tx:
                await subscriptions.confirm(tx, current.owner, current.id)
        return known.arn

    async def _restrict(self, current: Subscription) -> str | None:
        policy = NOTHING if current.status is Status.PAUSED else current.policy
        if current.sns_arn is None:
            return (await self._sns.subscribe(current.channel, current.address, policy)).arn
        if not await self._sns.restrict(current.sns_arn, policy):
            await self._end(current, Status.UNSUBSCRIBED, LEFT_AT_SNS)
        return current.sns_arn

    async def _tell_all(self) -> None:
        for _ in range(MAX_BATCHES):
            async with self.database.reading(EVERY_OWNER) as tx:
                waiting = await subscriptions.out_of_step(tx, BATCH)
            await self._tell_each(waiting)
            if len(waiting) < BATCH:
                return

    async def _tell_each(self, waiting: Sequence[Subscription]) -> None:
        for current in waiting:
            try:
                await self.tell(current)
            except (AddressRefused, SubscriptionExists) as error:
                await self._end(current, Status.EXPIRED, str(error))
            except MessagingUnavailable:
                async with self.database.transaction(current.owner) as tx:
                    await subscriptions.delayed(tx, current)
                raise

    async def _learn(self) -> None:
        """Take over from SNS who confirmed there, and who left there."""
        confirmed: set[str] | None = None
        after: UUID | None = None
        while True:
            async with self.database.reading(EVERY_OWNER) as tx:
                page = await subscriptions.at_sns(tx, after, BATCH)
            if not page:
                return
            if confirmed is None:
                confirmed = await self._sns.confirmed()
            for current in page:
                await self._learn_of(current, listed=current.sns_arn in confirmed)
            after = page[-1].id

    async def _learn_of(self, current: Subscription, *, listed: bool) -> None:
        if current.sns_arn is None or not current.sns_in_step:
            return
        if current.status is Status.PENDING and listed:
            async with self.database.transaction(current.owner) as tx:
                await subscriptions.confirm(tx, current.owner, current.id)
        # A list may be a little old: that one is gone is only true when SNS says so of this very one.
        elif (
            current.status in (Status.ACTIVE, Status.PAUSED)
            and not listed
            and await self._sns.look(current.sns_arn) is None
        ):
            await self._end(current, Status.UNSUBSCRIBED, LEFT_AT_SNS)

    async def _end(self, current: Subscription, status: Status, reason: str) -> None:
        with suppress(SubscriptionNotFound):
            async with self.database.transaction(current.owner) as tx:
                newest = await subscriptions.lock(tx, current.owner, current.id)
                await subscriptions.end(tx, newest, status, reason)
        _LOG.info("subscription.ended", subscription_id=str(current.id), status=status.value, reason=reason)

    def _note(self, trouble: str) -> None:
        if self._trouble != trouble:
            _LOG.warning("subscriptions.out_of_step", reason=trouble)
        self._trouble = trouble


def _sns_asks(subscription: Subscription) -> bool:
    return subscription.provider is Provider.SNS and subscription.channel is not Channel.SMS


def _require_mode(provider: Provider, mode: Mode) -> None:
    if provider is Provider.SNS and mode is not Mode.AT_ONCE:
        raise ChannelUnavailable(
            "SNS tells of each event at once. Digests need mail that Tintype sends itself (TINTYPE_MAIL)."
        )


def _require_live(current: Subscription) -> None:
    if current.status not in (Status.PENDING, Status.ACTIVE, Status.PAUSED):
        raise _state(current, f"The subscription is {current.status}. Make a new one.")


def _require_pending(current: Subscription) -> None:
    if current.status is not Status.PENDING or confirmation_ends(current) < datetime.now(UTC):
        raise _state(current, f"The subscription is {current.status}; only pending ones are to be confirmed.")


def _require_own(current: Subscription) -> None:
    if current.provider is Provider.SNS:
        raise ChannelUnavailable("SNS tells all subscribers of a topic alike; it cannot tell this one alone.")
    if current.status is not Status.ACTIVE:
        raise _state(current, f"The subscription is {current.status}; only active ones are told anything.")


def _state(current: Subscription, sentence: str) -> SubscriptionState:
    return SubscriptionState(sentence, details={"subscription_status": current.status.value})
