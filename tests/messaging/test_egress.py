"""Where webhooks may go: public addresses only, however they are written."""

from ipaddress import ip_address

import pytest

from tintype.messaging.egress import is_public, resolve_target
from tintype.model.errors import AddressRefused
from tintype.settings import WebhookSettings

GUARDED = WebhookSettings()


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::8.8.8.8", "2002:0808:0808::1"],
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - an address like any other here
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "2002:7f00:0001::1",
        "2002:a9fe:a9fe::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:192.168.0.1",
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0177.0.0.1",
        "0x7f.1",
        "2130706433",
        "localhost",
        "169.254.169.254",
        "0xa9fea9fe",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "nowhere.invalid",
    ],
)
async def test_hosts_of_our_own_network_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(AddressRefused) as refusal:
        await resolve_target(f"https://{host}/hook", GUARDED)

    # Nobody learns from us which hosts there are.
    assert str(refusal.value).startswith("The webhook's host has no address, or one that is not public.")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://1.1.1.1/hook", "https only"),
        ("https://1.1.1.1:22/hook", "ports 443, 8443"),
        ("https://user@1.1.1.1/", "without a user name"),
        ("ftp://1.1.1.1/", "complete URL"),
        ("https:///hook", "complete URL"),
    ],
)
async def test_other_ways_to_reach_a_host_are_refused(url: str, reason: str) -> None:
    with pytest.raises(AddressRefused, match=reason):
        await resolve_target(url, GUARDED)


async def test_a_target_is_the_address_with_the_name_kept_for_tls_and_the_host_header() -> None:
    target = await resolve_target("https://1.1.1.1:8443/a/b?c=d", GUARDED)

    assert target.url == "https://1.1.1.1:8443/a/b?c=d"
    assert target.authority == "1.1.1.1:8443"


async def test_on_a_laptop_private_targets_can_be_allowed() -> None:
    target = await resolve_target("http://localhost:9/hook", WebhookSettings(allow_private=True))

    assert target.authority == "localhost:9"
    assert target.address.is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0xa9fea9fe",
        "169.254.170.2",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
    ],
)
async def test_a_clouds_credentials_are_called_by_nobody(host: str) -> None:
    with pytest.raises(AddressRefused):
        await resolve_target(f"http://{host}/latest", WebhookSettings(allow_private=True))
