"""What `tintype deploy` says before it does anything, for everything that can be missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from tintype_infra.deploy import CannotDeploy, losses, main, preflight, refuse_losses
from tintype_infra.stages import Delivery, Stage

pytestmark = pytest.mark.xdist_group("infra")

ACCOUNT = "123456789012"
TRIAL = {"name": "trial", "account": ACCOUNT, "region": "us-east-1", "plain_http": True}
BUCKET: dict[str, Any] = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "images"}}
DATABASE: dict[str, Any] = {"Type": "AWS::RDS::DBInstance", "Properties": {"StorageEncrypted": True}}

Api = Callable[[str], Any]


@pytest.fixture
def api(moto_url: str, aws_credentials: None) -> Api:  # noqa: ARG001 # in the environment
    return lambda service: boto3.client(service, region_name="us-east-1", endpoint_url=moto_url)


def test_credentials_of_another_account_are_named(api: Api) -> None:
    stage = Stage.model_validate(TRIAL | {"account": "999999999999"})

    (said,) = preflight(api, stage)

    assert ACCOUNT in said
    assert "999999999999" in said


def test_an_account_that_was_never_bootstrapped_is_told_how(api: Api) -> None:
    (said,) = [one for one in preflight(api, Stage.model_validate(TRIAL)) if "made ready" in one]

    assert "tintype deploy --bootstrap" in said


def test_a_certificate_that_is_not_there_is_named(api: Api) -> None:
    arn = f"arn:aws:acm:us-east-1:{ACCOUNT}:certificate/none"
    stage = Stage.model_validate(TRIAL | {"plain_http": False, "certificate_arn": arn})

    assert any(arn in one for one in preflight(api, stage, bootstrapped=False))


def test_a_connection_that_cannot_be_seen_is_named(api: Api) -> None:
    arn = f"arn:aws:codeconnections:us-east-1:{ACCOUNT}:connection/none"
    delivery = Delivery(account=ACCOUNT, region="us-east-1", repository="example/tintype", connection_arn=arn)

    assert any(arn in one for one in preflight(api, delivery, bootstrapped=False))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "Images (AWS::S3::Bucket) would be removed"),
        (
            {"Images": {**BUCKET, "Properties": {"BucketName": "others"}}},
            "Images (AWS::S3::Bucket) would be replaced, as `BucketName` changes",
        ),
        ({"Images": {**DATABASE}}, "Images (AWS::S3::Bucket) would be removed"),
    ],
)
def test_the_loss_of_a_bucket_is_seen_before_it_happens(wanted: dict[str, Any], said: str) -> None:
    assert [*losses({"Resources": {"Images": BUCKET}}, {"Resources": wanted})] == [said]


def test_a_database_that_would_be_replaced_is_refused_without_an_explicit_word(api: Api) -> None:
    stack = f"tintype-{uuid4()}-data"
    api("cloudformation").create_stack(
        StackName=stack,
        TemplateBody='{"Resources": {"Images": {"Type": "AWS::S3::Bucket", "Properties": {}}}}',
    )

    refuse_losses(api, [(stack, {"Resources": {"Images": {**BUCKET, "Properties": {}}}})])
    with pytest.raises(CannotDeploy, match="--lose-data"):
        refuse_losses(api, [(stack, {"Resources": {}})])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "`stage`"),
        ("[stage.other]\naccount = '123456789012'\nregion = 'us-east-1'\nplain_http = true", "'trial'"),
        ("[stage.trial]\naccount = '12'\nregion = 'us-east-1'\nplain_http = true", "account"),
        ("[stage.trial]\naccount = '123456789012'\nregion = 'us-east-1'", "certificate_arn"),
        ("[stage.trial\n", "not TOML"),
    ],
)
def test_wrong_decisions_stop_with_a_sentence_that_names_the_field(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stages.toml").write_text(text)

    assert main(["--stage", "trial", "--stages", str(tmp_path / "stages.toml")]) == 1
    assert said in capsys.readouterr().err
