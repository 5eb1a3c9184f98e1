"""How much a tenant may store, and how much of it is used, as users are told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.core.kube import bodies
from manifestry.core.quota import quotas
from manifestry.core.quota.storage import lives
from manifestry.core.quota.storage.charges import Account, Totals, build


@dataclass(frozen=True)
class Limits:
    """How much a tenant may store; None is unlimited, 0 is nothing."""

    max_bytes: int | None = None
    max_artifacts: int | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether there is anything to keep."""
        return self.max_bytes is not None or self.max_artifacts is not None


UNLIMITED = Limits()


def limits_for(tenant: str, table: quotas.Table) -> Limits:
    """Return the limits of one tenant's storage, UNLIMITED without a quota.

    Args:
        tenant: the tenant's name.
        table: all TenantQuotas.
    """
    quota = table.governing(tenant)
    row = bodies.spec_of(quota).get("storage") or {}
    if not isinstance(row, Mapping):
        return Limits(0, 0)  # unreadable: refuse rather than overshoot
    return Limits(_limit(row, "maxBytes"), _limit(row, "maxArtifacts"))


def usage(account: Account, limits: Limits) -> dict[str, int]:
    """Return the numbers that REST shows, without limits that are not set, nor what is not retained."""
    row = {
        "usedBytes": account.totals.committed_bytes,
        "reservedBytes": account.reserved_bytes,
        "maxBytes": limits.max_bytes,
        "artifacts": account.artifacts,
        "maxArtifacts": limits.max_artifacts,
        "retainedBytes": account.totals.retained_bytes if account.totals.retained_count else None,
        "retainedArtifacts": account.totals.retained_count or None,
    }
    return {key: value for key, value in row.items() if value is not None}


def storage(
    artifacts: Iterable[Mapping[str, Any]], limits: Limits, account: Account | None
) -> dict[str, Any]:
    """Return what a tenant stores and may store; an unlimited limit is absent.

    Args:
        artifacts: its Artifacts, which are counted where there is no ledger.
        limits: its limits.
        account: its storage ledger; None without a limit.
    """
    if account is not None and account.initialized:
        return dict(usage(account, limits))
    sizes = [lives.stored_bytes(each) for each in artifacts]
    return usage(build((), Totals(sum(sizes), len(sizes))), limits)


def is_over(account: Account, limits: Limits) -> bool:
    """Tell whether usage is above a limit that came, or was lowered, after the artifacts were accepted."""
    bytes_over = limits.max_bytes is not None and account.used_bytes > limits.max_bytes
    return bytes_over or (limits.max_artifacts is not None and account.artifacts > limits.max_artifacts)


def describe(tenant: str, found: Mapping[str, int]) -> str:
    """Return what a refusal says: `tenant "a", storage: bytes 1+2/10, artifacts 3/unlimited`."""
    most, artifacts = found.get("maxBytes", "unlimited"), found.get("maxArtifacts", "unlimited")
    retained = f" ({found['retainedBytes']} of them retained)" if "retainedBytes" in found else ""
    return (
        f'tenant "{tenant}", storage: bytes {found.get("usedBytes", 0)} stored{retained} and '
        f"{found.get('reservedBytes', 0)} reserved of {most}, "
        f"artifacts {found.get('artifacts', 0)} of {artifacts}"
    )


def _limit(row: Mapping[str, Any], name: str) -> int | None:
    limit = row.get(name)
    if limit is None:
        return None
    return limit if isinstance(limit, int) and limit >= 0 else 0  # unreadable: refuse rather than overshoot
