"""What is told of an event: words for people, JSON for machines, attributes for filters."""

import json
import re
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from happenings import WHEN, event, message, notice
from tintype.messaging.publisher import MAX_BODY_BYTES, message_of
from tintype.model.event import Kind
from tintype.model.image import Facts, Format, State

# RFC 20's printable characters; the first one a letter, a digit or a mark (SNS, API_Publish).
SUBJECT = re.compile(r"[!-~][ -~]{0,98}")
# https://www.w3.org/TR/REC-xml/#charsets, which is what SNS and SQS take.
XML = re.compile("[\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")

# What PostgreSQL can hold: no NUL, no lone surrogates.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def test_the_body_for_machines_is_a_standard_webhook_with_the_position() -> None:
    told = event(42)

    body = json.loads(message_of(told).default)

    assert body == {
        "type": "image.uploaded",
        "id": str(told.id),
        "position": 42,
        "timestamp": "2026-11-22T19:02:00+00:00",
        "data": told.payload,
    }


def test_people_read_a_sentence_and_the_facts() -> None:
    told = event(42)

    letter = message_of(told).email

    assert letter.splitlines() == [
        "Rome.JPG was uploaded: JPEG of 4000 x 3000 pixels, 2.3 MB.",
        "",
        f"Image: {told.image_id}",
        "Owner: local",
        "Tags: travel, città eterna",
        f"When: {WHEN:%Y-%m-%d %H:%M:%S} UTC",
        f"Event: {told.id}",
    ]


def test_people_get_a_link_that_says_when_it_ends_as_long_as_the_image_is_there() -> None:
    def link(image_id: object) -> tuple[str, datetime]:
        return f"https://images.example/{image_id}", WHEN

    there, gone = event(42), event(43, Kind.DELETED, state=State.DELETED)

    letter = message_of(there, link).email

    assert (
        f"Open it until 2026-11-22 19:02 UTC: https://images.example/{there.image_id}" in letter.splitlines()
    )
    assert message_of(there, link).default == message_of(there).default
    assert "Open" not in message_of(gone, link).email
    assert "Open" not in message_of(notice(44), link).email


def test_dimensions_are_said_as_the_image_is_seen() -> None:
    lying = message(facts=Facts(Format.JPEG, width=4000, height=3000, orientation=6))

    assert "JPEG of 3000 x 4000 pixels" in lying.email
    assert "JPEG of 3000 x 4000 pixels" in lying.sms
    assert (lying.attributes["width"], lying.attributes["height"]) == (4000, 3000)


@pytest.mark.parametrize(
    ("kind", "subject", "verb"),
    [
        (Kind.UPLOADED, "Image uploaded: Rome.JPG", "was uploaded"),
        (Kind.UPDATED, "Image changed: Rome.JPG", "was changed"),
        (Kind.DELETED, "Image deleted: Rome.JPG", "was moved to the trash"),
        (Kind.RESTORED, "Image restored: Rome.JPG", "was brought back from the trash"),
        (Kind.MISSING, "Image missing: Rome.JPG", "has lost its bytes"),
        (Kind.CORRUPT, "Image damaged: Rome.JPG", "has other bytes than were stored"),
        (Kind.RECOVERED, "Image recovered: Rome.JPG", "has its bytes again"),
    ],
)
def test_each_kind_has_its_words(kind: Kind, subject: str, verb: str) -> None:
    told = message(1, kind)

    assert told.subject == subject
    assert told.sms == f"{subject}, JPEG of 4000 x 3000 pixels, 2.3 MB"
    assert verb in told.email


def test_every_kind_of_event_can_be_told() -> None:
    happened = [event(1, kind) if kind.about_image else notice(1, kind) for kind in Kind]

    assert [message_of(each).attributes["kind"] for each in happened] == [kind.value for kind in Kind]


def test_a_notice_is_told_in_its_own_sentence() -> None:
    told = message_of(notice(7, subscription_id="x"))

    assert told.subject == "Subscription confirmed"
    assert told.sms == "Subscription confirmed: ada@example.org is told of uploads from now on."
    assert told.email.splitlines()[0] == "ada@example.org is told of uploads from now on."
    assert json.loads(told.default)["data"]["subscription_id"] == "x"
    assert told.attributes == {"kind": "subscription.confirmed", "owner": "local"}


def test_filters_see_the_extension_and_the_type_in_lower_case() -> None:
    attributes = message(extension="JPG").attributes

    assert attributes["ext"] == "jpg"
    assert attributes["content_type"] == "image/jpeg"


def test_names_in_other_scripts_stay_readable_where_only_ascii_goes() -> None:
    assert message(filename="Übersicht été.png").subject == "Image uploaded: Ubersicht ete.png"
    assert message(filename="猫.png").subject == "Image uploaded: ?.png"
    assert "猫.png was uploaded" in message(filename="猫.png").email


def test_a_long_name_is_cut_and_the_facts_stay() -> None:
    told = message(filename="long" * 60 + ".jpg")

    assert len(told.sms) == 140
    assert told.sms.endswith("..., JPEG of 4000 x 3000 pixels, 2.3 MB")
    assert len(told.subject) == 99


@pytest.mark.parametrize(
    ("size", "words"), [(1, "1 bytes"), (999, "999 bytes"), (1_000, "1.0 kB"), (3_200_000_000, "3.2 GB")]
)
def test_sizes_are_said_as_people_say_them(size: int, words: str) -> None:
    assert words in message(size=size).sms


def test_a_payload_that_is_too_long_goes_without_its_long_parts_and_says_so() -> None:
    told = message(facts=Facts(Format.JPEG, width=1, height=1, camera={"make": "x" * MAX_BODY_BYTES}))

    body = json.loads(told.default)

    assert body["omitted"] == ["attributes", "camera"]
    assert body["data"]["filename"] == "Rome.JPG"
    assert body["data"].keys().isdisjoint({"attributes", "camera"})
    assert len(told.default.encode()) < MAX_BODY_BYTES


def nested(depth: int) -> list[object]:
    inner: list[object] = []
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize("poison", [nested(100_000), float("nan"), 10**5000], ids=["deep", "nan", "digits"])
def test_attributes_that_json_cannot_hold_do_not_keep_the_rest_from_being_told(poison: object) -> None:
    body = json.loads(message(attributes={"poison": poison}).default)

    assert body["omitted"] == ["attributes", "camera"]


@example(filename="\ufffe", owner="\uffff", tags=["\ufffe"], make="\uffff", value="\x0b\x1f")
@given(filename=text, owner=text, tags=st.lists(text), make=text, value=text)
def test_whatever_a_sender_writes_the_message_is_one_that_sns_takes(
    filename: str, owner: str, tags: list[str], make: str, value: str
) -> None:
    told = event(
        filename=filename,
        owner=owner,
        tags=tuple(tags),
        attributes={value: value},
        facts=Facts(Format.PNG, width=1, height=1, camera={"make": make}),
    )

    said = message_of(told)

    assert SUBJECT.fullmatch(said.subject)
    assert said.sms.isascii()
    assert said.sms.isprintable()
    assert len(said.sms) <= 140
    assert XML.fullmatch(said.email)
    assert XML.fullmatch(said.default)
    assert json.loads(said.default)["data"] == told.payload
