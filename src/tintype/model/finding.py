"""A finding: where objects and rows differ, what was done about it, and what undoes that."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Drift(StrEnum):
    """How the two sides differ."""

    OBJECT_WITHOUT_ROW = "object_without_row"
    ROW_WITHOUT_OBJECT = "row_without_object"
    CONTENT_DIFFERS = "content_differs"
    """Size, ETag or SHA-256 are not those of the row."""
    METADATA_DIFFERS = "metadata_differs"
    """What the object says of itself cannot be read, or is not what the row says."""
    OBJECT_RETURNED = "object_returned"
    """There are bytes for an image that is missing or corrupt."""
    DELETED_BYTES_REMAIN = "deleted_bytes_remain"
    UPLOAD_LEFTOVER = "upload_leftover"
    """Bytes of an upload that has ended, or never was."""
    UPLOAD_EXPIRED = "upload_expired"
    UNFINISHED_PUT = "unfinished_put"
    """A multipart upload that nobody completes, or a sidecar without its object."""
    RENDITION_WITHOUT_ORIGINAL = "rendition_without_original"
    EVENT_UNPUBLISHED = "event_unpublished"
    QUOTA_DRIFTED = "quota_drifted"


class Settlement(StrEnum):
    """What a repair did."""

    QUARANTINED = "quarantined"
    ADOPTED = "adopted"
    MARKED_MISSING = "marked_missing"
    MARKED_CORRUPT = "marked_corrupt"
    RECOVERED = "recovered"
    """The bytes are back, from an older version or from quarantine, or were good all along."""
    REFRESHED = "refreshed"
    """The bytes are right; the row has the object's new ETag."""
    RESTAMPED = "restamped"
    """The object's metadata were written anew, from the row."""
    MENDED = "mended"
    """The row was wrong, by two witnesses against it."""
    DELETED = "deleted"
    """For good: what was deleted before, what can be made again, what never was whole."""
    SWEPT = "swept"
    NUDGED = "nudged"
    RECOUNTED = "recounted"


REMOVALS = frozenset({Drift.OBJECT_WITHOUT_ROW, Drift.ROW_WITHOUT_OBJECT, Drift.CONTENT_DIFFERS})
"""What takes something out of sight when it is repaired: the brakes count these."""


class FindingState(StrEnum):
    """Where a finding stands."""

    OPEN = "open"
    REPAIRED = "repaired"
    SKIPPED = "skipped"
    """It was no longer true, or nothing could be done: `note` says."""
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, as a run found it."""

    id: UUID
    run_id: UUID
    kind: Drift
    key: str
    """The object's key; for a finding without an object, what it is about."""
    image_id: UUID | None
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    state: FindingState = FindingState.OPEN
    action: Settlement | None = None
    note: str | None = None
    before: dict[str, Any] | None = None
    found_at: datetime | None = None
    settled_at: datetime | None = None
