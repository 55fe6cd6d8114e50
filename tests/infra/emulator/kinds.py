"""How moto's CloudFormation gets a type that it lacks: a function that makes it by a call of AWS's own API.

botocore holds every name and every value against the service's model on the way, so that a property that AWS
does not have fails here as it would there.
"""

import os
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import UnformattedGetAttTemplateException
from moto.core.common_models import CloudFormationModel

Json = dict[str, Any]


class NotEmulated(Exception):
    """The template has a type that nobody here makes."""


@dataclass
class Left:
    """What was not made, for the list in test_deploy.py."""

    properties: set[str] = field(default_factory=set[str])
    failures: list[str] = field(default_factory=list[str])
    """What could not be made: the command line tries again, and moto then goes on without it."""


LEFT = Left()


class Wanted(MutableMapping[str, Any]):
    """A resource's properties, which remember whether somebody looked at them."""

    def __init__(self, properties: Json) -> None:
        self._properties = properties
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return self._properties[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._properties[name] = value

    def __delitem__(self, name: str) -> None:
        self.seen.add(name)
        del self._properties[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._properties])

    def __len__(self) -> int:
        return len(self._properties)

    def every(self, *but: str) -> Json:
        """Return the properties that the API has under the same names: all but those named."""
        return {name: self[name] for name in self if name not in but}

    @property
    def unseen(self) -> set[str]:
        return set(self._properties) - self.seen


@dataclass(frozen=True)
class Place:
    """Where a resource is made."""

    name: str
    """One that CloudFormation would give it."""
    account: str
    region: str

    def api(self, service: str) -> Any:
        """Return a client of this very server."""
        return boto3.client(
            service,
            region_name=self.region,
            endpoint_url=os.environ["EMULATOR_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 # of nobody
        )


@dataclass
class Made:
    """What stands in the stack: its id, and what `Fn::GetAtt` answers."""

    physical_id: str
    attributes: Json = field(default_factory=Json)


Make = Callable[[Place, Wanted], Made]
Drop = Callable[[Place, str], None]


class _Resource(CloudFormationModel):
    """One resource of a stack, as moto wants to see it."""

    def __init__(self, made: Made, kind: str) -> None:
        self._made = made
        self.type = kind
        self.tags: Json = {}

    @property
    def physical_resource_id(self) -> str:
        return self._made.physical_id

    def is_created(self) -> bool:
        return True

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        if attribute_name not in self._made.attributes:
            raise UnformattedGetAttTemplateException
        return self._made.attributes[attribute_name]


def kind(name: str, *attributes: str, drop: Drop | None = None) -> Callable[[Make], Make]:
    """Have a function make the resources of one type, also of one that moto makes in its own way."""

    def register(make: Make) -> Make:
        def create(
            cls: type,
            resource_name: str,
            cloudformation_json: Json,
            account_id: str,
            region_name: str,
            **_: Any,
        ) -> Any:
            wanted = Wanted(dict(cloudformation_json.get("Properties", {})))
            try:
                made = make(Place(resource_name, account_id, region_name), wanted)
            except Exception as error:
                LEFT.failures.append(f"{name}: {error!r}")
                raise
            LEFT.properties |= {f"{name} {one}" for one in wanted.unseen if one != "Tags"}
            return type("Resource", (_Resource,), _statics(name))(made, name)

        def update(
            cls: type,
            original_resource: Any,
            new_resource_name: str,
            cloudformation_json: Json,
            account_id: str,
            region_name: str,
        ) -> CloudFormationModel:
            return create(cls, new_resource_name, cloudformation_json, account_id, region_name)

        def delete(
            cls: type, resource_name: str, cloudformation_json: Json, account_id: str, region_name: str
        ) -> None:
            if drop is not None:
                drop(Place(resource_name, account_id, region_name), resource_name)

        members: Json = {
            **_statics(name),
            "has_cfn_attr": classmethod(lambda cls, attr: attr in attributes),
            "create_from_cloudformation_json": classmethod(create),
            "update_from_cloudformation_json": classmethod(update),
            "delete_from_cloudformation_json": classmethod(delete),
        }
        _OURS[name] = type(name.replace("::", ""), (CloudFormationModel,), members)
        return make

    return register


_OURS: dict[str, type] = {}


def _statics(name: str) -> Json:
    return {
        "cloudformation_type": staticmethod(lambda: name),
        "cloudformation_name_type": staticmethod(lambda: ""),
    }


def refuse_what_is_not_emulated() -> None:
    """Have a template fail for a type that nobody makes; moto itself would say that all was created."""
    known = parsing.resource_class_from_type

    def strict(resource_type: str) -> Any:
        # moto has a way of its own for all of Custom::, which needs containers.
        found = _OURS.get(resource_type) or known(resource_type)
        if found is None and resource_type != "AWS::CDK::Metadata":
            LEFT.failures.append(resource_type)
            raise NotEmulated(f"tests/infra/emulator makes no {resource_type}")
        return found

    parsing.resource_class_from_type = strict  # pyright: ignore[reportAttributeAccessIssue]
