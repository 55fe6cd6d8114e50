"""Who asks, and what they may do: the principal that every request has."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from tintype.model.errors import Forbidden, RequestInvalid

MAX_OWNER = 128
_OWNER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@|+-]{{0,{MAX_OWNER - 1}}}")


class Scope(StrEnum):
    """What a credential is good for. None includes another one."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    LOCATION = "location"
    """Where pictures were taken. Beside `read`, which opens everything else that is known of them."""


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of an upload token may upload, for the token's owner."""

    token_id: UUID
    types: frozenset[str]
    """Media types; none: every accepted one."""
    max_bytes: int
    uses: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks. Sees and changes what belongs to `owner`, as far as `scopes` go."""

    owner: str
    scopes: frozenset[Scope]
    kind: Literal["local", "key", "jwt", "upload_token"]
    key_id: str | None = None
    """What the log and `created_by` name, never the secret.

    Of an upload token it is the key that made it, of a JWT its `sub`.
    """
    expires_at: datetime | None = None
    grant: Grant | None = None
    """Of an upload token, which has no scopes."""

    def require(self, scope: Scope) -> None:
        """Raise `Forbidden` unless the principal has the scope."""
        if scope not in self.scopes:
            raise Forbidden(
                f"This needs the scope `{scope}`, which your credentials do not have. `GET /v1/me` lists "
                "those that they have.",
                details={"scope": str(scope)},
            )


LOCAL = Principal(owner="local", scopes=ALL_SCOPES, kind="local")
"""Without identity, whoever reaches the service is its owner; only this machine reaches it."""


def is_owner(name: str) -> bool:
    """Tell whether a name can be an owner's: visible ASCII, safe in headers, logs and messages."""
    return _OWNER.fullmatch(name) is not None


def owner_of(name: str) -> str:
    """Return the name of an owner; raise `RequestInvalid` for one that cannot be."""
    if not is_owner(name):
        raise RequestInvalid(
            f"An owner is named with 1 to {MAX_OWNER} letters, digits and any of `. _ : @ | + -`, "
            "a letter or digit first."
        )
    return name


def scopes_of(names: list[str]) -> frozenset[Scope]:
    """Return the scopes of these names; raise `RequestInvalid` for an unknown one, and for none."""
    known = {str(scope) for scope in Scope}
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise RequestInvalid("Scopes are any of `read`, `write`, `admin` and `location`; name at least one.")
    return frozenset(Scope(name) for name in names)
