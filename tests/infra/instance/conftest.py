"""A machine, and the AWS around it: radosgw, which checks signatures and sessions, and stand-ins."""

import contextlib
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import boto3
import pytest

from infra.instance.machine import Machine, Unavailable, booted, prepare
from infra.instance.stand_ins import INSTANCE, REGION, Keys, StandIns, standing_in
from s3_servers import KEY, S3Server
from tintype_infra.build import build

PROJECT = Path(__file__).parents[3]
LOG_GROUP = "tintype"
AGENT = """\
Package: amazon-ssm-agent
Version: 1
Architecture: amd64
Maintainer: nobody
Description: a stand-in
"""
AGENT_UNIT = """\
[Service]
ExecStart=/usr/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
BOOTSTRAP = PROJECT / "infra/src/tintype_infra/instance/bootstrap.sh"


@dataclass(frozen=True)
class Estate:
    """An account with a bucket of releases, a bucket of images and a database, and a machine in it."""

    machine: Machine
    aws: StandIns
    s3: S3Server
    releases: str
    images: str
    database_url: str
    port: int
    logs: Any
    """boto3's client of CloudWatch Logs, which is moto's."""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def logged(self) -> list[str]:
        """What CloudWatch has of the instance."""
        try:
            told = self.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=INSTANCE)
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in told["events"]]

    def settings(self) -> dict[str, str]:
        """What the stack writes into an instance's environment, with everything on this machine."""
        return {
            "TINTYPE_PORT": str(self.port),
            "TINTYPE_DATA_DIR": "/var/lib/tintype",
            "TINTYPE_OBJECTS__URL": f"s3://{self.images}",
            "TINTYPE_OBJECTS__ENDPOINT": self.s3.url,
            "TINTYPE_OBJECTS__REGION": REGION,
            "TINTYPE_DATABASE__URL": self.database_url,
            "TINTYPE_IDENTITY__MODE": "keys",
            "TINTYPE_LOG__FORMAT": "json",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.aws.url,
            "AWS_METADATA_ENDPOINT": self.aws.url,  # obstore's name for it
        }

    def boot(self, release: str, *, check: bool = True, ready_seconds: int = 60) -> str:
        """Run the first commands of a new instance; return what they print."""
        environment = "".join(f"{name}={value}\n" for name, value in self.settings().items())
        self.machine.write("/etc/tintype/environment", environment)
        told = {
            "RELEASE": release,
            "REGION": REGION,
            "BUNDLE_BUCKET": self.releases,
            "BUNDLE_KEY": f"{release}.tar.gz",
            "LOG_GROUP": LOG_GROUP,
            "STACK": "tintype-small-service",
            "RESOURCE": "Instances",
            "READY_SECONDS": str(ready_seconds),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.aws.url,
            "AWS_ENDPOINT_URL_S3": self.s3.url,
            "AWS_ENDPOINT_URL_CLOUDFORMATION": self.aws.url,
            "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": self.logs.meta.endpoint_url,
        }
        words = [f"{name}={value}" for name, value in told.items()]
        self.machine.write("/root/user-data", BOOTSTRAP.read_text())
        return self.machine.run("env", *words, "bash", "/root/user-data", check=check)


@pytest.fixture(scope="session")
def root() -> Path:
    try:
        return prepare()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The release of this working tree: its name, and its bundle."""
    out = tmp_path_factory.mktemp("built")
    return build(PROJECT, out, b"no authority"), out / "bundle.tar.gz"


@pytest.fixture
def machine(root: Path, tmp_path: Path) -> Iterator[Machine]:
    with booted(root, tmp_path / "console") as machine:
        yield machine


@pytest.fixture
def regions_s3(radosgw_s3: S3Server, tmp_path: Path) -> S3Server:
    """A region's S3, where anybody may fetch the agent of Session Manager."""
    client = radosgw_s3.client()
    client.create_bucket(Bucket=f"amazon-ssm-{REGION}")
    client.put_object(
        Bucket=f"amazon-ssm-{REGION}",
        Key="latest/debian_amd64/amazon-ssm-agent.deb",
        Body=agent(tmp_path),
        ACL="public-read",
    )
    return radosgw_s3


@pytest.fixture
def estate(
    machine: Machine, regions_s3: S3Server, built: tuple[str, Path], database_url: str, moto_url: str
) -> Iterator[Estate]:
    logs = boto3.client(
        "logs",
        endpoint_url=moto_url,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
    )
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=LOG_GROUP)
    releases, images = f"releases-{uuid4()}", f"images-{uuid4()}"
    client = regions_s3.client()
    for bucket in (releases, images):
        client.create_bucket(Bucket=bucket)
    name, bundle = built
    client.put_object(Bucket=releases, Key=f"{name}.tar.gz", Body=bundle.read_bytes())
    keys = session_of(regions_s3, releases, images)
    with standing_in(keys) as aws, over_tcp(database_url) as url:
        yield Estate(machine, aws, regions_s3, releases, images, url, free_port(), logs)


def agent(folder: Path) -> bytes:
    """A Debian package with a service of the name of Session Manager's agent."""
    files = {
        "DEBIAN/control": AGENT,
        "lib/systemd/system/amazon-ssm-agent.service": AGENT_UNIT,
    }
    for name, text in files.items():
        (folder / "agent" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "agent" / name).write_text(text)
    made = folder / "agent.deb"
    subprocess.run(["dpkg-deb", "--build", folder / "agent", made], check=True, capture_output=True)
    return made.read_bytes()


def session_of(s3: S3Server, releases: str, images: str) -> Keys:
    """Assume a role that may what the stack's role may: read releases, and serve images."""
    assumed = s3.assume_role(allowed(releases, images))
    return Keys(
        assumed["AccessKeyId"],
        assumed["SecretAccessKey"],
        assumed["SessionToken"],
        assumed["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def allowed(releases: str, images: str) -> list[dict[str, Any]]:
    keys = ["originals", "incoming", "renditions", "journal", "deleted"]
    objects = [*(f"arn:aws:s3:::{images}/{key}/*" for key in keys), f"arn:aws:s3:::{images}/tintype.json"]
    return [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{releases}/*"]},
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": objects},
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{images}"]},
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def over_tcp(url: str) -> Iterator[str]:
    """Give a database that has a Unix socket alone an address that another machine can reach."""
    parts = urlsplit(url)
    where = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(where)
                threading.Thread(target=pump, args=(server, self.request), daemon=True).start()
                pump(self.request, server)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield f"postgresql://{parts.username}@127.0.0.1:{relay.server_address[1]}{parts.path}"
        relay.shutdown()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
