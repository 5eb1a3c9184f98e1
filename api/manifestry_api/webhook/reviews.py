"""The audit record of an admission review: who asked the API server for a Job, and what was decided.

It covers the door that the facade does not guard, `kubectl`. A Job that came by REST has two records, for two
decisions: the request's own, and this one with the Job's impersonated creator.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request

from manifestry.core import errors
from manifestry.core.access import audit
from manifestry.core.jobs import admission
from manifestry.core.kube import names

ACTION = "jobs:admit"
GROUPS_MAX_COUNT = 64
CREATED = 201


@dataclass(frozen=True)
class Origin:
    """Who the API server says is asking, and by which request of ours, if the Job says so.

    Args:
        name: empty when the review does not say.
        groups: bounded in number and length.
        audit_id: of the REST request; whoever uses kubectl may write what they like there.
    """

    name: str = ""
    groups: tuple[str, ...] = ()
    audit_id: str = ""


def parse_origin(review: Any) -> Origin:
    """Return where a review comes from; nobody when it has another shape than it must have."""
    asked = _member(review, "request")
    user = _member(asked, "userInfo")
    annotations = _member(_member(_member(asked, "object"), "metadata"), "annotations")
    groups = user.get("groups")
    return Origin(
        _text(user.get("username")),
        tuple(_text(group) for group in groups[:GROUPS_MAX_COUNT]) if isinstance(groups, list) else (),
        _text(annotations.get(names.AUDIT_ID_ANNOTATION)),
    )


def decided(
    request: Request,
    origin: Origin,
    asked: admission.Request,
    decision: admission.Decision,
    times: tuple[datetime, datetime],
) -> audit.Event:
    """Return the event of a decision.

    Args:
        request: that brought the review.
        origin: who asked the API server.
        asked: for what.
        decision: about it.
        times: when the review came, and when it was decided.
    """
    return _event(
        request,
        times,
        audit_id=_text(asked.review_uid),
        path=f"/jobs/{asked.name}",
        subject=origin.name,
        groups=origin.groups,
        namespace=_text(asked.namespace),
        status=CREATED if decision.allowed else decision.code,
        code="" if decision.allowed else decision.reason,
        detail=decision.message,
        decision="allow" if decision.allowed else "forbid",
        annotations={
            "action": ACTION,
            "job-type": asked.job_type,
            "dry-run": "true" if asked.dry_run else "",
            "request-audit-id": origin.audit_id,
        },
    )


def refused(request: Request, problem: errors.Problem, times: tuple[datetime, datetime]) -> audit.Event:
    """Return the event of what is no review.

    Args:
        request: that brought it.
        problem: what is wrong with it.
        times: when it came, and when it was refused.
    """
    return _event(
        request,
        times,
        audit_id=str(uuid.uuid4()),
        path=request.scope["path"],
        subject="",
        groups=(),
        namespace="",
        status=problem.kind.status,
        code=problem.kind.code,
        detail=problem.detail,
        decision="forbid",
        annotations={"action": ACTION},
    )


def _event(request: Request, times: tuple[datetime, datetime], **known: Any) -> audit.Event:
    return audit.Event(
        stage="ResponseComplete",
        method=request.method,
        uri=request.scope["path"],
        source_ips=(request.client.host,) if request.client else (),
        user_agent=request.headers.get("user-agent", ""),
        received=times[0],
        decided=times[1],
        **known,
    )


def _member(holder: Any, name: str) -> Mapping[str, Any]:
    found = holder.get(name) if isinstance(holder, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    return value[: audit.TEXT_MAX_LENGTH] if isinstance(value, str) else ""
