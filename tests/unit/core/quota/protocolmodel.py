"""A small Kubernetes with crashes, pauses and races at every call, driven by the real core functions."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from manifestry.core.jobs import batchjobs, lives, plans, statuses, steps
from manifestry.core.kube import names
from manifestry.core.quota import holders, ledgers
from manifestry.core.quota.quotas import Limits

NAMESPACE = "t"
RUNNING, QUEUED = 1, 2
LIMITS = Limits(RUNNING, QUEUED)
NAMES = ("a", "b", "c", "d")
TYPE = {"metadata": {"name": "render"}, "spec": {"image": "x", "allowedOverrides": ["Priority"]}}
MUTATING_TIMEOUT = timedelta(seconds=34)

Op = Generator[None, None, None]


class ConflictError(Exception):
    """The resourceVersion does not match."""


@dataclass
class World:
    """etcd, the Job controller and the kubelet in one; every method is one atomic API call."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    version: int = 1
    ledger: holders.Ledger = field(default_factory=lambda: holders.build(()))
    ledger_version: int = 1
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name
    pods: set[str] = field(default_factory=set)  # uids of Jobs with a live pod
    uids: int = 0
    charged: set[str] = field(default_factory=set)  # first Jobs of a name, let in by the webhook
    incarnations: dict[str, int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)  # uids whose pod has run since they were last suspended
    twice: list[str] = field(default_factory=list)

    def bump(self) -> str:
        self.version += 1
        return str(self.version)

    def new_uid(self) -> str:
        self.uids += 1
        return f"{self.uids:08d}"

    def read_ledger(self) -> tuple[int, holders.Ledger]:
        return self.ledger_version, self.ledger

    def write_ledger(self, version: int, ledger: holders.Ledger) -> None:
        if version != self.ledger_version:
            raise ConflictError
        self.ledger_version += 1
        stored = {"status": {"initializedTime": "x", "holders": holders.render(ledger)}}
        self.ledger = holders.parse(stored)
        assert self.ledger.usage == ledger.usage
        assert self.ledger.reserved == ledger.reserved

    def create_job(self, name: str, uid: str, spec: dict[str, Any]) -> bool:
        if name in self.jobs:
            return False
        metadata = {"name": name, "uid": uid, "namespace": NAMESPACE, "generation": 1}
        metadata["resourceVersion"] = self.bump()
        metadata["creationTimestamp"] = stamp(self.now)
        self.jobs[name] = {"metadata": metadata, "spec": {"jobType": "render", **spec}, "status": {}}
        self.incarnations[name] = self.incarnations.get(name, 0) + 1
        return True

    def write_status(self, name: str, seen: Mapping[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        job = self.jobs.get(name)
        if job is None or job["metadata"]["resourceVersion"] != seen["metadata"]["resourceVersion"]:
            raise ConflictError
        metadata = {**job["metadata"], "resourceVersion": self.bump()}
        self.jobs[name] = {**job, "metadata": metadata, "status": status}
        return self.jobs[name]

    def edit_job(self, name: str, **spec: Any) -> None:
        job = self.jobs[name]
        if spec.get("desiredState") == "Suspended":
            self.begun.discard(job["metadata"]["uid"])
        metadata = {**job["metadata"], "resourceVersion": self.bump()}
        metadata["generation"] += 1
        self.jobs[name] = {**job, "metadata": metadata, "spec": {**job["spec"], **spec}}

    def create_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if name not in self.batches:
            metadata = {**body["metadata"], "uid": "b" + self.new_uid(), "resourceVersion": self.bump()}
            self.batches[name] = {"metadata": metadata, "spec": dict(body["spec"]), "status": {}}
        return self.batches[name]

    def patch_batch(self, name: str, uid: str | None = None, **changes: Any) -> dict[str, Any]:
        batch = self.batches.get(name)
        if batch is None or uid not in {None, batch["metadata"]["uid"]}:
            raise ConflictError
        metadata = {**batch["metadata"], "resourceVersion": self.bump(), **changes.pop("metadata", {})}
        changed = {part: {**batch[part], **changes.get(part, {})} for part in ("spec", "status")}
        self.batches[name] = {"metadata": metadata, **changed}
        return self.batches[name]

    def start_pod(self, batch: dict[str, Any]) -> None:
        uid = str(batchjobs.job_uid(batch))
        if uid in self.begun and not batchjobs.start_time(batch):
            self.twice.append(uid)
        self.begun.add(uid)
        self.pods.add(uid)
        self.patch_batch(batch["metadata"]["name"], status={"active": 1, "startTime": stamp(self.now)})

    def running_batches(self) -> list[str]:
        return [name for name, batch in self.batches.items() if batchjobs.is_running(batch)]


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def change_ledger(world: World, decide: Any) -> Generator[None, None, Any]:
    """Read, pause, compare-and-swap, until it holds."""
    while True:
        version, ledger = world.read_ledger()
        yield
        after, answer = decide(ledger)
        if after is ledger:
            return after, answer
        try:
            world.write_ledger(version, after)
        except ConflictError:
            continue
        return after, answer


def submit(world: World, name: str, spec: dict[str, Any], rejected: bool) -> Op:
    """T1 inside kube-apiserver: our webhook, then foreign ones, then storage, within 34 s."""
    started, uid = world.now, world.new_uid()
    if name in world.jobs:
        return
    yield
    _, outcome = yield from change_ledger(
        world, lambda ledger: ledgers.reserve(ledger, uid, name, LIMITS, world.now)
    )
    yield
    if outcome is holders.Outcome.OVER_LIMIT or rejected or world.now - started > MUTATING_TIMEOUT:
        return
    if world.create_job(name, uid, spec) and world.incarnations[name] == 1:
        world.charged.add(uid)


def bypass(world: World, name: str, spec: dict[str, Any]) -> Op:
    """A create without the webhook."""
    yield
    world.create_job(name, world.new_uid(), spec)


def reconcile(world: World, name: str) -> Op:
    """An operator's look at one Job; any number of them may be under way for the same Job."""
    seen = ledgers.named(world.ledger, name)
    yield
    job = world.jobs.get(name)
    yield
    yield from clear(world, seen, job)
    if job is None:
        return
    _, ledger = world.read_ledger()
    yield
    uid = job["metadata"]["uid"]
    batch = world.batches.get(names.batch_job_name(name, uid))
    observed = plans.Observed(job, "acme", TYPE, ledger.holders.get(uid), batch)
    try:
        for _ in range(8):
            plan = steps.plan(observed, world.now)
            if plan.status is not None and plan.status != observed.job.get("status"):
                yield
                observed = replace(observed, job=world.write_status(name, observed.job, plan.status))
            for action in plan.actions:
                yield
                observed = yield from act(world, observed, action)
            if not plan.again:
                return
    except ConflictError:
        return


def act(
    world: World, observed: plans.Observed, action: plans.Action
) -> Generator[None, None, plans.Observed]:
    match action:
        case plans.Claim(job):
            return (yield from claim(world, observed, job))
        case plans.Park(holder):
            yield from require_stopped(world, observed.uid)
            now = world.now
            ledger, _ = yield from change_ledger(world, lambda ledger: ledgers.park(ledger, holder, now))
            return replace(observed, holder=ledger.holders.get(observed.uid))
        case plans.Release(wait_for_pods):
            if wait_for_pods:
                yield from require_stopped(world, observed.uid)
            yield from change_ledger(world, lambda ledger: give_back(ledger, observed.uid))
        case plans.CreateBatch(body):
            return replace(observed, batch=world.create_batch(body))
        case plans.Unsuspend(name, uid):
            return (yield from unsuspend(world, observed, name, uid))
        case plans.DeleteBatch(name, uid):
            if name in world.batches and world.batches[name]["metadata"]["uid"] == uid:
                world.patch_batch(name, metadata={"deletionTimestamp": stamp(world.now)})
    return observed


def claim(
    world: World, observed: plans.Observed, job: holders.LiveJob
) -> Generator[None, None, plans.Observed]:
    def decide(ledger: holders.Ledger) -> Any:
        ledger, outcome = ledgers.claim(ledger, job, LIMITS, world.now)
        return ledgers.admit(ledger, LIMITS)[0], outcome

    ledger, outcome = yield from change_ledger(world, decide)
    over = "full" if outcome is holders.Outcome.OVER_LIMIT else ""
    return replace(observed, holder=ledger.holders.get(job.uid), over_quota=over)


def unsuspend(
    world: World, observed: plans.Observed, name: str, uid: str
) -> Generator[None, None, plans.Observed]:
    """Batch Job, then Job, then ledger, then the write: see handlers/jobs."""
    job = world.jobs.get(observed.job["metadata"]["name"], {"metadata": {}})
    require(job["metadata"].get("resourceVersion") == observed.job["metadata"]["resourceVersion"])
    yield
    _, ledger = world.read_ledger()
    yield
    holder = ledger.holders.get(observed.uid)
    require(holder is not None and holder.state is holders.State.ADMITTED)
    return replace(observed, batch=world.patch_batch(name, uid, spec={"suspend": False}))


def give_back(ledger: holders.Ledger, uid: str) -> Any:
    ledger, outcome = ledgers.release(ledger, uid)
    return ledgers.admit(ledger, LIMITS)[0], outcome


def clear(
    world: World, seen: tuple[holders.Holder, ...], job: dict[str, Any] | None
) -> Generator[None, None, None]:
    """What handlers/holders.clear does: release what deleted Jobs of this name hold."""
    kept = job["metadata"]["uid"] if job else None
    for holder in seen:
        is_new = world.now - holder.since <= ledgers.RESERVED_GRACE
        if holder.uid == kept or (holder.state is holders.State.RESERVED and is_new):
            continue
        try:
            yield from require_stopped(world, holder.uid)
        except ConflictError:
            continue
        yield from change_ledger(world, lambda ledger, uid=holder.uid: give_back(ledger, uid))


def require_stopped(world: World, uid: str) -> Op:
    """Stop what is left of a Job; fail while something is."""
    left = [b for b in world.batches.values() if batchjobs.job_uid(b) == uid and not batchjobs.is_finished(b)]
    for batch in left:
        yield
        if batch["metadata"]["name"] in world.batches:
            world.patch_batch(batch["metadata"]["name"], metadata={"deletionTimestamp": stamp(world.now)})
    yield
    require(not left and uid not in world.pods)
    yield


def admit(world: World) -> Op:
    """T3 by the ledger's own key."""
    yield from change_ledger(world, lambda ledger: ledgers.admit(ledger, LIMITS))


def repair(world: World) -> Op:
    """T5: ledger, then Jobs, then the write at the version that was read."""
    version, ledger = world.read_ledger()
    now = world.now
    yield
    live_jobs = list(world.jobs.values())
    yield
    left = {batchjobs.job_uid(b): b for b in world.batches.values() if not batchjobs.is_finished(b)}
    yield
    pods = set(world.pods)
    yield
    live = [lives.live_job(job, TYPE, left.get(job["metadata"]["uid"])) for job in live_jobs]
    unfinished = frozenset(uid for uid in (*left, *pods) if uid)
    after, _ = ledgers.repair(ledger, live, unfinished, LIMITS, now)
    if after.holders != ledger.holders:
        try:
            world.write_ledger(version, after)
        except ConflictError:
            return


def require(condition: bool) -> None:
    if not condition:
        raise ConflictError


def drain(op: Op) -> None:
    """Run an operation to its end without a pause."""
    for _ in op:
        pass


def violations(world: World) -> Iterator[str]:
    """Yield what breaks I1 or I2 right now."""
    usage = world.ledger.usage
    if usage.admitted > RUNNING:
        yield f"I1: admitted {usage}"
    if usage.held > RUNNING + QUEUED:
        yield f"I1: held {usage}"
    if len(world.running_batches()) > RUNNING:
        yield f"I2: {world.running_batches()}"
    if len(world.pods) > RUNNING:
        yield f"I2: pods {world.pods}"
    if world.twice:
        yield f"run twice: {world.twice}"
    for job in world.jobs.values():
        if statuses.is_terminal(job) and job["metadata"]["uid"] in world.charged:
            reasons = {condition["reason"] for condition in job["status"]["conditions"]}
            if "QuotaExceeded" in reasons:
                yield f"an accepted Job was rejected later: {job}"
