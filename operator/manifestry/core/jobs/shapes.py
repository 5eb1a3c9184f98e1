"""Jobs that our definition would refuse are in etcd all the same: an older or a laxer definition let them in.

So their shape is checked once, where they enter, and everything behind may rely on it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from manifestry.core.errors import FieldError
from manifestry.core.kube import names

Body = Mapping[str, Any]
Shape = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _items(**fields: Shape) -> Shape:
    """Return the shape of a list of objects with these fields, all of them required."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and all(
            _mapping(item) and all(shape(item.get(name)) for name, shape in fields.items()) for item in value
        )

    return fits


def _quantities(value: Any) -> bool:
    return _mapping(value) and all(
        _mapping(amounts) and all(_text(amount) or _whole(amount) for amount in amounts.values())
        for amounts in value.values()
    )


def _job_type(value: Any) -> bool:
    return _text(value) and names.is_dns_label(value)


_SPEC: Mapping[str, Shape] = {
    "jobType": _job_type,
    "project": _text,
    "desiredState": _text,
    "parameters": _items(name=_text, value=_text),
    "inputs": _items(name=_text),
    "outputs": _items(name=_text),
    "overrides": _mapping,
    "activeDeadlineSeconds": _whole,
    "backoffLimit": _whole,
    "ttlSecondsAfterFinished": _whole,
    "priority": _whole,
    "retryGeneration": _whole,
}
_OVERRIDES: Mapping[str, Shape] = {
    "image": _text,
    "command": _texts,
    "args": _texts,
    "env": _items(name=_text),
    "resources": _quantities,
}
_STATUS: Mapping[str, Shape] = {
    "observedGeneration": lambda value: isinstance(value, int),
    "tenant": _text,
    "queuedTime": _text,
    "startTime": _text,
    "completionTime": _text,
    "attempts": _whole,
    "exitCode": _whole,
    "retryGeneration": _whole,
    "podName": _text,
    "jobRef": lambda value: _mapping(value) and _text(value.get("name")) and _text(value.get("uid")),
    "effective": _mapping,
    "logs": _mapping,
    "outputs": _items(name=_text),
    "conditions": _items(type=_text, status=_text, reason=_text, message=_text, lastTransitionTime=_text),
}


def faults(job: Body) -> tuple[FieldError, ...]:
    """Return what is wrong with the shape of `spec`; empty when a plan may be made of it."""
    spec = job.get("spec")
    if not isinstance(spec, Mapping):
        return (FieldError("/spec", "`spec` must be an object"),)
    found = list(_misshapen(spec, _SPEC, "/spec"))
    if "jobType" not in spec:
        found.append(FieldError("/spec/jobType", "`jobType` must be set"))
    overrides = spec.get("overrides")
    if isinstance(overrides, Mapping):
        found += _misshapen(overrides, _OVERRIDES, "/spec/overrides")
    return tuple(found)


def _misshapen(values: Body, shapes: Mapping[str, Shape], pointer: str) -> Iterator[FieldError]:
    for name, shape in shapes.items():
        if values.get(name) is not None and not shape(values[name]):
            yield FieldError(f"{pointer}/{name}", f"`{name}` must have the shape that the definition says")


def tame(job: Body) -> Body:
    """Return the Job with a status of the promised shapes: what does not fit is as if it were not there."""
    status = job.get("status")
    if status is None:
        return job
    if not isinstance(status, Mapping):
        return {**job, "status": {}}
    kept = {name: value for name, value in status.items() if name not in _STATUS or _STATUS[name](value)}
    return job if len(kept) == len(status) else {**job, "status": kept}
