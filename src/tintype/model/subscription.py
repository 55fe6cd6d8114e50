"""A subscription: who is told of what, where, and since when they agreed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from email_validator import EmailNotValidError, validate_email

from tintype.model.errors import RequestInvalid
from tintype.model.event_attributes import Attribute
from tintype.model.filter_policy import matches

MAX_ADDRESS = 2048
CONFIRM_SECONDS = 48 * 3600
"""How long a subscription waits to be confirmed. SNS forgets pending ones after the same time."""

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")  # E.164, as SNS takes it
_PHONE_PUNCTUATION = re.compile(r"[ ()./-]")
_QUEUE = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,80}")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028-\u202e\u2066-\u2069\ud800-\udfff\\]")


class Channel(StrEnum):
    """How somebody is told."""

    EMAIL = "email"
    SMS = "sms"
    WEBHOOK = "webhook"
    SQS = "sqs"


class Mode(StrEnum):
    """When somebody is told: of each event, or of all in a while together."""

    AT_ONCE = "at_once"
    HOURLY = "hourly"
    DAILY = "daily"


class Provider(StrEnum):
    """Who brings the message: this service, or SNS, which gets every event once for all."""

    TINTYPE = "tintype"
    SNS = "sns"


class Status(StrEnum):
    """Where a subscription stands. Only an active one is told anything."""

    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    UNSUBSCRIBED = "unsubscribed"
    EXPIRED = "expired"
    DELETED = "deleted"
    """By its owner, and SNS is still to be told. Nobody sees it any more."""


LIVE = (Status.PENDING, Status.ACTIVE, Status.PAUSED)
"""What counts when an address is to be subscribed again."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One address that wants to hear of one owner's images."""

    id: UUID
    owner: str
    channel: Channel
    address: str
    filter: dict[str, Any]
    """An SNS filter policy over the attributes of messages; empty: everything."""
    kinds: tuple[str, ...]
    """Of events; none: all."""
    mode: Mode
    provider: Provider
    status: Status
    reason: str | None
    """Why it is paused, or over."""
    round: int
    """Of its confirmation: one that is asked for anew has another code."""
    asked_at: datetime
    """When the confirmation was asked for last."""
    secrets: tuple[bytes, ...] = field(repr=False)
    """What webhooks are signed with, the newest first; two for a day after a rotation."""
    sns_arn: str | None
    sns_in_step: bool
    created_at: datetime
    updated_at: datetime
    confirmed_at: datetime | None
    version: int

    @property
    def policy(self) -> dict[str, Any]:
        """The complete filter policy: what the subscriber asked for, of this owner's events alone."""
        return complete_policy(self.filter, self.owner, self.kinds)

    def wants(self, attributes: Mapping[str, Attribute]) -> bool:
        """Tell whether a message with these attributes is for this subscription, as SNS would."""
        return matches(self.policy, attributes)


def complete_policy(wanted: Mapping[str, Any], owner: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return a filter with what is always added: the owner, and the kinds of events where some are named."""
    policy = {**wanted, "owner": [owner]}
    if kinds:
        policy["kind"] = list(kinds)
    return policy


def address_of(channel: Channel, text: str) -> str:
    """Return the address as it is used; raise `RequestInvalid` for one that cannot be one."""
    if len(text) > MAX_ADDRESS:
        raise RequestInvalid(f"An address has up to {MAX_ADDRESS} characters.")
    match channel:
        case Channel.EMAIL:
            return _email(text)
        case Channel.SMS:
            return _phone(text)
        case Channel.WEBHOOK:
            return _url(text)
        case Channel.SQS:
            return _queue(text)


def address_key(channel: Channel, address: str) -> str:
    """Return what all spellings of one address have in common.

    Mailboxes differ by case nowhere in practice, and a mail to the wrong one would be a stranger's.
    """
    return address.casefold() if channel is Channel.EMAIL else address


def reader_key(channel: Channel, address: str) -> bytes:
    """Return what stands for a mailbox or phone: `anna+x@…` is read by whoever reads `anna@…`."""
    key = address_key(channel, address)
    if channel is Channel.EMAIL:
        local, _, domain = key.rpartition("@")
        key = f"{local.partition('+')[0]}@{domain}"
    return hashlib.sha256(f"{channel}\n{key}".encode()).digest()


def masked(channel: Channel, address: str) -> str:
    """Return an address as a page shows it to whoever holds a link: recognised, and not given away."""
    match channel:
        case Channel.EMAIL:
            local, _, domain = address.rpartition("@")
            return f"{local[:1]}…@{domain}"
        case Channel.SMS:
            return f"…{address[-3:]}"
        case Channel.WEBHOOK:
            return urlsplit(address).hostname or ""
        case Channel.SQS:
            return address.rpartition(":")[2]


def _email(text: str) -> str:
    # Letters beyond ASCII before the @ need SMTPUTF8 (RFC 6531), which SES and SNS do not speak.
    try:
        found = validate_email(text, check_deliverability=False, strict=True, allow_smtputf8=False)
    except EmailNotValidError as error:
        raise RequestInvalid(f"This is no e-mail address: {error}") from error
    if found.ascii_email is None:
        raise RequestInvalid("This is no e-mail address that mail servers take.")
    return found.ascii_email


def _phone(text: str) -> str:
    number = _PHONE_PUNCTUATION.sub("", text)
    if not _PHONE.fullmatch(number):
        raise RequestInvalid(
            "A phone number is written with its country: a plus sign and 7 to 15 digits, as +4915112345678."
        )
    return number


def _url(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise RequestInvalid("A webhook's URL has no blanks, backslashes or control characters.")
    parts, host = _split(text)
    if parts.scheme not in {"https", "http"} or not host:
        raise RequestInvalid("A webhook is a complete URL, as https://example.com/hooks/images.")
    if "@" in parts.netloc:
        raise RequestInvalid("A webhook's URL has no user name or password in it: messages are signed.")
    if parts.fragment:
        raise RequestInvalid("A webhook's URL has no fragment (`#…`): it would not be sent.")
    return text


def _split(text: str) -> tuple[SplitResult, str | None]:
    try:
        parts = urlsplit(text)
        _ = parts.port  # which is read, and judged, when asked for
    except ValueError as error:
        raise RequestInvalid(f"This is no URL: {error}.") from error
    return parts, parts.hostname


def _queue(text: str) -> str:
    if text.endswith(".fifo"):
        raise RequestInvalid("SNS does not deliver from this topic to FIFO queues: name a standard queue.")
    if not _QUEUE.fullmatch(text):
        raise RequestInvalid("A queue is named by its ARN, as arn:aws:sqs:eu-central-1:123456789012:images.")
    return text
