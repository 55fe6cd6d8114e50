"""The form of API keys: recognisable, of one word, and known to be mistyped without asking anybody."""

import re
from collections.abc import Callable

import pytest

from tintype.model.api_key import new_key, read_key


def test_a_key_is_one_word_with_a_prefix_of_its_own() -> None:
    text, presented = new_key()
    assert re.fullmatch(r"tt_[0-9a-z]{12}_[0-9A-Za-z]{49}", text)
    assert text.startswith(f"tt_{presented.id}_")


def test_a_key_is_read_as_it_was_made() -> None:
    for _ in range(200):
        text, presented = new_key()
        assert read_key(text) == presented


def test_what_is_kept_of_a_key_does_not_show_it() -> None:
    text, presented = new_key()
    secret = text.split("_")[2][:43]
    assert secret.encode() not in presented.secret_sha256
    assert secret not in repr(presented)
    assert repr(presented.secret_sha256) not in repr(presented)


def test_a_typo_anywhere_is_found() -> None:
    text, _ = new_key()
    for place in range(len(text)):
        other = "1" if text[place] != "1" else "2"
        assert read_key(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, lambda t: t + " ", lambda t: t + "\n"])
def test_a_key_in_another_form_is_none(change: Callable[[str], str]) -> None:
    text, _ = new_key()
    assert read_key(change(text)) is None


@pytest.mark.parametrize("text", ["", "tt_", "tt__", "tt_" + "a" * 12 + "_" + "é" * 49, "x" * 100_000])
def test_rubbish_is_no_key(text: str) -> None:
    assert read_key(text) is None
