"""A cage for the tests of one file, and cages with limits of their own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tintype.imaging.cage import WAIT_SECONDS, Cage
from tintype.imaging.inspect import Inspector
from tintype.settings import ImagingSettings
from tintype.telemetry import Metrics

OpenCage = Callable[..., Awaitable[Inspector]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inspector() -> AsyncIterator[Inspector]:
    """An inspector with two workers and the default limits. Its tests run on the module's loop."""
    settings = ImagingSettings(workers=2)
    async with Cage.open(settings) as cage:
        yield Inspector(settings, cage)


@pytest.fixture
async def open_cage() -> AsyncIterator[OpenCage]:
    """Opens a cage with settings of the test's own, and closes it afterwards."""
    async with AsyncExitStack() as stack:

        async def opened(
            *, wait_seconds: float = WAIT_SECONDS, metrics: Metrics | None = None, **limits: object
        ) -> Inspector:
            settings = ImagingSettings.model_validate(limits)
            opening = Cage.open(settings, wait_seconds=wait_seconds, metrics=metrics)
            cage = await stack.enter_async_context(opening)
            return Inspector(settings, cage)

        yield opened
