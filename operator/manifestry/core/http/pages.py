"""Keyset pages: stable under inserts and deletes, with tokens bound to the filters they were made for.

A token holds the last key that was shown, never an offset, so objects that come or go between two pages
neither hide nor repeat another one. It is opaque but not secret: forging one only moves its owner's own page,
because the tenant is taken from the request and never from the token.
References: AIP-158; Kubernetes API concepts "Retrieving large results sets in chunks".
"""

import base64
import binascii
import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Generic, TypeVar

from manifestry.core import errors

Key = tuple[int | str, ...]
T = TypeVar("T")

LIMIT_DEFAULT = 100
LIMIT_MAX = 500
TOKEN_LIFETIME_SECONDS = 3600
TOKEN_MAX_LENGTH = 1024
_VERSION = 1
_INT64 = 1 << 63  # no key and no time of ours is beyond, and a float cannot hold every integer


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page.

    Args:
        items: at most `limit` of them, in order.
        token: what to send as `continue` for the next page; None means this is the last one.
    """

    items: list[T]
    token: str | None


@dataclass(frozen=True)
class Query:
    """What a client asked for.

    Args:
        limit: 1..LIMIT_MAX.
        token: the `continue` parameter, or None for the first page.
        filters: everything that selects or orders, the tenant and the route included.
    """

    limit: int
    token: str | None
    filters: Mapping[str, Any]


def newest_first(body: Mapping[str, Any]) -> Key:
    """Return the order of objects: creation time descending, then name."""
    metadata = body.get("metadata") or {}
    return -_digits(str(metadata.get("creationTimestamp") or "0")), str(metadata.get("name", ""))


@lru_cache(maxsize=1 << 16)  # one list reads the times of all its objects, the next list the same ones
def _digits(time: str) -> int:
    return int("".join(filter(str.isdecimal, time)) or "0")


def take(objects: Iterable[T], key: Callable[[T], Key], query: Query, now: datetime) -> Page[T]:
    """Return the page that `query` asks for; one pass, and never more than a page in order.

    Raises:
        Problem: bad-request (malformed token, or other filters) or gone (the token is too old).
    """
    after = _decode(query.token, query.filters, now) if query.token is not None else None
    keyed: Iterable[tuple[Key, T]] = ((key(each), each) for each in objects)
    if after is not None:
        keyed = _after(keyed, after)
    found = heapq.nsmallest(query.limit + 1, keyed, key=itemgetter(0))
    items = [each for _, each in found[: query.limit]]
    more = len(found) > query.limit
    return Page(items, _encode(found[query.limit - 1][0], query.filters, now) if more else None)


def start(query: Query, now: datetime) -> Key | None:
    """Return the key after which the page begins, None for the first; for lists that can begin anywhere.

    Raises:
        Problem: as `take` does.
    """
    return _decode(query.token, query.filters, now) if query.token is not None else None


def token_after(key: Key, query: Query, now: datetime) -> str:
    """Return the token of the page that begins after `key`."""
    return _encode(key, query.filters, now)


def _after(keyed: Iterable[tuple[Key, T]], after: Key) -> Iterator[tuple[Key, T]]:
    rest = iter(keyed)
    first = next(rest, None)
    if first is None:
        return
    if [type(part) for part in first[0]] != [type(part) for part in after]:  # one list, one shape
        raise _bad("`continue` must be a token from an earlier answer")
    yield from (each for each in chain((first,), rest) if each[0] > after)


def _fingerprint(filters: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in filters.items() if v is not None}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encode(key: Key, filters: Mapping[str, Any], now: datetime) -> str:
    content = [_VERSION, int(now.timestamp()), _fingerprint(filters), list(key)]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(token: str, filters: Mapping[str, Any], now: datetime) -> Key:
    issued, fingerprint, key = _parse(token)
    if fingerprint != _fingerprint(filters):
        raise _bad("`continue` must be used with the filters it was made for")
    if not -60 <= now.timestamp() - issued <= TOKEN_LIFETIME_SECONDS:
        raise errors.Problem(errors.GONE, "`continue` has expired; begin again without it")
    return key


def _parse(token: str) -> tuple[int, str, Key]:
    match _load(token):
        case [int(version), int(issued), str(fingerprint), [*parts]] if (
            version == _VERSION and _is_int64(issued) and _is_key(parts)
        ):
            return issued, fingerprint, tuple(parts)
    raise _bad("`continue` must be a token from an earlier answer")


def _load(token: str) -> Any:
    if len(token) > TOKEN_MAX_LENGTH:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        return json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        return None


def _is_key(parts: Sequence[Any]) -> bool:
    return bool(parts) and all(isinstance(part, str) or _is_int64(part) for part in parts)


def _is_int64(value: object) -> bool:
    return type(value) is int and -_INT64 <= value < _INT64


def _bad(message: str) -> errors.Problem:
    return errors.Problem(errors.BAD_REQUEST, message, (errors.FieldError("query:continue", message),))
