"""A new object as the facade creates it: metadata, a name or what it is generated from, who asked for it."""

from dataclasses import dataclass
from typing import Any

from manifestry.core.kube import names

GENERATED_SUFFIX_LENGTH = 5  # what the API server adds to generateName


@dataclass(frozen=True)
class Provenance:
    """Who asked, why, and in which trace: it travels with the object as annotations."""

    actor: str
    reason: str
    audit_id: str
    traceparent: str

    def annotations(self) -> dict[str, str]:
        """Return the annotations, without empty ones."""
        wanted = {
            names.ACTOR_ANNOTATION: self.actor,
            names.REASON_ANNOTATION: self.reason,
            names.AUDIT_ID_ANNOTATION: self.audit_id,
            names.TRACEPARENT_ANNOTATION: self.traceparent,
        }
        return {key: value for key, value in wanted.items() if value}


def metadata(namespace: str, provenance: Provenance, project: str | None) -> dict[str, Any]:
    """Return the metadata of an object that somebody asked for; a project is a label, too."""
    labels = {"labels": {names.PROJECT_LABEL: project}} if project else {}
    return {"namespace": namespace, "annotations": provenance.annotations(), **labels}


def named(name: str | None, stem: str | None, default: str) -> dict[str, str]:
    """Return the `name` that was given, else a `generateName` from the stem if it may begin a name."""
    if name:
        return {"name": name}
    room = names.NAME_MAX_LENGTH - GENERATED_SUFFIX_LENGTH - 1
    text = (stem or "").lower().replace("_", "-").replace(".", "-")[:room].strip("-")
    return {"generateName": f"{text}-" if names.is_dns_label(text) else default}


def made(resource: names.Resource, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return the whole object."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": spec,
    }
