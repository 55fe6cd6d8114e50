"""A mail server in trouble: nothing is lost, nothing comes twice, and the ledger says how it was."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tintype.catalogue import deliveries
from tintype.messaging.mail import SmtpPost
from tintype.model.delivery import State
from tintype.model.subscription import Channel
from tintype.settings import MailSettings
from town import Town


class Mind:
    """What a mail server makes of a mail."""

    def __init__(self, decide: Callable[[], str]) -> None:
        self._decide = decide
        self.taken: list[bytes] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        del server, session
        answer = self._decide()
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.taken.append(envelope.content)
        return answer


@contextmanager
def serving(port: int, decide: Callable[[], str]) -> Iterator[Mind]:
    mind = Mind(decide)
    controller = Controller(mind, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mind
    finally:
        controller.stop()


def slow() -> str:
    time.sleep(1)  # longer than anybody waits
    return "451 too late"


async def test_a_mail_server_that_is_down_slow_or_refuses_gets_the_same_mail_again(town: Town) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    post = SmtpPost(MailSettings(smtp_host="127.0.0.1", smtp_port=port, smtp_tls="none", timeout_seconds=0.5))
    notifier = town.another(post=post)
    subscription = await town.subscribe("ada@example.org", Channel.EMAIL)
    await town.happen()

    async def try_again() -> None:
        await town.later()
        await notifier.drain()

    await notifier.drain()
    with serving(port, slow):
        await try_again()
    with serving(port, lambda: "451 busy"):
        await try_again()
    with serving(port, lambda: "250 OK") as mind:
        await try_again()
        await try_again()

    async with town.database.reading("local") as tx:
        (entry,) = await deliveries.page(tx, "local", subscription.id, None, 10)
    attempts = await town.sql("SELECT number, status, error FROM delivery_attempts ORDER BY number")
    assert attempts == [
        (1, None, "the mail server could not be used: SMTPConnectError"),
        (2, None, "the mail server could not be used: SMTPReadTimeoutError"),
        (3, 451, "the mail server refused the mail (451)"),
        (4, None, None),
    ]
    assert (entry.state, entry.attempts, entry.last_error) == (State.DELIVERED, 4, None)
    (mail,) = mind.taken
    assert f"Message-ID: <{entry.id}.{subscription.id.hex}@".encode() in mail
