"""Start the product where a power cut has left a store, and hold it to what was acknowledged."""

from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Final

from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import lives, uploads
from manifestry.core.blobs import digests
from tests.faults.clients import LIMIT_BYTES, Client
from tests.faults.promises import Promises

# Old enough for every janitor and reaper, so young that a session is not expired.
AGE_SECONDS: Final = 2 * 3600.0
_LATER: Final = timedelta(days=3)


async def check(root: Path, promises: Promises | None, *, is_slow: bool) -> None:
    """Fail when the store below `root` has lost, or shows, what it must not.

    Args:
        root: the store's folder, as it was left.
        promises: what was acknowledged.
        is_slow: whether the collector comes before the clients come back.
    """
    client = Client(root, lambda _: None, None if promises is None else promises.copy())
    try:
        await client.start()
        ready = _ready(client)
        await client.world.inventory.reap()  # what a dead collector claimed is out of reach until then
        await _there(client)
        await _sound(client)
        await _heads(client)
        await client.sweep()
        assert [
            entry async for entry in client.sessions.entries() if isinstance(entry, uploads.Leftover)
        ] == []
        if not is_slow:
            await _resumed(client, is_slow=is_slow)
        await _operated(client)
        assert _ready(client) >= ready, "the scrub has found fault with sound bytes"
        await _there(client)
        if is_slow:
            await _resumed(client, is_slow=is_slow)
            await _there(client)
        await _swept(client)
    finally:
        await client.close()


async def _operated(client: Client) -> None:
    """Let the collector and the scrub do their work, days later."""
    await client.collect()
    await client.world.scrubbed()
    client.world.clock.ahead = timedelta()


async def _there(client: Client) -> None:
    """Read back what was acknowledged."""
    for (tenant_uid, digest), data in client.promises.blobs.items():
        assert await client.store.head(tenant_uid, digest) is not None, (
            f"acknowledged bytes are gone: {digest}"
        )
        assert await client.store.read(tenant_uid, digest, limit_bytes=LIMIT_BYTES) == data


def _ready(client: Client) -> set[str]:
    found = ((name, body) for (kind, _, name), body in client.world.api.objects.items() if kind == "Artifact")
    bad = {digest for _, digest in client.promises.damaged}
    return {
        name
        for name, body in found
        if lives.is_ready(body) and body["spec"].get("upload", {}).get("digest") not in bad
    }


async def _heads(client: Client) -> None:
    """Ask for every upload how far it is: what was acknowledged, and no more than was sent."""
    for session_id, upload in list(client.promises.uploads.items()):
        if not upload.may_be_gone:
            await client.head(session_id)


async def _sound(client: Client) -> None:
    """Read everything that readers are shown: nothing is half there."""
    for tenant_uid in await client.world.inventory.tenants():
        for blob in await client.world.inventory.blobs(tenant_uid):
            async with aclosing(client.store.stream(tenant_uid, blob.digest)) as views:
                data = b"".join([bytes(view) async for view in views])
            is_sound = digests.of(data) == blob.digest
            assert is_sound or (tenant_uid, blob.digest) in client.promises.damaged, "a blob is half there"


async def _resumed(client: Client, *, is_slow: bool) -> None:
    """Go on with every upload from where `HEAD` says it is: completed, it is what was sent.

    Who was cut off between the publication and its record, and comes back after the grace, is told that the
    bytes are gone.
    """
    for session_id, upload in list(client.promises.uploads.items()):
        if upload.may_be_gone:
            continue
        is_sealed = (await client.head(session_id)).seal is not None
        try:
            await client.complete(session_id)
        except ports.BlobNotFoundError:
            if not is_sealed or not is_slow:
                raise
            await client.abort(session_id)


async def _swept(client: Client) -> None:
    """Let everything expire: nothing stays behind."""
    client.world.clock.ahead = _LATER
    await client.sweep()
    left = [
        str(path.relative_to(client.root))
        for folder in ("uploads", "sessions")
        for path in (client.root / folder).rglob("*")
        if path.is_file()
    ]
    assert left == [], f"left behind: {left}"
