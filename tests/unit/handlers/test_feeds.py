"""Events become keys and cache entries; no object makes a handler fail."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.adapters.queues import queues
from manifestry.adapters.quota import ledgers
from manifestry.core.kube import names
from manifestry.handlers import feeds, shell
from manifestry.handlers.runtime import caches, keys


def item(name: Any = "x", namespace: Any = "ns", version: str = "1", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": version, "uid": f"u-{name}"}
    return {"metadata": {**metadata, "labels": labels}}


class World:
    def __init__(self) -> None:
        self.added: list[queues.Key] = []
        self.caches = caches.Caches()
        queue = queues.KeyedQueue()
        queue.add = lambda key, **_: self.added.append(key)  # type: ignore[method-assign]
        self.books = ledgers.Ledgers(cast("Any", None))
        self.feed = feeds.Feed(self.caches, queue, self.books)


@pytest.mark.parametrize(
    ("resource", "found", "key"),
    [
        (names.JOBS, item(), ("Job", "ns", "x")),
        (names.ARTIFACTS, item(), ("Artifact", "ns", "x")),
        (names.QUOTA_LEDGERS, item(), ("QuotaLedger", "ns", "x")),
        (names.JOB_TYPES, item(namespace=None), ("JobType", "", "x")),
        (names.BATCH_JOBS, item("x-1234", **{"manifestry.dev/job": "x"}), ("Job", "ns", "x")),
        (names.BATCH_JOBS, item("x-1234"), None),
        (names.BATCH_JOBS, {"metadata": {"name": "b", "labels": None}}, None),
        (names.JOBS, {}, None),
        (names.JOBS, {"metadata": []}, None),
        (names.JOBS, item(name=7), None),
        (names.JOBS, item(name=""), None),
        (names.JOBS, item(namespace=["a"]), None),
    ],
)
def test_an_object_wakes_a_key(resource: names.Resource, found: Any, key: queues.Key | None) -> None:
    assert keys.key_of(resource, found) == key


def test_small_kinds_are_kept_and_dropped() -> None:
    world = World()
    world.feed.take(names.JOB_TYPES, None, item("t", None))
    world.feed.take(names.NAMESPACES, "ADDED", item("ns", None, **{names.TENANT_LABEL: "acme"}))
    world.feed.take(names.JOBS, "ADDED", item("j"))
    assert list(world.caches.job_types) == ["t"]
    assert world.caches.tenant("ns") == "acme"
    assert world.caches.tenant_uid("ns") == "u-ns"
    world.feed.take(names.JOB_TYPES, "DELETED", item("t", None))
    assert list(world.caches.job_types) == []
    assert world.added == [
        ("JobType", "", "t"),
        ("Namespace", "", "ns"),
        ("Job", "ns", "j"),
        ("JobType", "", "t"),
    ]


def ledger(version: str, *uids: str) -> dict[str, Any]:
    entries = {
        uid: {"name": f"n-{uid}", "state": "Queued", "since": "2026-01-01T00:00:00.000000Z"} for uid in uids
    }
    status = {"initializedTime": "2026-01-01T00:00:00Z", "holders": entries}
    return {**item("render", version=version), "status": status}


def test_a_ledger_is_known_from_its_event_and_forgotten_with_it() -> None:
    world = World()
    world.feed.take(names.QUOTA_LEDGERS, "ADDED", ledger("10", "u1", "u2"))
    world.feed.take(names.QUOTA_LEDGERS, "MODIFIED", ledger("9", "u1"))
    known = world.books.snapshot("ns", "render")
    assert known is not None
    assert known.holders.keys() == {"u1", "u2"}
    assert [kind for kind, _ in world.books.named("ns", "n-u2")] == ["render"]
    assert world.books.named("ns", "absent") == []
    world.feed.take(names.QUOTA_LEDGERS, "DELETED", ledger("11"))
    assert world.books.snapshot("ns", "render") is None


def test_the_ledger_of_a_tenants_storage_is_no_job_types() -> None:
    world = World()
    world.feed.take(names.QUOTA_LEDGERS, "ADDED", {**ledger("10"), **item("storage.manifestry")})
    assert world.books.snapshot("ns", "storage.manifestry") is None


Junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "namespace", "labels", "resourceVersion", names.JOB_NAME_LABEL]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


def test_labels_that_are_no_mapping_name_no_tenant() -> None:
    world = World()
    world.feed.take(names.NAMESPACES, None, {"metadata": {"name": "ns", "labels": ["a"]}})
    assert world.caches.tenant("ns") is None


@given(
    st.sampled_from([watched.resource for watched in shell.WATCHED]),
    st.sampled_from([None, "ADDED", "MODIFIED", "DELETED"]),
    st.dictionaries(st.sampled_from(["metadata", "spec"]), Junk),
)
def test_no_object_is_malformed_enough(resource: names.Resource, change: str | None, found: Any) -> None:
    world = World()
    world.feed.take(resource, change, found)
    for namespace in (*world.caches.namespaces, "absent"):
        world.caches.tenant(namespace)
        world.caches.tenant_uid(namespace)
