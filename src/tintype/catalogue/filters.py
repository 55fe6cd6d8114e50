"""What an image must be to be found, as SQL."""

from dataclasses import asdict
from typing import Any, LiteralString

from tintype.catalogue.rows import folded
from tintype.model.query import ImageFilter

# Each names the columns of an index where there is one; `tags` also the index's own condition.
_CONDITIONS: dict[str, LiteralString] = {
    "extension": "extension = %(extension)s",
    "content_type": "content_type = %(content_type)s",
    "tags": "tags <> '{}' AND owned_tags(owner, tags) @> owned_tags(%(owner)s, %(tags)s)",
    "min_bytes": "bytes >= %(min_bytes)s",
    "max_bytes": "bytes <= %(max_bytes)s",
    "created_after": "created_at > %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    "text": "strpos(search, %(text)s) > 0",
}


def conditions(
    owner: str, wanted: ImageFilter, *, trashed: bool = False
) -> tuple[LiteralString, dict[str, Any]]:
    """Return what follows WHERE, and the values that it names."""
    values = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    # The state is a literal, so that the planner knows the partial indexes to fit.
    state: LiteralString = "state = 'deleted'" if trashed else "state = 'ready'"
    terms: list[LiteralString] = ["owner = %(owner)s", state, *(_CONDITIONS[name] for name in values)]
    if wanted.extension is not None:
        values["extension"] = wanted.extension.lower()
    if wanted.text is not None:
        values["text"] = folded(wanted.text)
    values["tags"] = list(wanted.tags)
    return " AND ".join(terms), {**values, "owner": owner}
