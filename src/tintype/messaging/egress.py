"""Where we may send to: an address that a stranger names must not lead into our own network."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from tintype.model.errors import AddressRefused
from tintype.settings import WebhookSettings

RESOLVE_SECONDS = 5
RESOLVE_THREADS = 8

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215: translated by whatever rule a network has
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, section 2.5.5.1
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214, section 6.1: the upper half of the interface's identifier
_METADATA = (IPv6Address("fd00:ec2::254"), IPv6Address("fd00:ec2::23"))  # EC2 and EKS, besides 169.254.*
_RELAYS = IPv4Network("192.88.99.0/24")  # RFC 7526: led to 6to4 relays

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """A URL with the address that it was found to lead to, to be connected to without another look."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address

    @property
    def authority(self) -> str:
        """What the `Host` header says (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL with the address in place of the name."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)  # noqa: PLR2004
        return f"{self.scheme}://{host}:{self.port}{self.path}"


_PORTS = {"https": 443, "http": 80}


async def resolve_target(url: str, settings: WebhookSettings) -> Target:
    """Find where a URL leads, once, and judge every address that its name has.

    Raises `AddressRefused` for anything that is not public, and for a name that nobody knows: the
    sentence is the same, so that nobody can map our network by it.
    """
    parts = urlsplit(url)
    host, scheme = parts.hostname, parts.scheme
    if host is None or scheme not in _PORTS or "@" in parts.netloc:
        raise AddressRefused("A webhook is a complete URL without a user name, as https://example.com/hook.")
    if scheme == "http" and not settings.allow_private:
        raise AddressRefused("Webhooks are sent by https only. Give your endpoint a certificate.")
    port = parts.port or _PORTS[scheme]
    if port not in settings.ports and not settings.allow_private:
        allowed = ", ".join(str(each) for each in sorted(settings.ports))
        raise AddressRefused(f"Webhooks go to the ports {allowed} only. Listen on one of them.")
    addresses = await _addresses(host, port)
    fits = _is_callable if settings.allow_private else is_public
    if not addresses or not all(map(fits, addresses)):
        raise AddressRefused(
            "The webhook's host has no address, or one that is not public. Name another host."
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme, host, port, path, addresses[0])


def is_public(address: Address) -> bool:
    """Tell whether an address, and every IPv4 address that it carries, belongs to the public internet."""
    if isinstance(address, IPv6Address):
        if address in _LOCAL_NAT64 or address.scope_id is not None:
            return False
        carried = _carried(address)
        if carried:
            return all(map(is_public, carried))
    elif address in _RELAYS:
        return False
    return (
        address.is_global
        and not address.is_private
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_loopback
        and not address.is_link_local
        and not address.is_unspecified
    )


def _is_callable(address: Address) -> bool:
    """Tell whether an address may be called where private ones may: a cloud's credentials never."""
    carried = _carried(address) if isinstance(address, IPv6Address) else []
    return not (address.is_link_local or address in _METADATA or any(each.is_link_local for each in carried))


def _carried(address: IPv6Address) -> list[Address]:
    """Return the IPv4 addresses that a gateway would read out of an IPv6 one."""
    number = int(address)
    low = IPv4Address(number & 0xFFFF_FFFF)
    carried: list[Address] = []
    if address.ipv4_mapped is not None:
        carried.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        carried.append(address.sixtofour)
    if address.teredo is not None:
        carried.extend(address.teredo)
    if address in _NAT64 or (address in _COMPATIBLE and number > 1):
        carried.append(low)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        carried.append(low)
    return carried


async def _addresses(host: str, port: int) -> list[Address]:
    """Return what the resolver knows, which reads `0177.1` and `2130706433` as connections would."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            found = await loop.run_in_executor(_threads(), look)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return list(dict.fromkeys(ip_address(each[4][0]) for each in found))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Return the resolver's: it blocks while a name server is silent, and others must not wait behind it."""
    return ThreadPoolExecutor(RESOLVE_THREADS, thread_name_prefix="resolver")
