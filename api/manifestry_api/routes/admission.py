"""The admission webhook for Job CREATE: gather, decide in the core, reserve in the ledger, answer in time.

It is served on its own port over TLS, to the API server only: nobody else knows the path (`webhook.paths`).
The API server waits 5 s (the chart's `timeoutSeconds`), then fails the create; every way here ends before.

References: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import books
from manifestry.core import errors
from manifestry.core.access import audit
from manifestry.core.jobs import admission
from manifestry.core.kube import names
from manifestry_api.guard import deps
from manifestry_api.request import bodies
from manifestry_api.webhook import paths as webhook_paths
from manifestry_api.webhook import reviews
from manifestry_api.wire import heads

PATH = "/admission/jobs"  # as audit records have it; the port is called at another one
DEADLINE_SECONDS = 4.0
READ_SECONDS = 2.0
AUDIT_SECONDS = 0.5
BODY_MAX_BYTES = 4 << 20  # an object in etcd has at most 1.5 MiB, JSON escapes it to some more
INTERNAL = admission.Decision(False, 500, "InternalError", "manifestry: the webhook failed unexpectedly")
logger = logging.getLogger(__name__)


def create_webhook_app(ports: deps.Ports, paths: webhook_paths.PathLoader) -> Starlette:
    """Return the small application that only answers admission reviews, and only the API server's."""
    unknown = ports.instruments.refusals.labels(errors.NOT_FOUND.code)
    app = Starlette(
        routes=[Route(PATH, review, methods=["POST"])],
        middleware=[
            Middleware(heads.Refused, answer=_refusal),
            Middleware(webhook_paths.Door, paths=paths, inside=PATH, refused=unknown.inc),
        ],
    )
    app.state.ports = ports
    return app


async def review(request: Request) -> Response:
    """Answer one AdmissionReview, and record what was decided; 400 or 413 when it is none."""
    ports = await deps.get_ports(request)
    received = ports.clock()
    try:
        body = await _read(request)
        asked = admission.parse_review(body)
    except errors.Problem as problem:
        event = reviews.refused(request, problem, (received, ports.clock()))
        await _record(ports, event)
        return _refusal(problem, request)
    decision = await decide(ports, asked)
    times = (received, ports.clock())
    await _record(ports, reviews.decided(request, reviews.parse_origin(body), asked, decision, times))
    return JSONResponse(admission.render_review(asked.review_uid, decision))


def _refusal(problem: errors.Problem, _request: Request) -> Response:
    return PlainTextResponse(problem.detail, problem.kind.status, dict(problem.headers))


async def _record(ports: deps.Ports, event: audit.Event) -> None:
    record = audit.record(event)
    try:
        async with asyncio.timeout(AUDIT_SECONDS):
            await ports.audit.write(record)
    except (OSError, TimeoutError):
        logger.exception("audit record could not be written", extra={"auditId": record["auditID"]})


async def _read(request: Request) -> Any:
    data = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_MAX_BYTES:
                    raise errors.Problem(errors.PAYLOAD_TOO_LARGE, "the review is too large")
    except TimeoutError:
        raise errors.Problem(errors.BAD_REQUEST, "the review must come at once") from None
    except ClientDisconnect:
        raise errors.Problem(errors.BAD_REQUEST, "the client left before the last byte") from None
    return bodies.loads(data)


async def decide(ports: deps.Ports, asked: admission.Request) -> admission.Decision:
    """Return the decision within DEADLINE_SECONDS, whatever the ledger and the API server do."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await _decide(ports, asked)
    except TimeoutError:
        return admission.busy("manifestry: no decision in time; try again")
    except (books.LedgerError, apierrors.UnavailableError) as error:
        return admission.busy(f"manifestry: {error}")
    except apierrors.ApiError:
        logger.exception("the webhook may not read or write what it must", extra={"job": asked.name})
        return INTERNAL
    except Exception:  # the API server must get an answer it can show
        logger.exception("the webhook failed", extra={"job": asked.name})
        return INTERNAL


async def _decide(ports: deps.Ports, asked: admission.Request) -> admission.Decision:
    caches = (ports.caches.namespaces, ports.caches.job_types, ports.caches.tenant_quotas)
    if not all(cache.synced.is_set() for cache in caches):
        return admission.busy("manifestry: caches are being filled; try again")
    tenant, job_type, exists = await asyncio.gather(
        _tenant(ports, asked.namespace), _job_type(ports, asked.job_type), _exists(ports, asked)
    )
    denial = admission.check(asked, admission.Facts(tenant, job_type, exists))
    if denial is not None or tenant is None:
        return denial or INTERNAL
    limits = ports.quotas.table.limits(tenant, asked.job_type)
    reservation = admission.reserve(asked, tenant, limits, ports.clock())
    return await ports.ledgers.transact(asked.namespace, asked.job_type, reservation)


async def _tenant(ports: deps.Ports, namespace: str) -> str | None:
    """Return the namespace's tenant; one that the cache has not seen yet is read live."""
    found = ports.tenants.of_namespace(namespace)
    if found is not None or ("", namespace) in ports.caches.namespaces.items:
        return found.name if found else None
    if not names.is_dns_label(namespace):
        return None
    try:
        ports.caches.namespaces.observe(await ports.client.get(names.NAMESPACES, namespace))
    except apierrors.NotFoundError:
        return None
    found = ports.tenants.of_namespace(namespace)
    return found.name if found else None


async def _job_type(ports: deps.Ports, name: str) -> Mapping[str, Any] | None:
    known = ports.caches.job_types.items.get(("", name))
    if known is not None or not names.is_dns_label(name):
        return known
    try:
        return await ports.client.get(names.JOB_TYPES, name)
    except apierrors.NotFoundError:
        return None


async def _exists(ports: deps.Ports, asked: admission.Request) -> bool:
    """Tell whether the name is taken, live: a cache may not have seen a Job of a moment ago."""
    if not names.is_dns_label(asked.name):
        return False  # the schema refuses it
    try:
        await ports.client.get(names.JOBS, asked.name, asked.namespace)
    except apierrors.NotFoundError:
        return False
    return True
