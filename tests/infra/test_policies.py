"""What every role may do, held against policies.toml, which has the reason for each statement."""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.conftest import ACCOUNT, TABLES, Template

pytestmark = pytest.mark.xdist_group("infra")

GOLDEN = Path(__file__).with_name("policies.toml")
REGIONS = "|".join(stage["region"] for stage in TABLES["stage"].values())
HASH = "[0-9A-F]{8}"
"""What the CDK ends a name with."""


@dataclass(frozen=True)
class May:
    """One thing that a role may do."""

    role: str
    what: tuple[str, ...]
    on: tuple[str, ...]
    if_: str = ""


def statements(template: Template) -> Iterator[May]:
    """Every statement of every role of a stack. Raises for what a policy could say and ours never do."""
    for logical_id, resource in template["Resources"].items():
        own = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::IAM::Role":
                assert not own.get("ManagedPolicyArns"), f"{logical_id} has a policy that AWS may widen"
                for policy in own.get("Policies", ()):
                    yield from _of(logical_id, policy["PolicyDocument"])
            case "AWS::IAM::Policy":
                assert not own.get("Users"), logical_id
                assert not own.get("Groups"), logical_id
                for role in own["Roles"]:
                    yield from _of(role["Ref"], own["PolicyDocument"])
            case "AWS::IAM::ManagedPolicy" | "AWS::IAM::User" | "AWS::IAM::Group":
                raise AssertionError(f"{logical_id}: rights are given by the roles' own policies alone")


def _of(role: str, document: Template) -> Iterator[May]:
    name = _plain(role)
    for one in document["Statement"]:
        assert one["Effect"] == "Allow"
        assert "NotAction" not in one, role
        there = "NotResource" if "NotResource" in one else "Resource"
        on = [_readable(each, name) for each in _several(one[there])]
        yield May(
            name,
            tuple(sorted(_several(one["Action"]))),
            tuple(sorted(f"not {each}" if there == "NotResource" else each for each in on)),
            _readable(json.dumps(one.get("Condition", ""), sort_keys=True).strip('"'), name),
        )


def _several(value: Any) -> list[Any]:  # noqa: ANN401 # JSON
    return value if isinstance(value, list) else [value]


def _readable(value: Any, role: str) -> str:  # noqa: ANN401 # JSON
    """Return a resource as a person writes it: no hash, no account, `<own…>` for what is the role's own."""
    match value:
        case str():
            text = re.sub(REGIONS, "<region>", value.replace(ACCOUNT, "<account>"))
            return re.sub("[0-9a-f]{64}", "<hash>", text)
        case {"Ref": name}:
            return f"<{_own(_plain(name), role)}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{_own(_plain(name), role)}.{attribute}>"
        case {"Fn::ImportValue": export}:
            found = re.fullmatch(rf".+:ExportsOutput(?:FnGetAtt|Ref)(\w+?){HASH}(\w*){HASH}", export)
            assert found is not None, export
            return f"<data {'.'.join(filter(None, found.groups()))}>"
        case {"Fn::Sub": text}:
            return _readable(text.replace("${", "<").replace("}", ">"), role)
        case {"Fn::Join": ["", parts]}:
            return "".join(_readable(part, role) for part in parts)
        case other:
            raise AssertionError(f"nobody can read {other}")


def _plain(logical_id: str) -> str:
    return re.sub(f"{HASH}$", "", logical_id)


def _own(name: str, role: str) -> str:
    return name.replace(role.removesuffix("Role"), "own", 1)


def golden() -> dict[May, str]:
    """Every statement that was thought about, with its reason."""
    return {
        May(role, tuple(one["what"]), tuple(one["on"]), one.get("if", "")): one["why"]
        for one in tomllib.loads(GOLDEN.read_text())["allow"]
        for role in one["roles"]
    }


def test_every_role_may_do_what_is_written_down_and_nothing_else(templates: dict[str, Template]) -> None:
    there = {
        one for name in ("serious-data", "serious-service", "delivery") for one in statements(templates[name])
    }
    wanted = golden()

    assert there - wanted.keys() == set(), "write these down in policies.toml, each with its reason"
    assert wanted.keys() - there == set(), "nobody has these rights any more"


def test_a_smaller_stage_gives_no_right_that_the_larger_one_lacks(templates: dict[str, Template]) -> None:
    for name in ("small-data", "small-service"):
        assert set(statements(templates[name])) <= golden().keys()


def test_every_right_has_a_reason_and_every_wildcard_says_who_asks_for_it() -> None:
    for one, why in golden().items():
        assert len(why.split()) > 3, one
        # What is below a prefix of ours, is known only when it is there; anything else is AWS's or the CDK's.
        wide = [each for each in (*one.what, *one.on) if "*" in re.sub(r"/\*$", "", each)]
        assert not wide or re.match("(AWS|CDK): ", why), (one, wide)
