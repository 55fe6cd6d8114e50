"""Content-Disposition: a header that no file name breaks, and a name that browsers understand."""

from email.message import EmailMessage
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.model.disposition import content_disposition
from tintype.model.filename import clean_filename


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("Rome.jpg", 'attachment; filename="Rome.jpg"'),
        ("a b;c.jpg", 'attachment; filename="a b;c.jpg"'),
        ('a"b.jpg', "attachment; filename=\"a_b.jpg\"; filename*=UTF-8''a%22b.jpg"),
        ("100%41.jpg", "attachment; filename=\"100_41.jpg\"; filename*=UTF-8''100%2541.jpg"),
        ("Zürich.jpg", "attachment; filename=\"Z_rich.jpg\"; filename*=UTF-8''Z%C3%BCrich.jpg"),
        ("€ rates.png", "attachment; filename=\"_ rates.png\"; filename*=UTF-8''%E2%82%AC%20rates.png"),
        ("a\r\nSet-Cookie: b=c.jpg", 'attachment; filename="aSet-Cookie: b=c.jpg"'),
        ("gnp.\u202egpj.exe", 'attachment; filename="gnp.gpj.exe"'),  # right-to-left override
        ("a\0b\ud800.jpg", 'attachment; filename="ab.jpg"'),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("C:\\pictures\\Rome.jpg", 'attachment; filename="Rome.jpg"'),
        ("", 'attachment; filename="image"'),
        ("..", 'attachment; filename="image"'),
    ],
)
def test_names_are_written_as_the_rfcs_want_them(filename: str, header: str) -> None:
    assert content_disposition(filename) == header


def test_an_image_can_be_shown_instead_of_saved() -> None:
    assert content_disposition("Rome.jpg", inline=True) == 'inline; filename="Rome.jpg"'


@given(st.text(st.characters(exclude_categories=())))
def test_no_name_breaks_the_header_and_each_is_understood(filename: str) -> None:
    header = content_disposition(filename)

    assert header.isascii()
    assert header.isprintable()
    message = EmailMessage()
    message["Content-Disposition"] = header
    name = clean_filename(filename) or "image"
    _, star, encoded = header.partition("; filename*=UTF-8''")
    assert unquote(encoded) == name if star else message.get_filename() == name
