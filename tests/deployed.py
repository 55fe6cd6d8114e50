"""The whole estate of conftest.py, deployed by the real CDK to the emulator, once for the whole run."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg
import pytest
import pytest_asyncio

import tintype_infra  # noqa: F401 # which names the Node of this environment, before anything of the CDK begins
from npm import NODE, installed_packages
from tintype.catalogue.embedded import EmbeddedPostgres

ACCOUNT = "123456789012"
REGIONS = {"small": "us-east-1", "serious": "eu-central-1"}
CERTIFICATE = f"arn:aws:acm:{REGIONS['serious']}:{ACCOUNT}:certificate/11111111-2222"
HERE = Path(__file__).parent / "infra"
CDK_FOLDER = HERE.parents[1] / "infra"
START_SECONDS = 60
CDK_SECONDS = 150
EVERYBODY = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@dataclass
class Deployed:
    """The emulator, and what the CDK said when it deployed to it."""

    url: str
    folder: Path
    templates: Path
    database_url: str
    """The PostgreSQL that stands for RDS, as its master user."""
    said: str = ""
    _outputs: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def api(self, service: str, stage: str = "small", **credentials: str) -> Any:  # noqa: ANN401 # boto3 makes its classes as it runs
        """A client of the emulator's, by default as somebody who may do everything."""
        keys: Any = credentials or {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, region_name=REGIONS[stage], endpoint_url=self.url, **keys)

    def cdk(self, *words: str) -> str:
        """Run the CDK's command line, as a person does, and return what it said."""
        done = subprocess.run(
            [NODE, CDK_FOLDER / "node_modules" / "aws-cdk" / "bin" / "cdk", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=CDK_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"cdk {words[0]}:\n{said}\n{self.log[-6000:]}"
        return said

    @property
    def environment(self) -> dict[str, str]:
        """What leads AWS's clients to the emulator, and nowhere else."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TINTYPE_"))
        }
        return (
            kept
            | EVERYBODY
            | {
                "AWS_ENDPOINT_URL": self.url,
                "AWS_REGION": REGIONS["small"],
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "CI": "true",
            }
        )

    @property
    def log(self) -> str:
        lines = (self.folder / "emulator.log").read_text().splitlines()
        return "\n".join(line for line in lines if '" 200 -' not in line)

    def outputs(self, stack: str) -> dict[str, str]:
        """What a stack gives out: `small-data`, `small-service` and so on."""
        if stack not in self._outputs:
            formation = self.api("cloudformation", stack.partition("-")[0])
            (found,) = formation.describe_stacks(StackName=f"tintype-{stack}")["Stacks"]
            self._outputs[stack] = {one["OutputKey"]: one["OutputValue"] for one in found["Outputs"]}
        return self._outputs[stack]

    def role(self, named: str, stage: str = "small") -> str:
        """The ARN of the role whose logical id begins so, in the stack of a stage's service."""
        resources = self.api("cloudformation", stage).describe_stack_resources(
            StackName=f"tintype-{stage}-service"
        )["StackResources"]
        (name,) = [
            one["PhysicalResourceId"]
            for one in resources
            if one["ResourceType"] == "AWS::IAM::Role" and one["LogicalResourceId"].startswith(named)
        ]
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    def as_role(self, named: str) -> dict[str, str]:
        """Credentials of a role of the small stage's, as an instance or a function has them."""
        given = self.api("sts").assume_role(RoleArn=self.role(named), RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def ask_for_rights(self, *, wanted: bool) -> None:
        """Have the emulator look at policies from now on, or not."""
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0" if wanted else b"inf").raise_for_status()

    def settings_of_an_instance(self) -> dict[str, str]:
        """What the launch template writes to /etc/tintype/environment."""
        ec2 = self.api("ec2")
        (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
        versions = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
        text = _decoded(versions["LaunchTemplateVersions"][-1]["LaunchTemplateData"]["UserData"])
        written = re.search(r"<<'SETTINGS'\n(.*?)\nSETTINGS\n", text, re.DOTALL)
        assert written is not None, text
        return dict(line.split("=", 1) for line in written[1].splitlines())


def _decoded(user_data: str) -> str:
    return base64.b64decode(user_data).decode()


@pytest.fixture(scope="session")
def cdk_command() -> None:
    """The CDK's command line, as the lock file names it."""
    installed_packages(CDK_FOLDER)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_for_rds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A PostgreSQL server with nothing but what RDS's has: a master user, and an empty database of theirs."""
    async with EmbeddedPostgres.run(tmp_path_factory.mktemp("rds")) as server:
        async with await psycopg.AsyncConnection.connect(server.admin_url, autocommit=True) as admin:
            await admin.execute("DROP ROLE IF EXISTS tintype_app, tintype_worker")  # a laptop's
            await admin.execute("CREATE ROLE tintype_migrator LOGIN CREATEROLE")
            await admin.execute("CREATE DATABASE estate OWNER tintype_migrator")
        yield server.url.replace("//tintype@/tintype?", "//tintype_migrator@/estate?")


@pytest.fixture(scope="session")
def emulator(
    written: Path,
    cdk_command: None,  # noqa: ARG001 # it has to be there
    standing_for_rds: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployed]:
    """An account that was made ready for the CDK, and has nothing else."""
    folder = tmp_path_factory.mktemp("emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    estate = Deployed(f"http://127.0.0.1:{port}", folder, written, standing_for_rds)
    environment = estate.environment | {
        "EMULATOR_URL": estate.url,
        "EMULATOR_DATABASE_URL": standing_for_rds,
        "EMULATOR_CERTIFICATE": CERTIFICATE,
    }
    environment.pop("AWS_ENDPOINT_URL")
    with (folder / "emulator.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "emulator", str(port), str(folder)],
            cwd=HERE,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _await(f"{estate.url}/moto-api/", server, folder / "emulator.log")
        estate.cdk("bootstrap", *(f"aws://{ACCOUNT}/{region}" for region in REGIONS.values()))
        yield estate
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def deployed(emulator: Deployed) -> Deployed:
    every = ("--require-approval", "never", "--concurrency", "2", "--progress", "events")
    emulator.said = emulator.cdk("deploy", "**", "--app", str(emulator.templates), *every)
    return emulator


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        assert server.poll() is None, log.read_text()
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def resources_of(written: Path) -> dict[str, list[str]]:
    """The types of the resources of every stack that was written, by the stack's name."""
    found: dict[str, list[str]] = {}
    for manifest in written.rglob("manifest.json"):
        for artifact in json.loads(manifest.read_text())["artifacts"].values():
            if artifact["type"] == "aws:cloudformation:stack":
                template = json.loads((manifest.parent / artifact["properties"]["templateFile"]).read_text())
                name = artifact["properties"].get("stackName", artifact.get("displayName", ""))
                found[name] = sorted(one["Type"] for one in template["Resources"].values())
    return found
