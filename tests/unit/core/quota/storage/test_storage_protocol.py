"""The storage quota under random interleavings of facades and operators, crashes, pauses and deletions."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.core.quota.storage import storagemodel as model
from tests.unit.core.quota.storage import storageworld as worlds

pytestmark = pytest.mark.unit
NAMES = st.sampled_from(worlds.NAMES)
FILES = st.sampled_from(worlds.FILES)
SIZES = st.sampled_from([0, 1, 20, 40, 60, 100, 101])
CHUNKS = st.lists(st.sampled_from([1, 10, 30]), max_size=4)
REFUSALS = st.sampled_from(["no", "no", "no", "forbidden", "lost"])
IN_FLIGHT = 10  # enough for an old listing to outlast what it has seen


class StorageProtocol(RuleBasedStateMachine):
    """Operations are generators: each `step` runs one up to its next API call, so any two may interleave."""

    def __init__(self) -> None:
        super().__init__()
        self.world = worlds.World()
        model.drain(model.recount(self.world))
        self.ops: list[model.Op] = []

    @rule(name=NAMES, size=SIZES, is_upload=st.booleans(), refused=REFUSALS)
    def post(self, name: str, size: int, is_upload: bool, refused: str) -> None:
        self.ops.append(model.post(self.world, name, size, is_upload=is_upload, refused=refused))

    @rule(name=NAMES, is_upload=st.booleans())
    def post_at_once(self, name: str, is_upload: bool) -> None:
        model.drain(model.post(self.world, name, 30, is_upload=is_upload, refused="no"))

    @rule(name=NAMES, size=SIZES, is_upload=st.booleans())
    def apply(self, name: str, size: int, is_upload: bool) -> None:
        self.ops.append(model.bypass(self.world, name, size, is_upload=is_upload))

    @rule(name=NAMES, file=FILES, chunks=CHUNKS, stated=st.booleans(), fails=st.booleans())
    def put(self, name: str, file: str, chunks: list[int], stated: bool, fails: bool) -> None:
        self.ops.append(model.put(self.world, name, file, chunks, stated=stated, fails=fails))

    @rule(name=NAMES)
    def apply_url(self, name: str) -> None:
        self.ops.append(model.apply_url(self.world, name))

    @rule(name=NAMES, chunks=CHUNKS, fails=st.booleans())
    def fetch(self, name: str, chunks: list[int], fails: bool) -> None:
        self.ops.append(model.fetch(self.world, name, chunks, fails=fails))

    @rule(name=NAMES)
    def look_at(self, name: str) -> None:
        self.ops.append(model.reconcile(self.world, name))

    @rule(name=NAMES)
    def reconcile_at_once(self, name: str) -> None:
        model.drain(model.reconcile(self.world, name))

    @rule()
    def recount(self) -> None:
        self.ops.append(model.recount(self.world))

    @rule()
    def recount_at_once(self) -> None:
        model.drain(model.recount(self.world))

    @precondition(lambda self: self.ops)
    @rule(index=st.integers(0, 50), times=st.integers(1, 6))
    def step(self, index: int, times: int) -> None:
        op = self.ops[index % len(self.ops)]
        for _ in range(times):
            try:
                next(op)
            except StopIteration:
                self.ops.remove(op)
                return

    @precondition(lambda self: self.ops)
    @rule(index=st.integers(0, 50))
    def crash(self, index: int) -> None:
        self.ops.pop(index % len(self.ops)).close()

    @rule(seconds=st.sampled_from([1, 30, 70, 130]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(name=NAMES)
    def user_deletes(self, name: str) -> None:
        self.world.artifacts.pop(name, None)

    @precondition(lambda self: self.world.retained)
    @rule(index=st.integers(0, 50))
    def admin_removes(self, index: int) -> None:
        """`DELETE /retained/{id}`: only of an Artifact that is gone, and nobody writes the ledger for it."""
        retained = self.world.retained
        del self.world.pins[retained[index % len(retained)].uid]

    @rule(name=NAMES)
    def one_fails(self, name: str) -> None:
        found = self.world.artifacts.get(name)
        is_open = found is not None and not found.is_stored and found.ended is None
        if found is not None and is_open and found.uid not in self.world.fetching:
            self.world.change(found, ended=self.world.now)

    @invariant()
    def limits_hold(self) -> None:
        assert not list(worlds.violations(self.world))

    def teardown(self) -> None:
        """Let everything come to rest: then nothing may be left over."""
        for op in self.ops:
            model.drain(op)
            self.limits_hold()
        model.settle(self.world)
        self.limits_hold()
        assert not list(worlds.leaks(self.world))


StorageProtocol.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestStorageProtocol = StorageProtocol.TestCase


def simulate(seed: int, steps: int) -> None:
    """Walk far: some violations need a pause that outlasts several other operations."""
    choose = random.Random(seed)
    machine = StorageProtocol()

    def name() -> str:
        return choose.choice(worlds.NAMES[:4])

    def file() -> str:
        return choose.choice(worlds.FILES)

    def chunks() -> list[int]:
        return [choose.choice([10, 30]) for _ in range(choose.randrange(1, 3))]

    moves: list[tuple[int, Any]] = [
        (60, lambda: machine.ops and machine.step(choose.randrange(50), choose.choice([1, 1, 2]))),
        (6, lambda: machine.post(name(), choose.choice([20, 40]), choose.random() < 0.8, "no")),
        (1, lambda: machine.post(name(), 20, is_upload=True, refused=choose.choice(["forbidden", "lost"]))),
        (6, lambda: machine.apply(name(), choose.choice([20, 40]), choose.random() < 0.3)),
        (4, lambda: machine.apply_url(name())),
        (12, lambda: machine.fetch(name(), chunks(), choose.random() < 0.4)),
        (18, lambda: machine.put(name(), file(), chunks(), choose.random() < 0.7, choose.random() < 0.3)),
        (14, lambda: machine.look_at(name())),
        (4, lambda: machine.reconcile_at_once(name())),
        (8, machine.recount),
        (1, lambda: machine.ops and machine.crash(choose.randrange(50))),
        (8, lambda: machine.time_passes(choose.choice([1, 20, 130]))),
        (5, lambda: machine.user_deletes(name())),
        (4, lambda: machine.world.retained and machine.admin_removes(choose.randrange(50))),
        (1, lambda: machine.one_fails(name())),
    ]
    weights = [weight for weight, _ in moves]
    for _, move in choose.choices(moves, weights, k=steps):
        while len(machine.ops) > IN_FLIGHT:
            machine.step(choose.randrange(50), 1)
            machine.limits_hold()
        move()
        machine.limits_hold()
    machine.teardown()


@pytest.mark.parametrize("seed", range(30))
def test_the_protocol_holds_on_long_walks(seed: int) -> None:
    simulate(seed, 3000)


def test_what_fits_is_accepted_and_what_is_deleted_makes_room() -> None:
    world = worlds.World()
    model.drain(model.recount(world))
    for name in ("a", "b", "c"):
        model.drain(model.post(world, name, 40, is_upload=False, refused="no"))
        model.drain(model.reconcile(world, name))
    assert {each.name for each in world.artifacts.values() if each.is_stored} == {"a", "b"}
    del world.artifacts["a"]
    model.drain(model.recount(world))
    model.drain(model.post(world, "c", 40, is_upload=False, refused="no"))
    model.drain(model.reconcile(world, "c"))
    assert world.artifacts["c"].is_stored


def test_an_upload_that_was_killed_gives_its_bytes_back_and_stays_counted() -> None:
    world = worlds.World()
    model.drain(model.recount(world))
    model.drain(model.post(world, "a", 0, is_upload=True, refused="no"))
    model.drain(model.reconcile(world, "a"))
    upload = model.put(world, "a", "x", [30, 30], stated=True, fails=False)
    for _ in range(4):
        next(upload)
    assert world.account.reserved_bytes == 60
    model.settle(world)
    assert (world.account.reserved_bytes, world.account.artifacts) == (0, 1)


def test_what_a_killed_operator_has_charged_is_not_charged_again_and_given_back() -> None:
    world = worlds.World()
    model.drain(model.recount(world))
    model.drain(model.apply_url(world, "a"))
    first = model.fetch(world, "a", [30, 30], fails=False)
    while world.account.reserved_bytes < 60:
        next(first)
    first.close()
    held = world.account.reserved_bytes
    second = model.fetch(world, "a", [30, 30], fails=True)
    for _ in second:
        assert world.account.reserved_bytes in {held, 0}
    assert world.account.reserved_bytes == 0
    model.drain(model.fetch(world, "a", [30, 30], fails=False))
    assert (world.account.totals.committed_bytes, world.account.charges) == (60, {})


def test_what_is_retained_keeps_its_room_until_an_administrator_removes_it() -> None:
    world = worlds.World()
    model.drain(model.recount(world))
    for _ in range(5):  # the loop that filled a store: upload, `Retain`, delete
        model.drain(model.post(world, "b", 40, is_upload=False, refused="no"))
        model.drain(model.reconcile(world, "b"))
        world.artifacts.pop("b", None)
        model.drain(model.recount(world))
    assert [each.size_bytes for each in world.retained] == [40, 40]
    totals = world.account.totals
    assert (totals.committed_bytes, totals.artifact_count) == (80, 2)
    assert (totals.retained_bytes, totals.retained_count) == (80, 2)
    world.pins.pop(world.retained[0].uid)
    model.drain(model.recount(world))
    model.drain(model.post(world, "b", 40, is_upload=False, refused="no"))
    model.drain(model.reconcile(world, "b"))
    assert world.artifacts["b"].is_stored


def test_a_pin_of_an_artifact_that_was_never_said_to_be_stored_counts_once() -> None:
    world = worlds.World()
    model.drain(model.recount(world))
    model.drain(model.post(world, "b", 100, is_upload=False, refused="no"))
    looking = model.reconcile(world, "b")
    while not world.pins:
        next(looking)
    looking.close()
    del world.artifacts["b"]
    assert world.account.used_bytes == 100, "the charge stands until the pin is counted"
    model.drain(model.recount(world))
    assert (world.account.used_bytes, world.account.charges) == (100, {})
