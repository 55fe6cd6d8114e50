"""Messaging: the topic of uploads, the topic of alarms, and queues that lose nothing."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from tintype_infra.stages import Stage

FUNCTION_SECONDS = 120
"""How long the functions at the queues may take; a message is hidden for six times that, as AWS advises
("Using Lambda with Amazon SQS", section "Configuring a queue to use with Lambda")."""
ATTEMPTS = 5


class WorkQueue(Construct):
    """A queue for a function, and the one where messages end that nobody could work off."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name)
        self.dead = sqs.Queue(
            self,
            "DeadLetters",
            retention_period=Duration.days(14),
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            visibility_timeout=Duration.seconds(6 * FUNCTION_SECONDS),
            retention_period=Duration.days(4),
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead, max_receive_count=ATTEMPTS),
        )


class Messaging(Construct):
    """Everything that carries events."""

    def __init__(self, scope: Construct, stage: Stage) -> None:
        super().__init__(scope, "Messaging")
        self.events = sns.Topic(self, "Events", display_name="Tintype", enforce_ssl=True)
        self.alarms = sns.Topic(self, "Alarms", display_name="Tintype alarms", enforce_ssl=True)
        self.alarms.add_to_resource_policy(
            iam.PolicyStatement(
                sid="CloudWatch",
                actions=["sns:Publish"],
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                resources=[self.alarms.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": stage.account}},
            )
        )
        if stage.operator_email is not None:
            self.alarms.add_subscription(subscriptions.EmailSubscription(stage.operator_email))
        # S3 says here that a direct upload has arrived; the topic says here what was committed.
        self.completions = WorkQueue(self, "Completions")
        self.deliveries = WorkQueue(self, "Deliveries")
        self.events.add_subscription(
            subscriptions.SqsSubscription(self.deliveries.queue, raw_message_delivery=True)
        )
        # What a schedule asked a function for, and the function failed on each time.
        self.failed = sqs.Queue(
            self,
            "FailedInvocations",
            retention_period=Duration.days(14),
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )

    @property
    def queues(self) -> dict[str, WorkQueue]:
        """Every queue for work, by the name of the work."""
        return {"completions": self.completions, "deliveries": self.deliveries}


def oldest_message(queue: sqs.IQueue) -> cloudwatch.Metric:
    """Return how long the oldest message has waited, in seconds."""
    return queue.metric_approximate_age_of_oldest_message(statistic="Maximum", period=Duration.minutes(1))
