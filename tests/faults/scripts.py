"""What a store is made to do while it is recorded, or while faults are put in its way."""

import os
import random
from collections.abc import Awaitable, Callable
from typing import Final

from manifestry.adapters.store.contract import ports
from manifestry.core.blobs import keys
from tests.faults import syscalls
from tests.faults.clients import BrokenOffError, Client, broken, chunks
from tests.faults.pages import PAGE

Script = Callable[[Client], Awaitable[None]]


def content(name: str, size: int) -> bytes:
    """Return bytes that are always the same for a name, no page of them like another."""
    return random.Random(name).randbytes(size)


def age(client: Client) -> None:
    """Make the blobs older than the grace period."""
    with syscalls.aside():
        for path in (client.root / keys.tenant(client.world.uid)).rglob("*"):
            if path.is_file():
                os.utime(path, (1e9, 1e9))


async def put(client: Client) -> None:
    """Inline bytes: new ones, the same again, more than a page of them."""
    await client.inline(b"hello", "a")
    await client.inline(b"hello", "b")
    await client.inline(b"x" * (2 * PAGE + 3), "c")


async def upload(client: Client) -> None:
    """Uploads in one request: short, long enough to be written past the page cache, the same bytes twice."""
    await client.upload(content("short", 100), "a")
    await client.upload(content("long", 9 * PAGE + 17), "b")
    await client.upload(content("short", 100), "c")


async def upload_refused(client: Client) -> None:
    """Uploads that break off, or are too long, between good ones."""
    await client.upload(content("short", PAGE), "a")
    await client.fail(broken(bytes(3 * PAGE)), 3 * PAGE, BrokenOffError)
    await client.fail(chunks(bytes(4 * PAGE)), 3 * PAGE, ports.TooLargeError)
    await client.upload(content("other", PAGE), "b")


async def resumed(client: Client) -> None:
    """A resumable upload of several requests, one of which breaks off."""
    session_id = await client.begin(content("resumed", 8 * PAGE + 5), "a")
    await client.patch(session_id, 2 * PAGE + 100)
    await client.patch(session_id, 4 * PAGE, broken_after=2 * PAGE + 2000)
    await client.patch(session_id, 1)
    await client.complete(session_id)


async def long_patch(client: Client) -> None:
    """A request that is long enough to be synced on its way."""
    session_id = await client.begin(content("long patch", 10 * PAGE), "a", says_length=False)
    await client.patch(session_id, 300)
    await client.patch(session_id, 8 * PAGE + 1)
    await client.head(session_id)
    await client.complete(session_id)


async def completed_again(client: Client) -> None:
    """Completing whose answers are lost, so that each step is done again."""
    session_id = await client.begin(content("again", 2 * PAGE), "a")
    await client.patch(session_id, 2 * PAGE)
    await client.stammer(session_id)
    await client.complete(session_id)


async def two_sessions(client: Client) -> None:
    """Two sessions in turns, of the same bytes in the end."""
    data = content("both", 4 * PAGE + 9)
    first, second = await client.begin(data, "a"), await client.begin(data, "b")
    await client.patch(first, PAGE)
    await client.patch(second, 3 * PAGE, broken_after=2 * PAGE)
    await client.patch(first, 2 * PAGE)
    await client.complete(second)
    await client.complete(first)


async def aborted(client: Client) -> None:
    """A session that is deleted beside one that is not."""
    kept = await client.begin(content("kept", 3 * PAGE), "a")
    deleted = await client.begin(b"deleted" * PAGE, "b")
    await client.patch(kept, PAGE)
    await client.patch(deleted, 2 * PAGE)
    await client.abort(deleted)
    await client.sweep()
    await client.complete(kept)


async def collected(client: Client) -> None:
    """Bytes that nothing refers to are marked and removed; pinned ones and others stay."""
    gone, kept, pinned = (content(name, PAGE + 5) for name in ("gone", "kept", "pinned"))
    await client.upload(gone, "a")
    await client.upload(kept, "b")
    await client.upload(pinned, "c", deletionPolicy="Retain")
    client.give_up(gone)
    for name in ("a", "c"):
        client.world.delete(name)
    client.tell()
    age(client)
    await client.collect()
    assert not await client.has(gone)
    await client.upload(gone, "d")
    await client.collect()


async def set_aside(client: Client) -> None:
    """Bytes go bad, are found and set aside, and sent again; a collection runs after that."""
    bad = content("bad", PAGE)
    await client.upload(bad, "a")
    await client.upload(content("good", PAGE), "b")
    client.spoil(bad)
    await client.scrub()
    assert not await client.has(bad)
    await client.upload(bad, "a")
    await client.collect(is_later=False)


SCRIPTS: Final[dict[str, Script]] = {
    "put": put,
    "upload": upload,
    "upload refused": upload_refused,
    "session": resumed,
    "session, long request": long_patch,
    "session, completed again": completed_again,
    "sessions, two of the same bytes": two_sessions,
    "session, deleted": aborted,
    "collect": collected,
    "set aside": set_aside,
}
