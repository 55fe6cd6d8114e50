"""Cursors of lists that run by time: the moment and the id of the last entry that was shown."""

import base64
from datetime import datetime
from uuid import UUID

from tintype.model.errors import CursorInvalid


def cursor_after(moment: datetime, identity: UUID) -> str:
    """Return what a client sends for the entries behind this one."""
    return base64.urlsafe_b64encode(f"{moment.isoformat()} {identity}".encode()).decode()


def place_of(cursor: str) -> tuple[datetime, UUID]:
    """Return the moment and the id. Raises `CursorInvalid` for what we did not make."""
    try:
        moment, _, identity = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        began = datetime.fromisoformat(moment)
        if began.tzinfo is None:
            raise ValueError("no cursor of ours")  # noqa: TRY301 # one sentence for all that is none
        return began, UUID(identity)
    except ValueError as error:
        raise CursorInvalid("The cursor is not one of this list. Begin without one.") from error
