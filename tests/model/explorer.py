"""A small explorer of state machines: every state that can be reached, and the shortest way to each."""

import gc
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)

Step = tuple[str, S]
"""What happens, and the state after it."""


@contextmanager
def _nothing_collected() -> Generator[None]:
    """States hold no cycles: looking for some, over and over among a million tuples, takes twice the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass
class Explored(Generic[S]):
    """What was found. `broken` names the first rule that fails, the nearest to the beginning there is."""

    came: dict[S, tuple[S, str] | None] = field(default_factory=dict)
    """For each state the one before, and what happened in between."""
    follows: dict[S, list[Step[S]]] = field(default_factory=dict)
    broken: str | None = None
    at: S | None = None

    def trace(self, state: S) -> list[str]:
        """Return what happened on the shortest way to a state."""
        steps: list[str] = []
        while (before := self.came[state]) is not None:
            state, step = before
            steps.append(step)
        return steps[::-1]

    @_nothing_collected()
    def cannot_reach(self, good: Callable[[S], bool], by: Callable[[str], bool]) -> S | None:
        """Return a state from which no steps of some actors alone lead to a good one; None: all do."""
        back: dict[S, list[S]] = {}
        for state, steps in self.follows.items():
            for step, after in steps:
                if by(step):
                    back.setdefault(after, []).append(state)
        reached = {state for state in self.came if good(state)}
        waiting = deque(reached)
        while waiting:
            for before in back.get(waiting.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    waiting.append(before)
        return next((state for state in self.came if state not in reached), None)


@_nothing_collected()
def explore(
    start: S,
    steps: Callable[[S], Iterable[Step[S]]],
    broken_rule: Callable[[S], str | None],
    alike: Callable[[S], S] = lambda state: state,
) -> Explored[S]:
    """Visit every state, the nearest first, and stop at the first that breaks a rule.

    `alike` names one state for all those that differ in nothing that matters.
    """
    found = Explored[S]({start: None})
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if broken := broken_rule(state):
            found.broken, found.at = broken, state
            return found
        found.follows[state] = [(step, alike(after)) for step, after in steps(state)]
        for step, after in found.follows[state]:
            if after not in found.came:
                found.came[after] = (state, step)
                waiting.append(after)
    return found
