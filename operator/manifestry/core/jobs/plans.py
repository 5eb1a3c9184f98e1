"""What a Job's plan depends on and what it may ask for: values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.core.jobs import batchjobs
from manifestry.core.kube import bodies
from manifestry.core.quota import holders

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Observed:
    """Everything a plan depends on, read live.

    Args:
        job: the Job's body.
        tenant: the namespace's tenant, None without one.
        job_type: the JobType's body, None when there is none.
        holder: the Job's entry in its ledger.
        batch: its batch Job.
        pods: its pods, only when `wants_pods` asked for them.
        over_quota: the sentence with which the ledger refused it just now.
        refused: what the API server said when it refused the batch Job for good.
        denied: what it said when it refused the batch Job for now, such as a full ResourceQuota.
        untenanted: why the namespace has no tenant, when that is not just a missing label.
        malformed: what is wrong with the shape of `spec`; nothing else was gathered then.
    """

    job: Body
    tenant: str | None = None
    job_type: Body | None = None
    holder: holders.Holder | None = None
    batch: Body | None = None
    pods: tuple[Body, ...] = ()
    over_quota: str = ""
    refused: str = ""
    denied: str = ""
    untenanted: str = ""
    malformed: str = ""

    @property
    def uid(self) -> str:
        """Return the Job's uid."""
        return str(self.job["metadata"]["uid"])

    @property
    def spec(self) -> Body:
        """Return the Job's spec."""
        return bodies.spec_of(self.job)

    @property
    def is_foreign(self) -> bool:
        """Tell whether the batch Job has our name for it but was made by somebody else."""
        return self.batch is not None and batchjobs.job_uid(self.batch) != self.uid

    @property
    def is_started(self) -> bool:
        """Tell whether a batch Job was made for it and has not been taken back."""
        return self.batch is not None or bool((self.job.get("status") or {}).get("jobRef"))


@dataclass(frozen=True)
class Claim:
    """T2 and T3: enter the ledger, or bring the entry up to date, and admit whoever fits."""

    job: holders.LiveJob


@dataclass(frozen=True)
class Park:
    """Give up the slot or place of a suspended Job, if it is still this one."""

    holder: holders.Holder


@dataclass(frozen=True)
class Release:
    """T4: leave the ledger.

    Args:
        wait_for_pods: look first, and after the end is written down, for an unfinished batch Job or pod:
            the Job did not end by its batch Job's end.
    """

    wait_for_pods: bool


@dataclass(frozen=True)
class CreateBatch:
    """Make the suspended batch Job; that it exists already is fine."""

    body: dict[str, Any]


@dataclass(frozen=True)
class Unsuspend:
    """Let the batch Job run, if the Job has not changed and the ledger still says Admitted.

    Args:
        name: the batch Job's name.
        uid: the precondition; not its resourceVersion, which the Job controller moves at once after the
            creation, so that every second write would be in vain.
    """

    name: str
    uid: str


@dataclass(frozen=True)
class SetDeadline:
    """Change how long the unfinished batch Job may run, as its Job has been changed."""

    name: str
    uid: str
    seconds: int


@dataclass(frozen=True)
class DeleteBatch:
    """Stop the batch Job: foreground, so that its object stays until its pods are gone."""

    name: str
    uid: str


@dataclass(frozen=True)
class SetTtl:
    """Let the finished batch Job go after a while, its result being written down."""

    name: str
    seconds: int


Action = Claim | Park | Release | CreateBatch | Unsuspend | SetDeadline | DeleteBatch | SetTtl


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Args:
        status: the new status, written before the actions; None leaves it.
        actions: in this order.
        again: plan once more with what the actions brought.
        after: look again after so many seconds; None waits for an event.
    """

    status: dict[str, Any] | None = None
    actions: tuple[Action, ...] = ()
    again: bool = False
    after: float | None = None
