"""Which module takes which key."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from manifestry.handlers import prerequisites, process, shell
from manifestry.handlers.runtime import keys, namespaces, registry


def test_every_watched_kind_has_a_module() -> None:
    kinds = set(registry.reconcilers(process.HANDLERS))
    assert kinds == {watched.resource.kind for watched in shell.WATCHED} | {keys.STORAGE_LEDGER}


def test_two_modules_of_one_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="Namespace"):
        registry.reconcilers([namespaces, namespaces])


def test_only_modules_with_a_resync_have_one() -> None:
    module: Any = ModuleType("m")
    module.KIND = "M"
    assert registry.resyncs([module]) == {}
    module.resync = lambda _: None
    assert registry.resyncs([module]) == {"M": module.resync}


async def test_a_key_goes_to_its_module_and_a_foreign_one_nowhere() -> None:
    seen: list[tuple[str, str]] = []

    async def reconcile(_: Any, namespace: str, name: str) -> float:
        seen.append((namespace, name))
        return 7.0

    module: Any = SimpleNamespace(KIND="M", reconcile=reconcile)
    dispatch = registry.dispatcher(None, [module])  # type: ignore[arg-type]
    assert await dispatch(("M", "ns", "x")) == 7.0
    assert await dispatch(("Other", "ns", "x")) is None
    assert seen == [("ns", "x")]


@pytest.mark.parametrize("answer", [b"{", b"[]", b'{"resources": [{}]}', b'{"resources": null}'])
async def test_an_answer_without_kinds_means_all_are_missing(answer: bytes) -> None:
    class Client:
        async def get_raw(self, _: str) -> bytes:
            return answer

    assert len(await prerequisites.find_missing(Client())) == len(prerequisites.KINDS)  # type: ignore[arg-type]
