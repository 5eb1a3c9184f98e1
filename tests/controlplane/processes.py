"""Run the operator and the facade as a user would, against a control plane."""

import base64
import os
import secrets
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from manifestry.core.access import webhookpaths
from tests.controlplane import grants, ports
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.certificates import Authority
from tests.controlplane.children import Child, Program
from tests.controlplane.clusterapi import ClusterApi, poll_until
from tests.controlplane.controlplane import ControlPlane, probe

OPERATOR_USER = "manifestry-operator"
API_USER = "manifestry-api"
SYSTEM_NAMESPACE = "manifestry-system"
WEBHOOK_SECRET = "manifestry-webhook-tls"
WEBHOOK_PATH_SECRET = "manifestry-webhook-path"
LEASES = "coordination.k8s.io/v1/leases"
LEASE = "manifestry-operator"
# Whether an operator holds the lease is not the facade's own readiness.
_READY_WITHOUT_OPERATOR = "/readyz?exclude=job-runner"

# Gives a user its rights: (control plane, user, the namespace of the installation).
Grant = Callable[[ClusterApi, str, str], None]


@dataclass(frozen=True)
class Setup:
    """What a process runs with.

    Args:
        folder: takes logs and, unless `env` says otherwise, the local store shared by operator and facade.
        env: MANIFESTRY_* variables that win over the harness's own.
        grant: gives the process's user its rights.
        kubeconfig: in the place of one for that user.
        wrap: turns the command into the one that is run, such as in a namespace.
    """

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    grant: Grant = grants.grant_chart_roles
    kubeconfig: Path | None = None
    ready_seconds: float = 30.0
    wrap: Callable[[Sequence[str]], Sequence[str]] = list


@dataclass(eq=False, kw_only=True)
class OperatorProcess(Child):
    """`python -m manifestry`; ready when its health port says so."""

    health_url: str
    kubeconfig: Path


@dataclass(eq=False, kw_only=True)
class FacadeProcess(Child):
    """`python -m manifestry_api`, its API and its admission webhook; ready when both are, operator or not."""

    base_url: str
    webhook_url: str
    webhook_ca_pem: bytes
    kubeconfig: Path

    def wait_complete(self, timeout_seconds: float = 20.0) -> None:
        """Wait until readiness holds with nothing left out: an operator holds the lease, too."""
        poll_until(lambda: probe(f"{self.base_url}/readyz"), f"{self.base_url}/readyz", timeout_seconds)


def operator(cp: ControlPlane, setup: Setup) -> OperatorProcess:
    """Return an operator that is not started yet.

    It neither makes nor rotates the webhook's certificate and path here: the harness does.
    """
    kubeconfig = _kubeconfig(cp, setup, OPERATOR_USER)
    port = ports.free_port()
    name = f"operator-{uuid.uuid4().hex[:6]}"
    env = {
        **_common(setup, kubeconfig),
        "MANIFESTRY_HEALTH_HOST": "127.0.0.1",
        "MANIFESTRY_HEALTH_PORT": str(port),
        "MANIFESTRY_IDENTITY": name,
        "MANIFESTRY_WEBHOOK_ENABLED": "false",
        **setup.env,
    }
    url = f"http://127.0.0.1:{port}"
    program = _program(name, "manifestry", env, setup, lambda: probe(f"{url}/readyz"))
    log = setup.folder / f"{name}.log"
    return OperatorProcess(program, log, health_url=url, kubeconfig=kubeconfig)


def facade(cp: ControlPlane, setup: Setup) -> FacadeProcess:
    """Return a facade that is not started yet, its webhook's certificate and path in place."""
    kubeconfig = _kubeconfig(cp, setup, API_USER)
    ca_pem, path = webhook_certificate(cp), webhook_path(cp)
    port, webhook_port = ports.free_port(), int(setup.env.get("MANIFESTRY_WEBHOOK_PORT") or ports.free_port())
    name = f"facade-{uuid.uuid4().hex[:6]}"
    env = {
        **_common(setup, kubeconfig),
        "MANIFESTRY_API_HOST": "127.0.0.1",
        "MANIFESTRY_API_PORT": str(port),
        "MANIFESTRY_WEBHOOK_PORT": str(webhook_port),
        **setup.env,
    }
    url = f"http://127.0.0.1:{port}"
    has_webhook = env.get("MANIFESTRY_WEBHOOK_ENABLED", "true").lower() == "true"

    def is_ready() -> bool:
        return probe(url + _READY_WITHOUT_OPERATOR) and (not has_webhook or _listens(webhook_port))

    return FacadeProcess(
        _program(name, "manifestry_api", env, setup, is_ready),
        setup.folder / f"{name}.log",
        base_url=url,
        webhook_url=f"https://127.0.0.1:{webhook_port}{path}",
        webhook_ca_pem=ca_pem,
        kubeconfig=kubeconfig,
    )


def ensure_namespace(cp: ClusterApi, name: str) -> None:
    """Create a namespace that may be there already."""
    try:
        cp.create("v1/namespaces", {"metadata": {"name": name}})
    except ApiFailure as failure:
        if failure.reason != "AlreadyExists":
            raise


def release_lease(cp: ClusterApi) -> None:
    """Remove the Lease of a killed operator, so that the next one need not wait for its end."""
    cp.delete(LEASES, LEASE, SYSTEM_NAMESPACE)


def webhook_certificate(cp: ClusterApi) -> bytes:
    """Put a certificate for 127.0.0.1 where the facade looks for it, and return its authority.

    The one that the operator makes is for the Service's name, which nothing resolves here.
    """
    found = cp.find("v1/secrets", WEBHOOK_SECRET, SYSTEM_NAMESPACE)
    if found is not None:
        return base64.b64decode(found["data"]["ca.crt"])
    authority = Authority("manifestry test webhook")
    issued = authority.issue(
        "manifestry-api", ip_addresses=["127.0.0.1"], dns_names=["localhost"], server=True
    )
    material = {
        "ca.crt": authority.certificate_pem,
        "tls.crt": issued.certificate_pem,
        "tls.key": issued.key_pem,
    }
    data = {name: base64.b64encode(pem).decode() for name, pem in material.items()}
    body = {"metadata": {"name": WEBHOOK_SECRET}, "type": "kubernetes.io/tls", "data": data}
    cp.create("v1/secrets", body, SYSTEM_NAMESPACE)
    return authority.certificate_pem


def webhook_path(cp: ClusterApi) -> str:
    """Return the secret path of every facade here, in the Secret where they look for it."""
    found = cp.find("v1/secrets", WEBHOOK_PATH_SECRET, SYSTEM_NAMESPACE)
    if found is not None:
        return webhookpaths.path(webhookpaths.accepted(found)[0])
    tokens = webhookpaths.renew(None, secrets.token_hex(webhookpaths.TOKEN_BYTES), datetime.now(UTC))
    body = {"metadata": {"name": WEBHOOK_PATH_SECRET}, "data": webhookpaths.render(tokens)}
    cp.create("v1/secrets", body, SYSTEM_NAMESPACE)
    return webhookpaths.path(tokens.current)


def _kubeconfig(cp: ControlPlane, setup: Setup, user: str) -> Path:
    ensure_namespace(cp, SYSTEM_NAMESPACE)
    if setup.kubeconfig:
        return setup.kubeconfig
    setup.grant(cp, user, SYSTEM_NAMESPACE)
    return cp.kubeconfig_for(user)


def _common(setup: Setup, kubeconfig: Path) -> dict[str, str]:
    store = setup.folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    return {
        # Nothing of the developer's own environment may decide a test.
        **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ},
        "PYTHONUNBUFFERED": "1",
        "MANIFESTRY_KUBECONFIG": str(kubeconfig),
        "MANIFESTRY_NAMESPACE": SYSTEM_NAMESPACE,
        "MANIFESTRY_STORE_TYPE": "local",
        "MANIFESTRY_STORE_PATH": str(store),
    }


def _program(
    name: str, module: str, env: Mapping[str, str], setup: Setup, is_ready: Callable[[], bool]
) -> Program:
    return Program(
        name,
        setup.wrap([sys.executable, "-m", module]),
        is_ready,
        ready_seconds=setup.ready_seconds,
        env=env,
        # Not the checkout: its folder `operator` must not shadow the standard library's module.
        cwd=setup.folder,
    )


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0
