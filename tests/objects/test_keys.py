"""Keys: made of ids alone, and never a way out of the store."""

from pathlib import Path
from uuid import UUID

import pytest

from bodies import in_memory
from tintype.model.ids import new_id
from tintype.objects.keys import original_key, parse_original_key
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings


def test_a_key_is_sharded_by_the_last_byte_of_the_id() -> None:
    image_id = UUID("0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab")

    assert original_key(image_id) == "originals/ab/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab"


def test_a_key_tells_its_image() -> None:
    image_id = new_id()

    assert parse_original_key(original_key(image_id)) == image_id


@pytest.mark.parametrize(
    "key",
    [
        "originals/ab/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ac",  # another shard's
        "originals/AB/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab",
        "originals/ab/0192f1c48a547cc1b2a42f1e6d9c00ab",
        "originals/ab/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab/x",
        "renditions/ab/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab",
        "originals/ab/",
        "tintype.json",
    ],
)
def test_a_foreign_key_tells_none(key: str) -> None:
    assert parse_original_key(key) is None


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a\0b", "é", "a b", "a\n", "metadata/a"]
)
async def test_a_key_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    objects = Objects.open(ObjectsSettings(), tmp_path)

    with pytest.raises(ValueError, match="not a key"):
        await objects.put(key, in_memory(b"x"), content_type="image/png", metadata={})


async def test_a_prefix_is_whole_segments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slash"):
        Objects.open(ObjectsSettings(), tmp_path).list("orig")
