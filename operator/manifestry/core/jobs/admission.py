"""The webhook's decision about one Job CREATE: an ordered list of checks, then the quota (T1).

The facade parses the AdmissionReview, gathers the facts, asks here, and renders. References:
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/; quota-ledger.md.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manifestry.core import errors
from manifestry.core.errors import FieldError
from manifestry.core.jobs.jobtypes import validate_job
from manifestry.core.kube import names
from manifestry.core.quota import holders, ledgers, quotas

API_VERSION = "admission.k8s.io/v1"
QUOTA_EXCEEDED = "QuotaExceeded"  # reason of the causes that carry a usage
USAGE_FIELDS = ("tenant", "jobType", "running", "maxRunning", "queued", "maxQueued")
RETRY_AFTER_SECONDS = 1
MAX_DIGITS = 18  # of a number in a cause; Python refuses to read very long ones
_NUMBERS = USAGE_FIELDS[2:]
_CAUSE_INVALID = "FieldValueInvalid"
_INDEX = re.compile(r"\.(\d+)(?=\.|$)")


@dataclass(frozen=True)
class Request:
    """What an AdmissionReview asks.

    Args:
        review_uid: echoed in the answer.
        uid: the Job's metadata.uid, which the server has already chosen.
        name: the Job's name, generated already.
        namespace: where it is to be created.
        dry_run: nothing may be written.
        spec: the Job's spec, of any shape.
    """

    review_uid: str
    uid: str
    name: str
    namespace: str
    dry_run: bool
    spec: Any

    @property
    def job_type(self) -> str:
        """Return `spec.jobType`, empty when it is missing."""
        found = self.spec.get("jobType") if isinstance(self.spec, Mapping) else None
        return found if isinstance(found, str) else ""


@dataclass(frozen=True)
class Facts:
    """What the facade knows about the surroundings.

    Args:
        tenant: the tenant of the namespace, None when it has none or an ambiguous one.
        job_type: the JobType's body, None when there is none (after a live read).
        exists: a Job of this name exists (live read).
    """

    tenant: str | None
    job_type: Mapping[str, Any] | None
    exists: bool


@dataclass(frozen=True)
class Decision:
    """The answer to a review.

    Args:
        allowed: whether the create may go on.
        code: HTTP status of a refusal.
        reason: metav1.Status reason of a refusal.
        message: what kubectl prints.
        causes: metav1.StatusCause entries.
        warnings: sent along with an allowed create.
        retry_after_seconds: makes client-go wait and try again; never with an exceeded quota, where it
            would hide the refusal from the user for ten attempts.
    """

    allowed: bool
    code: int = 200
    reason: str = ""
    message: str = ""
    causes: tuple[Mapping[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    retry_after_seconds: int | None = None


Check = Callable[[Request, Facts], Decision | None]
ALLOWED = Decision(True)


def parse_review(body: Any) -> Request:
    """Read an AdmissionReview for a Job CREATE.

    Raises:
        Problem: `bad-request`, the review or the object in it has not the shape it must have.
    """
    review = body.get("request") if isinstance(body, Mapping) else None
    if not isinstance(review, Mapping) or not isinstance(review.get("uid"), str):
        raise errors.Problem(errors.BAD_REQUEST, "`request.uid` must be set")
    job = review.get("object")
    if review.get("operation") != "CREATE" or not isinstance(job, Mapping):
        raise errors.Problem(errors.BAD_REQUEST, "`request` must be a CREATE with an object")
    metadata = job.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    uid, name = metadata.get("uid"), metadata.get("name") or review.get("name")
    namespace = review.get("namespace") or metadata.get("namespace")
    if not all(isinstance(text, str) and text for text in (uid, name, namespace)):
        raise errors.Problem(errors.BAD_REQUEST, "`object.metadata` must have uid, name and namespace")
    return Request(
        review["uid"], str(uid), str(name), str(namespace), review.get("dryRun") is True, job.get("spec")
    )


def check(request: Request, facts: Facts) -> Decision | None:
    """Return the first refusal that is not about quota, or None."""
    return next((denial for rule in CHECKS if (denial := rule(request, facts)) is not None), None)


def reserve(
    request: Request, tenant: str, limits: quotas.Limits, now: datetime
) -> Callable[[holders.Ledger], tuple[holders.Ledger, Decision]]:
    """Return the decision for `Ledgers.transact`: T1, or with dry-run the same answer without the write."""

    def decide(ledger: holders.Ledger) -> tuple[holders.Ledger, Decision]:
        after, outcome = ledgers.reserve(ledger, request.uid, request.name, limits, now)
        if outcome is holders.Outcome.OVER_LIMIT:
            return ledger, exceeded(tenant, request.job_type, ledger.usage, limits)
        decision = _allowed(tenant, request.job_type, after.usage, limits)
        return (ledger if request.dry_run else after), decision

    return decide


def exceeded(tenant: str, job_type: str, usage: quotas.Usage, limits: quotas.Limits) -> Decision:
    """Return the refusal of a create over the quota, its numbers in the causes."""
    message = "quota exceeded: " + quotas.describe(tenant, job_type, usage, limits)
    return Decision(
        False, 429, "TooManyRequests", message, causes=_usage_causes(tenant, job_type, usage, limits)
    )


def busy(message: str) -> Decision:
    """Return the refusal for a ledger that is contended or not initialised: try again in a second."""
    return Decision(False, 503, "ServiceUnavailable", message, retry_after_seconds=RETRY_AFTER_SECONDS)


def render_review(uid: str, decision: Decision) -> dict[str, Any]:
    """Return the AdmissionReview that answers the request `uid`."""
    response: dict[str, Any] = {"uid": uid, "allowed": decision.allowed}
    if decision.warnings:
        response["warnings"] = list(decision.warnings)
    if not decision.allowed:
        response["status"] = _render_status(decision)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _render_status(decision: Decision) -> dict[str, Any]:
    details: dict[str, Any] = {"group": names.GROUP, "kind": names.JOBS.plural}
    if decision.causes:
        details["causes"] = [dict(cause) for cause in decision.causes]
    if decision.retry_after_seconds is not None:
        details["retryAfterSeconds"] = decision.retry_after_seconds
    return {
        "status": "Failure",
        "code": decision.code,
        "reason": decision.reason,
        "message": decision.message,
        "details": details,
    }


def parse_usage(details: Any) -> dict[str, Any] | None:
    """Read back the usage from the `details` of a refused create.

    Returns:
        tenant, jobType, running, maxRunning, queued, maxQueued (an unlimited one is None), or None when
        the refusal is not ours: API Priority and Fairness answers 429, too.
    """
    texts = {
        str(cause.get("field")): str(cause.get("message"))
        for cause in _causes(details)
        if cause.get("reason") == QUOTA_EXCEEDED
    }
    if not {"tenant", "jobType", "running", "queued"} <= texts.keys():
        return None
    usage: dict[str, Any] = {field: texts.get(field) for field in USAGE_FIELDS}
    for field in _NUMBERS:
        text = texts.get(field, "")
        usage[field] = int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None
    return usage


def parse_fields(details: Any) -> tuple[FieldError, ...]:
    """Read back the field errors from the `details` of a refused create, pointers restored."""
    return tuple(
        FieldError(_to_pointer(str(cause.get("field") or "")), str(cause.get("message") or ""))
        for cause in _causes(details)
        if cause.get("reason") == _CAUSE_INVALID
    )


def _causes(details: Any) -> list[Mapping[str, Any]]:
    causes = details.get("causes") if isinstance(details, Mapping) else None
    return [c for c in causes if isinstance(c, Mapping)] if isinstance(causes, list) else []


def _tenant_known(request: Request, facts: Facts) -> Decision | None:
    if facts.tenant:
        return None
    message = f"namespace '{request.namespace}' must carry the label `{names.TENANT_LABEL}` of one tenant"
    return _invalid((FieldError("/metadata/namespace", message),))


def _name_free(request: Request, facts: Facts) -> Decision | None:
    if not facts.exists:
        return None
    message = f'{names.JOBS.plural}.{names.GROUP} "{request.name}" already exists'
    return Decision(False, 409, "AlreadyExists", message)


def _job_type_known(request: Request, facts: Facts) -> Decision | None:
    if facts.job_type is not None:
        return None
    message = f"`jobType` must name a JobType: '{request.job_type}' does not exist"
    return _invalid((FieldError("/spec/jobType", message),))


def _spec_valid(request: Request, facts: Facts) -> Decision | None:
    found = validate_job(request.spec, facts.job_type or {})
    return _invalid(found) if found else None


CHECKS: tuple[Check, ...] = (
    _tenant_known,
    _name_free,  # before anything is charged
    _job_type_known,
    _spec_valid,
)


def _invalid(found: Iterable[FieldError]) -> Decision:
    found = tuple(found)
    causes = tuple(
        {"reason": _CAUSE_INVALID, "field": _to_field(error.pointer), "message": error.message}
        for error in found
    )
    message = "; ".join(f"{_to_field(error.pointer)}: {error.message}" for error in found)
    return Decision(False, 422, "Invalid", message, causes=causes)


def _to_field(pointer: str) -> str:
    """Return a pointer as Kubernetes names fields, such as `spec.overrides.env[0].name`."""
    dotted = pointer.lstrip("/").replace("/", ".").replace("~1", "/").replace("~0", "~")
    return _INDEX.sub(r"[\1]", dotted)


def _to_pointer(field: str) -> str:
    """Undo `_to_field`; a dot inside a parameter's name is kept, as only `spec.parameters.*` can have one."""
    head, parameter, rest = field.partition("spec.parameters.")
    if parameter and not head:
        return "/spec/parameters/" + rest
    return "/" + field.replace("[", ".").replace("]", "").replace(".", "/") if field else ""


def _allowed(tenant: str, job_type: str, usage: quotas.Usage, limits: quotas.Limits) -> Decision:
    used = quotas.share(usage, limits)
    if used <= quotas.WARNING_SHARE:
        return ALLOWED
    text = f"{used:.0%} of the quota is used: {quotas.describe(tenant, job_type, usage, limits)}"
    return Decision(True, warnings=(text,))


def _usage_causes(
    tenant: str, job_type: str, usage: quotas.Usage, limits: quotas.Limits
) -> tuple[Mapping[str, str], ...]:
    values = (tenant, job_type, usage.admitted, limits.max_running, usage.waiting, limits.max_queued)
    return tuple(
        {"reason": QUOTA_EXCEEDED, "field": field, "message": "unlimited" if value is None else str(value)}
        for field, value in zip(USAGE_FIELDS, values, strict=True)
    )
