"""Logging in to Amazon RDS as an IAM role: a token in the password's place, new for every connection."""

import asyncio
from functools import lru_cache
from typing import Any

import boto3

Parameters = dict[str, Any]


async def with_token(parameters: Parameters, region: str) -> Parameters:
    """Return libpq's connection parameters with a token of this process's role as the password.

    A token is good for 15 minutes, and only a connection's beginning needs it. It is signed here; AWS is
    asked for the role's credentials alone, now and then (Amazon RDS User Guide, "Connecting to your DB
    instance using IAM authentication"). Raises botocore's errors where there are no credentials.
    """
    return parameters | {"password": await asyncio.to_thread(_token, region, _address(parameters))}


def _address(parameters: Parameters) -> tuple[str, int, str]:
    host, user = parameters.get("host"), parameters.get("user")
    if not host or not user:
        raise ValueError("TINTYPE_DATABASE__URL needs a host and a user to log in with a token.")
    return str(host), int(parameters.get("port") or 5432), str(user)


def _token(region: str, address: tuple[str, int, str]) -> str:
    host, port, user = address
    token: str = _rds(region).generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user)
    return token


@lru_cache(maxsize=1)
def _rds(region: str) -> Any:  # noqa: ANN401  (the stubs of this client are larger than the rest of them)
    return boto3.client("rds", region_name=region)
