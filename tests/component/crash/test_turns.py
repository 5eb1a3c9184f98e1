"""Facades and operators on one store, every pair of operations interleaved at each step.

Each actor has a store and sessions of its own, as a replica has. A step is a system call that others can see.
Of each pair one is stopped after each of its steps, and the other one runs to its end in between; three at
once take turns at random.
"""

import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from manifestry.adapters.store.contract import ports
from manifestry.core.artifacts import uploads
from manifestry.core.blobs import digests, keys
from manifestry.core.kube import names
from manifestry.handlers.artifacts import uploads as janitor
from tests.component.artifacts.turns import Choose
from tests.faults import clients, crashruns, inline
from tests.faults.clients import LIMIT_BYTES, Client
from tests.faults.pages import PAGE
from tests.faults.scripts import content
from tests.faults.turnstiles import Preempting, interleaved

HEAD = content("head", PAGE + 100)
TAILS = {
    "append": content("tail", PAGE + 7),
    "append other": content("other tail", 2 * PAGE),
    "append cut": b"cut" * PAGE,
}
STOPS = 2000  # more than any operation has steps
RANDOM = 40


@dataclass
class World:
    """One session that has its first bytes, and what the actors were told.

    Args:
        root: the store's folder.
        session: the session.
        ends: by actor, the offset that it was told, with the bytes that are before it.
        published: what was acknowledged as stored.
    """

    root: Path
    session: uploads.Session
    ends: dict[str, bytes] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)
    sealed: list[ports.Staged] = field(default_factory=list)


Act = Callable[[Client, World], Awaitable[None]]


def append(kind: str) -> Act:
    async def act(client: Client, world: World) -> None:
        async def body() -> AsyncIterator[bytes]:
            async for chunk in clients.chunks(TAILS[kind]):
                yield chunk
            if kind == "append cut":
                raise clients.BrokenOffError

        end = await client.sessions.append(world.session, len(HEAD), body(), limit_bytes=LIMIT_BYTES)
        assert end == len(HEAD) + len(TAILS[kind])
        world.ends[kind] = HEAD + TAILS[kind]

    return act


async def head(client: Client, world: World) -> None:
    state = await client.sessions.head(world.session.session_id)
    if state is not None:
        assert state.offset >= len(HEAD)


async def seal(client: Client, world: World) -> None:
    world.sealed.append(await client.sessions.seal(world.session))


async def complete(client: Client, world: World) -> None:
    """Seal, publish, record and finish, as the last PATCH does."""
    staged = await client.sessions.seal(world.session)
    world.sealed.append(staged)
    await client.store.publish(client.world.uid, staged)
    data = await client.store.read(client.world.uid, staged.digest, limit_bytes=LIMIT_BYTES)
    world.published.append(data)
    await client.sessions.finish(world.session)


async def complete_and_expire(client: Client, world: World) -> None:
    """Complete, and let the janitor remove what is left of the session, an hour later."""
    await complete(client, world)
    await client.sessions.abort(world.session)


async def abort(client: Client, world: World) -> None:
    await client.sessions.abort(world.session)


async def create(client: Client, world: World) -> None:
    wanted = uploads.Session(str(uuid.uuid4()), client.world.uid, "team", "new", str(uuid.UUID(int=8)))
    made = await client.sessions.create(wanted, limit=clients.SESSIONS)
    await client.sessions.append(made, 0, clients.chunks(b"new"), limit_bytes=3)
    state = await client.sessions.head(made.session_id)
    assert state is not None, "a session that was acknowledged is gone"
    assert state.offset == 3


async def sweep(client: Client, world: World) -> None:
    await janitor.Collector(client.sessions).collect(client.world.ctx)


async def collect(client: Client, world: World) -> None:
    await client.world.collector.once()


async def put(client: Client, world: World) -> None:
    await client.store.put(client.world.uid, HEAD)
    world.published.append(HEAD)


ACTS: dict[str, Act] = {
    **{kind: append(kind) for kind in TAILS},
    "head": head,
    "seal": seal,
    "complete": complete,
    "complete and expire": complete_and_expire,
    "abort": abort,
    "create": create,
    "sweep": sweep,
    "collect": collect,
    "put": put,
}
ALIKE = ("seal", "complete", "abort", "create", "sweep")
VARIANTS = {"append other", "append cut"}  # of an append: beside another one, and a seal
PAIRS = [
    *(
        pair
        for pair in itertools.combinations(ACTS, 2)
        if not VARIANTS & {*pair} or {"append", "seal"} & {*pair}
    ),
    *((kind, kind) for kind in ALIKE),
]


def told(_: object) -> None:
    """Nobody asks."""


def begun(root: Path) -> World:
    """Make a store with one session that has its first bytes."""
    root.mkdir()

    async def begin() -> uploads.Session:
        client = Client(root, told)
        await client.start()
        session_id = await client.begin(HEAD, "a", says_length=False)
        await client.patch(session_id, len(HEAD))
        await client.close()
        return client.promises.uploads[session_id].session

    return World(root, inline.run(begin()))


def race(kinds: tuple[str, ...], choose: Choose, root: Path) -> World:
    """Run the actors on a new store in an order, and check what came of it."""
    world = begun(root)

    def actor(kind: str) -> Callable[[], Any]:
        async def act() -> None:
            client = Client(root, told)
            await client.start()
            meta = {"name": "a", "namespace": "team", "uid": world.session.artifact_uid}
            client.world.api.put(names.ARTIFACTS, {"metadata": meta, "spec": {"upload": {}}, "status": {}})
            try:
                await ACTS[kind](client, world)
            finally:
                await client.close()

        return act

    results = interleaved(root, choose, *(actor(kind) for kind in kinds))
    for kind, result in zip(kinds, results, strict=True):
        is_fine = isinstance(result, ports.StoreError | clients.BrokenOffError | None)
        assert is_fine, f"{kind}: {type(result).__name__}: {result}"
    inline.run(verify(world, kinds))
    return world


async def verify(world: World, kinds: tuple[str, ...]) -> None:
    """Hold the store to what the actors were told."""
    client = Client(world.root, told)
    await client.start()
    tenant = world.root / keys.tenant(client.world.uid)
    for path in tenant.rglob("*"):
        if path.is_file() and path.suffix != ".mark":
            assert digests.of(path.read_bytes()).endswith(path.name), "a published blob has changed"
    for data in world.published:
        found = await client.store.read(client.world.uid, digests.of(data), limit_bytes=LIMIT_BYTES)
        assert found == data
    assert len({staged.digest for staged in world.sealed}) <= 1, "one session was sealed twice, differently"
    for end in world.ends.values():
        assert all(other.startswith(end) or end.startswith(other) for other in world.ends.values()), (
            "two appends at one offset were acknowledged"
        )
    if not {"abort", "complete and expire"} & set(kinds):
        await _alive(client, world)
    await client.close()


async def _alive(client: Client, world: World) -> None:
    """What was acknowledged is there, and can be completed."""
    state = await client.sessions.head(world.session.session_id)
    assert state is not None, "the session is gone"
    longest = max([HEAD, *world.ends.values()], key=len)
    assert state.offset >= len(longest), "acknowledged bytes are gone"
    sealed = world.sealed[0] if world.sealed else await client.sessions.seal(world.session)
    assert sealed.size_bytes >= len(longest), "acknowledged bytes were not sealed"
    if sealed.digest != digests.of(longest):  # of an append that was not acknowledged a part may be there
        whole = [HEAD + tail for tail in TAILS.values()]
        assert sealed.digest in {digests.of(each[: sealed.size_bytes]) for each in whole}


@pytest.mark.parametrize("kinds", PAIRS, ids=" | ".join)
def test_no_pair_of_operations_loses_what_was_acknowledged(kinds: tuple[str, str], tmp_path: Path) -> None:
    count = 0
    with crashruns.folder(tmp_path) as folder, pytest.MonkeyPatch.context() as patch:
        clients.small(patch)
        for first in (0, 1):
            for steps in range(STOPS):
                order = Preempting(first, steps)
                try:
                    race(kinds, order, folder / f"{first}-{steps}")
                except Exception as error:
                    error.add_note(f"{kinds[first]!r} was stopped after {steps} steps")
                    raise
                count += 1
                if not order.was_cut_short:
                    break
    print(f"{count} orders of {' | '.join(kinds)}")


@pytest.mark.parametrize("seed", range(RANDOM))
def test_no_order_of_three_loses_what_was_acknowledged(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with crashruns.folder(tmp_path) as folder, pytest.MonkeyPatch.context() as patch:
        clients.small(patch)
        for number in range(5):
            kinds = tuple(rng.sample(sorted(ACTS), k=3))
            race(kinds, rng.randrange, folder / str(number))
