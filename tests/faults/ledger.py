"""Uploads and what their clients were told of them, whatever became of the service meanwhile."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from faults.patience import Patient
from pictures import picture
from service import COMMAND, Service

SPOOLED_BYTES = "20000"
"""What all bodies together may hold in memory here: some go to memory, others to a file."""
FORMS = 0.3
"""So many of the uploads are forms; the others are plain bodies."""


@dataclass(frozen=True)
class Upload:
    """What a client sends until it hears of it, under a key that says that it is one thing."""

    key: str
    data: bytes
    as_form: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    async def send(self, client: Patient) -> str:
        """Return the id that is answered. Nothing but the key makes it one: equal bytes are kept twice."""
        head = {"Idempotency-Key": self.key}
        path = "/v1/images?on_duplicate=keep"
        if self.as_form:
            files = {"file": ("a.jpg", self.data)}
            answer = await client.hear("POST", path, files=files, headers=head)
        else:
            answer = await client.hear("POST", path, content=self.data, headers=head)
        return answer.json()["id"]


@dataclass
class Ledger:
    """Which ids were told for which upload. What is in it was acknowledged."""

    told: dict[Upload, list[str]] = field(default_factory=dict[Upload, list[str]])

    async def send_all(self, uploads: Iterable[Upload], client: Patient) -> None:
        """Send one after the other; several may take from the same."""
        for each in uploads:
            image = await each.send(client)
            self.told.setdefault(each, []).append(image)

    async def lost(self, client: Patient) -> list[str]:
        """Return the keys of which an image, its bytes or its one event is not there."""
        stored, told = await client.stored(), await client.told()
        return [
            upload.key
            for upload, images in list(self.told.items())
            for image in images
            if stored.get(image) != upload.sha256
            or len(told.get(image, ())) != 1
            or not await client.holds(image, upload.sha256)
        ]


def uploads(chance: random.Random) -> Iterator[Upload]:
    """Yield uploads without end, no two of the same bytes."""
    for number in count():
        side = chance.choice([48, 96, 400])
        data = picture("JPEG", seed=600_000 + number, size=(side, side))
        yield Upload(f"upload-{number}", data, chance.random() < FORMS)


@asynccontextmanager
async def serving(folder: Path, command: list[str] = COMMAND) -> AsyncIterator[tuple[Service, Patient]]:
    """Start the laptop's form in a folder, and end it if it has not ended."""
    service = Service(folder, {"TINTYPE_LIMITS__MEMORY_BYTES": SPOOLED_BYTES}, command=command)
    await asyncio.to_thread(service.start)
    client = Patient(lambda: service.base)
    try:
        yield service, client
    finally:
        await client.http.aclose()
        await asyncio.to_thread(service.stop)


async def published(service: Service, events: set[str]) -> set[str]:
    """Return the ids of the events that were published, once these are among them."""
    outbox = service.data_dir / "outbox"
    ends = time.monotonic() + 60
    while True:
        found = {path.stem.partition("-")[2] for path in outbox.glob("*.json")}
        if found >= events or time.monotonic() > ends:
            return found
        await asyncio.sleep(0.1)
