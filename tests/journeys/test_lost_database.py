"""The database is destroyed; `tintype rebuild` makes it anew from the folder of objects."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pictures import picture
from service import COMMAND, Service

CRASHING = str(Path(__file__).parent.parent / "crashing.py")


def tintype(data_dir: Path, *arguments: str, program: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CRASHING, program] if program else COMMAND[:1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TINTYPE_", "AWS_"))}
    return subprocess.run(
        [*command, *arguments, "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment | {"TINTYPE_LOG__LEVEL": "warning"},
    )


def exported(data_dir: Path) -> list[dict[str, Any]]:
    done = tintype(data_dir, "export")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def live_a_little(service: Service) -> None:
    with service.client() as client:
        for seed in range(6):
            client.post(
                f"/v1/images?filename={seed}.png", content=picture(seed=5000 + seed)
            ).raise_for_status()
        one, two, three, *_ = client.get("/v1/images").json()["data"]
        client.patch(one["urls"]["self"], json={"tags": ["città"], "attributes": {"a": 1}}).raise_for_status()
        client.delete(two["urls"]["self"]).raise_for_status()
        client.delete(three["urls"]["self"]).raise_for_status()
        client.post(three["urls"]["self"] + "/restore").raise_for_status()


def test_a_destroyed_database_comes_back_as_it_was(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve(tmp_path / "data")
    live_a_little(service)
    service.stop()
    before = exported(service.data_dir)
    shutil.rmtree(service.data_dir / "postgres")

    refused = Service(service.data_dir)
    with pytest.raises(AssertionError, match="tintype rebuild"):
        refused.start()
    killed = tintype(service.data_dir, "rebuild", program="rebuild-recorded")
    assert killed.returncode == -9
    done = tintype(service.data_dir, "rebuild", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["counts"]["rows"] == 6
    assert "API keys" in report["not_rebuilt"][0]
    assert exported(service.data_dir) == before
    service.start()
    with service.client() as client:
        for image in client.get("/v1/images").json()["data"]:
            assert client.get(image["url"]).status_code == 200


def test_a_database_that_holds_images_is_not_rebuilt_and_the_sentence_says_what_to_do(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(tmp_path / "data")
    live_a_little(service)
    service.stop()

    refused = tintype(service.data_dir, "rebuild")

    assert refused.returncode == 1
    assert "tintype check" in refused.stderr
    assert "Traceback" not in refused.stderr
