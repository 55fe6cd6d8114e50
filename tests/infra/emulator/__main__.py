"""moto's server with every type of Tintype's templates: `python -m emulator PORT FOLDER`.

EMULATOR_URL is its own address, EMULATOR_DATABASE_URL the PostgreSQL that stands for RDS,
EMULATOR_CERTIFICATE the ARN of a certificate that is there. What it was asked
for and did not make is written to FOLDER/left.json.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from emulator import estate, migration  # noqa: F401 # their types register themselves
from emulator.kinds import LEFT, refuse_what_is_not_emulated
from moto.acm.models import acm_backends
from moto.cloudformation import models, parsing, responses, utils
from moto.cloudformation.exceptions import CloudFormationError, ValidationError
from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.iam import access_control
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer


def read_templates_by_path() -> None:
    """The CDK's command line names a template in its bucket by this server's address, path style."""

    def template(url: str, account_id: str, partition: str) -> str:
        bucket, _, key = urlparse(url).path.lstrip("/").partition("/")
        found: Any = s3_backends[account_id][partition].get_object(bucket, key)
        return found.value.decode()

    utils.get_stack_from_s3_url = template  # pyright: ignore[reportAttributeAccessIssue]
    responses.get_stack_from_s3_url = template  # pyright: ignore[reportPrivateImportUsage]


def publish_exports_of_change_sets(folder: Path) -> None:
    """A stack that was made by a change set has exports too, which the next one imports."""
    execute = models.CloudFormationBackend.execute_change_set
    one_at_a_time = threading.Lock()

    def with_exports(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
        with one_at_a_time:
            work(self, change_set_name, stack_name)

    def work(self: Any, change_set_name: str, stack_name: str | None) -> None:
        for stack in [*self.stacks.values()]:
            stack.cross_stack_resources = stack.resource_map.cross_stack_resources = self.exports
        try:
            execute(self, change_set_name, stack_name)
        finally:
            left = {"properties": sorted(LEFT.properties), "failures": LEFT.failures}
            (folder / "left.json").write_text(json.dumps(left))
        for stack in [*self.stacks.values()]:
            if stack.status.endswith("_COMPLETE") and stack.template:
                stack._parse_template()
                stack.output_map = stack._create_output_map()
                for export in stack.exports:
                    self.exports[export.name] = export

    models.CloudFormationBackend.execute_change_set = with_exports


def check_actions_where_moto_knows_no_resource() -> None:
    """moto knows a request's resource for S3 alone, and asks for `*` of everything else.

    `*` then means any resource that a statement names: there the action alone is checked.
    """
    matches = access_control.IAMPolicyStatement._check_element_matches

    def loose(self: Any, statement_element: Any, value: str) -> bool:
        if statement_element == "Resource" and value == "*":
            return True
        # AWS asks for one right for both (Service Authorization Reference, "Amazon SNS").
        asked = "sns:Publish" if value == "sns:PublishBatch" else value
        return matches(self, statement_element, asked)

    access_control.IAMPolicyStatement._check_element_matches = loose
    read = access_control.IAMPolicy.__init__

    def either_way(self: Any, policy: Any) -> None:
        """A template gives a role its own policies as objects; an API call gives them as text."""
        read(self, json.dumps(policy) if isinstance(policy, dict) and "Statement" in policy else policy)

    access_control.IAMPolicy.__init__ = either_way
    # moto signs a form as it would have written it, which is not what was sent. Who asks is checked still.
    access_control.IAMRequestBase.check_signature = lambda self: None


def know_debians_image() -> None:
    """Debian publishes the id of its newest image as a parameter of AWS's, which nobody can put here."""
    parse = parsing.ResourceMap.parse_ssm_parameter

    def known(self: Any, value: str, value_type: str) -> str:
        if not value.startswith("/aws/service/debian/"):
            return parse(self, value, value_type)
        backend = ec2_backends[self._account_id][self._region_name]
        return next(iter(backend.amis))

    parsing.ResourceMap.parse_ssm_parameter = known  # pyright: ignore[reportAttributeAccessIssue]


class ChangeSetNotFound(CloudFormationError):
    code = "ChangeSetNotFound"


def keep_change_sets_of_stacks_apart() -> None:
    """The command line gives those of all stacks one name, and deletes one before it makes the next."""

    def found(self: Any) -> str:
        """Return which of a stack's is meant, by its ARN: moto takes any of that name."""
        name, stack = self._get_param("ChangeSetName"), self._get_param("StackName")
        for arn, one in reversed(self.cloudformation_backend.change_sets.items()):
            if name == arn or (name == one.change_set_name and stack in {one.stack.name, one.stack.stack_id}):
                return arn
        raise ChangeSetNotFound(f"ChangeSet [{name}] does not exist")

    def describe(self: Any) -> ActionResult:
        return ActionResult(self.cloudformation_backend.describe_change_set(found(self)))

    def delete(self: Any) -> ActionResult:
        with contextlib.suppress(ChangeSetNotFound):
            del self.cloudformation_backend.change_sets[found(self)]
        return ActionResult({})

    def execute(self: Any) -> ActionResult:
        self.cloudformation_backend.execute_change_set(found(self), self._get_param("StackName"))
        return ActionResult({})

    responses.CloudFormationResponse.describe_change_set = describe  # pyright: ignore[reportAttributeAccessIssue]
    responses.CloudFormationResponse.delete_change_set = delete  # pyright: ignore[reportAttributeAccessIssue]
    responses.CloudFormationResponse.execute_change_set = execute  # pyright: ignore[reportAttributeAccessIssue]


def see_that_nothing_changes() -> None:
    """A parameter that keeps its value is no change; moto looks at what was given when a stack was made."""

    def keeps(self: Any, other_parameters: dict[str, Any]) -> bool:
        return all(self.stack_parameters.get(name) == value for name, value in other_parameters.items())

    models.Stack.has_parameters = keeps


def know_the_certificate(arn: str) -> None:
    """A stage names a certificate that somebody has made before."""
    _, _, _, region, account, _ = arn.split(":")
    backend = acm_backends[account][region]
    made = backend.request_certificate("images.example.com", "token", [], [])
    backend._certificates[arn] = backend._certificates[made]


def protect_stacks() -> None:
    """Take note of stacks that nobody may delete; moto has no such call."""

    def update(self: Any) -> ActionResult:
        stack = self.cloudformation_backend.get_stack(self._get_param("StackName"))
        stack.protected = self._get_bool_param("EnableTerminationProtection")
        return ActionResult({"StackId": stack.stack_id})

    delete = models.CloudFormationBackend.delete_stack

    def unless_protected(self: Any, name_or_stack_id: str) -> None:
        if getattr(self.get_stack(name_or_stack_id), "protected", False):
            raise ValidationError(
                name_or_stack_id, "Stack cannot be deleted while TerminationProtection is enabled"
            )
        delete(self, name_or_stack_id)

    responses.CloudFormationResponse.update_termination_protection = update  # pyright: ignore[reportAttributeAccessIssue]
    models.CloudFormationBackend.delete_stack = unless_protected


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    refuse_what_is_not_emulated()
    read_templates_by_path()
    publish_exports_of_change_sets(folder)
    check_actions_where_moto_knows_no_resource()
    know_debians_image()
    protect_stacks()
    keep_change_sets_of_stacks_apart()
    see_that_nothing_changes()
    know_the_certificate(os.environ["EMULATOR_CERTIFICATE"])
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=True)
    server.start()
    print("ready", flush=True)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    server.stop()


main()
