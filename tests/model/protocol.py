"""The protocol of writing, deleting, checking and telling, as a machine small enough to be explored whole.

Two attempts with one idempotency key, a store whose answers get lost or whose writes land late, a database
whose commits do, crashes anywhere, a user who deletes and restores, a purge, a relay, and two checks whose
steps fall between all of these. Time has three ages: young, beyond the fence (no commit any more), beyond
the grace (a check may take an object without a row).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

ATTEMPTS = (0, 1)
YOUNG, FENCED, OLD = 0, 1, 2


@dataclass(frozen=True)
class Rules:
    """What reliability rests on. Each can be switched off, to see what it is for."""

    fence: bool = True
    """A commit refuses an attempt that is not young."""
    grace: bool = True
    """A check leaves objects without a row alone until they are old."""
    no_cleanup: bool = True
    """After an error nothing is deleted: an answer that was lost may have been a yes."""
    answer_last: bool = True
    """Nothing is answered before it is committed."""
    object_first: bool = True
    """The row comes after its object."""
    tombstone_first: bool = True
    """A deletion marks the row before it touches the object."""
    purge_recorded_first: bool = True
    """A purge takes the possibility to restore before it takes the bytes."""
    own_keys: bool = True
    """Each attempt has a key of its own, used once."""
    publish_first: bool = True
    """An event is published before it is marked as such."""
    lister: bool = True
    """Checks list objects, and do not only walk rows."""


class State(NamedTuple):
    """Everything there is. Tuples have an entry for each attempt."""

    at: tuple[str, str] = ("begun", "begun")
    age: tuple[int, int] = (YOUNG, YOUNG)
    stored: tuple[bool, bool] = (False, False)
    landing: tuple[bool, bool] = (False, False)
    """A write of which nobody knows, and which may still take place."""
    row: tuple[int, str] | None = None
    """Whose image it is, and its state: one row, for the key allows one."""
    answers: tuple[int | None, int | None] = (None, None)
    """The image that each client was told."""
    event: str = "none"
    relay: str = "idle"
    checks: tuple[str, str] = ("idle", "idle")
    deleting: bool = False
    """Only where deletions begin with the object."""


def key_of(attempt: int, rules: Rules) -> int:
    """Return the attempt's key in the store."""
    return attempt if rules.own_keys else 0


def steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Yield all that can happen next."""
    for attempt in ATTEMPTS:
        yield from _upload(state, rules, attempt)
        yield from _surroundings(state, rules, attempt)
    yield from _user(state, rules)
    yield from _purge(state, rules)
    # Nothing else looks at events, so it is enough that relay and checks take turns.
    if state.checks == ("idle", "idle"):
        yield from _relay(state, rules)
    if state.relay == "idle":
        yield from _checks(state, rules)


def broken_rule(state: State, rules: Rules) -> str | None:
    """Return the promise that this state breaks."""
    if state.row is not None:
        owner, stands = state.row
        if stands == "ready" and not state.stored[key_of(owner, rules)]:
            return "I2: a ready row lacks its object"
    told = {answer for answer in state.answers if answer is not None}
    if len(told) > 1:
        return "I3: one key was answered with two images"
    if told and (state.row is None or state.row[0] not in told):
        return "I1: what was acknowledged is not there"
    if state.event == "lost":
        return "I5: an event is marked as published and never was"
    return None


def alike(state: State) -> State:
    """Return one state for all that are the same but for which attempt is called the first.

    The age of one that has ended and left nothing is no difference either. Only where keys are not shared.
    """
    age = state.age
    for attempt in ATTEMPTS:
        over = state.at[attempt] in ("done", "dead") and not (state.stored[attempt] or state.landing[attempt])
        if over and age[attempt] != OLD and not any(doing[-1] == str(attempt) for doing in state.checks):
            age = _with(age, attempt, value=OLD)
    if age != state.age:
        state = state._replace(age=age)
    first, second = ((state.at[me], state.age[me], state.stored[me], state.landing[me]) for me in ATTEMPTS)
    return _swapped(state) if second < first else state


def _swapped(state: State) -> State:
    one, other = state.answers
    checks = sorted(doing.translate(_OTHER) for doing in state.checks)
    return state._replace(
        at=state.at[::-1],
        age=state.age[::-1],
        stored=state.stored[::-1],
        landing=state.landing[::-1],
        row=None if state.row is None else (1 - state.row[0], state.row[1]),
        answers=(None if other is None else 1 - other, None if one is None else 1 - one),
        checks=(checks[0], checks[1]),
    )


_OTHER = str.maketrans("01", "10")


def is_clean(state: State, rules: Rules) -> bool:
    """Tell whether nothing is left to settle: no stray object, no event unpublished."""
    belongs = key_of(state.row[0], rules) if state.row and state.row[1] != "purged" else None
    strays = any(there and key != belongs for key, there in enumerate(state.stored))
    return not strays and not any(state.landing) and state.event in ("none", "told")


def repairs(step: str) -> bool:
    """Tell whether a step needs nobody but time, relays and checks."""
    return step.startswith(("time", "store:", "relay:", "check", "purge:"))


def _upload(state: State, rules: Rules, me: int) -> Iterator[tuple[str, State]]:
    at, who = state.at[me], f"attempt {me}:"
    if at not in ("done", "dead"):
        yield f"{who} crashes", _at(state, me, "dead")
    match at:
        case "begun":
            yield from _put(state, rules, me, who)
            if not rules.object_first:
                yield from _commit(state, rules, me, who, then="committed")
        case "put in doubt":
            yield from _ask(state, rules, me, who)
        case "stored":
            if not rules.answer_last:
                yield f"{who} answers 201 early", _answered(state, me, me)
            yield from _commit(state, rules, me, who, then="committed")
        case "in doubt":
            yield f"{who} runs the commit again", _at(state, me, "committed")
            yield from _clean_up(state, rules, me, who)
        case "committed":
            assert state.row is not None
            yield f"{who} answers 201", _answered(state, me, state.row[0])
        case _:
            return


def _ask(state: State, rules: Rules, me: int, who: str) -> Iterator[tuple[str, State]]:
    if state.stored[key_of(me, rules)]:
        yield f"{who} HEAD finds the object", _at(state, me, "stored")
    else:
        yield f"{who} HEAD finds nothing, puts again", _at(state, me, "begun")
    yield from _clean_up(state, rules, me, who)


def _clean_up(state: State, rules: Rules, me: int, who: str) -> Iterator[tuple[str, State]]:
    if not rules.no_cleanup:
        yield f"{who} cleans up", _at(_unstored(state, key_of(me, rules)), me, "dead")


def _put(state: State, rules: Rules, me: int, who: str) -> Iterator[tuple[str, State]]:
    key = key_of(me, rules)
    there = state._replace(stored=_with(state.stored, key, value=True))
    yield f"{who} puts", _at(there, me, "stored")
    yield f"{who} puts, the answer is lost", _at(there, me, "put in doubt")
    late = state._replace(landing=_with(state.landing, key, value=True))
    yield f"{who} puts, it will land late", _at(late, me, "put in doubt")


def _commit(state: State, rules: Rules, me: int, who: str, then: str) -> Iterator[tuple[str, State]]:
    if rules.fence and state.age[me] != YOUNG:
        yield f"{who} commit is refused, too old", _at(state, me, "dead")
        return
    if state.row is not None:
        yield f"{who} meets the other attempt's image", _at(state, me, then)
        return
    committed = state._replace(row=(me, "ready"), event="waits")
    yield f"{who} commits", _at(committed, me, then)
    yield f"{who} commits, the answer is lost", _at(committed, me, "in doubt")


def _surroundings(state: State, rules: Rules, attempt: int) -> Iterator[tuple[str, State]]:
    if state.age[attempt] < OLD:
        yield (
            f"time passes for attempt {attempt}",
            state._replace(age=_with(state.age, attempt, value=state.age[attempt] + 1)),
        )
    key = key_of(attempt, rules)
    if state.landing[key] and key == attempt:
        yield (
            f"store: the late write of attempt {attempt} lands",
            state._replace(
                landing=_with(state.landing, key, value=False), stored=_with(state.stored, key, value=True)
            ),
        )


def _user(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.row is None:
        return
    owner, stands = state.row
    if state.deleting and stands == "ready":
        yield "user: the row is marked", state._replace(row=(owner, "trashed"), deleting=False)
    elif stands == "ready" and rules.tombstone_first:
        yield "user: deletes", state._replace(row=(owner, "trashed"))
    elif stands == "ready":
        yield (
            "user: deletes, the object first",
            _unstored(state, key_of(owner, rules))._replace(deleting=True),
        )
    elif stands == "trashed":
        yield "user: restores", state._replace(row=(owner, "ready"))


def _purge(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.row is None:
        return
    owner, stands = state.row
    key = key_of(owner, rules)
    if stands == "trashed" and rules.purge_recorded_first:
        yield "purge: recorded", state._replace(row=(owner, "purged"))
    if stands == "purged" and state.stored[key]:
        yield "purge: takes the bytes", _unstored(state, key)
    if stands == "trashed" and not rules.purge_recorded_first:
        yield "purge: takes the bytes", _unstored(state, key)


def _relay(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    first, second = ("published", "marked") if rules.publish_first else ("marked", "published")
    if state.relay == "idle" and state.event == "waits":
        yield f"relay: {first}", state._replace(relay=first)
    if state.relay in ("published", "marked"):
        yield f"relay: {second}", state._replace(relay="idle", event="told")
        lost = state.relay == "marked"
        yield "the relay dies", state._replace(relay="idle", event="lost" if lost else "waits")


def _checks(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    for number, doing in enumerate(state.checks):
        if number == 1 and state.checks[0] == state.checks[1]:
            return  # two that do the same are as one
        who = f"check {number}:"
        if doing == "idle":
            for key in ATTEMPTS:
                if state.stored[key] and (rules.lister or _row_is(state, key, rules, "purged")):
                    yield f"{who} lists object {key}", _checking(state, number, f"listed {key}")
            continue
        what, key = doing.split()[0], int(doing.split()[1])
        if what == "listed":
            no_row = state.row is None or key_of(state.row[0], rules) != key
            takes = (no_row and (state.age[key] == OLD or not rules.grace)) or _row_is(
                state, key, rules, "purged"
            )
            after = f"takes {key}" if takes else "idle"
            yield f"{who} looks for the row of {key}", _checking(state, number, after)
        else:
            yield f"{who} takes object {key}", _checking(_unstored(state, key), number, "idle")


def _row_is(state: State, key: int, rules: Rules, stands: str) -> bool:
    return state.row is not None and key_of(state.row[0], rules) == key and state.row[1] == stands


def _checking(state: State, number: int, doing: str) -> State:
    first, second = sorted(_with(state.checks, number, value=doing))  # which of the two is no difference
    return state._replace(checks=(first, second))


def _at(state: State, me: int, where: str) -> State:
    return state._replace(at=_with(state.at, me, value=where))


def _answered(state: State, me: int, image: int) -> State:
    return _at(state, me, "done")._replace(answers=_with(state.answers, me, value=image))


def _unstored(state: State, key: int) -> State:
    return state._replace(stored=_with(state.stored, key, value=False))


def _with(pair: tuple, index: int, *, value: object) -> tuple:  # type: ignore[type-arg] # of whatever they hold
    return (value, pair[1]) if index == 0 else (pair[0], value)
