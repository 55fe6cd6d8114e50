"""The verbs of sessions on a real database and a folder: fences, limits, tokens, expiry, sweeps."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from conformance.suite import picture
from s3_servers import S3Server
from tintype.catalogue import upload_tokens, uploads
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.imaging.inspect import Inspector
from tintype.ingest.budget import STEP, Budget
from tintype.ingest.finish import Ingest
from tintype.ingest.pieces import Pieces
from tintype.ingest.pressure import Pressure
from tintype.ingest.quotas import Quotas
from tintype.ingest.receive import Receiver
from tintype.ingest.sessions import Sessions
from tintype.model.body import Body
from tintype.model.errors import (
    LengthInconsistent,
    Overloaded,
    TokenSpent,
    TooManyUploads,
    UnsupportedType,
    UploadGone,
    UploadMoved,
    UploadNotFound,
    UploadTooLarge,
)
from tintype.model.identity import Grant
from tintype.model.ids import new_id
from tintype.model.quota import Quota
from tintype.model.session import Opening, Session, SessionKind, SessionState
from tintype.objects.keys import INCOMING, incoming_prefix, original_key
from tintype.objects.store import Objects
from tintype.settings import ImagingSettings, LimitsSettings, ObjectsSettings
from tintype.telemetry import Metrics

LIMIT = 50_000_000


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return Objects.open(ObjectsSettings(), tmp_path)
    s3: S3Server = request.getfixturevalue("moto_s3")
    return Objects.open(s3.new_bucket(), tmp_path)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
async def sessions(
    database: Database, objects: Objects, tmp_path: Path, threads: ThreadPoolExecutor
) -> AsyncIterator[Sessions]:
    limits = LimitsSettings(max_unfinished_uploads=5)
    async with Commits.open(database) as commits:
        inspector = Inspector(ImagingSettings(inspect="header"), None)
        quotas = Quotas(database, Quota(None, None))
        ingest = Ingest(inspector, objects, commits, quotas, Pressure(5), Metrics())
        receiver = Receiver(limits, tmp_path, Budget(limits, tmp_path), threads)
        pieces = Pieces(database, objects, receiver, limits)
        sessions = Sessions(database, pieces, ingest, limits)
        yield sessions
        await sessions.aclose()
    await objects.aclose()


def opening(length: int | None, **more: object) -> Opening:
    plain = Opening(owner="anna", kind=SessionKind.TUS, length=length, max_bytes=LIMIT, filename="rome.png")
    return replace(plain, **more)  # type: ignore[arg-type] # fields of an opening


async def append(
    sessions: Sessions, session: Session, offset: int, data: bytes, length: int | None = None
) -> Session:
    async def chunks() -> AsyncGenerator[bytes]:
        yield data

    async with sessions.appending(session, offset, count=len(data), length=length) as transfer:
        await transfer.receive(chunks())
        return await sessions.end(transfer)


async def age(database: Database, session: Session, interval: str) -> None:
    """Move a session into the past."""
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute(
            """
            UPDATE uploads SET created_at = created_at - ago, updated_at = updated_at - ago,
                expires_at = expires_at - ago, sweep_at = sweep_at - ago
            FROM CAST(%s AS interval) AS ago WHERE id = %s
            """,
            [interval, session.id],
        )


async def keys(objects: Objects, session: Session) -> list[str]:
    return [each.key async for page in objects.list(incoming_prefix(session.id)) for each in page]


async def test_a_write_under_an_old_fence_fails_and_changes_nothing(
    sessions: Sessions, database: Database
) -> None:
    data = picture(300_000)
    session = await sessions.open(opening(len(data)))

    async def slowly() -> AsyncGenerator[bytes]:
        yield data[:200_000]
        await sessions.settle_offset("anna", session.id)  # somebody asks, and hears zero
        yield b""

    elsewhere = Sessions(database, sessions.pieces, sessions.ingest, sessions.limits)
    async with elsewhere.appending(session, 0, count=len(data)) as transfer:
        await transfer.receive(slowly())
        with pytest.raises(UploadMoved):
            await transfer.keep()

    assert (await sessions.find("anna", session.id)).received == 0


@pytest.mark.parametrize("before", [0, 200_000])
async def test_a_request_that_finds_no_room_is_refused_and_what_came_before_is_kept(
    sessions: Sessions, before: int
) -> None:
    data = picture(300_000)
    session = await sessions.open(opening(None))
    budget = sessions.pieces.receiver.budget

    async def more_and_more() -> AsyncGenerator[bytes]:
        if before:
            yield data[:before]
        budget.in_flight += budget.limits.in_flight_bytes  # others have come meanwhile
        yield data[before:] + bytes(STEP)

    with pytest.raises(Overloaded):
        async with sessions.appending(session, 0, count=None) as transfer:
            await transfer.receive(more_and_more())

    assert (await sessions.find("anna", session.id)).received == before


async def test_two_who_finish_at_once_make_one_image(sessions: Sessions, database: Database) -> None:
    data = picture(200_000)
    session = await sessions.open(opening(len(data), keep_duplicate=True))
    session = await append(sessions, session, 0, data[:100_000])
    async with sessions.appending(session, 100_000, count=100_000) as transfer:
        await transfer.receive(_chunks(data[100_000:]))
        session = await transfer.keep()

    done = await asyncio.gather(*(sessions.drive(session) for _ in range(4)))

    assert {each.state for each in done} == {SessionState.DONE}
    assert len({each.image_id for each in done}) == 1
    async with database.reading(EVERY_OWNER) as tx:
        (count,) = await (await tx.execute("SELECT count(*) FROM images")).fetchone() or (0,)
        (events,) = await (await tx.execute("SELECT count(*) FROM events")).fetchone() or (0,)
    assert (count, events) == (1, 1)


async def test_pieces_small_and_large_are_put_together_in_order(sessions: Sessions, objects: Objects) -> None:
    data = picture(400_000)
    session = await sessions.open(opening(len(data)))
    at = 0
    for size in (10, 65_536, 65_537, 100_000, 1, 60_000):
        session = await append(sessions, session, at, data[at : at + size])
        at += size
    assert len(await keys(objects, session)) == 2

    done = await append(sessions, session, at, data[at:])

    assert done.state is SessionState.DONE
    assert done.image_id is not None
    stored = [block async for block in objects.read(original_key(done.image_id))]
    assert hashlib.sha256(b"".join(stored)).digest() == hashlib.sha256(data).digest()


async def test_expiry_moves_with_activity(sessions: Sessions, database: Database) -> None:
    session = await sessions.open(opening(1_000))
    await age(database, session, "23 hours")
    before = await sessions.find("anna", session.id)

    after = await append(sessions, before, 0, picture(1_000)[:10])

    assert (after.expires_at - before.expires_at).total_seconds() > 22 * 3600


async def test_what_expired_is_gone_with_its_pieces(
    sessions: Sessions, database: Database, objects: Objects
) -> None:
    data = picture(300_000)
    session = await append(sessions, await sessions.open(opening(len(data))), 0, data[:200_000])
    assert await keys(objects, session)
    await age(database, session, "25 hours")
    with pytest.raises(UploadGone):
        await sessions.find("anna", session.id)
    with pytest.raises(UploadMoved):
        await append(sessions, session, 200_000, data[200_000:250_000])

    await sessions.sweep()

    assert await keys(objects, session) == []
    async with database.reading(EVERY_OWNER) as tx:
        assert await uploads.pieces(tx, "anna", session.id, 0, 10) == []
    with pytest.raises(UploadGone):
        await sessions.find("anna", session.id)


async def test_a_straggler_s_piece_is_swept_later(
    sessions: Sessions, database: Database, objects: Objects
) -> None:
    data = picture(300_000)
    session = await append(sessions, await sessions.open(opening(len(data))), 0, data[:200_000])
    await sessions.abort(session)
    await sessions.sweep()
    late = Body(10, hashlib.sha256(data[:10]).digest(), memory=data[:10])
    await objects.put(f"{incoming_prefix(session.id)}late", late, content_type="image/png", metadata={})
    await sessions.sweep()
    assert await keys(objects, session), "not yet: a request may still be going on"

    await age(database, session, "2 hours")
    await sessions.sweep()

    assert await keys(objects, session) == []


async def test_a_whole_upload_that_nobody_finished_is_finished_by_the_sweep(
    sessions: Sessions, database: Database
) -> None:
    data = picture(30_000)
    session = await sessions.open(opening(len(data)))
    async with sessions.appending(session, 0, count=len(data)) as transfer:
        await transfer.receive(_chunks(data))
        session = await transfer.keep()
    await sessions.sweep()
    assert (await sessions.find("anna", session.id)).state is SessionState.OPEN
    await age(database, session, "6 minutes")

    await asyncio.gather(*(sessions.sweep() for _ in range(3)))

    found = await sessions.find("anna", session.id)
    assert (found.state, found.image_id is not None) == (SessionState.DONE, True)


async def test_tombstones_are_forgotten_after_days(sessions: Sessions, database: Database) -> None:
    session = await sessions.open(opening(1_000))
    await sessions.abort(session)
    await age(database, session, "2 hours")
    await sessions.sweep()
    await age(database, session, "3 days")

    await sessions.sweep()

    with pytest.raises(UploadNotFound):
        await sessions.find("anna", session.id)


async def test_unfinished_uploads_are_limited_for_each_owner(sessions: Sessions) -> None:
    opened = [await sessions.open(opening(1_000)) for _ in range(5)]
    with pytest.raises(TooManyUploads):
        await sessions.open(opening(1_000))
    await sessions.open(opening(1_000, owner="bert"))

    await sessions.abort(opened[0])

    await sessions.open(opening(1_000))


async def test_nobody_finds_another_owner_s_session(sessions: Sessions) -> None:
    session = await sessions.open(opening(1_000))

    for verb in (sessions.find, sessions.settle_offset):
        with pytest.raises(UploadNotFound):
            await verb("bert", session.id)
    with pytest.raises(UploadNotFound):
        await sessions.parts("bert", [session.id])


async def token(database: Database, **wanted: object) -> Grant:
    grant = Grant(token_id=new_id(), types=frozenset(), max_bytes=LIMIT, uses=1, tags=())
    grant = replace(grant, **wanted)  # type: ignore[arg-type]
    async with database.transaction("anna") as tx:
        (soon,) = await (await tx.execute("SELECT now() + interval '1 hour'")).fetchone() or (None,)
        assert soon is not None
        await upload_tokens.add(
            tx, token_id=grant.token_id, owner="anna", key_id=None, uses=grant.uses, expires_at=soon
        )
    return grant


async def test_a_token_s_use_is_taken_at_the_beginning_and_given_back_when_nothing_came_of_it(
    sessions: Sessions, database: Database
) -> None:
    grant = await token(database)
    session = await sessions.open(opening(1_000, grant=grant))
    with pytest.raises(TokenSpent):
        await sessions.open(opening(1_000, grant=grant))

    await sessions.abort(session)

    data = picture(1_000)
    done = await append(sessions, await sessions.open(opening(1_000, grant=grant)), 0, data)
    assert done.state is SessionState.DONE
    with pytest.raises(TokenSpent):
        await sessions.open(opening(1_000, grant=grant))


async def test_a_token_s_types_bind_at_the_end(sessions: Sessions, database: Database) -> None:
    grant = await token(database, types=frozenset({"image/jpeg"}))
    session = await sessions.open(opening(1_000, grant=grant))

    with pytest.raises(UnsupportedType, match="image/jpeg"):
        await append(sessions, session, 0, picture(1_000))

    found = await sessions.find("anna", session.id)
    assert found.state is SessionState.REJECTED
    await sessions.open(opening(1_000, grant=grant))  # the use was given back


async def test_who_holds_a_token_finds_only_what_tokens_began(sessions: Sessions, database: Database) -> None:
    grant = await token(database, uses=2)
    theirs, ours = await sessions.open(opening(1_000)), await sessions.open(opening(1_000, grant=grant))
    another = await token(database)

    assert (await sessions.find("anna", ours.id, another)).id == ours.id
    with pytest.raises(UploadNotFound):
        await sessions.find("anna", theirs.id, grant)


async def test_the_limit_is_the_one_of_the_beginning(sessions: Sessions) -> None:
    with pytest.raises(UploadTooLarge):
        await sessions.open(opening(2_000, max_bytes=1_000))
    session = await sessions.open(opening(None, max_bytes=1_000))
    with pytest.raises(UploadTooLarge):
        await append(sessions, session, 0, bytes(1_001))
    with pytest.raises(UploadTooLarge):
        await append(sessions, session, 0, b"x", length=1_001)


async def test_a_length_is_told_once(sessions: Sessions) -> None:
    session = await append(sessions, await sessions.open(opening(None)), 0, b"x" * 10)
    with pytest.raises(LengthInconsistent):
        await append(sessions, session, 10, b"", length=5)
    session = await append(sessions, session, 10, b"x", length=100)
    with pytest.raises(LengthInconsistent):
        await append(sessions, session, 11, b"x", length=101)


async def test_a_session_that_was_being_finished_by_the_dead_is_taken_back(
    sessions: Sessions, database: Database
) -> None:
    data = picture(1_000)
    session = await sessions.open(opening(1_000))
    async with database.reading("anna") as tx:
        await uploads.begin_finishing(tx, session, 60)  # and then the process was killed

    done = await append(sessions, await sessions.find("anna", session.id), 0, data)

    assert done.state is SessionState.DONE
    assert isinstance(done.image_id, UUID)


async def test_everything_incoming_is_below_its_session(sessions: Sessions, objects: Objects) -> None:
    data = picture(300_000)
    session = await append(sessions, await sessions.open(opening(len(data))), 0, data[:200_000])

    listed = [each.key async for page in objects.list(INCOMING) for each in page]

    assert listed == await keys(objects, session)


async def _chunks(data: bytes) -> AsyncGenerator[bytes]:
    yield data
