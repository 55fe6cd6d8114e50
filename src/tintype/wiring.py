"""The one place that chooses: settings become parts, once, and only here an adapter is named."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from tintype.catalogue import signing_secrets
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import migrate
from tintype.consistency import pair
from tintype.consistency.check import Checker
from tintype.consistency.inventory import Inventories
from tintype.consistency.journal import Journal
from tintype.consistency.purge import Purge
from tintype.consistency.rebuild import Rebuild
from tintype.consistency.repair import Repairer
from tintype.consistency.retention import Retention
from tintype.consistency.runs import Runs
from tintype.consistency.upkeep import Upkeep
from tintype.durable import make_folder
from tintype.identity.doorkeeper import Doorkeeper
from tintype.identity.issuers import Issuers
from tintype.identity.keys import Keyring
from tintype.identity.tokens import Tokens
from tintype.imaging.cage import Cage
from tintype.imaging.inspect import Inspector
from tintype.ingest.budget import Budget
from tintype.ingest.direct import Direct
from tintype.ingest.finish import Ingest
from tintype.ingest.pieces import Pieces
from tintype.ingest.pressure import Pressure
from tintype.ingest.quotas import Quotas
from tintype.ingest.receive import Receiver
from tintype.ingest.sessions import Sessions
from tintype.messaging.egress import resolve_target
from tintype.messaging.function import Function
from tintype.messaging.local import LocalPublisher, LoggedTexts
from tintype.messaging.mail import FolderPost, SesPost, SmtpPost
from tintype.messaging.post import Post, Texts
from tintype.messaging.publisher import Publisher
from tintype.messaging.sns import SnsPublisher
from tintype.messaging.sns_subscriptions import SnsSubscriptions
from tintype.messaging.webhook import Webhooks
from tintype.model.quota import Quota
from tintype.model.subscription import Channel, Provider
from tintype.notify.bell import Bell
from tintype.notify.lanes import Courier
from tintype.notify.letters import Letters
from tintype.notify.notifier import Notifier
from tintype.notify.thumbnails import AT_ONCE, Thumbnails
from tintype.objects.direct import DirectUploads
from tintype.objects.links import Links
from tintype.objects.local_direct import LocalDirect
from tintype.objects.local_links import LocalLinks, MailedLinks
from tintype.objects.s3_direct import S3Direct
from tintype.objects.s3_links import S3Links
from tintype.objects.store import Objects
from tintype.relay import Relay
from tintype.settings import Settings
from tintype.subscriptions import InStep, Subscriptions
from tintype.telemetry import Metrics

SPOOL_THREADS = 4
"""They hash and write blocks of large bodies; both let go of the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that doors use, open and ready."""

    settings: Settings
    metrics: Metrics
    pair: UUID
    database: Database
    objects: Objects
    inspector: Inspector
    receiver: Receiver
    ingest: Ingest
    sessions: Sessions
    direct: Direct
    local_direct: LocalDirect | None
    """Where direct uploads come to ourselves; None: they go to S3."""
    quotas: Quotas
    upkeep: Upkeep
    journal: Journal
    purge: Purge
    links: Links
    own_links: LocalLinks
    """Those that lead back to us, wherever the images are."""
    relay: Relay
    bell: Bell
    notifier: Notifier
    mail_folder: Path | None
    """Where mails are kept for `/mail`; None: they are sent."""
    subscriptions: Subscriptions
    in_step: InStep
    keyring: Keyring
    tokens: Tokens
    doorkeeper: Doorkeeper | None
    """None: nobody is asked who they are."""


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncGenerator[Parts]:
    """Open every part, in the order in which they lean on each other, and close them in the reverse.

    Open parts do what they are asked for, and nothing else until `at_work`.

    Raises `WrongPair`, `DatabaseUnavailable` and `StorageUnavailable` with a sentence for the operator.
    """
    async with AsyncExitStack() as stack:
        data_dir = settings.data_dir.resolve()
        metrics = Metrics()
        database, objects, spool_dir = await _stores(settings, stack)
        keyring, tokens = Keyring(database), await Tokens.open(database)
        identity = await pair.claim(database, objects)
        inspector = await _inspector(settings, stack, metrics)
        commits = await stack.enter_async_context(Commits.open(database))
        threads = stack.enter_context(ThreadPoolExecutor(SPOOL_THREADS, thread_name_prefix="spool"))
        own_links = LocalLinks(await _secret(database, "links"))
        mailed = MailedLinks(
            own_links, _base(settings), settings.mail.link_seconds, in_bucket=settings.objects.in_bucket
        )
        relay = Relay(
            database,
            _publisher(settings, data_dir),
            settings.events.poll_seconds,
            metrics,
            # Without a public address SNS's readers could not reach it.
            mailed.to if settings.public_url is not None else None,
        )
        sns = _sns(settings, stack)
        subscriptions = await _subscriptions(settings, database, sns)
        bell = Bell(database)
        thumbnails = Thumbnails(objects, inspector, asyncio.Semaphore(AT_ONCE))
        letters = Letters(
            database,
            mailed,
            thumbnails.make,
            subscriptions.secret,
            _base(settings),
        )
        notifier = _notifier(
            settings, database, bell=bell, letters=letters, texts=sns or LoggedTexts(), metrics=metrics
        )
        budget = Budget(settings.limits, spool_dir)
        quotas = quotas_of(database, settings)
        metrics.in_flight_bytes.set_function(lambda: budget.in_flight)
        receiver = Receiver(settings.limits, spool_dir, budget, threads)
        ingest = Ingest(
            inspector, objects, commits, quotas, Pressure(settings.limits.max_wait_seconds), metrics
        )
        pieces = Pieces(database, objects, receiver, settings.limits)
        sessions = Sessions(database, pieces, ingest, settings.limits)
        place, local_direct = await _direct_place(settings, database, objects, spool_dir)
        direct = Direct(sessions, place, objects, receiver, quotas, settings.limits)
        sessions.settle_direct = direct.settle
        stack.push_async_callback(sessions.aclose)
        upkeep = _upkeep(settings, database, objects, spool_dir=spool_dir, sessions=sessions, metrics=metrics)
        yield Parts(
            settings=settings,
            metrics=metrics,
            pair=identity,
            database=database,
            objects=objects,
            inspector=inspector,
            receiver=receiver,
            ingest=ingest,
            sessions=sessions,
            direct=direct,
            local_direct=local_direct,
            quotas=quotas,
            upkeep=upkeep,
            journal=Journal(database, objects, settings.journal, spool_dir, metrics),
            purge=Purge(database, objects, settings.trash, metrics),
            links=S3Links(settings.objects) if settings.objects.in_bucket else own_links,
            own_links=own_links,
            relay=relay,
            bell=bell,
            notifier=notifier,
            mail_folder=None if settings.mail.configured else _mail_folder(settings),
            subscriptions=subscriptions,
            in_step=InStep(database, sns, settings.events.sync_seconds),
            keyring=keyring,
            tokens=tokens,
            doorkeeper=_doorkeeper(settings, keyring, tokens),
        )


@asynccontextmanager
async def at_work(parts: Parts) -> AsyncGenerator[None]:
    """Do until the end of the block what no request asks for: publish, deliver, sweep, purge, check.

    For a process that goes on. A function's stands still between invocations, and does what its event
    asks for. Where a function checks it also purges: the other processes may delete no original.
    """
    duties = {
        "relay": parts.relay.run,
        "subscriptions": parts.in_step.run,
        "journal": parts.journal.keep,
        "purge": parts.purge.run,
        "bell": parts.bell.run,
        "notifier": parts.notifier.run,
        "uploads-sweep": parts.sessions.run,
        "upkeep": parts.upkeep.run,
    }
    if parts.settings.consistency.function is not None:
        del duties["purge"]
    async with AsyncExitStack() as stack:
        for name, duty in duties.items():
            stack.push_async_callback(_stop, asyncio.create_task(duty(), name=name))
        yield


@asynccontextmanager
async def open_rebuild(settings: Settings, *, quick: bool, restored: bool) -> AsyncGenerator[Rebuild]:
    """Open what a rebuild needs. `quick`: nothing is read but metadata.

    Raises `DatabaseUnavailable` with a sentence for the operator.
    """
    async with AsyncExitStack() as stack:
        database, objects, spool_dir = await _stores(settings, stack)
        inspector = None if quick else await _inspector(settings, stack, Metrics())
        yield Rebuild(
            database, objects, inspector, spool_dir, settings.database.attempt_seconds, restored=restored
        )


@asynccontextmanager
async def open_checks(settings: Settings) -> AsyncGenerator[Runs]:
    """Open what a check needs, and no more: nothing is uploaded, published or scheduled beside it.

    Raises `WrongPair`, `DatabaseUnavailable` and `StorageUnavailable` with a sentence for the operator.
    """
    async with AsyncExitStack() as stack:
        database, objects, spool_dir = await _stores(settings, stack)
        await pair.claim(database, objects)
        yield _runs(settings, database, objects, spool_dir)
        # What a repair changed is to be in the bucket, whether or not a service runs to write it there.
        await Journal(database, objects, settings.journal, spool_dir, Metrics()).catch_up()


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Database]:
    """Open the catalogue's database; the embedded one runs as long as the block.

    Raises `DatabaseUnavailable` with a sentence for the operator.
    """
    async with AsyncExitStack() as stack:
        url = await _database_url(settings, settings.data_dir.resolve(), stack)
        yield await stack.enter_async_context(Database.open(url, settings.database))


async def _stores(settings: Settings, stack: AsyncExitStack) -> tuple[Database, Objects, Path]:
    """Open the rows and the objects, and make the folder for bodies on their way."""
    data_dir = settings.data_dir.resolve()
    spool_dir = settings.spool_dir or data_dir / "spool"
    make_folder(spool_dir)
    database = await stack.enter_async_context(open_database(settings))
    objects = Objects.open(settings.objects, data_dir)
    stack.push_async_callback(objects.aclose)
    return database, objects, spool_dir


def quotas_of(database: Database, settings: Settings) -> Quotas:
    """Return the quotas of the owners in a database, with those of the settings for everybody else."""
    return Quotas(database, Quota(settings.limits.quota_bytes, settings.limits.quota_images))


async def _database_url(settings: Settings, data_dir: Path, stack: AsyncExitStack) -> str:
    """Start PostgreSQL in the data directory, and bring it up to date, unless another one is named."""
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    postgres = await stack.enter_async_context(EmbeddedPostgres.run(data_dir))
    await migrate(postgres.url)
    return postgres.url


def _runs(
    settings: Settings,
    database: Database,
    objects: Objects,
    spool_dir: Path,
    sweep: Callable[[], Awaitable[object]] | None = None,
) -> Runs:
    wanted = settings.consistency
    checker = Checker(database, objects, wanted, objects)
    repairer = Repairer(database, objects, wanted, spool_dir, sweep)
    inventories = Inventories(settings.objects, spool_dir) if settings.objects.in_bucket else None
    return Runs(database, objects, wanted, checker, repairer, inventories)


def _upkeep(
    settings: Settings,
    database: Database,
    objects: Objects,
    *,
    spool_dir: Path,
    sessions: Sessions,
    metrics: Metrics,
) -> Upkeep:
    """Return what checks and repairs: in this process, or in the function that the settings name."""
    runs = _runs(settings, database, objects, spool_dir, sessions.sweep)
    function = settings.consistency.function
    invoke = None if function is None else Function(function, settings.objects.region).check
    retention = Retention(database, objects, settings.retention)
    return Upkeep(runs, metrics, sessions.sweep, retention.round, invoke)


def _doorkeeper(settings: Settings, keyring: Keyring, tokens: Tokens) -> Doorkeeper | None:
    if settings.identity.mode == "local":
        return None
    return Doorkeeper(keyring, tokens, Issuers.of(settings.identity.issuers))


async def _inspector(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> Inspector:
    if settings.imaging.inspect == "header":
        return Inspector(settings.imaging, None)
    return Inspector(
        settings.imaging, await stack.enter_async_context(Cage.open(settings.imaging, metrics=metrics))
    )


def _publisher(settings: Settings, data_dir: Path) -> Publisher:
    if settings.events.topic_arn is not None:
        return SnsPublisher(settings.events)
    return LocalPublisher(data_dir / "outbox")


def _sns(settings: Settings, stack: AsyncExitStack) -> SnsSubscriptions | None:
    """Return what speaks with SNS of subscriptions, and texts phones; None where no topic is named."""
    if settings.events.topic_arn is None:
        return None
    sns = SnsSubscriptions(settings.events)
    stack.callback(sns.close)
    return sns


async def _subscriptions(
    settings: Settings, database: Database, sns: SnsSubscriptions | None
) -> Subscriptions:
    check_target = partial(resolve_target, settings=settings.webhooks)
    return await Subscriptions.open(database, channels_of(settings), check_target, sns)


def channels_of(settings: Settings) -> dict[Channel, Provider]:
    """Return who serves each channel. Mail that Tintype can send itself is richer than what SNS sends."""
    at_sns = Provider.TINTYPE if settings.events.topic_arn is None else Provider.SNS
    channels = {
        Channel.EMAIL: Provider.TINTYPE if settings.mail.configured else at_sns,
        Channel.SMS: at_sns,
        Channel.WEBHOOK: Provider.TINTYPE,
    }
    return channels | ({Channel.SQS: Provider.SNS} if at_sns is Provider.SNS else {})


def _notifier(
    settings: Settings, database: Database, *, bell: Bell, letters: Letters, texts: Texts, metrics: Metrics
) -> Notifier:
    from_address = settings.mail.from_address
    courier = Courier(
        db=database,
        webhooks=Webhooks(settings.webhooks),
        post=_post(settings),
        texts=texts,
        letters=letters,
        secret=letters.secret,
        metrics=metrics,
        timeout_seconds=max(settings.webhooks.timeout_seconds, settings.mail.timeout_seconds),
        parallel=settings.webhooks.parallel,
        # On a laptop whoever runs it looks at all mails.
        notices_to=settings.mail.notices_to or (None if settings.mail.configured else from_address),
        lease_margin_seconds=settings.webhooks.lease_seconds,
    )
    return Notifier(database, courier, bell, settings.events.poll_seconds, metrics)


def _post(settings: Settings) -> Post:
    if settings.mail.smtp_host is not None:
        return SmtpPost(settings.mail)
    if settings.mail.ses_region is not None:
        return SesPost(settings.mail)
    return FolderPost(_mail_folder(settings), settings.mail.from_address)


def _mail_folder(settings: Settings) -> Path:
    return settings.data_dir.resolve() / "mail"


def _base(settings: Settings) -> str:
    """Return how links in mails lead to the service."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (settings.public_url or f"http://{host}:{settings.port}").rstrip("/")


async def _direct_place(
    settings: Settings, database: Database, objects: Objects, spool_dir: Path
) -> tuple[DirectUploads, LocalDirect | None]:
    """Return where direct uploads go; the second time where that is ourselves."""
    if settings.objects.in_bucket:
        return S3Direct(settings.objects), None
    secret = await _secret(database, "direct uploads")
    local = LocalDirect(objects, spool_dir, secret, settings.limits.max_upload_bytes)
    return local, local


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _secret(database: Database, purpose: str) -> bytes:
    """Return what all instances sign with for this purpose; the first of them makes it."""
    async with database.transaction(EVERY_OWNER) as tx:
        return await signing_secrets.add(tx, purpose, secrets.token_bytes(32))
