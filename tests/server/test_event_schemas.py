"""Events have schemas: what is told is as they say, and what receivers rely on does not change."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from happenings import WHEN, event, notice
from tintype.messaging.publisher import MAX_BODY_BYTES, body_of
from tintype.model.check import Order, Run, RunState, Task, run_payload
from tintype.model.event import Event, Kind
from tintype.model.ids import new_id
from tintype.model.image import Facts, Format
from tintype.server.event_schemas import VERSION, schema_of

RELEASED = json.loads((Path(__file__).parent / "released_events.json").read_text())
"""As of the last release. A release adds what is new; nothing of it is ever changed or taken out."""

RUN = Run(new_id(), Order(), Task.CHECK, RunState.COMPLETE, None, WHEN, WHEN, WHEN)


def happened(kind: Kind) -> Event:
    if kind.about_image:
        return event(7, kind)
    if kind is Kind.CONSISTENCY_FINISHED:
        return notice(7, kind, **run_payload(RUN))
    return notice(7, kind, subscription_id="01932c07-209c-7f3a-8f51-6b1d0a4be3c2", channel="email")


@pytest.mark.parametrize("kind", Kind)
def test_what_is_told_is_as_its_schema_says(kind: Kind) -> None:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)

    Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(body_of(happened(kind))))


def test_a_payload_that_was_too_long_still_fits_its_schema() -> None:
    facts = Facts(Format.JPEG, width=1, height=1, camera={"make": "x" * MAX_BODY_BYTES})
    told = json.loads(body_of(event(7, facts=facts)))

    assert told["omitted"]
    Draft202012Validator(schema_of(Kind.UPLOADED)).validate(told)


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_what_was_released_is_still_so(name: str) -> None:
    kind = name.removesuffix(f".v{VERSION}.json")

    assert broken(RELEASED[name], schema_of(Kind(kind))) == []


def broken(before: Any, now: Any, where: str = "") -> list[str]:  # noqa: ANN401 - JSON Schemas
    """What somebody who reads by the older schema could stumble over."""
    found = [
        f"{where}: {name} was always there"
        for name in set(before.get("required", [])) - set(now.get("required", []))
    ]
    for keyword in ("type", "const", "format", "pattern"):
        old, new = kinds(before.get(keyword)), kinds(now.get(keyword))
        if keyword in before and not (new and new <= old):
            found.append(f"{where}: {keyword} was {before[keyword]}")
    if "enum" in before and not set(now.get("enum", ["?"])) <= set(before["enum"]):
        found.append(f"{where}: other values than {before['enum']}")
    for name, schema in before.get("properties", {}).items():
        if name not in now.get("properties", {}):
            found.append(f"{where}/{name}: it is gone")
        else:
            found += broken(schema, now["properties"][name], f"{where}/{name}")
    if "items" in before:
        found += broken(before["items"], now.get("items", {}), f"{where}[]")
    for way in now.get("anyOf", []):
        if "anyOf" not in before or all(broken(known, way) for known in before["anyOf"]):
            found.append(f"{where}: it may be {way}")
    for keyword in before.keys() - now.keys() - {"title", "description", "examples", "default"}:
        found.append(f"{where}: {keyword} is gone")  # a reader relied on it
    return found


def kinds(value: Any) -> set[str]:  # noqa: ANN401
    return set() if value is None else {value} if isinstance(value, str) else set(value)


@pytest.mark.parametrize(
    "change",
    [
        {"properties": {}},
        {"required": []},
        {"properties": {"a": {"type": "integer"}}},
        {"properties": {"a": {"type": ["string", "null"]}}},
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"properties": {"a": {}}},
    ],
)
def test_a_change_that_breaks_receivers_is_found(change: dict[str, Any]) -> None:
    before = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}

    assert broken(before, before) == []
    assert broken(before, before | {"properties": before["properties"] | {"b": {"type": "null"}}}) == []
    assert broken(before, before | change)
