"""The corpus of real and hostile images: each gets the verdict that its manifest foresees."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bodies import in_memory
from tintype.imaging.inspect import Inspector
from tintype.model.errors import (
    DecoderFailed,
    ImageCorrupt,
    ImageTooLarge,
    TintypeError,
    UnsupportedType,
    UploadEmpty,
)
from tintype.model.image import Facts
from tintype.settings import ImagingSettings

CORPUS = os.environ.get("TINTYPE_CORPUS")
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("inspected-corpus"),  # it is looked at once for all
    pytest.mark.skipif(
        CORPUS is None, reason="TINTYPE_CORPUS is not set: the corpus of real and hostile images is not run"
    ),
]
STATUS = {UnsupportedType: 415, ImageCorrupt: 422, ImageTooLarge: 422, DecoderFailed: 422, UploadEmpty: 422}
ACCEPTED = 201
AT_ONCE = 4

Entry = dict[str, Any]
Verdict = tuple[Entry, Facts | TintypeError]


def entries() -> list[Entry]:
    return json.loads((Path(CORPUS or "") / "manifest.json").read_text())["files"]


async def judge(inspector: Inspector, chosen: list[Entry]) -> list[Verdict]:
    """Inspect files, some at once; any exception but a refusal of ours fails the test."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(entry: Entry) -> Verdict:
        body = in_memory((Path(CORPUS or "") / entry["file"]).read_bytes())
        async with turns:
            try:
                return entry, await inspector.inspect(body)
            except TintypeError as refusal:
                return entry, refusal
            except Exception as error:
                raise AssertionError(f"{entry['file']}: {error!r}") from error

    return await asyncio.gather(*map(one, chosen))


def status(found: Facts | TintypeError) -> int:
    return ACCEPTED if isinstance(found, Facts) else STATUS[type(found)]


def agrees(entry: Entry, found: Facts | TintypeError) -> bool:
    """Tell whether the facts are those of the reference, where there are both."""
    reference = entry.get("reference")
    if reference is None or isinstance(found, TintypeError):
        return True
    kind = {"mpo": "jpeg", "apng": "png", "heif": "heic"}.get(reference["type"], reference["type"])
    return (found.format.name.lower(), found.width, found.height, found.frames, found.orientation) == (
        kind,
        *(reference[name] for name in ("width", "height", "pages", "orientation")),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verdicts(inspector: Inspector) -> list[Verdict]:
    """What became of every file of the corpus."""
    return await judge(inspector, entries())


async def test_what_is_valid_is_accepted_with_its_facts(verdicts: list[Verdict]) -> None:
    wrong = [
        f"{entry['file']}: {found}"
        for entry, found in verdicts
        if entry["expected"] == "accept" and not (status(found) in entry["status"] and agrees(entry, found))
    ]
    assert wrong == []
    assert sum(isinstance(found, Facts) for _, found in verdicts) > 200


async def test_what_is_hostile_is_refused_or_harmless(verdicts: list[Verdict]) -> None:
    wrong = [f"{entry['file']}: {found}" for entry, found in verdicts if status(found) not in entry["status"]]
    assert wrong == []


async def test_by_header_alone_nothing_breaks_and_facts_agree() -> None:
    by_header = Inspector(ImagingSettings(inspect="header"), None)

    verdicts = await judge(by_header, entries())

    wrong = [
        f"{entry['file']}: {found}"
        for entry, found in verdicts
        if entry["expected"] == "accept" and not (status(found) in entry["status"] and agrees(entry, found))
    ]
    assert wrong == []


async def test_every_fact_can_be_stored(verdicts: list[Verdict]) -> None:
    for entry, found in verdicts:
        if isinstance(found, Facts):
            text = json.dumps([found.exif, found.camera], allow_nan=False, ensure_ascii=False)
            assert "\\u0000" not in text, entry["file"]
            assert len(text.encode()) <= 80_000, entry["file"]
            assert "GPS" not in text, entry["file"]


async def test_whoever_has_a_location_has_it_apart(verdicts: list[Verdict]) -> None:
    located = [
        entry["file"]
        for entry, found in verdicts
        if "gps" in entry["category"] and isinstance(found, Facts) and found.location is not None
    ]
    assert len(located) >= 6
