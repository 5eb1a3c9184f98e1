"""Run the operator and the facade as a user would, against a control plane."""

import base64
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.controlplane import grants, ports
from tests.controlplane.apirequests import ApiFailure
from tests.controlplane.certificates import Authority
from tests.controlplane.children import Child, Program
from tests.controlplane.clusterapi import ClusterApi
from tests.controlplane.controlplane import ControlPlane, probe
from tests.controlplane.webhooks import ADMISSION_PATH

OPERATOR_USER = "manifestry-operator"
API_USER = "manifestry-api"
SYSTEM_NAMESPACE = "manifestry-system"
WEBHOOK_SECRET = "manifestry-webhook-tls"

# Gives a user its rights on a control plane; the default stands until the chart's roles exist.
Grant = Callable[[ClusterApi, str], None]


@dataclass(frozen=True)
class Setup:
    """What a process runs with.

    Args:
        folder: takes logs and, unless `env` says otherwise, the local store shared by operator and facade.
        env: MANIFESTRY_* variables that win over the harness's own.
        grant: gives the process's user its rights.
        kubeconfig: in the place of one for that user.
    """

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    grant: Grant = grants.grant_cluster_admin
    kubeconfig: Path | None = None
    ready_seconds: float = 30.0


class OperatorProcess(Child):
    """`python -m manifestry`; readiness is that of its health port."""

    health_url: str
    kubeconfig: Path


class FacadeProcess(Child):
    """`python -m manifestry_api`, its API and its admission webhook."""

    base_url: str
    webhook_url: str
    webhook_ca_pem: bytes
    kubeconfig: Path


def operator(cp: ControlPlane, setup: Setup) -> OperatorProcess:
    """Return an operator that is not started yet.

    It neither makes nor rotates webhook certificates here: `webhook_certificate` does.
    """
    kubeconfig = _kubeconfig(cp, setup, OPERATOR_USER)
    port = ports.free_port()
    name = f"operator-{uuid.uuid4().hex[:6]}"
    env = {
        **_common(setup, kubeconfig),
        "MANIFESTRY_HEALTH_HOST": "127.0.0.1",
        "MANIFESTRY_HEALTH_PORT": str(port),
        "MANIFESTRY_IDENTITY": name,
        "MANIFESTRY_WEBHOOK_CERTIFICATES": "false",
        **setup.env,
    }
    url = f"http://127.0.0.1:{port}"
    program = _program(name, "manifestry", env, url, setup)
    process = OperatorProcess(program, setup.folder / f"{name}.log")
    process.health_url, process.kubeconfig = url, kubeconfig
    return process


def facade(cp: ControlPlane, setup: Setup) -> FacadeProcess:
    """Return a facade that is not started yet, its webhook certificate in place."""
    kubeconfig = _kubeconfig(cp, setup, API_USER)
    ensure_namespace(cp, SYSTEM_NAMESPACE)
    ca_pem = webhook_certificate(cp)
    port, webhook_port = ports.free_port(), ports.free_port()
    name = f"facade-{uuid.uuid4().hex[:6]}"
    env = {
        **_common(setup, kubeconfig),
        "MANIFESTRY_API_HOST": "127.0.0.1",
        "MANIFESTRY_API_PORT": str(port),
        "MANIFESTRY_WEBHOOK_PORT": str(webhook_port),
        **setup.env,
    }
    url = f"http://127.0.0.1:{port}"
    program = _program(name, "manifestry_api", env, url, setup)
    process = FacadeProcess(program, setup.folder / f"{name}.log")
    process.base_url, process.kubeconfig = url, kubeconfig
    process.webhook_url = f"https://127.0.0.1:{webhook_port}{ADMISSION_PATH}"
    process.webhook_ca_pem = ca_pem
    return process


def ensure_namespace(cp: ClusterApi, name: str) -> None:
    """Create a namespace that may be there already."""
    try:
        cp.create("v1/namespaces", {"metadata": {"name": name}})
    except ApiFailure as failure:
        if failure.reason != "AlreadyExists":
            raise


def webhook_certificate(
    cp: ControlPlane, *, namespace: str = SYSTEM_NAMESPACE, secret: str = WEBHOOK_SECRET
) -> bytes:
    """Put a certificate for 127.0.0.1 where the facade looks for it, and return its authority.

    The one that the operator makes is for the Service's name, which nothing resolves here.
    """
    found = cp.find("v1/secrets", secret, namespace)
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
    body = {"metadata": {"name": secret}, "type": "kubernetes.io/tls", "data": data}
    cp.create("v1/secrets", body, namespace)
    return authority.certificate_pem


def _kubeconfig(cp: ControlPlane, setup: Setup, user: str) -> Path:
    ensure_namespace(cp, SYSTEM_NAMESPACE)
    if setup.kubeconfig:
        return setup.kubeconfig
    setup.grant(cp, user)
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


def _program(name: str, module: str, env: Mapping[str, str], url: str, setup: Setup) -> Program:
    return Program(
        name,
        [sys.executable, "-m", module],
        lambda: probe(f"{url}/readyz"),
        ready_seconds=setup.ready_seconds,
        env=env,
        # Not the checkout: a folder named `operator` there must not shadow anything.
        cwd=setup.folder,
    )
