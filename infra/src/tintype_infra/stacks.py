"""Stacks: what keeps data, what is replaced by every release, and what delivers releases."""

from dataclasses import dataclass
from pathlib import Path

import aws_cdk as cdk
from constructs import Construct

from tintype_infra.alarms import Alarms
from tintype_infra.database import Database
from tintype_infra.functions import Functions
from tintype_infra.messaging import Messaging
from tintype_infra.network import Network
from tintype_infra.schema import Schema
from tintype_infra.service import Service
from tintype_infra.stages import Stage
from tintype_infra.storage import Storage


@dataclass(frozen=True, slots=True)
class Release:
    """What a deployment puts into place: built by `tintype_infra.build` from one commit."""

    name: str
    """The commit, or anything else that is never used twice for different contents."""
    bundle: Path
    """For instances."""
    package: Path
    """For functions."""


class DataStack(cdk.Stack):
    """The network, the database, the buckets, the topic and the queues: what outlives every release."""

    def __init__(self, scope: Construct, stage: Stage) -> None:
        self._zones = stage.both_zones
        super().__init__(
            scope,
            "Data",
            stack_name=f"tintype-{stage.name}-data",
            description="Tintype: network, database, buckets, topic, queues",
            env=_environment(stage),
            termination_protection=stage.keep,
        )
        self.network = Network(self, stage)
        self.messaging = Messaging(self, stage)
        self.storage = Storage(self, stage, self.messaging.completions.queue)
        self.database = Database(self, stage, self.network)
        cdk.CfnOutput(self, "ImagesBucket", value=self.storage.images.bucket_name)
        cdk.CfnOutput(self, "EventsTopic", value=self.messaging.events.topic_arn)
        cdk.CfnOutput(self, "CompletionsQueue", value=self.messaging.completions.queue.queue_url)
        cdk.CfnOutput(self, "DeliveriesQueue", value=self.messaging.deliveries.queue.queue_url)
        cdk.CfnOutput(self, "DatabaseSecret", value=self.database.secret_arn)

    @property
    def availability_zones(self) -> list[str]:
        """The stage's own: the CDK would ask AWS for all of them, which takes credentials."""
        return self._zones


class ServiceStack(cdk.Stack):
    """The schema, the functions, the instances and the alarms: what a release replaces."""

    def __init__(self, scope: Construct, stage: Stage, data: DataStack, release: Release) -> None:
        super().__init__(
            scope,
            "Service",
            stack_name=f"tintype-{stage.name}-service",
            description="Tintype: schema, functions, instances, balancer, alarms",
            env=_environment(stage),
        )
        schema = Schema(
            self,
            package=release.package,
            release=release.name,
            network=data.network,
            database=data.database,
        )
        self.functions = Functions(
            self,
            stage,
            package=release.package,
            network=data.network,
            storage=data.storage,
            database=data.database,
            messaging=data.messaging,
        )
        self.functions.node.add_dependency(schema.done)
        self.service = Service(
            self,
            stage,
            bundle=release.bundle,
            release=release.name,
            network=data.network,
            storage=data.storage,
            database=data.database,
            messaging=data.messaging,
            functions=self.functions,
            after=schema.done,
        )
        self.alarms = Alarms(
            self,
            stage,
            service=self.service,
            functions=self.functions,
            database=data.database,
            messaging=data.messaging,
        )


class Tintype(cdk.Stage):
    """One whole Tintype."""

    def __init__(self, scope: Construct, stage: Stage, release: Release) -> None:
        super().__init__(scope, stage.name, env=_environment(stage))
        self.data = DataStack(self, stage)
        self.service = ServiceStack(self, stage, self.data, release)
        cdk.Tags.of(self).add("application", "tintype")
        cdk.Tags.of(self).add("stage", stage.name)


def _environment(stage: Stage) -> cdk.Environment:
    return cdk.Environment(account=stage.account, region=stage.region)
