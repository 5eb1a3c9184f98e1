"""The ledger protocol under random interleavings, crashes, foreign rejections, forced deletes, re-submits."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from manifestry.core.jobs import batchjobs
from manifestry.core.jobs import statuses as job_steps
from manifestry.core.kube import names
from manifestry.core.quota import ledgers
from tests.unit.core.quota import protocolmodel as model

pytestmark = pytest.mark.unit
NAMES = st.sampled_from(model.NAMES)
IN_FLIGHT = 6  # few enough that most operations come to their end
WISHES = st.sampled_from(["Active", "Suspended", "Cancelled"])


class LedgerProtocol(RuleBasedStateMachine):
    """Operations are generators: each `step` runs one up to its next API call, so any two may interleave."""

    def __init__(self) -> None:
        super().__init__()
        self.world = model.World()
        self.ops: list[model.Op] = []

    def pick(self, index: int) -> int:
        return index % len(self.ops)

    @rule(name=NAMES, priority=st.integers(-5, 5), rejected=st.booleans())
    def submit(self, name: str, priority: int, rejected: bool) -> None:
        self.ops.append(model.submit(self.world, name, {"priority": priority}, rejected))

    @rule(name=NAMES)
    def submit_past_the_webhook(self, name: str) -> None:
        self.ops.append(model.bypass(self.world, name, {}))

    @rule(name=NAMES)
    def look_at(self, name: str) -> None:
        self.ops.append(model.reconcile(self.world, name))

    @rule(name=NAMES)
    def reconcile_at_once(self, name: str) -> None:
        model.drain(model.reconcile(self.world, name))

    @rule(name=NAMES, priority=st.integers(-5, 5))
    def submit_at_once(self, name: str, priority: int) -> None:
        model.drain(model.submit(self.world, name, {"priority": priority}, rejected=False))

    @rule()
    def admit(self) -> None:
        self.ops.append(model.admit(self.world))

    @rule()
    def repair(self) -> None:
        self.ops.append(model.repair(self.world))

    @precondition(lambda self: self.ops)
    @rule(index=st.integers(0, 50), times=st.integers(1, 6))
    def step(self, index: int, times: int) -> None:
        op = self.ops[self.pick(index)]
        for _ in range(times):
            try:
                next(op)
            except StopIteration:
                self.ops.remove(op)
                return

    @precondition(lambda self: self.ops)
    @rule(index=st.integers(0, 50))
    def crash(self, index: int) -> None:
        self.ops.pop(self.pick(index))

    @rule(seconds=st.sampled_from([1, 30, 90, 130]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def pods_start(self) -> None:
        for name in self.world.running_batches():
            batch = self.world.batches[name]
            if not batchjobs.is_deleting(batch):
                self.world.start_pod(batch)

    @rule(index=st.integers(0, 5), kind=st.sampled_from(["Complete", "Failed"]))
    def one_finishes(self, index: int, kind: str) -> None:
        running = self.world.running_batches()
        if running:
            name = running[index % len(running)]
            self.world.pods.discard(str(batchjobs.job_uid(self.world.batches[name])))
            self.world.patch_batch(
                name, status={"conditions": [{"type": kind, "status": "True"}], "active": 0}
            )

    @rule()
    def kubelet_and_garbage_collector(self) -> None:
        """Foreground deletions end pods first; an absent owner's batch Job goes at once, its pods later."""
        living = {job["metadata"]["uid"] for job in self.world.jobs.values()}
        for name, batch in list(self.world.batches.items()):
            uid = str(batchjobs.job_uid(batch))
            if batchjobs.is_deleting(batch):
                self.world.pods.discard(uid)
                del self.world.batches[name]
            elif uid not in living:
                del self.world.batches[name]
        owners = {str(batchjobs.job_uid(batch)) for batch in self.world.batches.values()}
        gone = self.world.pods - owners
        if gone:
            self.world.pods.discard(min(gone))

    @rule(name=NAMES)
    def user_deletes(self, name: str) -> None:
        self.world.jobs.pop(name, None)

    @rule(name=NAMES, wish=WISHES)
    def user_wishes(self, name: str, wish: str) -> None:
        job = self.world.jobs.get(name)
        if job is not None and job["spec"].get("desiredState") != "Cancelled":
            self.world.edit_job(name, desiredState=wish)

    @rule(index=st.integers(0, 5))
    def somebody_deletes_a_batch_job(self, index: int) -> None:
        if self.world.batches:
            name = sorted(self.world.batches)[index % len(self.world.batches)]
            del self.world.batches[name]

    @invariant()
    def limits_hold(self) -> None:
        assert not list(model.violations(self.world))

    def teardown(self) -> None:
        """Let everything come to rest: then I3 and I4 must hold, too."""
        for op in self.ops:
            model.drain(op)
            self.limits_hold()
        for _ in range(4):
            self.world.now += timedelta(seconds=130)
            model.drain(model.repair(self.world))
            for name in {*model.NAMES, *self.world.incarnations}:
                model.drain(model.reconcile(self.world, name))
                self.limits_hold()
            self.kubelet_and_garbage_collector()
            self.world.pods &= {str(batchjobs.job_uid(b)) for b in self.world.batches.values()}
        model.drain(model.repair(self.world))
        self.everything_is_accounted_for()

    def everything_is_accounted_for(self) -> None:
        living = {job["metadata"]["uid"]: job for job in self.world.jobs.values()}
        for uid, job in living.items():
            assert job_steps.is_terminal(job) != (uid in self.world.ledger.holders), "I3"
        assert self.world.ledger.holders.keys() <= living.keys(), "I4"
        for batch in self.world.batches.values():
            owner = living[str(batchjobs.job_uid(batch))]
            assert batchjobs.is_finished(batch) or not job_steps.is_terminal(owner)
            metadata = owner["metadata"]
            assert batch["metadata"]["name"] == names.batch_job_name(metadata["name"], metadata["uid"])


LedgerProtocol.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLedgerProtocol = LedgerProtocol.TestCase


def simulate(seed: int, steps: int) -> None:
    """Walk far: some violations need a pause that outlasts several other operations."""
    choose = random.Random(seed)
    machine = LedgerProtocol()
    moves: list[tuple[int, Any]] = [
        (60, lambda: machine.ops and machine.step(choose.randrange(50), 1)),
        (8, lambda: machine.submit(choose.choice(model.NAMES), choose.randint(-2, 2), choose.random() < 0.2)),
        (4, lambda: machine.submit(f"n{choose.randrange(steps)}", 0, rejected=False)),
        (1, lambda: machine.submit_past_the_webhook(choose.choice(model.NAMES))),
        (20, lambda: machine.look_at(choose.choice([*model.NAMES, *machine.world.jobs]))),
        (3, machine.admit),
        (5, machine.repair),
        (2, lambda: machine.ops and machine.crash(choose.randrange(50))),
        (4, lambda: machine.time_passes(choose.choice([1, 1, 5, 20, 40, 130]))),
        (6, machine.pods_start),
        (6, lambda: machine.one_finishes(choose.randrange(5), choose.choice(["Complete", "Failed"]))),
        (6, machine.kubelet_and_garbage_collector),
        (3, lambda: machine.user_deletes(choose.choice([*model.NAMES, *machine.world.jobs]))),
        (3, lambda: machine.user_wishes(choose.choice(model.NAMES), choose.choice(["Active", "Suspended"]))),
        (1, lambda: machine.user_wishes(choose.choice(model.NAMES), "Cancelled")),
        (1, lambda: machine.somebody_deletes_a_batch_job(choose.randrange(5))),
    ]
    weights = [weight for weight, _ in moves]
    for _, move in choose.choices(moves, weights, k=steps):
        while len(machine.ops) > IN_FLIGHT:
            machine.step(choose.randrange(50), 1)
            machine.limits_hold()
        move()
        machine.limits_hold()
    machine.teardown()


@pytest.mark.parametrize("seed", range(20))
def test_the_protocol_holds_on_long_walks(seed: int) -> None:
    simulate(seed, 1500)


def test_a_hundred_creates_of_one_name_are_one_charge() -> None:
    world = model.World()
    ops: list[Any] = [model.submit(world, "same", {}, rejected=False) for _ in range(100)]
    while ops:
        for op in list(ops):
            if next(op, "end") == "end":
                ops.remove(op)
    assert world.ledger.usage.held == 1
    model.drain(model.reconcile(world, "same"))
    assert world.ledger.usage.held == 1
    assert world.ledger.usage.admitted == 1


def test_a_charge_whose_create_was_rejected_elsewhere_expires() -> None:
    world = model.World()
    model.drain(model.submit(world, "x", {}, rejected=True))
    model.drain(model.repair(world))
    assert world.ledger.usage.reserved == 1
    world.now += ledgers.RESERVED_GRACE + timedelta(seconds=1)
    model.drain(model.repair(world))
    assert world.ledger.usage.held == 0
