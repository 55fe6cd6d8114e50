"""Keys: where in the store an image's bytes lie. Nothing that a client says enters a key."""

import re
import secrets
from uuid import UUID

ORIGINALS = "originals/"
INCOMING = "incoming/"
"""What is not an image yet, below the id of its upload."""
DELETED = "deleted/"
"""A small marker for each image that is in the trash, or gone: deletions survive a lost database."""
JOURNAL = "journal/"
"""What became of images after their upload, in the order of the log."""
IDENTITY = "tintype.json"
SIDECARS = "metadata/"
"""Where a folder keeps what a bucket keeps as metadata: no key begins so."""

_ORIGINAL = re.compile(r"originals/([0-9a-f]{2})/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_DIRECT = re.compile(r"incoming/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/direct")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def original_key(image_id: UUID) -> str:
    """Return the key of an image's bytes as sent.

    The shard is the id's last byte, which is random in a UUIDv7: 256 prefixes share S3's request rate
    (3,500 PUT/s each), and are checked one by one.
    """
    return f"{ORIGINALS}{image_id.bytes[-1]:02x}/{image_id}"


def parse_original_key(key: str) -> UUID | None:
    """Return the image that a key belongs to, or None for a key that is not of ours."""
    match = _ORIGINAL.fullmatch(key)
    if match is None:
        return None
    image_id = UUID(match[2])
    return image_id if match[1] == f"{image_id.bytes[-1]:02x}" else None


def deleted_key(image_id: UUID) -> str:
    """Return the key of the marker that a deletion leaves. Markers list in the order of the originals."""
    return f"{DELETED}{image_id.bytes[-1]:02x}/{image_id}"


def incoming_prefix(upload_id: UUID) -> str:
    """Return what every key of an unfinished upload begins with."""
    return f"{INCOMING}{upload_id}/"


def piece_key(upload_id: UUID, start: int, fence: int) -> str:
    """Return a new key for a piece of an upload: two requests never write under the same one."""
    return f"{incoming_prefix(upload_id)}{start:014d}-{fence}-{secrets.token_hex(4)}"


def direct_key(upload_id: UUID) -> str:
    """Return the key that a client may store under: outside of what is delivered, listed and checked."""
    return f"{INCOMING}{upload_id}/direct"


def parse_direct_key(key: str) -> UUID | None:
    """Return the upload whose bytes a client stored under this key; None for any other key."""
    match = _DIRECT.fullmatch(key)
    return UUID(match[1]) if match else None


def check_key(key: str) -> str:
    """Return the key, or raise `ValueError` for one that could leave the store's folder or its order."""
    if _KEY.fullmatch(key) is None or key.startswith(SIDECARS):
        raise ValueError(f"not a key: {key!r}")
    return key
