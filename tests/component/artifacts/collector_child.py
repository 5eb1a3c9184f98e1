"""A collector that gives itself a signal before one of its steps. Run as a program, it is not a test.

`python collector_child.py TENANT DIGEST SIGNAL STEP GRACE CLAIM` with the store's settings as MANIFESTRY_*
variables: the signal's number, how many steps come before it, and two times in seconds. Exits with 0 when it
came to its end, whether or not it was allowed to remove the blob, which nothing refers to.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

import obstore

from manifestry.adapters.store import inventory, stores
from manifestry.adapters.store.contract import claim_ports, ports
from manifestry.adapters.store.remote import deletes
from manifestry.settings import StoreSettings

CALLS = ("mkdir", "rmdir", "rename", "unlink", "stat", "scandir", "listdir", "fsync", "open")
REQUESTS = ("put_async", "get_async", "head_async", "delete_async", "sign_async")


def signalling(owner: Any, names: Collection[str], give: Callable[[], None]) -> None:
    for name in names:
        original = getattr(owner, name)

        def called(*args: Any, _original: Any = original, **options: Any) -> Any:
            give()
            return _original(*args, **options)

        setattr(owner, name, called)


async def main(tenant: str, digest: str, number: int, left: int, grace: float) -> None:
    settings = StoreSettings.from_mapping(os.environ)
    used = stores.open_store(settings)

    def give() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), number)

    if settings.store_type == "local":
        signalling(os, CALLS, give)
    else:
        signalling(obstore, REQUESTS, give)
        signalling(deletes.Deletes, ["_status"], give)

    async def nobody(_: frozenset[str]) -> Collection[str]:
        return ()

    try:
        await inventory.Inventory(used).remove(tenant, [digest], nobody, timedelta(seconds=grace))
    except ports.StoreUnavailableError:  # it has slept while it signed
        pass
    finally:
        await used.close()


if __name__ == "__main__":
    claim_ports.CLAIM_SECONDS = float(sys.argv[6])  # type: ignore[misc]
    tenant, digest, number, step, grace, _ = sys.argv[1:]
    asyncio.run(main(tenant, digest, int(number), int(step), float(grace)))
