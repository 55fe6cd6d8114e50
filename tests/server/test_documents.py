"""What is made from code says what the code does."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tintype.server.app import describe
from tintype.server.docs import pages
from tintype.server.problems import BY_CODE, KINDS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = pages()
DOCUMENT = describe().openapi()


OPERATIONS = [
    pytest.param(operation, id=f"{method.upper()} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_in_docs_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name], "run `make docs`"


def test_every_setting_has_a_description() -> None:
    rows = [line for line in PAGES["settings.md"].splitlines() if line.startswith("| `TINTYPE_")]
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_document_is_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    assert {"upload_images", "read_image", "readyz"} <= set(names)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_described(operation: dict[str, Any]) -> None:
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    assert operation["summary"][0].isupper()
    assert " " in operation["summary"]
    assert not operation["summary"].endswith(".")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_has_an_example(operation: dict[str, Any]) -> None:
    succeeded = [answer for status, answer in operation["responses"].items() if status < "300"]
    places = [*succeeded, operation.get("requestBody", {}), {"parameters": operation.get("parameters", [])}]
    assert any(has_example(place) for place in places)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_fails_with_problems_only(operation: dict[str, Any]) -> None:
    told: set[str] = set()
    for status, answer in operation["responses"].items():
        if status < "400":
            continue
        assert set(answer["content"]) == {"application/problem+json"}
        for code, example in answer["content"]["application/problem+json"]["examples"].items():
            assert str(KINDS[BY_CODE[code]].status) == status == str(example["value"]["status"])
            told.add(code)
    assert told == set(operation["x-error-codes"])
    assert "internal" in told


def test_no_shape_of_the_framework_s_own_errors_is_left() -> None:
    assert "ValidationError" not in json.dumps(DOCUMENT)


def has_example(place: object) -> bool:
    """Tell whether an example stands somewhere in a part of the document, references followed."""
    if isinstance(place, list):
        return any(has_example(each) for each in place)
    if not isinstance(place, dict):
        return False
    if "example" in place or "examples" in place:
        return True
    if "$ref" in place:
        return has_example(DOCUMENT["components"]["schemas"][place["$ref"].rpartition("/")[2]])
    return any(has_example(each) for each in place.values())
