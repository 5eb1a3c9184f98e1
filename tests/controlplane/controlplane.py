"""A control plane of plain processes: etcd, kube-apiserver and kube-controller-manager on loopback."""

import contextlib
import hashlib
import http.client
import json
import shutil
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.controlplane import audit, certificates, children, kubeconfigs, servers
from tests.controlplane.apirequests import ApiFailure, tls_context
from tests.controlplane.clusterapi import ClusterApi, poll_until

_PROBE_SECONDS = 2.0
_MARKER_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_MARKER_AGENT = "audit-marker/"


def probe(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """Tell whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_SECONDS, context=tls) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False
    except (OSError, http.client.HTTPException):
        return False


class ControlPlane(ClusterApi):
    """An administrator's view of a control plane, and the handles on its processes.

    Args:
        kb: the multi-call Kubernetes binary.
        root: a folder of its own.
    """

    def __init__(self, kb: Path, root: Path) -> None:
        self.authority = certificates.Authority()
        self._kb = kb
        self._files = servers.Files(root)
        self._ports = servers.Ports.pick()
        url = f"https://127.0.0.1:{self._ports.apiserver}"
        servers.prepare(self._files, self.authority, url)
        admin = self._write_kubeconfig(url, "admin", ["system:masters"])
        super().__init__(admin, kubectl_argv=[str(kb), "kubectl"], folder=root)
        self._tls = tls_context(kubeconfigs.read(admin))
        self._audit = audit.AuditLog(self._files.audit_log)
        self.etcd = self._child("etcd", servers.etcd_argv, f"http://127.0.0.1:{self._ports.etcd}/readyz")
        self.apiserver = self._child("kube-apiserver", servers.apiserver_argv, f"{url}/readyz")
        self.controller_manager = self._child(
            "kube-controller-manager",
            servers.controller_manager_argv,
            f"https://127.0.0.1:{self._ports.controller_manager}/healthz",
        )

    @property
    def processes(self) -> tuple[children.Child, ...]:
        """Return every process, the one that depends on most first."""
        return (self.controller_manager, self.apiserver, self.etcd)

    def start(self, *, crds: bool = True) -> None:
        """Start every process, install the CRDs and wait until pods can be made.

        The garbage collector looks for new kinds every 30 s only, so the CRDs come before it.
        """
        self.etcd.launch()
        self.apiserver.launch()
        self.etcd.wait_ready()
        self.apiserver.wait_ready()
        if crds:
            self.apply_crds()
        self.controller_manager.start()
        self.wait_for("v1/serviceaccounts", "default", "default", bool)

    def stop(self) -> None:
        """End every process and remove what takes room; logs stay."""
        self.close()
        for child in self.processes:
            child.dispose()
        shutil.rmtree(self._files.etcd_data, ignore_errors=True)

    def logs(self, lines: int = 40) -> str:
        """Return the last lines of every process."""
        return "\n".join(f"--- {child.program.name}\n{child.log_tail(lines)}" for child in self.processes)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig with a client certificate of that user in those groups."""
        return self._write_kubeconfig(self.server, user, groups)

    def audit_events(self) -> Iterator[audit.AuditEvent]:
        """Iterate over the writes so far: those whose answer was received before the call are complete."""
        if self.apiserver.running:
            self._mark_audit_log()
        return (event for event in self._audit.events() if not event.user_agent.startswith(_MARKER_AGENT))

    def audit_mark(self) -> int:
        """Return the number of events so far, to be given as `since`."""
        return len(list(self.audit_events()))

    def writes(self, wanted: audit.WriteFilter | None = None, *, since: int = 0) -> list[audit.AuditEvent]:
        """Return the writes that match, refused ones too; dry runs only when asked for."""
        events = list(self.audit_events())[since:]
        return [event for event in events if (wanted or audit.WriteFilter()).matches(event)]

    def _mark_audit_log(self) -> None:
        # The record is written after the answer; a later request's record says that it is there.
        agent = _MARKER_AGENT + uuid.uuid4().hex
        body = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
        with contextlib.suppress(ApiFailure):
            self.request("POST", _MARKER_PATH, body, headers={"User-Agent": agent})
            poll_until(
                lambda: any(event.user_agent == agent for event in self._audit.events()), "audit record"
            )

    def _child(self, name: str, argv: servers.CommandLine, url: str) -> children.Child:
        tls = self._tls if url.startswith(self.server) else _unverified() if url.startswith("https") else None
        program = children.Program(
            name,
            argv(self._kb, self._files, self._ports),
            lambda: probe(url, tls),
            # The API server would wait a minute for the watches of others to end.
            stop_seconds=3.0,
            may_be_forced=True,
        )
        return children.Child(program, self._files.log(name))

    def _write_kubeconfig(self, server: str, user: str, groups: Sequence[str]) -> Path:
        digest = hashlib.sha256(json.dumps([user, *groups]).encode()).hexdigest()[:12]
        path = self._files.root / f"{digest}.kubeconfig"
        if not path.exists():
            issued = self.authority.issue(user, groups)
            access = kubeconfigs.Access(server, self.authority.certificate_pem, issued)
            kubeconfigs.write(path, access)
        return path


def _unverified() -> ssl.SSLContext:
    # The controller manager makes itself a certificate nobody knows.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
