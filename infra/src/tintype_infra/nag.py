"""Rules of cdk-nag (AWS Solutions) that are acknowledged, each with its reason; any other finding fails."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks


def check_promises(app: cdk.App) -> None:
    """Have every construct checked when the templates are written."""
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app, verbose=True))
