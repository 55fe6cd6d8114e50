"""Where a picture was taken is sealed: told to whoever asks for it, with a scope for that alone."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from identified import Identified
from made_images import ascii_value, exif_block, rational
from pictures import picture

PLACE = {"latitude": 41.9034292, "longitude": -12.5, "altitude": None}
DEGREES = exif_block(
    gps=[
        ascii_value(1, b"N"),
        rational(2, (41, 1), (54, 1), (12345, 1000)),
        ascii_value(3, b"W"),
        rational(4, (12, 1), (30, 1), (0, 1)),
    ]
)


@pytest.fixture
def taken_somewhere(anna: httpx.Client) -> dict[str, Any]:
    data = picture("JPEG", seed=uuid4().int % 2**31, exif=b"Exif\0\0" + DEGREES)
    answer = anna.post(f"/v1/images?filename={uuid4()}.jpg&on_duplicate=keep", content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()


def key_with(anna: httpx.Client, *scopes: str) -> str:
    answer = anna.post("/v1/api-keys", json={"scopes": list(scopes)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


def test_it_is_told_to_its_owner_who_asks_for_it(anna: httpx.Client, taken_somewhere: dict[str, Any]) -> None:
    where = anna.get(f"/v1/images/{taken_somewhere['id']}?include=location")
    assert where.status_code == 200, where.text
    assert where.json()["location"] == PLACE

    nowhere = anna.post("/v1/images?on_duplicate=keep", content=picture(seed=9001)).json()["id"]
    assert anna.get(f"/v1/images/{nowhere}?include=location").json()["location"] is None


def test_it_is_told_to_nobody_without_the_scope(
    anna: httpx.Client, identified: Identified, taken_somewhere: dict[str, Any]
) -> None:
    with identified.client(key_with(anna, "read", "write", "admin")) as reader:
        refused = reader.get(f"/v1/images/{taken_somewhere['id']}?include=location")
        assert (refused.status_code, refused.json()["code"], refused.json()["scope"]) == (
            403,
            "forbidden",
            "location",
        )
        assert reader.post("/v1/api-keys", json={"scopes": ["location"]}).status_code == 403
    with identified.client(key_with(anna, "location")) as lone:
        assert lone.get(f"/v1/images/{taken_somewhere['id']}?include=location").status_code == 403


def test_it_is_told_to_no_other_owner(bert: httpx.Client, taken_somewhere: dict[str, Any]) -> None:
    assert bert.get(f"/v1/images/{taken_somewhere['id']}?include=location").status_code == 404


def test_no_other_answer_has_it(anna: httpx.Client, taken_somewhere: dict[str, Any]) -> None:
    path, name = f"/v1/images/{taken_somewhere['id']}", taken_somewhere["filename"]
    answers = [
        anna.get(path),
        anna.get(f"{path}?include=exif"),
        anna.patch(path, json={"tags": ["x"]}),
        anna.get(f"/v1/images/by-name/{name}"),
        anna.get("/v1/images?limit=100"),
        anna.get("/v1/images/random?tag=x"),
        anna.post(f"{path}/links", json={}),
    ]
    for answer in answers:
        assert answer.is_success
        for word in ("location", "latitude", "GPS", "41.90342"):
            assert word not in answer.text.replace('"location":null', "")
