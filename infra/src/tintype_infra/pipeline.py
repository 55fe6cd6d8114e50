"""Pipeline: a push to GitHub is checked, built, and deployed stage by stage, by CodePipeline."""

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import pipelines
from constructs import Construct

from tintype_infra.stacks import Tintype
from tintype_infra.stages import Delivery

PYTHON_IMAGE = codebuild.LinuxBuildImage.STANDARD_7_0


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
            synth=pipelines.ShellStep(
                "Build",
                input=source,
                commands=["make check", "make test", "make bundle", "make synth"],
                primary_output_directory="infra/cdk.out",
            ),
            code_build_defaults=pipelines.CodeBuildOptions(
                build_environment=codebuild.BuildEnvironment(
                    build_image=PYTHON_IMAGE, compute_type=codebuild.ComputeType.MEDIUM
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
