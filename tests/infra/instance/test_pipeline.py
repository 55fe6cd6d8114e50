"""A dry run of the pipeline: what its builds execute, in a clean root, one after the other.

`make pipeline` runs it. It takes root, and as long as the whole suite of tests, which is what the first build
executes; PIPELINE_TESTS (options of pytest's) shortens that. In place of AWS there is the emulator.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deployed import Deployed
from identified import Identified
from infra.conftest import TABLES, Template
from tintype_infra.build import PYTHON

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(7200)]

PROJECT = Path(__file__).parents[3]
TOOLS = "git make npm python3-venv"
"""What the image of AWS CodeBuild has, and a bare Debian lacks."""
TRUSTED = ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""How a machine behind a proxy says whom it trusts."""


class CleanRoot:
    """A Debian 13 with the tools of the build image, and nothing of this machine but its network."""

    def __init__(self, root: Path, shared: Path) -> None:
        self.root = root
        self.shared = shared
        """`/shared` there."""

    def run(self, folder: str, commands: list[str], **environment: str) -> str:
        """Run commands as CodeBuild does, in one shell that ends at the first that fails."""
        given = {name: os.environ[name] for name in TRUSTED if name in os.environ}
        asked = [f"--setenv={name}={value}" for name, value in (given | environment).items()]
        done = subprocess.run(
            [
                *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"),
                *(f"--directory={self.root}", f"--bind={self.shared}:/shared"),
                *("--bind-ro=/etc/ssl/certs", f"--chdir=/shared/{folder}", *asked),
                *("bash", "-euc", "\n".join(commands)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        assert done.returncode == 0, f"{commands}:\n{done.stdout[-20000:]}"
        return done.stdout


@pytest.fixture
def clean(root: Path, tmp_path: Path) -> CleanRoot:
    own = tmp_path / "root"
    subprocess.run(["cp", "--archive", "--reflink=auto", root, own], check=True)
    shared = tmp_path / "shared"
    shared.mkdir()
    made = CleanRoot(own, shared)
    made.run(".", ["apt-get -qq update", f"apt-get -qq install -y --no-install-recommends {TOOLS}"])
    said = made.run(".", ["python3 --version"])
    assert said.startswith(f"Python {PYTHON}."), "the version that the pipeline names"
    return made


def builds(template: Template, assembly: Path) -> dict[str, dict[str, Any]]:
    """What each project of the pipeline executes, by the beginning of its logical id."""
    found: dict[str, dict[str, Any]] = {}
    for logical_id, one in template["Resources"].items():
        if one["Type"] == "AWS::CodeBuild::Project":
            said = one["Properties"]["Source"]["BuildSpec"]
            text = (assembly / said).read_text() if said.endswith(".yaml") else said
            found[logical_id.removeprefix("Pipeline")] = json.loads(text)
    return found


def commands(buildspec: dict[str, Any]) -> list[str]:
    phases = buildspec["phases"]
    return [each for name in ("install", "build") for each in phases.get(name, {}).get("commands", ())]


def stages() -> str:
    """The decisions of conftest.py, as the file that is committed."""
    tables = [(f"stage.{name}", table) for name, table in TABLES["stage"].items()]
    lines: list[str] = []
    for name, table in [*tables, ("delivery", TABLES["delivery"])]:
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


def test_every_build_of_the_pipeline_runs_in_a_clean_root(
    clean: CleanRoot,
    templates: dict[str, Template],
    written: Path,
    emulator: Deployed,
    identified: Identified,
) -> None:
    shared = clean.shared
    subprocess.run(["git", "clone", "--quiet", PROJECT, shared / "source"], check=True)
    (shared / "source/infra/stages.toml").write_text(stages())
    (shared / "authorities.pem").write_text("no authority")
    specs = builds(templates["delivery"], written)

    # Checked, tested, built, synthesized: what comes out is what the other builds get.
    (build,) = [spec for name, spec in specs.items() if name.startswith("Build")]
    fewer = {"PYTEST_ADDOPTS": os.environ.get("PIPELINE_TESTS", "")}
    clean.run("source", commands(build), AUTHORITIES="/shared/authorities.pem", **fewer)
    made = shared / "source" / build["artifacts"]["base-directory"]
    shutil.copytree(made, shared / "built")
    template = json.loads((shared / "built/Delivery.template.json").read_text())
    specs = builds(template, shared / "built")

    aws = {name: value for name, value in emulator.environment.items() if name.startswith("AWS_")}
    for name, spec in specs.items():
        if name.startswith(("UpdatePipeline", "Assets")):
            clean.run("built", commands(spec), **aws)
        if "Smoke" in name:
            said = clean.run("source", commands(spec), URL=identified.service.base)
            assert "serves, and asks for keys" in said

    pipelines = emulator.api("codepipeline", "serious").list_pipelines()["pipelines"]
    assert [one["name"] for one in pipelines] == ["tintype"]
    for stage in ("small", "serious"):
        bucket = (
            f"cdk-hnb659fds-assets-{TABLES['stage'][stage]['account']}-{TABLES['stage'][stage]['region']}"
        )
        kept = emulator.api("s3", stage).list_objects_v2(Bucket=bucket)["Contents"]
        assert {".zip", ".gz"} <= {Path(one["Key"]).suffix for one in kept}
