"""Mails: what travels, by a real server, and what a stranger's words cannot do to them."""

import os
import socket
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import boto3
import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from mail_server import MailServer
from tintype.messaging.mail import MAX_KEPT, FolderPost, SesPost, SmtpPost, mime_of
from tintype.messaging.post import Letter, NotTaken, Picture
from tintype.settings import MailSettings

LINK = "https://images.example.com/v1/subscriptions/unsubscribe?token=u." + "x" * 120


def letter(**changes: object) -> Letter:
    values: dict[str, object] = {
        "to": "ada@example.org",
        "subject": "Image uploaded: Übersicht.png",
        "text": "Übersicht.png was uploaded.\n",
        "html": '<p>Übersicht.png</p><img src="cid:image0">',
        "message_id": "7f1f1f0e.01932c07",
        "unsubscribe_url": LINK,
        "pictures": (Picture("image0", "image/jpeg", b"\xff\xd8\xff\xd9"),),
    }
    return Letter(**(values | changes))  # type: ignore[arg-type]


def settings(server: MailServer | None = None, **changes: object) -> MailSettings:
    port = server.port if server else 1
    values = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_tls": "none", "timeout_seconds": 5}
    return MailSettings.model_validate(values | changes)


async def test_a_mail_has_text_html_a_picture_and_the_ways_to_leave(mail_server: MailServer) -> None:
    await SmtpPost(settings(mail_server, from_address="images@example.com")).send(letter())

    (mail,) = mail_server.mails
    assert str(mail["subject"]) == "Image uploaded: Übersicht.png"
    assert str(mail["from"]) == "Tintype <images@example.com>"
    assert str(mail["to"]) == "ada@example.org"
    assert str(mail["message-id"]) == "<7f1f1f0e.01932c07@example.com>"
    assert mail["auto-submitted"] == "auto-generated"
    assert mail["list-unsubscribe"] == f"<{LINK}>"
    assert mail["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == "Übersicht.png was uploaded.\n"
    assert "Übersicht" in html.get_content()
    (picture,) = [part for part in mail.walk() if part.get_content_type() == "image/jpeg"]
    assert picture["content-id"] == "<image0>"
    assert picture.get_content() == b"\xff\xd8\xff\xd9"


def test_a_link_in_a_header_stays_in_one_piece() -> None:
    raw = mime_of(letter(), "images@example.com").as_bytes()

    assert f"List-Unsubscribe: <{LINK}>\r\n".encode() in raw
    assert all(line.isascii() for line in raw.splitlines())


@settings_of_hypothesis(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_subject_makes_a_header_of_its_own(words: str) -> None:
    raw = mime_of(letter(subject=words), "images@example.com").as_bytes()

    mail = message_from_bytes(raw, policy=default)
    assert sorted(name.lower() for name in mail.keys()) == [  # noqa: SIM118 - not a dictionary
        "auto-submitted",
        "content-type",
        "date",
        "from",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "message-id",
        "mime-version",
        "subject",
        "to",
    ]


@pytest.mark.parametrize("to", ["a@b.c\r\nBcc: eve@example.org", "a@b.c, eve@example.org"])
async def test_no_address_is_two(mail_server: MailServer, to: str) -> None:
    with pytest.raises((ValueError, NotTaken)):
        await SmtpPost(settings(mail_server)).send(letter(to=to))

    assert mail_server.mails == []


class Refusing:
    """A mail server's mind: it takes nobody, or nothing."""

    def __init__(self, recipient: str = "250 OK", data: str = "250 OK") -> None:
        self.recipient, self.data = recipient, data

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        del server, session, options
        envelope.rcpt_tos.append(address)
        return self.recipient

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        del server, session, envelope
        return self.data


@pytest.mark.parametrize(
    ("mind", "status", "for_ever"),
    [
        (Refusing(recipient="550 no such mailbox"), 550, True),
        (Refusing(recipient="450 try later"), 450, False),
        (Refusing(data="554 spam"), 554, False),
        (Refusing(data="451 busy"), 451, False),
    ],
)
async def test_what_the_server_says_decides_whether_it_is_tried_again(
    mind: Refusing,
    status: int,
    for_ever: bool,  # noqa: FBT001
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mind, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        with pytest.raises(NotTaken) as refusal:
            await SmtpPost(settings(smtp_port=port)).send(letter())
    finally:
        controller.stop()

    assert (refusal.value.status, refusal.value.for_ever) == (status, for_ever)


async def test_no_server_no_mail_and_no_surprise() -> None:
    with pytest.raises(NotTaken, match="could not be used"):
        await SmtpPost(settings()).send(letter())


async def test_a_server_without_tls_gets_nothing_where_tls_is_wanted(mail_server: MailServer) -> None:
    with pytest.raises(NotTaken):
        await SmtpPost(settings(mail_server, smtp_tls="starttls")).send(letter())

    assert mail_server.mails == []


async def test_a_laptops_mails_are_files_and_the_same_one_is_there_once(tmp_path: Path) -> None:
    post = FolderPost(tmp_path / "mail", "tintype@localhost")

    for _ in range(2):
        await post.send(letter())

    (kept,) = (tmp_path / "mail").iterdir()
    assert message_from_bytes(kept.read_bytes(), policy=default)["to"] == "ada@example.org"


async def test_a_mail_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(NotTaken, match="no mail can be written") as refusal:
        await FolderPost(tmp_path, "tintype@localhost").send(letter(to="ä@example.org"))

    assert refusal.value.for_ever


async def test_a_folder_that_cannot_be_written_is_a_failed_attempt(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file")

    with pytest.raises(NotTaken, match="could not be written"):
        await FolderPost(tmp_path / "mail", "tintype@localhost").send(letter())


async def test_of_the_mails_of_a_laptop_the_newest_are_kept(tmp_path: Path) -> None:
    post = FolderPost(tmp_path, "tintype@localhost")
    for number in range(MAX_KEPT):
        (tmp_path / f"{number}.eml").write_text("")

    await post.send(letter())

    assert sum(1 for _ in os.scandir(tmp_path)) == MAX_KEPT


@pytest.mark.usefixtures("aws_credentials")
async def test_ses_sends_the_same_mail(fresh_moto_url: str) -> None:
    ses = boto3.client("sesv2", region_name="eu-central-1", endpoint_url=fresh_moto_url)
    ses.create_email_identity(EmailIdentity="images@example.com")
    post = SesPost(
        MailSettings(
            ses_region="eu-central-1", ses_endpoint=fresh_moto_url, from_address="images@example.com"
        )
    )

    await post.send(letter())

    async with httpx.AsyncClient() as client:
        kept = (await client.get(f"{fresh_moto_url}/moto-api/data.json")).json()["ses"]["RawMessage"]
    assert any("Message-ID: <7f1f1f0e.01932c07@example.com>" in str(each) for each in kept)


@pytest.mark.usefixtures("aws_credentials")
async def test_ses_that_is_away_is_a_failed_attempt() -> None:
    post = SesPost(MailSettings(ses_region="eu-central-1", ses_endpoint="http://127.0.0.1:1"))

    with pytest.raises(NotTaken, match="SES could not be used"):
        await post.send(letter())
