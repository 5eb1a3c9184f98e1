"""The path at which the webhook is served: a secret, for the API server shows no other proof of who it is.

The API server calls webhooks without credentials, unless its own command line names some. What tells it from
anybody else who reaches the port is a random part of the path. The operator writes it into the webhook's
configuration, and the facade accepts what the Secret lists. It is changed often: where the webhook does not
answer, the API server shows the whole URL to whoever wanted to create a Job.

References: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

PREFIX: Final = "/validate/"
TOKEN_BYTES: Final = 32  # random ones
LIFETIME: Final = timedelta(minutes=15)  # accepted for twice as long: as the current one, then the previous
KNOWN_AFTER: Final = timedelta(seconds=90)  # by then a facade has it, or has found its watch dead (70 s)
_TOKEN = re.compile(r"[0-9a-f]{64}")  # a part of a Service's path must be a DNS subdomain: no base64


@dataclass(frozen=True)
class Tokens:
    """What the Secret holds.

    Args:
        current: the newest token, in hexadecimal.
        previous: the one before, accepted until the next one is made; empty when there is none.
        made: when `current` was.
    """

    current: str = field(repr=False)
    previous: str = field(repr=False)
    made: datetime


def path(token: str) -> str:
    """Return the path that the API server calls."""
    return PREFIX + token


def renew(tokens: Tokens | None, fresh: str, now: datetime) -> Tokens:
    """Return the tokens with `fresh` as the current one when it is time; else the same.

    Args:
        tokens: None when there are none that can be read.
        fresh: TOKEN_BYTES random bytes in hexadecimal.
        now: a time more than LIFETIME ahead of the tokens' own counts as well, whoever's clock was wrong.
    """
    if tokens is None:
        return Tokens(fresh, "", now)
    return tokens if abs(now - tokens.made) < LIFETIME else Tokens(fresh, tokens.current, now)


def published(tokens: Tokens, now: datetime) -> str:
    """Return the token that the API server is to use: none that a facade may not know yet."""
    is_known = now - tokens.made >= KNOWN_AFTER
    return tokens.current if is_known or not tokens.previous else tokens.previous


def accepted(secret: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens that the facade accepts, without any that is not well-formed.

    Args:
        secret: the Secret as the API server has it.
    """
    found = (_text(secret, part) for part in ("current", "previous"))
    return tuple(token for token in found if _TOKEN.fullmatch(token))


def parse(secret: Mapping[str, Any]) -> Tokens | None:
    """Return the tokens in a Secret, None when they must be made anew."""
    tokens = accepted(secret)
    try:
        made = datetime.fromisoformat(_text(secret, "made"))
    except ValueError:
        return None
    if made.tzinfo is None or not tokens or tokens[0] != _text(secret, "current"):
        return None
    return Tokens(tokens[0], tokens[1] if len(tokens) > 1 else "", made)


def render(tokens: Tokens) -> dict[str, str]:
    """Return the Secret's `data`; all parts are always there, so that a patch leaves nothing behind."""
    made = tokens.made.astimezone(UTC).isoformat()
    parts = {"current": tokens.current, "previous": tokens.previous, "made": made}
    return {name: base64.b64encode(text.encode()).decode() for name, text in parts.items()}


def _text(secret: Mapping[str, Any], part: str) -> str:
    data = secret.get("data")
    value = data.get(part) if isinstance(data, Mapping) else None
    try:
        return base64.b64decode(value, validate=True).decode("ascii") if isinstance(value, str) else ""
    except (binascii.Error, ValueError):
        return ""
