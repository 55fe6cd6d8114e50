"""A contestant's PostgreSQL: the one that Tintype brings for laptops, as a process of its own.

Each contestant has one, all are alike, and as durable as they come: `fsync` and
`synchronous_commit` are on. They are reached over a Unix socket.
"""

import asyncio
import signal
import sys
from pathlib import Path

from tintype.catalogue.embedded import EmbeddedPostgres

URL_FILE = "bench-url"


async def run(data_dir: Path) -> None:
    """Run the server until SIGTERM; its URL is in the file `bench-url` once it answers."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with EmbeddedPostgres.run(data_dir) as postgres:
        unfinished = data_dir / f"{URL_FILE}.new"
        unfinished.write_text(postgres.url)
        unfinished.rename(data_dir / URL_FILE)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
