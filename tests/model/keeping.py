"""What the bucket keeps of one image, as a machine: the journal, the marker, the purge, and a lost database.

The row has a version and a state; the keeper writes markers and then words; the purge works in its three
steps; at any moment the database may be lost, and is made anew from what the bucket has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MOST = 5
"""Versions: enough for a deletion, a restore, and both again."""


@dataclass(frozen=True)
class Rules:
    """What a rebuild rests on."""

    marker_has_version: bool = True
    """A marker says nothing of an image whose version is higher."""
    marker_before_bytes: bool = True
    """The purge leaves its marker before it takes the bytes."""
    recorded_before_bytes: bool = True
    """Nobody can restore an image whose bytes are about to go."""
    version_at_least_the_markers: bool = True
    """A rebuilt row is no older than its marker, so that a restore is newer."""
    newest_word_wins: bool = True
    """Words are ordered by version, whichever was written last."""


class State(NamedTuple):
    """One image, after it was uploaded."""

    row: tuple[int, str] = (1, "ready")
    """Version and state."""
    word: tuple[int, str] | None = None
    """The journal's word; None: the journal does not have it yet."""
    marker: tuple[int, bool] | None = None
    """Its version, and whether it is that of a purge."""
    stored: bool = True
    purge: tuple[str, int] = ("idle", 0)
    """What the purge does, and of which version."""
    late: tuple[int, str] | None = None
    """What a second writer, who was stopped in the middle, is about to write."""
    erased: bool = False
    """The bytes were taken, by a purge."""


def steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Yield all that can happen next."""
    version, stands = state.row
    if stands == "ready" and version < MOST:
        yield "user: deletes", state._replace(row=(version + 1, "trashed"))
    if stands == "trashed" and version < MOST:
        yield "user: restores", state._replace(row=(version + 1, "ready"))
    yield from _keep(state, rules)
    yield from _purge(state, rules)
    yield "the database is lost and rebuilt", _rebuilt(state, rules)


def broken_rule(state: State) -> str | None:
    """Return the promise that this state breaks."""
    if state.row[1] == "ready" and not state.stored:
        return "I2: a ready row lacks its object"
    if state.erased and state.row[1] == "ready":
        return "I7: what was purged is shown again"
    return None


def lost_too_much(before: State, after: State) -> bool:
    """Tell whether a rebuild lost what the journal had: a newer word than the row has now."""
    if before.word is None or before.word[0] < before.row[0]:
        return False  # the last seconds may be lost
    return after.row[1] != before.row[1] and before.row[1] != "purged"


def _keep(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.row[1] != "purged" and state.word != state.row:
        yield "keeper: writes marker and word", _written(state, state.row, rules)
        yield "keeper: is stopped before it writes", state._replace(late=state.row)
    if state.late is not None:
        yield "keeper: the stopped one goes on", _written(state, state.late, rules)._replace(late=None)


def _written(state: State, said: tuple[int, str], rules: Rules) -> State:
    version, stands = said
    marker = state.marker
    if marker is None or marker[0] < version or not rules.newest_word_wins:
        marker = (version, False) if stands == "trashed" else None
    newest = state.word is None or state.word[0] < version or not rules.newest_word_wins
    return state._replace(marker=marker, word=said if newest else state.word)


def _purge(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    version, stands = state.row
    doing, of = state.purge
    bytes_gone = state._replace(stored=False, erased=True, purge=("idle", 0))
    match doing:
        case "idle" if stands == "trashed":
            marker = (version, True) if rules.marker_before_bytes else state.marker
            yield "purge: marks", state._replace(purge=("marked", version), marker=marker)
        case "marked" if (version, stands) == (of, "trashed") and rules.recorded_before_bytes:
            yield "purge: records", state._replace(purge=("recorded", of), row=(version, "purged"))
        case "marked" if rules.recorded_before_bytes:
            yield "purge: sees that it was restored", state._replace(purge=("idle", 0))
        case "marked":
            yield "purge: takes the bytes", bytes_gone
        case "recorded":
            yield "purge: takes the bytes", bytes_gone
        case _:
            return


def _rebuilt(state: State, rules: Rules) -> State:
    """Return what `tintype rebuild` makes of the bucket; whatever was under way died with the database."""
    version, stands = state.word or (1, "ready")
    marker = state.marker
    if marker is not None and rules.marker_has_version and marker[0] < version:
        marker = None
    if marker is not None and marker[1] and not state.stored:
        stands = "purged"
    elif marker is not None and stands == "ready":
        version, stands = max(version + 1, min(marker[0], MOST)), "trashed"
    elif marker is not None and rules.version_at_least_the_markers:
        version = max(version, marker[0])
    elif stands == "ready" and not state.stored:
        stands = "missing"
    return state._replace(row=(min(version, MOST), stands), purge=("idle", 0), late=None)
