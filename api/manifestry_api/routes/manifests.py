"""Manifests by digest: what a manifest pointer leads to, for as long as an artifact of the tenant has it."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from manifestry.adapters.store.contract import ports as store_ports
from manifestry.core import errors
from manifestry.core.access import permissions
from manifestry.core.artifacts import manifests
from manifestry.core.blobs import digests
from manifestry.core.http import etags
from manifestry_api.artifacts import suspects
from manifestry_api.guard import deps
from manifestry_api.objects import answers, lookups

router = deps.api_router(tags=["contents"])

Reader = Annotated[deps.Caller, Depends(deps.require(permissions.Action.ARTIFACTS_READ))]

_MANIFEST: answers.Documented = {
    200: {
        "description": "The canonical manifest, whose digest is in the address.",
        "content": {manifests.MEDIA_TYPE: {"schema": {"type": "object"}}},
        "headers": {
            "ETag": answers.header("The manifest's digest.", f'"sha256:{"0" * 64}"'),
            "Repr-Digest": answers.header("The manifest's digest (RFC 9530).", "sha-256=:...:"),
        },
    },
    **answers.NOT_MODIFIED,
    **answers.PRECONDITION,
}


@router.get(
    "/manifests/{digest}",
    response_class=Response,
    responses=_MANIFEST,
    openapi_extra={"parameters": [answers.IF_MATCH, answers.IF_NONE_MATCH]},
)
async def get_manifest_by_digest(
    digest: str, request: Request, ports: deps.PortsDep, caller: Reader
) -> Response:
    """Read a manifest that an artifact of the tenant points to; any other digest is not found.

    A digest alone never opens the store: whether the bytes are there is not said, not even by the time.
    """
    found = ports.caches.artifacts.select(manifest_of, (caller.namespace, digest))
    owner = next(found, None)
    if owner is None:
        raise errors.Problem(errors.NOT_FOUND, "no artifact of this tenant has a manifest of this digest")
    if unchanged := answers.not_modified(request, etags.strong(digest)):
        return unchanged
    try:
        content = await ports.store.read(caller.tenant_uid, digest, limit_bytes=manifests.MAX_BYTES)
    except (store_ports.BlobNotFoundError, store_ports.BlobDamagedError) as error:
        await suspects.tell(ports, suspects.of(owner))
        raise errors.Problem(
            errors.INTERNAL, "the stored bytes of this manifest are missing or damaged"
        ) from error
    return Response(content, headers=_headers(digest))


def manifest_of(body: lookups.Object) -> Iterator[tuple[str, str]]:
    """Yield namespace and manifest digest of an artifact that is there to stay: the index of this route."""
    manifest: Any = (body.get("status") or {}).get("manifest") or {}
    if "digest" in manifest and "deletionTimestamp" not in body["metadata"]:
        yield body["metadata"].get("namespace", ""), manifest["digest"]


def _headers(digest: str) -> dict[str, str]:
    return {
        "Content-Type": manifests.MEDIA_TYPE,
        "ETag": etags.strong(digest),
        "Repr-Digest": digests.format_field(digest),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": answers.REVALIDATE,
        "Vary": answers.VARY,
    }
