"""Addresses as they are sent, as they are used, and as they are shown; codes and links."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.model.errors import RequestInvalid
from tintype.model.subscription import (
    Channel,
    Mode,
    Provider,
    Status,
    Subscription,
    address_key,
    address_of,
    masked,
)
from tintype.model.subscription_links import (
    Purpose,
    Ticket,
    confirmation_code,
    confirmation_ends,
    is_code,
    read_ticket,
    write_ticket,
)

SECRET = b"s" * 32
QUEUE = "arn:aws:sqs:eu-central-1:123456789012:images"
IDS = st.uuids(version=4)


def subscription(
    channel: Channel = Channel.SMS, number: int = 1, identity: UUID | None = None
) -> Subscription:
    now = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    return Subscription(
        id=identity or uuid4(),
        owner="anna",
        channel=channel,
        address="+4915112345678",
        filter={},
        kinds=(),
        mode=Mode.AT_ONCE,
        provider=Provider.TINTYPE,
        status=Status.PENDING,
        reason=None,
        round=number,
        asked_at=now,
        secrets=(b"hidden",),
        sns_arn=None,
        sns_in_step=True,
        created_at=now,
        updated_at=now,
        confirmed_at=None,
        version=1,
    )


@pytest.mark.parametrize(
    ("channel", "sent", "used"),
    [
        (Channel.EMAIL, "Anna@EXAMPLE.org", "Anna@example.org"),
        (Channel.EMAIL, "anna+photos@example.org", "anna+photos@example.org"),
        (Channel.EMAIL, "anna@bücher.example.org", "anna@xn--bcher-kva.example.org"),
        (Channel.SMS, "+49 (151) 123-456.78", "+4915112345678"),
        (Channel.WEBHOOK, "https://example.org/hook?key=1", "https://example.org/hook?key=1"),
        (Channel.SQS, QUEUE, QUEUE),
    ],
)
def test_an_address_is_used_in_one_spelling(channel: Channel, sent: str, used: str) -> None:
    assert address_of(channel, sent) == used


@pytest.mark.parametrize(
    ("channel", "sent"),
    [
        (Channel.EMAIL, "anna"),
        (Channel.EMAIL, "anna@"),
        (Channel.EMAIL, "anna@localhost"),
        (Channel.EMAIL, "jörg@example.org"),  # few servers would take it
        (Channel.EMAIL, "anna@example.org\nbcc: bert@example.org"),
        (Channel.EMAIL, "Anna <anna@example.org>"),
        (Channel.EMAIL, "a" * 65 + "@example.org"),
        (Channel.SMS, "015112345678"),
        (Channel.SMS, "+0151"),
        (
            Channel.SMS,
            "+49\u0661\u0665\u0661\u0661\u0662\u0663\u0664\u0665",
        ),  # digits of another script
        (Channel.WEBHOOK, "example.org/hook"),
        (Channel.WEBHOOK, "https:///hook"),
        (Channel.WEBHOOK, "javascript:alert(1)"),
        (Channel.WEBHOOK, "https://example.org\\@evil.example/"),
        (Channel.WEBHOOK, "https://example.org/\r\nHost: evil"),
        (Channel.SQS, "https://sqs.eu-central-1.amazonaws.com/123456789012/images"),
        (Channel.SQS, f"{QUEUE}.fifo"),
        (Channel.SQS, f"{QUEUE}*"),
    ],
)
def test_what_is_no_address_is_refused(channel: Channel, sent: str) -> None:
    with pytest.raises(RequestInvalid):
        address_of(channel, sent)


@given(st.sampled_from(Channel), st.text(max_size=60))
def test_any_text_is_an_address_or_refused(channel: Channel, text: str) -> None:
    try:
        used = address_of(channel, text)
    except RequestInvalid:
        return
    assert address_of(channel, used) == used
    assert "\n" not in used


def test_a_page_gives_no_address_away() -> None:
    assert masked(Channel.EMAIL, "anna@example.org") == "a…@example.org"
    assert masked(Channel.SMS, "+4915112345678") == "…678"
    assert masked(Channel.WEBHOOK, "https://example.org/hook?key=secret") == "example.org"
    assert masked(Channel.SQS, QUEUE) == "images"


def test_the_case_of_a_mailbox_makes_no_other_mailbox() -> None:
    assert address_key(Channel.EMAIL, "Anna@example.org") == address_key(Channel.EMAIL, "anna@example.org")
    assert address_key(Channel.WEBHOOK, "https://a.example/X") != address_key(
        Channel.WEBHOOK, "https://a.example/x"
    )


def test_a_secret_is_not_in_what_is_logged() -> None:
    assert "hidden" not in repr(subscription())


@given(st.sampled_from(Purpose), IDS, st.integers(0, 10**6), st.integers(0, 2**40))
def test_a_ticket_is_read_as_it_was_written_and_by_its_secret_alone(
    purpose: Purpose, identity: UUID, number: int, expires: int
) -> None:
    ticket = Ticket(purpose, identity, number, expires)
    text = write_ticket(SECRET, ticket)
    assert read_ticket(SECRET, text) == ticket
    assert read_ticket(b"t" * 32, text) is None


@given(st.text(max_size=300))
def test_other_text_is_no_ticket(text: str) -> None:
    assert read_ticket(SECRET, text) is None


@given(st.integers(0, 3), st.text(max_size=8))
def test_a_changed_ticket_is_none(part: int, instead: str) -> None:
    text = write_ticket(SECRET, Ticket(Purpose.CONFIRM, uuid4(), 1, 5))
    parts = text.split(".")
    if parts[part] != instead:
        parts[part] = instead
        assert read_ticket(SECRET, ".".join(parts)) is None


def test_a_code_belongs_to_one_subscription_and_one_round() -> None:
    identity = uuid4()
    codes = {
        confirmation_code(SECRET, subscription(number=number, identity=identity)) for number in range(1, 6)
    }
    assert len(codes) == 5
    one = subscription(Channel.WEBHOOK, identity=identity)
    assert is_code(SECRET, one, f"  {confirmation_code(SECRET, one)}\n")
    assert not is_code(SECRET, one, confirmation_code(SECRET, subscription(identity=identity)))
    assert not is_code(SECRET, one, "é")


def test_a_confirmation_ends_after_two_days() -> None:
    assert (
        confirmation_ends(subscription()) - datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    ).total_seconds() == 48 * 3600
