"""Database: RDS for PostgreSQL, private, encrypted, with the master's secret kept by RDS itself."""

from aws_cdk import ArnFormat, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from constructs import Construct

from tintype_infra.network import Network
from tintype_infra.stages import Stage

NAME = "tintype"
MIGRATOR = "tintype_migrator"
"""The master user: owns the tables, and is used for migrations only."""
SERVICE = "tintype_service"
"""What instances log in as, with a token of their IAM role."""
WORKER = "tintype_functions"
"""What functions log in as."""


class Database(Construct):
    """One instance in private subnets. Nothing reaches it but the groups that are let in."""

    def __init__(self, scope: Construct, stage: Stage, network: Network) -> None:
        super().__init__(scope, "Database")
        self.group = network.group("DatabaseGroup", "Database")
        engine = rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_9)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=engine,
            instance_type=ec2.InstanceType(stage.database_class),
            vpc=network.vpc,
            vpc_subnets=network.private,
            security_groups=[self.group],
            publicly_accessible=False,
            database_name=NAME,
            # Overridden below: the class has no argument yet for a secret that RDS keeps and rotates.
            credentials=rds.Credentials.from_username(MIGRATOR),
            iam_authentication=True,
            storage_type=rds.StorageType.GP3,
            storage_encrypted=True,
            allocated_storage=stage.database_gib,
            max_allocated_storage=stage.database_gib * 10,
            multi_az=stage.database_multi_az,
            backup_retention=Duration.days(stage.backup_days),
            copy_tags_to_snapshot=True,
            delete_automated_backups=not stage.keep,
            deletion_protection=stage.keep,
            removal_policy=RemovalPolicy.SNAPSHOT if stage.keep else RemovalPolicy.DESTROY,
            auto_minor_version_upgrade=True,
            ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1,
            cloudwatch_logs_exports=["postgresql"],
            cloudwatch_logs_retention=None,
            parameter_group=rds.ParameterGroup(
                self,
                "Parameters",
                engine=engine,
                description="Tintype: TLS only, and the log of slow statements",
                parameters={
                    "rds.force_ssl": "1",
                    "log_min_duration_statement": "1000",
                    "idle_in_transaction_session_timeout": "60000",
                },
            ),
        )
        # RDS would make the group itself, to be kept for ever; so it comes first.
        self.instance.node.add_dependency(
            logs.LogGroup(
                self,
                "Log",
                log_group_name=f"/aws/rds/instance/{stage.name}-tintype/postgresql",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=RemovalPolicy.DESTROY,
            )
        )
        self._keep_secret_in_rds(stage)

    def _keep_secret_in_rds(self, stage: Stage) -> None:
        instance = self.instance.node.default_child
        assert isinstance(instance, rds.CfnDBInstance)  # noqa: S101  (for the type checker)
        self.instance.node.try_remove_child("Secret")
        instance.add_property_override("DBInstanceIdentifier", f"{stage.name}-tintype")
        instance.add_property_override("ManageMasterUserPassword", True)  # noqa: FBT003  (the property's value)
        instance.add_property_override("MasterUsername", MIGRATOR)
        instance.add_property_deletion_override("MasterUserPassword")
        self.secret_arn = instance.get_att("MasterUserSecret.SecretArn").to_string()
        self.resource_id = instance.attr_dbi_resource_id

    def let_in(self, group: ec2.ISecurityGroup, who: str) -> None:
        """Let a group's members connect; the rule stands in the stack of the group."""
        ec2.CfnSecurityGroupIngress(
            Stack.of(group),
            f"DatabaseFrom{who}",
            group_id=self.group.security_group_id,
            source_security_group_id=group.security_group_id,
            ip_protocol="tcp",
            from_port=5432,
            to_port=5432,
            description=f"PostgreSQL from {who}",
        )
        group.add_egress_rule(self.group, ec2.Port.tcp(5432), "PostgreSQL", remote_rule=True)

    def grant_login(self, grantee: iam.IGrantable, user: str) -> None:
        """Let a role log in as one user of the database, with tokens instead of a password."""
        stack = Stack.of(self)
        iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["rds-db:connect"],
            resource_arns=[
                stack.format_arn(
                    service="rds-db",
                    resource="dbuser",
                    resource_name=f"{self.resource_id}/{user}",
                    arn_format=ArnFormat.COLON_RESOURCE_NAME,
                )
            ],
        )

    def url(self, user: str, authorities: str) -> str:
        """Return where the database is, without a password: the process adds a token of its role.

        `authorities`: the file of RDS's certificate authorities on that machine. The system's do not
        know them (Amazon RDS User Guide, "Using SSL/TLS to encrypt a connection to a DB instance").
        """
        host = self.instance.db_instance_endpoint_address
        return f"postgresql://{user}@{host}:5432/{NAME}?sslmode=verify-full&sslrootcert={authorities}"
