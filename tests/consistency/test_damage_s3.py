"""The same in a bucket with versions: damage found, settled, and taken back; parts that nobody completes."""

import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalogue.arrivals import ago, id_of
from consistency.damage import Damage, World, new_seed
from s3_servers import S3Server
from scripted_s3 import ScriptedS3, answers, error
from tintype.catalogue.database import Database
from tintype.consistency import pair
from tintype.model.check import Mode, Order, RunState
from tintype.model.finding import Drift, FindingState, Settlement
from tintype.model.image import Image
from tintype.objects.info import Fragment
from tintype.objects.keys import INCOMING, original_key
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

OF_EACH = 3
FINAL = {Settlement.DELETED, Settlement.NUDGED, Settlement.SWEPT, Settlement.RECOUNTED}


@pytest.fixture
def place(moto_s3: S3Server) -> ObjectsSettings:
    return moto_s3.new_bucket()


@pytest.fixture
async def objects(place: ObjectsSettings, tmp_path: Path) -> AsyncIterator[Objects]:
    objects = Objects.open(place, tmp_path)
    yield objects
    await objects.aclose()


@pytest.fixture
async def world(database: Database, objects: Objects, tmp_path: Path) -> World:
    await pair.claim(database, objects)
    return World(database, objects, tmp_path / "objects", keeps_etags=False)


def name_of(place: ObjectsSettings) -> str:
    return (place.url or "").removeprefix("s3://")


@dataclass
class BucketDamage(Damage):
    """Also what only a bucket can suffer."""

    client: "S3Client | None" = None
    bucket: str = ""

    def of_buckets(self) -> "list[Callable[[Image], Coroutine[Any, Any, None]]]":
        return [self.leave_parts, self.leave_parts_beside, self.leave_parts_of_an_upload]

    async def leave_parts(self, _image: Image) -> None:
        """An upload that was cancelled in the middle of its object."""
        self.begin_parts(original_key(id_of(ago(days=2))))

    async def leave_parts_beside(self, image: Image) -> None:
        """Two answers that were lost, before the object was stored after all."""
        self.begin_parts(original_key(image.id))
        self.begin_parts(original_key(image.id))

    async def leave_parts_of_an_upload(self, _image: Image) -> None:
        self.begin_parts(f"{INCOMING}{id_of(ago(days=2))}/direct")

    def begin_parts(self, key: str) -> None:
        assert self.client is not None
        self.client.create_multipart_upload(Bucket=self.bucket, Key=key)
        self.expected[key, Drift.UNFINISHED_PUT] = Settlement.DELETED


async def test_damage_to_a_bucket_is_found_settled_and_taken_back(
    world: World, place: ObjectsSettings, moto_s3: S3Server
) -> None:
    seed = new_seed()
    chance = random.Random(seed)
    damage = BucketDamage(world, chance, client=moto_s3.client(), bucket=name_of(place))
    kinds = damage.kinds() + damage.of_buckets()
    count = OF_EACH * len(kinds)
    images = await world.upload(count + 10, lambda _: chance.randbytes(chance.randrange(20, 300)))
    chance.shuffle(images)
    damage.others = images[count:]
    for number, image in enumerate(images[:count]):
        await kinds[number % len(kinds)](image)
    before = await world.snapshot()

    run = await world.check(Order(Mode.DEEP, repair=True, confirmed=True))

    found = {(each.key, each.kind): each.action for each in await world.findings(run)}
    assert found == damage.expected
    await world.publish()
    assert (await world.check(Order(Mode.FULL))).clean

    await world.checks.undo(run.id, "a test")
    assert await world.checks.work(run.id)
    final = {each for each, action in damage.expected.items() if action in FINAL}
    states = {(each.key, each.kind): each.state for each in await world.findings(run)}
    assert {each for each, state in states.items() if state is not FindingState.UNDONE} == final
    gone = {key for key, kind in final if kind is Drift.DELETED_BYTES_REMAIN}
    after = await world.snapshot()
    assert {key: told for key, told in before[0].items() if key not in gone} == after[0]
    assert before[1] == after[1]


async def test_lost_and_changed_bytes_come_back_from_older_versions(
    world: World, place: ObjectsSettings, moto_s3: S3Server
) -> None:
    client: S3Client = moto_s3.client()
    client.put_bucket_versioning(Bucket=name_of(place), VersioningConfiguration={"Status": "Enabled"})
    lost, changed, whole = await world.upload(3)
    await world.objects.delete(original_key(lost.id))
    await Damage(world, random.Random(1)).swap_bytes(changed)

    run = await world.check(Order(repair=True))

    assert {each.image_id: each.action for each in await world.findings(run)} == {
        lost.id: Settlement.RECOVERED,
        changed.id: Settlement.RECOVERED,
    }
    assert run.state is RunState.COMPLETE
    for image in (lost, changed, whole):
        info = await world.objects.head(original_key(image.id))
        assert info is not None
        assert info.sha256 == image.sha256
    assert (await world.check(Order(Mode.FULL))).clean


async def test_parts_that_nobody_completes_are_found_and_dropped(
    world: World, place: ObjectsSettings, moto_s3: S3Server
) -> None:
    client: S3Client = moto_s3.client()
    (image,) = await world.upload(1)
    key = "originals/00/01932c07-209c-7f3a-8f51-6b1d0a4be300"
    for each in (key, original_key(image.id)):
        client.create_multipart_upload(Bucket=name_of(place), Key=each)

    fragments = await world.objects.fragments("originals/")
    assert {each.key for each in fragments} == {key, original_key(image.id)}
    for each in fragments:
        await world.objects.discard(each)
        await world.objects.discard(each)
    assert await world.objects.fragments("originals/") == []
    await world.objects.discard(Fragment(key, "gone", datetime.now(UTC)))


async def test_a_bucket_that_may_not_be_listed_fails_a_run_with_the_permission_s_name(
    database: Database, bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    await pair.claim(database, bucket)
    world = World(database, bucket, tmp_path / "objects", keeps_etags=False)
    (image,) = await world.upload(1)
    s3.always("LIST", answers(error(403, "AccessDenied")))

    run = await world.check(Order(repair=True))

    assert run.state is RunState.FAILED
    assert "s3:ListBucket" in (run.reason or "")
    assert run.findings == 0
    assert await world.objects.head(original_key(image.id)) is not None
