"""Findings: recorded with the checkpoint behind them, settled one by one, kept for an undo."""

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.catalogue.rows import json_text
from tintype.model.finding import REMOVALS, Drift, Finding, FindingState, Settlement

_COLUMNS: LiteralString = """
    id, run_id, kind, key, image_id, details, state, action, note, before, found_at, settled_at
"""


async def add(tx: Tx, found: Sequence[Finding]) -> None:
    """Record findings; one that the run has already stays as it is."""
    async with tx.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO findings (id, run_id, kind, key, image_id, details)
            VALUES (%s, %s, %s, %s, %s, %s::text::jsonb) ON CONFLICT (run_id, kind, key) DO NOTHING
            """,
            [
                (each.id, each.run_id, each.kind.value, each.key, each.image_id, json_text(each.details))
                for each in found
            ],
        )


async def page(
    tx: Tx,
    run_id: UUID,
    after: UUID | None,
    limit: int,
    *,
    kind: Drift | None = None,
    state: FindingState | None = None,
    selected: Sequence[UUID] | None = None,
) -> list[Finding]:
    """Return findings of a run in the order of their ids."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM findings
        WHERE run_id = %(run)s AND (%(after)s::uuid IS NULL OR id > %(after)s)
          AND (%(kind)s::text IS NULL OR kind = %(kind)s)
          AND (%(state)s::text IS NULL OR state = %(state)s)
          AND (%(selected)s::uuid[] IS NULL OR id = ANY(%(selected)s))
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "run": run_id,
            "after": after,
            "kind": kind and kind.value,
            "state": state and state.value,
            "selected": None if selected is None else list(selected),
            "limit": limit,
        },
    )
    return [_finding(row) for row in await cursor.fetchall()]


async def find(tx: Tx, finding_id: UUID) -> Finding | None:
    """Return a finding as it stands."""
    cursor = await tx.execute(f"SELECT {_COLUMNS} FROM findings WHERE id = %s", [finding_id])
    row = await cursor.fetchone()
    return _finding(row) if row else None


async def removals(tx: Tx, run_id: UUID, selected: Sequence[UUID] | None) -> int:
    """Return how many open findings would take something out of sight when they are repaired."""
    cursor = await tx.execute(
        """
        SELECT count(*) FROM findings
        WHERE run_id = %s AND state = 'open' AND kind = ANY(%s) AND (%s::uuid[] IS NULL OR id = ANY(%s))
        """,
        [run_id, [each.value for each in REMOVALS], selected, selected],
    )
    (count,) = await only(cursor)
    return count


async def settle(
    tx: Tx,
    finding: Finding,
    action: Settlement | None,
    note: str,
    before: dict[str, Any] | None = None,
) -> None:
    """Record what was done about a finding; without an action, why nothing was."""
    await tx.execute(
        """
        UPDATE findings
        SET state = %s, action = %s, note = %s, before = coalesce(%s::text::jsonb, before),
            settled_at = clock_timestamp()
        WHERE id = %s
        """,
        [
            "skipped" if action is None else "repaired",
            action and action.value,
            note,
            None if before is None else json_text(before),
            finding.id,
        ],
    )


async def remember(tx: Tx, finding: Finding, before: dict[str, Any]) -> None:
    """Record what an undo needs, before anything is done."""
    await tx.execute(
        "UPDATE findings SET before = %s::text::jsonb WHERE id = %s", [json_text(before), finding.id]
    )


async def annotate(tx: Tx, finding: Finding, note: str) -> None:
    """Say something of a finding that stays as it is: what a dry run would do, why an undo could not."""
    await tx.execute("UPDATE findings SET note = %s WHERE id = %s", [note, finding.id])


async def undone(tx: Tx, finding: Finding, note: str) -> None:
    """Record that a repair was taken back."""
    await tx.execute(
        "UPDATE findings SET state = 'undone', note = %s, settled_at = clock_timestamp() WHERE id = %s",
        [note, finding.id],
    )


def _finding(row: tuple[Any, ...]) -> Finding:
    identity, run_id, kind, key, image_id, details, state, action, note, *rest = row
    return Finding(
        identity,
        run_id,
        Drift(kind),
        key,
        image_id,
        details,
        FindingState(state),
        action and Settlement(action),
        note,
        *rest,
    )
