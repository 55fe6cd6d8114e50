"""Sessions of AWS's library: each finds its own credentials, all share one description of the services."""

from functools import cache
from typing import Any

import boto3
from botocore.session import Session as Core


def core_session() -> Core:
    """Return botocore's own session, for what boto3 does not offer."""
    session = Core()
    session.register_component("data_loader", _descriptions())
    return session


def aws_session() -> boto3.Session:
    """Return a session of one's own. boto3's shared one would keep the first credentials that it found."""
    return boto3.Session(botocore_session=core_session())


@cache
def _descriptions() -> Any:  # noqa: ANN401 # a loader of botocore's, which has no public type
    """Return what reads the services' descriptions: megabytes each, which every session reads for itself."""
    return Core().get_component("data_loader")
