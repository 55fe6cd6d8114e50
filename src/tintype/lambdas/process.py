"""One function's process: the parts, opened by the first invocation and kept for those that follow."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tintype.settings import Settings
from tintype.telemetry import configure_logs
from tintype.wiring import Parts, open_parts

MARGIN_SECONDS = 2.0
"""What an invocation keeps for itself to say what it did not get done."""

T = TypeVar("T")


class Invocation(Protocol):
    """What Lambda says of an invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this invocation may still take."""
        ...


@dataclass(slots=True)
class Process:
    """Runs what a handler asks for on one event loop, which stands still between invocations."""

    _runner: asyncio.Runner | None = None
    _parts: Parts | None = None
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    def run(self, work: Callable[[Parts], Awaitable[T]]) -> T:
        """Return what the work returns. Nothing is opened before the first time."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._work(work))

    async def _work(self, work: Callable[[Parts], Awaitable[T]]) -> T:
        if self._parts is None:
            settings = Settings()
            configure_logs(settings.log)
            self._parts = await self._open.enter_async_context(open_parts(settings))
        try:
            return await work(self._parts)
        finally:
            # Uploads that ended leave something behind to be removed: now, or at some later invocation.
            await self._parts.sessions.aclose()

    def close(self) -> None:
        """Close what is open; Lambda itself never asks for it."""
        if self._runner is not None:
            self._runner.run(self._open.aclose())
            self._runner.close()
        self._runner = self._parts = None


def seconds_left(invocation: Invocation) -> float:
    """Return for how long there is work to be done."""
    return max(invocation.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS, 0.1)


process = Process()
"""This process's own."""
