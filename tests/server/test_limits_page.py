"""docs/limits.md names settings that exist, and every limit that there is."""

import re
from pathlib import Path

import pytest

from tintype.settings import ImagingSettings, LimitsSettings, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
OF_OPERATORS = {
    "inspect",
    "disable",
    "recycle_after",
    "upload_ttl_seconds",
    "direct_ttl_seconds",
    "sweep_seconds",
}
"""Settings beside the limits that limit nothing."""


def variables() -> set[str]:
    named: set[str] = set()
    for name, field in Settings.model_fields.items():
        group = getattr(field.annotation, "model_fields", None)
        named |= (
            {f"TINTYPE_{name}__{each}".upper() for each in group} if group else {f"TINTYPE_{name}".upper()}
        )
    return named


def test_every_setting_that_the_page_names_is_one() -> None:
    assert set(re.findall(r"TINTYPE_[A-Z_]+", PAGE)) <= variables()


@pytest.mark.parametrize(("group", "settings"), [("LIMITS", LimitsSettings), ("IMAGING", ImagingSettings)])
def test_every_limit_is_on_the_page(group: str, settings: type[LimitsSettings | ImagingSettings]) -> None:
    limits = set(settings.model_fields) - OF_OPERATORS
    missing = {name for name in limits if f"TINTYPE_{group}__{name.upper()}" not in PAGE}

    assert missing == set()
