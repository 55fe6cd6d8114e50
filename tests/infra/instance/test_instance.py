"""The instance: from a bare Debian to a service that answers, hardened, replaced and taken back.

`make instance` runs it: it boots a machine, which takes root and a minute.
"""

import hashlib
import io
import json
import tarfile
import time
from pathlib import Path

import httpx
import pytest

from infra.instance.conftest import Estate
from pictures import picture
from tintype_infra.build import INSTANCE_FILES
from tintype_infra.service import AUTHORITIES

pytestmark = [pytest.mark.instance, pytest.mark.xdist_group("instance"), pytest.mark.timeout(900)]


def broken(bundle: Path) -> bytes:
    """A release with the right unit, whose program ends at once."""
    made = io.BytesIO()
    with tarfile.open(bundle) as whole, tarfile.open(fileobj=made, mode="w:gz") as archive:
        for entry in whole:
            if entry.name in INSTANCE_FILES:
                archive.addfile(entry, whole.extractfile(entry))
        for name, content in {
            "site/tintype/__init__.py": b"",
            "site/tintype/__main__.py": b"raise SystemExit('this release is broken')\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def key_of(estate: Estate) -> str:
    """An API key, made on the machine by the command that its operators have."""
    printed = estate.machine.run("tintype", "keys", "create", "--owner", "ada", "--scopes", "read,write")
    return next(word for word in printed.split() if word.startswith("tt_"))


def test_a_bare_debian_becomes_an_instance_and_every_release_can_be_taken_back(
    estate: Estate, built: tuple[str, Path]
) -> None:
    machine, (release, bundle) = estate.machine, built

    printed = estate.boot(release)

    assert "tintype: serving" in printed, printed
    # Operators come in by an agent that the image lacks; that it runs is all that can be seen here.
    assert printed.rstrip().endswith("operators can come in"), printed
    assert machine.run("systemctl", "is-active", "amazon-ssm-agent").strip() == "active"
    assert estate.aws.refused == []
    assert [(each["Status"], each["UniqueId"]) for each in estate.aws.signals] == [
        ("SUCCESS", "i-0123456789abcdef0")
    ]
    assert httpx.get(f"{estate.base}/readyz").json() == {"status": "ready", "degraded": {}}
    assert machine.run("cat", AUTHORITIES) == "no authority"

    # Every pixel is decoded in the cage, inside the unit's hardening; the bytes are in S3 by the role.
    with httpx.Client(base_url=estate.base, headers={"Authorization": f"Bearer {key_of(estate)}"}) as client:
        jpeg = picture("JPEG", seed=7701)
        sent = client.post("/v1/images", content=jpeg, headers={"Content-Type": "image/jpeg"})
        assert sent.status_code == 201, sent.text
        assert sent.json()["thumbhash"], "only a decoder knows it"
        assert client.get(sent.json()["url"], follow_redirects=True).content == jpeg
        place = client.get("/v1/instance").json()
        assert (place["instance_id"], place["platform"]) == ("i-0123456789abcdef0", "ec2")
    exposure = machine.run("systemd-analyze", "security", "--no-pager", "tintype").splitlines()[-1]
    print(exposure)  # noqa: T201 # for docs/aws.md
    assert float(exposure.split()[-3]) < 2

    # What it wrote is in CloudWatch, under the instance's name.
    ends = time.monotonic() + 30
    while not any('"request_id"' in line for line in estate.logged()):
        assert time.monotonic() < ends, machine.run("journalctl", "--no-pager", "-u", "tintype-logs")
        time.sleep(0.5)

    figures = json.loads(next(line for line in estate.logged() if '"_aws"' in line))
    assert figures["Stack"] == "tintype-small-service"
    assert 0 < figures["InstanceMemoryUsed"] < 100
    assert 0 < figures["InstanceDiskUsed"] < 100

    # A crash, and an order to restart.
    machine.run("systemctl", "kill", "--signal=SIGKILL", "tintype")
    machine.run("sh", "-c", wait_until_ready(estate.port))
    machine.run("systemctl", "restart", "tintype")
    machine.run("sh", "-c", wait_until_ready(estate.port))

    # A release that does not serve says so, with its log; the one before it can be put back.
    useless = broken(bundle)
    name = hashlib.sha256(useless).hexdigest()[:16]
    estate.s3.client().put_object(Bucket=estate.releases, Key=f"{name}.tar.gz", Body=useless)
    printed = estate.boot(name, check=False, ready_seconds=3)
    assert "this release is broken" in printed
    assert "not ready after 3 s" in printed
    assert estate.aws.signals[-1]["Status"] == "FAILURE"
    estate.boot(release)
    assert httpx.get(f"{estate.base}/readyz").status_code == 200
    assert estate.aws.signals[-1]["Status"] == "SUCCESS"
    assert estate.aws.refused == []

    # What is in the bucket under another release's name is not that release.
    estate.s3.client().put_object(Bucket=estate.releases, Key="0123456789abcdef.tar.gz", Body=useless)
    assert "the bundle is not release" in estate.boot("0123456789abcdef", check=False)
    assert httpx.get(f"{estate.base}/readyz").status_code == 200


def wait_until_ready(port: int) -> str:
    """Exits with 0 as soon as the service answers, within 20 s."""
    ask = f"curl -sf -o /dev/null http://127.0.0.1:{port}/readyz"
    return f"for _ in $(seq 200); do sleep 0.1; {ask} && exit 0; done; exit 1"
