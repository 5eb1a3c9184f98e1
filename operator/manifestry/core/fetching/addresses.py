"""Which addresses the operator may connect to in a publisher's name: an explicit table, not a library's idea.

Python's `is_global` changes from one patch release to the next, and knows nothing of clouds.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registries (RFC 6890), and what clouds serve their machines' credentials from.
_SPECIAL_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, pods of some clouds; 100.100.100.200 is Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",  # link-local, and most metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Everything else (loopback, v4-mapped, ULA, link-local, multicast) is outside of global unicast.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")  # DNS64 gives it for every IPv4 server; RFC 6052 section 2.1


def is_public(address: Address) -> bool:
    """Tell whether an address can only be a server of the public Internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


@dataclass(frozen=True)
class Policy:
    """Which addresses may be connected to: public ones, and those that the administrator has listed."""

    allowed: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        """Tell whether an address may be connected to, judged exactly as it will be used."""
        return is_public(address) or any(
            network.version == address.version and address in network for network in self.allowed
        )


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a comma-separated list such as `10.0.0.0/8,fd00::/8`.

    Raises:
        ValueError: one is no network, or has bits set beyond its length.
    """
    return tuple(ip_network(part) for part in re.split(r"[,\s]+", text) if part)
