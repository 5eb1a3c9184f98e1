"""Write and read kubeconfig files."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.controlplane.certificates import Certificate


class UnsupportedKubeconfigError(ValueError):
    """The file uses what the harness does not understand, for instance a login plugin."""


@dataclass(frozen=True)
class Access:
    """How one user reaches one API server."""

    server: str
    ca_pem: bytes
    certificate: Certificate | None = None
    token: str = ""
    context: str = "test"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write(path: Path, access: Access) -> None:
    """Write a kubeconfig that holds everything inline."""
    user: dict[str, str] = {"token": access.token} if access.token else {}
    if access.certificate:
        user["client-certificate-data"] = _encode(access.certificate.certificate_pem)
        user["client-key-data"] = _encode(access.certificate.key_pem)
    cluster = {"server": access.server, "certificate-authority-data": _encode(access.ca_pem)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": access.context, "context": {"cluster": "test", "user": "test"}}],
        "current-context": access.context,
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def read(path: Path) -> Access:
    """Return the access of the file's current context.

    Raises:
        UnsupportedKubeconfigError: there is no current context, or no certificate or token in it.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    name = document.get("current-context") or ""
    context = _named(document, "contexts", "context", name)
    cluster = _named(document, "clusters", "cluster", context.get("cluster", ""))
    user = _named(document, "users", "user", context.get("user", ""))
    certificate = None
    if "client-certificate-data" in user or "client-certificate" in user:
        certificate = Certificate(
            _material(user, "client-certificate", path), _material(user, "client-key", path)
        )
    elif not user.get("token"):
        raise UnsupportedKubeconfigError(f"{path}: the current user must have a certificate or a token")
    ca_pem = _material(cluster, "certificate-authority", path)
    return Access(cluster["server"], ca_pem, certificate, user.get("token", ""), name)


def _named(document: dict[str, Any], plural: str, singular: str, name: str) -> dict[str, Any]:
    for entry in document.get(plural) or []:
        if entry.get("name") == name:
            return dict(entry.get(singular) or {})
    raise UnsupportedKubeconfigError(f"there is no {singular} {name!r}")


def _material(section: dict[str, Any], key: str, path: Path) -> bytes:
    if f"{key}-data" in section:
        return base64.b64decode(section[f"{key}-data"])
    if key in section:
        return Path(path.parent, str(section[key])).read_bytes()
    raise UnsupportedKubeconfigError(f"{path}: `{key}` must be given")
