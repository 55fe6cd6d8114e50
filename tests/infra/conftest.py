"""Templates, synthesized once for the whole run: a small stage, a serious one, and the pipeline of both."""

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest

from tintype_infra.app import build
from tintype_infra.stacks import Release
from tintype_infra.stages import Estate

Template = dict[str, Any]

ACCOUNT = "123456789012"
TABLES = {
    "stage": {
        "small": {
            "name": "small",
            "account": ACCOUNT,
            "region": "us-east-1",
            "plain_http": True,
            "keep": False,
        },
        "serious": {
            "name": "serious",
            "account": ACCOUNT,
            "region": "eu-central-1",
            "certificate_arn": f"arn:aws:acm:eu-central-1:{ACCOUNT}:certificate/11111111-2222",
            "public_url": "https://images.example.com",
            "cors_origins": ["https://shop.example.com"],
            "egress": "nat-per-zone",
            "instance_type": "t3.small",
            "database_class": "t4g.small",
            "database_multi_az": True,
            "requests_per_address": 2000,
            "operator_email": "operators@example.com",
            "mail_from": "images@example.com",
        },
    },
    "delivery": {
        "account": ACCOUNT,
        "region": "eu-central-1",
        "repository": "example/tintype",
        "connection_arn": f"arn:aws:codeconnections:eu-central-1:{ACCOUNT}:connection/1",
    },
}


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> cdk.App:
    """The application of both stages; its release is of two files that nobody unpacks."""
    built = tmp_path_factory.mktemp("built")
    (built / "bundle.tar.gz").write_bytes(b"bundle")
    # The least that is a zip archive: its empty directory.
    (built / "functions.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    release = Release("0123456789abcdef", built / "bundle.tar.gz", built / "functions.zip")
    return build(Estate.model_validate_json(json.dumps(TABLES)), release, tmp_path_factory.mktemp("cdk.out"))


@pytest.fixture(scope="session")
def written(application: cdk.App) -> Path:
    """The folder of the templates."""
    application.synth()
    return Path(application.outdir)


@pytest.fixture(scope="session")
def templates(written: Path) -> dict[str, Template]:
    """The templates of both stages and of the pipeline: `small-data`, `small-service` and so on."""
    return {
        "small-data": _template(written, "assembly-small/smallData*"),
        "small-service": _template(written, "assembly-small/smallService*"),
        "serious-data": _template(written, "assembly-serious/seriousData*"),
        "serious-service": _template(written, "assembly-serious/seriousService*"),
        "delivery": _template(written, "Delivery"),
    }


def _template(written: Path, pattern: str) -> Template:
    (path,) = written.glob(f"{pattern}.template.json")
    return json.loads(path.read_text(encoding="utf-8"))
