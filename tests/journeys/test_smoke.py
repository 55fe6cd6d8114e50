"""The pipeline's smoke test, as it is run after every deployment, on services of this machine."""

import os
import subprocess
from pathlib import Path

from identified import Identified
from service import Service

SCRIPT = Path(__file__).parents[2] / "infra/smoke.sh"


def smoke(url: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "URL": url, "TRIES": "2", "PAUSE": "0"}
    return subprocess.run(
        ["bash", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_service_that_asks_for_keys_passes(identified: Identified) -> None:
    done = smoke(identified.service.base)

    assert (done.returncode, done.stdout) == (0, f"{identified.service.base} serves, and asks for keys\n")


def test_a_service_that_lets_everybody_in_is_found_out(service: Service) -> None:
    done = smoke(service.base)

    assert done.returncode == 1
    assert "must answer 401" in done.stderr


def test_where_nobody_answers_the_deployment_fails() -> None:
    done = smoke("http://127.0.0.1:9")

    assert done.returncode == 1
    assert "/readyz answers 000" in done.stderr
