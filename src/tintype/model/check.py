"""A check: what was asked for, how far it has come, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

MANIFEST = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([A-Za-z0-9_][A-Za-z0-9_.-]*/)*manifest\.json$"
"""The form of a manifest's address. `manifest.json` is what S3 Inventory calls it."""


class Mode(StrEnum):
    """How closely a check looks."""

    QUICK = "quick"
    """Listings alone: existence, size, ETag."""
    FULL = "full"
    """Also what each object says of itself: a request for each."""
    DEEP = "deep"
    """Also the bytes of those images that were read longest ago, within a budget."""


class Task(StrEnum):
    """What a run is doing."""

    CHECK = "check"
    REPAIR = "repair"
    UNDO = "undo"


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    """By the brakes, before anything was removed: a person decides."""
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asks for."""

    mode: Mode = Mode.QUICK
    repair: bool = False
    dry_run: bool = False
    """Plan and verify a repair, and do none of it."""
    adopting: bool = False
    """The database was restored, or lost: objects without a row become images again."""
    confirmed: bool = False
    """A person has seen what the brakes stopped at."""
    asked_by: str = "operator"
    inventory: str | None = None
    """The address of a manifest of S3 Inventory, whose listing is taken. None: the store lists."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a run has seen."""

    parts: int = 0
    parts_done: int = 0
    objects: int = 0
    rows: int = 0
    foreign: int = 0
    """Keys that are not ours: left alone."""
    young: int = 0
    """Objects without a row that may still get one, and rows that are newer than the inventory."""
    verified: int = 0
    """Objects whose metadata or bytes were read and are right."""
    bytes_read: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as it stands."""

    id: UUID
    order: Order
    task: Task
    state: RunState
    reason: str | None
    started_at: datetime
    checked_at: datetime | None
    finished_at: datetime | None
    counts: Counts = field(default_factory=Counts)
    drift: Mapping[str, int] = field(default_factory=dict[str, int])
    """Findings by their kind."""
    states: Mapping[str, int] = field(default_factory=dict[str, int])
    """Findings by what became of them."""

    @property
    def findings(self) -> int:
        """How many differences were found."""
        return sum(self.drift.values())

    def is_as(self, order: Order, *, undoing: bool, whoever_asked: bool) -> bool:
        """Whether whoever asks for this may as well work on this run."""
        if undoing or self.task is Task.UNDO:
            return undoing and self.task is Task.UNDO
        return self.order == (replace(order, asked_by=self.order.asked_by) if whoever_asked else order)

    @property
    def clean(self) -> bool:
        """Whether everything was looked at and nothing was found."""
        return self.state is RunState.COMPLETE and self.checked_at is not None and not self.findings


def run_payload(run: Run) -> dict[str, Any]:
    """Return the run in JSON types: what the API shows and the event carries."""
    counts = run.counts
    return {
        "id": str(run.id),
        "mode": run.order.mode.value,
        "repair": run.order.repair,
        "dry_run": run.order.dry_run,
        "adopting": run.order.adopting,
        "asked_by": run.order.asked_by,
        "inventory": run.order.inventory,
        "task": run.task.value,
        "state": run.state.value,
        "reason": run.reason,
        "clean": run.clean,
        "started_at": run.started_at.isoformat(),
        "checked_at": run.checked_at.isoformat() if run.checked_at else None,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "progress": {"done": counts.parts_done, "parts": counts.parts},
        "counts": {
            "objects": counts.objects,
            "rows": counts.rows,
            "foreign": counts.foreign,
            "young": counts.young,
            "verified": counts.verified,
            "bytes_read": counts.bytes_read,
        },
        "findings": {"total": run.findings, "kinds": dict(run.drift), "states": dict(run.states)},
    }
