"""What every contestant finds around it: an object store, a topic and a PostgreSQL, all on loopback."""

import sys
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tintype_bench import postgres
from tintype_bench.processes import Server, free_port, listens

TOPIC_ARN = "arn:aws:sns:us-east-1:000000000000:images"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The servers that are not measured, but whose CPU is shown."""

    folder: Path
    s3: Server
    sns: Server
    postgres: Server
    postgres_url: str

    def database(self, name: str) -> str:
        """Return the URL of a contestant's own database."""
        return postgres.database(self.postgres_url, name)

    def published(self) -> int:
        """Return how many messages the topic has taken."""
        with urllib.request.urlopen(f"{self.sns.address}/count", timeout=5) as answer:  # noqa: S310
            return int(answer.read())


@contextmanager
def surround(folder: Path) -> Generator[Surroundings]:
    """Start all three, each in a process of its own, and end them afterwards."""
    with ExitStack() as stack:
        s3 = stack.enter_context(_stand_in("s3", folder))
        sns = stack.enter_context(_stand_in("sns", folder))
        database, url = _postgres(stack, folder)
        yield Surroundings(folder, s3, sns, database, url)


def _stand_in(name: str, folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", f"tintype_bench.stand_ins.{name}", str(port)]
    server = Server(name, command, {}, port, folder / f"{name}.log")
    server.wait_until(lambda: listens(port))
    return server


def _postgres(stack: ExitStack, folder: Path) -> tuple[Server, str]:
    data = folder / "postgres"
    data.mkdir()
    command = [sys.executable, "-m", "tintype_bench.postgres", str(data)]
    server = stack.enter_context(Server("postgres", command, {}, 0, folder / "postgres.log"))
    url = data / postgres.URL_FILE
    server.wait_until(url.exists)
    return server, url.read_text()
