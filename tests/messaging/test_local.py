"""Publishing to a folder: what lies there, and what the log says."""

import json
from pathlib import Path

from structlog.testing import capture_logs

from happenings import message, messages
from tintype.messaging.local import LocalPublisher


def contents(outbox: Path) -> dict[str, object]:
    return {path.name: json.loads(path.read_text()) for path in outbox.iterdir()}


async def test_names_sort_as_the_log_does_and_tell_the_event(tmp_path: Path) -> None:
    told = [message(position) for position in (2, 10, 1_000_000)]

    await LocalPublisher(tmp_path / "outbox").publish(told)

    assert sorted(contents(tmp_path / "outbox")) == [
        f"000000000002-{told[0].id}.json",
        f"000000000010-{told[1].id}.json",
        f"000001000000-{told[2].id}.json",
    ]


async def test_publishing_again_leaves_one_file_and_no_rubbish(tmp_path: Path) -> None:
    told = message()
    publisher = LocalPublisher(tmp_path)

    await publisher.publish([told])
    await publisher.publish([told])

    assert contents(tmp_path) == {f"000000000001-{told.id}.json": json.loads(told.default)}


async def test_the_log_has_one_line_for_each_event_and_no_file_names(tmp_path: Path) -> None:
    told = messages(2)

    with capture_logs() as lines:
        await LocalPublisher(tmp_path).publish(told)

    assert lines == [
        {
            "event": "event.published",
            "log_level": "info",
            "kind": "image.uploaded",
            "event_id": str(each.id),
            "position": each.position,
        }
        for each in told
    ]


async def test_what_is_refused_is_not_logged_as_published(tmp_path: Path) -> None:
    unlucky, lucky = messages(2)
    (tmp_path / f"{unlucky.position:012d}-{unlucky.id}.json").mkdir()

    with capture_logs() as lines:
        report = await LocalPublisher(tmp_path).publish([unlucky, lucky])

    assert [line["position"] for line in lines] == [2]
    assert "Is a directory" in report.refused[1]
