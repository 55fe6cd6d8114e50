"""What strangers write into metadata becomes JSON that PostgreSQL takes."""

import json
import math

import pytest

from tintype.imaging.storable import MAX_BYTES, storable


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("plain", "plain"),
        ("nul\x00inside", "nulinside"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("é 漢 \r\n", "é 漢 \r\n"),
        ("x" * 5000, "x" * 2000),
        (1.5, 1.5),
        (10**30, None),
        (math.nan, None),
        (math.inf, None),
        ([1, math.nan, "a\x00", [2]], [1, "a"]),
        (b"bytes", None),
        ({"nested": 1}, None),
        (None, None),
        (True, True),
    ],
)
def test_a_value_is_kept_as_far_as_it_can_be_stored(value: object, kept: object) -> None:
    assert storable({"key": value}) == ({} if kept is None else {"key": kept})


def test_a_key_is_cleaned_like_a_value() -> None:
    assert storable({"k\x00e\udfffy": 1}) == {"key": 1}


def test_all_of_it_together_is_bounded() -> None:
    kept = storable({f"Tag{number}": "é" * 2000 for number in range(100)})

    assert 0 < len(json.dumps(kept)) <= MAX_BYTES
    assert list(kept)[:2] == ["Tag0", "Tag1"]


def test_what_is_storable_stays_as_it_is() -> None:
    once = storable({"a": "x\x00", "b": [1, 2.5, "c"], "d": math.inf})

    assert storable(once) == once
