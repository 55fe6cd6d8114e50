"""The writer of new images: everything that waits goes into one statement, and so into one commit.

PostgreSQL makes a commit durable in a millisecond or so, whether it holds one image or a hundred. One
writer in the process takes all arrivals that came during the last commit; each is answered after its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString, Self
from uuid import UUID

import psycopg
from psycopg import errors

from tintype.catalogue.database import CONTENTION, Database, anew
from tintype.catalogue.line import Line
from tintype.catalogue.rows import image_of_arrival, json_text, searchable, taken_columns
from tintype.model.errors import DatabaseUnavailable, ShuttingDown
from tintype.model.event import Kind, event_id
from tintype.model.ids import began_at
from tintype.model.payload import image_payload
from tintype.model.upload import Arrival
from tintype.telemetry import get_logger

MAX_BATCH = 100
MAX_RACES = 5
"""How often in a row another process may be faster with the same bytes or the same key."""
COMPANY_SECONDS = 0.005
"""The longest that a batch waits for arrivals whose bytes are being stored."""
PAUSE_SECONDS = 0.1
"""Between attempts to reach a database that is away."""

_RACES = (errors.UniqueViolation, *CONTENTION)

_ARRIVED: LiteralString = """
WITH arrived AS (
    SELECT * FROM json_to_recordset($1::text::json) AS arrived (
        id uuid, event_id uuid, owner text, filename text, extension text, declared_type text,
        content_type text, bytes bigint, sha256 text, etag text, width integer, height integer,
        frames integer, orientation smallint, has_alpha boolean, taken_at timestamp, taken_offset integer,
        camera jsonb, exif jsonb, location jsonb, thumbhash text, dominant_color text, phash bigint,
        tags text[], attributes jsonb, search text, protocol text, keep boolean,
        key text, fingerprint text, payload jsonb)
)"""

# The fence. An attempt that is older may find its object swept away; one from the future would hide from
# the sweep.
_IN_TIME: LiteralString = (
    "tstzrange(now() - $2::double precision * interval '1 second', now() + interval '5 minutes') "
    "@> began_at(arrived.id)"
)
_TOLD: LiteralString = "payload || jsonb_build_object('created_at', moment, 'updated_at', moment) AS told"
_MOMENT: LiteralString = (
    """to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"') AS moment"""
)

# What arrives was looked for shortly before, and was not there: as good as always it still is not. If it
# is, the unique indexes refuse the whole statement, and the careful one sees who was faster.
_HOPEFUL: LiteralString = f""", judged AS MATERIALIZED (
    SELECT arrived.*, {_TOLD}, NULL::timestamptz AS committed_at, true AS first_of_its_bytes,
        CASE WHEN {_IN_TIME} THEN 'new' ELSE 'stale' END AS verdict
    FROM arrived CROSS JOIN {_MOMENT}
)"""

# `known`: an earlier run of this very commit was made, and its answer lost. `met`: the key was used, or the
# bytes are there.
_CAREFUL: LiteralString = f""", judged AS MATERIALIZED (
    SELECT arrived.*, {_TOLD}, known.created_at AS committed_at, twin.id IS NULL AS first_of_its_bytes,
        CASE
            WHEN known.id IS NOT NULL THEN 'known'
            WHEN used.key IS NOT NULL OR (twin.id IS NOT NULL AND NOT keep) THEN 'met'
            WHEN {_IN_TIME} THEN 'new'
            ELSE 'stale'
        END AS verdict
    FROM arrived CROSS JOIN {_MOMENT}
    LEFT JOIN images AS known ON known.id = arrived.id
    LEFT JOIN images AS twin ON twin.owner = arrived.owner AND twin.sha256 = decode(arrived.sha256, 'hex')
        AND twin.canonical
    LEFT JOIN idempotency AS used ON used.owner = arrived.owner AND used.key = arrived.key
)"""

# Rows go in sorted, so that two writers do not wait for each other crosswise.
_WRITTEN: LiteralString = """, stored AS (
    INSERT INTO images (
        id, owner, state, canonical, filename, extension, declared_type, content_type, bytes, sha256, etag,
        width, height, frames, orientation, has_alpha, taken_at, taken_offset, camera, exif, location,
        thumbhash, dominant_color, phash, tags, attributes, search, protocol)
    SELECT
        id, owner, 'ready', first_of_its_bytes, filename, extension, declared_type, content_type, bytes,
        decode(sha256, 'hex'), etag, width, height, frames, orientation, has_alpha, taken_at, taken_offset,
        camera, exif, location, decode(thumbhash, 'hex'), dominant_color, phash, tags, attributes, search,
        protocol
    FROM judged WHERE verdict = 'new' ORDER BY owner, sha256
), kept AS (
    INSERT INTO idempotency (owner, key, fingerprint, image_id, kind, snapshot)
    SELECT owner, key, decode(fingerprint, 'hex'), id, 'stored', told || jsonb_build_object('etag', etag)
    FROM judged WHERE verdict = 'new' AND key IS NOT NULL ORDER BY owner, key
), logged AS (
    INSERT INTO events (id, kind, image_id, owner, version, payload)
    SELECT event_id, 'image.uploaded', id, owner, 1, told
    FROM judged WHERE verdict = 'new' ORDER BY id
    RETURNING position
), woken AS (
    SELECT pg_notify('tintype_events', '') FROM logged LIMIT 1
)
SELECT id, verdict, coalesce(committed_at, now()) FROM judged LEFT JOIN woken ON true
"""

_COMMIT: LiteralString = _ARRIVED + _HOPEFUL + _WRITTEN
_COMMIT_CAREFULLY: LiteralString = _ARRIVED + _CAREFUL + _WRITTEN

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the commit made of an arrival: `new` and `known` are stored, `met` and `stale` are not."""

    name: str
    committed_at: datetime


@dataclass(slots=True)
class _Waiting:
    id: UUID
    row: str
    claims: frozenset[tuple[object, ...]]
    """What two new rows of one batch must not share: the second has to see what the first one did."""
    verdict: asyncio.Future[Verdict]
    careful: bool
    """Whether it may well meet what is there."""

    def settle(self, verdict: Verdict) -> None:
        if not self.verdict.done():  # a request that was cancelled does not wait any more
            self.verdict.set_result(verdict)

    def refuse(self, error: Exception) -> None:
        if not self.verdict.done():
            self.verdict.set_exception(error)


@dataclass(slots=True)
class Writer:
    """A queue, a line of its own, and one statement at a time.

    A statement costs much whatever it holds, so a batch waits for those who will be here in a moment: for
    as long as the last one took, so that at worst a commit takes twice as long. Who is alone never waits.
    """

    database: Database
    _line: Line
    _queue: deque[_Waiting] = field(default_factory=deque[_Waiting])
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: bool = False
    _coming: int = 0
    _whole: asyncio.Future[None] | None = None
    """Of a batch that waits: set once nobody is coming any more."""
    _last_seconds: float = 0

    @classmethod
    def of(cls, database: Database) -> Self:
        """Return the writer of a database."""
        return cls(database, Line(database))

    async def write(self, arrival: Arrival) -> Verdict:
        """Commit an arrival together with whatever else waits.

        A caller that is cancelled disturbs nobody, and its image is committed all the same: the object is
        stored, and the client's retry will find it.
        """
        if self._closing:
            raise ShuttingDown("This instance is shutting down. Send the upload again; another one answers.")
        verdict = asyncio.get_running_loop().create_future()
        waiting = _Waiting(
            arrival.upload.id, _row(arrival), _claims(arrival), verdict, arrival.upload.keep_duplicate
        )
        self._queue.append(waiting)
        self._wake.set()
        return await verdict

    def expect(self) -> None:
        """Hear that an arrival will come soon, or not at all: `arrive` tells, just before its `write`."""
        self._coming += 1

    def arrive(self) -> None:
        """Hear that one who was expected is here, or will not come."""
        self._coming -= 1
        if not self._coming and self._whole is not None:
            _settled(self._whole)

    async def run(self) -> None:
        """Write until `close`, and then what is left."""
        try:
            while self._queue or not self._closing:
                if self._queue:
                    await self._have_company()
                    await self._record(self._take())
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._line.hang_up()

    def close(self) -> None:
        """Take nothing new; `run` ends when the queue is empty."""
        self._closing = True
        self._wake.set()

    async def _have_company(self) -> None:
        """Wait until all who were expected are here, but not for long."""
        patience = min(self._last_seconds, COMPANY_SECONDS)
        if not self._coming or not patience:
            return
        loop = asyncio.get_running_loop()
        whole = self._whole = loop.create_future()
        timer = loop.call_later(patience, _settled, whole)
        try:
            await whole
        finally:
            timer.cancel()
            self._whole = None

    def _take(self) -> list[_Waiting]:
        """Take the next batch. What would meet another one of it waits for the next, to find it there."""
        batch: list[_Waiting] = []
        held: list[_Waiting] = []
        claimed: set[tuple[object, ...]] = set()
        while self._queue and len(batch) < MAX_BATCH:
            waiting = self._queue.popleft()
            if waiting.careful or claimed.isdisjoint(waiting.claims):
                batch.append(waiting)
            else:
                waiting.careful = True
                held.append(waiting)
            claimed |= waiting.claims
        self._queue.extendleft(reversed(held))
        return batch

    async def _record(self, batch: Sequence[_Waiting]) -> None:
        """Commit a batch; if PostgreSQL refuses it for one row's sake, each row by itself."""
        try:
            verdicts = await self._insist(batch)
        except (psycopg.Error, DatabaseUnavailable) as error:
            if len(batch) > 1 and _blames_a_row(error):
                for each in batch:
                    await self._record([each])
            else:
                _refuse(batch, error)
        except Exception as error:  # noqa: BLE001 # a defect here must not leave requests waiting for ever
            _log.exception("commit.failed")
            _refuse(batch, error)
        else:
            for each in batch:
                each.settle(verdicts[each.id])

    async def _insist(self, batch: Sequence[_Waiting]) -> dict[UUID, Verdict]:
        """Run the statement until it is known what became of it.

        When the connection breaks, the statement may or may not have been committed. Looking is not
        enough, because it may still be about to be. So it runs again: it recognises its own rows, and
        waits at their unique indexes for a first run that has not ended.
        """
        rows = f"[{','.join(each.row for each in batch)}]"
        statement = _COMMIT_CAREFULLY if any(each.careful for each in batch) else _COMMIT
        begun = time.monotonic()
        races = 0
        in_doubt = False
        while True:
            try:
                return await self._execute(statement, rows)
            except _RACES:
                races += 1
                statement = _COMMIT_CAREFULLY
                if races == MAX_RACES:
                    raise
            except errors.LockNotAvailable as error:
                if not in_doubt:
                    raise
                # The first run holds its rows until its server has noticed that we are gone.
                self._give_up_after(begun, in_doubt=True, error=error)
            except (DatabaseUnavailable, psycopg.Error) as error:
                if not self._lost(error):
                    raise
                in_doubt = in_doubt or not isinstance(error, DatabaseUnavailable)
                statement = _COMMIT_CAREFULLY
                self._line.hang_up()
                self._give_up_after(begun, in_doubt=in_doubt, error=error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _execute(self, statement: LiteralString, rows: str) -> dict[UUID, Verdict]:
        begun = time.monotonic()
        verdicts = await self._line.run(statement, rows, str(self.database.settings.attempt_seconds))
        self._last_seconds = time.monotonic() - begun
        return {row[0]: Verdict(*row[1:]) for row in verdicts}

    def _lost(self, error: Exception) -> bool:
        """Tell whether the server, or the way to it, has gone, rather than refused the statement."""
        if not self._line.is_up:
            return True
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        # 57P: the server shuts down. 25006: it was demoted to a read-only standby.
        return state is not None and (state.startswith("57P") or state == "25006")

    def _give_up_after(self, begun: float, *, in_doubt: bool, error: Exception) -> None:
        """Raise when the database has been away for too long: longer for a commit in doubt."""
        settings = self.database.settings
        away = time.monotonic() - begun
        if away < settings.acquire_timeout_seconds:
            return
        gone = DatabaseUnavailable(
            "The database went away. Send the upload again shortly, with the same Idempotency-Key if it had "
            "one: what was stored is found.",
            retry_after=2,
        )
        # What was never sent is not in doubt, and need not wait behind what is.
        _refuse(self._queue, gone)
        self._queue.clear()
        if not in_doubt or away > settings.commit_timeout_seconds:
            raise gone from error


def _settled(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        each.refuse(anew(error))


def _blames_a_row(error: Exception) -> bool:
    """Tell whether one row can be the reason: an outage or a slow server would refuse each of them."""
    # A value too long for its index; bytes or a key that another transaction does not let go.
    if isinstance(error, errors.ProgramLimitExceeded | errors.LockNotAvailable):
        return True
    return not isinstance(error, psycopg.OperationalError | DatabaseUnavailable)


def _claims(arrival: Arrival) -> frozenset[tuple[object, ...]]:
    upload = arrival.upload
    claims: list[tuple[object, ...]] = [("id", upload.id), ("bytes", upload.owner, arrival.sha256)]
    if upload.idempotency:
        claims.append(("key", upload.owner, upload.idempotency.key))
    return frozenset(claims)


def _row(arrival: Arrival) -> str:
    """Return the arrival as the JSON that the statement reads: encoded once, by its own request."""
    upload, facts = arrival.upload, arrival.facts
    image = image_of_arrival(arrival, began_at(upload.id))
    taken_at, taken_offset = taken_columns(facts.taken_at)
    key = upload.idempotency
    row: dict[str, Any] = {
        "id": upload.id,
        "event_id": event_id(upload.id, Kind.UPLOADED, image.version),
        "owner": upload.owner,
        "filename": upload.filename,
        "extension": image.extension,
        "declared_type": upload.declared_type,
        "content_type": image.content_type,
        "bytes": arrival.size,
        "sha256": arrival.sha256.hex(),
        "etag": arrival.etag,
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "orientation": facts.orientation,
        "has_alpha": facts.has_alpha,
        "taken_at": taken_at,
        "taken_offset": taken_offset,
        "camera": facts.camera,
        "exif": facts.exif,
        "location": facts.location,
        "thumbhash": facts.thumbhash.hex() if facts.thumbhash is not None else None,
        "dominant_color": facts.dominant_color,
        "phash": facts.phash,
        "tags": upload.tags,
        "attributes": upload.attributes,
        "search": searchable(upload.filename, upload.tags),
        "protocol": upload.protocol,
        "keep": upload.keep_duplicate,
        "key": key.key if key else None,
        "fingerprint": key.fingerprint.hex() if key else None,
        "payload": image_payload(image),
    }
    return json_text(row)
