"""One image at random, each as likely as any other, without reading through all of them.

Every image has a random key, a point of [0, 1). Taking the first image behind a random point would
favour those behind wide gaps. Instead a window of fixed width is laid at a random place, and one of
a fixed number of slots in it is named: the image in that slot is the answer; an empty slot means to
draw again. A window over a given key is as likely as one over any other, and so is each slot: with
no more images in a window than slots, all images are exactly as likely as each other.
"""

from random import Random
from typing import Any, LiteralString

from tintype.catalogue.database import Tx
from tintype.catalogue.filters import conditions
from tintype.catalogue.rows import COLUMNS, image_of_row
from tintype.model.image import Image
from tintype.model.query import ImageFilter

GAUGE = 64
"""Keys from which the width is measured: a window is as wide as one of them is from the next."""
SLOTS = 16
"""A window holds one image in the mean; that one holds more than these is as good as impossible."""
DRAWS = 64
"""In one statement, which ends with the first that hits; one in sixteen does."""
ROUNDS = 8


async def draw(tx: Tx, owner: str, wanted: ImageFilter, chance: Random) -> Image | None:
    """Return a ready image of the owner's that the filter lets through; None when there is none."""
    terms, values = await conditions(tx, owner, wanted)
    keys = await _keys_from(tx, terms, values, chance.random())
    if len(keys) < GAUGE:
        keys = await _keys_from(tx, terms, values, 0.0)
    if len(keys) == GAUGE:
        width = (keys[-1] - keys[0]) / (GAUGE - 1)
        for _ in range(ROUNDS):
            if image := await _hit(tx, terms, values, width, chance):
                return image
    # So few that these are all; or all draws missed, because the images changed meanwhile.
    return await _at(tx, terms, values, chance.choice(keys)) if keys else None


async def _keys_from(tx: Tx, terms: LiteralString, values: dict[str, Any], start: float) -> list[float]:
    cursor = await tx.execute(
        f"""
        SELECT random_key FROM images WHERE {terms} AND random_key >= %(start)s
        ORDER BY random_key LIMIT %(limit)s
        """,
        {**values, "start": start, "limit": GAUGE},
    )
    return [key for (key,) in await cursor.fetchall()]


async def _hit(
    tx: Tx, terms: LiteralString, values: dict[str, Any], width: float, chance: Random
) -> Image | None:
    # Windows may begin before 0, so that the keys next to it are in as many of them as the others.
    starts = [chance.uniform(-width, 1) for _ in range(DRAWS)]
    slots = [chance.randrange(SLOTS) for _ in range(DRAWS)]
    cursor = await tx.execute(
        f"""
        SELECT hit.* FROM unnest(%(starts)s::double precision[], %(slots)s::integer[]) AS draw (start, slot)
        CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM images
            WHERE {terms} AND random_key >= draw.start AND random_key < draw.start + %(width)s
            ORDER BY random_key OFFSET draw.slot LIMIT 1
        ) AS hit LIMIT 1
        """,
        {**values, "starts": starts, "slots": slots, "width": width},
    )
    row = await cursor.fetchone()
    return image_of_row(row) if row else None


async def _at(tx: Tx, terms: LiteralString, values: dict[str, Any], key: float) -> Image | None:
    cursor = await tx.execute(
        f"SELECT {COLUMNS} FROM images WHERE {terms} AND random_key = %(key)s LIMIT 1",
        {**values, "key": key},
    )
    row = await cursor.fetchone()
    return image_of_row(row) if row else None
