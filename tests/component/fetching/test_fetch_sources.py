"""Every source is charged before its bytes, and files that take long become Ready."""

import functools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manifestry.adapters.store.local import sessions
from manifestry.core.blobs import digests
from manifestry.handlers.artifacts import reconciler, uploads
from manifestry.settings import OperatorSettings
from tests.component.fetching import test_fetch_quota as quota
from tests.component.fetching.test_fetch_quota import KIB, Gate, Site, eventually
from tests.component.quota.test_storage import NAMESPACE

site, start = quota.site, quota.start


INLINE = b"0123456789a"


@pytest.mark.parametrize(
    "spec",
    [
        {"inline": {"text": INLINE.decode()}},
        {"configMapRef": {"name": "c", "key": "k"}},
        {"secretRef": {"name": "s", "key": "k"}},
        {"object": {"digest": digests.of(INLINE)}},
    ],
    ids=lambda spec: next(iter(spec)),
)
async def test_every_other_source_is_charged_before_anything_is_stored(
    site: Site, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, uid = site.world.api, site.world.api.objects["Namespace", NAMESPACE]["metadata"]["uid"]
    encoded = {"k": "MDEyMzQ1Njc4OWE="}
    api.put("ConfigMap", {"metadata": {"name": "c"}, "binaryData": encoded})
    offered = {"name": "s", "labels": {"manifestry.dev/artifact-source": "true"}}
    api.put("Secret", {"metadata": offered, "data": encoded})
    if "object" in spec:
        await site.world.ctx.store.put(uid, INLINE)
    before = {path for path in site.root.rglob("*") if path.is_file()}
    site.world.limit(maxBytes=len(INLINE) - 1)
    site.world.artifact("a", **spec)
    assert await site.look("a") == ("False", "ExceedsMaxQuota")
    assert {path for path in site.root.rglob("*") if path.is_file()} == before
    assert site.reserved() == 0
    site.world.limit(maxBytes=len(INLINE))
    order: list[str] = []
    put, reserve = site.world.ctx.store.put, site.world.storage.books.reserve

    async def noting_put(*given: Any) -> Any:
        order.append("put")
        return await put(*given)

    async def noting_reserve(*given: Any) -> Any:
        order.append("reserve")
        return await reserve(*given)

    monkeypatch.setattr(site.world.ctx.store, "put", noting_put)
    monkeypatch.setattr(site.world.storage.books, "reserve", noting_reserve)
    assert await reconciler.reconcile(site.world.ctx, NAMESPACE, "a") is None
    assert site.world.condition("a", "Ready") == ("True", "Stored")
    assert (order[0], site.world.totals) == ("reserve", (len(INLINE), 1, 0))


async def test_files_that_together_take_over_an_hour_become_ready(site: Site) -> None:
    site.world.limit(maxBytes=100 * KIB)
    gates = {name: Gate() for name in "ab"}
    site.origin.answers |= {f"/{name}": gate for name, gate in gates.items()}
    files = [{"name": name, "mediaType": "a/b", "url": {"url": site.origin.url(f"/{name}")}} for name in "ab"]
    site.world.artifact("set", files=files)
    await site.look("set")
    gates["a"].send(b"first", None)
    await eventually(lambda: site.queue.staged() != frozenset())
    partial = sessions.LocalSessions(site.root, timeout_seconds=5)
    janitor = uploads.Collector(partial)
    for hours in range(6):
        at = datetime.now(UTC) + timedelta(hours=hours)
        clock = SimpleNamespace(now=functools.partial(lambda at: at, at), monotonic=lambda: 0.0)
        await janitor.collect(
            replace(site.world.ctx, clock=cast("Any", clock), settings=OperatorSettings(), storage=None)
        )
    gates["b"].send(b"second", None)
    await site.until("set", "Stored")
    assert sorted(request.target for request in site.origin.requests) == ["/a", "/b"]
    await partial.close()
