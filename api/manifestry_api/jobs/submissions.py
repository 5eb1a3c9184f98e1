"""Submitting a job: check what can be checked here, then let the API server and its webhook decide."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.core import errors
from manifestry.core.jobs import jobtypes, parameters, requests
from manifestry.core.kube import bodies as kube_bodies
from manifestry.core.kube import names
from manifestry.core.quota import positions
from manifestry_api.guard import deps
from manifestry_api.objects import lookups
from manifestry_api.request import bodies, refusals

KEY_MAX_LENGTH = 255


@dataclass(frozen=True)
class Submission:
    """A checked request.

    Args:
        resource: the Job to create.
        key: what the `Idempotency-Key` became, or None.
    """

    resource: lookups.Object
    key: requests.Idempotency | None

    @property
    def job_type(self) -> str:
        """Return the JobType's name."""
        return str(self.resource["spec"]["jobType"])


def parse_key(fields: Iterable[str]) -> str | None:
    """Return the `Idempotency-Key`, with or without the quotes of a structured string.

    Raises:
        Problem: bad-request for an empty, long, repeated or unprintable key.
    """
    values = list(fields)
    if not values:
        return None
    key = values[0].strip()
    key = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if len(values) > 1 or not 0 < len(key) <= KEY_MAX_LENGTH or not key.isascii() or not key.isprintable():
        detail = (
            f"header `Idempotency-Key` must be one printable ASCII text of 1 to {KEY_MAX_LENGTH} characters"
        )
        raise errors.Problem(errors.BAD_REQUEST, detail)
    return key


async def prepare(
    ports: deps.Ports, caller: deps.Caller, body: dict[str, Any], key: str | None
) -> Submission:
    """Check a body against its JobType and make the Job of it.

    Raises:
        Problem: validation-failed with pointers into the body.
    """
    job_type = await _job_type(ports, body["jobType"])
    _check_parameters(body, job_type)
    idempotency = requests.idempotency(body, key, caller.subject) if key is not None else None
    resource = requests.job(body, caller.namespace, lookups.provenance(caller), idempotency)
    found = jobtypes.validate_job(resource["spec"], job_type)
    if found:
        raise lookups.in_rest_terms(bodies.invalid(list(found)), resource["spec"])
    return Submission(resource, idempotency)


async def submit(
    ports: deps.Ports, caller: deps.Caller, submission: Submission
) -> tuple[lookups.Object, bool]:
    """Create the Job, or find the one that an earlier request with this key has made.

    Returns:
        The Job, and whether this is a replay.

    Raises:
        Problem: already-exists, validation-failed (key with another body), dependency-unavailable.
        ApiError: quota exceeded and other refusals.
    """
    cache, key = ports.caches.jobs, submission.key
    known = cache.items.get((caller.namespace, key.name)) if key is not None else None
    if key is not None and known is not None and requests.is_replay(known, key):
        return known, True
    try:
        return await lookups.create(ports, caller, cache, submission.resource), False
    except errors.Problem as problem:
        if key is None or problem.kind is not errors.ALREADY_EXISTS:
            raise
        existing = await lookups.find_live(ports, caller, cache, key.name)
        return existing, requests.is_replay(existing, key)


async def rehearse(ports: deps.Ports, caller: deps.Caller, submission: Submission) -> dict[str, Any]:
    """Let the API server and the webhook go through a create without effect.

    Returns:
        The content of `views.DryRunView`: a full quota is an answer here, not an error.
    """
    try:
        await lookups.create(ports, caller, ports.caches.jobs, submission.resource, dry_run=True)
    except apierrors.ApiError as error:
        problem = refusals.from_api(error)
        if problem.kind is not errors.QUOTA_EXCEEDED:
            raise
        return {"dryRun": True, "accepted": False, "detail": problem.detail, "usage": problem.usage}
    detail = "the job would be accepted"
    return {"dryRun": True, "accepted": True, "detail": detail, "usage": _usage(ports, caller, submission)}


def _usage(ports: deps.Ports, caller: deps.Caller, submission: Submission) -> dict[str, Any]:
    job_type = submission.job_type
    limits = ports.quotas.table.limits(caller.tenant, job_type)
    ledger = ports.ledgers.snapshot(caller.namespace, job_type)
    return positions.usage(caller.tenant, job_type, ledger, limits)


async def _job_type(ports: deps.Ports, name: str) -> lookups.Object:
    try:
        return await lookups.find_shared(ports, ports.caches.job_types, name)
    except errors.Problem as problem:
        if problem.kind is not errors.NOT_FOUND:
            raise
        message = f"`jobType` must name a {names.JOB_TYPES.kind}: '{name}' does not exist"
        raise errors.invalid("/jobType", message) from None


def _check_parameters(body: dict[str, Any], job_type: lookups.Object) -> None:
    """Compare the values as they were sent: as texts, the number 3 would pass for the string '3'."""
    schema = kube_bodies.spec_of(job_type).get("parametersSchema")
    found = parameters.validate(body.get("parameters") or {}, schema) if jobtypes.is_ready(job_type) else ()
    if found:
        raise lookups.in_rest_terms(bodies.invalid(list(found)), {})
