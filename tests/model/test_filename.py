"""File names: kept readable, never obeyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.model.filename import MAX_BYTES, clean_filename, extension_of
from tintype.model.image import Format


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cat.jpg", "cat.jpg"),
        ("a b é.jpg", "a b é.jpg"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\cat.jpg", "cat.jpg"),
        ("..", ""),
        (".", ""),
        ("/", ""),
        ("cat.jpg\x00.exe", "cat.jpg.exe"),
        ("cat\r\nSet-Cookie: a=b.jpg", "catSet-Cookie: a=b.jpg"),
        ("gpj.\u202etac.jpg", "gpj.tac.jpg"),
        ("e\u0301.png", "é.png"),
        ("\ud800cat.png", "cat.png"),
        ("  cat.png  ", "cat.png"),
    ],
)
def test_a_name_is_its_last_segment_without_what_hides_or_commands(raw: str, clean: str) -> None:
    assert clean_filename(raw) == clean


@given(st.text(st.characters(), max_size=600))
def test_every_name_fits_a_file_system_and_cleaning_twice_changes_nothing(raw: str) -> None:
    name = clean_filename(raw)

    assert len(name.encode()) <= MAX_BYTES
    assert "/" not in name
    assert "\0" not in name
    assert name not in {".", ".."}
    assert clean_filename(name) == name


def test_a_long_name_keeps_its_extension() -> None:
    name = clean_filename("ä" * 400 + ".jpeg")

    assert name.endswith("ä.jpeg")
    assert extension_of(name, Format.PNG) == "jpeg"


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.JPG", "jpg"),
        ("a.tar.gz", "gz"),
        ("noextension", "png"),
        (".hidden", "png"),
        ("a.b c", "png"),
        ("", "png"),
    ],
)
def test_the_extension_is_the_names_own_or_the_formats(name: str, extension: str) -> None:
    assert extension_of(name, Format.PNG) == extension
