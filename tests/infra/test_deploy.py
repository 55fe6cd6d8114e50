"""A deployment that ran: the real CDK, every stack, and an emulator that fails for what it cannot make."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from botocore.exceptions import ClientError

from deployed import Deployed, resources_of
from infra.conftest import TABLES
from pictures import picture
from service import Service
from tintype_infra.deploy import main

pytestmark = [pytest.mark.xdist_group("infra"), pytest.mark.timeout(400)]

NOT_MADE = {
    # Only CloudFormation itself knows these: the API has no such thing.
    "AWS::CodePipeline::Pipeline RestartExecutionOnUpdate",
    "AWS::Lambda::EventInvokeConfig Qualifier",
    "AWS::RDS::DBInstance DeleteAutomatedBackups",
    # Of the bucket that `cdk bootstrap` makes.
    "AWS::S3::Bucket AccessControl",
    # moto wants an access list on the bucket of logs, which AWS has replaced by the policy that we have.
    "AWS::S3::Bucket LoggingConfiguration",
}
"""What a template asks for and the emulator does not make. It can only become shorter."""


def test_every_resource_of_every_stack_is_made(deployed: Deployed) -> None:
    for stack, types in resources_of(deployed.templates).items():
        formation = deployed.api(
            "cloudformation", "serious" if "serious" in stack or stack.endswith("delivery") else "small"
        )
        made = formation.describe_stack_resources(StackName=stack)["StackResources"]
        assert sorted(one["ResourceType"] for one in made) == types, stack
        assert {one["ResourceStatus"] for one in made} == {"CREATE_COMPLETE"}


def test_nothing_was_left_out_in_silence(deployed: Deployed) -> None:
    left = json.loads((deployed.folder / "left.json").read_text())
    assert left["failures"] == []
    assert set(left["properties"]) == NOT_MADE


def test_a_second_look_finds_no_difference(deployed: Deployed) -> None:
    said = deployed.cdk("diff", "**", "--app", str(deployed.templates), "--method", "template")

    assert "Number of stacks with differences: 0" in said, said


def test_the_one_command_looks_around_deploys_and_says_where_tintype_serves(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All is there already, so that nothing is left to change."""
    for name, value in deployed.environment.items():
        monkeypatch.setenv(name, value)
    stages = tmp_path / "stages.toml"
    small = TABLES["stage"]["small"].items()
    stages.write_text(
        "\n".join(["[stage.small]", *(f"{name} = {json.dumps(value)}" for name, value in small)])
    )

    asked = ["--stage", "small", "--yes", "--stages", str(stages), "--templates", str(deployed.templates)]
    assert main(asked) == 0, capfd.readouterr()

    url = next(value for name, value in deployed.outputs("small-service").items() if "Url" in name)
    assert capfd.readouterr().out.endswith(f"Tintype serves on {url}\n")


# --- read back through AWS's own API ------------------------------------------------------------------------


def test_the_database_is_private_encrypted_and_keeps_its_masters_password_to_itself(
    deployed: Deployed,
) -> None:
    (database,) = deployed.api("rds").describe_db_instances()["DBInstances"]

    assert database["PubliclyAccessible"] is False
    assert database["StorageEncrypted"] is True
    assert database["IAMDatabaseAuthenticationEnabled"] is True
    assert database["MasterUserSecret"]["SecretArn"] == deployed.outputs("small-data")["DatabaseSecret"]
    serious = deployed.api("rds", "serious").describe_db_instances()["DBInstances"][0]
    assert (serious["MultiAZ"], serious["DeletionProtection"]) == (True, True)


def test_the_bucket_is_closed_versioned_and_tells_the_queue_of_direct_uploads(deployed: Deployed) -> None:
    s3, bucket = deployed.api("s3"), deployed.outputs("small-data")["ImagesBucket"]

    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert all(blocked.values())
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (told,) = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    queue = deployed.outputs("small-data")["CompletionsQueue"]
    assert told["QueueArn"].rpartition(":")[2] == queue.rpartition("/")[2]
    expiring = {
        rule["Filter"]["Prefix"]
        for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        if "Days" in rule.get("Expiration", {})
    }
    assert expiring == {"incoming/", "quarantine/"}


def test_every_instance_stands_behind_the_balancer_in_a_private_subnet(deployed: Deployed) -> None:
    (group,) = deployed.api("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    elb = deployed.api("elbv2")
    (target,) = elb.describe_target_groups()["TargetGroups"]
    behind = elb.describe_target_health(TargetGroupArn=target["TargetGroupArn"])["TargetHealthDescriptions"]
    ec2 = deployed.api("ec2")
    subnets = {one["SubnetId"]: one for one in ec2.describe_subnets()["Subnets"]}
    instances = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]

    assert len(group["Instances"]) == 2
    assert {one["Target"]["Id"] for one in behind} == {one["InstanceId"] for one in instances}
    assert {one["InstanceType"] for one in instances} == {"t2.small"}
    assert not any(subnets[one["SubnetId"]]["MapPublicIpOnLaunch"] for one in instances)
    # moto starts all of them in one of the two.
    assert {subnets[one]["AvailabilityZone"] for one in group["VPCZoneIdentifier"].split(",")} == {
        "us-east-1a",
        "us-east-1b",
    }


def test_every_queue_for_work_ends_in_a_dead_letter_queue_and_wakes_a_function(deployed: Deployed) -> None:
    sqs = deployed.api("sqs")
    sources = deployed.api("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert {tuple(one["FunctionResponseTypes"]) for one in sources} == {("ReportBatchItemFailures",)}
    for name in ("CompletionsQueue", "DeliveriesQueue"):
        url = deployed.outputs("small-data")[name]
        about = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert json.loads(about["RedrivePolicy"])["maxReceiveCount"] == 5
        assert about["QueueArn"] in {one["EventSourceArn"] for one in sources}


def test_the_pipeline_takes_a_failed_release_back(deployed: Deployed) -> None:
    pipeline = deployed.api("codepipeline", "serious").get_pipeline(name="tintype")["pipeline"]

    stages = {one["name"]: one for one in pipeline["stages"]}
    assert [*stages] == ["Source", "Build", "UpdatePipeline", "Assets", "small", "serious"]
    alarms = {one["AlarmName"] for one in deployed.api("cloudwatch").describe_alarms()["MetricAlarms"]}
    for stage in ("small", "serious"):
        assert stages[stage]["onFailure"] == {"result": "ROLLBACK"}
        (condition,) = stages[stage]["onSuccess"]["conditions"]
        watched = {rule["configuration"]["AlarmName"] for rule in condition["rules"]}
        assert len(watched) == 3
        assert watched <= alarms or stage == "serious"


def test_the_schema_is_there_with_logins_that_own_nothing(deployed: Deployed) -> None:
    with psycopg.connect(deployed.database_url) as connection:
        found = connection.execute(
            "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles "
            "WHERE rolname IN ('tintype_service', 'tintype_functions') ORDER BY rolname"
        ).fetchall()
        assert found == [("tintype_functions", False), ("tintype_service", False)]
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (0,)


# --- what the roles may do ----------------------------------------------------------------------------------


def refused(work: Callable[[], Any]) -> bool:
    try:
        work()
    except ClientError as error:
        assert error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403, error  # noqa: PT017 # or it is no refusal
        return True
    return False


def test_the_roles_may_do_what_they_need_and_nothing_else(deployed: Deployed) -> None:
    bucket = deployed.outputs("small-data")["ImagesBucket"]
    topic = deployed.outputs("small-data")["EventsTopic"]
    secret = deployed.outputs("small-data")["DatabaseSecret"]
    queue = deployed.outputs("small-data")["CompletionsQueue"]
    roles = {
        name: deployed.as_role(name)
        for name in ("ServiceRole", "FunctionsConsistency", "SchemaMigrateRole", "FunctionsNotifier")
    }
    deployed.ask_for_rights(wanted=True)
    try:
        mine = {
            role: {name: deployed.api(name, **keys) for name in ("s3", "sns", "sqs", "ec2", "secretsmanager")}
            for role, keys in roles.items()
        }
        instance, checker, migrator, notifier = (mine[one] for one in roles)
        put = instance["s3"].put_object
        assert not refused(lambda: put(Bucket=bucket, Key="originals/00/a", Body=b"1"))
        assert not refused(lambda: put(Bucket=bucket, Key="originals/00/b", Body=b"1"))
        assert not refused(lambda: put(Bucket=bucket, Key="incoming/a/b", Body=b"1"))
        assert not refused(lambda: instance["s3"].get_object(Bucket=bucket, Key="originals/00/a"))
        assert not refused(lambda: instance["s3"].delete_object(Bucket=bucket, Key="incoming/a/b"))
        assert not refused(lambda: instance["sns"].publish(TopicArn=topic, Message="x"))
        assert refused(lambda: put(Bucket=bucket, Key="elsewhere/a", Body=b"1"))
        assert refused(lambda: put(Bucket=bucket, Key="quarantine/a", Body=b"1"))
        assert refused(lambda: instance["s3"].delete_object(Bucket=bucket, Key="originals/00/a"))
        assert refused(lambda: instance["s3"].delete_bucket(Bucket=bucket))
        assert refused(lambda: instance["s3"].put_bucket_policy(Bucket=bucket, Policy="{}"))
        assert refused(lambda: instance["sqs"].receive_message(QueueUrl=queue))
        assert refused(lambda: instance["secretsmanager"].get_secret_value(SecretId=secret))
        assert refused(lambda: instance["ec2"].terminate_instances(InstanceIds=["i-1"]))
        assert not refused(lambda: migrator["secretsmanager"].get_secret_value(SecretId=secret))
        assert refused(lambda: migrator["sns"].publish(TopicArn=topic, Message="x"))
        assert not refused(lambda: checker["s3"].get_object(Bucket=bucket, Key="originals/00/a"))
        assert not refused(lambda: checker["s3"].delete_object(Bucket=bucket, Key="originals/00/a"))
        assert refused(
            lambda: checker["s3"].delete_object(Bucket=bucket, Key="originals/00/a", VersionId="null")
        )
        assert refused(lambda: checker["secretsmanager"].get_secret_value(SecretId=secret))
        assert refused(lambda: checker["sns"].publish(TopicArn=topic, Message="x"))
        assert not refused(lambda: notifier["sns"].publish(TopicArn=topic, Message="x"))
        assert not refused(lambda: notifier["s3"].get_object(Bucket=bucket, Key="originals/00/b"))
        assert refused(lambda: notifier["s3"].put_object(Bucket=bucket, Key="originals/00/c", Body=b"1"))
        assert refused(lambda: notifier["s3"].delete_object(Bucket=bucket, Key="originals/00/b"))
        assert not refused(lambda: checker["s3"].delete_object(Bucket=bucket, Key="originals/00/b"))
    finally:
        deployed.ask_for_rights(wanted=False)


# --- and the application runs on it -------------------------------------------------------------------------


def test_an_upload_through_the_api_leaves_object_row_and_notification(
    deployed: Deployed, serve: Callable[..., Service]
) -> None:
    """With the settings that the launch template writes, and with the rights of the instances' role."""
    told = deployed.settings_of_an_instance()
    keys = {name.upper(): value for name, value in deployed.as_role("ServiceRole").items()}
    # What stands elsewhere than on AWS: addresses, and a database without TLS that asks for no token.
    here = {
        "TINTYPE_HOST": "127.0.0.1",
        "TINTYPE_DATABASE__URL": deployed.database_url.replace("tintype_migrator@", "tintype_service@"),
        "TINTYPE_OBJECTS__ENDPOINT": deployed.url,
        "TINTYPE_EVENTS__ENDPOINT": deployed.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "TINTYPE_IMAGING__INSPECT": "header",
    }
    elsewhere = {"TINTYPE_PORT", "TINTYPE_DATA_DIR", "TINTYPE_DATABASE__IAM_REGION"}
    settings = {name: value for name, value in told.items() if name not in elsewhere}
    deployed.ask_for_rights(wanted=True)
    try:
        service = serve(**settings | here | keys)
        key = _key(service)
        with httpx.Client(base_url=service.base, headers={"Authorization": f"Bearer {key}"}) as client:
            assert client.get("/readyz").json()["status"] == "ready"
            sent = client.post(
                "/v1/images", content=picture(seed=7), headers={"Content-Type": "image/png"}, timeout=60
            )
        assert sent.status_code == 201, sent.text
        _await_publication(deployed, service)
    finally:
        deployed.ask_for_rights(wanted=False)
    image = sent.json()
    message = _message(deployed, image["id"])

    listed = deployed.api("s3").list_objects_v2(
        Bucket=deployed.outputs("small-data")["ImagesBucket"], Prefix="originals/"
    )
    assert image["id"] in {one["Key"].rpartition("/")[2] for one in listed["Contents"]}
    with psycopg.connect(deployed.database_url) as connection:
        connection.execute("SET ROLE tintype_worker")
        rows = connection.execute(
            "SELECT position FROM images JOIN events ON image_id = images.id WHERE images.id = %s",
            [image["id"]],
        )
        assert rows.fetchall() == [(message["position"],)]  # what the function notifier goes by


def _key(service: Service) -> str:
    made = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "tintype"), "keys", "create"),
            *("--owner", "somebody", "--scopes", "read,write"),
        ],
        env={"PATH": os.environ["PATH"]} | service.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def _await_publication(deployed: Deployed, service: Service) -> None:
    with psycopg.connect(deployed.database_url, autocommit=True) as connection:
        connection.execute("SET ROLE tintype_worker")
        for _ in range(100):
            (left,) = connection.execute(
                "SELECT count(*) FROM events WHERE published_at IS NULL"
            ).fetchone() or (1,)
            if not left:
                return
            time.sleep(0.1)
    raise AssertionError(service.output)


def _message(deployed: Deployed, image_id: str) -> dict[str, Any]:
    """What the topic told the queue of deliveries of an image."""
    sqs, queue = deployed.api("sqs"), deployed.outputs("small-data")["DeliveriesQueue"]
    for _ in range(20):
        for found in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", []):
            if image_id in found["Body"]:
                return json.loads(found["Body"])
    raise AssertionError("the queue of deliveries heard nothing")
