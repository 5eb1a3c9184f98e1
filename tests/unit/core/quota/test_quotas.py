from typing import Any

import pytest

from manifestry.core.kube import conditions
from manifestry.core.quota import quotas
from manifestry.core.quota.quotas import Limits, Usage


def quota(name: Any, tenants: Any, rows: Any = (), created: Any = "2026-01-01T00:00:00Z") -> Any:
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"tenants": tenants, "jobs": [*rows]},
    }


def row(job_type: Any, running: Any = None, queued: Any = None) -> Any:
    fields = {"jobType": job_type, "maxRunning": running, "maxQueued": queued}
    return {name: value for name, value in fields.items() if value is not None}


ACME = quota("acme", ["acme"], [row("render", 10, 50), row("*", 1, 0)])
REST = quota("rest", ["*"], [row("*", 2, 2)])


@pytest.mark.parametrize(
    ("why", "tenant", "job_type", "quotas_", "expected"),
    [
        ("a tenant without any quota is unlimited", "x", "render", [], Limits(None, None)),
        ("the row of the type holds", "acme", "render", [ACME], Limits(10, 50)),
        ("other types take the row `*`", "acme", "other", [ACME], Limits(1, 0)),
        ("a tenant of no quota takes the quota `*`", "x", "render", [ACME, REST], Limits(2, 2)),
        ("its own quota goes before the quota `*`", "acme", "render", [REST, ACME], Limits(10, 50)),
        ("without a row for it a type is unlimited", "b", "z", [quota("b", ["b"], [row("y", 1)])], Limits()),
        ("absent is unlimited, zero is none", "b", "y", [quota("b", ["b"], [row("y", 0)])], Limits(0, None)),
        (
            "the older quota wins",
            "acme",
            "render",
            [quota("new", ["acme"], [row("*", 9, 9)], "2026-02-01T00:00:00Z"), ACME],
            Limits(10, 50),
        ),
        (
            "of the same age the first by name wins",
            "t",
            "x",
            [quota("b", ["t"], [row("*", 2, 2)]), quota("a", ["t"], [row("*", 1, 1)])],
            Limits(1, 1),
        ),
        (
            "an unreadable limit refuses rather than overshoots",
            "t",
            "x",
            [quota("a", ["t"], [{"jobType": "x", "maxRunning": "many", "maxQueued": -1}, "junk"])],
            Limits(0, 0),
        ),
    ],
)
def test_limits(why: Any, tenant: Any, job_type: Any, quotas_: Any, expected: Any) -> None:
    assert quotas.Table.of(quotas_).limits(tenant, job_type) == expected, why


@pytest.mark.parametrize(
    ("usage", "limits", "room", "free"),
    [
        (Usage(0, 0, 0), Limits(1, 0), True, 1),
        (Usage(0, 0, 1), Limits(1, 0), False, 0),
        (Usage(1, 1, 1), Limits(2, 2), True, 1),
        (Usage(1, 2, 1), Limits(2, 2), False, 1),
        (Usage(9, 9, 9), Limits(None, 0), True, None),
        (Usage(9, 9, 9), Limits(1, None), True, 0),
        (Usage(0, 0, 0), Limits(0, 0), False, 0),
    ],
)
def test_the_two_gates(usage: Any, limits: Any, room: Any, free: Any) -> None:
    assert quotas.fits(usage, limits) is room
    assert quotas.free_slots(usage, limits) == free


@pytest.mark.parametrize(
    ("usage", "limits", "over"),
    [
        (Usage(0, 0, 2), Limits(1, 5), True),
        (Usage(0, 4, 1), Limits(1, 2), True),
        (Usage(0, 2, 1), Limits(1, 2), False),
        (Usage(0, 2, 1), Limits(), False),
    ],
)
def test_a_lowered_limit_is_noticed(usage: Any, limits: Any, over: Any) -> None:
    assert quotas.is_over(usage, limits) is over


def test_usage_is_described_as_the_docs_say() -> None:
    text = quotas.describe("acme", "render", Usage(20, 30, 10), Limits(10, 50))
    assert text == 'tenant "acme", job type "render": running 10/10, queued 50/50'
    assert quotas.describe("a", "b", Usage(), Limits()).endswith("running 0/unlimited, queued 0/unlimited")


@pytest.mark.parametrize(
    ("usage", "limits", "share"),
    [(Usage(1, 1, 2), Limits(4, 4), 0.5), (Usage(), Limits(0, 0), 1.0), (Usage(5), Limits(None, 1), 0.0)],
)
def test_share(usage: Any, limits: Any, share: Any) -> None:
    assert quotas.share(usage, limits) == share


def test_the_younger_of_two_quotas_is_not_ready() -> None:
    young = quota("young", ["acme", "b", "*"], created="2026-02-01T00:00:00Z")
    assert quotas.Table.of([young, ACME, REST]).conflicts(young) == (("*", "rest"), ("acme", "acme"))
    assert quotas.Table.of([young, ACME, REST]).conflicts(ACME) == ()
    rendered = quotas.quota_conditions(quotas.Table.of([young, ACME]).conflicts(young), ("over",))
    assert [(c.type, c.status, c.reason) for c in rendered] == [
        ("Ready", "False", "TenantConflict"),
        ("Stalled", "True", "TenantConflict"),
        ("OverLimit", "True", "UsageAboveLimit"),
    ]
    assert 'tenant "acme" is governed by TenantQuota "acme"' in rendered[0].message


def test_a_quota_in_force_is_ready() -> None:
    assert quotas.quota_conditions((), ()) == (
        conditions.Condition("Ready", "True", "InForce", "the limits are in force"),
        conditions.Condition("OverLimit", "False", "WithinLimits", "usage is within the limits"),
    )


@pytest.mark.parametrize(
    "spec", [None, 3, [], {"tenants": 3}, {"tenants": {"a": []}}, {"tenants": [[], {}, 1]}]
)
def test_a_quota_of_another_shape_governs_nobody_and_stops_nobody(spec: Any) -> None:
    broken = {"metadata": {"name": "broken", "creationTimestamp": "2020-01-01T00:00:00Z"}, "spec": spec}
    fine = {
        "metadata": {"name": "fine", "creationTimestamp": "2021-01-01T00:00:00Z"},
        "spec": {"tenants": ["acme"], "jobs": [{"jobType": "*", "maxRunning": 1}]},
    }
    assert quotas.Table.of([broken, fine]).limits("acme", "x").max_running == 1


@pytest.mark.parametrize("jobs", [3, "x", {"a": 1}])
def test_rows_of_another_shape_refuse_rather_than_overshoot(jobs: Any) -> None:
    broken = {"metadata": {"name": "broken"}, "spec": {"tenants": ["acme"], "jobs": jobs}}
    assert quotas.Table.of([broken]).limits("acme", "x") == quotas.Limits(0, 0)
