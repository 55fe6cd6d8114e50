"""A thousand inconsistencies of every kind, made behind Tintype's back: found, settled, and taken back."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from consistency.damage import Damage, World, new_seed
from postgres import memory
from tintype.catalogue.database import Database
from tintype.consistency import pair
from tintype.model.check import Mode, Order, RunState
from tintype.model.finding import Drift, FindingState, Settlement
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

FINAL = {Settlement.DELETED, Settlement.NUDGED, Settlement.SWEPT, Settlement.RECOUNTED}
REPAIR = Order(Mode.DEEP, repair=True, confirmed=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is room: what syncs cost is not what is asked here."""
    found = memory() or tmp_path
    yield found
    shutil.rmtree(found)


async def test_a_thousand_inconsistencies_are_found_settled_and_taken_back(
    database: Database, folder: Path
) -> None:
    seed = new_seed()
    chance = random.Random(seed)
    objects = Objects.open(ObjectsSettings(), folder)
    await pair.claim(database, objects)
    world = World(database, objects, folder / "objects")
    images = await world.upload(1_100, lambda _: chance.randbytes(chance.randrange(20, 300)))
    chance.shuffle(images)
    damage = Damage(world, chance, images[1_000:])
    kinds = damage.kinds() + damage.of_folders()
    for number, image in enumerate(images[:1_000]):
        await kinds[number % len(kinds)](image)
    (world.root / "originals" / "notes.txt").write_text("somebody else's")
    assert len(damage.expected) == 1_000
    before = await world.snapshot()

    run = await world.check(REPAIR)

    assert run.state is RunState.COMPLETE
    found = {(each.key, each.kind): each.action for each in await world.findings(run)}
    assert found == damage.expected
    assert Counter(each.state for each in await world.findings(run)) == {FindingState.REPAIRED: 1_000}
    assert run.counts.foreign >= 1

    await world.publish()
    again = await world.check(REPAIR)
    assert (await world.findings(again), again.clean) == ([], True)

    await world.checks.undo(run.id, "a test")
    assert await world.checks.work(run.id)
    final = {each for each, action in damage.expected.items() if action in FINAL}
    states = {(each.key, each.kind): each.state for each in await world.findings(run)}
    assert {each for each, state in states.items() if state is not FindingState.UNDONE} == final
    gone = {key for key, kind in final if kind is Drift.DELETED_BYTES_REMAIN}
    after = await world.snapshot()
    assert {key: told for key, told in before[0].items() if key not in gone} == after[0]
    assert before[1] == after[1]
    await objects.aclose()
