"""Who is measured: Tintype in its shapes, and the two yardsticks; each a command and its environment."""

import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tintype_bench.load import Door
from tintype_bench.processes import Server, free_port, listens, run
from tintype_bench.surroundings import TOPIC_ARN, Surroundings

Inspect = Literal["header", "full"]

TINTYPE = Path(sys.executable).with_name("tintype")

AWS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server in one shape, and the door that is knocked at."""

    name: str
    door: Door
    start: Callable[[Surroundings, Path], Server]
    path: str = "/v1/images"
    publishes: bool = True
    """To the topic, so that a run is over when the topic has it all."""
    concurrencies: tuple[int, ...] | None = None
    """None: all of the plan."""
    must_succeed: bool = True
    """Whether an error fails the whole bench."""

    def takes_part(self, concurrency: int) -> bool:
        """Tell whether it is measured at this concurrency."""
        return self.concurrencies is None or concurrency in self.concurrencies


def _floor(around: Surroundings, folder: Path) -> Server:
    environment = {"DATABASE_URL": around.database("floor"), "S3_ENDPOINT": around.s3.address}
    return _module("floor", [], environment, folder)


@dataclass(frozen=True, slots=True)
class Plain:
    """The plain application, under uvicorn as `pip install uvicorn[standard]` gives it."""

    name: str

    def __call__(self, around: Surroundings, folder: Path) -> Server:
        """Start it."""
        environment = AWS | {
            "DATABASE_URL": around.database(self.name).replace("postgresql:", "postgresql+psycopg:", 1),
            "S3_ENDPOINT": around.s3.address,
            "SNS_ENDPOINT": around.sns.address,
            "TOPIC_ARN": TOPIC_ARN,
        }
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tintype_bench.plain:app"]
        command += ["--port", str(port), "--no-access-log"]
        server = Server(self.name, command, environment, port, folder / f"{self.name}.log")
        server.wait_until(lambda: listens(port))
        return server


def _module(name: str, arguments: list[str], environment: Mapping[str, str], folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", f"tintype_bench.{name}", str(port), *arguments]
    server = Server(name, command, environment, port, folder / f"{name}.log")
    server.wait_until(lambda: listens(port))
    return server


@dataclass(frozen=True, slots=True)
class Tintype:
    """`tintype serve`, on AWS parts or as on a laptop."""

    name: str
    inspect: Inspect
    laptop: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def __call__(self, around: Surroundings, folder: Path) -> Server:
        """Start it on an empty data directory, with a bucket and a database of its own."""
        port = free_port()
        data = folder / f"{self.name}-{port}"
        command = [str(TINTYPE), "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
        environment = {"TINTYPE_IMAGING__INSPECT": self.inspect, "TINTYPE_LOG__FORMAT": "json"}
        environment |= {} if self.laptop else self._on_aws_parts(around)
        environment |= self.environment
        server = Server(self.name, command, environment, port, folder / f"{self.name}.log")
        server.wait_until(lambda: is_ready(server))
        return server

    def _on_aws_parts(self, around: Surroundings) -> dict[str, str]:
        database = {"TINTYPE_DATABASE__URL": around.database(self.name)}
        run([str(TINTYPE), "migrate"], database)
        return (
            AWS
            | database
            | {
                "TINTYPE_OBJECTS__URL": f"s3://{self.name}",
                "TINTYPE_OBJECTS__ENDPOINT": around.s3.address,
                "TINTYPE_OBJECTS__ACCESS_KEY_ID": "bench",
                "TINTYPE_OBJECTS__SECRET_ACCESS_KEY": "bench-secret",
                "TINTYPE_EVENTS__TOPIC_ARN": TOPIC_ARN,
                "TINTYPE_EVENTS__ENDPOINT": around.sns.address,
            }
        )


def is_ready(server: Server) -> bool:
    """Tell whether a Tintype says that it takes uploads."""
    try:
        with urllib.request.urlopen(f"{server.address}/readyz", timeout=5) as answer:  # noqa: S310
            return int(answer.status) == 200  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def contestants(inspect: Inspect) -> dict[str, Contestant]:
    """Return all of them by name, in the order of the tables."""
    everyone = (
        Contestant("floor", "raw", _floor, publishes=False),
        Contestant("plain", "form", Plain("plain"), must_succeed=False),
        Contestant(
            "plain-threads",
            "form",
            Plain("plain-threads"),
            path="/v1/threads/images",
            concurrencies=(8,),
            must_succeed=False,
        ),
        Contestant("tintype", "raw", Tintype("tintype", inspect)),
        Contestant("tintype-form", "form", Tintype("tintype-form", inspect), concurrencies=(8,)),
        Contestant("tintype-full", "raw", Tintype("tintype-full", "full"), concurrencies=(8, 64)),
        Contestant(
            "laptop",
            "raw",
            Tintype("laptop", inspect, laptop=True),
            publishes=False,
            concurrencies=(8,),
        ),
    )
    return {contestant.name: contestant for contestant in everyone}
