"""Direct uploads as clients send them: told where to, stored without us, read and judged before they count."""

import hashlib
import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pictures import picture


def begin(client: httpx.Client, data: bytes, method: str = "put", **wanted: Any) -> dict[str, Any]:
    asked = {"filename": "rome.png", "content_type": "image/png", "bytes": len(data), "method": method}
    answer = client.post("/v1/uploads", json=asked | wanted)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def send(begun: dict[str, Any], data: bytes) -> httpx.Response:
    """Send the bytes as told, with nothing else: no credentials of ours."""
    if begun["form"] is not None:
        return httpx.post(begun["form"]["url"], data=begun["form"]["fields"], files={"file": data})
    told = begun["request"]
    return httpx.request(told["method"], told["url"], headers=told["headers"], content=data)


def complete(client: httpx.Client, begun: dict[str, Any], parts: list[dict[str, Any]] | None = None) -> httpx.Response:
    body = {} if parts is None else {"parts": parts}
    return client.post(begun["urls"]["complete"], json=body)


@pytest.mark.parametrize("method", ["put", "post"])
def test_what_was_sent_as_told_becomes_an_image(client: httpx.Client, method: str) -> None:
    data = picture(seed=7301 + len(method))
    sha256 = hashlib.sha256(data).hexdigest()
    begun = begin(client, data, method, sha256=sha256, tags=["sea"], attributes={"album": "Rome"})

    assert send(begun, data).status_code in {200, 204}
    answer = complete(client, begun)

    image = answer.json()
    assert answer.status_code == 201, answer.text
    assert (image["sha256"], image["filename"], image["tags"]) == (sha256, "rome.png", ["sea"])
    assert (image["attributes"], image["protocol"]) == ({"album": "Rome"}, "direct")
    assert client.get(image["url"]).content == data
    assert complete(client, begun).json() == image
