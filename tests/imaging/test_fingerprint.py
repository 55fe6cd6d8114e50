"""Placeholder and hash follow their published forms, so that others can read them."""

import numpy as np
import numpy.typing as npt
import pytest

from tintype.imaging.worker.fingerprint import fingerprint, upright

Pixels = npt.NDArray[np.uint8]


def soft(width: int, height: int, *, seed: int, transparent: bool = False) -> Pixels:
    """Return a picture with soft shapes, as photographs have them."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, 3, (height, width, 4)).cumsum(0).cumsum(1) / 6 + random.uniform(40, 200, 4)
    pixels = np.clip(steps, 0, 255).astype(np.uint8)
    if not transparent:
        pixels[..., 3] = 255
    return pixels


def pattern(width: int, height: int, *, transparent: bool) -> Pixels:
    """Return a picture by a formula that any language can repeat."""
    y, x = np.mgrid[0:height, 0:width]
    alpha = 255 - (x + 2 * y) * transparent
    return (np.stack([x * 5 + y, y * 3 + 40, x * y // 4 + 90, alpha], -1) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "transparent", "expected"),
    [
        (100, 75, False, "21e8052d9286337a6057797577887775857055f8a6"),
        (33, 100, False, "9f170a2a147274077778888381941037f7"),
        (1, 1, False, "cbb5158f1408f708888788708f7088f80888707ff8f7870f"),
        (1, 100, False, "d57729292208876898888887a884705fc8"),
        (99, 2, False, "95a70a118a63907a87877888506c088577"),
        (64, 64, False, "dfd7092f1217878560968677876887798787770187076f07"),
        (100, 75, True, "df0786148828763150466477570745747fdb88f88777878807"),
        (40, 90, True, "9f07861a0a29615307875781620096d579787f88878888"),
    ],
)
def test_a_thumbhash_is_the_one_of_its_inventors_encoder(
    width: int, height: int, *, transparent: bool, expected: str
) -> None:
    found = fingerprint(pattern(width, height, transparent=transparent), 1).thumbhash.hex()

    # A wave that is not there lies between two values; sums decide which. All else is equal.
    assert found[:10] == expected[:10]
    assert len(found) == len(expected)
    assert max(abs(int(one, 16) - int(other, 16)) for one, other in zip(found, expected, strict=True)) <= 1


def test_a_picture_of_one_colour_has_a_fingerprint_without_noise() -> None:
    one = np.full((75, 100, 4), (200, 30, 90, 255), np.uint8)

    found = fingerprint(one, 1)

    assert found == fingerprint(one, 6 if one.shape[0] == one.shape[1] else 3)
    assert found.dominant_color == "#c81e5a"
    assert found.phash == -(1 << 63)
    assert set(found.thumbhash[5:]) == {0}


def test_the_dominant_colour_is_the_one_of_most_pixels() -> None:
    pixels = soft(100, 100, seed=8)
    pixels[:60] = (16, 120, 240, 255)

    assert fingerprint(pixels, 1).dominant_color == "#1078f0"


def test_the_hash_has_the_sign_of_each_low_frequency() -> None:
    pixels = soft(64, 64, seed=2)
    grey = pixels[..., :3] @ [0.299, 0.587, 0.114]
    small = grey.reshape(32, 2, 32, 2).mean((1, 3))
    waves = np.array(
        [
            [
                (
                    small
                    * np.outer(
                        np.cos(np.pi * y * (np.arange(32) + 0.5) / 32),
                        np.cos(np.pi * x * (np.arange(32) + 0.5) / 32),
                    )
                ).sum()
                for x in range(8)
            ]
            for y in range(8)
        ]
    )
    expected = int("".join("1" if each else "0" for each in (waves > np.median(waves)).ravel()), 2)

    assert fingerprint(pixels, 1).phash & (1 << 64) - 1 == expected


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2], [3, 4]]),
        (2, [[2, 1], [4, 3]]),
        (3, [[4, 3], [2, 1]]),
        (4, [[3, 4], [1, 2]]),
        (5, [[1, 3], [2, 4]]),
        (6, [[3, 1], [4, 2]]),
        (7, [[4, 2], [3, 1]]),
        (8, [[2, 4], [1, 3]]),
    ],
)
def test_each_orientation_is_turned_upright(orientation: int, expected: list[list[int]]) -> None:
    pixels = np.array([[[1] * 4, [2] * 4], [[3] * 4, [4] * 4]], np.uint8)

    assert upright(pixels, orientation)[..., 0].tolist() == expected
