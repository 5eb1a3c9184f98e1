"""What may be fetched from where: the rules of a `url` source, for each hop, redirect and answer.

The operator stands inside the cluster's network, and a publisher chooses the URL: so no name may lead to an
address that the publisher could not reach alone. Names prove nothing (DNS answers what its owner likes, and
another thing a moment later): the addresses are judged that are then connected to, again for each redirect.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urljoin

from manifestry.core.fetching import urls
from manifestry.core.fetching.addresses import Policy
from manifestry.core.fetching.urls import Target

REDIRECTS_MAX_COUNT: Final = 5
REFUSED_RETRY_SECONDS: Final = 600.0  # others may put right what is theirs, without a sign to us

Reason = Literal[
    "InvalidSource", "SourceNotFound", "SourceUnavailable", "StoreUnavailable", "SizeMismatch", "TooLarge"
]
Retry = Literal["soon", "seldom", "never"]


@dataclass(frozen=True)
class Fetched:
    """The bytes are staged in the store under `upload_id`; nobody can see them yet."""

    upload_id: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Failure:
    """There are no bytes.

    Args:
        message: constant for a kind of failure, without the URL: its query may be a credential.
        retry: soon (nothing is wrong on our side, like any source that is not there yet), seldom (the
            publisher must act, or whoever keeps the server), never (only another source can help).
    """

    reason: Reason
    message: str
    retry: Retry = "seldom"

    @property
    def is_refusal(self) -> bool:
        """Tell whether somebody must act."""
        return self.retry != "soon"


@dataclass(frozen=True)
class Pending:
    """The bytes are on their way, or wait for their turn; `previous` is how the last try ended."""

    previous: Failure | None = None


@dataclass(frozen=True)
class NoRoom:
    """The tenant's quota has no room for the bytes; none were accepted beyond what was charged.

    Args:
        size_bytes: how much the whole artifact needs, with all that had come of its other files by then.
        at_least: the server did not announce how many bytes come, so it may be more.
    """

    size_bytes: int
    at_least: bool = False


Outcome = Fetched | Failure | Pending | NoRoom


class FetchError(Exception):
    """A fetch that ended with a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class NoRoomError(Exception):
    """A fetch that ended with `NoRoom`."""

    def __init__(self, found: NoRoom) -> None:
        super().__init__("the tenant's quota has no room")
        self.found = found


def refused(message: str, retry: Retry = "seldom") -> FetchError:
    """Return the error for a source that must not or cannot be used."""
    return FetchError(Failure("InvalidSource", message, retry))


def unavailable(message: str) -> FetchError:
    """Return the error for a server that may answer another time."""
    return FetchError(Failure("SourceUnavailable", message, "soon"))


@dataclass(frozen=True)
class Order:
    """What is to be fetched.

    Args:
        url: as the spec has it; never logged.
        digest: what the bytes must hash to, where the publisher says so.
        size_bytes: how many they must be, where the publisher says so.
    """

    url: str = field(repr=False)
    digest: str | None = None
    size_bytes: int | None = None


def parse(text: str) -> Target:
    """Return where the URL of a spec leads.

    Raises:
        FetchError: nowhere; trying again cannot help.
    """
    try:
        return urls.parse(text)
    except urls.UrlError as error:
        raise refused(str(error), "never") from None


def follow(trail: Sequence[Target], location: str | None) -> Target:
    """Return where a redirect leads; nothing but the URL is carried along.

    Args:
        trail: the hops so far, the last one being the server that redirects.
        location: the `Location` field.

    Raises:
        FetchError: too many, in a circle, or to something that may not be fetched.

    References: RFC 9110 section 10.2.2 (`Location` may be relative, its fragment is not sent).
    """
    if not location or urls.PRINTABLE.fullmatch(location) is None:
        raise refused("the server redirects without a usable `Location`")
    if len(trail) > REDIRECTS_MAX_COUNT:
        raise refused(f"the server redirects more than {REDIRECTS_MAX_COUNT} times")
    try:
        target = parse(urljoin(trail[-1].url, location).partition("#")[0])
    except ValueError:  # urljoin: brackets that do not match
        raise refused("the server redirects to what is no URL") from None
    except FetchError as error:
        raise refused(f"the server redirects to what may not be fetched: {error}") from None
    if any(target.url == hop.url for hop in trail):
        raise refused("the server redirects in a circle")
    return target


def select(policy: Policy, found: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses of a host that may be connected to, in their order, each once.

    Raises:
        FetchError: none may. Whether a name does not exist or is one of ours is not told apart: else anybody
            could ask our resolver for internal names.
    """
    permitted = dict.fromkeys(text for text in found if policy.permits(ip_address(text)))
    if not permitted:
        raise refused("the host has no public address, and none that the administrator has allowed")
    return tuple(permitted)


@dataclass(frozen=True)
class Head:
    """What an answer says before its bytes.

    Args:
        length: `Content-Length`, None when there is none.
        is_chunked: the end of the bytes is marked.
    """

    status: int
    location: str | None = None
    encoding: str = ""
    length: int | None = None
    is_chunked: bool = False

    @property
    def is_redirect(self) -> bool:
        """Tell whether the bytes are elsewhere."""
        return self.status in {301, 302, 303, 307, 308}


_AGAIN: Final = frozenset({408, 425, 429})
_ABSENT: Final = frozenset({404, 410})


def accept(head: Head, order: Order, max_bytes: int) -> int:
    """Return how many bytes may come at most.

    Args:
        head: of an answer that is no redirect.
        order: what was asked for.
        max_bytes: what the administrator allows.

    Raises:
        FetchError: the answer is not the whole, plain payload, or too large.
    """
    if head.status in _ABSENT:
        raise FetchError(Failure("SourceNotFound", f"the server answers {head.status}", "soon"))
    if head.status >= 500 or head.status in _AGAIN:
        raise unavailable(f"the server answers {head.status}")
    if head.status != 200:
        raise refused(f"the server must answer 200, it answers {head.status}")
    if head.encoding.strip().lower() not in {"", "identity"}:
        raise refused("the server must answer without `Content-Encoding`: the bytes are stored as they come")
    if head.length is None and not head.is_chunked and order.digest is None:
        raise refused(
            "the server must mark the end of its answer, or `digest` must be set: it could be cut short"
        )
    limit = max_bytes if order.size_bytes is None else min(order.size_bytes, max_bytes)
    if head.length is not None and head.length > limit:
        raise FetchError(over(order, max_bytes))
    return limit


def over(order: Order, max_bytes: int) -> Failure:
    """Return the failure for an answer with more bytes than `accept` allowed."""
    if order.size_bytes is not None and order.size_bytes <= max_bytes:
        return Failure("SizeMismatch", f"there are more bytes, `sizeBytes` says {order.size_bytes}", "never")
    return Failure("TooLarge", f"the bytes must not be more than {max_bytes}", "never")
