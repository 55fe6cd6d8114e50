"""Pipeline: a push to GitHub is checked, built, and deployed stage by stage, by CodePipeline."""

import json
from collections.abc import Sequence
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_iam as iam
from aws_cdk import pipelines
from constructs import Construct

from tintype_infra.alarms import RELEASE_ALARMS, alarm_name
from tintype_infra.build import PYTHON
from tintype_infra.stacks import Tintype
from tintype_infra.stages import Delivery

BUILD_IMAGE = codebuild.LinuxBuildImage.STANDARD_7_0
PROGRAMS = json.loads((Path(__file__).parents[2] / "package.json").read_text())["devDependencies"]
"""The CDK's own programs, as tested together with its library. Left open, a build takes the newest of each,
and the newest that publishes assets can be older than what the library writes."""
WATCH_MINUTES = 10
"""For so long after a stage's deployment an alarm takes the release back."""


class DeliveryStack(cdk.Stack):
    """Source, checks, self-update, then each stage: data, schema, functions, instances, smoke test."""

    def __init__(self, scope: Construct, delivery: Delivery, stages: Sequence[Tintype]) -> None:
        super().__init__(
            scope,
            "Delivery",
            stack_name="tintype-delivery",
            description="Tintype: the pipeline from GitHub to every stage",
            env=cdk.Environment(account=delivery.account, region=delivery.region),
        )
        source = pipelines.CodePipelineSource.connection(
            delivery.repository, delivery.branch, connection_arn=delivery.connection_arn
        )
        elsewhere = any(stage.account != delivery.account for stage in stages)
        pipeline = pipelines.CodePipeline(
            self,
            "Pipeline",
            pipeline_name="tintype",
            pipeline_type=codepipeline.PipelineType.V2,
            cross_account_keys=elsewhere,
            enable_key_rotation=elsewhere,
            publish_assets_in_parallel=False,
            cli_version=PROGRAMS["aws-cdk"],
            cdk_assets_cli_version=PROGRAMS["cdk-assets"],
            synth=pipelines.CodeBuildStep(
                "Build",
                input=source,
                commands=["make check", "make test", "make bundle", "make synth"],
                primary_output_directory="infra/cdk.out",
                # What is tested is what runs on instances and in functions.
                partial_build_spec=codebuild.BuildSpec.from_object(
                    {"phases": {"install": {"runtime-versions": {"python": PYTHON}}}}
                ),
            ),
            code_build_defaults=pipelines.CodeBuildOptions(
                build_environment=codebuild.BuildEnvironment(
                    build_image=BUILD_IMAGE, compute_type=codebuild.ComputeType.MEDIUM
                )
            ),
        )
        # The stages stand in the application, not in this stack: names that CDK makes of paths are then the
        # same, whether the pipeline deploys them or a person does.
        for stage in stages:
            pipeline.add_stage(
                stage,
                post=[
                    pipelines.ShellStep(
                        f"Smoke-{stage.stage_name}",
                        input=source,
                        commands=["bash infra/smoke.sh"],
                        env_from_cfn_outputs={"URL": stage.service.service.output},
                    )
                ],
            )
        pipeline.build_pipeline()
        _use_connection(pipeline.pipeline, delivery.connection_arn)
        for stage in stages:
            _take_back(pipeline.pipeline, stage, watched=stage.account == delivery.account)


def _use_connection(pipeline: codepipeline.Pipeline, connection_arn: str) -> None:
    """Let the source's role use the connection under the service's new name, too.

    The CDK grants `codestar-connections:UseConnection` alone, whatever the connection's ARN begins with;
    AWS asks for the right of the ARN's own name (Developer Tools User Guide, "Connections rename").
    """
    (role,) = [
        one
        for one in pipeline.node.find_all()
        if isinstance(one, iam.Role) and one.node.id == "CodePipelineActionRole"
    ]
    role.add_to_policy(
        iam.PolicyStatement(actions=["codeconnections:UseConnection"], resources=[connection_arn])
    )


def _take_back(pipeline: codepipeline.Pipeline, stage: Tintype, *, watched: bool) -> None:
    """Have a stage's last good release deployed again when this one fails, or raises an alarm afterwards.

    The classes of CDK Pipelines have no argument for that yet; the template has (AWS CodePipeline User
    Guide, "Configure stage rollback" and "Stage conditions"). Rules see alarms of their own account alone.
    """
    index = [one.stage_name for one in pipeline.stages].index(stage.stage_name)
    resource = pipeline.node.default_child
    assert isinstance(resource, codepipeline.CfnPipeline)  # noqa: S101  (for the type checker)
    resource.add_property_override(f"Stages.{index}.OnFailure", {"Result": "ROLLBACK"})
    if not watched:
        return
    rules = [
        {
            "Name": name,
            "RuleTypeId": {
                "Category": "Rule",
                "Owner": "AWS",
                "Provider": "CloudWatchAlarm",
                "Version": "1",
            },
            "Region": stage.region,
            "Configuration": {
                "AlarmName": alarm_name(stage.stage_name, name),
                "WaitTime": str(WATCH_MINUTES),
            },
        }
        for name in RELEASE_ALARMS
    ]
    resource.add_property_override(
        f"Stages.{index}.OnSuccess", {"Conditions": [{"Result": "ROLLBACK", "Rules": rules}]}
    )
    pipeline.add_to_role_policy(
        iam.PolicyStatement(
            sid=f"Watch{stage.stage_name.title().replace('-', '')}",
            actions=["cloudwatch:DescribeAlarms"],
            resources=[
                cdk.Stack.of(pipeline).format_arn(
                    service="cloudwatch",
                    region=stage.region,
                    resource="alarm",
                    resource_name=alarm_name(stage.stage_name, name),
                    arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
                )
                for name in RELEASE_ALARMS
            ],
        )
    )
