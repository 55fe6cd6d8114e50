"""An S3 whose disk stands still in the middle of a PUT: what it ends up with is settled by the check."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pictures import picture
from s3_servers import S3Server
from service import Service
from tintype.settings import ObjectsSettings

pytestmark = pytest.mark.real_s3

GRACE_SECONDS = 5
IMPATIENT = {
    "TINTYPE_OBJECTS__TIMEOUT_SECONDS": "5",
    "TINTYPE_OBJECTS__MAX_RETRIES": "1",
    "TINTYPE_OBJECTS__RETRY_TIMEOUT_SECONDS": "5",
    "TINTYPE_IMAGING__INSPECT": "header",
}


def in_bucket(settings: ObjectsSettings) -> dict[str, str]:
    assert settings.access_key_id is not None
    assert settings.secret_access_key is not None
    return {
        "TINTYPE_OBJECTS__URL": str(settings.url),
        "TINTYPE_OBJECTS__ENDPOINT": str(settings.endpoint),
        "TINTYPE_OBJECTS__ACCESS_KEY_ID": settings.access_key_id.get_secret_value(),
        "TINTYPE_OBJECTS__SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
    }


def check(service: Service, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `tintype check` on what the stopped service has left, as if the orphan had grown old."""
    young = {
        "TINTYPE_CONSISTENCY__GRACE_SECONDS": str(GRACE_SECONDS),
        "TINTYPE_DATABASE__ATTEMPT_SECONDS": "1",
        "TINTYPE_DATABASE__STATEMENT_TIMEOUT_SECONDS": "2",
    }
    return subprocess.run(
        [Path(sys.executable).parent / "tintype", "check", "--data-dir", service.data_dir, *words],
        env={"PATH": os.environ["PATH"]} | service.environment | young,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_put_that_ends_after_its_answer_leaves_an_orphan_that_the_check_puts_aside(
    radosgw_s3: S3Server, serve: Callable[..., Service]
) -> None:
    bucket = radosgw_s3.new_bucket()
    name = str(bucket.url).removeprefix("s3://")
    service = serve(**in_bucket(bucket), **IMPATIENT)

    def keys(prefix: str) -> list[str]:
        listed = radosgw_s3.client().list_objects_v2(Bucket=name, Prefix=prefix)
        return [one.get("Key", "") for one in listed.get("Contents", [])]

    with service.client() as client:
        headers = {"Content-Type": "image/png"}
        assert client.post("/v1/images", content=picture(seed=9101), headers=headers).status_code == 201
        acknowledged = keys("originals/")
        with radosgw_s3.without_its_disk():
            answer = client.post("/v1/images", content=picture(seed=9102), headers=headers)
        # Whether it is there nobody knows: nothing is said, and nothing is taken away.
        assert answer.status_code == 503, answer.text
        assert len(client.get("/v1/images").json()["data"]) == 1
    ends = time.monotonic() + 30
    while len(keys("originals/")) < 2:
        assert time.monotonic() < ends, "the PUT never came to its end"
        time.sleep(0.2)
    service.stop()
    time.sleep(GRACE_SECONDS)

    repaired = check(service, "--repair")

    assert (repaired.returncode, "object_without_row" in repaired.stdout) == (0, True), repaired
    assert keys("originals/") == acknowledged
    (aside,) = keys("quarantine/")
    kept = radosgw_s3.client().get_object(Bucket=name, Key=aside)["Body"].read()
    assert kept == picture(seed=9102)
    assert check(service).returncode == 0
