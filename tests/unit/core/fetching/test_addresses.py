"""Every special range is refused at both of its ends and taken right outside of them."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.fetching import addresses
from manifestry.core.fetching.addresses import Policy

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255",
    "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "2001:200::1", "2606:4700::1111", "2a00:1450:4001::1", "3ffe:ffff::1",
    "64:ff9b::808:808",
]  # fmt: skip
SPECIAL = [
    "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255",
    "100.100.100.200", "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.169.254",
    "169.254.170.2", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.192", "192.0.2.1", "192.31.196.1",
    "192.52.193.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "192.175.48.1", "198.18.0.0",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.0",
    "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b:1::808:808",
    "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff:ffff::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1",
    "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fdff::1", "fe80::1", "fe80::1%2", "febf::1", "fec0::1",
    "ff02::1", "ff0e::1", "2606:4700::1111%1", "1fff:ffff::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_connected_to(text: str) -> None:
    assert Policy().permits(ip_address(text))


@pytest.mark.parametrize("text", SPECIAL)
def test_a_special_address_is_refused_unless_it_is_listed(text: str) -> None:
    address = ip_address(text)
    assert not Policy().permits(address)
    assert Policy((ip_network(text.partition("%")[0]),)).permits(address)


def test_listing_an_ipv4_network_does_not_list_its_disguises() -> None:
    policy = Policy(addresses.parse_networks("127.0.0.0/8"))
    assert policy.permits(ip_address("127.0.0.1"))
    for text in ("::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"):
        assert not policy.permits(ip_address(text))


@given(st.ip_addresses(v=4))
def test_python_calls_no_ipv4_address_private_that_is_taken(address: object) -> None:
    found = ip_address(str(address))
    if Policy().permits(found):
        assert not any((found.is_private, found.is_multicast, found.is_reserved, found.is_loopback))


@given(st.ip_addresses(v=6))
def test_python_calls_no_ipv6_address_private_that_is_taken(address: object) -> None:
    found = ip_address(str(address))
    if Policy().permits(found):
        assert not any((found.is_private, found.is_multicast, found.is_link_local, found.is_loopback))


def test_networks_are_read_from_a_list() -> None:
    assert addresses.parse_networks("") == ()
    assert addresses.parse_networks(" 10.0.0.0/8, fd00::/8\n127.0.0.1 ") == (
        IPv4Network("10.0.0.0/8"),
        IPv6Network("fd00::/8"),
        IPv4Network("127.0.0.1/32"),
    )
    for text in ("10.0.0.1/8", "example.org", "10.0.0.0/33"):
        with pytest.raises(ValueError, match=r"\S"):
            addresses.parse_networks(text)
