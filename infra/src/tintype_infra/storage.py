"""Storage: the bucket of images, which describes itself, and the bucket of access logs."""

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from tintype_infra.stages import Stage

QUARANTINE_DAYS = 30
"""How long a repair can be undone (docs/operations.md)."""
UPLOAD_DAYS = 7
"""How long an upload can be resumed at most, whoever goes on with it; its pieces stay as long."""


class Storage(Construct):
    """Both buckets: private, encrypted, reached by TLS alone. Versions of images are kept for 30 days."""

    def __init__(self, scope: Construct, stage: Stage, completions: sqs.IQueue) -> None:
        super().__init__(scope, "Storage")
        removal = RemovalPolicy.RETAIN if stage.keep else RemovalPolicy.DESTROY
        self.logs = s3.Bucket(
            self,
            "AccessLogs",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,  # a balancer can write to no other
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[s3.LifecycleRule(id="old", expiration=Duration.days(90))],
            removal_policy=removal,
        )
        self.images = s3.Bucket(
            self,
            "Images",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            server_access_logs_bucket=self.logs,
            server_access_logs_prefix="images/",
            cors=_cors(stage),
            lifecycle_rules=_lifecycle(),
            removal_policy=removal,
        )
        self._announce(completions)

    def _announce(self, completions: sqs.IQueue) -> None:
        """Tell the queue of every direct upload that arrives.

        By the template's own property: CDK's method would bring a function along that writes the
        configuration behind CloudFormation's back.
        """
        bucket = self.images.node.default_child
        assert isinstance(bucket, s3.CfnBucket)  # noqa: S101  (for the type checker)
        bucket.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                s3.CfnBucket.QueueConfigurationProperty(
                    event="s3:ObjectCreated:*",
                    queue=completions.queue_arn,
                    filter=s3.CfnBucket.NotificationFilterProperty(
                        s3_key=s3.CfnBucket.S3KeyFilterProperty(
                            rules=[
                                s3.CfnBucket.FilterRuleProperty(name="prefix", value="incoming/"),
                                # Pieces of resumable uploads lie there too; they are no arrivals.
                                s3.CfnBucket.FilterRuleProperty(name="suffix", value="/direct"),
                            ]
                        )
                    ),
                )
            ]
        )
        # S3 tries the queue when the notification is made, so the permission comes first. The bucket's
        # ARN would make a circle of the two; the account is what cannot be forged.
        granted = completions.add_to_resource_policy(
            iam.PolicyStatement(
                sid="ImagesBucket",
                actions=["sqs:SendMessage"],
                principals=[iam.ServicePrincipal("s3.amazonaws.com")],
                resources=[completions.queue_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}},
            )
        )
        if granted.policy_dependable is not None:
            self.images.node.add_dependency(granted.policy_dependable)


def _cors(stage: Stage) -> list[s3.CorsRule] | None:
    if not stage.cors_origins:
        return None
    return [
        s3.CorsRule(
            allowed_methods=[s3.HttpMethods.PUT, s3.HttpMethods.POST, s3.HttpMethods.GET],
            allowed_origins=list(stage.cors_origins),
            allowed_headers=["*"],
            exposed_headers=["ETag", "Location"],
            max_age=3600,
        )
    ]


def _lifecycle() -> list[s3.LifecycleRule]:
    """Return what goes by itself: below `originals/` only versions that were replaced or deleted."""
    return [
        s3.LifecycleRule(
            id="unfinished",
            prefix="incoming/",
            expiration=Duration.days(UPLOAD_DAYS + 1),
            noncurrent_version_expiration=Duration.days(1),
        ),
        s3.LifecycleRule(id="multipart", abort_incomplete_multipart_upload_after=Duration.days(2)),
        s3.LifecycleRule(
            id="quarantine", prefix="quarantine/", expiration=Duration.days(QUARANTINE_DAYS + 1)
        ),
        s3.LifecycleRule(
            id="versions",
            noncurrent_version_expiration=Duration.days(30),
            expired_object_delete_marker=True,
        ),
    ]
