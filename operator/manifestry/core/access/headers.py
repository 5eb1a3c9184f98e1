"""The four headers that every API request must carry: who, for which tenant, why, in which roles.

They claim; the token and the grants decide (`identities`). A missing one is 401, because without it
nobody can be held to account; a malformed one is 400.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manifestry.core import errors
from manifestry.core.access import permissions

ACTOR, TENANT, REASON, ROLES = "X-Actor", "X-Tenant", "X-Reason", "X-Roles"
LIMITS: Mapping[str, int] = {ACTOR: 320, TENANT: 63, REASON: 512, ROLES: 128}  # characters
REQUIRED: tuple[str, ...] = tuple(LIMITS)


@dataclass(frozen=True)
class Claims:
    """What the headers say, not yet believed."""

    actor: str
    tenant: str
    reason: str
    roles: frozenset[permissions.Role]


def parse(values: Mapping[str, Sequence[str]]) -> Claims:
    """Read the claims from every value that came under each name of `REQUIRED`.

    Raises:
        Problem: `audit-header-missing` (absent, empty, blank), `bad-request` (repeated, too long, not
            printable), `forbidden` (a role that does not exist can be granted to nobody).
    """
    return _parse(tuple([tuple(values.get(name, ())) for name in REQUIRED]))


@functools.lru_cache(maxsize=256)  # of a client that says the same again; a head has at most 64 KiB
def _parse(values: tuple[tuple[str, ...], ...]) -> Claims:
    actor, tenant, reason, roles = map(_one, REQUIRED, values)
    return Claims(actor, tenant, reason, _roles(roles))


def _one(name: str, values: Sequence[str]) -> str:
    texts = [text for text in (value.strip() for value in values) if text]
    if not texts:
        raise missing(name)
    if len(values) > 1:
        raise errors.Problem(errors.BAD_REQUEST, f"header `{name}` must be sent once")
    if len(texts[0]) > LIMITS[name]:
        raise errors.Problem(
            errors.BAD_REQUEST, f"header `{name}` must have at most {LIMITS[name]} characters"
        )
    if not texts[0].isprintable():
        raise errors.Problem(errors.BAD_REQUEST, f"header `{name}` must be printable UTF-8 text")
    return texts[0]


def missing(name: str) -> errors.Problem:
    """Return the problem that names the missing header."""
    return errors.Problem(errors.AUDIT_HEADER_MISSING, f"header `{name}` must be set and not be empty")


def _roles(text: str) -> frozenset[permissions.Role]:
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    if not names:
        raise missing(ROLES)
    roles = frozenset(role for role in map(permissions.parse_role, names) if role is not None)
    if unknown := [name for name in names if permissions.parse_role(name) is None]:
        raise errors.Problem(
            errors.FORBIDDEN,
            f"header `{ROLES}` must only name the roles {', '.join(permissions.Role)}; unknown: {unknown[0]}",
        )
    return roles
