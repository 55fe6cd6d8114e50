"""What two places say must be the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tintype.settings import Settings
from tintype_infra import service
from tintype_infra.storage import UPLOAD_DAYS

pytestmark = pytest.mark.xdist_group("infra")

ROOT = Path(__file__).parents[2]
BEYOND_SETTINGS = {
    # Of the migrator alone (lambdas/migrate.py), and of `tintype deploy` itself.
    *("TINTYPE_MIGRATOR_SECRET", "TINTYPE_MIGRATOR_LOGINS", "TINTYPE_BUILD", "TINTYPE_STAGES"),
}


def names(model: type[BaseModel], prefix: str = "TINTYPE_") -> Iterator[str]:
    for name, about in model.model_fields.items():
        yield f"{prefix}{name}".upper()
        kind = about.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name}__")


def test_every_setting_that_the_infrastructure_sets_is_one_of_the_services() -> None:
    known = set(names(Settings))
    for path in (ROOT / "infra/src").rglob("*.py"):
        used = set(re.findall(r'"(TINTYPE_[A-Z0-9_]+)"', path.read_text()))
        assert used - known - BEYOND_SETTINGS == set(), path


def test_every_alarm_has_its_section_in_the_manual(templates: dict[str, Any]) -> None:
    sections = set(re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))
    for stage in ("small", "serious"):
        for one in templates[f"{stage}-service"]["Resources"].values():
            if one["Type"] == "AWS::CloudWatch::Alarm" and "AlarmDescription" in one["Properties"]:
                name = one["Properties"]["AlarmDescription"].rpartition(" ")[2]
                assert name in sections


def test_balancer_server_and_systemd_let_a_request_end_in_this_order() -> None:
    unit = (ROOT / "infra/src/tintype_infra/instance/tintype.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    drain = service.DRAIN_SECONDS - 10

    assert Settings.model_fields["keep_alive_seconds"].default > service.IDLE_SECONDS
    assert drain < service.DRAIN_SECONDS < int(stop)


def test_pieces_of_an_upload_outlive_the_upload(templates: dict[str, Any]) -> None:
    expirations = [
        rule["ExpirationInDays"]
        for one in templates["small-data"]["Resources"].values()
        if one["Type"] == "AWS::S3::Bucket"
        for rule in one["Properties"].get("LifecycleConfiguration", {}).get("Rules", ())
        if rule.get("Prefix") == "incoming/"
    ]
    assert expirations
    assert all(days > UPLOAD_DAYS for days in expirations)
