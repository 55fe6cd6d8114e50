"""The made-up listing and the rows are of the same images, but for what is planted to differ."""

from tintype.objects.keys import original_key
from tintype_bench.scale import SHARDS, Synthetic, planted, rows

COUNT = 256_000


async def test_both_sides_differ_in_what_was_planted_and_in_nothing_else() -> None:
    listed = [
        entry
        for shard in range(SHARDS)
        async for page in Synthetic(COUNT).entries(f"originals/{shard:02x}/")
        for entry in page
    ]
    of_rows = {(original_key(image_id), "etag") for image_id in rows(COUNT)}

    keys = [key for key, _, _ in listed]
    assert keys == sorted(keys)
    differing = {key for key, _ in {(key, etag) for key, _, etag in listed} ^ of_rows}
    assert len(differing) == planted(COUNT) == 6


async def test_the_listing_goes_on_behind_a_key() -> None:
    first, *rest = [page async for page in Synthetic(COUNT).entries("originals/07/")]

    behind = [page async for page in Synthetic(COUNT).entries("originals/07/", first[-1][0])]

    assert behind == rest
