"""Functions: the Lambda side of Tintype, all built into one package from the locked environment."""

from collections.abc import Mapping
from pathlib import Path

from aws_cdk import Aws, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from tintype_infra.database import WORKER, Database
from tintype_infra.messaging import FUNCTION_SECONDS, Messaging
from tintype_infra.network import Network, let_out
from tintype_infra.stages import Stage
from tintype_infra.storage import Storage

AUTHORITIES = "/var/task/rds-authorities.pem"
MAIL_ACTIONS = ("ses:SendEmail", "ses:SendRawEmail")
CONSISTENCY_SECONDS = 900
"""A check stops a minute before that, and continues in the next invocation."""
AT_ONCE = 5
"""Batches of a queue at once. Each has connections to the database, which has few (docs/aws.md)."""


class Function(Construct):
    """One handler of `tintype.lambdas`, in private subnets, with a log of its own.

    `failed` takes what was asked for by an event, and failed for good.
    """

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        package: Path,
        network: Network,
        group: ec2.ISecurityGroup,
        environment: Mapping[str, str],
        memory_mb: int,
        seconds: int,
        at_once: int,
        failed: sqs.IQueue | None = None,
    ) -> None:
        super().__init__(scope, name)
        # Made here, so that CDK adds none of AWS's broad managed policies.
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"Tintype's function {name}",
            inline_policies={"NetworkInterfaces": iam.PolicyDocument(statements=[_network_interfaces()])},
        )
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.ONE_MONTH)
        log.grant_write(self.role)
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.X86_64,
            code=lambda_.Code.from_asset(str(package)),
            handler=f"tintype.lambdas.{name.lower()}.handler",
            role=self.role,
            vpc=network.vpc,
            vpc_subnets=network.private,
            security_groups=[group],
            memory_size=memory_mb,
            timeout=Duration.seconds(seconds),
            reserved_concurrent_executions=at_once,
            environment=dict(environment),
            log_group=log,
            retry_attempts=2,
            dead_letter_queue=failed,
        )


class Functions(Construct):
    """`complete`, `notifier` and `consistency`: what works without any instance."""

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        *,
        package: Path,
        network: Network,
        storage: Storage,
        database: Database,
        messaging: Messaging,
    ) -> None:
        super().__init__(scope, "Functions")
        self.group = network.group("FunctionsGroup", "Functions")
        let_out(self.group)
        database.let_in(self.group, "Functions")
        environment = {
            "TINTYPE_DATA_DIR": "/tmp/tintype",  # noqa: S108  (the only folder that a function may write to)
            "TINTYPE_OBJECTS__URL": f"s3://{storage.images.bucket_name}",
            "TINTYPE_OBJECTS__REGION": stage.region,
            "TINTYPE_DATABASE__URL": database.url(WORKER, AUTHORITIES),
            "TINTYPE_DATABASE__IAM_REGION": stage.region,
            "TINTYPE_DATABASE__POOL_SIZE": "2",
            "TINTYPE_EVENTS__TOPIC_ARN": messaging.events.topic_arn,
            "TINTYPE_IDENTITY__MODE": "keys",
            "TINTYPE_LOG__FORMAT": "json",
            # Checks begin by their schedule, and by nobody's clock.
            "TINTYPE_CONSISTENCY__EVERY_SECONDS": "0",
        } | mail_settings(stage)

        def function(
            name: str, *, memory_mb: int, seconds: int, at_once: int, more: Mapping[str, str] | None = None
        ) -> Function:
            made = Function(
                self,
                name,
                package=package,
                network=network,
                group=self.group,
                environment=environment | dict(more or {}),
                memory_mb=memory_mb,
                seconds=seconds,
                at_once=at_once,
                failed=messaging.failed,
            )
            database.grant_login(made.role, WORKER)
            return made

        # One more at once than its queue asks for: the schedule's invocation always finds room.
        self.consistency = function("Consistency", memory_mb=1024, seconds=CONSISTENCY_SECONDS, at_once=2)
        others = {"TINTYPE_CONSISTENCY__FUNCTION": self.consistency.function.function_name}
        self.complete = function(
            "Complete", memory_mb=1024, seconds=FUNCTION_SECONDS, at_once=AT_ONCE + 1, more=others
        )
        self.notifier = function(
            "Notifier", memory_mb=512, seconds=FUNCTION_SECONDS, at_once=AT_ONCE + 1, more=others
        )

        _work_off(self.complete, messaging.completions.queue, batch=5)
        _work_off(self.notifier, messaging.deliveries.queue, batch=10)
        _every(self, "Drain", self.notifier, events.Schedule.rate(Duration.minutes(1)), {"task": "drain"})
        _every(
            self, "FastLoop", self.consistency, events.Schedule.rate(Duration.minutes(5)), {"task": "settle"}
        )
        _every(
            self,
            "Nightly",
            self.consistency,
            events.Schedule.cron(hour="3", minute="17"),
            {"mode": "quick", "repair": False},
        )
        _every(
            self,
            "Weekly",
            self.consistency,
            events.Schedule.cron(week_day="SUN", hour="4", minute="17"),
            {"mode": "deep", "repair": False},
        )
        # What cannot finish in one invocation continues in another one of itself. A policy of its own:
        # in the role's it would make a circle, as the function waits for its role.
        iam.Policy(
            self,
            "Continue",
            roles=[self.consistency.role],
            statements=[
                iam.PolicyStatement(
                    actions=["lambda:InvokeFunction"], resources=[self.consistency.function.function_arn]
                )
            ],
        )
        grant_publishing(self.notifier.role, messaging.events)
        grant_mail(self.notifier.role, stage)
        grant_serving(self.complete.role, storage.images)
        grant_looking(self.notifier.role, storage.images)
        grant_consistency(self.consistency.role, storage.images)

    @property
    def all(self) -> dict[str, Function]:
        """Every function by its name."""
        return {"complete": self.complete, "notifier": self.notifier, "consistency": self.consistency}

    def reached_at(self, url: str) -> None:
        """Tell the functions where the service is: the links in their mails and events lead there."""
        for one in self.all.values():
            one.function.add_environment("TINTYPE_PUBLIC_URL", url)


def grant_serving(role: iam.Role, images: s3.IBucket) -> None:
    """Take images in and give them out: what instances need, and the function that stands in for them.

    Whoever serves also ends uploads whose time is over, and writes down what becomes of images. None of
    them deletes an original: that is the consistency function's, and even that leaves the versions.
    """
    _allow(
        role,
        "Images",
        ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
        images,
        ["originals/*", "incoming/*", "renditions/*", "journal/*", "deleted/*"],
    )
    _allow(
        role,
        "Leftovers",
        ["s3:DeleteObject"],
        images,
        ["incoming/*", "renditions/*", "journal/*", "deleted/*"],
    )
    _grant_pair(role, images)


def grant_looking(role: iam.Role, images: s3.IBucket) -> None:
    """Read images, for the pictures in mails, and how far the journal is."""
    _allow(role, "Images", ["s3:GetObject"], images, ["originals/*", "journal/*"])
    _grant_pair(role, images)


def _grant_pair(role: iam.Role, images: s3.IBucket) -> None:
    """Say that bucket and database belong together, as whoever is first does, and see that they do."""
    _allow(role, "Pair", ["s3:GetObject", "s3:PutObject"], images, ["tintype.json"])
    # Without it S3 answers 403 to a missing key, which then cannot be told from a forbidden one.
    role.add_to_policy(
        iam.PolicyStatement(sid="TellMissing", actions=["s3:ListBucket"], resources=[images.bucket_arn])
    )


def grant_publishing(role: iam.Role, topic: sns.ITopic) -> None:
    """Tell the topic of events, and send a phone the code that it agrees with."""
    allow = role.add_to_policy
    allow(iam.PolicyStatement(sid="Publish", actions=["sns:Publish"], resources=[topic.topic_arn]))
    # A phone has no ARN: whatever is no topic.
    allow(
        iam.PolicyStatement(
            sid="Phones", actions=["sns:Publish"], not_resources=[f"arn:{Aws.PARTITION}:sns:*:*:*"]
        )
    )


def grant_subscribing(role: iam.Role, topic: sns.ITopic) -> None:
    """Look after the topic's subscriptions."""
    allow = role.add_to_policy
    allow(
        iam.PolicyStatement(
            sid="Topic",
            actions=["sns:Subscribe", "sns:ConfirmSubscription", "sns:ListSubscriptionsByTopic"],
            resources=[topic.topic_arn],
        )
    )
    # SNS knows topics as resources, and no subscriptions (Service Authorization Reference, "Amazon SNS").
    allow(
        iam.PolicyStatement(
            sid="Subscriptions",
            actions=["sns:Unsubscribe", "sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes"],
            resources=["*"],
        )
    )


def grant_consistency(role: iam.Role, images: s3.IBucket) -> None:
    """Look at everything, move to quarantine and back; what is deleted leaves its version behind."""
    _grant_pair(role, images)
    _allow(role, "Read", ["s3:GetObject", "s3:GetObjectVersion"], images, ["*"])
    _allow(
        role,
        "Move",
        ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
        images,
        ["originals/*", "quarantine/*", "incoming/*", "renditions/*", "deleted/*", "journal/*"],
    )
    role.add_to_policy(
        iam.PolicyStatement(
            sid="List",
            actions=["s3:ListBucketVersions", "s3:ListBucketMultipartUploads"],
            resources=[images.bucket_arn],
        )
    )


def grant_mail(role: iam.Role, stage: Stage) -> None:
    """Send mail in the name of the stage's sender, where it has one."""
    if stage.mail_from is None:
        return
    domain = stage.mail_from.partition("@")[2]
    role.add_to_policy(
        iam.PolicyStatement(
            sid="Mail",
            actions=[*MAIL_ACTIONS],
            resources=[
                Stack.of(role).format_arn(service="ses", resource="identity", resource_name=name)
                for name in (domain, stage.mail_from)
            ],
        )
    )


def mail_settings(stage: Stage) -> dict[str, str]:
    """Return the settings of mail, for instances and functions alike."""
    if stage.mail_from is None:
        return {}
    return {"TINTYPE_MAIL__FROM_ADDRESS": stage.mail_from, "TINTYPE_MAIL__SES_REGION": stage.region}


def _allow(role: iam.Role, sid: str, actions: list[str], bucket: s3.IBucket, keys: list[str]) -> None:
    role.add_to_policy(
        iam.PolicyStatement(sid=sid, actions=actions, resources=[bucket.arn_for_objects(key) for key in keys])
    )


def _work_off(function: Function, queue: sqs.IQueue, *, batch: int) -> None:
    function.function.add_event_source(
        sources.SqsEventSource(
            queue, batch_size=batch, report_batch_item_failures=True, max_concurrency=AT_ONCE
        )
    )


def _every(
    scope: Construct, name: str, function: Function, schedule: events.Schedule, what: dict[str, str]
) -> None:
    events.Rule(scope, name, schedule=schedule).add_target(
        targets.LambdaFunction(
            function.function, event=events.RuleTargetInput.from_object(what), retry_attempts=1
        )
    )


def _network_interfaces() -> iam.PolicyStatement:
    """Return what a function in a VPC needs; AWS grants these on no single resource.

    AWS Lambda Developer Guide, "Giving Lambda functions access to resources in an Amazon VPC".
    """
    return iam.PolicyStatement(
        sid="NetworkInterfaces",
        actions=[
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        ],
        resources=["*"],
    )
