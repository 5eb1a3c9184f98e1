"""Kopf's settings and handlers: what our figures depend on."""

from typing import Any

from manifestry.core.kube import names
from manifestry.handlers import shell


def test_a_worker_limit_goes_with_a_short_idle_time() -> None:
    queueing = shell.build_settings().queueing
    assert queueing.worker_limit == 64
    assert queueing.idle_timeout <= 0.1


def test_kopf_writes_nothing_and_watches_nothing_of_its_own() -> None:
    settings = shell.build_settings()
    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert not settings.posting.enabled
    assert settings.persistence.finalizer.startswith("manifestry.dev/")


def test_batch_jobs_and_namespaces_are_chosen_by_the_server() -> None:
    selectors = {str(key): value for key, value in shell.build_settings().watching.label_selectors.items()}
    assert sorted(selectors.values()) == ["manifestry.dev/job-uid", "manifestry.dev/tenant"]


async def test_every_kind_has_one_handler_that_only_passes_the_event_on() -> None:
    taken: list[tuple[str, Any, Any]] = []

    def take(resource: names.Resource, change: str | None, item: Any) -> None:
        taken.append((resource.plural, change, item))

    registry = shell.build_registry(take, lambda: None)  # type: ignore[arg-type,return-value]
    handlers = registry._watching.get_all_handlers()
    assert len(handlers) == len(shell.WATCHED)
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    for handler in handlers:
        on_event: Any = handler.fn
        await on_event(event={"type": None, "object": {"a": 1}}, body={}, logger=None)
    assert len({plural for plural, _, _ in taken}) == len(shell.WATCHED) - 1  # two are called jobs


def test_the_watched_paths_are_those_that_requests_have_behind_a_proxy() -> None:
    direct = shell.watched_paths("https://10.0.0.1:443")
    assert "/apis/batch/v1/jobs" in direct
    assert shell.watched_paths("https://rancher/k8s/clusters/c-1/") == [
        f"/k8s/clusters/c-1{path}" for path in direct
    ]
