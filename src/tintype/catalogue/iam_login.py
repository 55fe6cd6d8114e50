"""Logging in to Amazon RDS as an IAM role: a token in the password's place, new for every connection."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from botocore.config import Config

from tintype.aws import aws_session

Parameters = dict[str, Any]


async def with_token(parameters: Parameters, region: str) -> Parameters:
    """Return libpq's connection parameters with a token of this process's role as the password.

    A token is good for 15 minutes, and only a connection's beginning needs it. It is signed here; AWS is
    asked for the role's credentials alone, now and then (Amazon RDS User Guide, "Connecting to your DB
    instance using IAM authentication"). Raises botocore's errors where there are no credentials.
    """
    loop = asyncio.get_running_loop()
    token = await loop.run_in_executor(_thread(), _token, region, _address(parameters))
    return parameters | {"password": token}


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
    return aws_session().client(
        "rds",
        region_name=region,
        config=Config(
            connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 3, "mode": "standard"}
        ),
    )


@lru_cache(maxsize=1)
def _thread() -> ThreadPoolExecutor:
    """One signs for all; while it waits for the role's credentials, no other work does."""
    return ThreadPoolExecutor(1, thread_name_prefix="iam-login")
