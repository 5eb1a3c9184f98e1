"""The one spelling of an https URL that is fetched: any other is one that two programs read differently."""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

MAX_LENGTH: Final = 8192  # the CRD allows 2048; a redirect to signed storage may be longer
HOST_MAX_LENGTH: Final = 253
PORT: Final = 443

PRINTABLE: Final = re.compile(r"[!-\[\]-~]+")  # ASCII without space, control characters and the backslash
_URL = re.compile(r"https://([^/?#]*)([^#]*)(#.*)?", re.IGNORECASE)
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z0-9-]{1,63}")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # WHATWG URL "ends in a number": it would be read as an address
_PORT = re.compile(r"[0-9]{0,5}")


class UrlError(ValueError):
    """The text is no URL that is fetched; the message is a sentence with "must", without the text."""


@dataclass(frozen=True)
class Target:
    """One hop.

    Args:
        url: as it is sent, normalised.
        host: lower-case name without a trailing dot, or a literal address without brackets.
        address: the literal address, None when `host` must be resolved.
    """

    url: str = field(repr=False)
    host: str
    port: int
    address: IPv4Address | IPv6Address | None = None


def parse(text: str) -> Target:
    """Return where a URL leads.

    Only one spelling of a host is taken: a full DNS name in ASCII (a name in another script as `xn--`), an
    IPv4 address of four decimal numbers, or an IPv6 address in brackets. Every other spelling is one that two
    programs read differently.

    Raises:
        UrlError: the text is no such URL; the message says what it must be.

    References: RFC 3986 section 3.2; WHATWG URL "host parsing".
    """
    if len(text) > MAX_LENGTH or PRINTABLE.fullmatch(text) is None:
        raise UrlError(f"`url` must be printable ASCII of at most {MAX_LENGTH} characters, without '\\'")
    match = _URL.fullmatch(text)
    if match is None:
        raise UrlError("`url` must begin with 'https://'")
    if match[3] is not None:
        raise UrlError("`url` must not have a fragment")
    shown, host, port = _authority(match[1])
    path = match[2] if match[2].startswith("/") else f"/{match[2]}"
    return Target(f"https://{shown}{'' if port == PORT else f':{port}'}{path}", host, port, _literal(host))


def _authority(text: str) -> tuple[str, str, int]:
    if "@" in text:
        raise UrlError("`url` must not contain a user name or a password")
    name, bracket, rest = text.partition("]")
    if name.startswith("["):
        host = _ipv6(name[1:] if bracket else "")
        separator, port = rest[:1], rest[1:]
        shown = f"[{host}]"
    else:
        name, separator, port = text.partition(":")
        host = shown = _host(name.lower().removesuffix("."))
    if separator not in {"", ":"} or _PORT.fullmatch(port) is None or not 0 < int(port or PORT) < 1 << 16:
        raise UrlError("the port of `url` must be a number from 1 to 65535")
    return shown, host, int(port or PORT)


def _host(name: str) -> str:
    if _NUMERIC.fullmatch(name.rpartition(".")[2]) is not None:
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise UrlError(
                "the host of `url` must be a name, or an address of four decimal numbers"
            ) from None
    if len(name) > HOST_MAX_LENGTH or _NAME.fullmatch(name) is None:
        raise UrlError("the host of `url` must be a full DNS name in ASCII (`xn--` for other scripts)")
    return name


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise UrlError("the host of `url` in brackets must be an IPv6 address without a zone")
    return str(address)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
