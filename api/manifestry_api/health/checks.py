"""What readiness looks at: pure judgements of what the probes have brought; the clock is an argument."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from manifestry.core.access import identities
from manifestry.core.kube import conditions, names

CACHE_MAX_AGE_SECONDS = 90.0  # the server sends a bookmark about every 60 s
LEASE_GRACE_SECONDS = 5.0
KINDS = (names.ARTIFACTS, names.JOBS, names.JOB_TYPES, names.TENANT_QUOTAS, names.QUOTA_LEDGERS)

Verdict = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True)
class Row:
    """One check.

    Args:
        age_seconds: since it was last known to be so; None when it never was looked at.
        reason: empty when all is well.
        is_vital: whether nothing can be served without it; else it only degrades.
    """

    name: str
    ok: bool
    age_seconds: float | None = None
    reason: str = ""
    is_vital: bool = True

    def render(self) -> dict[str, Any]:
        """Return the row as JSON."""
        age = None if self.age_seconds is None else round(self.age_seconds, 1)
        return {"name": self.name, "ok": self.ok, "ageSeconds": age, "reason": self.reason}


def verdict(rows: Iterable[Row], excluded: Collection[str] = ()) -> Verdict:
    """Return `failed` when something vital is not well, `degraded` when only something else is not.

    Args:
        rows: what was looked at.
        excluded: names of rows that do not count.
    """
    bad = [row for row in rows if not row.ok and row.name not in excluded]
    if any(row.is_vital for row in bad):
        return "failed"
    return "degraded" if bad else "ok"


def caches_row(states: Iterable[tuple[str, bool, float, str | None]], now_seconds: float) -> Row:
    """Judge the watch caches by (name, synced, last contact on the monotonic clock, failure)."""
    oldest, reasons = 0.0, []
    for name, synced, contact, failure in states:
        age = now_seconds - contact
        if not synced:
            reasons.append(f"{name} is not filled yet{f' ({failure})' if failure else ''}")
            continue
        oldest = max(oldest, age)
        if age > CACHE_MAX_AGE_SECONDS:
            reasons.append(f"{name} was last heard of {age:.0f} s ago")
    return Row("caches", not reasons, oldest, "; ".join(reasons))


def lease_problem(lease: Mapping[str, Any], now: datetime) -> str:
    """Return why the operator's Lease is not held, empty when it is."""
    spec = lease.get("spec") or {}
    renewed = parse_time(str(spec.get("renewTime") or ""))
    if not spec.get("holderIdentity") or renewed is None:
        return "no operator holds the lease"
    age = (now - renewed).total_seconds()
    allowed = float(spec.get("leaseDurationSeconds") or 15) + LEASE_GRACE_SECONDS
    return f"the lease was last renewed {age:.0f} s ago" if age > allowed else ""


def crd_problem(crd: Mapping[str, Any], version: str = names.VERSION) -> str:
    """Return why a CustomResourceDefinition cannot be used at `version`, empty when it can."""
    name = crd["metadata"]["name"]
    if not conditions.is_status((crd.get("status") or {}).get("conditions"), "Established", "True"):
        return f"{name} is not established"
    served = [row["name"] for row in crd["spec"]["versions"] if row.get("served")]
    return "" if version in served else f"{name} does not serve {version}"


def webhook_problem(configuration: Mapping[str, Any]) -> str:
    """Return why the API server cannot call our webhook, empty when it can."""
    webhooks: Sequence[Mapping[str, Any]] = configuration.get("webhooks") or ()
    if not webhooks:
        return "the webhook configuration has no webhooks"
    bare = [row["name"] for row in webhooks if not (row.get("clientConfig") or {}).get("caBundle")]
    return f"webhook {bare[0]} has no caBundle" if bare else ""


def tenants_row(directory: identities.Directory) -> Row:
    """Judge whether every tenant has exactly one namespace; names are not said, for anybody may read this."""
    count = len(directory.ambiguous)
    if not count:
        return Row("tenants", True, 0.0)
    what = "1 tenant is" if count == 1 else f"{count} tenants are"
    hint = f"`kubectl get namespaces -L {names.TENANT_LABEL}` shows which"
    return Row("tenants", False, 0.0, f"{what} claimed by several namespaces and not served; {hint}")


def parse_time(text: str) -> datetime | None:
    """Return a metav1.MicroTime or metav1.Time, None when it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
