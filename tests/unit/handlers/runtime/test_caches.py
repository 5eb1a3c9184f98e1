"""The last seen objects of the small kinds."""

from typing import Any

from manifestry.core.kube import names
from manifestry.handlers.runtime import caches


def item(name: str, version: int, tenant: str | None = None) -> dict[str, Any]:
    labels = {names.TENANT_LABEL: tenant} if tenant else None
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels}}


def test_an_older_object_does_not_replace_a_newer_one() -> None:
    found = caches.Caches()
    assert found.put("JobType", item("a", 5))
    assert not found.put("JobType", item("a", 5))
    assert not found.put("JobType", item("a", 4))
    assert found.put("JobType", item("a", 10))
    assert found.job_types["a"]["metadata"]["resourceVersion"] == "10"
    assert not found.put("Pod", item("a", 1))


def test_a_list_tells_what_it_changed_and_keeps_what_is_newer() -> None:
    found = caches.Caches()
    for name, version in (("same", 1), ("changed", 2), ("gone", 3), ("newer", 50)):
        found.put("TenantQuota", item(name, version))
    listed = [item("same", 1), item("changed", 7), item("new", 8), item("newer", 9)]
    assert found.replace("TenantQuota", listed, "20") == {"changed", "gone", "new"}
    assert sorted(found.tenant_quotas) == ["changed", "new", "newer", "same"]
    assert found.tenant_quotas["newer"]["metadata"]["resourceVersion"] == "50"
    assert found.replace("TenantQuota", []) == {"changed", "new", "newer", "same"}


def test_a_tenant_that_two_namespaces_claim_is_nobodys() -> None:
    found = caches.Caches()
    found.put("Namespace", item("a", 1, "acme"))
    assert found.tenant("a") == "acme"
    found.put("Namespace", item("b", 2, "acme"))
    found.put("Namespace", item("c", 3, "zeta"))
    assert (found.tenant("a"), found.tenant("b"), found.tenant("c")) == (None, None, "zeta")
    found.drop("Namespace", "b")
    found.drop("Pod", "a")
    assert found.tenant("a") == "acme"
    assert found.tenant("absent") is None
    assert found.tenant_uid("absent") is None


def quota(name: str, version: int, tenant: str, limit: int) -> dict[str, Any]:
    rows = [{"jobType": "*", "maxRunning": limit, "maxQueued": 0}]
    return {**item(name, version), "spec": {"tenants": [tenant], "jobs": rows}}


def test_limits_follow_every_change_of_the_quotas() -> None:
    found = caches.Caches()
    assert found.quota_table.limits("acme", "x").max_running is None
    found.put("TenantQuota", quota("q", 1, "acme", 3))
    assert found.quota_table.limits("acme", "x").max_running == 3
    table = found.quota_table
    found.put("TenantQuota", {**quota("q", 2, "acme", 3), "status": {"x": 1}})
    assert found.quota_table is table, "a status is no reason to arrange all of them anew"
    found.replace("TenantQuota", [quota("q", 3, "acme", 4)], "5")
    assert found.quota_table.limits("acme", "x").max_running == 4
    found.drop("TenantQuota", "q")
    assert found.quota_table.limits("acme", "x").max_running is None


def test_asking_for_a_tenant_does_not_look_at_all_namespaces() -> None:
    found, looks = caches.Caches(), list[str]()
    for number in range(50):
        found.put("Namespace", item(f"n{number}", number + 1, f"t{number}"))
    claim = found.claim

    def noted(namespace: str) -> str | None:
        looks.append(namespace)
        return claim(namespace)

    found.claim = noted  # type: ignore[method-assign]
    assert [found.tenant(f"n{number}") for number in range(50)] == [f"t{number}" for number in range(50)]
    assert len(looks) <= 100, "each once to arrange them, once when asked for"


def test_the_uids_of_deleted_jobs_are_remembered_up_to_a_bound() -> None:
    cache = caches.Caches()
    for number in range(caches.MAX_DELETED + 1):
        cache.note_deleted(str(number))
    assert not cache.is_deleted("0")
    assert cache.is_deleted("1")
    assert cache.is_deleted(str(caches.MAX_DELETED))
    assert cache.deleted_of({"0", "1", "other"}) == ["1"]
