"""A real PostgreSQL for the tests: one server in a session, and for each test a database of its own."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from planted import watch
from tintype.catalogue.database import Database
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import Step, known_steps, migrate, steps_in
from tintype.settings import DatabaseSettings

ROOM = 1 << 30
LATER = os.environ.get("TINTYPE_TEST_STEPS")
"""A folder with the steps of a later release, on whose schema the tests are to run (`make previous`)."""


@dataclass
class Postgres:
    """A running server with a migrated database to copy from."""

    server: EmbeddedPostgres
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    @asynccontextmanager
    async def clone(self, template: str = "tintype") -> AsyncIterator[str]:
        """The URL of a fresh copy of the migrated database; `template0` is an empty one."""
        name = f"test_{next(self.numbers)}"
        await self.admin(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER tintype STRATEGY file_copy"), name, template
        )
        try:
            yield self.server.url.replace("/tintype?", f"/{name}?")
        finally:
            await self.admin(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def as_admin(self, url: str) -> str:
        """The URL by which the superuser comes to the same database."""
        name = urlsplit(url).path
        return self.server.admin_url.replace("/postgres?", f"{name}?")

    async def admin(self, statement: sql.SQL, *names: str) -> None:
        """Run a statement as the superuser."""
        async with await psycopg.AsyncConnection.connect(
            self.server.admin_url, autocommit=True
        ) as connection:
            await connection.execute(statement.format(*map(sql.Identifier, names)))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    folder = memory() or tmp_path_factory.mktemp("postgres")
    try:
        async with EmbeddedPostgres.run(folder) as server:
            await migrate(server.url, steps())
            yield Postgres(server)
        watch([server.log.read_text(errors="replace")])
    finally:
        shutil.rmtree(folder)


def steps() -> list[Step]:
    """Return this release's steps, and those that a later one has behind them."""
    own = list(known_steps())
    later = steps_in(Path(LATER)) if LATER else ()
    return own + [step for step in later if step.number > own[-1].number]


def memory() -> Path | None:
    """A folder in memory, where there is room: a copy of a database is made in a tenth of the time."""
    shared = Path("/dev/shm")  # noqa: S108 # nothing else than tests is kept there
    if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > ROOM:
        return Path(tempfile.mkdtemp(prefix="tintype-tests-", dir=shared))
    return None


@pytest.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database with nothing in it, for this test alone."""
    async with postgres.clone() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url, DatabaseSettings()) as database:
        yield database
