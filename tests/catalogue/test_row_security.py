"""The second wall: whatever a statement says, PostgreSQL shows an owner nothing of another one's."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
import pytest
from psycopg import abc, errors, sql

from careless import without_owner
from catalogue.arrivals import arrival, as_found, ids, key, stored
from postgres import Postgres
from tintype.catalogue import api_keys, events, images, upload_tokens
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import APP, EVERY_OWNER, WORKER, Database, Tx
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import Step, migrate
from tintype.model.errors import DatabaseUnavailable, ImageNotFound, Internal, KeyNotFound
from tintype.model.identity import Scope
from tintype.model.ids import new_id
from tintype.model.image import Image
from tintype.model.query import Change, ImageFilter, ImageQuery
from tintype.settings import DatabaseSettings

WITH_OWNER = """
    SELECT c.oid, c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND a.attname = 'owner' AND c.relnamespace = 'public'::regnamespace
"""


async def answer(
    connection: psycopg.AsyncConnection[Any], statement: str, values: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    """Run a statement as whoever the connection is, and return its rows."""
    cursor = await psycopg.AsyncConnection.execute(connection, cast("Any", statement), values)
    return await cursor.fetchall()


@pytest.fixture
async def annas(commits: Commits) -> Image:
    return await stored_for(commits, "anna")


@pytest.fixture
async def berts(commits: Commits) -> Image:
    return await stored_for(commits, "bert")


async def stored_for(commits: Commits, owner: str) -> Image:
    outcome = await commits.commit(
        arrival(owner=owner, filename="same.jpg", tags=("same",), idempotency=key(f"{owner}'s"))
    )
    return as_found(stored(outcome))


# What the database says of itself


async def test_every_table_with_an_owner_has_its_policies(database: Database) -> None:
    async with database.reading(EVERY_OWNER) as tx:
        tables = await answer(tx, WITH_OWNER)
        walled = await answer(
            tx,
            f"""
            SELECT relname FROM ({WITH_OWNER}) AS owned JOIN pg_class USING (oid, relname)
            WHERE relrowsecurity AND relforcerowsecurity
              AND (SELECT array_agg(roles[1]::text || ' ' || cmd || ' ' || qual ORDER BY roles[1])
                   FROM pg_policies WHERE tablename = relname AND with_check IS NULL)
                = ARRAY['{APP} ALL ' || %s, '{WORKER} ALL true']
            """,  # noqa: S608 # names of ours
            ["(owner = NULLIF(current_setting('tintype.owner'::text, true), ''::text))"],
        )

    assert len(tables) >= 6
    assert sorted(walled) == sorted((name,) for _, name in tables), "see the README of the migrations"


async def test_requests_get_at_no_table_without_an_owner(database: Database) -> None:
    async with database.reading(EVERY_OWNER) as tx:
        open_to_requests = await answer(
            tx,
            f"""
            SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm')
              AND relnamespace = 'public'::regnamespace
              AND oid NOT IN (SELECT oid FROM ({WITH_OWNER}) AS owned)
              AND has_table_privilege('{APP}', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
            """,  # noqa: S608
        )

    # The steps of the schema; how often an address was asked, which no owner learns.
    assert {name for (name,) in open_to_requests} <= {"schema_steps", "confirmations_asked"}


async def test_the_roles_own_nothing_log_in_nowhere_and_pass_by_no_policy(database: Database) -> None:
    async with database.reading(EVERY_OWNER) as tx:
        roles = await answer(
            tx,
            f"""
            SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin,
                   (SELECT count(*) FROM pg_class WHERE relowner = pg_roles.oid),
                   (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid),
                   has_schema_privilege(oid, 'public', 'CREATE')
            FROM pg_roles WHERE rolname IN ('{APP}', '{WORKER}') ORDER BY rolname
            """,  # noqa: S608
        )

    assert roles == [(APP, False, 0, 0, False), (WORKER, False, 0, 0, False)]


# Whose rows


async def test_a_connection_is_the_role_of_whom_it_acts_for(database: Database) -> None:
    who = "SELECT current_user::text, nullif(current_setting('tintype.owner', true), '')"
    for owner, expected in (("anna", (APP, "anna")), (EVERY_OWNER, (WORKER, None))):
        async with database.reading(owner) as tx:
            assert await (await tx.execute(who)).fetchone() == expected
            assert await (await tx.execute(who)).fetchone() == expected
        async with database.transaction(owner) as tx:
            assert await (await tx.execute(who)).fetchone() == expected


@pytest.mark.usefixtures("annas", "berts")
@pytest.mark.parametrize("table", ["images", "events", "idempotency"])
async def test_without_a_condition_an_owner_sees_what_is_the_owners(database: Database, table: str) -> None:
    everybodys = sql.SQL("SELECT DISTINCT owner FROM {} ORDER BY owner").format(sql.Identifier(table))
    seen = {}
    for owner in ("anna", "bert", "nobody", "", EVERY_OWNER):
        async with database.transaction(owner) as tx:
            seen[owner] = [name for (name,) in await (await tx.execute(everybodys)).fetchall()]

    assert seen == {"anna": ["anna"], "bert": ["bert"], "nobody": [], "": [], EVERY_OWNER: ["anna", "bert"]}


@pytest.mark.usefixtures("annas")
async def test_without_an_owner_there_is_nothing(database: Database) -> None:
    async with database.reading("anna") as tx, tx.transaction():
        # `tx.transaction()` is psycopg's own: nothing said who acts.
        assert await answer(tx, "SELECT * FROM images") == []  # the login, which owns the tables
        await answer(tx, f"SELECT set_config('role', '{APP}', true)")
        assert await answer(tx, "SELECT * FROM images") == []


class Careless(Tx):
    """A connection through which all statements lose their condition on the owner."""

    dropped = 0

    async def execute(
        self,
        query: abc.QueryNoTemplate,
        params: abc.Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        if isinstance(query, str):
            forgetful, dropped = without_owner(query)
            self.dropped += dropped
            query = cast("Any", forgetful)
        return await super().execute(query, params, prepare=prepare, binary=binary)


@asynccontextmanager
async def careless(database: Database, owner: str) -> AsyncIterator[Careless]:
    async with await Careless.connect(database.url, autocommit=True) as tx:
        tx.acts_for = owner
        yield tx
        assert tx.dropped > 0


async def test_statements_that_forget_the_owner_find_nothing_of_another_one(
    database: Database, annas: Image, berts: Image
) -> None:
    tagged = ImageFilter(tags=("same",))
    async with careless(database, "anna") as tx:
        assert await images.find(tx, "anna", berts.id, trashed=True) is None
        assert await images.owner_of(tx, berts.id) is None
        found = await images.find_by_name(tx, "anna", "same.jpg")
        assert found is not None
        assert found.id == annas.id
        for wanted in (ImageFilter(), tagged):
            assert ids((await images.page(tx, "anna", ImageQuery(wanted))).images) == [annas.id]
            drawn = await images.random(tx, "anna", wanted)
            assert drawn is not None
            assert drawn.id == annas.id
        assert {event.owner for event in await events.page(tx, "anna", 0, 100)} == {"anna"}
        with pytest.raises(ImageNotFound):
            await images.exif(tx, "anna", berts.id)


async def test_statements_that_forget_the_owner_change_nothing_of_another_one(
    database: Database, annas: Image, berts: Image
) -> None:
    async with careless(database, "anna") as tx, tx.begun():
        for attempt in (
            images.update(tx, "anna", berts.id, Change(filename="annas.jpg")),
            images.trash(tx, "anna", berts.id),
            images.restore(tx, "anna", berts.id),
        ):
            with pytest.raises(ImageNotFound):
                await attempt
        await images.trash(tx, "anna", annas.id)

    async with database.reading("bert") as tx:
        assert await images.find(tx, "bert", berts.id) == berts


async def test_keys_and_tokens_of_another_one_are_out_of_reach(database: Database) -> None:
    token_id = new_id()
    async with database.transaction("bert") as tx:
        await add_key(tx, "bert")
        await upload_tokens.add(
            tx, token_id=token_id, owner="bert", key_id=None, uses=1, expires_at=await database.now()
        )
    async with careless(database, "anna") as tx:
        assert await api_keys.find(tx, "0" * 12) is None
        assert await api_keys.list_of(tx, "anna") == await api_keys.list_of(tx, None) == []
        assert await api_keys.revoke_all(tx, "anna") == []
        with pytest.raises(KeyNotFound):
            await api_keys.revoke(tx, None, "0" * 12)
        assert not await upload_tokens.take(tx, "anna", token_id, bytes(32))


async def add_key(tx: Tx, owner: str) -> None:
    await api_keys.add(
        tx,
        key_id="0" * 12,
        owner=owner,
        scopes=frozenset({Scope.READ}),
        name="",
        secret_sha256=bytes(32),
        created_by="operator",
        lifetime_seconds=None,
    )


async def test_nothing_is_put_among_another_ones_things(database: Database, annas: Image) -> None:
    with pytest.raises(Internal) as refused:
        async with database.transaction("anna") as tx:
            await add_key(tx, "bert")
    assert isinstance(refused.value.__cause__, errors.InsufficientPrivilege)

    with pytest.raises(Internal) as given_away:
        async with database.transaction("anna") as tx:
            await tx.execute("UPDATE images SET owner = 'bert' WHERE id = %s", [annas.id])
    assert isinstance(given_away.value.__cause__, errors.InsufficientPrivilege)


@pytest.mark.usefixtures("berts")
async def test_the_look_through_the_index_on_tags_is_for_the_owner_too(
    database: Database, annas: Image
) -> None:
    async with database.reading("anna") as tx:

        async def tagged(owner: str) -> list[UUID]:
            cursor = await tx.execute("SELECT images_tagged(%s, %s, 10)", [owner, ["same"]])
            return [image_id for (image_id,) in await cursor.fetchall()]

        assert await tagged("anna") == [annas.id]
        assert await tagged("bert") == []


async def test_an_owners_search_for_tags_uses_their_index(database: Database, annas: Image) -> None:
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'images_tags'"
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute(
            """
            INSERT INTO images SELECT (jsonb_populate_record(images, jsonb_build_object(
                'id', gen_random_uuid(), 'tags', ARRAY['other'], 'canonical', false))).*
            FROM images, generate_series(1, 500)
            """
        )
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as owner:
        await owner.execute("ANALYZE images")
    async with database.transaction("anna") as tx:
        (before,) = (await answer(tx, scans))[0]
        page = await images.page(tx, "anna", ImageQuery(ImageFilter(tags=("same",))))
        assert ids(page.images) == [annas.id]
        await answer(tx, "SELECT pg_stat_force_next_flush()")
    async with database.reading("anna") as tx:
        ((after,),) = await answer(tx, scans)
    assert after == before + 1


# Connections keep nothing


async def left_behind(tx: Tx) -> tuple[str, str | None]:
    ((role, owner),) = await answer(
        tx, "SELECT current_setting('role'), nullif(current_setting('tintype.owner', true), '')"
    )
    return role, owner


async def test_a_connection_goes_back_as_it_came(database_url: str) -> None:
    async def fail(tx: Tx) -> None:
        with pytest.raises(errors.DivisionByZero):
            await tx.execute("SELECT 1 / %s", [0])

    async def abort(tx: Tx) -> None:
        with pytest.raises(errors.DivisionByZero):
            async with tx.begun():
                await tx.execute("SELECT 1 / %s", [0])

    async def give_up(tx: Tx) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tx.execute("SELECT pg_sleep(%s)", [60])

    async with Database.open(database_url, DatabaseSettings(pool_size=2)) as database:
        for use in (fail, abort, give_up):
            for _ in range(3):  # more often than there are connections
                async with database.reading("anna") as tx:
                    await use(tx)
        for _ in range(4):
            async with database.reading("bert") as tx:
                assert await left_behind(tx) == ("none", None)
                assert tx.acts_for == "bert"


async def test_what_fails_at_the_end_of_a_statements_transaction_is_told(database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as owner:
        await owner.execute(
            "CREATE TABLE late (id int PRIMARY KEY, of int REFERENCES late DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(DatabaseUnavailable):
        async with database.reading(EVERY_OWNER) as tx:
            await tx.execute("INSERT INTO late VALUES (1, 2)")

    await database.probe()


class Unhurried(Tx):
    """A connection that looks so late that all answers have come before, as on a busy machine."""

    async def wait(self, gen: abc.PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ANN401, ASYNC109 # psycopg's
        return await super().wait(_late(gen), interval, timeout)


def _late(gen: abc.PQGen[Any]) -> abc.PQGen[Any]:
    try:
        wanted = next(gen)
        while True:
            time.sleep(0.02)
            wanted = gen.send((yield wanted))
    except StopIteration as end:
        return end.value


async def test_what_fails_at_that_end_is_told_however_late_one_looks(database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as owner:
        await owner.execute(
            "CREATE TABLE late (id int PRIMARY KEY, of int REFERENCES late DEFERRABLE INITIALLY DEFERRED)"
        )
    async with await Unhurried.connect(database.url, autocommit=True) as tx:
        tx.acts_for = EVERY_OWNER
        with pytest.raises(psycopg.Error):
            await tx.execute("INSERT INTO late VALUES (1, 2)")


# Who logs in, and who migrates


@asynccontextmanager
async def login(postgres: Postgres, url: str, *options: str) -> AsyncIterator[str]:
    """A role of its own that may log in, and where it does."""
    name = f"login_{next(postgres.numbers)}"
    await postgres.admin(sql.SQL("CREATE ROLE {} LOGIN"), name)
    for option in options:
        await postgres.admin(sql.SQL("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE"), option, name)
    try:
        yield url.replace("//tintype@", f"//{name}@")
    finally:
        await postgres.admin(sql.SQL("DROP ROLE {}"), name)


async def test_a_login_that_owns_nothing_is_all_that_the_service_needs(
    postgres: Postgres, database_url: str
) -> None:
    async with (
        login(postgres, database_url, APP, WORKER) as url,
        Database.open(url, DatabaseSettings()) as database,
        Commits.open(database) as commits,
    ):
        image = await stored_for(commits, "anna")
        async with database.transaction("anna") as tx:
            assert (await images.trash(tx, "anna", image.id)).id == image.id
        async with database.reading("anna") as tx:
            with pytest.raises(errors.InsufficientPrivilege):
                await answer(tx, "SELECT * FROM images")  # as the login itself


@pytest.mark.parametrize("granted", [(), (APP,), (WORKER,)])
async def test_a_login_that_may_not_become_both_roles_is_told_what_to_ask_for(
    postgres: Postgres, database_url: str, granted: tuple[str, ...]
) -> None:
    async with login(postgres, database_url, *granted) as url:
        with pytest.raises(DatabaseUnavailable, match="GRANT tintype_app, tintype_worker TO"):
            async with Database.open(url, DatabaseSettings()):
                pass


async def test_a_step_that_row_security_would_blind_fails(database_url: str) -> None:
    blind = Step(9999, "9999_blind.sql", "UPDATE images SET filename = 'x';")

    with pytest.raises(DatabaseUnavailable, match="row-level security"):
        await migrate(database_url, [blind])


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server of its own, whose roles are those that PostgreSQL has."""
    async with EmbeddedPostgres.run(tmp_path) as server:
        async with await psycopg.AsyncConnection.connect(server.admin_url, autocommit=True) as admin:
            await admin.execute(f"DROP ROLE {APP}, {WORKER}")
        yield server


async def databases_of(server: EmbeddedPostgres, master: str, rights: LiteralString) -> list[str]:
    """Make a role, and two databases of its."""
    async with await psycopg.AsyncConnection.connect(server.admin_url, autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE ROLE {} LOGIN " + rights).format(sql.Identifier(master)))
        for name in ("one", "other"):
            await admin.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    *map(sql.Identifier, (f"{master}_{name}", master))
                )
            )
    url = server.url.replace("//tintype@", f"//{master}@")
    return [url.replace("/tintype?", f"/{master}_{name}?") for name in ("one", "other")]


async def test_whoever_migrates_needs_no_more_than_the_right_to_make_roles(bare: EmbeddedPostgres) -> None:
    poor = await databases_of(bare, "poor", "")
    with pytest.raises(DatabaseUnavailable, match="CREATE ROLE tintype_app; CREATE ROLE tintype_worker"):
        await migrate(poor[0])

    master = await databases_of(bare, "master", "CREATEROLE")
    first, second = await asyncio.gather(*map(migrate, master))
    assert first == second

    for url in master:
        async with Database.open(url, DatabaseSettings()) as database, database.reading("anna") as tx:
            assert await left_behind(tx) == ("none", None)
