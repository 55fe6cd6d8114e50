"""The registry of problems, and the pages that it makes."""

import inspect

import pytest

from tintype.model import errors
from tintype.model.errors import TintypeError
from tintype.server.failures import preferred
from tintype.server.problems import BY_CODE, KINDS, meaning_of, page_of, problem_body

CLASSES = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, TintypeError)} - {
    TintypeError
}


def test_every_error_has_one_row_in_the_registry() -> None:
    assert set(KINDS) == CLASSES
    assert len(BY_CODE) == len(CLASSES), "two classes share a code"


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_can_be_explained(code: str) -> None:
    error = BY_CODE[code]
    page = page_of(error)
    assert page["code"].isascii()
    assert page["code"].replace("_", "").islower()
    assert meaning_of(error).endswith(".")
    assert page["advice"].endswith(".")
    assert not page["title"].endswith(".")
    assert 400 <= page["status"] < 600


def test_a_refusal_that_is_no_one_s_fault_but_ours_can_be_tried_again() -> None:
    for error, kind in KINDS.items():
        assert kind.retryable or kind.status < 500, error


def test_details_join_the_document_and_do_not_replace_it() -> None:
    body = problem_body(
        errors.UploadTooLarge("Too much.", details={"limit": 5, "status": 200}, retry_after=3)
    )
    assert body == {
        "type": "/problems/upload_too_large",
        "title": "The upload is larger than the limit",
        "status": 413,
        "detail": "Too much.",
        "code": "upload_too_large",
        "retryable": False,
        "retry_after": 3,
        "limit": 5,
    }


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "problem"),
        ("*/*", "problem"),
        ("image/png", "problem"),
        ("application/problem+json", "problem"),
        ("application/json", "json"),
        ("application/json, text/plain, */*", "json"),  # axios
        ("application/problem+json, application/json", "problem"),
        ("application/json;q=0.5, application/problem+json;q=0.9", "problem"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),  # browsers
        ("text/html;q=0, application/json", "json"),
        ("TEXT/HTML", "html"),
        ("text/html;q=x", "problem"),
        ("text/html;q=nan, application/json;q=inf", "problem"),
    ],
)
def test_the_form_of_an_error_is_what_accept_names(accept: str, form: str) -> None:
    assert preferred(accept) == form
