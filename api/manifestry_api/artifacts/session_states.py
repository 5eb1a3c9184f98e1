"""Upload sessions of the caller's tenant: found in the store, shown in headers and bodies."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from manifestry.core import errors
from manifestry.core.artifacts import uploads as artifact_uploads
from manifestry.core.blobs import digests, keys
from manifestry_api.artifacts import uploads as puts
from manifestry_api.guard import deps
from manifestry_api.objects import lookups, representations


@dataclass(frozen=True)
class Found:
    """A session of the caller's tenant, and the Artifact that it is for."""

    state: artifact_uploads.State
    artifact: lookups.Object
    is_repair: bool = False  # the payload was stored once, and is damaged or missing by now

    @property
    def session(self) -> artifact_uploads.Session:
        """Return the session."""
        return self.state.session

    @property
    def recorded(self) -> str | None:
        """Return the digest of the payload that is there, None while there is none."""
        digest: str | None = self.holder.get("upload", {}).get("digest")
        return digest

    @property
    def holder(self) -> lookups.Object:
        """Return what gets the payload: the artifact's spec, or one of its files."""
        return puts.holder(self.artifact, self.session.file)

    @property
    def is_complete(self) -> bool:
        """Tell whether the artifact's payload is what this session brought."""
        seal = self.state.seal
        return self.recorded is not None and seal is not None and digests.equal(seal.digest, self.recorded)


async def find(ports: deps.Ports, caller: deps.Caller, session_id: str) -> Found:
    """Return a session of the caller's tenant with its Artifact.

    Raises:
        Problem: not-found, also for another tenant's session and for one whose Artifact is gone.
    """
    try:
        state = await ports.sessions.head(session_id)
    except keys.KeyPartError:
        raise absent() from None
    if state is None or state.session.tenant_uid != caller.tenant_uid:
        raise absent()
    cache, name = ports.caches.artifacts, state.session.artifact_name
    for look in (lookups.find, lookups.find_live):  # the cache may still show an older one of this name
        try:
            artifact = await look(ports, caller, cache, name)
        except errors.Problem:
            raise absent() from None
        if artifact["metadata"]["uid"] == state.session.artifact_uid:
            is_repair = await puts.needs_repair(ports, caller, artifact, state.session.file)
            return Found(state, artifact, is_repair)
    raise absent()


def state_headers(ports: deps.Ports, found: Found, offset: int | None = None) -> dict[str, str]:
    """Return the headers that say how far a session is.

    Args:
        ports: whose clock and limits.
        found: the session.
        offset: the end of its bytes if more came since.
    """
    is_untouched = offset is None
    known = found.state.offset if offset is None else offset
    length = known if found.is_complete else found.session.length_bytes
    touched = found.state.touched if is_untouched else ports.clock()
    return {
        "Upload-Offset": str(known),
        "Upload-Complete": artifact_uploads.format_complete(found.is_complete),
        **({} if length is None else {"Upload-Length": str(length)}),
        "Upload-Limit": _limit(ports, touched + _expiry(ports) - ports.clock()),
        "Cache-Control": "no-store",
    }


def created_headers(ports: deps.Ports, session: artifact_uploads.Session) -> dict[str, str]:
    """Return the headers of a session that has just begun."""
    length = session.length_bytes
    return {
        "Location": path(session),
        "Upload-Offset": "0",
        "Upload-Complete": artifact_uploads.format_complete(False),
        **({} if length is None else {"Upload-Length": str(length)}),
        "Upload-Limit": _limit(ports, _expiry(ports)),
    }


def path(session: artifact_uploads.Session) -> str:
    """Return the path of a session."""
    return f"/uploads/{session.session_id}"


def representation(
    ports: deps.Ports, caller: deps.Caller, session: artifact_uploads.Session
) -> dict[str, object]:
    """Return a session that has just begun as REST shows it."""
    optional = {"file": session.file or None, "sizeBytes": session.length_bytes}
    return {
        "id": session.session_id,
        "tenant": caller.tenant,
        "artifact": session.artifact_name,
        "offset": 0,
        "expiresAfterSeconds": ports.settings.upload_expiry_seconds,
        "links": {
            "self": path(session),
            "artifact": representations.artifact_links(session.artifact_name)["self"],
        },
        **{name: value for name, value in optional.items() if value is not None},
    }


def _expiry(ports: deps.Ports) -> timedelta:
    return timedelta(seconds=ports.settings.upload_expiry_seconds)


def _limit(ports: deps.Ports, left: timedelta) -> str:
    return f"max-size={ports.settings.max_upload_bytes}, max-age={max(0, int(left.total_seconds()))}"


def absent() -> errors.Problem:
    """Return the problem of a session that is not there, or not the caller's."""
    return errors.Problem(errors.NOT_FOUND, "no such upload in this tenant")


def with_offset(problem: errors.Problem, offset: int) -> errors.Problem:
    """Return the problem with the offset at which the client may go on."""
    headers: Mapping[str, str] = {**problem.headers, "Upload-Offset": str(offset)}
    return errors.Problem(problem.kind, problem.detail, problem.errors, problem.usage, headers)
