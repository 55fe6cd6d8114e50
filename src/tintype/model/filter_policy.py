"""Filters: the filter policies of Amazon SNS over message attributes, checked and evaluated as SNS does."""

from collections.abc import Mapping
from typing import Any

Attribute = str | int | list[str]


def matches(policy: Mapping[str, Any], attributes: Mapping[str, Attribute]) -> bool:
    """Tell whether SNS would deliver a message with these attributes to a subscription with this policy."""
    raise NotImplementedError
