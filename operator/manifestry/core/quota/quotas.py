"""Which limits hold for a tenant and a job type, and which TenantQuota wins where two name one tenant."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.core.kube import bodies, conditions

ANY = "*"
NOTHING: Mapping[str, Any] = {"maxRunning": 0, "maxQueued": 0}  # unreadable rows refuse, never overshoot
WARNING_SHARE = 0.8


@dataclass(frozen=True)
class Limits:
    """How many Jobs of one type a tenant may have; None is unlimited, 0 is none."""

    max_running: int | None = None
    max_queued: int | None = None

    @property
    def max_held(self) -> int | None:
        """Return the submit gate's limit on all holders together, None when either part is unlimited."""
        if self.max_running is None or self.max_queued is None:
            return None
        return self.max_running + self.max_queued


@dataclass(frozen=True)
class Usage:
    """How many holders of a ledger are in each state."""

    reserved: int = 0
    queued: int = 0
    admitted: int = 0

    @property
    def held(self) -> int:
        """Return what the submit gate counts."""
        return self.reserved + self.queued + self.admitted

    @property
    def waiting(self) -> int:
        """Return what users see as queued: everything accepted that may not run yet."""
        return self.reserved + self.queued


UNLIMITED = Limits()


def fits(usage: Usage, limits: Limits, more: int = 1) -> bool:
    """Tell whether the submit gate lets `more` holders in."""
    return limits.max_held is None or usage.held + more <= limits.max_held


def free_slots(usage: Usage, limits: Limits) -> int | None:
    """Return how many holders the run gate may still admit, None for any number."""
    return None if limits.max_running is None else max(0, limits.max_running - usage.admitted)


def is_over(usage: Usage, limits: Limits) -> bool:
    """Tell whether usage is above a limit that was lowered after the Jobs were accepted."""
    too_many_run = limits.max_running is not None and usage.admitted > limits.max_running
    return too_many_run or not fits(usage, limits, more=0)


def share(usage: Usage, limits: Limits) -> float:
    """Return how much of the submit gate is used, 0.0 when unlimited."""
    if limits.max_held is None:
        return 0.0
    return usage.held / limits.max_held if limits.max_held else 1.0


def describe(tenant: str, job_type: str, usage: Usage, limits: Limits) -> str:
    """Return what kubectl and REST show: `tenant "a", job type "b": running 1/2, queued 3/unlimited`."""
    return (
        f'tenant "{tenant}", job type "{job_type}": '
        f"running {usage.admitted}/{_shown(limits.max_running)}, "
        f"queued {usage.waiting}/{_shown(limits.max_queued)}"
    )


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


@dataclass(frozen=True)
class Table:
    """All TenantQuotas arranged for the question that every decision asks; made anew when one has changed.

    Args:
        by_tenant: the quota that governs each tenant that is named in one; `*` stands for the others.
        rows: the rows by job type, by the quota's name.
    """

    by_tenant: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def of(cls, quotas: Iterable[Mapping[str, Any]]) -> "Table":
        """Arrange these TenantQuota bodies, which may come in any order."""
        ordered = sorted(quotas, key=_age)
        by_tenant: dict[str, Mapping[str, Any]] = {}
        for quota in ordered:
            for tenant in tenants_of(quota):
                by_tenant.setdefault(tenant, quota)
        return cls(by_tenant, {_name(quota): _rows(quota) for quota in ordered})

    def governing(self, tenant: str) -> Mapping[str, Any] | None:
        """Return the quota that governs a tenant: the oldest that names it, else the oldest with `*`."""
        return self.by_tenant.get(tenant) or self.by_tenant.get(ANY)

    def limits(self, tenant: str, job_type: str) -> Limits:
        """Return the limits of one tenant for one job type.

        Returns:
            The row of `job_type`, else the row `*`, of the quota that governs the tenant; UNLIMITED without
            one.
        """
        quota = self.governing(tenant)
        return _limits(self.rows[_name(quota)] if quota is not None else {}, job_type)

    def conflicts(self, quota: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Return (tenant, name of the older quota) for each tenant that `quota` names but does not govern."""
        winners = ((tenant, self.by_tenant.get(tenant)) for tenant in tenants_of(quota))
        return tuple(
            (tenant, _name(winner))
            for tenant, winner in winners
            if winner is not None and _age(winner) < _age(quota)
        )


def tenants_of(quota: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tenant names in a TenantQuota, sorted; `*` stands for every other tenant."""
    named = bodies.spec_of(quota).get("tenants")
    named = named if isinstance(named, list) else ()
    return tuple(sorted({name for name in named if isinstance(name, str)}))


def quota_conditions(
    disputed: tuple[tuple[str, str], ...], over: tuple[str, ...]
) -> tuple[conditions.Condition, ...]:
    """Return the conditions of a TenantQuota.

    Args:
        disputed: what `conflicts` found.
        over: one `describe` sentence for each ledger above its limit.
    """
    above = conditions.Condition(
        "OverLimit",
        "True" if over else "False",
        "UsageAboveLimit" if over else "WithinLimits",
        "; ".join(over) or "usage is within the limits",
    )
    if not disputed:
        return conditions.Condition("Ready", "True", "InForce", "the limits are in force"), above
    text = "; ".join(f'tenant "{tenant}" is governed by TenantQuota "{name}"' for tenant, name in disputed)
    return (
        conditions.Condition("Ready", "False", "TenantConflict", text),
        conditions.Condition("Stalled", "True", "TenantConflict", text),
        above,
    )


def _age(quota: Mapping[str, Any]) -> tuple[str, str]:
    metadata = quota.get("metadata") or {}
    return str(metadata.get("creationTimestamp") or "~"), str(metadata.get("name") or "")


def _name(quota: Mapping[str, Any]) -> str:
    return str((quota.get("metadata") or {}).get("name") or "")


def _limits(rows: Mapping[str, Mapping[str, Any]], job_type: str) -> Limits:
    row = rows.get(job_type) or rows.get(ANY)
    return UNLIMITED if row is None else Limits(_limit(row, "maxRunning"), _limit(row, "maxQueued"))


def _rows(quota: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    rows = bodies.spec_of(quota).get("jobs") or []
    if not isinstance(rows, list):
        return {ANY: NOTHING}
    well_formed = (row for row in rows if isinstance(row, Mapping) and isinstance(row.get("jobType"), str))
    return {row["jobType"]: row for row in well_formed}


def _limit(row: Mapping[str, Any], field: str) -> int | None:
    limit = row.get(field)
    if limit is None:
        return None
    return limit if isinstance(limit, int) and limit >= 0 else 0  # unreadable: refuse rather than overshoot
