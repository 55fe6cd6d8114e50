"""The keyring on a real database: who is known, for how long, and what it costs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.identity.keys import Keyring
from tintype.model.api_key import new_key
from tintype.model.errors import Forbidden, KeyExpired, KeyNotFound, Unauthenticated
from tintype.model.identity import Principal, Scope

READ = frozenset({Scope.READ})


@pytest.fixture
def keyring(database: Database) -> Keyring:
    return Keyring(database)


async def test_a_key_tells_its_owner_and_scopes(keyring: Keyring) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ, lifetime_seconds=3600)
    principal = await keyring.principal(text)
    assert (principal.owner, principal.scopes, principal.key_id) == ("anna", READ, key.id)
    assert principal.expires_at is not None
    assert abs(principal.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


async def test_the_secret_is_nowhere_in_the_database(keyring: Keyring, database: Database) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ)
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT api_keys::text FROM api_keys WHERE id = %s", [key.id])
        (row,) = await cursor.fetchone() or ("",)
    assert key.id in row
    assert text.split("_")[2][:43] not in row


async def test_unknown_wrong_and_revoked_are_refused_in_the_same_words(keyring: Keyring) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ)
    stranger, _ = new_key()
    other, _ = await keyring.create(owner="anna", scopes=READ)
    await keyring.revoke("anna", key.id)
    told: set[str] = set()
    for presented in (text, stranger, other[:-1] + "!", ""):
        with pytest.raises(Unauthenticated) as refused:
            await keyring.principal(presented)
        told.add(f"{type(refused.value)}{refused.value}")
    assert len(told) == 1


async def test_the_id_of_a_key_without_its_secret_opens_nothing(keyring: Keyring, database: Database) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ)
    forged, presented = new_key()
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE api_keys SET id = %s WHERE id = %s", [presented.id, key.id])
    with pytest.raises(Unauthenticated):
        await keyring.principal(forged)
    with pytest.raises(Unauthenticated):
        await keyring.principal(text)


async def test_an_expired_key_is_told_so_and_only_to_who_has_it(keyring: Keyring, database: Database) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ, lifetime_seconds=3600)
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", [key.id])
    with pytest.raises(KeyExpired):
        await keyring.principal(text)


async def test_a_key_expires_while_it_is_remembered(keyring: Keyring, database: Database) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ)
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute(
            "UPDATE api_keys SET expires_at = clock_timestamp() + interval '300 ms' WHERE id = %s", [key.id]
        )
    assert (await keyring.principal(text)).owner == "anna"
    time.sleep(0.4)  # noqa: ASYNC251 # nothing else is to happen meanwhile
    with pytest.raises(KeyExpired):
        await keyring.principal(text)


async def test_a_revocation_elsewhere_acts_as_soon_as_the_database_is_asked_again(
    database: Database,
) -> None:
    here, elsewhere = Keyring(database), Keyring(database)
    text, key = await here.create(owner="anna", scopes=READ)
    assert (await here.principal(text)).owner == "anna"
    await elsewhere.revoke("anna", key.id)
    assert (await here.principal(text)).owner == "anna", "remembered"
    assert here.fresh_seconds < 30
    here.fresh_seconds = 0.0
    with pytest.raises(Unauthenticated):
        await here.principal(text)


async def test_a_remembered_key_and_a_typo_ask_the_database_nothing(keyring: Keyring) -> None:
    text, _ = await keyring.create(owner="anna", scopes=READ)
    await keyring.principal(text)
    stranger, _ = new_key()
    with pytest.raises(Unauthenticated):
        await keyring.principal(stranger)
    async with unreachable(keyring):
        assert (await keyring.principal(text)).owner == "anna"
        for refused in (text[:-1] + ("0" if text[-1] != "0" else "1"), stranger):
            with pytest.raises(Unauthenticated):
                await keyring.principal(refused)


async def test_strangers_cannot_fill_the_memory(keyring: Keyring) -> None:
    keyring.max_known = 5
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await keyring.principal(new_key()[0])
    assert len(keyring._known) == 5  # noqa: SLF001 # its bound is the promise


async def test_the_last_use_is_noted_once_an_hour(database: Database) -> None:
    text, key = await Keyring(database).create(owner="anna", scopes=READ)
    used: list[datetime | None] = []
    for age in ("1 second", "59 minutes", "61 minutes"):
        async with database.transaction(EVERY_OWNER) as tx:
            await tx.execute(
                "UPDATE api_keys SET last_used_at = last_used_at - %s::interval WHERE id = %s", [age, key.id]
            )
        await Keyring(database).principal(text)
        (listed,) = await Keyring(database).list_of("anna")
        used.append(listed.last_used_at)
    now = datetime.now(UTC)
    assert [moment is not None and now - moment < timedelta(minutes=5) for moment in used] == [
        True,
        False,
        True,
    ]


async def test_two_keys_of_an_owner_work_side_by_side(keyring: Keyring) -> None:
    old, key = await keyring.create(owner="anna", scopes=READ)
    new, _ = await keyring.create(owner="anna", scopes=READ)
    assert (await keyring.principal(old)).owner == (await keyring.principal(new)).owner
    await keyring.revoke("anna", key.id)
    assert (await keyring.principal(new)).owner == "anna"


async def test_nobody_gives_a_scope_that_they_do_not_have(keyring: Keyring) -> None:
    creator = Principal("anna", frozenset({Scope.ADMIN}), "key", "0" * 12)
    with pytest.raises(Forbidden) as refused:
        await keyring.create(owner="anna", scopes=READ, creator=creator)
    assert refused.value.details == {"scope": "read"}
    _, key = await keyring.create(owner="anna", scopes=frozenset({Scope.ADMIN}), creator=creator)
    assert key.created_by == creator.key_id


async def test_an_owner_is_shut_out_with_all_keys(keyring: Keyring) -> None:
    mine = [await keyring.create(owner="anna", scopes=READ) for _ in range(3)]
    theirs, _ = await keyring.create(owner="bert", scopes=READ)
    for text, _ in mine:
        await keyring.principal(text)
    assert set(await keyring.revoke_all("anna")) == {key.id for _, key in mine}
    for text, _ in mine:
        with pytest.raises(Unauthenticated):
            await keyring.principal(text)
    assert (await keyring.principal(theirs)).owner == "bert"
    assert await keyring.revoke_all("anna") == []


async def test_a_foreign_key_cannot_be_revoked(keyring: Keyring) -> None:
    text, key = await keyring.create(owner="anna", scopes=READ)
    told: set[str] = set()
    for key_id in (key.id, "0" * 12, "\u00e9"):
        with pytest.raises(KeyNotFound) as missing:
            await keyring.revoke("bert", key_id)
        told.add(str(missing.value))
    assert len(told) == 1
    assert (await keyring.principal(text)).owner == "anna"


@asynccontextmanager
async def unreachable(keyring: Keyring) -> AsyncIterator[None]:
    """Take every connection of the pool away for a while."""
    pool = keyring.database._pool  # noqa: SLF001 # nothing else shows that nobody asks
    await pool.close()
    yield
    assert pool.closed
