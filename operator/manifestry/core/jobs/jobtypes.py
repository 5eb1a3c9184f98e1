"""What a JobType offers and what a Job may change about it: one validation for REST, webhook and operator."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from manifestry.core.errors import FieldError
from manifestry.core.jobs import parameters
from manifestry.core.kube import conditions
from manifestry.core.kube.bodies import spec_of

DEFAULT_BACKOFF_LIMIT = 0  # batch/v1's 6 would silently run a failing job seven times; a retry is asked for
RESERVED_ENV_PREFIXES = ("MANIFESTRY_", "PARAM_")
RESERVED_ENV = ("TRACEPARENT",)
MAX_ERRORS = 16
NOT_SERVED = ("inputs", "outputs")
_NOT_ALNUM = re.compile(r"[^A-Z0-9]")

Body = Mapping[str, Any]
Rule = Callable[[Body, Body], Iterator[FieldError]]


@dataclass(frozen=True)
class Effective:
    """What a Job really runs with, after the JobType's defaults and the Job's overrides.

    Args:
        image: the container image.
        backoff_limit: failed pods that are replaced.
        active_deadline_seconds: None for no deadline.
        ttl_seconds_after_finished: None for keeping the batch Job as long as the Job.
        priority: the priority the Job is entitled to.
    """

    image: str
    backoff_limit: int
    active_deadline_seconds: int | None
    ttl_seconds_after_finished: int | None
    priority: int

    def to_status(self) -> dict[str, Any]:
        """Return `status.effective`."""
        fields = {
            "image": self.image,
            "backoffLimit": self.backoff_limit,
            "activeDeadlineSeconds": self.active_deadline_seconds,
            "ttlSecondsAfterFinished": self.ttl_seconds_after_finished,
        }
        return {name: value for name, value in fields.items() if value is not None}


def effective(spec: Body, job_type: Body) -> Effective:
    """Combine a Job's spec with its JobType.

    Args:
        spec: the Job's spec.
        job_type: the JobType's body.
    """
    offered, overrides = spec_of(job_type), _overrides(spec)
    return Effective(
        image=str(overrides.get("image") or offered.get("image") or ""),
        backoff_limit=_first(spec.get("backoffLimit"), offered.get("backoffLimit"), DEFAULT_BACKOFF_LIMIT)
        or 0,
        active_deadline_seconds=_first(
            spec.get("activeDeadlineSeconds"), offered.get("activeDeadlineSeconds")
        ),
        ttl_seconds_after_finished=_first(
            spec.get("ttlSecondsAfterFinished"), offered.get("ttlSecondsAfterFinished")
        ),
        priority=priority(spec, job_type),
    )


def deadline(spec: Body, job_type: Body | None, current: int | None) -> int | None:
    """Return the deadline of a Job that has begun, in seconds, None for none.

    It may always be lowered, raised only as far as the JobType allows; a change of the JobType alone moves
    nothing that has begun.

    Args:
        spec: the Job's spec; without `activeDeadlineSeconds` the current one stays.
        job_type: the JobType's body, None when it is gone: then nothing is raised.
        current: the deadline in force, None for none.
    """
    wanted = spec.get("activeDeadlineSeconds")
    if not isinstance(wanted, int) or wanted < 1:
        return current
    if current is None or wanted <= current:
        return wanted
    if job_type is None:
        return current
    limit = spec_of(job_type).get("activeDeadlineSeconds")
    if "ActiveDeadlineSeconds" in _allowed(job_type) or not isinstance(limit, int):
        return wanted
    return max(current, min(wanted, limit))


def priority(spec: Body, job_type: Body | None) -> int:
    """Return the priority a Job is entitled to: it may always be lowered, raised only where allowed.

    `spec.priority` is mutable and no webhook sees the change, so the operator never trusts it unclamped.
    """
    wanted = spec.get("priority")
    if not isinstance(wanted, int):
        return 0
    return wanted if job_type is not None and "Priority" in _allowed(job_type) else min(wanted, 0)


def env_name(parameter: str) -> str:
    """Return the environment variable that carries a parameter."""
    return "PARAM_" + _NOT_ALNUM.sub("_", parameter.upper())


def is_reserved_env(name: str) -> bool:
    """Tell whether an environment variable is ours to set."""
    return name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES)


def parameters_of(spec: Body, job_type: Body) -> dict[str, Any]:
    """Return a Job's parameters decoded as the JobType's schema says."""
    return parameters.to_object(spec.get("parameters"), _schema(job_type))


def is_ready(job_type: Body) -> bool:
    """Tell whether a JobType can be used, by its spec and not by a status that may not be written yet."""
    return not faults(job_type)


def faults(job_type: Body) -> tuple[str, ...]:
    """Return why a JobType cannot be used, in sentences; empty means it can."""
    return parameters.check_schema(spec_of(job_type).get("parametersSchema"))


def type_conditions(job_type: Body) -> tuple[conditions.Condition, ...]:
    """Return a JobType's conditions: Ready, and Stalled while its schema must be mended."""
    found = faults(job_type)
    if not found:
        return (conditions.Condition("Ready", "True", "Valid", "the job type can be used"),)
    text = "; ".join(found)
    return (
        conditions.Condition("Ready", "False", "InvalidParametersSchema", text),
        conditions.Condition("Stalled", "True", "InvalidParametersSchema", text),
    )


def validate_job(spec: Any, job_type: Body) -> tuple[FieldError, ...]:
    """Check a Job's spec against its JobType.

    Args:
        spec: the Job's `spec` as in the custom resource, `parameters` a list of {name, value}.
        job_type: the JobType's body.

    Returns:
        At most MAX_ERRORS errors with RFC 6901 pointers that begin with `/spec`; empty means valid.
    """
    if not isinstance(spec, Mapping):
        return (FieldError("/spec", "`spec` must be an object"),)
    if not is_ready(job_type):
        return (FieldError("/spec/jobType", "`jobType` must have a valid parameters schema"),)
    return tuple(error for rule in RULES for error in rule(spec, job_type))[:MAX_ERRORS]


def is_unsupported(errors: tuple[FieldError, ...]) -> bool:
    """Tell whether the errors say that a field is not served yet, rather than that it is wrong."""
    return any(error.pointer in {f"/spec/{name}" for name in NOT_SERVED} for error in errors)


def _served(spec: Body, job_type: Body) -> Iterator[FieldError]:  # noqa: ARG001 - a Rule
    for name in NOT_SERVED:
        if spec.get(name):
            yield FieldError(f"/spec/{name}", f"`{name}` must not be set: it is not supported yet")


def _parameters_fit(spec: Body, job_type: Body) -> Iterator[FieldError]:
    yield from parameters.validate(parameters_of(spec, job_type), _schema(job_type))


def _parameters_distinct(spec: Body, job_type: Body) -> Iterator[FieldError]:
    seen: dict[str, str] = {}
    for name in parameters_of(spec, job_type):
        other = seen.setdefault(env_name(name), name)
        if other != name:
            message = f"`{name}` must not share the variable '{env_name(name)}' with `{other}`"
            yield FieldError(f"/spec/parameters/{name}", message)


def _overrides_allowed(spec: Body, job_type: Body) -> Iterator[FieldError]:
    for name, permission in OVERRIDES.items():
        if _overrides(spec).get(name) and permission not in _allowed(job_type):
            yield FieldError(
                f"/spec/overrides/{name}",
                f"`{name}` must not be set: the job type does not allow '{permission}'",
            )


def _env_is_free(spec: Body, job_type: Body) -> Iterator[FieldError]:  # noqa: ARG001 - a Rule
    entries = _overrides(spec).get("env")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if isinstance(name, str) and is_reserved_env(name):
            yield FieldError(
                f"/spec/overrides/env/{index}/name", f"`name` must not be '{name}': it is reserved"
            )


def _not_raised(spec: Body, job_type: Body) -> Iterator[FieldError]:
    offered, allowed = spec_of(job_type), _allowed(job_type)
    for name, (permission, default) in RAISABLE.items():
        wanted, limit = spec.get(name), offered.get(name, default)
        if isinstance(wanted, int) and limit is not None and wanted > limit and permission not in allowed:
            yield FieldError(
                f"/spec/{name}",
                f"`{name}` must be at most {limit}: the job type does not allow '{permission}'",
            )


OVERRIDES: Mapping[str, str] = {
    "image": "Image",
    "command": "Command",
    "args": "Args",
    "env": "Env",
    "resources": "Resources",
}
RAISABLE: Mapping[str, tuple[str, int | None]] = {
    "backoffLimit": ("BackoffLimit", DEFAULT_BACKOFF_LIMIT),
    "activeDeadlineSeconds": ("ActiveDeadlineSeconds", None),  # no deadline of the type: any is lower
    "priority": ("Priority", 0),
}
RULES: tuple[Rule, ...] = (
    _served,
    _parameters_fit,
    _parameters_distinct,  # two names must not become one variable
    _overrides_allowed,
    _env_is_free,
    _not_raised,
)


def _schema(job_type: Body) -> Body | None:
    schema = spec_of(job_type).get("parametersSchema")
    return schema if isinstance(schema, Mapping) else None


def _overrides(spec: Body) -> Body:
    overrides = spec.get("overrides")
    return overrides if isinstance(overrides, Mapping) else {}


def _allowed(job_type: Body) -> frozenset[str]:
    allowed = spec_of(job_type).get("allowedOverrides")
    return (
        frozenset(item for item in allowed if isinstance(item, str))
        if isinstance(allowed, list)
        else frozenset()
    )


def _first(*values: Any) -> int | None:
    return next((value for value in values if isinstance(value, int)), None)
