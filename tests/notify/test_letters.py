"""What mails say: the picture, the facts, the link and the way out, in text and in HTML alike."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from uuid import UUID

import pytest

from catalogue.arrivals import arrival, stored
from tintype.catalogue import images
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import Database
from tintype.messaging.post import Letter
from tintype.model.errors import LinkInvalid
from tintype.model.image import Image
from tintype.model.subscription import Channel
from tintype.objects.local_links import LocalLinks, MailedLinks
from town import SECRET, Town

LINKS = LocalLinks(SECRET)
LINK = re.compile(r"http://here/v1/images/([0-9a-f-]+)/content\?expires=(\d+)&signature=([\w-]+)(\S*)")
PICTURE = b"\xff\xd8 a small one"


@pytest.fixture
async def commits(database: Database) -> AsyncIterator[Commits]:
    async with Commits.open(database) as commits:
        yield commits


async def picture(_: Image) -> bytes | None:
    return PICTURE


async def news(
    town: Town, commits: Commits, count: int = 1, *, owner: str = "local", **parts: object
) -> tuple[Letter, list[Image]]:
    """What an owner's mailbox is told of some uploads."""
    letters = replace(town.courier.letters, **({"thumbnail": picture} | parts))
    await town.subscribe("ada@example.org", Channel.EMAIL, owner=owner)
    told = [
        stored(await commits.commit(arrival(filename=f"{number}.jpg", owner=owner, tags=("sea", "2026"))))
        for number in range(count)
    ]
    await town.another(letters=letters).drain()
    (letter,) = town.box.letters
    return letter, told


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html.partition("</head>")[2]))


async def test_a_mail_shows_the_picture_and_says_the_same_in_text_and_html(
    town: Town, commits: Commits
) -> None:
    letter, (image,) = await news(town, commits, owner="anna's shop")

    assert letter.subject == "Image uploaded: 0.jpg"
    assert [each.data for each in letter.pictures] == [PICTURE]
    assert '<img src="cid:image0" alt="0.jpg"' in letter.html
    # Its pixels are stored lying, and it is seen standing.
    for fact in ("0.jpg", "JPEG", "3000 x 4000 pixels", "2.0 MB", "anna's shop", "sea, 2026"):
        assert fact in letter.text
        assert fact in words_of(letter.html)
    assert letter.unsubscribe_url is not None
    for way in (letter.unsubscribe_url, LINK.findall(letter.text)[0][1]):
        assert way in letter.text
        assert way in unescape(letter.html)
    assert str(image.id) in letter.text


async def test_the_link_of_a_mail_opens_the_image_until_the_mail_says(town: Town, commits: Commits) -> None:
    letter, (image,) = await news(town, commits)

    ((image_id, expires, signature, rest),) = LINK.findall(letter.text)
    LINKS.verify(UUID(image_id), int(expires), signature)
    end = datetime.fromtimestamp(int(expires), UTC)
    assert (UUID(image_id), rest) == (image.id, "&disposition=inline")
    assert timedelta(minutes=59) < end - datetime.now(UTC) <= timedelta(hours=1)
    assert f"until {end.day} {end:%B %Y, %H:%M} UTC" in letter.text
    assert f"until {end.day} {end:%B %Y, %H:%M} UTC" in letter.html
    with pytest.raises(LinkInvalid):
        LINKS.verify(image.id, int(expires) + 1, signature)


async def test_the_link_to_an_image_in_a_bucket_is_ours_too_and_leads_on(
    town: Town, commits: Commits
) -> None:
    in_bucket = MailedLinks(LINKS, "http://here", 7 * 24 * 3600, in_bucket=True)

    letter, (image,) = await news(town, commits, links=in_bucket)

    ((_, expires, signature, rest),) = LINK.findall(letter.text)
    LINKS.verify(image.id, int(expires), signature)
    assert rest == "&disposition=inline&redirect=true"


async def test_of_many_each_has_its_link_and_its_facts(town: Town, commits: Commits) -> None:
    letter, told = await news(town, commits, 3)

    assert letter.subject == "3 images uploaded"
    assert [UUID(image_id) for image_id, *_ in LINK.findall(letter.text)] == [
        image.id for image in reversed(told)
    ]
    assert letter.text.count("3000 x 4000 pixels") == 3
    assert words_of(letter.html).count("3000 x 4000 pixels") == 3
    assert [each.name for each in letter.pictures] == ["image0", "image1", "image2"]


async def test_a_picture_that_takes_too_long_is_left_out_and_the_mail_goes(
    town: Town, commits: Commits
) -> None:
    async def slow(image: Image) -> bytes | None:
        if image.filename == "0.jpg":
            await asyncio.sleep(60)
        return PICTURE

    letter, told = await news(town, commits, 2, thumbnail=slow, pictures_seconds=0.5)

    assert [each.name for each in letter.pictures] == ["image0"]  # the newest comes first
    assert len(LINK.findall(letter.text)) == len(told)


async def test_an_image_that_is_gone_has_neither_a_link_nor_a_picture(town: Town, commits: Commits) -> None:
    async def thrown_away(image: Image) -> None:
        async with town.database.transaction("local") as tx:
            await images.trash(tx, "local", image.id)

    await town.subscribe("ada@example.org", Channel.EMAIL)
    await thrown_away(stored(await commits.commit(arrival())))
    await town.notifier.drain()

    (letter,) = town.box.letters
    assert "2 messages about images" in letter.text
    assert LINK.search(letter.text) is None
    assert "until" not in letter.text
