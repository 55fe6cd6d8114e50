"""Checks and repairs: what they judge, what they leave alone, who works on them, and what stops them."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from catalogue.arrivals import ago, id_of
from consistency.damage import Damage, World
from tintype.catalogue import checks, comparison
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.images import restore, trash
from tintype.consistency import pair
from tintype.consistency.check import Checker
from tintype.consistency.runs import Runs
from tintype.model import checkpoint
from tintype.model.check import Mode, Order, RunState
from tintype.model.errors import (
    AttemptTooOld,
    RunInProgress,
    RunNotFound,
    StorageRefused,
    StorageUnavailable,
    WrongPair,
)
from tintype.model.finding import Drift, FindingState, Settlement
from tintype.model.image import State
from tintype.model.upload import Arrival, Upload
from tintype.objects.info import Entry
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings, DatabaseSettings, ObjectsSettings

REPAIR = Order(repair=True)


class Killed(BaseException):
    """Nothing catches this."""


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    objects = Objects.open(ObjectsSettings(), tmp_path)
    await pair.claim(database, objects)
    yield World(database, objects, tmp_path / "objects")
    checkpoint.disarm()
    await objects.aclose()


@dataclass
class Torn:
    """A listing that fails when it has told some pages, or says nothing of some shards."""

    objects: Objects
    error: Exception
    shards: frozenset[str]

    async def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
        async for page in self.objects.entries(prefix, start_after):
            if prefix[-3:-1] in self.shards:
                yield page[:1]
                break
            yield page
        if prefix[-3:-1] in self.shards:
            raise self.error


def listing_by(world: World, listing: Torn) -> Runs:
    runs = world.runs(world.settings)
    checker = Checker(world.database, world.objects, world.settings, listing)
    return Runs(world.database, world.objects, world.settings, checker, runs.repairer)


async def state_of(world: World, image_id: object) -> str:
    ((state,),) = await world.fetch("SELECT state FROM images WHERE id = %s", image_id)
    return state


async def test_a_clean_store_is_clean_and_an_event_says_so(world: World) -> None:
    await world.upload(30)

    run = await world.check(Order())

    assert (run.clean, run.counts.objects, run.counts.rows) == (True, 30, 30)
    assert run.counts.parts == run.counts.parts_done > 256
    ((payload,),) = await world.fetch("SELECT payload FROM events WHERE kind = 'consistency.finished'")
    assert payload["summary"] == "The check of 30 objects and 30 rows found nothing."


async def test_an_object_whose_row_may_still_come_is_left_alone(world: World) -> None:
    await world.put(Upload("local", "new.png", None, "raw"), b"new")
    runs = world.runs(ConsistencySettings())

    run = await world.check(REPAIR, runs)

    assert (run.findings, run.counts.young, run.clean) == (0, 1, True)


async def test_a_stale_plan_applied_late_destroys_nothing(world: World) -> None:
    """Immich #30933: files that a report had called untracked were deleted after they had become assets."""
    upload = Upload("local", "late.png", None, "raw")
    arrival = await world.put(upload, b"the original")
    await asyncio.sleep(0.1)
    report = await world.check(Order())
    (finding,) = await world.findings(report)
    assert finding.kind is Drift.OBJECT_WITHOUT_ROW

    async with Commits.open(world.database) as commits:
        await commits.commit(arrival)
    await world.checks.repair(report.id, Order(confirmed=True))
    await world.checks.work(report.id)

    (finding,) = await world.findings(report)
    assert (finding.state, finding.note) == (FindingState.SKIPPED, "There is a row for this object by now.")
    assert await world.objects.head(original_key(upload.id)) is not None


async def test_a_row_that_comes_while_its_object_is_copied_keeps_its_object(world: World) -> None:
    upload = Upload("local", "late.png", None, "raw")
    arrival = await world.put(upload, b"the original")
    await asyncio.sleep(0.1)

    async def commit() -> None:
        async with (
            Database.open(world.database.url, DatabaseSettings()) as database,
            Commits.open(database) as commits,
        ):
            await commits.commit(arrival)

    def meanwhile() -> None:
        other = threading.Thread(target=lambda: asyncio.run(commit()))
        other.start()
        other.join()

    checkpoint.arm("after-quarantine-copy", meanwhile)
    run = await world.check(Order(repair=True, confirmed=True))

    (finding,) = await world.findings(run)
    assert (finding.state, finding.note) == (
        FindingState.SKIPPED,
        "A row came while the object was copied; nothing was taken away.",
    )
    assert await world.objects.head(original_key(upload.id)) is not None
    checkpoint.disarm()
    assert (await world.check(Order())).clean


async def test_what_is_no_longer_true_is_skipped_and_said(world: World) -> None:
    gone, back, trashed = await world.upload(3)
    for image in (gone, back, trashed):
        world.file(image).rename(f"{world.file(image)}.aside")
    report = await world.check(Order())
    assert report.findings == 3

    world.file(back).parent.joinpath(f"{back.id}.aside").rename(world.file(back))
    async with world.database.transaction("local") as tx:
        await trash(tx, "local", trashed.id)
    await world.execute("UPDATE images SET purged_at = now() WHERE id = %s", trashed.id)
    await world.checks.repair(report.id, Order())
    await world.checks.work(report.id)

    told = {each.image_id: (each.state, each.note) for each in await world.findings(report)}
    assert told[gone.id][0] is FindingState.REPAIRED
    assert told[back.id] == (FindingState.SKIPPED, "The object is there.")
    assert told[trashed.id] == (FindingState.SKIPPED, "The image was deleted, or given up, since.")


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(world: World) -> None:
    (image,) = await world.upload(1)
    await Damage(world, random.Random(1)).remove_object(image)

    run = await world.check(Order(repair=True, dry_run=True))

    (finding,) = await world.findings(run)
    assert finding.state is FindingState.OPEN
    assert finding.note == "A repair would mark the image as missing. The bytes are lost."
    assert await state_of(world, image.id) == "ready"


async def test_lost_bytes_are_brought_back_from_quarantine(world: World) -> None:
    (image,) = await world.upload(1)
    await world.execute("DELETE FROM images WHERE id = %s", image.id)
    await world.execute("DELETE FROM events WHERE image_id = %s", image.id)
    first = await world.check(Order(repair=True, confirmed=True))
    assert [each.action for each in await world.findings(first)] == [Settlement.QUARANTINED]

    async with Commits.open(world.database) as commits:
        upload = Upload(image.owner, image.filename, None, "raw", id=image.id)
        await commits.commit(Arrival(upload, image.facts, image.size, image.sha256, image.etag))
    second = await world.check(REPAIR)

    assert [each.action for each in await world.findings(second)] == [Settlement.RECOVERED]
    assert world.file(image).stat().st_size == image.size
    assert (await world.check(Order())).clean


async def test_the_trash_is_checked_too_and_what_has_no_bytes_stays_in_it(world: World) -> None:
    kept, lost = await world.upload(2)
    for image in (kept, lost):
        async with world.database.transaction("local") as tx:
            await trash(tx, "local", image.id)
    await world.objects.delete(original_key(lost.id))

    run = await world.check(REPAIR)

    assert [each.image_id for each in await world.findings(run)] == [lost.id]
    async with world.database.transaction("local") as tx:
        assert (await restore(tx, "local", kept.id)).state is State.READY


async def test_a_listing_that_fails_gives_no_verdict_about_what_it_did_not_read(world: World) -> None:
    images = await world.upload(60)
    shard = f"{images[0].id.bytes[-1]:02x}"
    torn = Torn(world.objects, StorageUnavailable("S3 does not answer."), frozenset({shard}))

    run = await world.check(REPAIR, listing_by(world, torn))

    assert (run.state, run.reason) == (RunState.FAILED, "S3 does not answer.")
    assert run.findings == 0
    assert {await state_of(world, image.id) for image in images} == {"ready"}
    with pytest.raises(RunNotFound, match="did not look at everything"):
        await world.checks.repair(run.id, Order())


async def test_without_the_permission_to_list_a_run_fails_with_its_name(world: World) -> None:
    await world.upload(1)
    refused = StorageRefused("s3://bucket refuses to be listed: the credentials need s3:ListBucket.")
    torn = Torn(world.objects, refused, frozenset(f"{shard:02x}" for shard in range(256)))

    run = await world.check(Order(), listing_by(world, torn))

    assert run.state is RunState.FAILED
    assert "s3:ListBucket" in (run.reason or "")


async def test_a_listing_that_says_nothing_makes_no_image_missing(world: World) -> None:
    """Absence is a definite 404 on the very key, never a listing's silence."""
    images = await world.upload(20)

    class Silent:
        async def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
            for page in ([(prefix, 0, start_after)],)[:0]:
                yield page

    checker = Checker(world.database, world.objects, world.settings, Silent())
    runs = Runs(world.database, world.objects, world.settings, checker, world.checks.repairer)

    run = await world.check(REPAIR, runs)

    assert (run.findings, run.counts.rows, run.counts.objects) == (0, 20, 0)
    assert {await state_of(world, image.id) for image in images} == {"ready"}


async def test_too_many_removals_stop_a_repair_until_a_person_confirms(world: World) -> None:
    images = await world.upload(60)
    for image in images[:30]:
        await world.objects.delete(original_key(image.id))

    run = await world.check(REPAIR)

    assert run.state is RunState.STOPPED
    assert "30 of 30 objects" in (run.reason or "")
    assert {await state_of(world, image.id) for image in images} == {"ready"}
    await world.checks.repair(run.id, Order(confirmed=True))
    await world.checks.work(run.id)
    assert {await state_of(world, image.id) for image in images[:30]} == {"missing"}


async def test_a_restored_database_stops_a_repair_and_is_brought_up_by_adopting(world: World) -> None:
    images = await world.upload(5)
    await world.execute("DELETE FROM images WHERE id = ANY(%s)", [image.id for image in images])
    await world.execute("DELETE FROM events")

    run = await world.check(REPAIR)

    assert run.state is RunState.STOPPED
    assert "restored database" in (run.reason or "")
    await world.checks.repair(run.id, Order(adopting=True))
    await world.checks.work(run.id)
    assert {each.action for each in await world.findings(run)} == {Settlement.ADOPTED}
    rows = await world.fetch("SELECT id, filename, tags, state FROM images ORDER BY id")
    assert rows == [
        (image.id, image.filename, ["seeded"], "ready") for image in sorted(images, key=lambda i: i.id)
    ]
    assert (await world.check(Order())).clean


async def test_one_run_at_a_time_and_the_other_is_told_which(world: World) -> None:
    run = await world.checks.begin(Order())

    with pytest.raises(RunInProgress) as refused:
        await world.checks.begin(Order())

    assert refused.value.details == {"run": f"/v1/consistency/runs/{run.id}"}
    cancelled = await world.checks.cancel(run.id)
    assert cancelled.state is RunState.CANCELLED
    assert await world.checks.work(run.id)
    assert (await world.check(Order())).clean


async def test_who_asks_for_the_same_may_work_on_a_run_whoever_began_it_or_only_on_its_own(
    world: World,
) -> None:
    run = await world.checks.begin(Order(Mode.FULL, asked_by="schedule"))

    assert run.is_as(Order(Mode.FULL), undoing=False, whoever_asked=True)
    assert not run.is_as(Order(Mode.FULL), undoing=False, whoever_asked=False)
    assert not run.is_as(Order(Mode.QUICK), undoing=False, whoever_asked=True)
    assert not run.is_as(Order(Mode.FULL), undoing=True, whoever_asked=True)


async def test_two_workers_at_once_find_and_settle_each_thing_once(world: World) -> None:
    images = await world.upload(60)
    for image in images[:15]:
        await world.objects.delete(original_key(image.id))
    run = await world.checks.begin(REPAIR)

    await asyncio.gather(*(world.runs(world.settings).work(run.id) for _ in range(2)))

    found = await world.findings(run)
    assert sorted(each.image_id.hex for each in found if each.image_id) == sorted(
        i.id.hex for i in images[:15]
    )
    assert {each.state for each in found} == {FindingState.REPAIRED}
    ((told,),) = await world.fetch("SELECT count(*) FROM events WHERE kind = 'image.missing'")
    assert told == 15


async def test_whoever_lost_its_lease_writes_nothing_more(world: World) -> None:
    run = await world.checks.begin(Order())
    async with world.database.transaction(EVERY_OWNER) as tx:
        first = await checks.claim(tx, run.id, lease_seconds=0)
        assert first is not None
    async with world.database.transaction(EVERY_OWNER) as tx:
        second = await checks.claim(tx, run.id, lease_seconds=60)
        assert second is not None
        assert (second.name, second.fence) == (first.name, first.fence + 1)
        tally = checks.Tally(objects=7)
        assert not await checks.save(tx, first, tally, "", 60)
        assert await checks.save(tx, second, tally, "", 60)
        assert (await checks.find(tx, run.id)).counts.objects == 7


async def test_a_worker_that_is_killed_leaves_its_checkpoint_to_the_next(world: World) -> None:
    images = await world.upload(80)
    world.settings = ConsistencySettings(grace_seconds=0.05, lease_seconds=0.2, at_once=1)
    runs = world.runs(world.settings)
    run = await runs.begin(Order())
    steps = 0

    def die() -> None:
        nonlocal steps
        steps += 1
        if steps == 40:
            raise Killed

    checkpoint.arm("after-check-step", die)
    with pytest.raises(Killed):
        await runs.work(run.id)
    checkpoint.disarm()
    halfway = await runs.find(run.id)
    assert 30 <= halfway.counts.parts_done < 60

    assert await world.runs(world.settings).work(run.id)

    whole = await runs.find(run.id)
    assert (whole.clean, whole.counts.objects, whole.counts.rows) == (True, len(images), len(images))


async def test_work_stops_at_its_deadline_and_goes_on_in_the_next_turn(world: World) -> None:
    await world.upload(40)
    run = await world.checks.begin(Order())
    turns = 0

    while not await world.checks.work(run.id, asyncio.get_running_loop().time() + 0.05):
        turns += 1

    assert turns > 0
    assert (await world.checks.find(run.id)).clean


async def test_a_repair_that_was_killed_between_copy_and_delete_is_done_by_the_next(world: World) -> None:
    upload = Upload("local", "orphan.png", None, "raw", id=id_of(ago(days=2)))
    await world.put(upload, b"nobody knows")
    run = await world.checks.begin(Order(repair=True, confirmed=True))

    def die() -> None:
        raise Killed

    checkpoint.arm("after-quarantine-copy", die)
    with pytest.raises(Killed):
        await world.checks.work(run.id)
    checkpoint.disarm()
    assert await world.objects.head(original_key(upload.id)) is not None

    assert await world.checks.work(run.id)

    assert await world.objects.head(original_key(upload.id)) is None
    await world.checks.undo(run.id, "a test")
    await world.checks.work(run.id)
    assert b"".join([b async for b in world.objects.read(original_key(upload.id))]) == b"nobody knows"


async def test_a_deep_check_keeps_to_its_budget_and_reads_the_oldest_first(world: World) -> None:
    await world.upload(6, lambda number: bytes([number]) * 100)
    runs = world.runs(ConsistencySettings(deep_bytes=250))
    read: list[int] = []

    for _ in range(3):
        run = await world.check(Order(Mode.DEEP), runs)
        read.append(run.counts.bytes_read)

    assert read == [200, 200, 200]
    read_so = await world.fetch("SELECT id FROM images ORDER BY last_verified_at, created_at, id")
    assert read_so == await world.fetch("SELECT id FROM images ORDER BY created_at, id")


async def test_what_was_read_long_ago_comes_before_what_was_stored_since(world: World) -> None:
    """Or else a store that grows faster than the budget would never be read a second time."""
    (old,) = await world.upload(1)
    await world.execute("UPDATE images SET last_verified_at = now() - interval '400 days'")
    await world.upload(1)
    runs = world.runs(ConsistencySettings(deep_bytes=1))

    async with world.database.reading(EVERY_OWNER) as tx:
        assert await comparison.oldest_unverified_age(tx) > 399 * 86_400
    await world.check(Order(Mode.DEEP), runs)

    ((verified,),) = await world.fetch(
        "SELECT last_verified_at > now() - interval '1 day' FROM images WHERE id = %s", old.id
    )
    assert verified
    async with world.database.reading(EVERY_OWNER) as tx:
        assert await comparison.oldest_unverified_age(tx) < 86_400


async def test_wrong_bytes_are_found_by_each_deep_check_until_something_is_done(world: World) -> None:
    images = await world.upload(4)
    damage = Damage(world, random.Random(1))
    await damage.flip_silently(images[0])
    world.file(images[1]).unlink()

    for _ in range(2):
        run = await world.check(Order(Mode.DEEP))
        assert {(each.image_id, each.kind) for each in await world.findings(run)} == {
            (images[0].id, Drift.CONTENT_DIFFERS),
            (images[1].id, Drift.ROW_WITHOUT_OBJECT),
        }

    rows = await world.fetch("SELECT id FROM images WHERE last_verified_at IS NOT NULL")
    assert {image_id for (image_id,) in rows} == {images[2].id, images[3].id}


async def test_what_a_closer_look_found_is_drift_until_something_is_done(world: World) -> None:
    flipped, spoilt, whole = await world.upload(3)
    damage = Damage(world, random.Random(1))
    assert await drift(world) is None
    await damage.flip_silently(flipped)
    await damage.spoil_label(spoilt)
    found = {Drift.CONTENT_DIFFERS: 1, Drift.METADATA_DIFFERS: 1}

    await world.check(Order(Mode.DEEP))
    assert (await world.check(Order())).clean
    assert await drift(world) == found
    await damage.remove_object(whole)
    await world.check(Order())
    assert await drift(world) == found | {Drift.ROW_WITHOUT_OBJECT: 1}

    await world.check(Order(Mode.FULL, repair=True))
    await world.check(Order())
    assert await drift(world) == {Drift.CONTENT_DIFFERS: 1}
    await world.check(Order(Mode.DEEP, repair=True))
    await world.check(Order())
    assert await drift(world) == {}


async def drift(world: World) -> dict[str, int] | None:
    async with world.database.reading(EVERY_OWNER) as tx:
        return await checks.drift(tx)


async def test_foreign_keys_are_counted_and_left_alone(world: World) -> None:
    (image,) = await world.upload(1)
    shard = world.file(image).parent
    strange = [shard / "notes.txt", world.root / "originals" / "zz" / "x", world.root / "elsewhere"]
    hidden = [shard / ".DS_Store", world.root / "originals" / ".nfs0000000000c0ffee"]
    for path in (*strange, *hidden):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))

    run = await world.check(Order(repair=True, confirmed=True))

    assert (run.findings, run.counts.foreign) == (0, 3)
    assert all(path.read_text() == "mine" for path in (*strange, *hidden))


async def test_an_empty_mount_is_noticed_before_anything_is_judged(world: World, tmp_path: Path) -> None:
    await world.upload(1)
    empty = Objects.open(ObjectsSettings(), tmp_path / "elsewhere")
    world.objects = empty

    with pytest.raises(WrongPair):
        await world.runs(world.settings).begin(Order())

    await empty.aclose()


async def test_a_commit_refuses_what_the_check_may_already_take(database_url: str, world: World) -> None:
    """Fence and grace are settings; the grace is always the longer one."""
    arrival = await world.put(Upload("local", "slow.png", None, "raw"), b"slow")
    async with Database.open(database_url, DatabaseSettings(attempt_seconds=0.2)) as database:
        await asyncio.sleep(0.4)
        async with Commits.open(database) as commits:
            with pytest.raises(AttemptTooOld):
                await commits.commit(arrival)


async def test_drifted_counters_of_quotas_are_counted_anew(world: World) -> None:
    await world.upload(3, lambda number: bytes([number]) * 10)
    await world.execute(
        "INSERT INTO quota_usage (owner, bytes, images, counted_at) VALUES ('local', 5, 1, now())"
    )

    run = await world.check(REPAIR)

    assert [(each.kind, each.action) for each in await world.findings(run)] == [
        (Drift.QUOTA_DRIFTED, Settlement.RECOUNTED)
    ]
    assert await world.fetch("SELECT bytes, images FROM quota_usage") == [(30, 3)]


async def test_a_sidecar_waits_for_its_object_as_long_as_there_is_a_row(world: World) -> None:
    (image,) = await world.upload(1)
    world.file(image).unlink()
    os.utime(world.sidecar(image), (0, 0))

    run = await world.check(Order(repair=True))

    assert {each.kind for each in await world.findings(run)} == {Drift.ROW_WITHOUT_OBJECT}
    assert world.sidecar(image).exists()


async def test_an_unknown_run_is_no_run(world: World) -> None:
    with pytest.raises(RunNotFound):
        await world.checks.find(uuid4())
    with pytest.raises(RunNotFound):
        await world.checks.undo(uuid4(), "a test")
