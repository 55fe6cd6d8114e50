"""The PostgreSQL that all contestants share, each in a database of its own.

It is the one that Tintype brings for laptops, as durable as it comes: `fsync` and
`synchronous_commit` are on.
"""

import asyncio
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tintype.catalogue.embedded import EmbeddedPostgres

URL_FILE = "bench-url"


def database(url: str, name: str) -> str:
    """Make a database if there is none of that name; return its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if not found:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def run(data_dir: Path) -> None:
    """Run the server until SIGTERM; its URL is in the file `bench-url` once it answers."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with EmbeddedPostgres.run(data_dir) as postgres:
        (data_dir / URL_FILE).write_text(postgres.admin_url)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
