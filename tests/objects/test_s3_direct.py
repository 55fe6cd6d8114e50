"""Uploads in parts to an S3 that fails: what it says is believed only when it is true."""

from dataclasses import replace

import pytest

from bodies import content
from scripted_s3 import Response, ScriptedS3, answers, bucket_settings, lose_answer, reset
from tintype.model.errors import StorageUnavailable
from tintype.model.ids import new_id
from tintype.objects.direct import Part
from tintype.objects.keys import direct_key
from tintype.objects.s3_direct import S3Direct

FAILED = Response(
    200, {}, b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>Try again</Message></Error>'
)


async def begun(s3: ScriptedS3, **changes: float) -> tuple[S3Direct, str, str]:
    """An upload in parts, with its one part already there."""
    direct, key = S3Direct(bucket_settings(s3, **changes)), direct_key(new_id())
    parts_id = await direct.begin_parts(key, "image/png")
    s3.uploads[parts_id] = {1: content(1000)}
    return direct, key, parts_id


async def test_a_completion_that_fails_behind_its_200_is_tried_again(s3: ScriptedS3) -> None:
    direct, key, parts_id = await begun(s3)
    s3.script("COMPLETE", answers(FAILED))

    await direct.complete_parts(key, parts_id, [Part(1, "1000")])

    assert s3.count("COMPLETE") == 2
    assert s3.objects[key].body == content(1000)


async def test_a_completion_that_fails_always_is_told_as_what_may_be_tried_again(s3: ScriptedS3) -> None:
    direct, key, parts_id = await begun(s3, max_retries=1)
    s3.always("COMPLETE", answers(replace(FAILED)))

    with pytest.raises(StorageUnavailable):
        await direct.complete_parts(key, parts_id, [Part(1, "1000")])

    assert key not in s3.objects


async def test_a_completion_whose_answer_was_lost_is_known_by_its_object(s3: ScriptedS3) -> None:
    direct, key, parts_id = await begun(s3)
    s3.script("COMPLETE", lose_answer)

    await direct.complete_parts(key, parts_id, [Part(1, "1000")])

    assert s3.objects[key].body == content(1000)


async def test_an_s3_that_hangs_up_is_not_available(s3: ScriptedS3) -> None:
    direct, key, parts_id = await begun(s3, max_retries=0)
    s3.always("COMPLETE", reset)

    with pytest.raises(StorageUnavailable):
        await direct.complete_parts(key, parts_id, [Part(1, "1000")])
