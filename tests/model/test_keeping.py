"""Whenever the database is lost, a rebuild brings back no more and no less than it should."""

from dataclasses import fields, replace
from functools import partial

import pytest

from model.explorer import Explored, explore
from model.keeping import Rules, State, broken_rule, lost_too_much, steps


def explored(rules: Rules) -> Explored[State]:
    return explore(State(), partial(steps, rules=rules), broken_rule)


def what_breaks(rules: Rules) -> list[str] | None:
    """Return the way to a state that breaks a promise, or to a rebuild that lost what the bucket had."""
    found = explored(rules)
    if found.at is not None:
        return [*found.trace(found.at), found.broken or ""]
    for state, following in found.follows.items():
        for step, after in following:
            if step.startswith("the database") and lost_too_much(state, after):
                return [*found.trace(state), step, f"{state.row} became {after.row}"]
    return None


def test_no_moment_is_a_bad_one_to_lose_the_database() -> None:
    assert what_breaks(Rules()) is None


@pytest.mark.parametrize("rule", [field.name for field in fields(Rules)])
def test_without_this_rule_a_rebuild_goes_wrong(rule: str) -> None:
    trace = what_breaks(replace(Rules(), **{rule: False}))

    assert trace is not None
    print(f"\nwithout {rule}:\n  " + "\n  ".join(trace))  # noqa: T201 # the counterexample
