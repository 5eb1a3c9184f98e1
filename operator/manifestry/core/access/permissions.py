"""Who may do what: one table, which is the code, the documentation and the test.

Every API route names one action. A new route without an action cannot be reached (tests/unit/api), and an
action without a row here is denied to everybody.

References: design/architecture.md "Roles"; docs/access.md is generated from `TABLE`.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Role(StrEnum):
    """What a RoleBinding to ClusterRole `manifestry-<role>` grants in a tenant's namespace."""

    VIEWER = "viewer"
    PUBLISHER = "publisher"
    OPERATOR = "operator"
    ADMIN = "admin"


ALIASES: Mapping[str, Role] = MappingProxyType({"reader": Role.VIEWER})


class Action(StrEnum):
    """What a route does; the value is the rule's name in a 403 answer and in the audit log."""

    ARTIFACTS_READ = "artifacts:read"
    ARTIFACTS_DOWNLOAD = "artifacts:download"
    ARTIFACTS_WRITE = "artifacts:write"  # create, update, upload
    ARTIFACTS_DELETE = "artifacts:delete"
    JOBS_READ = "jobs:read"
    JOBS_LOGS = "jobs:logs"
    JOBS_SUBMIT = "jobs:submit"
    JOBS_CONTROL = "jobs:control"  # cancel, suspend, resume, retry
    JOBS_DELETE = "jobs:delete"
    JOB_TYPES_READ = "job-types:read"
    QUOTAS_READ = "quotas:read"
    LINEAGE_READ = "lineage:read"
    AUDIT_READ = "audit:read"
    INTEGRITY_CHECK = "integrity:check"
    GARBAGE_COLLECT = "garbage:collect"
    RETAINED_READ = "retained:read"
    RETAINED_DELETE = "retained:delete"


_EVERYONE = frozenset(Role)
_PUBLISHERS = frozenset({Role.PUBLISHER, Role.ADMIN})
_OPERATORS = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMINS = frozenset({Role.ADMIN})

TABLE: Mapping[Action, frozenset[Role]] = MappingProxyType(
    {
        Action.ARTIFACTS_READ: _EVERYONE,
        Action.ARTIFACTS_DOWNLOAD: _EVERYONE,
        Action.ARTIFACTS_WRITE: _PUBLISHERS,
        Action.ARTIFACTS_DELETE: _PUBLISHERS,
        Action.JOBS_READ: _EVERYONE,
        Action.JOBS_LOGS: _EVERYONE,
        Action.JOBS_SUBMIT: _OPERATORS,
        Action.JOBS_CONTROL: _OPERATORS,
        Action.JOBS_DELETE: _OPERATORS,
        Action.JOB_TYPES_READ: _EVERYONE,
        Action.QUOTAS_READ: _EVERYONE,
        Action.LINEAGE_READ: _EVERYONE,
        Action.AUDIT_READ: _ADMINS,
        Action.INTEGRITY_CHECK: _ADMINS,
        Action.GARBAGE_COLLECT: _ADMINS,
        Action.RETAINED_READ: _ADMINS,
        Action.RETAINED_DELETE: _ADMINS,
    }
)


@dataclass(frozen=True)
class Allowed:
    """The action may be done."""


@dataclass(frozen=True)
class Denied:
    """The action may not be done.

    Args:
        rule: the action's name.
        sufficient: the roles of which any one would do; empty means nobody may.
    """

    rule: str
    sufficient: tuple[Role, ...]

    @property
    def message(self) -> str:
        """Return the sentence for the caller: the rule and the roles that would do."""
        roles = ", ".join(self.sufficient) or "none"
        return f"rule `{self.rule}` must be met by one of the roles: {roles}"


Decision = Allowed | Denied


def decide(action: Action, roles: Iterable[Role]) -> Decision:
    """Decide one action for the roles a request claims; whatever the table does not list is denied."""
    sufficient = TABLE.get(action, frozenset())
    if sufficient.isdisjoint(roles):
        return Denied(action.value, tuple(role for role in Role if role in sufficient))
    return Allowed()


def parse_role(text: str) -> Role | None:
    """Return the role named `text` (`reader` is viewer), or None."""
    try:
        return ALIASES.get(text) or Role(text)
    except ValueError:
        return None


@functools.cache
def covered(granted: frozenset[Role]) -> frozenset[Role]:
    """Return the roles that `granted` may claim: each one the table lets do nothing more than a granted one.

    So an admin may act as a viewer (narrowing), and nobody may claim a role that adds an action.
    """
    rights = [_rights(role) for role in granted]
    return frozenset(role for role in Role if any(_rights(role) <= each for each in rights))


@functools.cache
def _rights(role: Role) -> frozenset[Action]:
    return frozenset(action for action, roles in TABLE.items() if role in roles)
