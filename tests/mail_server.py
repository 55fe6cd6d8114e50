"""A mail server as a process of its own: aiosmtpd, which keeps what it takes in a Maildir."""

import mailbox
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

START_SECONDS = 30


@dataclass
class MailServer:
    port: int
    folder: Path

    @property
    def mails(self) -> list[EmailMessage]:
        """What was taken, oldest first."""
        kept = mailbox.Maildir(self.folder)
        found = [message_from_bytes(kept.get_bytes(key), policy=default) for key in kept.keys()]  # noqa: SIM118
        return sorted(found, key=lambda mail: str(mail["x-peer"]) + str(mail["date"]))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TINTYPE_MAIL__SMTP_HOST": "127.0.0.1",
            "TINTYPE_MAIL__SMTP_PORT": str(self.port),
            "TINTYPE_MAIL__SMTP_TLS": "none",
            "TINTYPE_MAIL__FROM_ADDRESS": "images@example.com",
        }


@pytest.fixture
def mail_server(tmp_path: Path) -> Iterator[MailServer]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "mailserver"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            f"127.0.0.1:{port}",
            "-c",
            "aiosmtpd.handlers.Mailbox",
            folder,
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield MailServer(port, folder)
    finally:
        process.kill()
        process.wait()
