"""The merge: two ordered streams side by side, in stretches, so that equal pairs cost next to nothing.

A stretch is a range of keys that both sides were read for. Objects come first and rows after them, so
that an object's row is never missed because it was committed in between. What both sides say in the same
words falls out by comparing sets of tuples, at the speed of C; only the rest is looked at one by one.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from uuid import UUID

from tintype.catalogue import comparison
from tintype.catalogue.comparison import Row
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency.listing import Listing
from tintype.objects.info import Entry
from tintype.objects.keys import ORIGINALS, parse_original_key

STRETCH = 4_000
"""Objects that are compared at once: four of S3's pages."""
MOST_ROWS = 6_000
"""Rows that are read at once, where objects are missing: the stretch then ends earlier."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A range of keys, read on both sides."""

    upto: str
    """The last key of the range; the next one begins behind it."""
    objects: int
    rows: int
    same: frozenset[Entry]
    """What both sides say in the same words."""
    alone: Sequence[Entry]
    """Objects without a row that says the same."""
    lonely: Sequence[Row]
    """Rows without an object that says the same."""
    newest: UUID | None
    """Of the objects."""
    last: bool


async def stretches(database: Database, listing: Listing, shard: int, after: str) -> AsyncGenerator[Stretch]:
    """Yield the stretches of a shard behind a key, up to the end of both sides.

    A listing that fails ends this with its error: what it did not tell is in no stretch.
    """
    held: list[Entry] = []
    async for page in listing.entries(f"{ORIGINALS}{shard:02x}/", after):
        held.extend(page)
        while len(held) >= STRETCH:
            bound = _last_key(held)
            if bound is None:
                break
            stretch, held = await _compare(database, shard, held, after, bound)
            after = stretch.upto
            yield stretch
    while True:
        stretch, held = await _compare(database, shard, held, after, None)
        after = stretch.upto
        yield stretch
        if stretch.last:
            return


async def _compare(
    database: Database, shard: int, held: list[Entry], after: str, bound: str | None
) -> tuple[Stretch, list[Entry]]:
    """Compare what is held up to a key (None: all that may come), and return what is left of it."""
    async with database.reading(EVERY_OWNER) as tx:
        rows = await comparison.rows_between(
            tx, shard, parse_original_key(after), parse_original_key(bound or ""), MOST_ROWS
        )
    full = len(rows) == MOST_ROWS
    if full:
        bound = rows[-1][0]
    cut = len(held) if bound is None else bisect_right(held, bound, key=itemgetter(0))
    taken, left = (held, []) if cut == len(held) else (held[:cut], held[cut:])
    objects, known = frozenset(taken), frozenset(rows)
    newest = _last_key(taken)
    stretch = Stretch(
        upto=bound or newest or after,
        objects=len(taken),
        rows=len(rows),
        same=objects & known,
        alone=sorted(objects - known),
        lonely=sorted(known - objects),
        newest=parse_original_key(newest or ""),
        last=bound is None,
    )
    return stretch, left


def _last_key(entries: Sequence[Entry]) -> str | None:
    """Return the last key that is an original's: a row can be compared with no other."""
    return next((key for key, _, _ in reversed(entries) if parse_original_key(key)), None)
