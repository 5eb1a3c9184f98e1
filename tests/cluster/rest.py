"""Operator and facade as real processes against a real API server, and callers of each role."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.controlplane import processes, tenants, webhooks
from tests.controlplane.controlplane import ControlPlane
from tests.e2e.teams import JOB_TYPES, Team
from tests.faults import smalldisk

JOB_TYPE = "rest-render"
SCHEMA = {
    "type": "object",
    "properties": {"frames": {"type": "integer", "minimum": 1}, "title": {"type": "string", "maxLength": 10}},
    "required": ["frames"],
    "additionalProperties": False,
}


@dataclass
class Installation:
    """A running manifestry."""

    cp: ControlPlane
    operator: processes.OperatorProcess
    facade: processes.FacadeProcess

    def team(self, tenant: tenants.Tenant) -> Team:
        """Return a tenant as a maker of callers."""
        return Team(tenant, self.cp, self.facade.base_url)

    def register_webhook(self) -> None:
        """Let the API server ask this facade."""
        webhooks.register_webhook(self.cp, self.facade.webhook_url, self.facade.webhook_ca_pem)


@contextmanager
def installed(
    cp: ControlPlane, folder: Path, disk: smalldisk.SmallDisk | None = None, /, **env: str
) -> Iterator[Installation]:
    """Run one operator and one facade with a webhook and one job type, where `disk` is mounted if given."""
    setup = processes.Setup(folder, env, wrap=disk.wrap if disk else list)
    cp.apply(JOB_TYPES, {
        "apiVersion": "manifestry.dev/v1alpha1",
        "kind": "JobType",
        "metadata": {"name": JOB_TYPE},
        "spec": {
            "image": "example.org/render:1",
            "parametersSchema": SCHEMA,
            "allowedOverrides": ["Priority"],
        },
    })  # fmt: skip
    found = Installation(cp, processes.operator(cp, setup), processes.facade(cp, setup))
    try:
        found.register_webhook()
        for process in (found.operator, found.facade):
            process.launch()
        for process in (found.operator, found.facade):
            process.wait_ready()
        yield found
    finally:
        webhooks.unregister_webhook(cp)
        found.facade.dispose()
        found.operator.dispose()
        processes.release_lease(cp)
        cp.delete(JOB_TYPES, JOB_TYPE)


def job(**changes: Any) -> dict[str, Any]:
    """Return the body of a good `POST /jobs`."""
    return {"jobType": JOB_TYPE, "parameters": {"frames": 1}, **changes}
