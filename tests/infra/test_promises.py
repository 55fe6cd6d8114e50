"""What the templates promise, whatever the stage."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest

from infra.conftest import TABLES, Template
from npm import NODE, installed_packages
from tintype_infra import nag
from tintype_infra.app import FLAGS
from tintype_infra.network import Network
from tintype_infra.stages import Stage

pytestmark = pytest.mark.xdist_group("infra")

STAGES = ("small", "serious")
INFRA = Path(__file__).parents[2] / "infra"


def of_type(template: Template, kind: str) -> list[dict[str, Any]]:
    return [one for one in template["Resources"].values() if one["Type"] == kind]


def properties(template: Template, kind: str) -> list[dict[str, Any]]:
    return [one.get("Properties", {}) for one in of_type(template, kind)]


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy of a role, with the role's logical id."""
    for name, one in template["Resources"].items():
        own = one.get("Properties", {})
        if one["Type"] == "AWS::IAM::Policy":
            for role in own["Roles"]:
                yield from ((role["Ref"], each) for each in own["PolicyDocument"]["Statement"])
        elif one["Type"] == "AWS::IAM::Role":
            for policy in own.get("Policies", ()):
                yield from ((name, each) for each in policy["PolicyDocument"]["Statement"])


def actions(statement: dict[str, Any]) -> set[str]:
    found = statement["Action"]
    return {found} if isinstance(found, str) else set(found)


@pytest.mark.parametrize("stage", STAGES)
def test_no_bucket_is_public_and_all_are_encrypted(templates: dict[str, Template], stage: str) -> None:
    buckets = properties(templates[f"{stage}-data"], "AWS::S3::Bucket")
    assert buckets
    for bucket in buckets:
        assert bucket["PublicAccessBlockConfiguration"] == {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        }
        assert bucket["BucketEncryption"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_bucket_topic_and_queue_refuses_plain_http(templates: dict[str, Template], stage: str) -> None:
    data = templates[f"{stage}-data"]
    for kind, policy, names in (
        ("AWS::S3::Bucket", "AWS::S3::BucketPolicy", "Bucket"),
        ("AWS::SQS::Queue", "AWS::SQS::QueuePolicy", "Queues"),
        ("AWS::SNS::Topic", "AWS::SNS::TopicPolicy", "Topics"),
    ):
        guarded = [
            json.dumps(one[names])
            for one in properties(data, policy)
            if any(
                each["Effect"] == "Deny"
                and each.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") == "false"
                for each in one["PolicyDocument"]["Statement"]
            )
        ]
        for name, one in data["Resources"].items():
            if one["Type"] == kind:
                assert any(name in each for each in guarded), f"{name} may be reached without TLS"


@pytest.mark.parametrize("stage", STAGES)
def test_originals_never_expire_and_what_is_unfinished_does(
    templates: dict[str, Template], stage: str
) -> None:
    rules = [
        rule
        for bucket in properties(templates[f"{stage}-data"], "AWS::S3::Bucket")
        if "VersioningConfiguration" in bucket
        for rule in bucket["LifecycleConfiguration"]["Rules"]
    ]
    expiring = {rule.get("Prefix", "") for rule in rules if "ExpirationInDays" in rule}
    assert expiring == {"incoming/", "quarantine/"}
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


@pytest.mark.parametrize("stage", STAGES)
def test_the_database_is_private_encrypted_backed_up_and_has_no_password_in_the_template(
    templates: dict[str, Template], stage: str
) -> None:
    (database,) = properties(templates[f"{stage}-data"], "AWS::RDS::DBInstance")
    assert database["PubliclyAccessible"] is False
    assert database["StorageEncrypted"] is True
    assert database["BackupRetentionPeriod"] >= 7
    assert database["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in database
    assert database["EnableIAMDatabaseAuthentication"] is True
    (parameters,) = properties(templates[f"{stage}-data"], "AWS::RDS::DBParameterGroup")
    assert parameters["Parameters"]["rds.force_ssl"] == "1"


def test_a_stage_that_keeps_its_data_cannot_lose_it_to_a_deployment(templates: dict[str, Template]) -> None:
    data = templates["serious-data"]
    (database,) = of_type(data, "AWS::RDS::DBInstance")
    assert database["Properties"]["DeletionProtection"] is True
    assert database["DeletionPolicy"] == database["UpdateReplacePolicy"] == "Snapshot"
    for bucket in of_type(data, "AWS::S3::Bucket"):
        assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("stage", STAGES)
def test_the_database_is_reached_by_named_groups_alone(templates: dict[str, Template], stage: str) -> None:
    data = templates[f"{stage}-data"]
    doors = [one for one in properties(data, "AWS::EC2::SecurityGroupIngress") if one["ToPort"] == 5432]
    assert doors
    assert all("SourceSecurityGroupId" in one and "CidrIp" not in one for one in doors)


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_balancer_is_open_to_the_world(templates: dict[str, Template], stage: str) -> None:
    groups = of_type(templates[f"{stage}-data"], "AWS::EC2::SecurityGroup")
    open_to_all = {
        (one["Properties"]["GroupDescription"], rule["FromPort"])
        for one in groups
        for rule in one["Properties"].get("SecurityGroupIngress", ())
        if rule.get("CidrIp") == "0.0.0.0/0"
    }
    ports = {80} if stage == "small" else {80, 443}
    assert open_to_all == {("Balancer", port) for port in ports}


def test_a_stage_without_nat_has_a_door_to_every_service_that_it_calls() -> None:
    app = cdk.App(context=FLAGS)
    stack = cdk.Stack(app, "Alone")
    Network(stack, Stage.model_validate_json(json.dumps(TABLES["stage"]["small"] | {"egress": "endpoints"})))
    template = app.synth().get_stack_by_name("Alone").template

    assert of_type(template, "AWS::EC2::NatGateway") == []
    doors = properties(template, "AWS::EC2::VPCEndpoint")
    named = {json.dumps(one["ServiceName"]).strip('"]}').rpartition(".")[2] for one in doors}
    assert named == {
        *("s3", "sns", "sqs", "secretsmanager", "lambda", "cloudformation", "logs", "monitoring"),
        *("ssm", "ssmmessages"),
    }
    assert all(one["PrivateDnsEnabled"] for one in doors if one["VpcEndpointType"] == "Interface")


@pytest.mark.parametrize("stage", STAGES)
def test_the_database_has_a_name_so_that_no_deployment_can_replace_it(
    templates: dict[str, Template], stage: str
) -> None:
    """CloudFormation refuses to replace what has a name of its own, also in the pipeline."""
    (database,) = properties(templates[f"{stage}-data"], "AWS::RDS::DBInstance")
    assert database["DBInstanceIdentifier"] == f"{stage}-tintype"


@pytest.mark.parametrize("stage", STAGES)
def test_every_work_queue_has_a_dead_letter_queue(templates: dict[str, Template], stage: str) -> None:
    queues = properties(templates[f"{stage}-data"], "AWS::SQS::Queue")
    dead = [one for one in queues if "RedrivePolicy" not in one]
    # One more without its own: the place of what a schedule asked for and no function could do.
    assert len(dead) == len(queues) - len(dead) + 1
    assert all(one["MessageRetentionPeriod"] == 14 * 86_400 for one in dead)


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_stays_hidden_for_six_times_its_functions_time(
    templates: dict[str, Template], stage: str
) -> None:
    longest = {
        one["VisibilityTimeout"]
        for one in properties(templates[f"{stage}-data"], "AWS::SQS::Queue")
        if "RedrivePolicy" in one
    }
    service = templates[f"{stage}-service"]
    for mapping in properties(service, "AWS::Lambda::EventSourceMapping"):
        function = service["Resources"][mapping["FunctionName"]["Ref"]]["Properties"]
        assert all(seconds >= 6 * function["Timeout"] for seconds in longest)
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


@pytest.mark.parametrize("stage", STAGES)
def test_instances_cannot_delete_originals_and_nobody_deletes_versions(
    templates: dict[str, Template], stage: str
) -> None:
    service = templates[f"{stage}-service"]
    everything = list(statements(service))
    assert everything
    for role, statement in everything:
        assert "s3:DeleteObjectVersion" not in actions(statement)
        if "s3:DeleteObject" in actions(statement) and role.startswith("ServiceRole"):
            resources = json.dumps(statement["Resource"])
            assert "originals" not in resources
            kept = resources
            for passing in ("incoming/*", "renditions/*", "journal/*", "deleted/*"):
                kept = kept.replace(passing, "")
            assert "/*" not in kept


@pytest.mark.parametrize("stage", STAGES)
def test_every_function_may_make_the_network_interfaces_that_its_subnets_need(
    templates: dict[str, Template], stage: str
) -> None:
    service = templates[f"{stage}-service"]
    allowed = {role for role, one in statements(service) if "ec2:CreateNetworkInterface" in actions(one)}
    functions = {
        one["Role"]["Fn::GetAtt"][0]
        for one in properties(service, "AWS::Lambda::Function")
        if "VpcConfig" in one
    }
    assert functions
    assert functions <= allowed


@pytest.mark.parametrize("stage", STAGES)
def test_no_role_has_every_action_of_a_service(templates: dict[str, Template], stage: str) -> None:
    for role, statement in statements(templates[f"{stage}-service"]):
        assert not {one for one in actions(statement) if one.endswith(":*") or one == "*"}, role


@pytest.mark.parametrize("stage", STAGES)
def test_instances_take_the_second_version_of_the_metadata_service_one_hop_far(
    templates: dict[str, Template], stage: str
) -> None:
    (template,) = properties(templates[f"{stage}-service"], "AWS::EC2::LaunchTemplate")
    options = template["LaunchTemplateData"]["MetadataOptions"]
    assert options == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert "KeyName" not in template["LaunchTemplateData"]


def test_instances_are_of_the_t2_family_unless_told_otherwise(templates: dict[str, Template]) -> None:
    (template,) = properties(templates["small-service"], "AWS::EC2::LaunchTemplate")
    assert template["LaunchTemplateData"]["InstanceType"].startswith("t2.")


@pytest.mark.parametrize("stage", STAGES)
def test_a_rollout_replaces_one_instance_at_a_time_and_waits_for_it_to_serve(
    templates: dict[str, Template], stage: str
) -> None:
    (fleet,) = of_type(templates[f"{stage}-service"], "AWS::AutoScaling::AutoScalingGroup")
    rolling = fleet["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert rolling["MaxBatchSize"] == 1
    assert rolling["WaitOnResourceSignals"] is True
    assert rolling["MinInstancesInService"] == int(fleet["Properties"]["MinSize"]) >= 2
    assert len(fleet["Properties"]["VPCZoneIdentifier"]) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_the_schema_is_migrated_before_anything_new_runs_on_it(
    templates: dict[str, Template], stage: str
) -> None:
    service = templates[f"{stage}-service"]["Resources"]
    (migrated,) = [name for name, one in service.items() if one["Type"] == "Custom::Migration"]
    waiting = {name for name, one in service.items() if migrated in one.get("DependsOn", ())}
    assert {service[name]["Type"] for name in waiting} >= {
        "AWS::AutoScaling::AutoScalingGroup",
        "AWS::Lambda::Function",
        "AWS::Lambda::EventSourceMapping",
    }


def test_the_pipeline_deploys_the_very_templates_that_a_person_deploys(
    written: Path, templates: dict[str, Template]
) -> None:
    (pipeline,) = properties(templates["delivery"], "AWS::CodePipeline::Pipeline")
    deployed = {
        action["Configuration"]["TemplatePath"].partition("::")[2]
        for stage in pipeline["Stages"]
        for action in stage["Actions"]
        if action["ActionTypeId"]["Provider"] == "CloudFormation"
        and "TemplatePath" in action["Configuration"]
    }
    by_hand = {str(path.relative_to(written)) for path in written.glob("assembly-*/*.template.json")}
    assert deployed == by_hand


def test_the_pipeline_publishes_with_programs_that_read_what_the_library_writes(written: Path) -> None:
    """They are released apart: the newest `cdk-assets` can be older than the newest library's format."""
    programs = installed_packages(INFRA)
    said = "".join(path.read_text() for path in written.iterdir() if path.is_file())
    for name, version in json.loads((INFRA / "package.json").read_text())["devDependencies"].items():
        assert f"npm install -g {name}@{version}" in said
    for assets in written.rglob("*.assets.json"):
        listed = subprocess.run(
            [NODE, programs / "cdk-assets" / "bin" / "cdk-assets", "--path", assets, "ls"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert listed.returncode == 0, listed.stderr


def test_every_finding_of_awss_rules_has_a_reason_and_every_reason_a_finding(application: cdk.App) -> None:
    found = list(nag.findings(application))
    assert [one for one in found if not any(reason.explains(one) for reason in nag.REASONS)] == []
    assert [reason for reason in nag.REASONS if not any(map(reason.explains, found))] == []


def test_cfn_lint_finds_nothing_in_any_template(written: Path) -> None:
    """As `make synth` runs it, with the exceptions of its own file alone."""
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "cfn-lint", "--config-file", INFRA / ".cfnlintrc"),
            f"{written}/**/*.template.json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_templates_are_written_without_asking_aws_anything(written: Path) -> None:
    """The command line would answer what is missing by calls to AWS, and fail where it may make none."""
    for path in written.rglob("manifest.json"):
        assert "missing" not in json.loads(path.read_text(encoding="utf-8")), path


def test_no_zone_was_guessed_and_no_template_names_a_secret(written: Path) -> None:
    for path in written.rglob("*.template.json"):
        text = path.read_text(encoding="utf-8")
        assert "dummy1" not in text
        assert "{{resolve:secretsmanager" not in text
