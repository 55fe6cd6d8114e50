"""The power goes under load: from what a laptop's disk has, it starts clean, with all that was acknowledged.

Two disks: one that has everything that was written up to an instant, and one that has nothing but what it had
been asked to sync.
"""

import asyncio
import os
import random
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from faults.disk import Call, Disk, calls, needs_strace, traced
from faults.ledger import Ledger, Upload, published, serving, uploads
from faults.patience import Patient
from faults.plug import frozen, pull
from faults.table import LONG, Row, record
from service import COMMAND, Service

CUTS = 10 if LONG else 1
TRACED_UPLOADS = 400 if LONG else 25
SEED = int(os.environ.get("POWER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CLIENTS = 4
LOAD_SECONDS = (0.3, 2.0)
WAL = Path("postgres", "data", "pg_wal")
LINKED = re.compile(
    r'/proc/self/fd/(?P<file>\d+)", '
    r'\d+<(?P<folder>[^>]+/objects/originals/[^>]+)>, "(?P<image>[0-9a-f-]{36})"'
)
ANSWERED = re.compile(r'"HTTP/1\.1 20[01] .*/v1/images/([0-9a-f-]{36})')


@asynccontextmanager
async def loaded(endless: Iterator[Upload], ledger: Ledger, client: Patient) -> AsyncIterator[None]:
    """Have clients send meanwhile."""
    clients = [asyncio.create_task(ledger.send_all(endless, client)) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for each in clients:
            each.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
    assert [each for each in ended if not isinstance(each, asyncio.CancelledError)] == []


def copy_of(service: Service, ledger: Ledger, copy: Path) -> Ledger:
    """Copy the folder of a service as it is at one instant, and return what was acknowledged by then."""
    with frozen(service):
        subprocess.run(["cp", "--archive", service.data_dir, copy], check=True)
        return Ledger(dict(ledger.told))


@dataclass(frozen=True)
class Missed:
    """What is not as it has to be after a start; by default, nothing."""

    lost: list[str] = field(default_factory=list[str])
    """Of what was acknowledged."""
    alone: set[str] = field(default_factory=set[str])
    """Images without their event, and events without their image."""
    unpublished: set[str] = field(default_factory=set[str])
    findings: int = 0
    """Of a check that reads every byte."""


async def missed_in(folder: Path, ledger: Ledger) -> Missed:
    """Start Tintype in a folder, and look at everything."""
    async with serving(folder) as (service, client):
        lost = await ledger.lost(client)
        stored, told = await client.stored(), await client.told()
        events = {event for each in told.values() for event in each}
        unpublished = events - await published(service, events)
        checked = await client.deep_check()
        assert checked["state"] == "complete", checked
    return Missed(lost, set(told) ^ set(stored), unpublished, checked["findings"]["total"])


@pytest.mark.faults
@pytest.mark.timeout(120 + 60 * CUTS)
async def test_a_copy_of_any_instant_under_load_starts_clean_with_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """Everything is frozen for the copy: a database's folder tells one story only as of one instant."""
    print(f"POWER_SEED={SEED}")  # noqa: T201 # shown when it fails
    chance, endless, ledger = random.Random(SEED), uploads(random.Random(SEED)), Ledger()
    missed: list[Missed] = []
    async with serving(tmp_path / "data") as (service, client):
        for _ in range(CUTS):
            async with loaded(endless, ledger, client):
                await asyncio.sleep(chance.uniform(*LOAD_SECONDS))
                by_then = await asyncio.to_thread(copy_of, service, ledger, tmp_path / "copy")
            missed.append(await missed_in(tmp_path / "copy", by_then))
            shutil.rmtree(tmp_path / "copy")
    lost = sum(len(each.lost) for each in missed)
    record(Row(f"Power loss: all that was written is there (seed {SEED})", CUTS, len(ledger.told), lost, 0))
    assert missed == [Missed()] * CUTS
    assert ledger.told


@needs_strace
@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_disk_that_has_only_what_it_was_asked_to_sync_starts_clean_with_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """Of PostgreSQL's folder, too, all is taken that was not synced, except for parts of its log."""
    print(f"POWER_SEED={SEED}")  # noqa: T201 # shown when it fails
    chance, endless, ledger = random.Random(SEED), uploads(random.Random(SEED)), Ledger()
    folder, before, trace = tmp_path / "data", tmp_path / "before", tmp_path / "trace"
    async with serving(folder):
        pass
    subprocess.run(["cp", "--archive", folder, before], check=True)  # noqa: ASYNC221 # nobody waits
    async with (
        serving(folder, traced(COMMAND, trace)) as (service, client),
        loaded(endless, ledger, client),
    ):
        while len(ledger.told) < TRACED_UPLOADS:  # noqa: ASYNC110 # a moment is no event of anybody's
            await asyncio.sleep(0.002)
        await asyncio.sleep(chance.uniform(0, 0.1))
        await asyncio.to_thread(pull, service)

    steps = Steps.of(list(calls(trace)))
    for images in ledger.told.values():
        for image in images:
            assert len(steps.in_order(image)) == 5, "bytes, name, folder, commit, answer"
    taken = Disk(folder, before, home=folder / "postgres" / "data").follow(trace).cut_power(folder / WAL)
    print(*taken, sep="\n")  # noqa: T201 # shown when it fails
    missed = await missed_in(folder, ledger)
    acknowledged, lost = len(ledger.told), len(missed.lost)
    record(Row(f"Power loss: only what was synced is there (seed {SEED})", 1, acknowledged, lost, 0))
    assert missed == Missed()
    assert taken


@needs_strace
async def test_the_first_images_of_a_first_start_survive_on_such_a_disk(tmp_path: Path) -> None:
    """What PostgreSQL wrote is left here: of a new database, there is no earlier state to go back to."""
    (tmp_path / "home").mkdir()
    (tmp_path / "before").mkdir()
    folder, trace = tmp_path / "home" / "data", tmp_path / "trace"
    postgres, ledger = folder / "postgres" / "data", Ledger()
    async with serving(folder, traced(COMMAND, trace)) as (service, client):
        await ledger.send_all(islice(uploads(random.Random(1)), 3), client)
        await asyncio.to_thread(pull, service)

    disk = Disk(tmp_path / "home", tmp_path / "before", home=postgres.with_name("data.new"))
    print(*disk.follow(trace).cut_power(postgres), sep="\n")  # noqa: T201 # shown when it fails

    assert await missed_in(folder, ledger) == Missed()


@dataclass
class Steps:
    """The steps of uploads, as the record of a service's calls has them."""

    syncs: list[Call]
    links: dict[str, Call]
    """The call that made an original visible, by image."""
    answers: dict[str, Call]
    """The first call that told of an image to its client."""

    @classmethod
    def of(cls, record: list[Call]) -> "Steps":
        links: dict[str, Call] = {}
        answers: dict[str, Call] = {}
        for call in record:
            if call.name == "linkat" and (found := LINKED.search(call.text)):
                links[found["image"]] = call
            elif call.path.startswith("socket:") and (found := ANSWERED.search(call.text)):
                answers.setdefault(found[1], call)
        return cls([call for call in record if call.name in ("fsync", "fdatasync")], links, answers)

    def in_order(self, image: str) -> list[Call]:
        """Return the syncs of its bytes, of its folder and of the database's log between name and answer."""
        link, answer = self.links[image], self.answers[image]
        linked = LINKED.search(link.text)
        assert linked is not None
        own = f"{linked['file']}<"
        bytes_synced = [
            each for each in self.syncs if each.thread == link.thread and each.ended < link.began
        ][-1:]
        assert all(each.text.startswith(own) for each in bytes_synced), bytes_synced
        names_synced = self._between(link, answer, linked["folder"])
        committed = self._between(names_synced[0], answer, str(WAL)) if names_synced else []
        return [*bytes_synced, link, *names_synced[:1], *committed[:1], answer]

    def _between(self, first: Call, last: Call, where: str) -> list[Call]:
        return [
            each
            for each in self.syncs
            if where in each.path and first.ended < each.began and each.ended < last.began
        ]
