"""Schema: the step of a deployment that brings the database up to date, before anything new runs on it."""

from pathlib import Path

from aws_cdk import CustomResource, Duration
from aws_cdk import aws_iam as iam
from constructs import Construct

from tintype_infra.database import MIGRATOR, NAME, SERVICE, WORKER, Database
from tintype_infra.functions import AUTHORITIES, Function
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
        made = Function(
            self,
            "Migrate",
            package=package,
            network=network,
            group=group,
            environment={
                "TINTYPE_DATABASE__URL": database.url(MIGRATOR, AUTHORITIES),
                "TINTYPE_MIGRATOR_SECRET": database.secret_arn,
                "TINTYPE_MIGRATOR_LOGINS": f"{SERVICE},{WORKER}",
            },
            memory_mb=512,
            seconds=SECONDS,
            at_once=1,
        )
        made.role.add_to_policy(
            iam.PolicyStatement(
                sid="MasterSecret",
                actions=["secretsmanager:GetSecretValue"],
                resources=[database.secret_arn],
            )
        )
        self.done = CustomResource(
            self,
            "Migrated",
            resource_type="Custom::Migration",
            service_token=made.function.function_arn,
            service_timeout=Duration.seconds(SECONDS),
            properties={"Release": release, "Database": NAME},
        )
