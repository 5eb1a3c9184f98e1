"""Tenant-scoped reads and writes: every key begins with the caller's namespace, never with client input."""

from typing import Any

from manifestry.adapters.kube import apierrors, watches
from manifestry.core import errors
from manifestry.core import errors as core_errors
from manifestry.core.jobs import requests
from manifestry.core.kube import names, objects
from manifestry_api.guard import deps
from manifestry_api.objects import representations
from manifestry_api.request import refusals

Object = dict[str, Any]
WEBHOOK_FAILURE = "failed calling webhook"  # k8s.io/apiserver webhook errors: ErrCallingWebhook


def provenance(caller: deps.Caller) -> objects.Provenance:
    """Return what the object will say about its origin."""
    return objects.Provenance(caller.actor, caller.reason, caller.audit_id, caller.traceparent)


async def find(ports: deps.Ports, caller: deps.Caller, cache: watches.Reflector, name: str) -> Object:
    """Return an object of the caller's tenant; a miss in the cache is asked for once, live.

    Raises:
        Problem: not-found, also for another tenant's object and for one that is being deleted.
    """
    found = cache.items.get((caller.namespace, name))
    if found is None:
        found = await _live(ports, caller.namespace, cache, name)
    if representations.is_deleting(found):
        raise absent(cache.resource, name)
    return found


async def find_shared(ports: deps.Ports, cache: watches.Reflector, name: str) -> Object:
    """Return an object that belongs to no tenant.

    Raises:
        Problem: not-found.
    """
    return cache.items.get(("", name)) or await _live(ports, None, cache, name)


async def find_live(ports: deps.Ports, caller: deps.Caller, cache: watches.Reflector, name: str) -> Object:
    """Return an object as the API server has it now.

    Raises:
        Problem: not-found.
    """
    found = await _live(ports, caller.namespace, cache, name)
    if representations.is_deleting(found):
        raise absent(cache.resource, name)
    return found


async def _live(ports: deps.Ports, namespace: str | None, cache: watches.Reflector, name: str) -> Object:
    if not names.is_dns_label(name):
        raise absent(cache.resource, name)
    try:
        found = await ports.client.get(cache.resource, name, namespace)
    except apierrors.NotFoundError:
        raise absent(cache.resource, name) from None
    cache.observe(found)
    return found


async def create(
    ports: deps.Ports, caller: deps.Caller, cache: watches.Reflector, body: Object, *, dry_run: bool = False
) -> Object:
    """Create an object in the caller's name, so that Kubernetes' own RBAC and audit log see the caller.

    Raises:
        Problem: already-exists, validation-failed with pointers into the REST body, dependency-unavailable
            when the admission webhook does not answer.
        ApiError: any other refusal.
    """
    try:
        created = await ports.client.create(
            cache.resource, body, caller.namespace, dry_run=dry_run, impersonate=caller.impersonation
        )
    except apierrors.AlreadyExistsError:
        raise core_errors.already_exists(str(body["metadata"].get("name", ""))) from None
    except apierrors.InvalidError as error:
        raise in_rest_terms(refusals.from_api(error), body["spec"]) from None
    except apierrors.UnavailableError as error:
        raise _unavailable(error) from error
    if not dry_run:
        cache.observe(created)
    return created


async def patch(
    ports: deps.Ports, caller: deps.Caller, cache: watches.Reflector, name: str, change: Object
) -> Object:
    """Merge-patch an object in the caller's name.

    Raises:
        Problem: not-found.
        ApiError: any other refusal.
    """
    try:
        patched = await ports.client.merge_patch(
            cache.resource, name, change, caller.namespace, impersonate=caller.impersonation
        )
    except apierrors.NotFoundError:
        raise absent(cache.resource, name) from None
    cache.observe(patched)
    return patched


async def delete(
    ports: deps.Ports,
    caller: deps.Caller,
    cache: watches.Reflector,
    body: Object,
    *,
    only_this_version: bool = False,
) -> None:
    """Delete just this object (by uid) in the caller's name.

    Args:
        ports: the API server.
        caller: who deletes.
        cache: of the object's kind.
        body: the object.
        only_this_version: not if it has been changed since `body` was read.

    Raises:
        Problem: not-found when it is gone already or has been made anew; precondition-failed.
    """
    metadata = body["metadata"]
    try:
        await ports.client.delete(
            cache.resource,
            metadata["name"],
            caller.namespace,
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"] if only_this_version else None,
            impersonate=caller.impersonation,
        )
    except apierrors.NotFoundError:
        raise absent(cache.resource, metadata["name"]) from None
    except apierrors.ConflictError:
        if not only_this_version:
            raise absent(cache.resource, metadata["name"]) from None
        await find_live(ports, caller, cache, metadata["name"])
        raise errors.Problem(errors.PRECONDITION_FAILED, "the object has changed meanwhile") from None


def absent(resource: names.Resource, name: str) -> errors.Problem:
    """Return the one answer for absent, deleted and another tenant's."""
    shown = f"'{name}'" if names.is_dns_label(name) else "of this name"
    where = " in this tenant" if resource.namespaced else ""
    return errors.Problem(errors.NOT_FOUND, f"{resource.kind} {shown} does not exist{where}")


def in_rest_terms(problem: errors.Problem, spec: Object) -> errors.Problem:
    """Return the problem with pointers into the REST body instead of the custom resource."""
    found = tuple(
        errors.FieldError(requests.rest_pointer(field.pointer, spec), field.message)
        for field in problem.errors
    )
    return errors.Problem(problem.kind, problem.detail, found, problem.usage, problem.headers)


def _unavailable(error: apierrors.UnavailableError) -> Exception:
    if WEBHOOK_FAILURE not in error.message:
        return error
    detail = "the admission webhook, which keeps the quota, does not answer; nothing was created"
    return errors.Problem(errors.DEPENDENCY_UNAVAILABLE, detail, headers={"Retry-After": "2"})
