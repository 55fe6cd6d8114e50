"""S3 Inventory as a listing: sorted, complete, and refused when it is damaged."""

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bodies import in_memory
from consistency import bucket_world
from consistency.damage import World
from s3_servers import S3Server
from tintype.catalogue.database import Database
from tintype.consistency import inventory, pair
from tintype.consistency.inventory import Inventories
from tintype.consistency.merge import stretches
from tintype.model.check import Order, RunState
from tintype.model.errors import RequestInvalid, StorageUnavailable
from tintype.model.finding import Drift
from tintype.model.ids import new_id
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

MANIFEST = "inventory/photos/all/2026-11-22T01-00Z/manifest.json"
SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"


@pytest.fixture
async def store(moto_s3: S3Server, tmp_path: Path) -> AsyncIterator[Objects]:
    """The bucket into which S3 delivers inventories."""
    objects = Objects.open(moto_s3.new_bucket(), tmp_path)
    yield objects
    await objects.aclose()


def rows_of(entries: list[tuple[str, int, str]], below: str = "") -> list[list[str]]:
    return [
        ["photos", f"{below}{key}", "v", "true", "false", str(size), "2026-11-21T00:00:00.000Z", etag]
        for key, size, etag in entries
    ]


async def deliver(store: Objects, parts: list[list[list[str]]], **changes: object) -> None:
    """Write an inventory as S3 does."""
    described: list[dict[str, object]] = []
    for number, rows in enumerate(parts):
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
        data = gzip.compress(text.getvalue().encode())
        key = f"inventory/photos/all/data/{number}.csv.gz"
        await store.put(key, in_memory(data), content_type="application/gzip", metadata={})
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        described.append({"key": key, "size": len(data), "MD5checksum": md5})
    manifest: dict[str, object] = {
        "sourceBucket": "photos",
        "version": "2016-11-30",
        "creationTimestamp": "1795309200000",
        "fileFormat": "CSV",
        "fileSchema": SCHEMA,
        "files": described,
    }
    data = json.dumps(manifest | changes).encode()
    await store.put(MANIFEST, in_memory(data), content_type="application/json", metadata={})


async def listed(store: Objects, spool: Path, below: str = "") -> list[tuple[str, int, str]]:
    async with inventory.opened(store, MANIFEST, spool, below) as kept:
        return [
            entry
            for shard in range(256)
            async for page in kept.entries(f"originals/{shard:02x}/")
            for entry in page
        ]


async def test_an_inventory_in_any_order_lists_in_the_order_of_keys(store: Objects, tmp_path: Path) -> None:
    entries = [(original_key(new_id()), size, f"e{size}") for size in range(1, 3000)]
    shuffled = random.Random(4).sample(entries, len(entries))
    await deliver(store, [rows_of(shuffled[:1000]), rows_of(shuffled[1000:])])

    assert await listed(store, tmp_path) == sorted(entries)


async def test_older_versions_delete_markers_and_foreign_keys_are_no_originals(
    store: Objects, tmp_path: Path
) -> None:
    kept, old, gone = [(original_key(new_id()), 5, "e") for _ in range(3)]
    rows = rows_of([kept, old, gone, ("incoming/x", 1, "e"), ("other.txt", 1, "e")])
    rows[1][3], rows[2][4] = "false", "true"
    await deliver(store, [rows])

    assert await listed(store, tmp_path) == [kept]


async def test_a_prefix_of_the_bucket_and_encoded_keys_are_understood(store: Objects, tmp_path: Path) -> None:
    entry = (original_key(new_id()), 5, "e")
    rows = rows_of([entry], below="some+place/")
    rows[0][1] = rows[0][1].replace("/", "%2F")
    await deliver(store, [rows])

    assert await listed(store, tmp_path, below="some place") == [entry]


async def test_it_goes_on_behind_a_key(store: Objects, tmp_path: Path) -> None:
    first, second = sorted((f"originals/07/{new_id()}", 1, "e") for _ in range(2))
    await deliver(store, [rows_of([second, first])])

    async with inventory.opened(store, MANIFEST, tmp_path) as kept:
        pages = [page async for page in kept.entries("originals/07/", first[0])]
    assert pages == [[second]]
    assert kept.count == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"fileFormat": "ORC"},
        {"fileSchema": "Bucket, Key"},
        {"files": [{"key": "inventory/photos/all/data/0.csv.gz", "MD5checksum": "0" * 32}]},
    ],
)
async def test_one_that_is_damaged_or_of_another_form_is_refused(
    store: Objects, tmp_path: Path, changes: dict[str, object]
) -> None:
    await deliver(store, [rows_of([(original_key(new_id()), 5, "e")])], **changes)

    with pytest.raises(StorageUnavailable):
        await listed(store, tmp_path)


async def test_a_check_by_inventory_sees_the_differences(
    store: Objects, database: Database, tmp_path: Path
) -> None:
    bucket = Objects.open(ObjectsSettings(), tmp_path)
    async with bucket_world.opened(database, bucket, tmp_path) as world:
        stored = [await world.store(f"{number}") for number in range(20)]
    entries = [(original_key(image.id), image.size, image.etag) for image in stored]
    entries[3] = (entries[3][0], entries[3][1], "other")
    await deliver(store, [rows_of(entries[1:])])

    different: set[str] = set()
    async with inventory.opened(store, MANIFEST, tmp_path) as kept:
        for shard in range(256):
            async for stretch in stretches(database, kept, shard, ""):
                different |= {key for key, _, _ in (*stretch.alone, *stretch.lonely)}
    await bucket.aclose()

    assert different == {entries[0][0], entries[3][0]}


MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
async def world(moto_s3: S3Server, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    """A bucket of images, whose inventories are delivered into another one."""
    place = moto_s3.new_bucket()
    objects = Objects.open(place, tmp_path)
    await pair.claim(database, objects)
    world = World(database, objects, tmp_path / "objects", keeps_etags=False)
    world.checks = replace(world.checks, inventories=Inventories(place, tmp_path))
    yield world
    await objects.aclose()


async def deliver_of(world: World, store: Objects, later: timedelta, **changes: object) -> Order:
    """Have the inventory made of what is in the bucket, as if so much later; return who looks by it."""
    entries = [entry async for page in world.objects.entries("originals/", "") for entry in page]
    source = world.objects.location.removeprefix("s3://")
    stamp = str(round((datetime.now(UTC) + later).timestamp() * 1000))
    await deliver(store, [rows_of(entries)], **{"sourceBucket": source, "creationTimestamp": stamp} | changes)
    return Order(repair=True, confirmed=True, inventory=f"{store.location}/{MANIFEST}")


async def test_a_check_by_inventory_finds_what_one_by_listing_finds(world: World, store: Objects) -> None:
    lost, orphan, *_ = await world.upload(5)
    await world.objects.delete(original_key(lost.id))
    await world.execute("DELETE FROM images WHERE id = %s", orphan.id)
    await world.execute("DELETE FROM events WHERE image_id = %s", orphan.id)
    order = await deliver_of(world, store, MINUTE)

    run = await world.check(order)

    assert (run.state, run.order.inventory) == (RunState.COMPLETE, order.inventory)
    assert {(each.kind, each.image_id) for each in await world.findings(run)} == {
        (Drift.ROW_WITHOUT_OBJECT, lost.id),
        (Drift.OBJECT_WITHOUT_ROW, orphan.id),
    }
    assert (await world.check(Order())).clean


async def test_nothing_newer_than_the_inventory_is_judged(world: World, store: Objects) -> None:
    order = await deliver_of(world, store, -DAY)
    newer = await world.upload(3)
    await world.objects.delete(original_key(newer[0].id))

    run = await world.check(order)

    assert (run.findings, run.counts.objects, run.counts.rows, run.counts.young) == (0, 0, 3, 3)


async def test_what_an_old_inventory_says_is_looked_at_again(world: World, store: Objects) -> None:
    images = await world.upload(4)
    await world.objects.delete(original_key(images[0].id))
    order = await deliver_of(world, store, MINUTE)
    await world.execute("DELETE FROM images WHERE id = %s", images[1].id)
    await world.objects.delete(original_key(images[1].id))
    await world.execute("UPDATE images SET etag = 'another' WHERE id = %s", images[2].id)

    run = await world.check(order)

    told = {each.image_id: each.kind for each in await world.findings(run)}
    assert told == {images[0].id: Drift.ROW_WITHOUT_OBJECT, images[2].id: Drift.CONTENT_DIFFERS}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sourceBucket": "another"}, "an inventory of another"),
        ({"fileFormat": "Parquet"}, "Let S3 Inventory write CSV"),
        ({"files": [{"key": "inventory/gone.csv.gz", "MD5checksum": "0" * 32}]}, "is not in s3://"),
    ],
)
async def test_a_run_by_an_inventory_that_cannot_be_used_fails_and_judges_nothing(
    world: World, store: Objects, changes: dict[str, object], said: str
) -> None:
    (image,) = await world.upload(1)
    await world.objects.delete(original_key(image.id))
    order = await deliver_of(world, store, timedelta(), **changes)

    run = await world.check(order)

    assert (run.state, run.findings) == (RunState.FAILED, 0)
    assert said in (run.reason or "")


async def test_a_manifest_that_is_not_there_fails_the_run(world: World, store: Objects) -> None:
    run = await world.check(Order(inventory=f"{store.location}/none/manifest.json"))

    assert (run.state, run.reason) == (
        RunState.FAILED,
        f"There is no none/manifest.json in {store.location}.",
    )


async def test_of_a_folder_there_is_no_inventory(database: Database, tmp_path: Path) -> None:
    objects = Objects.open(ObjectsSettings(), tmp_path)
    world = World(database, objects, tmp_path / "objects")

    with pytest.raises(RequestInvalid, match="Check without one"):
        await world.checks.begin(Order(inventory="s3://somewhere/manifest.json"))
    await objects.aclose()
