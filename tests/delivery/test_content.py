"""Content: which bytes go out, and when none do."""

import pytest

from happenings import image
from tintype.delivery.content import Conditions, require_ready, select
from tintype.model.errors import RangeNotSatisfiable, StorageUnavailable
from tintype.model.image import State


@pytest.mark.parametrize("state", [State.MISSING, State.CORRUPT])
def test_bytes_that_a_check_found_lost_or_changed_are_not_delivered(state: State) -> None:
    with pytest.raises(StorageUnavailable, match=state.value):
        require_ready(image(state=state))
    require_ready(image(state=State.READY))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-", 5, 100), ("bytes=-7", 93, 100), ("bytes=-500", 0, 100)],
)
def test_a_range_is_cut_to_what_there_is(asked: str, start: int, end: int) -> None:
    selection = select(image(size=100), Conditions(range=asked))

    assert (selection.partial, selection.start, selection.end) == (True, start, end)


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=-0", "bytes=999-1000"])
def test_a_range_beyond_the_end_is_refused(asked: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        select(image(size=100), Conditions(range=asked))


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "lines=1-2", "bytes=1-2,4-5", "bytes=9-3", "bytes=a-b"]
)
def test_a_range_that_is_none_is_answered_with_everything(asked: str) -> None:
    assert not select(image(size=100), Conditions(range=asked)).partial
