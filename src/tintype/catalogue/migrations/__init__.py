"""The schema and its steps: applied in order, once each, by one runner at a time; see README.md here."""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors

from tintype.model.errors import DatabaseUnavailable

LOCK = 0x54494E54  # "TINT"
LOCK_TIMEOUT_SECONDS = 2
"""A step that waits for a lock makes everybody behind it wait too: it gives up, and tries again."""
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 60
PAUSE_SECONDS = 0.5

_Connection = psycopg.AsyncConnection[Any]

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_NEEDS = re.compile(r"^-- needs programs that know step (\d+)$", re.MULTILINE)
_OUTSIDE = re.compile(r"^-- outside of a transaction$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """One file of this folder."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """A step that was applied never changes; this tells."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def needs(self) -> int:
        """The step that a program must know to work with the schema from here on (README, contract)."""
        found = _NEEDS.search(self.text)
        return int(found[1]) if found else 0

    @property
    def statements(self) -> tuple[LiteralString, ...] | None:
        """The single statements of a step that runs outside of a transaction; None for any other."""
        if not _OUTSIDE.search(self.text):
            return None
        return tuple(_literal(each) for each in self.text.split(";\n") if each.strip())


def known_steps() -> tuple[Step, ...]:
    """Return the steps that this program brings, in their order."""
    return steps_in(resources.files(__name__))


def steps_in(folder: Traversable) -> tuple[Step, ...]:
    """Return the steps of a folder, in their order."""
    files = [each for each in folder.iterdir() if _FILE.fullmatch(each.name)]
    steps = [Step(int(each.name[:4]), each.name, each.read_text("utf-8")) for each in files]
    return tuple(sorted(steps, key=lambda step: step.number))


async def migrate(url: str, steps: Sequence[Step] | None = None) -> list[str]:
    """Bring the schema up to date and return the names of the steps applied.

    Runners wait for each other. Raises `DatabaseUnavailable` with what to do when a step cannot get its
    locks for a minute, and when the schema is one that these steps do not lead to.
    """
    steps = known_steps() if steps is None else steps
    try:
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=CONNECT_SECONDS
        ) as connection:
            # Where row-level security would hide rows from a step, the step fails instead (README).
            await connection.execute(
                "SELECT set_config('lock_timeout', %s, false), set_config('row_security', 'off', false)",
                [f"{LOCK_TIMEOUT_SECONDS}s"],
            )
            await _patiently(partial(_take_turn, connection))
            return await _apply(connection, steps)
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"The schema could not be brought up to date: {error}") from error


async def check_schema(connection: _Connection, steps: Sequence[Step] | None = None) -> None:
    """Raise `DatabaseUnavailable` with what to do, unless this program can work with the schema."""
    steps = known_steps() if steps is None else steps
    applied = await _applied(connection)
    _refuse_strange(applied, steps)
    missing = [step.name for step in steps if step.number not in applied or not applied[step.number].finished]
    if missing:
        raise DatabaseUnavailable(
            f"The database's schema is older than this Tintype: {missing[0]} is missing or unfinished. "
            f"Run `tintype migrate` with the same TINTYPE_DATABASE__URL, then start again."
        )


@dataclass(frozen=True, slots=True)
class _Applied:
    checksum: str
    needs: int
    finished: bool


async def _take_turn(connection: _Connection) -> None:
    """Become the one who applies steps. Raises `LockNotAvailable` while another runner is that.

    It does not wait in the database: a statement that waits is one that an index which is made
    concurrently would wait for.
    """
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
    if await cursor.fetchone() != (True,):
        raise errors.LockNotAvailable("another runner is applying steps")


async def _applied(connection: _Connection) -> dict[int, _Applied]:
    cursor = await connection.execute("SELECT to_regclass('schema_steps') IS NOT NULL")
    if await cursor.fetchone() != (True,):
        return {}
    cursor = await connection.execute(
        "SELECT number, checksum, needs, finished_at IS NOT NULL FROM schema_steps ORDER BY number"
    )
    return {number: _Applied(*rest) for number, *rest in await cursor.fetchall()}


def _refuse_strange(applied: dict[int, _Applied], steps: Sequence[Step]) -> None:
    """Refuse a schema that a release of another line made, or one that has left this program behind."""
    newest = max((step.number for step in steps), default=0)
    needs = max((step.needs for step in applied.values()), default=0)
    if needs > newest:
        raise DatabaseUnavailable(
            f"The database's schema needs a Tintype that knows step {needs:04}, this one knows up to "
            f"{newest:04}. Start a newer release; the schema does not go back."
        )
    for step in steps:
        if step.number in applied and applied[step.number].checksum != step.checksum:
            raise DatabaseUnavailable(
                f"The database got another {step.name} than this Tintype brings. Start the release that the "
                f"database was made with; steps are never edited once they are released."
            )


async def _apply(connection: _Connection, steps: Sequence[Step]) -> list[str]:
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_steps (
            number      integer     PRIMARY KEY,
            name        text        NOT NULL,
            checksum    text        NOT NULL,
            needs       integer     NOT NULL,
            begun_at    timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz
        )
        """
    )
    applied = await _applied(connection)
    _refuse_strange(applied, steps)
    pending = [step for step in steps if step.number not in applied or not applied[step.number].finished]
    for step in pending:
        await _apply_one(connection, step)
    return [step.name for step in pending]


async def _apply_one(connection: _Connection, step: Step) -> None:
    if step.statements is None:

        async def whole() -> None:
            async with connection.transaction():
                await _begin(connection, step)
                await connection.execute(_literal(step.text))
                await _finish(connection, step)

        await _patiently(whole)
        return
    # Unfinished until its last statement has run; each can be repeated, so a runner may begin again.
    await _begin(connection, step)
    for statement in step.statements:
        await _patiently(partial(connection.execute, statement))
    await _finish(connection, step)


async def _begin(connection: _Connection, step: Step) -> None:
    await connection.execute(
        """
        INSERT INTO schema_steps (number, name, checksum, needs) VALUES (%s, %s, %s, %s)
        ON CONFLICT (number) DO NOTHING
        """,
        [step.number, step.name, step.checksum, step.needs],
    )


async def _finish(connection: _Connection, step: Step) -> None:
    await connection.execute("UPDATE schema_steps SET finished_at = now() WHERE number = %s", [step.number])


async def _patiently(work: Callable[[], Awaitable[object]]) -> None:
    """Do the work, again and again while it cannot get a lock, for a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await work()
        except errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


def _literal(text: str) -> LiteralString:
    return cast("LiteralString", text)  # as literal as code: a file of this package
