"""Rules of cdk-nag (AWS Solutions): every finding stops the deployment, or is explained here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks


class NotExplained(Exception):
    """Findings that no reason was given for; the message lists them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a construct breaks."""

    rule: str
    path: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.path}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why findings stay: regular expressions for their whole rules and paths."""

    rule: str
    path: str
    why: str

    def explains(self, finding: Finding) -> bool:
        """Tell whether a finding is one of those."""
        return bool(re.fullmatch(self.rule, finding.rule) and re.fullmatch(self.path, finding.path))


STAGE = r"[a-z][a-z0-9-]*/"
IMAGES = r"(<StorageImages\w+\.Arn>|tintype-[a-z0-9-]+-data:ExportsOutputFnGetAttStorageImages\w+Arn\w+)"

REASONS = (
    Reason(
        "EC23",
        STAGE + "Data/Network/BalancerGroup/Resource",
        "The balancer is the one door to the internet, and listens on 80 and 443.",
    ),
    Reason(
        "RDS3",
        STAGE + "Data/Database/Instance/Resource",
        "A second zone for the database is a stage's choice (`database_multi_az`), priced in docs/aws.md.",
    ),
    Reason(
        "RDS11",
        STAGE + "Data/Database/Instance/Resource",
        "PostgreSQL keeps its own port: security groups decide who reaches it, not a number.",
    ),
    Reason(
        "RDS10",
        STAGE + "Data/Database/Instance/Resource",
        "A stage for trying things (`keep = false`) can be deleted again.",
    ),
    Reason(
        "L1",
        STAGE + "Service/(Schema|Functions)/[A-Za-z]+/Function/Resource",
        "Python 3.13 is what the same package meets on the instances' Debian 13.",
    ),
    Reason(
        "AS3",
        STAGE + "Service/Service/Instances/ASG",
        "Scaling is the group's daily work; alarms tell what needs a person.",
    ),
    Reason(
        r"IAM5\[Resource::\*\]",
        STAGE + "Service/(Schema|Functions)/[A-Za-z]+/Role/Resource",
        "A function in a VPC makes network interfaces; EC2 takes no resource for that.",
    ),
    Reason(
        "SQS3",
        STAGE + "Data/Messaging/FailedInvocations/Resource",
        "It is itself where what failed ends.",
    ),
    Reason(
        r"IAM5\[Resource::\*\]",
        STAGE + "Service/Service/Role/DefaultPolicy/Resource",
        "Session Manager's channels take no resource, and SNS none for what concerns one subscription.",
    ),
    Reason(
        rf"IAM5\[Resource::{IMAGES}/([a-z]+/)?\*\]",
        STAGE + "Service/(Service|Functions/[A-Za-z]+)/Role/DefaultPolicy/Resource",
        "Keys below one prefix: which objects there will be is not known before.",
    ),
    Reason(
        "S1",
        "Delivery/Pipeline/Pipeline/ArtifactsBucket/Resource|"
        "cross-region-stack-[^/]+/Default/CrossRegionCodePipelineReplicationBucket/Resource",
        "Holds builds that can be made again from the commit.",
    ),
    Reason(
        "CB4",
        "Delivery/Pipeline/.+",
        "Builds hold no secret; the key that S3 manages encrypts them.",
    ),
    Reason(
        r"IAM5\[(Action::s3:\w+\*|Resource::(<PipelineArtifactsBucket\w+\.Arn>/\*|"
        r"arn:<AWS::Partition>:s3:::tintype-delivery-support-.+|arn:<AWS::Partition>:(logs|codebuild):.+|arn:\*:iam::\d+:role/\*|\*))\]",
        "Delivery/Pipeline/.+/Role/DefaultPolicy/Resource|Delivery/Pipeline/.+Role/DefaultPolicy/Resource",
        "Written by CDK Pipelines for its own bucket, logs and reports, and to assume the deployment roles "
        "that `cdk bootstrap` made, which a condition on their tags names.",
    ),
)


def findings(app: cdk.App) -> Iterator[Finding]:
    """Check every construct."""
    for violation in AwsSolutionsChecks(app, verbose=True).validate_scope(app).violations:
        rule = violation.rule_name.removeprefix("AwsSolutions-")
        for resource in violation.violating_resources:
            yield Finding(rule, resource.construct_path or "?")


def check(app: cdk.App) -> None:
    """Raise `NotExplained` unless there is a reason for every finding."""
    strange = [one for one in findings(app) if not any(reason.explains(one) for reason in REASONS)]
    if strange:
        raise NotExplained("AWS's rules are broken, and no reason is given:\n" + "\n".join(map(str, strange)))
