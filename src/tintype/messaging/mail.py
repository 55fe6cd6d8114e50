"""Mails as they travel, and those who bring them: a mail server, Amazon SES, or a folder on a laptop."""

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import aiosmtplib
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tintype.aws import aws_session
from tintype.messaging.post import Letter, NotTaken
from tintype.messaging.publisher import visible
from tintype.settings import MailSettings

# RFC 5321, section 4.2.3, and RFC 3463: no such mailbox, it moved, its name is none.
_NO_SUCH_MAILBOX = {550, 551, 553, 556}
SES_REFUSALS = {"MessageRejected", "BadRequestException", "InvalidParameterValue"}
# Lines of headers are not folded below RFC 5322's limit: a link that is folded is no link any more.
_POLICY = SMTP.clone(max_line_length=998, cte_type="7bit")

MAX_KEPT = 1000
"""Mails in the folder; the oldest go first."""


def mime_of(letter: Letter, from_address: str, moment: datetime | None = None) -> EmailMessage:
    """Return a letter as a message: text and HTML to choose from, the pictures beside the HTML.

    A subject is one line, whatever is in it; Python's mail package refuses line breaks in other headers.
    """
    message = EmailMessage(policy=_POLICY)
    sender = Address("Tintype", addr_spec=from_address)
    message["From"] = sender
    message["To"] = Address(addr_spec=letter.to)
    message["Subject"] = visible(letter.subject)
    message["Date"] = format_datetime(moment or datetime.now(UTC))
    message["Message-ID"] = f"<{letter.message_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic answer comes back
    if letter.unsubscribe_url is not None:
        message["List-Unsubscribe"] = f"<{letter.unsubscribe_url}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"  # RFC 8058, section 3.1
    message.set_content(letter.text, cte="quoted-printable")
    message.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    *_, html = message.iter_parts()
    for picture in letter.pictures:
        kind, _, subtype = picture.content_type.partition("/")
        html.add_related(
            picture.data,
            maintype=kind,
            subtype=subtype,
            cid=f"<{picture.name}>",
            disposition="inline",
            filename=f"{picture.name}.{subtype}",
        )
    return message


def _written(letter: Letter, from_address: str) -> EmailMessage:
    try:
        return mime_of(letter, from_address)
    except ValueError as error:
        raise NotTaken(f"no mail can be written to the address: {error}", for_ever=True) from error


class SmtpPost:
    """A `Post` by way of a mail server."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    async def send(self, letter: Letter) -> None:
        """Hand a letter to the server, over a connection of its own."""
        settings = self._settings
        password = settings.smtp_password
        try:
            await aiosmtplib.send(
                _written(letter, settings.from_address),
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                username=settings.smtp_user,
                password=password.get_secret_value() if password else None,
                use_tls=settings.smtp_tls == "tls",
                start_tls=settings.smtp_tls == "starttls",
                timeout=settings.timeout_seconds,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            code = error.recipients[0].code
            raise NotTaken(
                f"the mail server refused the address ({code})",
                status=code,
                for_ever=code in _NO_SUCH_MAILBOX,
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            raise NotTaken(f"the mail server refused the mail ({error.code})", status=error.code) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise NotTaken(f"the mail server could not be used: {type(error).__name__}") from error


class SesPost:
    """A `Post` by way of Amazon SES, over boto3, which blocks: hence the threads."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ses")

    async def send(self, letter: Letter) -> None:
        """Hand a letter to SES."""
        data = _written(letter, self._settings.from_address).as_bytes()
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._send, letter.to, data)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise NotTaken(f"SES refused the mail ({code})", for_ever=code in SES_REFUSALS) from error
        except BotoCoreError as error:
            raise NotTaken(f"SES could not be used: {type(error).__name__}") from error

    def _send(self, to: str, data: bytes) -> None:
        self._client.send_email(
            FromEmailAddress=self._settings.from_address,
            Destination={"ToAddresses": [to]},
            Content={"Raw": {"Data": data}},
        )

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes as it runs, and SES has no stubs here
        timeout = self._settings.timeout_seconds
        return aws_session().client(
            "sesv2",
            region_name=self._settings.ses_region,
            endpoint_url=self._settings.ses_endpoint,
            config=Config(
                connect_timeout=min(2, timeout), read_timeout=timeout, retries={"total_max_attempts": 1}
            ),
        )


class FolderPost:
    """A `Post` that keeps the mails as files, for a laptop: `/mail` shows them."""

    def __init__(self, folder: Path, from_address: str) -> None:
        self._folder = folder
        self._from_address = from_address

    async def send(self, letter: Letter) -> None:
        """Write a letter. The same one again takes the place of the first."""
        data = _written(letter, self._from_address).as_bytes()
        try:
            await asyncio.to_thread(self._write, f"{letter.message_id}.eml", data)
        except OSError as error:
            raise NotTaken(f"the mail could not be written: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{name}.{os.getpid()}.part"
        part.write_bytes(data)
        part.replace(self._folder / name)
        kept = sorted(self._folder.glob("*.eml"), key=_age, reverse=True)
        for old in kept[MAX_KEPT:]:
            old.unlink(missing_ok=True)


def _age(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0
