"""Creating an artifact: charged to the storage quota before it exists, by its name, as it has no uid yet."""

import secrets
from collections.abc import Iterator
from typing import Any

from manifestry.adapters.kube import apierrors
from manifestry.adapters.quota import reservations
from manifestry.core import errors
from manifestry.core.artifacts import requests
from manifestry.core.kube import objects
from manifestry_api.guard import deps
from manifestry_api.objects import lookups

_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # the API server's own: no vowels, so no words
_NAME_ATTEMPTS = 4


async def create(ports: deps.Ports, caller: deps.Caller, body: lookups.Object) -> lookups.Object:
    """Create an Artifact in the caller's name, after its inline bytes and itself were charged.

    Raises:
        Problem: quota-exceeded, busy, and as `lookups.create`.
        ApiError: as `lookups.create`.
    """
    prefix = body["metadata"].get("generateName")
    if not ports.reservations.limits(caller).is_set:
        return await lookups.create(ports, caller, ports.caches.artifacts, body)
    if prefix is None:
        return await _charged(ports, caller, body)
    for left in reversed(range(_NAME_ATTEMPTS)):
        try:
            return await _charged(ports, caller, _named(body, prefix))
        except errors.Problem as problem:
            if problem.kind is not errors.ALREADY_EXISTS or not left:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _charged(ports: deps.Ports, caller: deps.Caller, body: lookups.Object) -> lookups.Object:
    cache, name = ports.caches.artifacts, body["metadata"]["name"]
    if (caller.namespace, name) in cache.items:  # refused by the API server; if not, the operator charges it
        return await lookups.create(ports, caller, cache, body)
    size_bytes = sum(_inline_sizes(body["spec"]))
    async with ports.reservations.hold(caller, "", name, size_bytes) as hold:
        try:
            created = await lookups.create(ports, caller, cache, body)
        except BaseException as error:
            _keep(hold, error)
            raise
        hold.keep()
    return created


def _keep(hold: reservations.Hold, error: BaseException) -> None:
    """Keep the charge if an Artifact of the name may exist: another's, or ours without an answer."""
    status = 500
    if isinstance(error, apierrors.ApiError):
        status = error.status
    elif isinstance(error, errors.Problem) and error.kind is not errors.ALREADY_EXISTS:
        status = error.kind.status
    if status >= 500:
        hold.keep()


def _named(body: lookups.Object, prefix: str) -> lookups.Object:
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(objects.GENERATED_SUFFIX_LENGTH))
    metadata = {key: value for key, value in body["metadata"].items() if key != "generateName"}
    return {**body, "metadata": {**metadata, "name": f"{prefix}{suffix}"}}


def _inline_sizes(spec: dict[str, Any]) -> Iterator[int]:
    for holder in (spec, *(spec.get("files") or ())):
        if "inline" in holder:
            yield len(requests.inline_bytes(holder["inline"]))
