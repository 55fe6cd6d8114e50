"""The instance: which machine answers, where it stands, since when, and whether it is on its way out."""

import asyncio
import http.client
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit

from tintype.telemetry import get_logger

BUDGET_SECONDS = 1.0
"""For the whole conversation with the metadata service: an answer that comes later is not waited for."""
MAX_DOCUMENT_BYTES = 64 * 1024
METADATA_SERVICE = "http://169.254.169.254"
ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Another address of the metadata service: the variable that AWS's own SDKs read."""
DISABLED_VARIABLE = "AWS_EC2_METADATA_DISABLED"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance stands."""

    instance_id: str
    availability_zone: str
    region: str
    platform: str
    """`ec2` or `local`."""


LOCAL = Place("local", "local", "local", "local")
UNKNOWN = Place("unknown", "unknown", "unknown", "ec2")
"""A machine of EC2's whose metadata service did not answer in time, or is switched off."""


@dataclass(slots=True)
class Instance:
    """The serving process as others see it."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    version: str = field(default_factory=lambda: version("tintype"))
    draining: bool = False
    on_drain: Callable[[], None] = field(default=lambda: None)
    """Wakes whoever would wait on although the instance is on its way out."""
    _looking: asyncio.Task[Place] | None = None

    @classmethod
    def begin(cls) -> "Instance":
        """Return the instance, and start finding out where it stands. Needs a running event loop."""
        instance = cls()
        instance._looking = asyncio.create_task(find_place(os.environ), name="instance")
        return instance

    def drain(self) -> None:
        """Say from now on that the instance is on its way out; it still answers."""
        self.draining = True
        self.on_drain()

    async def place(self) -> Place:
        """Return where the instance stands: found once, at the start, within `BUDGET_SECONDS`."""
        if self._looking is None:
            return LOCAL
        return await asyncio.shield(self._looking)


async def find_place(environment: Mapping[str, str], sys: Path = Path("/sys")) -> Place:
    """Ask the metadata service where this machine stands; a machine that is none of EC2's asks nobody."""
    endpoint = environment.get(ENDPOINT_VARIABLE)
    if environment.get(DISABLED_VARIABLE, "").lower() == "true" or not (endpoint or is_ec2(sys)):
        return LOCAL
    deadline = monotonic() + BUDGET_SECONDS
    try:
        async with asyncio.timeout(BUDGET_SECONDS):
            return await asyncio.to_thread(_ask, endpoint or METADATA_SERVICE, deadline)
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
        get_logger().warning("instance.unknown", error=repr(error))
        return UNKNOWN


def is_ec2(sys: Path) -> bool:
    """Tell whether the firmware under `sys` (`/sys`) is Amazon's.

    On a laptop 169.254.169.254 is whoever claims it in the network one happens to be in.
    Nitro says so in the vendor, Xen (T2 is Xen) in the BIOS version or the hypervisor's UUID:
    docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    firmware = ("sys_vendor", "bios_vendor", "bios_version")
    if any("amazon" in _read(sys / "class/dmi/id" / name) for name in firmware):
        return True
    return _read(sys / "hypervisor/uuid").startswith("ec2")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").lower()
    except OSError:
        return ""


def _ask(endpoint: str, deadline: float) -> Place:
    """Fetch the identity document by IMDSv2: a token by PUT first, then the document with it."""
    address = urlsplit(endpoint)
    if address.hostname is None:
        raise ValueError(f"{ENDPOINT_VARIABLE} is no address: {endpoint}")
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=BUDGET_SECONDS)
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = _exchange(connection, "PUT", "/latest/api/token", lifetime, deadline)
        pass_on = {"X-aws-ec2-metadata-token": token.decode("ascii")}
        document = _exchange(
            connection, "GET", "/latest/dynamic/instance-identity/document", pass_on, deadline
        )
    finally:
        connection.close()
    told = cast("dict[str, Any]", json.loads(document))
    return Place(str(told["instanceId"]), str(told["availabilityZone"]), str(told["region"]), "ec2")


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], deadline: float
) -> bytes:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("the metadata service took too long")
    connection.timeout = left
    if connection.sock is not None:  # kept alive from the exchange before
        connection.sock.settimeout(left)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read(MAX_DOCUMENT_BYTES)
    if response.status != http.client.OK:
        raise ConnectionError(f"the metadata service answered {response.status} to {method} {path}")
    return body
