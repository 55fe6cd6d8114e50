"""Stories: what clients and duties do. Each is made ready, done under one fault, and then found out about."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

import httpx

from catalogue.arrivals import ago, id_of
from conformance.suite import picture
from faults.broken_world import Known, World
from faults.http_wire import MARKED
from tintype.model.upload import Upload
from tintype.objects.keys import original_key

BYTES = 90_000
NOT_OURS = {MARKED.decode(): "1"}
TUS = {"Tus-Resumable": "1.0.0"}
BATCH = 12
"""Harm that is done at a time: one check finds all of it."""
OTHERS = 10**12
"""Seeds of what is stored before a story begins are so far away from those of stories."""
NOBODY = UUID(int=0)
PIECE = 70_000
"""Of a tus upload: too long to be kept in the catalogue."""
ROOMY = 5_000_000
"""Longer than what stays in memory: it goes by the spool."""


@dataclass
class Story(ABC):
    """One run of one story, with bytes of its own."""

    world: World
    seed: int
    told: list[UUID] = field(default_factory=list[UUID])
    """Images that the client was told of while the fault was there."""
    length: ClassVar[int] = BYTES

    @property
    def data(self) -> bytes:
        return picture(self.length, self.seed)

    async def ready(self) -> None:  # noqa: B027 # most need nothing
        """Do what comes before, without any fault."""

    @abstractmethod
    async def act(self) -> None:
        """Do it once. Whoever is refused stops there."""

    @abstractmethod
    async def find_out(self) -> None:
        """Ask until it is known what became of it, and hold that against what was told."""

    def well(self, answer: httpx.Response | None) -> bool:
        """Tell whether a step succeeded. A refusal for good is a lie: the client did nothing wrong."""
        if answer is None:
            return False
        if answer.is_success:
            return True
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            request = answer.request
            self.lie(f"{request.method} {request.url.path}: {answer.status_code} {answer.text}")
        return False

    def lie(self, text: str) -> None:
        self.world.lies.append(f"{type(self).__name__} {self.seed}: {text}")

    def knows(self, image: str, data: bytes) -> UUID:
        """Note an image that is there; it has to be the one that was told of before."""
        found = UUID(image)
        if self.told and found not in self.told:
            self.lie(f"told of {self.told}, and then of {found}")
        self.world.known.setdefault(found, Known(hashlib.sha256(data).digest()))
        return found

    def was_told(self, image: str) -> None:
        self.told.append(UUID(image))

    async def publish(self) -> None:
        await self.world.duty("relay")


class Raw(Story):
    """A raw body with an idempotency key."""

    async def send(self) -> httpx.Response | None:
        headers = {"Idempotency-Key": f"key-{self.seed}"}
        return await self.world.ask("POST", "/v1/images?filename=a.png", content=self.data, headers=headers)

    async def act(self) -> None:
        answer = await self.send()
        if answer is not None and self.well(answer):
            self.was_told(answer.json()["id"])
            if answer.json()["sha256"] != hashlib.sha256(self.data).hexdigest():
                self.lie("the SHA-256 that was told is another one")
        if answer is not None:
            await self.publish()

    async def find_out(self) -> None:
        answer = await self.world.insist(self.send)
        if self.well(answer):
            self.knows(answer.json()["id"], self.data)
        if self.told and "idempotent-replayed" not in answer.headers:
            self.lie("a repeated request was not answered as a repeated one")


class Large(Raw):
    """A raw body that goes by the spool."""

    length = ROOMY


class Cold(Raw):
    """A raw body, just when the database has hung up on every connection."""

    async def ready(self) -> None:
        await Raw(self.world, self.seed + OTHERS).find_out()

    async def act(self) -> None:
        self.world.database.from_nothing = True
        self.world.database.cut()
        await super().act()


class Multipart(Story):
    """A form of two files."""

    @property
    def files(self) -> dict[str, bytes]:
        return {"a.png": self.data, "b.png": picture(900, self.seed)}

    async def send(self) -> httpx.Response | None:
        files = [("file", (name, data, "image/png")) for name, data in self.files.items()]
        headers = {"Idempotency-Key": f"form-{self.seed}"}
        return await self.world.ask("POST", "/v1/images", files=files, headers=headers)

    def results(self, answer: httpx.Response) -> dict[str, dict[str, Any]]:
        return {each["filename"]: each for each in answer.json()["results"]}

    async def act(self) -> None:
        answer = await self.send()
        if answer is not None and self.well(answer):
            for result in self.results(answer).values():
                if result["status"] < 300:
                    self.was_told(result["image"]["id"])
                elif result["status"] != 503 or "retry_after" not in result["problem"]:
                    self.lie(f"a file was answered {result}")
        if answer is not None:
            await self.publish()

    async def find_out(self) -> None:
        async def whole() -> httpx.Response | None:
            answer = await self.send()
            return None if answer is not None and answer.status_code == 207 else answer

        answer = await self.world.insist(whole)
        if self.well(answer):
            found = [UUID(result["image"]["id"]) for result in self.results(answer).values()]
            if missing := set(self.told) - set(found):
                self.lie(f"told of {missing}, and not again")
            for image, data in zip(found, self.files.values(), strict=True):
                self.world.known[image] = Known(hashlib.sha256(data).digest())


@dataclass
class Tus(Story):
    """A tus upload in two pieces."""

    url: str = ""
    durable: int = 0
    """So far, as was told."""
    sent: int = 0

    async def create(self) -> httpx.Response | None:
        headers = TUS | {"Upload-Length": str(self.length)}
        answer = await self.world.ask("POST", "/v1/tus", headers=headers)
        if answer is not None and self.well(answer):
            self.url = httpx.URL(answer.headers["location"]).path
        return answer

    async def append(self) -> httpx.Response | None:
        headers = TUS | {
            "Upload-Offset": str(self.durable),
            "Content-Type": "application/offset+octet-stream",
        }
        piece = self.data[self.durable : self.durable + PIECE]
        self.sent = max(self.sent, self.durable + len(piece))
        answer = await self.world.ask("PATCH", self.url, content=piece, headers=headers)
        if answer is not None and self.well(answer):
            self.durable = int(answer.headers["upload-offset"])
        return answer

    async def act(self) -> None:
        answer = await self.create()
        while answer is not None and answer.is_success and self.durable < self.length:
            answer = await self.append()
        if answer is not None:
            if answer.is_success:
                await self.look()
            await self.publish()

    async def look(self) -> httpx.Response | None:
        """Ask what became of the upload."""
        answer = await self.world.ask("GET", f"/v1/uploads/{self.url.rpartition('/')[2]}")
        if answer is not None and self.well(answer) and answer.json()["image"]:
            self.was_told(answer.json()["image"]["id"])
        return answer

    async def find_out(self) -> None:
        if not self.url:
            await self.world.insist(self.create)
        while True:
            answer = await self.world.insist(lambda: self.world.ask("HEAD", self.url, headers=TUS))
            offset = int(answer.headers["upload-offset"])
            if not self.durable <= offset <= self.sent:
                self.lie(f"stands at {offset}; {self.durable} were acknowledged, and {self.sent} sent")
            self.durable = offset
            if offset == self.length:
                break
            await self.append()
        answer = await self.world.insist(self.look)
        self.knows(answer.json()["image"]["id"], self.data)


@dataclass
class Presigned(Story):
    """A direct upload: one signed PUT, then the word that it is there."""

    begun: dict[str, Any] = field(default_factory=dict[str, Any])
    method: ClassVar[str] = "put"

    async def begin(self) -> httpx.Response | None:
        wanted = {
            "bytes": self.length,
            "content_type": "image/png",
            "filename": "a.png",
            "method": self.method,
        }
        answer = await self.world.ask("POST", "/v1/uploads", json=wanted)
        if answer is not None and self.well(answer):
            self.begun = answer.json()
        return answer

    async def put(self) -> httpx.Response | None:
        signed = self.begun["request"]
        headers = signed["headers"] | NOT_OURS
        answer = await self.world.ask(signed["method"], signed["url"], headers=headers, content=self.data)
        await self.world.idle()
        return answer

    async def complete(self) -> httpx.Response | None:
        return await self.world.ask("POST", self.begun["urls"]["complete"])

    async def act(self) -> None:
        answer = None
        for step in (self.begin, self.put, self.complete):
            answer = await step()
            if answer is None or not self.well(answer):
                break
            if step == self.complete:
                self.was_told(answer.json()["id"])
        if answer is not None:
            await self.world.idle()
            await self.publish()

    async def find_out(self) -> None:
        if not self.begun:
            await self.world.insist(self.begin)
        answer = await self.world.insist(self.complete)
        if answer.status_code == 409:  # nothing is there yet
            await self.world.insist(self.put)
            answer = await self.world.insist(self.complete)
        if self.well(answer):
            self.knows(answer.json()["id"], self.data)


@dataclass
class Parts(Presigned):
    """A direct upload in parts, which the word that they are there puts together."""

    etag: str = ""
    method = "multipart"

    async def put(self) -> httpx.Response | None:
        answer = await self.world.ask("POST", self.begun["urls"]["parts"], json={"numbers": [1]})
        if answer is None or not self.well(answer):
            return answer
        signed = answer.json()["data"][0]
        headers = signed["headers"] | NOT_OURS
        answer = await self.world.ask("PUT", signed["url"], headers=headers, content=self.data)
        if answer is not None and self.well(answer):
            self.etag = answer.headers["etag"]
        return answer

    async def complete(self) -> httpx.Response | None:
        named = {"parts": [{"number": 1, "etag": self.etag}]}
        return await self.world.ask("POST", self.begun["urls"]["complete"], json=named)

    async def find_out(self) -> None:
        if not self.begun:
            await self.world.insist(self.begin)
        if not self.etag:
            await self.world.insist(self.put)
        answer = await self.world.insist(self.complete)
        if self.well(answer):
            self.knows(answer.json()["id"], self.data)


@dataclass
class Trash(Raw):
    """An image goes into the trash."""

    image: UUID = NOBODY

    async def ready(self) -> None:
        answer = await self.world.insist(self.send)
        self.image = self.knows(answer.json()["id"], self.data)

    async def delete(self) -> httpx.Response | None:
        return await self.world.ask("DELETE", f"/v1/images/{self.image}")

    async def act(self) -> None:
        answer = await self.delete()
        if answer is not None:
            if self.well(answer):
                content = await self.world.ask("GET", f"/v1/images/{self.image}/content")
                if content is not None and content.status_code != 404 and not self.refused(content):
                    self.lie(f"deleted, and then read: {content.status_code}")
            await self.publish()

    def refused(self, answer: httpx.Response) -> bool:
        return answer.status_code == 503 and not self.well(answer)

    async def find_out(self) -> None:
        self.well(await self.world.insist(self.delete))
        content = await self.world.insist(lambda: self.world.ask("GET", f"/v1/images/{self.image}/content"))
        if content.status_code != 404:
            self.lie(f"deleted, and then read: {content.status_code}")
        known = self.world.known[self.image]
        known.state = "deleted"
        known.told["image.deleted"] = 1


class Purge(Trash):
    """The janitor removes an image that was in the trash for long enough."""

    async def ready(self) -> None:
        await super().ready()
        await super().find_out()
        await self.world.real.execute(
            "UPDATE images SET deleted_at = deleted_at - interval '31 days' WHERE id = %s", self.image
        )

    async def act(self) -> None:
        answer = await self.world.duty("purge")
        if answer is not None:
            self.well(answer)

    async def find_out(self) -> None:
        # The bytes of one that was recorded, and not taken away, go at the next start.
        await self.world.insist(lambda: self.world.duty("purge"))
        self.world.known[self.image].is_purged = True


@dataclass(frozen=True)
class Harm:
    """An orphan and an image whose bytes are gone, as a check found them."""

    run: str
    orphan: bytes
    """Its SHA-256."""
    image: UUID
    findings: list[str]


@dataclass
class Repair(Story):
    """A repair puts an orphan aside, and tells of an image whose bytes are gone."""

    harm: Harm | None = None

    async def ready(self) -> None:
        if not self.world.stock:
            first = (self.seed + OTHERS) * BATCH
            await self.stock(self.world, range(first, first + BATCH))
        self.harm = self.world.stock.pop()

    async def repair(self) -> httpx.Response | None:
        assert self.harm is not None
        return await self.world.duty("repair", run=self.harm.run, selected=self.harm.findings)

    async def act(self) -> None:
        answer = await self.repair()
        if answer is not None:
            self.well(answer)
            await self.publish()

    async def find_out(self) -> None:
        assert self.harm is not None
        await self.world.insist(self.repair)
        self.world.put_aside.append(self.harm.orphan)
        known = self.world.known[self.harm.image]
        known.state = "missing"
        known.told["image.missing"] = 1

    @staticmethod
    async def stock(world: World, seeds: Sequence[int]) -> None:
        """Do harm for some runs, and have one check find all of it."""
        made: list[tuple[bytes, UUID, UUID]] = []
        for seed in seeds:
            image = Trash(world, seed)
            await image.ready()
            await world.real.objects.delete(original_key(image.image))
            data = picture(2_000, seed)
            orphan = Upload("local", "orphan.png", None, "raw", id=id_of(ago(days=2)))
            await world.real.put(orphan, data)
            made.append((hashlib.sha256(data).digest(), orphan.id, image.image))
        run = (await world.insist(lambda: world.duty("check", mode="quick"))).json()
        rows = await world.real.fetch("SELECT image_id, id FROM findings WHERE run_id = %s", UUID(run))
        found = {image: str(finding) for image, finding in rows}
        world.stock = [
            Harm(run, digest, image, [found[orphan], found[image]]) for digest, orphan, image in made
        ]


STORIES: tuple[type[Story], ...] = (Raw, Large, Cold, Multipart, Tus, Presigned, Parts, Trash, Purge, Repair)
