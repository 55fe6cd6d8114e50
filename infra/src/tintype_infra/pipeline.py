"""Pipeline: a push to GitHub is checked, built, and deployed stage by stage, by CodePipeline."""

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import pipelines
from constructs import Construct

from tintype_infra.stacks import Release, Tintype
from tintype_infra.stages import Delivery, Estate

PYTHON_IMAGE = codebuild.LinuxBuildImage.STANDARD_7_0


class DeliveryStack(cdk.Stack):
    """Source, checks, self-update, then each stage: data, schema, functions, instances, smoke test."""

    def __init__(self, scope: Construct, estate: Estate, delivery: Delivery, release: Release) -> None:
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
        elsewhere = any(stage.account != delivery.account for stage in estate.stage.values())
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
        for stage in estate.stage.values():
            deployed = Tintype(self, stage, release)
            pipeline.add_stage(
                deployed,
                post=[
                    pipelines.ShellStep(
                        f"Smoke-{stage.name}",
                        input=source,
                        commands=["bash infra/smoke.sh"],
                        env={"URL": deployed.service.service.url},
                    )
                ],
            )
        pipeline.build_pipeline()
