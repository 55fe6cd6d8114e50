"""Rules of cdk-nag (AWS Solutions): every finding fails the synthesis, or is acknowledged here with its reason."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A finding that stays: for constructs whose path matches, and for no others."""

    path: str
    """A regular expression for the whole path, below the stage."""
    rules: tuple[str, ...]
    reason: str


ACKNOWLEDGED = (
    Acknowledged(
        r"Data/Network/BalancerGroup/Resource",
        ("EC23",),
        "The balancer is the one door to the internet; its ports are 80 and 443.",
    ),
    Acknowledged(
        r"Data/Database/Instance/Resource",
        ("RDS3", "RDS11"),
        "Two zones for the database are a stage's choice, priced in docs/aws.md. PostgreSQL keeps its own "
        "port: the security group, not the number, decides who reaches it.",
    ),
)


def check_promises(app: cdk.App) -> None:
    """Have every construct checked when the templates are written."""
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app, verbose=True))
    for construct in app.node.find_all():
        _acknowledge(construct, ACKNOWLEDGED)


def _acknowledge(construct: IConstruct, known: Iterable[Acknowledged]) -> None:
    for one in known:
        if re.search(rf"(^|/){one.path}$", construct.node.path):
            for rule in one.rules:
                cdk.Validations.of(construct).acknowledge(id=f"AwsSolutions::AwsSolutions-{rule}", reason=one.reason)
