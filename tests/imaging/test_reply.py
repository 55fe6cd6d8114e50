"""What a worker answers is not believed: it may have been taken over."""

import json
from typing import Any

import pytest

from tintype.imaging.headers import Header
from tintype.imaging.reply import read_reply
from tintype.model.errors import DecoderFailed, ImageCorrupt, ImageTooLarge, UnsupportedType
from tintype.model.image import Format

HEADER = Header(Format.PNG, 40, 30, 1200, orientation=6)
GOOD: dict[str, Any] = {
    "width": 40,
    "height": 30,
    "frames": 1,
    "has_alpha": False,
    "taken_at": "2026-01-02T03:04:05+01:00",
    "camera": {"make": "Tintype", "iso": 100},
    "exif": {"Software": "v1"},
    "location": [1.5, 2.5, None],
    "thumbhash": "1f" * 20,
    "dominant_color": "#a0b0c0",
    "phash": -5,
}


def reply(**changes: object) -> bytes:
    return json.dumps({"facts": GOOD | changes}).encode()


def test_a_good_answer_becomes_facts() -> None:
    facts = read_reply(reply(), HEADER)

    assert (facts.width, facts.height, facts.orientation) == (40, 30, 6)
    assert facts.thumbhash == bytes.fromhex("1f" * 20)
    assert facts.location is not None
    assert facts.location.longitude == 2.5


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b"[" * 100_000,
        b'{"facts": {"width": NaN}}',
        reply(width=0),
        reply(width="40"),
        reply(frames=-1),
        reply(has_alpha=1),
        reply(taken_at="yesterday"),
        reply(camera={"secret": "x"}),
        reply(camera={"make": ["list"]}),
        reply(location=[200, 0, None]),
        reply(location=[0, 0]),
        reply(thumbhash="zz"),
        reply(thumbhash="1f" * 5000),
        reply(dominant_color="red"),
        reply(phash=1 << 64),
        reply(surprise=True),
        reply().replace(b"2.5", b"1e999"),
        json.dumps({"refused": "because"}).encode(),
        json.dumps({"refused": "corrupt", "reason": "<script>\u202e"}).encode(),
        json.dumps({"refused": "corrupt", "reason": "x" * 1000}).encode(),
    ],
)
def test_nonsense_is_a_failure_of_the_decoder(nonsense: bytes) -> None:
    with pytest.raises(DecoderFailed):
        read_reply(nonsense, HEADER)


def test_texts_are_cleaned_once_more() -> None:
    facts = read_reply(reply(exif={"a\x00b": "c\x00d", "deep": {"x": [1]}, "long": "y" * 9000}), HEADER)

    assert facts.exif == {"ab": "cd", "long": "y" * 2000}


@pytest.mark.parametrize(
    ("kind", "error"),
    [("corrupt", ImageCorrupt), ("too_large", ImageTooLarge), ("unsupported", UnsupportedType)],
)
def test_a_refusal_gives_the_decoders_reason(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"PNG .*\(bad adaptive filter value\)"):
        read_reply(json.dumps({"refused": kind, "reason": "bad adaptive filter value"}).encode(), HEADER)
