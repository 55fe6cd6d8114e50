"""Metadata: a row is made anew from it, whatever senders call their files."""

import string
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from tintype.model.ids import began_at
from tintype.model.image import Facts, Format, Location
from tintype.model.upload import Upload
from tintype.objects.metadata import describe, parse

DIGEST = bytes(range(32))
S3_LIMIT = 2048
HEADER_SAFE = set(string.ascii_letters + string.digits + string.punctuation) - {"?"}
ROME = Upload(
    "local", "Rome.jpg", "image/jpeg", "form", tags=("travel", "Rome"), attributes={"album": "Rome"}
)
PICTURE = Facts(Format.JPEG, 4000, 3000)

nasty = st.text(st.characters(exclude_categories=()), max_size=300)
short = st.text(st.characters(exclude_categories=()), max_size=10)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=45))])
facts = st.builds(
    Facts,
    format=st.sampled_from(Format),
    width=st.integers(1, 65_535),
    height=st.integers(1, 65_535),
    frames=st.integers(1, 1_000),
    orientation=st.integers(1, 8),
    has_alpha=st.none() | st.booleans(),
    taken_at=st.none() | st.datetimes(timezones=zones),
    camera=st.dictionaries(short, short | st.integers() | st.floats(allow_nan=False), max_size=4),
    thumbhash=st.none() | st.binary(min_size=5, max_size=25),
    dominant_color=st.none() | st.just("#a0b1c2"),
    phash=st.none() | st.integers(-(2**63), 2**63 - 1),
)


def uploads(text: st.SearchStrategy[str]) -> st.SearchStrategy[Upload]:
    return st.builds(
        Upload,
        owner=text,
        filename=text,
        declared_type=st.none() | text.filter(bool),
        protocol=text,
        tags=st.lists(text, max_size=50).map(tuple),
        attributes=st.dictionaries(text, text | st.lists(text, max_size=2), max_size=5),
        idempotency=st.none(),
        keep_duplicate=st.just(value=False),
    )


def size_by_s3(metadata: dict[str, str]) -> int:
    """S3 counts the bytes of names and values; the prefix too, to be safe."""
    return sum(len(f"x-amz-meta-{name}{value}".encode()) for name, value in metadata.items())


@given(uploads(nasty), facts)
def test_anything_fits_into_what_s3_takes(upload: Upload, facts: Facts) -> None:
    metadata = describe(upload, facts, size=12, sha256=DIGEST)

    assert size_by_s3(metadata) < S3_LIMIT
    assert all(metadata.values())
    assert set("".join([*metadata, *metadata.values()])) <= HEADER_SAFE


@given(uploads(short), facts)
def test_what_was_described_comes_back(upload: Upload, facts: Facts) -> None:
    description = parse(describe(upload, facts, size=12, sha256=DIGEST))

    assert description is not None
    assert (description.size, description.sha256) == (12, DIGEST)
    for name in ("owner", "filename", "declared_type", "protocol", "tags", "attributes"):
        if name.replace("_", "-") not in description.cut:
            assert getattr(description.upload, name) == getattr(upload, name)
    assert description.upload.id == upload.id
    if not description.cut:
        assert (description.upload, description.facts) == (upload, facts)


@given(uploads(nasty))
def test_what_was_cut_is_named_and_keeps_its_beginning(upload: Upload) -> None:
    description = parse(describe(upload, PICTURE, size=12, sha256=DIGEST))

    assert description is not None
    assert upload.owner.startswith(description.upload.owner)
    assert upload.tags[: len(description.upload.tags)] == description.upload.tags
    assert ("owner" in description.cut) == (description.upload.owner != upload.owner)
    assert ("tags" in description.cut) == (description.upload.tags != upload.tags)
    assert ("attributes" in description.cut) == (description.upload.attributes != upload.attributes)


def test_an_ordinary_image_can_be_read_by_people() -> None:
    metadata = describe(ROME, PICTURE, size=12, sha256=DIGEST)

    assert metadata == {
        "schema": "1",
        "id": str(ROME.id),
        "sha256": DIGEST.hex(),
        "bytes": "12",
        "uploaded": began_at(ROME.id).isoformat(timespec="milliseconds"),
        "type": "image/jpeg",
        "facts": '{"width":4000,"height":3000,"frames":1,"orientation":1}',
        "owner": "local",
        "filename": "Rome.jpg",
        "protocol": "form",
        "declared-type": "image/jpeg",
        "tags": '["travel","Rome"]',
        "attributes": '{"album":"Rome"}',
    }


def test_a_long_name_is_shortened_before_its_extension() -> None:
    upload = Upload("local", "猫" * 1000 + ".jpeg", None, "form")

    description = parse(describe(upload, PICTURE, size=12, sha256=DIGEST))

    assert description is not None
    assert description.upload.filename.startswith("猫" * 100)
    assert description.upload.filename.endswith("猫.jpeg")
    assert description.cut == {"filename"}


def test_neither_exif_nor_location_is_told() -> None:
    facts = Facts(Format.JPEG, 1, 1, exif={"Artist": "someone"}, location=Location(41.90342, 12.5))

    assert "someone" not in str(describe(ROME, facts, size=12, sha256=DIGEST))
    assert "41.90342" not in str(describe(ROME, facts, size=12, sha256=DIGEST))


def test_foreign_metadata_is_not_understood() -> None:
    ours = describe(ROME, PICTURE, size=12, sha256=DIGEST)

    assert parse({}) is None
    assert parse({"schema": "1"}) is None
    for name in ("schema", "id", "sha256", "bytes", "type", "facts"):
        assert parse(ours | {name: "nonsense"}) is None


def test_a_time_without_a_zone_stays_without_one() -> None:
    facts = Facts(Format.JPEG, 1, 1, taken_at=datetime(2026, 11, 22, 10, 0))  # noqa: DTZ001 # a camera's clock

    description = parse(describe(ROME, facts, size=12, sha256=DIGEST))

    assert description is not None
    assert description.facts.taken_at == facts.taken_at
