"""What an image must be to be found, as SQL."""

from dataclasses import asdict
from typing import Any, LiteralString

from tintype.catalogue.database import Tx
from tintype.catalogue.rows import folded
from tintype.model.query import ImageFilter

FEW = 2000
"""So many images of a tag are looked up one by one. Where there are more, a walk meets one soon."""

# Each names the columns of an index where there is one.
_CONDITIONS: dict[str, LiteralString] = {
    "extension": "extension = %(extension)s",
    "content_type": "content_type = %(content_type)s",
    "tags": "tags @> %(tags)s",
    "min_bytes": "bytes >= %(min_bytes)s",
    "max_bytes": "bytes <= %(max_bytes)s",
    "created_after": "created_at > %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    "text": "strpos(search, %(text)s) > 0",
}


async def conditions(
    tx: Tx, owner: str, wanted: ImageFilter, *, trashed: bool = False
) -> tuple[LiteralString, dict[str, Any]]:
    """Return what follows WHERE, and the values that it names.

    Where few images have the tags it names them: row-level security lets no statement of an owner's at
    the index on tags, so the database is asked for them by a function (step 0004 of the schema).
    """
    terms, values = _conditions(owner, wanted, trashed=trashed)
    if wanted.tags and not trashed:
        cursor = await tx.execute(
            "SELECT images_tagged(%s, %s, %s)", [owner, list(wanted.tags), FEW + 1], prepare=True
        )
        tagged = [image_id for (image_id,) in await cursor.fetchall()]
        if len(tagged) <= FEW:
            return f"{terms} AND id = ANY(%(tagged)s)", values | {"tagged": tagged}
    return terms, values


def _conditions(owner: str, wanted: ImageFilter, *, trashed: bool) -> tuple[LiteralString, dict[str, Any]]:
    values = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    # The state is a literal, so that the planner knows the partial indexes to fit.
    state: LiteralString = "state = 'deleted' AND purged_at IS NULL" if trashed else "state = 'ready'"
    terms: list[LiteralString] = ["owner = %(owner)s", state, *(_CONDITIONS[name] for name in values)]
    if wanted.extension is not None:
        values["extension"] = wanted.extension.lower()
    if wanted.text is not None:
        values["text"] = folded(wanted.text)
    values["tags"] = list(wanted.tags)
    return " AND ".join(terms), {**values, "owner": owner}
