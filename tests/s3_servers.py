"""Whole S3 servers for the tests: moto, which is lax, and Ceph's radosgw, which is strict, where it is."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from tintype.settings import ObjectsSettings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

KEY = "testing"
SCRIPT = Path(__file__).with_name("radosgw.sh")


@dataclass(frozen=True)
class S3Server:
    """An S3 server with one account."""

    url: str
    configuration: Path | None = None
    """Of Ceph."""

    def client(self) -> "S3Client":
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
        )

    def assume_role(self, statements: Sequence[Mapping[str, object]]) -> dict[str, Any]:
        """Make a role that may do this, and return the credentials of a session of it. For radosgw alone."""
        name = f"role-{uuid4()}"
        trusting = {"Principal": {"AWS": ["arn:aws:iam:::user/test"]}, "Action": ["sts:AssumeRole"]}
        trust, allowed = _policy([{"Effect": "Allow", **trusting}]), _policy(statements)
        # Its own API for this reads no body, in which boto3 sends everything.
        admin = ["radosgw-admin", "-c", str(self.configuration), "-n", "client.rgw"]
        create = ["role", "create", "--role-name", name, "--assume-role-policy-doc", trust]
        allow = ["role-policy", "put", "--role-name", name, "--policy-name", "all", "--policy-doc", allowed]
        for command in (create, allow):
            subprocess.run([*admin, *command], check=True, capture_output=True)
        sts = boto3.client(
            "sts",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
        )
        role = f"arn:aws:iam:::role/{name}"
        return sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]

    @contextlib.contextmanager
    def without_its_disk(self) -> Iterator[None]:
        """Stop radosgw's storage daemon until the end of the block: what arrives is accepted, and waits."""
        assert self.configuration is not None
        daemon = int((self.configuration.parent / "run/osd.0.pid").read_text())
        os.kill(daemon, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(daemon, signal.SIGCONT)

    def new_bucket(self) -> ObjectsSettings:
        """Make a bucket, and return the settings that name it."""
        name = f"bucket-{uuid4()}"
        self.client().create_bucket(Bucket=name)
        keys = {"access_key_id": KEY, "secret_access_key": KEY}
        return ObjectsSettings.model_validate({"url": f"s3://{name}", "endpoint": self.url} | keys)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give all that needs radosgw to one worker, as it takes a while to start."""
    for item in items:
        if item.get_closest_marker("real_s3"):
            item.add_marker(pytest.mark.xdist_group("radosgw"))


@pytest.fixture(scope="session")
def moto_s3(moto_url: str) -> S3Server:
    """moto: takes any signature, and every feature."""
    return S3Server(moto_url)


@pytest.fixture(scope="session")
def radosgw_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """radosgw: verifies signatures, expiry and part sizes, and knows no checksums of 2022."""
    prefix = os.environ.get("CEPH_PREFIX")
    if shutil.which("radosgw") is None and prefix is None:
        pytest.skip("radosgw is not installed: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    # Paths of sockets are short.
    folder = tmp_path_factory.mktemp("ceph")
    port = _free_ports(3)
    try:
        subprocess.run([SCRIPT, folder, str(port)], check=True, timeout=150)
        yield S3Server(f"http://127.0.0.1:{port}", folder / "ceph.conf")
    finally:
        for pid_file in (folder / "run").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _policy(statements: Sequence[Mapping[str, object]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _free_ports(count: int) -> int:
    """Return the first of some neighbouring ports that are free."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for offset in range(1, count):
                stack.enter_context(socket.create_server(("127.0.0.1", first + offset)))
            return first
