"""What a subscriber proves with: links to confirm and to leave, and codes, made from the service's secret.

Nothing of them is stored. Whoever has the secret can make the same link again, and knows it again.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from tintype.model.subscription import CONFIRM_SECONDS, Channel, Subscription

PURPOSE = "subscriptions"
"""Of the secret, in the catalogue."""
CODE_DIGITS = 6
MAX_TICKET = 200


class Purpose(StrEnum):
    """What a link is good for."""

    CONFIRM = "c"
    UNSUBSCRIBE = "u"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a link says: signed by us, and perhaps over."""

    purpose: Purpose
    subscription_id: UUID
    round: int
    expires: int
    """In seconds since 1970; 0: never."""


def confirm_url(secret: bytes, base_url: str, subscription: Subscription) -> str:
    """Return the link of a confirmation. It lives for 48 hours from when it was asked for."""
    expires = int(confirmation_ends(subscription).timestamp())
    ticket = Ticket(Purpose.CONFIRM, subscription.id, subscription.round, expires)
    return f"{base_url}/v1/subscriptions/confirm?token={write_ticket(secret, ticket)}"


def confirmation_ends(subscription: Subscription) -> datetime:
    """Return until when the subscription can be confirmed."""
    return subscription.asked_at + timedelta(seconds=CONFIRM_SECONDS)


def unsubscribe_url(secret: bytes, base_url: str, subscription: Subscription) -> str:
    """Return the link with which the receiver of a message leaves; it lives as long as the subscription.

    A POST to it is what mail programs do by their own button (RFC 8058, section 3.1).
    """
    ticket = Ticket(Purpose.UNSUBSCRIBE, subscription.id, 0, 0)
    return f"{base_url}/v1/subscriptions/unsubscribe?token={write_ticket(secret, ticket)}"


def confirmation_code(secret: bytes, subscription: Subscription) -> str:
    """Return the code of this round: six digits for people, more than can be guessed for programs."""
    digest = hmac.digest(
        secret, f"tintype code 1\n{subscription.id}\n{subscription.round}".encode(), hashlib.sha256
    )
    if subscription.channel is Channel.SMS:
        return f"{int.from_bytes(digest[:8]) % 10**CODE_DIGITS:0{CODE_DIGITS}}"
    return _written(digest)


def is_code(secret: bytes, subscription: Subscription, text: str) -> bool:
    """Tell whether a text is the code of this round; blanks around it do not count."""
    return hmac.compare_digest(confirmation_code(secret, subscription).encode(), text.strip().encode())


def write_ticket(secret: bytes, ticket: Ticket) -> str:
    """Return a ticket as a link carries it."""
    body = f"{ticket.purpose}.{ticket.subscription_id.hex}.{ticket.round}.{ticket.expires}"
    return f"{body}.{_signature(secret, body)}"


def read_ticket(secret: bytes, text: str) -> Ticket | None:
    """Return what a link's ticket says; None for one that we did not sign."""
    body, _, signature = text.rpartition(".")
    ours = _signature(secret, body)
    if len(text) > MAX_TICKET or not hmac.compare_digest(ours.encode(), signature.encode()):
        return None
    purpose, subscription_id, number, expires = body.split(".")
    return Ticket(Purpose(purpose), UUID(subscription_id), int(number), int(expires))


def _signature(secret: bytes, body: str) -> str:
    return _written(hmac.digest(secret, b"tintype ticket 1\n" + body.encode(), hashlib.sha256))


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
