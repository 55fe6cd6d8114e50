"""Upload sessions: opened, continued on any instance, finished exactly once, given up, swept.

All that a session is lies in the catalogue and the object store. Whoever answers a request may be
another instance than the one before; the newest request wins, by a number that every write names.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

from tintype.catalogue import upload_tokens, uploads
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.imaging.granted import hold_against
from tintype.ingest.finish import Ingest
from tintype.ingest.pieces import Local, Pieces
from tintype.ingest.transfer import Expectation, Transfer, check_end, check_limit
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import (
    DecoderFailed,
    DigestMismatch,
    ImageCorrupt,
    ImageTooLarge,
    LengthInconsistent,
    Overloaded,
    RequestInvalid,
    TintypeError,
    TokenSpent,
    TooManyUploads,
    UnsupportedType,
    UploadBusy,
    UploadClosed,
    UploadEmpty,
    UploadGone,
    UploadIncomplete,
    UploadMoved,
    UploadNotFound,
    UploadTooLarge,
)
from tintype.model.identity import Grant
from tintype.model.session import Opening, Session, SessionKind, SessionState, problem_of
from tintype.model.upload import Outcome, Replayed
from tintype.settings import LimitsSettings
from tintype.telemetry import get_logger

REFUSED_FOR_GOOD = (
    DecoderFailed,
    DigestMismatch,
    ImageCorrupt,
    ImageTooLarge,
    RequestInvalid,
    UnsupportedType,
    UploadEmpty,
    UploadTooLarge,
)
"""What these bytes are answered each time. Whatever else goes wrong may go right the next time."""

QUICK_BYTES = 256 * 1024
"""A request of no more than this does not take the session over: whoever commits first wins."""
HANDOVER_SECONDS = 1.0
"""How long a newer request waits for the one before it to come to an end."""
POLL_SECONDS = 0.1
FINISH_SECONDS = 60
"""How long whoever finishes a session is not disturbed by the sweep."""
SWEPT_AT_ONCE = 100

Settler = Callable[[Session], Awaitable[None]]

_LOG = get_logger()


@dataclass(slots=True)
class Sessions:
    """The verbs. One per process."""

    database: Database
    pieces: Pieces
    ingest: Ingest
    limits: LimitsSettings
    settle_direct: Settler | None = None
    """Finishes a session whose bytes went straight into the store, if they are there."""
    _writing: dict[UUID, Transfer] = field(default_factory=dict[UUID, Transfer], init=False)
    _tidying: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]], init=False)

    async def open(self, opening: Opening, lifetime_seconds: float | None = None) -> Session:
        """Begin a session; it lives as the settings say, unless told.

        Raises `UploadTooLarge`, `QuotaExceeded`, `TooManyUploads`, and `TokenSpent`. Of an upload token a use
        is taken now: it may end before the bytes have come. A quota is only looked at: room is held while
        the bytes are finished.
        """
        check_limit(opening.max_bytes, opening.length)
        quotas = self.ingest.quotas
        await quotas.release(opening.owner, await quotas.admit(opening.owner, opening.length))
        # Without a token there is but one statement, which is a transaction by itself.
        begin = self.database.reading if opening.grant is None else self.database.transaction
        async with begin(opening.owner) as tx:
            if opening.grant is not None and opening.concat != "partial":
                use = _use_of(opening.id)
                if not await upload_tokens.take(tx, opening.owner, opening.grant.token_id, use):
                    raise TokenSpent("The upload token was used as often as it may be, or it was revoked.")
            most = self.limits.max_unfinished_uploads
            seconds = lifetime_seconds or self.limits.upload_ttl_seconds
            session = await uploads.add(tx, opening, seconds, most)
            if session is None:
                raise TooManyUploads(
                    f"You have {most} unfinished uploads, which is the limit. Finish or end some of them.",
                    details={"limit": most},
                )
        checkpoint("session-opened")
        return session

    async def find(self, owner: str, session_id: UUID, grant: Grant | None = None) -> Session:
        """Return a session of the owner's. Raises `UploadNotFound`, and `UploadGone` for one that ended.

        Whoever shows an upload token finds those sessions only that an upload token opened.
        """
        async with self.database.reading(owner) as tx:
            session = await uploads.find(tx, owner, session_id)
        return _there(session, grant)

    async def settle_offset(self, owner: str, session_id: UUID, grant: Grant | None = None) -> Session:
        """Return a session as it stands, and as it stays until somebody goes on with it.

        A request that is still writing ends, here or elsewhere. Raises what `find` raises.
        """
        await self._hand_over(session_id)
        session = await self._at_rest(await self.find(owner, session_id, grant))
        if session.state is not SessionState.OPEN:
            return session
        async with self.database.reading(owner) as tx:
            return _there(await uploads.settle_offset(tx, owner, session_id), grant)

    @asynccontextmanager
    async def appending(
        self,
        session: Session,
        offset: int,
        *,
        count: int | None,
        length: int | None = None,
        expected: Sequence[Expectation] = (),
    ) -> AsyncGenerator[Transfer]:
        """Begin to append `count` bytes (None: not known) at an offset; `length`: of the whole, if told.

        What came of a request that is cut or superseded is saved. Raises `UploadMoved` when the session
        stands elsewhere, `UploadTooLarge`, `LengthInconsistent`, `UploadClosed` for one that is put
        together from parts, and for one that was rejected its problem.
        """
        if session.parts:
            raise UploadClosed("This upload is put together from parts, and takes no bytes of its own.")
        session = await self._writable(session, offset)
        if length is not None:
            session = await self._told_length(session, length)
        session = await self._placed(session, offset, count)
        transfer = Transfer(self.pieces, session, offset, tuple(expected))
        if session.state is SessionState.OPEN:
            self._writing[session.id] = transfer
        try:
            yield transfer
        except (Overloaded, UploadIncomplete, UploadMoved, asyncio.CancelledError):
            if session.state is SessionState.OPEN and not session.is_whole:
                await transfer.save_what_came()
            raise
        finally:
            transfer.close()
            if self._writing.get(session.id) is transfer:
                del self._writing[session.id]

    async def end(self, transfer: Transfer) -> Session:
        """Return the session with what the transfer brought: durable, or finished if that was all.

        Raises what `finish` raises, and `UploadMoved` when somebody else went on meanwhile.
        """
        session = transfer.session
        if session.state is not SessionState.OPEN:
            return await self.settled(session)
        if session.is_partial or transfer.at != session.length:
            return await transfer.keep()
        if session.is_whole:  # what came now was but the word to try again
            return await self.drive(session)
        try:
            return await self._finish_with(session, transfer.local)
        except REFUSED_FOR_GOOD:
            raise
        except Exception:
            await self._save(transfer)
            raise

    async def tell_total(self, transfer: Transfer) -> None:
        """Record that what has come is all there is. Raises `LengthInconsistent`."""
        if transfer.session.state is SessionState.OPEN:
            transfer.session = await self._told_length(transfer.session, transfer.at)

    async def drive(self, session: Session) -> Session:
        """Finish a session whose bytes are all durable. Raises what `finish` raises."""
        taken = await self._begin_finishing(session)
        if taken is None:
            return await self.settled(session)
        return await self._finish_taken(taken, ())

    async def finish(self, session: Session, body: Body) -> Session:
        """Make an image of the session's bytes, once, however often and wherever this is called.

        Raises what `Ingest.finish` raises. What is wrong with the bytes is kept as the session's
        result, and raised again each time; after anything else the session goes on.
        """
        taken = await self._begin_finishing(session)
        if taken is None:
            return await self.settled(session)
        async with self._judging(taken):
            return await self._make_image(taken, body)

    async def settled(self, session: Session) -> Session:
        """Return a session that is done, or raise what came of it instead."""
        found = await self.find(session.owner, session.id)
        if found.state is SessionState.REJECTED:
            raise found.rejection()
        return found

    async def reject(self, session: Session, error: TintypeError) -> None:
        """Keep an error as the session's result."""
        async with self.database.transaction(session.owner) as tx:
            await uploads.reject(tx, session, problem_of(error))
            await self._give_back(tx, session)
        _LOG.info("upload.rejected", upload_id=str(session.id), problem=error.code)
        self._tidy(session)

    async def abort(self, session: Session) -> None:
        """Give a session up. Its image, if there is one already, stays. Raises `UploadBusy`."""
        await self._hand_over(session.id)
        session = await self._at_rest(session)
        async with self.database.transaction(session.owner) as tx:
            aborted = await uploads.abort(tx, session)
            if aborted is not None and aborted.image_id is None:
                await self._give_back(tx, session)
        if aborted is None:
            if (await self.find(session.owner, session.id)).is_unfinished:
                raise UploadBusy("The upload is just being finished. Ask again.", retry_after=1)
            return
        _LOG.info("upload.aborted", upload_id=str(session.id))
        self._tidy(aborted)

    async def parts(self, owner: str, ids: Sequence[UUID]) -> list[Session]:
        """Return these sessions of the owner's, in this order. Raises `UploadNotFound`."""
        async with self.database.reading(owner) as tx:
            found = await uploads.found_among(tx, owner, ids)
        missing = [each for each in ids if each not in found or not found[each].is_unfinished]
        if missing:
            raise UploadNotFound(f"There is no part {missing[0]} to put together.")
        return [found[each] for each in ids]

    async def sweep(self) -> int:
        """Settle what nobody goes on with, and clear what ended sessions left; return how many there were.

        Harmless at any time, and beside any other sweep. Raises `DatabaseUnavailable`.
        """
        async with self.database.reading(EVERY_OWNER) as tx:
            due = await uploads.due(tx, SWEPT_AT_ONCE)
        for session in due:
            await self._settle_due(session)
        async with self.database.reading(EVERY_OWNER) as tx:
            ended = await uploads.to_sweep(tx, SWEPT_AT_ONCE)
        for session in ended:
            await self.pieces.clear(session)
        async with self.database.transaction(EVERY_OWNER) as tx:
            forgotten = await uploads.forget(tx, SWEPT_AT_ONCE)
        return len(due) + len(ended) + forgotten

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            try:
                while await self.sweep() >= SWEPT_AT_ONCE:
                    pass
            except TintypeError as error:
                _LOG.warning("uploads.sweep_failed", problem=error.code)
            except Exception:  # noqa: BLE001 # the next round may find what made this one fail gone
                _LOG.exception("uploads.sweep_failed")

    async def clear(self, session: Session) -> None:
        """Remove what an ended session left in the object store, and its pieces in the catalogue."""
        await self.pieces.clear(session)

    async def aclose(self) -> None:
        """Let what is being tidied up end."""
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=HANDOVER_SECONDS)
        for task in self._tidying:
            task.cancel()

    # The way to a writable session

    async def _writable(self, session: Session, offset: int) -> Session:
        """Return the session once nobody else is at work on it, and only if it stands at the offset."""
        running = self._writing.get(session.id)
        if running is not None and session.received <= offset:
            await self._hand_over(session.id)
            session = await self.find(session.owner, session.id)
        session = await self._at_rest(session)
        if session.state is SessionState.FINISHING:
            # Whoever finishes it may be dead. If not, and it comes to an end after all, that holds.
            async with self.database.reading(session.owner) as tx:
                taken = await uploads.take_back(tx, session)
            session = taken or await self.find(session.owner, session.id)
        if session.state is SessionState.REJECTED:
            raise session.rejection()
        return session

    async def _placed(self, session: Session, offset: int, count: int | None) -> Session:
        """Return the session at the offset, this request's own if it may take a while."""
        if session.state is SessionState.DONE:
            if offset != session.received or count != 0:
                raise moved(session, offset)
            return session
        if offset not in (session.received, session.offset):
            session = await self._rewound(session, offset)
        if count is not None:
            check_end(session, offset + count)
        if session.is_whole or (count is not None and count <= QUICK_BYTES):
            return session
        async with self.database.reading(session.owner) as tx:
            taken = await uploads.take_over(tx, session)
        if taken is None:
            raise moved(await self.find(session.owner, session.id), offset)
        return taken

    async def _rewound(self, session: Session, offset: int) -> Session:
        """Return the session without its last piece, if it is whole and that is what comes again."""
        if session.is_whole and not session.is_partial:
            async with self.database.reading(session.owner) as tx:
                again = await uploads.rewind(tx, session, offset)
            if again is not None:
                return again
        raise moved(session, offset)

    async def _told_length(self, session: Session, length: int) -> Session:
        check_limit(session.max_bytes, length)
        if session.length is None and session.state is SessionState.OPEN:
            async with self.database.reading(session.owner) as tx:
                session = await uploads.tell_length(tx, session, length) or await self.find(
                    session.owner, session.id
                )
        if session.length != length:
            raise LengthInconsistent(
                f"The upload has {session.received} bytes, and {session.length} were announced: it cannot "
                f"be {length} bytes long."
            )
        return session

    async def _hand_over(self, session_id: UUID) -> None:
        """Have whoever writes to the session in this process come to an end, if that is soon."""
        running = self._writing.get(session_id)
        if running is not None:
            await running.supersede(HANDOVER_SECONDS)

    async def _at_rest(self, session: Session) -> Session:
        """Wait a moment for a session that is just being finished."""
        deadline = asyncio.get_running_loop().time() + HANDOVER_SECONDS
        while session.state is SessionState.FINISHING and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            session = await self.find(session.owner, session.id)
        return session

    # The last step

    async def _begin_finishing(self, session: Session) -> Session | None:
        async with self.database.reading(session.owner) as tx:
            return await uploads.begin_finishing(tx, session, FINISH_SECONDS)

    async def _finish_with(self, session: Session, local: Sequence[Local]) -> Session:
        """Finish a session with bytes that are not durable: they will be when the image is."""
        taken = await self._begin_finishing(session)
        if taken is None:
            return await self.settled(session)
        if taken.received != session.received:
            await self._reopen(taken)
            raise moved(taken, local[0].start if local else session.received)
        return await self._finish_taken(taken, local)

    async def _finish_taken(self, taken: Session, local: Sequence[Local]) -> Session:
        async with self._judging(taken), self.pieces.whole(taken, local) as body:
            return await self._make_image(taken, body)

    @asynccontextmanager
    async def _judging(self, taken: Session) -> AsyncGenerator[None]:
        """Keep the block's refusal as the session's result; let it go on after any other failure."""
        checkpoint("finishing")
        try:
            yield
        except REFUSED_FOR_GOOD as error:
            await self.reject(taken, error)
            raise
        except Exception:
            await self._reopen(taken)
            raise

    async def _make_image(self, taken: Session, body: Body) -> Session:
        if taken.grant is not None:
            hold_against(taken.grant, body)
        outcome = await self.ingest.finish(taken.upload(), body)
        checkpoint("before-session-end")
        async with self.database.reading(taken.owner) as tx:
            done = await uploads.complete(tx, taken, _image_id(outcome), body.length)
        self._tidy(taken)
        return done

    async def _save(self, transfer: Transfer) -> None:
        """Keep the last bytes of a session that could not be finished: they need not be sent again."""
        with suppress(TintypeError):
            transfer.session = await self.find(transfer.session.owner, transfer.session.id)
            await transfer.keep()

    async def _reopen(self, taken: Session) -> None:
        with suppress(TintypeError):  # the database is away: whoever comes next takes the session back
            async with self.database.reading(taken.owner) as tx:
                await uploads.reopen(tx, taken, taken.received, self.limits.upload_ttl_seconds)

    async def _give_back(self, tx: Tx, session: Session) -> None:
        if session.grant is not None and not session.is_partial:
            await upload_tokens.give_back(tx, session.owner, session.grant.token_id, _use_of(session.id))

    # What is left

    async def _settle_due(self, session: Session) -> None:
        if session.is_whole and not session.is_partial:
            with suppress(TintypeError):  # what came of it is kept; or it is still due
                await self.drive(session)
                return
        if self.settle_direct is not None and session.kind not in (SessionKind.TUS, SessionKind.RESUMABLE):
            try:
                await self.settle_direct(session)
            except TintypeError:  # the store or the database is away, and the bytes may be there: still due
                return
        async with self.database.transaction(session.owner) as tx:
            if await uploads.expire(tx, session):
                await self._give_back(tx, session)
                _LOG.info("upload.expired", upload_id=str(session.id), received=session.received)

    def _tidy(self, session: Session) -> None:
        """Remove the pieces of a session that has ended, after its answer."""
        if session.received == 0:
            return
        task = asyncio.create_task(self._clear_quietly(session), name="tidy-upload")
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _clear_quietly(self, session: Session) -> None:
        with suppress(TintypeError):  # the sweep comes by
            await self.pieces.clear(session)


def moved(session: Session, offset: int) -> UploadMoved:
    """Return the error that tells where a session stands."""
    return UploadMoved(
        f"The upload stands at byte {session.offset}, not at {offset}. Go on from there.",
        details={"expected-offset": session.offset, "provided-offset": offset},
    )


def _there(session: Session | None, grant: Grant | None) -> Session:
    if session is None or session.is_gone or (grant is not None and session.grant is None):
        raise UploadNotFound("There is no such upload. Begin a new one.")
    if session.state in (SessionState.EXPIRED, SessionState.ABORTED):
        raise UploadGone(f"The upload has {session.state}. Begin a new one.")
    if session.is_overdue and session.is_unfinished and not (session.is_whole and not session.is_partial):
        raise UploadGone("The upload has expired. Begin a new one.")
    return session


def _image_id(outcome: Outcome) -> UUID:
    first = outcome.outcome if isinstance(outcome, Replayed) else outcome
    return first.image.id


def _use_of(session_id: UUID) -> bytes:
    """Return what stands for a session's bytes in the count of a token's uses: they are not known yet."""
    return hashlib.sha256(b"session " + session_id.bytes).digest()
