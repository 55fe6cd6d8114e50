"""The CDK application: `cdk` runs it, and it writes templates for what stages.toml says."""

import os
import sys
from pathlib import Path

import aws_cdk as cdk

from tintype_infra import nag
from tintype_infra.pipeline import DeliveryStack
from tintype_infra.stacks import Release, Tintype
from tintype_infra.stages import Estate, StageInvalid

FLAGS = {
    # What CDK does for new applications, and asks older ones to choose.
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/core:strictCfnValidateErrors": True,
    "@aws-cdk/core:defaultCrossStackReferences": "strong",
    "@aws-cdk/aws-lambda:recognizeLayerVersion": True,
    "@aws-cdk/aws-sns-subscriptions:restrictSqsDescryption": True,
}


def build(estate: Estate, release: Release, outdir: Path | None = None) -> cdk.App:
    """Return the application with every stage, and with the pipeline where there is a delivery."""
    app = cdk.App(outdir=str(outdir) if outdir else None, context=FLAGS)
    stages = [Tintype(app, stage, release) for stage in estate.stage.values()]
    if estate.delivery is not None:
        DeliveryStack(app, estate.delivery, stages)

    return app


def main() -> None:
    """Write the templates. Ends with a sentence and status 2 when stages.toml is wrong."""
    here = Path(__file__).parents[2]
    built = Path(os.environ.get("TINTYPE_BUILD", here / "build"))
    try:
        estate = Estate.read(Path(os.environ.get("TINTYPE_STAGES", here / "stages.toml")))
    except StageInvalid as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    if not (built / "release").exists():
        sys.stderr.write(f"There is no release in {built}. Run `make bundle` first.\n")
        sys.exit(2)
    release = Release(
        (built / "release").read_text().strip(), built / "bundle.tar.gz", built / "functions.zip"
    )
    app = build(estate, release)
    nag.check(app)
    app.synth()


if __name__ == "__main__":
    main()
