"""Read the API server's audit log, so that tests can count who wrote what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Every write, without bodies; reads would drown them.
POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
"""


@dataclass(frozen=True)
class AuditEvent:
    """One request as the API server recorded it.

    References: https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
    """

    raw: Mapping[str, Any]

    @property
    def user(self) -> str:
        """The authenticated user."""
        return str(self.raw["user"].get("username", ""))

    @property
    def impersonated(self) -> str:
        """The user that was impersonated, empty without."""
        return str(self.raw.get("impersonatedUser", {}).get("username", ""))

    @property
    def verb(self) -> str:
        """Kubernetes' verb, for instance create or patch."""
        return str(self.raw["verb"])

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return self._object("apiGroup")

    @property
    def resource(self) -> str:
        """The plural name of the kind."""
        return self._object("resource")

    @property
    def subresource(self) -> str:
        """For instance status, empty without."""
        return self._object("subresource")

    @property
    def namespace(self) -> str:
        """The namespace, empty for a cluster-wide object."""
        return self._object("namespace")

    @property
    def name(self) -> str:
        """The object's name, empty where the server made it up."""
        return self._object("name")

    @property
    def code(self) -> int:
        """The HTTP status of the answer, 0 where none was sent."""
        return int(self.raw.get("responseStatus", {}).get("code", 0))

    @property
    def user_agent(self) -> str:
        """What the client calls itself."""
        return str(self.raw.get("userAgent", ""))

    @property
    def is_dry_run(self) -> bool:
        """Tell whether nothing was to be stored."""
        return "dryRun=" in self.raw.get("requestURI", "")

    def _object(self, key: str) -> str:
        return str(self.raw.get("objectRef", {}).get(key, ""))


@dataclass(frozen=True)
class WriteFilter:
    """Which writes are meant; what is None matches all.

    Args:
        resource: "pods", or with a group where kinds share a plural: "jobs.batch", "jobs.manifestry.dev".
        subresource: "" means none.
    """

    user: str | None = None
    user_prefix: str | None = None
    verb: str | None = None
    resource: str | None = None
    subresource: str | None = None
    namespace: str | None = None
    name: str | None = None
    code: int | None = None
    dry_run: bool | None = False

    def matches(self, event: AuditEvent) -> bool:
        """Tell whether the event is one of those."""
        pairs = (
            (self.user, event.user),
            (self.verb, event.verb),
            (self.subresource, event.subresource),
            (self.namespace, event.namespace),
            (self.name, event.name),
            (self.code, event.code),
            (self.dry_run, event.is_dry_run),
        )
        return (
            all(wanted is None or wanted == seen for wanted, seen in pairs)
            and (self.user_prefix is None or event.user.startswith(self.user_prefix))
            and (
                self.resource is None or self.resource in {event.resource, f"{event.resource}.{event.group}"}
            )
        )


class AuditLog:
    """The log file, read further with every look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[AuditEvent] = []

    def events(self) -> list[AuditEvent]:
        """Return every event so far."""
        if self._path.exists():
            with self._path.open("rb") as log:
                log.seek(self._offset)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._events.append(AuditEvent(json.loads(line)))
        return list(self._events)
