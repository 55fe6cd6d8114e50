"""What every contestant finds around it: an object store, a topic and a PostgreSQL, all on loopback."""

import sys
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tintype_bench import postgres
from tintype_bench.processes import Server, free_port, listens

TOPIC_ARN = "arn:aws:sns:us-east-1:000000000000:images"


@contextmanager
def run_folder() -> Generator[Path]:
    """Return a folder for the data of one run, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="tintype-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root, and must get to its data
        yield folder


@dataclass(slots=True)
class Surroundings:
    """The servers that are not measured, but whose CPU is shown. `with` starts and ends them."""

    folder: Path
    """For their data and their logs, and for those of the contestants."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _stand_ins: dict[str, Server] = field(default_factory=dict[str, Server])
    _databases: dict[str, Server] = field(default_factory=dict[str, Server])

    def __enter__(self) -> Self:
        for name in ("s3", "sns"):
            self._stand_ins[name] = self._stack.enter_context(_stand_in(name, self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def s3(self) -> Server:
        """The object store."""
        return self._stand_ins["s3"]

    @property
    def sns(self) -> Server:
        """The topic."""
        return self._stand_ins["sns"]

    def database(self, contestant: str) -> str:
        """Return the URL of a contestant's own PostgreSQL, which runs until the end."""
        data = self.folder / f"postgres-{contestant}"
        url = data / postgres.URL_FILE
        if contestant not in self._databases:
            data.mkdir()
            command = [sys.executable, "-m", "tintype_bench.postgres", str(data)]
            server = Server("postgres", command, {}, 0, self.folder / f"postgres-{contestant}.log")
            self._databases[contestant] = self._stack.enter_context(server)
            server.wait_until(url.exists)
        return url.read_text()

    def database_cpu(self, contestant: str) -> float:
        """Return the CPU seconds that the contestant's PostgreSQL has used; 0 if it has none here."""
        server = self._databases.get(contestant)
        return server.usage().postgres if server is not None else 0.0

    def published(self) -> int:
        """Return how many messages the topic has taken."""
        with urllib.request.urlopen(f"{self.sns.address}/count", timeout=5) as answer:  # noqa: S310
            return int(answer.read())


def _stand_in(name: str, folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", f"tintype_bench.stand_ins.{name}", str(port)]
    server = Server(name, command, {}, port, folder / f"{name}.log")
    server.wait_until(lambda: listens(port))
    return server
