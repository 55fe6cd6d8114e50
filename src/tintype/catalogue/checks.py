"""Runs of the check and their parts: who works on which, how far, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from tintype.catalogue.database import Tx, only
from tintype.model.check import Counts, Mode, Order, Run, RunState, Task
from tintype.model.errors import RunInProgress, RunNotFound
from tintype.model.ids import new_id

_COLUMNS: LiteralString = """
    id, mode, repair, dry_run, adopting, confirmed, asked_by, inventory, task, state, reason, started_at,
    checked_at, finished_at
"""
_HISTORY = 50


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a run in somebody's hands. Whoever has the highest fence may write."""

    run_id: UUID
    name: str
    cursor: str
    fence: int
    failures: int


@dataclass(slots=True)
class Tally:
    """What a worker has seen of a part since its last checkpoint."""

    objects: int = 0
    rows: int = 0
    foreign: int = 0
    young: int = 0
    verified: int = 0
    bytes_read: int = 0
    newest: UUID | None = None


async def begin(tx: Tx, order: Order, parts: Sequence[str]) -> UUID:
    """Record a new run with its parts. Raises `RunInProgress` while another one runs."""
    run_id = new_id()
    try:
        async with tx.transaction():
            await tx.execute(
                """
                INSERT INTO check_runs
                    (id, mode, task, state, repair, dry_run, adopting, confirmed, asked_by, inventory)
                VALUES (%s, %s, 'check', 'running', %s, %s, %s, %s, %s, %s)
                """,
                [
                    run_id,
                    order.mode.value,
                    order.repair,
                    order.dry_run,
                    order.adopting,
                    order.confirmed,
                    order.asked_by,
                    order.inventory,
                ],
            )
    except psycopg.errors.UniqueViolation as error:
        raise await _in_progress(tx) from error
    await _add_parts(tx, run_id, parts)
    return run_id


async def resume(tx: Tx, run_id: UUID, task: Task, order: Order, selected: Sequence[UUID] | None) -> None:
    """Give a run that has ended something more to do. Raises `RunNotFound` and `RunInProgress`."""
    try:
        async with tx.transaction():
            cursor = await tx.execute(
                """
                UPDATE check_runs
                SET task = %s, state = 'running', reason = NULL, finished_at = NULL, dry_run = %s,
                    adopting = %s, confirmed = %s, selected = %s
                WHERE id = %s AND state <> 'running' AND checked_at IS NOT NULL
                """,
                [
                    task.value,
                    order.dry_run,
                    order.adopting,
                    order.confirmed,
                    None if selected is None else list(selected),
                    run_id,
                ],
            )
    except psycopg.errors.UniqueViolation as error:
        raise await _in_progress(tx) from error
    if cursor.rowcount == 0:
        run = await find(tx, run_id)
        if run.state is RunState.RUNNING:
            raise await _in_progress(tx)
        raise RunNotFound(
            "This run did not look at everything, so there is nothing to act on. Start another."
        )
    await tx.execute("DELETE FROM check_shards WHERE run_id = %s AND name = %s", [run_id, task.value])
    await _add_parts(tx, run_id, [task.value])


async def find(tx: Tx, run_id: UUID) -> Run:
    """Return a run as it stands. Raises `RunNotFound`."""
    cursor = await tx.execute(f"SELECT {_COLUMNS} FROM check_runs WHERE id = %s", [run_id])
    row = await cursor.fetchone()
    if row is None:
        raise RunNotFound(
            "There is no run of this id. `GET /v1/consistency/runs` lists those that there are."
        )
    return await _with_counts(tx, row)


async def running(tx: Tx) -> UUID | None:
    """Return the run that is not over, if there is one."""
    cursor = await tx.execute("SELECT id FROM check_runs WHERE state = 'running'")
    row = await cursor.fetchone()
    return row[0] if row else None


async def latest(tx: Tx) -> list[Run]:
    """Return the latest runs, newest first."""
    cursor = await tx.execute(f"SELECT {_COLUMNS} FROM check_runs ORDER BY id DESC LIMIT %s", [_HISTORY])
    return [await _with_counts(tx, row) for row in await cursor.fetchall()]


async def drift(tx: Tx) -> dict[str, int] | None:
    """Return by kind what differs as far as checks know; None before the first that looked at everything.

    It is what the latest one found, and what an earlier one found that looked more closely, as long as
    nothing was done about it: a listing cannot see that metadata or bytes are still wrong.
    """
    cursor = await tx.execute(
        """
        WITH checked AS (SELECT id, mode FROM check_runs WHERE checked_at IS NOT NULL),
        latest AS (
            SELECT (SELECT id FROM checked ORDER BY id DESC LIMIT 1) AS newest,
                   (SELECT id FROM checked WHERE mode <> 'quick' ORDER BY id DESC LIMIT 1) AS closer,
                   (SELECT id FROM checked WHERE mode = 'deep' ORDER BY id DESC LIMIT 1) AS closest),
        known AS (
            SELECT kind, key FROM findings JOIN latest ON run_id = newest
            UNION
            SELECT kind, key FROM findings JOIN latest ON run_id IN (closer, closest)
            JOIN images ON images.id = image_id AND images.state = 'ready'
            WHERE findings.state = 'open' AND (
                (run_id = closer AND kind = 'metadata_differs')
                OR (run_id = closest AND kind = 'content_differs' AND details ? 'expected')))
        SELECT latest.newest IS NOT NULL, kind, count(known.key) FROM latest LEFT JOIN known ON true
        GROUP BY 1, 2
        """
    )
    rows = await cursor.fetchall()
    return {kind: count for _, kind, count in rows if kind} if rows[0][0] else None


async def seconds_since_start(tx: Tx) -> float | None:
    """Return how long ago the latest run began."""
    cursor = await tx.execute(
        "SELECT extract(epoch FROM now() - started_at)::double precision "
        "FROM check_runs ORDER BY id DESC LIMIT 1"
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def last_clean(tx: Tx) -> float | None:
    """Return how many seconds ago a check ended that had looked at everything and found nothing."""
    cursor = await tx.execute(
        """
        SELECT extract(epoch FROM now() - checked_at)::double precision FROM check_runs
        WHERE state = 'complete' AND checked_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM findings WHERE run_id = check_runs.id)
        ORDER BY check_runs.id DESC LIMIT 1
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def claim(tx: Tx, run_id: UUID, lease_seconds: float) -> Part | None:
    """Take a part that nobody holds, and keep it for a while. None when there is none just now."""
    cursor = await tx.execute(
        """
        UPDATE check_shards
        SET fence = fence + 1, lease_until = clock_timestamp() + %s * interval '1 second'
        WHERE (run_id, name) = (
            SELECT run_id, name FROM check_shards
            JOIN check_runs ON check_runs.id = run_id AND state = 'running'
            WHERE run_id = %s AND check_shards.finished_at IS NULL
              AND (lease_until IS NULL OR lease_until < clock_timestamp())
            ORDER BY name LIMIT 1 FOR UPDATE OF check_shards SKIP LOCKED)
        RETURNING run_id, name, cursor, fence, failures
        """,
        [lease_seconds, run_id],
    )
    row = await cursor.fetchone()
    return Part(*row) if row else None


async def save(
    tx: Tx, part: Part, tally: Tally, cursor: str, lease_seconds: float, *, finished: bool = False
) -> bool:
    """Record how far a part has come. False: it is somebody else's by now, or its run is over."""
    done = await tx.execute(
        """
        UPDATE check_shards
        SET cursor = %(cursor)s, lease_until = clock_timestamp() + %(lease)s * interval '1 second',
            finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END,
            objects = objects + %(objects)s, rows = rows + %(rows)s, young = young + %(young)s,
            foreign_keys = foreign_keys + %(foreign)s, verified = verified + %(verified)s,
            bytes_read = bytes_read + %(bytes)s,
            newest = CASE WHEN %(newest)s::uuid > newest OR newest IS NULL
                          THEN %(newest)s::uuid ELSE newest END
        FROM check_runs
        WHERE run_id = %(run)s AND name = %(name)s AND fence = %(fence)s
          AND check_runs.id = run_id AND state = 'running'
        """,
        {
            "cursor": cursor,
            "lease": lease_seconds,
            "finished": finished,
            "objects": tally.objects,
            "rows": tally.rows,
            "young": tally.young,
            "foreign": tally.foreign,
            "verified": tally.verified,
            "bytes": tally.bytes_read,
            "newest": tally.newest,
            "run": part.run_id,
            "name": part.name,
            "fence": part.fence,
        },
    )
    return done.rowcount == 1


async def release(tx: Tx, part: Part, *, failed: bool = False) -> None:
    """Let a part go, so that another worker may take it at once."""
    await tx.execute(
        """
        UPDATE check_shards SET lease_until = NULL, failures = failures + %s::int
        WHERE run_id = %s AND name = %s AND fence = %s
        """,
        [int(failed), part.run_id, part.name, part.fence],
    )


async def unfinished(tx: Tx, run_id: UUID) -> int:
    """Return how many parts of a run are not finished."""
    cursor = await tx.execute(
        "SELECT count(*) FROM check_shards WHERE run_id = %s AND finished_at IS NULL", [run_id]
    )
    (count,) = await only(cursor)
    return count


async def newest_object(tx: Tx, run_id: UUID) -> UUID | None:
    """Return the id of the newest object that a run has seen."""
    cursor = await tx.execute(
        """
        SELECT newest FROM check_shards WHERE run_id = %s AND newest IS NOT NULL
        ORDER BY newest DESC LIMIT 1
        """,
        [run_id],
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def lock(tx: Tx, run_id: UUID) -> tuple[Run, list[UUID] | None]:
    """Return a run and the findings that its repair keeps to, for one transaction to decide about."""
    cursor = await tx.execute("SELECT selected FROM check_runs WHERE id = %s FOR UPDATE", [run_id])
    row = await cursor.fetchone()
    return await find(tx, run_id), row[0] if row else None


async def go_on(tx: Tx, run_id: UUID) -> None:
    """Record that everything was looked at, and let the repair follow."""
    await tx.execute(
        "UPDATE check_runs SET task = 'repair', checked_at = clock_timestamp() WHERE id = %s", [run_id]
    )
    await _add_parts(tx, run_id, [Task.REPAIR.value])


async def finish(tx: Tx, run_id: UUID, state: RunState, reason: str | None = None) -> bool:
    """Record how a run ended. False: it had ended already."""
    done = await tx.execute(
        """
        UPDATE check_runs
        SET state = %(state)s, reason = %(reason)s, finished_at = clock_timestamp(),
            checked_at = CASE WHEN task = 'check' AND %(state)s IN ('complete', 'stopped')
                              THEN clock_timestamp() ELSE checked_at END
        WHERE id = %(run)s AND state = 'running'
        """,
        {"state": state.value, "reason": reason, "run": run_id},
    )
    return done.rowcount == 1


async def _add_parts(tx: Tx, run_id: UUID, names: Sequence[str]) -> None:
    await tx.execute(
        "INSERT INTO check_shards (run_id, name) SELECT %s, unnest(%s::text[])", [run_id, list(names)]
    )


async def _in_progress(tx: Tx) -> RunInProgress:
    run_id = await running(tx)
    if run_id is None:
        return RunInProgress("Another run was just ending. Ask again.", retry_after=1)
    return RunInProgress(
        "A check or repair is running. Follow it, wait for its end, or cancel it.",
        details={"run": f"/v1/consistency/runs/{run_id}"},
        retry_after=5,
    )


async def _with_counts(tx: Tx, row: tuple[Any, ...]) -> Run:
    (
        run_id,
        mode,
        repair,
        dry_run,
        adopting,
        confirmed,
        asked_by,
        inventory,
        task,
        state,
        reason,
        began,
        *ends,
    ) = row
    cursor = await tx.execute(
        """
        SELECT count(*), count(finished_at), sum(objects)::bigint, sum(rows)::bigint,
               sum(foreign_keys)::bigint, sum(young)::bigint, sum(verified)::bigint, sum(bytes_read)::bigint
        FROM check_shards WHERE run_id = %s
        """,
        [run_id],
    )
    counts = Counts(*(each or 0 for each in await only(cursor)))
    cursor = await tx.execute(
        "SELECT kind, state, count(*) FROM findings WHERE run_id = %s GROUP BY kind, state", [run_id]
    )
    drift: dict[str, int] = {}
    states: dict[str, int] = {}
    for kind, finding_state, count in await cursor.fetchall():
        drift[kind] = drift.get(kind, 0) + count
        states[finding_state] = states.get(finding_state, 0) + count
    order = Order(Mode(mode), repair, dry_run, adopting, confirmed, asked_by, inventory)
    return Run(
        run_id, order, Task(task), RunState(state), reason, began, ends[0], ends[1], counts, drift, states
    )
