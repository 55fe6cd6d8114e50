"""Real and hostile images through the running server: each gets the verdict that its manifest foresees."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Service

CORPUS = os.environ.get("TINTYPE_CORPUS")
pytestmark = [
    pytest.mark.xdist_group("corpus"),  # it is sent once for all
    pytest.mark.skipif(
        CORPUS is None, reason="TINTYPE_CORPUS is not set: the corpus of real and hostile images is not run"
    ),
]
SAME_FORMAT = {"mpo": "jpeg", "apng": "png"}

Verdict = tuple[dict[str, Any], httpx.Response, bytes]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, list[Verdict]]]:
    """Send every file once, four at a time, as its own upload."""
    assert CORPUS is not None
    corpus = Path(CORPUS)
    service = Service(tmp_path_factory.mktemp("corpus") / "data").start()
    files = json.loads((corpus / "manifest.json").read_text())["files"]

    def send(entry: dict[str, Any]) -> Verdict:
        data = (corpus / entry["file"]).read_bytes()
        file = (entry["upload_name"], data, entry["upload_content_type"])
        with httpx.Client(base_url=service.base, timeout=120) as client:
            return entry, client.post("/v1/images?on_duplicate=keep", files={"file": file}), data

    with ThreadPoolExecutor(4) as pool:
        yield service, list(pool.map(send, files))
    service.stop()


def failing(verdicts: list[Verdict], check: Callable[[Verdict], bool]) -> list[str]:
    return [
        f"{entry['file']}: {answer.status_code} {answer.text[:200]}"
        for entry, answer, data in verdicts
        if not check((entry, answer, data))
    ]


def test_every_file_gets_the_verdict_of_its_manifest(verdicts: tuple[Service, list[Verdict]]) -> None:
    def expected(verdict: Verdict) -> bool:
        entry, answer, _ = verdict
        return answer.status_code in entry["status"]

    assert failing(verdicts[1], expected) == []


def test_every_refusal_is_a_problem_with_a_code_and_stores_nothing(
    verdicts: tuple[Service, list[Verdict]],
) -> None:
    def clear(verdict: Verdict) -> bool:
        _, answer, _ = verdict
        if answer.status_code < 400:
            return True
        told = answer.headers["content-type"] == "application/problem+json" and answer.json()["code"]
        return bool(told) and answer.status_code < 500

    service, all_verdicts = verdicts
    assert failing(all_verdicts, clear) == []
    accepted = sum(answer.status_code == 201 for _, answer, _ in all_verdicts)
    objects = [path for path in (service.data_dir / "objects" / "originals").rglob("*") if path.is_file()]
    assert len(objects) == accepted


def test_every_accepted_file_is_stored_exactly_and_described_as_it_is(
    verdicts: tuple[Service, list[Verdict]],
) -> None:
    service, all_verdicts = verdicts
    with service.client() as client:

        def right(verdict: Verdict) -> bool:
            entry, answer, data = verdict
            if answer.status_code != 201:
                return True
            image = answer.json()
            content = client.get(image["url"])
            exact = content.content == data and image["sha256"] == hashlib.sha256(data).hexdigest()
            harmless = (
                content.headers["content-type"] == image["content_type"]
                and content.headers["x-content-type-options"] == "nosniff"
                and "sandbox" in content.headers["content-security-policy"]
                and content.headers["content-disposition"].startswith("attachment")
            )
            return exact and harmless and _agrees(image, entry)

        assert failing(all_verdicts, right) == []


def _agrees(image: dict[str, Any], entry: dict[str, Any]) -> bool:
    reference = entry.get("reference")
    if entry["expected"] != "accept" or reference is None:
        return True
    kind = SAME_FORMAT.get(reference["type"], reference["type"])
    return (
        image["content_type"] == f"image/{kind}"
        and (image["width"], image["height"]) == (reference["width"], reference["height"])
        and image["orientation"] == reference["orientation"]
    )


def test_the_service_is_well_afterwards(verdicts: tuple[Service, list[Verdict]]) -> None:
    service, _ = verdicts

    with service.client() as client:
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in service.output
