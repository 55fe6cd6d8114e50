"""The protocol keeps its promises in every state there is; without any one of its rules it does not."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import pytest

from model.explorer import Explored, explore
from model.protocol import Rules, State, alike, broken_rule, is_clean, repairs, steps

COUNTEREXAMPLES = {
    "fence": "I2",
    "grace": "I2",
    "no_cleanup": "I2",
    "answer_last": "I1",
    "object_first": "I2",
    "tombstone_first": "I2",
    "purge_recorded_first": "I2",
    "own_keys": "I2",
    "publish_first": "I5",
}


def explored(rules: Rules, **how: Callable[[State], State]) -> Explored[State]:
    return explore(State(), partial(steps, rules=rules), partial(broken_rule, rules=rules), **how)


def test_no_state_breaks_a_promise_and_from_each_of_them_repairs_alone_lead_to_a_clean_one() -> None:
    rules = Rules()

    found = explored(rules, alike=alike)

    assert found.at is None or found.trace(found.at) == []
    assert found.broken is None
    assert len(found.came) > 50_000  # all of them, in seconds
    stuck = found.cannot_reach(partial(is_clean, rules=rules), repairs)
    assert stuck is None or (stuck, found.trace(stuck)) is None


@pytest.mark.parametrize("rule", COUNTEREXAMPLES)
def test_without_this_rule_a_promise_breaks(rule: str) -> None:
    found = explored(replace(Rules(), **{rule: False}))

    assert found.at is not None
    trace = found.trace(found.at)
    print(f"\nwithout {rule}: {found.broken}\n  " + "\n  ".join(trace))  # noqa: T201 # the counterexample
    assert found.broken is not None
    assert found.broken.startswith(COUNTEREXAMPLES[rule])


def test_without_a_lister_an_object_without_a_row_stays_for_ever() -> None:
    rules = replace(Rules(), lister=False)

    found = explored(rules, alike=alike)
    stuck = found.cannot_reach(partial(is_clean, rules=rules), repairs)

    assert found.broken is None
    assert stuck is not None
    print("\nwithout lister: I4\n  " + "\n  ".join(found.trace(stuck)))  # noqa: T201 # the counterexample


def test_every_rule_is_switched_off_once() -> None:
    assert {field.name for field in fields(Rules)} == COUNTEREXAMPLES.keys() | {"lister"}
