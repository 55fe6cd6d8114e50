"""Links: whoever has one gets the bytes, until it expires, and nobody makes one up."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodies import in_memory
from s3_servers import S3Server
from tintype.model.errors import LinkInvalid, StorageUnavailable
from tintype.model.ids import new_id
from tintype.model.image import Facts, Format, Image, State
from tintype.objects.keys import original_key
from tintype.objects.local_links import LocalLinks
from tintype.objects.s3_links import S3Links
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SECRET = b"secret of this test"
ID = UUID("0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab")


def image(filename: str = "Zürich.jpg") -> Image:
    return Image(
        id=new_id(),
        owner="local",
        filename=filename,
        extension="jpg",
        declared_type=None,
        size=5,
        sha256=b"",
        etag="",
        facts=Facts(Format.JPEG, 1, 1),
        tags=(),
        attributes={},
        state=State.READY,
        protocol="form",
        created_at=NOW,
        updated_at=NOW,
        deleted_at=None,
        version=1,
    )


async def local_link(image: Image, *, expires_in: int = 60, attachment: bool = True) -> str:
    return await LocalLinks(SECRET).sign(
        image,
        original_key(image.id),
        expires_in=expires_in,
        base_url="https://images.example/",
        attachment=attachment,
    )


def verify(link: str, links: LocalLinks | None = None, image_id: UUID | None = None) -> None:
    url = urlsplit(link)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    found = UUID(url.path.split("/")[3])
    (links or LocalLinks(SECRET)).verify(image_id or found, int(query["expires"]), query["signature"])


async def test_a_local_link_leads_to_the_content_and_is_verified() -> None:
    one = image()

    link = await local_link(one)

    assert link.startswith(f"https://images.example/v1/images/{one.id}/content?expires=")
    verify(link)


async def test_a_local_link_shows_or_saves() -> None:
    assert "disposition" not in await local_link(image())
    assert (await local_link(image(), attachment=False)).endswith("&disposition=inline")


async def test_a_local_link_expires() -> None:
    with pytest.raises(LinkInvalid, match="expired"):
        verify(await local_link(image(), expires_in=-1))


async def test_a_local_link_is_for_one_image() -> None:
    with pytest.raises(LinkInvalid, match="not one of ours"):
        verify(await local_link(image()), image_id=ID)


async def test_a_local_link_is_of_one_secret() -> None:
    with pytest.raises(LinkInvalid, match="not one of ours"):
        verify(await local_link(image()), LocalLinks(b"another"))


@given(st.text(), st.integers(-(2**70), 2**70) | st.none())
def test_a_local_link_cannot_be_made_up(signature: str, expires: int | None) -> None:
    with pytest.raises(LinkInvalid):
        LocalLinks(SECRET).verify(ID, expires, signature)


def test_the_secret_is_not_shown() -> None:
    assert "secret of" not in repr(LocalLinks(SECRET))


@pytest.fixture(params=["moto", pytest.param("radosgw", marks=pytest.mark.real_s3)])
def s3_settings(request: pytest.FixtureRequest) -> ObjectsSettings:
    server = request.getfixturevalue(f"{request.param}_s3")
    assert isinstance(server, S3Server)
    return server.new_bucket()


@pytest.fixture(params=["", "/some/prefix"])
def bucket(s3_settings: ObjectsSettings, request: pytest.FixtureRequest) -> ObjectsSettings:
    return s3_settings.model_copy(update={"url": f"{s3_settings.url}{request.param}"})


async def s3_link(settings: ObjectsSettings, image: Image, *, expires_in: int = 60, attachment: bool) -> str:
    return await S3Links(settings).sign(
        image, original_key(image.id), expires_in=expires_in, base_url="", attachment=attachment
    )


async def get(link: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(link)


async def test_s3_answers_a_link_with_bytes_type_and_name(bucket: ObjectsSettings) -> None:
    objects, one = Objects.open(bucket, Path()), image()
    await objects.put(original_key(one.id), in_memory(b"bytes"), content_type="image/png", metadata={})

    for attachment, kind in ((True, "attachment"), (False, "inline")):
        answer = await get(await s3_link(bucket, one, attachment=attachment))

        assert (answer.status_code, answer.content) == (200, b"bytes")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["content-disposition"].startswith(f'{kind}; filename="Z_rich.jpg"; ')


@pytest.mark.real_s3
async def test_s3_refuses_a_link_that_was_changed_or_has_expired(radosgw_s3: S3Server) -> None:
    settings, one = radosgw_s3.new_bucket(), image()
    link = await s3_link(settings, one, attachment=True, expires_in=1)

    assert (await get(link.replace("attachment", "inline"))).status_code == 403
    await asyncio.sleep(2)
    assert (await get(link)).status_code == 403


async def test_a_link_to_aws_names_the_bucket_and_lives_a_week_at_most() -> None:
    keys = {"access_key_id": "key", "secret_access_key": "secret"}
    settings = ObjectsSettings.model_validate({"url": "s3://pictures", "region": "eu-central-1"} | keys)

    link = urlsplit(await s3_link(settings, image(), attachment=True, expires_in=10**9))

    assert link.netloc == "pictures.s3.eu-central-1.amazonaws.com"
    query = parse_qs(link.query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["604800"]
    assert query["X-Amz-SignedHeaders"] == ["host"]


@pytest.mark.usefixtures("aws_credentials")
async def test_a_link_without_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(StorageUnavailable, match="credentials"):
        await s3_link(ObjectsSettings(url="s3://pictures"), image(), attachment=True)
