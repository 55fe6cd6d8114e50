"""Schema: the step of a deployment that brings the database up to date, before anything new runs on it."""

from pathlib import Path

from aws_cdk import CustomResource, Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from tintype_infra.database import MIGRATOR, NAME, SERVICE, WORKER, Database
from tintype_infra.functions import AUTHORITIES
from tintype_infra.network import Network, let_out

SECONDS = 600


class Schema(Construct):
    """Runs the release's migrations as part of CloudFormation's own update.

    Whatever stands on the schema depends on `done`. A migration that fails fails the update, and the
    old release goes on: migrations only ever add (src/tintype/catalogue/migrations/README.md).
    """

    def __init__(
        self,
        scope: Construct,
        *,
        package: Path,
        release: str,
        network: Network,
        database: Database,
    ) -> None:
        super().__init__(scope, "Schema")
        group = network.group("MigratorGroup", "Migrator")
        let_out(group)
        database.let_in(group, "Migrator")
        log = logs.LogGroup(
            self, "Log", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=RemovalPolicy.DESTROY
        )
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description="Tintype's migrator",
        )
        log.grant_write(self.role)
        self.role.add_to_policy(
            iam.PolicyStatement(
                sid="MasterSecret",
                actions=["secretsmanager:GetSecretValue"],
                resources=[database.secret_arn],
            )
        )
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.X86_64,
            code=lambda_.Code.from_asset(str(package)),
            handler="tintype.lambdas.migrate.handler",
            role=self.role,
            vpc=network.vpc,
            vpc_subnets=network.private,
            security_groups=[group],
            memory_size=512,
            timeout=Duration.seconds(SECONDS),
            reserved_concurrent_executions=1,
            log_group=log,
            environment={
                "TINTYPE_DATABASE__URL": database.url(MIGRATOR, AUTHORITIES),
                "TINTYPE_MIGRATOR_SECRET": database.secret_arn,
                "TINTYPE_MIGRATOR_LOGINS": f"{SERVICE},{WORKER}",
            },
        )
        self.done = CustomResource(
            self,
            "Migrated",
            resource_type="Custom::Migration",
            service_token=self.function.function_arn,
            service_timeout=Duration.seconds(SECONDS),
            properties={"Release": release, "Database": NAME},
        )
