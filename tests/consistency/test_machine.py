"""Everything that can happen to images, in any order, with crashes: the real code against a simple model.

Prints how to repeat what it found. The same invariants as the explored model's (tests/model/protocol.py).
"""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from consistency import bucket_world
from consistency.bucket_world import FACTS, Crash, World, crash, export, rebuild
from postgres import Postgres
from tintype.catalogue import images
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.model import checkpoint
from tintype.model.image import Image, State
from tintype.model.query import ImageQuery
from tintype.model.upload import Duplicate, Idempotency, Replayed, Stored, Upload
from tintype.objects.keys import ORIGINALS, original_key, parse_original_key
from tintype.objects.store import Objects
from tintype.settings import DatabaseSettings, ObjectsSettings

OWNERS = ("ada", "bob")
T = TypeVar("T")


@dataclass
class Known:
    """What the model knows of an image that was acknowledged."""

    owner: str
    content: str
    state: State = State.READY
    tags: tuple[str, ...] = ()
    version: int = 1
    purged: bool = False


@dataclass
class Ledger:
    """What was promised, and what of it the bucket knows."""

    images: dict[UUID, Known] = field(default_factory=dict)
    in_bucket: dict[UUID, Known] = field(default_factory=dict)
    keys: dict[tuple[str, str], UUID] = field(default_factory=dict)
    changes: int = 0
    """Since the log of events began."""


class Machine(RuleBasedStateMachine):
    """The product's verbs, in any order."""

    images_made = Bundle("images")

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        self.postgres = postgres
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.ledger = Ledger()

    @initialize()
    def open(self) -> None:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="machine-")))
        self.objects = Objects.open(ObjectsSettings(), self.folder)
        self.world = self.do(self.opened(new=True))

    async def opened(self, *, new: bool) -> World:
        database = await self.empty()
        if not new:
            await rebuild(database, self.objects, self.folder)
        return await self.stack.enter_async_context(bucket_world.opened(database, self.objects, self.folder))

    async def empty(self) -> Database:
        url = await self.stack.enter_async_context(self.postgres.clone())
        return await self.stack.enter_async_context(Database.open(url, DatabaseSettings()))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        checkpoint.disarm()
        self.do(self.stack.aclose())
        self.do(self.objects.aclose())
        self.runner.close()

    # What happens

    @rule(
        target=images_made,
        owner=st.sampled_from(OWNERS),
        content=st.sampled_from("abc"),
        keep=st.booleans(),
        key=st.sampled_from([None, "k1", "k2"]),
    )
    def upload(self, owner: str, content: str, *, keep: bool, key: str | None) -> object:
        asked = hashlib.sha256(f"{content}{keep}".encode()).digest()
        if key is not None and self.ledger.keys.get((owner, key), None) is not None:
            key = f"{key}-{content}-{keep}"  # one request for each key: others are refused, elsewhere
        upload = Upload(
            owner,
            f"{content}.jpg",
            None,
            "raw",
            keep_duplicate=keep,
            idempotency=Idempotency(key, asked) if key else None,
        )
        outcome = self.do(self._send(upload, content))
        first = outcome.outcome if isinstance(outcome, Replayed) else outcome
        image = first.image
        if isinstance(outcome, Stored):
            self.ledger.images[image.id] = Known(owner, content)
            self.ledger.changes += 1
        else:
            known = self.ledger.images[image.id]
            assert (known.owner, known.content) == (owner, content)
            assert isinstance(outcome, Replayed) or known.state is State.READY
        assert not (keep and isinstance(outcome, Duplicate))
        if key is not None:
            assert self.ledger.keys.setdefault((owner, key), image.id) == image.id
        return image if isinstance(outcome, Stored) else multiple()

    async def _send(self, upload: Upload, content: str) -> Stored | Duplicate | Replayed:
        sha256 = hashlib.sha256(content.encode()).digest()
        if earlier := await self.world.commits.find_earlier(upload, sha256):
            return earlier
        arrival = await self.world.put(content, FACTS, **_fields(upload))
        return await self.world.commits.commit(arrival)

    @rule(owner=st.sampled_from(OWNERS), where=st.sampled_from(["object-placed", "before-commit"]))
    def upload_killed(self, owner: str, where: str) -> None:
        """Nothing was acknowledged: an object without a row may stay."""
        self._crashes(where, self.world.store("never acknowledged", owner=owner))

    @rule(target=images_made, owner=st.sampled_from(OWNERS))
    def upload_killed_before_its_answer(self, owner: str) -> object:
        """It is not known to the client, and all the same it is there: with a key, a retry would find it."""
        before = {each["id"] for each in self.do(export(self.world.database))}
        self._crashes("after-commit", self.world.store("unanswered", owner=owner, keep_duplicate=True))
        (new,) = [each for each in self.do(export(self.world.database)) if each["id"] not in before]
        self.ledger.images[UUID(new["id"])] = Known(owner, "unanswered")
        self.ledger.changes += 1
        return self.do(self._image(UUID(new["id"]), owner))

    async def _image(self, image_id: UUID, owner: str) -> Image:
        async with self.world.database.transaction(owner) as tx:
            image = await images.find(tx, owner, image_id)
        assert image is not None
        return image

    def _crashes(self, where: str, work: Coroutine[Any, Any, object]) -> None:
        checkpoint.arm(where, crash)
        try:
            self.do(work)
        except Crash:
            pass
        else:
            raise AssertionError(f"{where} was not passed")
        finally:
            checkpoint.disarm()

    @rule(image=images_made, tag=st.sampled_from(["x", "y"]))
    def edit(self, image: Image, tag: str) -> None:
        known = self.ledger.images[image.id]
        if known.state is State.READY and known.tags != (tag,):
            self.do(self.world.change(image, tags=(tag,)))
            known.tags = (tag,)
            self._changed(known)

    @rule(image=images_made)
    def trash(self, image: Image) -> None:
        known = self.ledger.images[image.id]
        if known.state is State.READY:
            self.do(self.world.trash(image))
            known.state = State.DELETED
            self._changed(known)

    @rule(image=images_made)
    def restore(self, image: Image) -> None:
        known = self.ledger.images[image.id]
        if known.state is State.DELETED and not known.purged:
            self.do(self.world.restore(image))
            known.state = State.READY
            self._changed(known)

    def _changed(self, known: Known) -> None:
        known.version += 1
        self.ledger.changes += 1

    @rule()
    def flush(self) -> None:
        self.do(self.world.journal().flush())
        self.ledger.in_bucket = {
            image_id: replace(known) for image_id, known in self.ledger.images.items() if not known.purged
        }

    @rule(where=st.sampled_from(["journal-marked", "journal-written"]))
    def flush_killed(self, where: str) -> None:
        """The next flush writes it again; what the bucket knows now is at least what it did."""
        checkpoint.arm(where, crash)
        with contextlib.suppress(Crash):
            self.do(self.world.journal().flush())
        checkpoint.disarm()
        self.flush()

    @rule()
    def compact(self) -> None:
        self.do(self.world.journal(rewrite_days=1e-9).compact())

    @rule(image=consumes(images_made), where=st.sampled_from(["", "purge-marked", "purge-recorded"]))
    def time_in_the_trash_is_over(self, image: Image, where: str) -> None:
        known = self.ledger.images[image.id]
        if known.state is not State.DELETED or known.purged:
            return
        self.do(self.world.age(image, days=31))
        if where:
            self._crashes(where, self.world.purge().round())
        assert self.do(self.world.purge().round()) == (0 if where == "purge-recorded" else 1)
        known.purged = True
        self.ledger.in_bucket.pop(image.id, None)

    @precondition(lambda self: self.ledger.images)
    @rule()
    def lose_the_database(self) -> None:
        """What the bucket knew is there; what it did not know is as it was when it was uploaded."""
        expected: dict[UUID, Known] = {}
        for image_id, known in self.ledger.images.items():
            if known.purged:
                expected[image_id] = known
            else:
                expected[image_id] = self.ledger.in_bucket.get(image_id) or Known(known.owner, known.content)
        self.world = self.do(self.opened(new=False))
        found = {UUID(each["id"]): each for each in self.do(export(self.world.database))}
        for image_id, each in found.items():  # objects that were never acknowledged, but may have been
            if image_id not in expected:
                assert each["filename"] == "Rome.JPG"
                self.do(self._forget(image_id))
        self.ledger = Ledger({k: replace(v) for k, v in expected.items()})
        self.ledger.in_bucket = {
            k: replace(v) for k, v in expected.items() if not v.purged and (v.version > 1)
        }
        self.flushed_again()

    def flushed_again(self) -> None:
        self.ledger.in_bucket |= {k: replace(v) for k, v in self.ledger.images.items() if not v.purged}

    async def _forget(self, image_id: UUID) -> None:
        """Do what a check does with an object that was never acknowledged."""
        async with self.world.database.transaction(EVERY_OWNER) as tx:
            await tx.execute("DELETE FROM images WHERE id = %s", [image_id])
        await self.objects.delete(original_key(image_id))

    # What holds at every moment

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        self.do(self._hold())

    async def _hold(self) -> None:
        rows = {UUID(each["id"]): each for each in await export(self.world.database)}
        living = {k: v for k, v in self.ledger.images.items() if not v.purged}
        assert rows.keys() == living.keys()
        for image_id, known in living.items():
            row = rows[image_id]
            told = (row["owner"], row["state"], tuple(row["tags"]), row["version"])
            assert told == (known.owner, known.state, known.tags, known.version)
        there = {parse_original_key(key): key for key in await self.world.keys(ORIGINALS)}
        for image_id, known in self.ledger.images.items():
            assert (image_id in there) != known.purged
        for image_id, known in living.items():
            data = b"".join([block async for block in self.objects.read(there[image_id])])
            assert data == known.content.encode() or known.content == "unanswered"
        await self._hold_lists()

    async def _hold_lists(self) -> None:
        for owner in OWNERS:
            async with self.world.database.transaction(owner) as tx:
                page = await images.page(tx, owner, ImageQuery(limit=200))
            ready = {k for k, v in self.ledger.images.items() if v.owner == owner and v.state is State.READY}
            assert {image.id for image in page.images} == ready
        async with self.world.database.reading(EVERY_OWNER) as tx:
            cursor = await tx.execute("SELECT count(*) FROM events")
            assert await cursor.fetchone() == (self.ledger.changes,)


def _fields(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "owner": upload.owner,
        "filename": upload.filename,
        "declared_type": upload.declared_type,
        "keep_duplicate": upload.keep_duplicate,
        "idempotency": upload.idempotency,
    }


def test_whatever_happens_in_whatever_order_the_promises_hold(postgres: Postgres) -> None:
    class OnThisServer(Machine):
        def __init__(self) -> None:
            super().__init__(postgres)

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=14, stateful_step_count=25, deadline=None, derandomize=True, print_blob=True
        ),
    )
