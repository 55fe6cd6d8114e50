"""Known attacks by addresses, each against the running server: it calls nobody but webhooks."""

import httpx
import pytest

from attacks.scenes import CORPUS, Case, cases

pytestmark = pytest.mark.skipif(CORPUS is None, reason="TINTYPE_CORPUS is not set: attacks are not run")

CASES = [each for each in cases() if each.group == "urls"]
ANSWERS = "behaviour"
"""The category of what a server may answer. Nothing of an answer to a webhook is used but its status:

tests/messaging/test_webhook.py has servers that redirect, stall, speak no HTTP or do not stop, and
tests/messaging/test_egress.py names with a private address among public ones.
"""


@pytest.mark.parametrize(
    "case", [pytest.param(each, id=each.id) for each in CASES if each.category != ANSWERS]
)
@pytest.mark.parametrize("scheme", ["as it is", "https"])
def test_nobody_is_called_at_such_an_address(client: httpx.Client, case: Case, scheme: str) -> None:
    address: str = case.value
    if scheme == "https":  # else it were refused for that alone
        address = address.replace("http:", "https:", 1)

    answer = client.post("/v1/subscriptions", json={"channel": "webhook", "address": address})

    assert answer.status_code in case.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    # Whether a host is there, and what it says, is not told.
    assert not {"refused to connect", "timed out", "resolve"} & set(answer.text.lower().split())


def test_every_attack_is_tried_or_is_an_answer() -> None:
    assert {type(each.value) for each in CASES if each.category == ANSWERS} == {dict}
    assert {type(each.value) for each in CASES if each.category != ANSWERS} == {str}
