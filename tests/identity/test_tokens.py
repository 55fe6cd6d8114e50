"""Upload tokens on a real database: whose they are, what they allow, and how often."""

import asyncio
import base64
import hashlib
import json

import pytest

from pictures import picture
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.identity.keys import Keyring
from tintype.identity.tokens import Minted, Tokens
from tintype.model.body import Body
from tintype.model.errors import (
    ImageCorrupt,
    KeyExpired,
    Overloaded,
    TokenSpent,
    Unauthenticated,
    UnsupportedType,
    UploadTooLarge,
)
from tintype.model.identity import ALL_SCOPES, LOCAL, Principal

PNG = picture(seed=1)


@pytest.fixture
async def tokens(database: Database) -> Tokens:
    return await Tokens.open(database)


async def mint(
    tokens: Tokens,
    minter: Principal = LOCAL,
    *,
    uses: int = 1,
    max_bytes: int = 10**6,
    types: frozenset[str] = frozenset(),
    lifetime: int = 600,
) -> Minted:
    return await tokens.mint(
        minter, types=types, max_bytes=max_bytes, uses=uses, tags=("a",), lifetime_seconds=lifetime
    )


def body(number: int = 0) -> Body:
    data = PNG + bytes([number])
    return Body(len(data), hashlib.sha256(data).digest(), memory=data)


async def spend(tokens: Tokens, minted: Minted, what: Body, error: Exception | None = None) -> None:
    async with tokens.spending(tokens.principal(minted.token), minted.grant, what):
        if error is not None:
            raise error


async def test_every_instance_knows_the_tokens_of_the_others(database: Database) -> None:
    first, *others = await asyncio.gather(*(Tokens.open(database) for _ in range(5)))
    minted = await mint(first)
    for other in others:
        holder = other.principal(minted.token)
        assert (holder.owner, holder.grant, holder.scopes) == ("local", minted.grant, frozenset())


async def test_a_token_that_was_changed_is_none(tokens: Tokens) -> None:
    text = (await mint(tokens)).token
    head, _, signature = text.partition(".")
    told = json.loads(base64.urlsafe_b64decode(head[4:] + "=="))
    more = base64.urlsafe_b64encode(json.dumps(told | {"uses": 99}).encode()).rstrip(b"=").decode()
    changed = [
        f"tut_{more}.{signature}",
        f"{head}.",
        head,
        f"{head}.{signature}=",
        f"{head}..{signature}",
        f"{head}=.{signature}",
        text + "A",
        f"{head}.{signature[:-1]}",
        "tut_.",
    ]
    for each in changed:
        with pytest.raises(Unauthenticated):
            tokens.principal(each)


async def test_a_token_ends_with_its_time_and_with_the_credentials_that_made_it(tokens: Tokens) -> None:
    short = await mint(tokens, lifetime=-1)
    with pytest.raises(KeyExpired):
        tokens.principal(short.token)
    minter = tokens.principal((await mint(tokens, lifetime=60)).token)
    assert (await mint(tokens, minter, lifetime=3600)).expires_at == minter.expires_at


async def test_the_count_is_exact_whoever_uses_the_token_at_once(tokens: Tokens) -> None:
    minted = await mint(tokens, uses=3)
    results = await asyncio.gather(
        *(spend(tokens, minted, body(number)) for number in range(8)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in results) == ["NoneType"] * 3 + ["TokenSpent"] * 5


async def test_the_same_bytes_are_one_use(tokens: Tokens) -> None:
    minted = await mint(tokens)
    await asyncio.gather(*(spend(tokens, minted, body()) for _ in range(5)))
    with pytest.raises(TokenSpent):
        await spend(tokens, minted, body(1))


async def test_what_is_refused_for_good_is_no_use_and_what_is_in_doubt_is_one(tokens: Tokens) -> None:
    minted = await mint(tokens)
    with pytest.raises(ImageCorrupt):
        await spend(tokens, minted, body(1), ImageCorrupt("Broken."))
    with pytest.raises(Overloaded):
        await spend(tokens, minted, body(2), Overloaded("Busy."))
    await spend(tokens, minted, body(2))
    with pytest.raises(TokenSpent):
        await spend(tokens, minted, body(1))


async def test_bytes_that_the_token_does_not_allow_are_not_counted(tokens: Tokens) -> None:
    small = await mint(tokens, max_bytes=10)
    with pytest.raises(UploadTooLarge):
        await spend(tokens, small, body())
    jpegs = await mint(tokens, types=frozenset({"image/jpeg"}))
    with pytest.raises(UnsupportedType):
        await spend(tokens, jpegs, body())
    jpeg = picture("JPEG", seed=1)
    await spend(tokens, jpegs, Body(len(jpeg), hashlib.sha256(jpeg).digest(), memory=jpeg))


async def test_a_revoked_key_takes_its_tokens_along(tokens: Tokens, database: Database) -> None:
    keyring = Keyring(database)
    text, key = await keyring.create(owner="anna", scopes=ALL_SCOPES)
    minted = await mint(tokens, await keyring.principal(text), uses=5)
    await spend(tokens, minted, body())
    await keyring.revoke("anna", key.id)
    with pytest.raises(TokenSpent):
        await spend(tokens, minted, body(1))


async def test_tokens_that_are_long_over_are_forgotten(tokens: Tokens, database: Database) -> None:
    await spend(tokens, await mint(tokens), body())
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE upload_tokens SET expires_at = now() - interval '25 hours'")
    await mint(tokens)
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute(
            "SELECT (SELECT count(*) FROM upload_tokens), (SELECT count(*) FROM upload_token_uses)"
        )
        assert await cursor.fetchone() == (1, 0)
