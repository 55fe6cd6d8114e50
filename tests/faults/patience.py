"""Clients that come again until they know, and what they were told."""

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_SECONDS = 90
PAUSE_SECONDS = 0.2
"""Before a client comes again. What it was told to wait is for clients that nobody waits for."""


@dataclass
class Patient:
    """A client who asks until there is an answer that is none of a fault."""

    base: Callable[[], str]
    """Where the service is at the moment: each of its lives has a port of its own."""
    answers: Counter[int] = field(default_factory=Counter[int])
    longest: float = 0
    """The longest that a client had to come again, in seconds."""
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=20))

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response | None:  # noqa: ANN401
        """Ask, and ask again; None: there was no answer in time. Only a 503 may be a fault's."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_SECONDS:
            try:
                answer = await self.http.request(method, f"{self.base()}{path}", **how)
            except httpx.TransportError:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self.answers[answer.status_code] += 1
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if answer.status_code != 503:
                self.longest = max(self.longest, time.monotonic() - began)
                return answer
            assert "retry-after" in answer.headers, answer.text
            await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def hear(self, method: str, path: str, **how: Any) -> httpx.Response:  # noqa: ANN401
        """Ask for what has to succeed."""
        answer = await self.ask(method, path, **how)
        assert answer is not None, f"nobody answered {method} {path}"
        assert answer.is_success, answer.text
        return answer

    async def told(self) -> dict[str, set[str]]:
        """Return the ids of the events that tell of each image's upload; none is in the log twice."""
        told: defaultdict[str, set[str]] = defaultdict(set)
        position, more = 0, True
        while more:
            page = (
                await self.hear("GET", f"/v1/events?kind=image.uploaded&limit=200&after={position}")
            ).json()
            for each in page["data"]:
                assert each["id"] not in told[each["data"]["id"]], each
                told[each["data"]["id"]].add(each["id"])
            position, more = page["position"], page["has_more"]
        return told

    async def stored(self) -> dict[str, str]:
        """Return the SHA-256 of each image that is listed, by id."""
        found: dict[str, str] = {}
        path: str | None = "/v1/images?limit=200"
        while path:
            page = await self.hear("GET", path)
            found |= {image["id"]: image["sha256"] for image in page.json()["data"]}
            following = page.links.get("next")
            path = httpx.URL(following["url"]).raw_path.decode() if following else None
        return found

    async def holds(self, image: str, sha256: str) -> bool:
        """Tell whether an image is delivered, at once, with the bytes that were acknowledged."""
        try:
            answer = await self.http.get(f"{self.base()}/v1/images/{image}/content")
        except httpx.RemoteProtocolError:  # it ended before it was whole
            return False
        return answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == sha256

    async def deep_check(self) -> dict[str, Any]:
        """Have every byte read and compared. A check that a killed service left would go on in minutes."""
        while True:
            begun = await self.ask("POST", "/v1/consistency/runs", json={"mode": "deep"})
            assert begun is not None
            if begun.status_code != 409:
                break
            await self.ask("POST", f"{begun.json()['run']}/cancel")
        while True:
            told = await self.hear("GET", httpx.URL(begun.headers["location"]).path)
            run: dict[str, Any] = told.json()
            if run["state"] != "running":
                return run
            await asyncio.sleep(0.2)
