"""What is sent to people, and the ports of those who bring it."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Picture:
    """An image within a mail; the HTML names it as `cid:<name>`."""

    name: str
    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail to one address, in text and in HTML."""

    to: str
    subject: str
    text: str
    html: str
    message_id: str
    """The same for each attempt, without angle brackets: mail programs show a repeated one once."""
    unsubscribe_url: str | None = None
    pictures: tuple[Picture, ...] = ()


class NotTaken(Exception):
    """A letter or text was not taken; the message says why."""

    def __init__(self, reason: str, *, status: int | None = None, for_ever: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.for_ever = for_ever
        """Trying again is no use: the address does not exist, for example."""


class Post(Protocol):
    """Brings letters."""

    async def send(self, letter: Letter) -> None:
        """Return when the letter is on its way and safe; raise `NotTaken` when it is not known to be."""
        ...


class Texts(Protocol):
    """Brings short messages to phones."""

    async def send_text(self, phone: str, text: str) -> None:
        """Return when the text is on its way; raise `NotTaken`, or an error of the model, when it is not."""
        ...
