"""A process that uploads in pieces, to be killed. Run as a program, it is not a test.

`python sessions_child.py VERB SESSION_ID`, the store's settings in MANIFESTRY_* variables; prints JSON lines.
"""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator

from manifestry.adapters.store import sessions, stores
from manifestry.adapters.store.contract import session_ports
from manifestry.settings import StoreSettings
from tests.component.store.store_child import forget_peak, peak_mib, say, zeros

MIB = 1 << 20


def content(start: int, size: int) -> bytes:
    """Return the bytes that belong at `start`: of any two processes the same."""
    return b"".join(number.to_bytes(8) for number in range(start // 8, (start + size) // 8 + 1))[start % 8 :][
        :size
    ]


async def chunks(start: int, size: int) -> AsyncIterator[bytes]:
    for at in range(start, start + size, 64 << 10):
        yield content(at, min(64 << 10, start + size - at))


async def append_for_ever(used: session_ports.Sessions, session_id: str) -> None:
    """Append pieces of any size, saying each offset once it was acknowledged, until killed."""
    found = await used.head(session_id)
    assert found is not None
    offset = found.offset
    say(offset=offset)
    while True:
        size = random.choice([1, 1000, 100_000, 3 * MIB])
        offset = await used.append(found.session, offset, chunks(offset, size), limit_bytes=size)
        say(offset=offset)


async def measure(used: session_ports.Sessions, session_id: str) -> None:
    """Say by how many MiB the peak of memory rises with 256 MiB appended in one request, and sealed."""
    found = await used.head(session_id)
    assert found is not None
    offset = await used.append(found.session, 0, zeros(16 * MIB), limit_bytes=16 * MIB)
    forget_peak()
    before = peak_mib()
    end = await used.append(found.session, offset, zeros(256 * MIB), limit_bytes=256 * MIB)
    appended = peak_mib() - before
    staged = await used.seal(found.session)
    say(appended_mib=appended, sealed_mib=peak_mib() - before, end=end, size=staged.size_bytes)


async def main(verb: str, session_id: str) -> None:
    settings = StoreSettings.from_mapping(os.environ)
    objects = stores.open_store(settings)
    used = sessions.open_sessions(settings, objects)
    await {"loop": append_for_ever, "measure": measure}[verb](used, session_id)
    await used.close()
    await objects.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
