"""Known attacks on direct uploads, each with the answer that the corpus foresees."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from attacks.scenes import CORPUS, Case, cases
from journeys.test_crash import published, wait_until
from journeys.test_direct import begin, complete, send
from pictures import picture
from service import Service

pytestmark = pytest.mark.skipif(CORPUS is None, reason="TINTYPE_CORPUS is not set")
CASES = {each.value: each for each in cases() if each.group == "direct"}
FOREIGN = "finalise with someone else\u2019s upload id"
ELSEWHERE = {
    "complete answered 200 with an error body by S3": "objects/test_s3_direct.py scripts such an S3",
}
TRIED = {
    "upload HTML with the presigned URL, finalise",
    "finalise, then overwrite the staging key with the same URL",
    "finalise without uploading",
    "PUT starts 1 s before the URL expires and ends 10 min later, after the sweeper ran",
    FOREIGN,
    "upload larger than announced",
    "finalise twice at once from two servers",
    "abandon 10,000 presigns",
}


def case(value: str) -> Case:
    return CASES[value]


def test_every_attack_is_tried_or_has_a_reason_why_not() -> None:
    assert set(CASES) == TRIED | set(ELSEWHERE)


def test_html_is_no_image(client: httpx.Client) -> None:
    html = b"<html><script>alert(1)</script></html>"
    begun = begin(client, html)
    send(begun, html)

    assert complete(client, begun).status_code in case("upload HTML with the presigned URL, finalise").status


def test_an_image_is_not_what_is_written_over_its_upload(client: httpx.Client) -> None:
    data = picture(seed=7701)
    begun = begin(client, data)
    send(begun, data)
    image = complete(client, begun).json()

    send(begun, picture(seed=7702)[: len(data)].ljust(len(data)))

    content = client.get(image["url"])
    told = case("finalise, then overwrite the staging key with the same URL")
    assert (content.status_code in told.status, content.content) == (True, data)


def test_nothing_is_acknowledged_that_is_not_there(client: httpx.Client) -> None:
    answer = complete(client, begin(client, b"x" * 100))
    assert answer.status_code in case("finalise without uploading").status


def test_what_comes_after_the_sweep_is_attached_to_nothing(client: httpx.Client, service: Service) -> None:
    data = picture(seed=7703)
    begun = begin(client, data)
    client.delete(begun["urls"]["self"])

    send(begun, data)

    told = case("PUT starts 1 s before the URL expires and ends 10 min later, after the sweeper ran")
    assert complete(client, begun).status_code in told.status
    folder = service.data_dir / "objects" / "incoming" / begun["id"]
    wait_until(lambda: not [path for path in folder.rglob("*") if path.is_file()])


def test_an_upload_of_somebody_else_is_none(anna: httpx.Client, bert: httpx.Client) -> None:
    data = picture(seed=7704)
    begun = begin(anna, data)
    send(begun, data)

    assert complete(bert, begun).status_code in case(FOREIGN).status


@pytest.mark.parametrize("method", ["put", "post"])
def test_more_than_announced_is_refused(client: httpx.Client, method: str) -> None:
    begun = begin(client, b"x" * 100, method)
    assert send(begun, b"x" * 101).status_code in case("upload larger than announced").status


def test_said_twice_at_once_it_is_one_image(client: httpx.Client, service: Service) -> None:
    data = picture(seed=7705)
    begun = begin(client, data)
    send(begun, data)

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: complete(client, begun), range(2)))

    assert {each.status_code for each in answers} <= set(
        case("finalise twice at once from two servers").status
    )
    (image_id,) = {each.json()["id"] for each in answers}
    wait_until(lambda: published(service).count(image_id) == 1)


def test_uploads_that_are_abandoned_have_an_end(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve(tmp_path / "data", TINTYPE_LIMITS__MAX_UNFINISHED_UPLOADS="20")
    with service.client() as client:
        statuses = [client.post("/v1/uploads", json={"bytes": 100}).status_code for _ in range(25)]

    assert statuses == [201] * 20 + [429] * 5
    assert set(statuses) <= set(case("abandon 10,000 presigns").status)
