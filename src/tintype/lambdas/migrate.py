"""`migrate`: the step of a deployment that brings the database up to date before the release runs on it."""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from tintype.catalogue.logins import ensure_logins
from tintype.catalogue.master_secret import url_with_secret
from tintype.catalogue.migrations import migrate
from tintype.model.errors import TintypeError
from tintype.settings import Settings
from tintype.telemetry import configure_logs, get_logger

PHYSICAL_ID = "tintype-schema"
"""The same for ever: there is one schema, and CloudFormation deletes nothing of it."""
ANSWER_SECONDS = 10

_LOG = get_logger()


def handler(event: Mapping[str, Any], _invocation: object) -> None:
    """Do what CloudFormation's custom resource asks for, and tell it how that went.

    Whatever happens, CloudFormation is told: it would wait an hour for an answer (AWS CloudFormation User
    Guide, "Custom resource response objects").
    """
    settings = Settings()
    configure_logs(settings.log)
    try:
        if event["RequestType"] != "Delete":
            asyncio.run(_bring_up_to_date(settings))
        _answer(event, "SUCCESS", "")
    except (TintypeError, ValueError) as error:
        _LOG.exception("migrate.failed")
        _answer(event, "FAILED", str(error))
    except Exception:
        _LOG.exception("migrate.failed")
        _answer(event, "FAILED", "A defect; the log of the migrate function has its trace.")
        raise


async def _bring_up_to_date(settings: Settings) -> None:
    if settings.database.url is None:
        raise ValueError("TINTYPE_DATABASE__URL names no database.")
    url = url_with_secret(settings.database.url.get_secret_value(), os.environ["TINTYPE_MIGRATOR_SECRET"])
    steps = await migrate(url)
    logins = await ensure_logins(url, os.environ["TINTYPE_MIGRATOR_LOGINS"].split(","))
    _LOG.info("migrate.done", steps=steps, logins=logins)


def _answer(event: Mapping[str, Any], status: str, reason: str) -> None:
    body = {
        "Status": status,
        "Reason": reason[:1000],
        "PhysicalResourceId": PHYSICAL_ID,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
    }
    # The URL is signed for a request without this header; httpx would send one of its own.
    response = httpx.put(
        event["ResponseURL"], content=json.dumps(body), headers={"Content-Type": ""}, timeout=ANSWER_SECONDS
    )
    response.raise_for_status()
