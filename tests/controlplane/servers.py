"""The command lines of the control plane's three processes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane import audit, certificates, kubeconfigs, ports

SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"
_CONTROLLERS = (
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "ttl-after-finished-controller",
)


@dataclass(frozen=True)
class Files:
    """Where one control plane keeps its files."""

    root: Path

    @property
    def etcd_data(self) -> Path:
        """etcd's data folder."""
        return self.root / "etcd"

    @property
    def audit_log(self) -> Path:
        """The audit log, one JSON object per line."""
        return self.root / "audit.log"

    @property
    def audit_policy(self) -> Path:
        """What is audited."""
        return self.root / "audit-policy.yaml"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.root / "ca.crt"

    @property
    def service_account_key(self) -> Path:
        """The key that signs service-account tokens."""
        return self.root / "service-accounts.key"

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.root / f"{name}.log"


@dataclass(frozen=True)
class Ports:
    """The ports of one control plane; they outlive a restart."""

    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int

    @classmethod
    def pick(cls) -> "Ports":
        """Return four free ones."""
        return cls(*(ports.free_port() for _ in range(4)))


def etcd_argv(kb: Path, files: Files, chosen: Ports) -> list[str]:
    """Return etcd's command line."""
    client, peer = f"http://127.0.0.1:{chosen.etcd}", f"http://127.0.0.1:{chosen.etcd_peer}"
    return [
        *(str(kb), "etcd", "--name=test", f"--data-dir={files.etcd_data}", "--log-level=warn"),
        # A killed process loses nothing without fsync, only a killed machine does.
        "--unsafe-no-fsync",
        # The only member need not wait a second before it elects itself.
        *("--heartbeat-interval=20", "--election-timeout=200"),
        f"--quota-backend-bytes={4 << 30}",
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
        ),
    ]


def apiserver_argv(kb: Path, files: Files, chosen: Ports) -> list[str]:
    """Return kube-apiserver's command line."""
    return [
        *(str(kb), "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{chosen.etcd}"),
        *("--bind-address=127.0.0.1", f"--secure-port={chosen.apiserver}"),
        # A machine without a network must do.
        *(
            "--advertise-address=127.0.0.1",
            "--external-hostname=127.0.0.1",
            "--endpoint-reconciler-type=none",
        ),
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--client-ca-file={files.ca}",
        *(
            f"--tls-cert-file={files.root}/apiserver.crt",
            f"--tls-private-key-file={files.root}/apiserver.key",
        ),
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-signing-key-file={files.service_account_key}",
        f"--service-account-key-file={files.service_account_key}",
        "--authorization-mode=RBAC",
        *(f"--audit-policy-file={files.audit_policy}", f"--audit-log-path={files.audit_log}"),
        "--audit-log-maxsize=0",
        *("--profiling=false", "--allow-privileged=true"),
    ]


def controller_manager_argv(kb: Path, files: Files, chosen: Ports) -> list[str]:
    """Return kube-controller-manager's command line."""
    return [
        *(str(kb), "kube-controller-manager", f"--kubeconfig={files.root}/controller-manager.kubeconfig"),
        *("--bind-address=127.0.0.1", f"--secure-port={chosen.controller_manager}"),
        *("--leader-elect=false", f"--controllers={','.join(_CONTROLLERS)}"),
        *(f"--root-ca-file={files.ca}", f"--service-account-private-key-file={files.service_account_key}"),
        *("--kube-api-qps=2000", "--kube-api-burst=4000", "--concurrent-job-syncs=20"),
        "--concurrent-namespace-syncs=20",
        "--profiling=false",
    ]


CommandLine = Callable[[Path, Files, Ports], list[str]]


def prepare(files: Files, authority: certificates.Authority, server: str) -> None:
    """Write the files that the processes read."""
    files.root.mkdir(parents=True, exist_ok=True)
    files.ca.write_bytes(authority.certificate_pem)
    files.audit_policy.write_text(audit.POLICY, encoding="utf-8")
    files.service_account_key.touch(mode=0o600)
    files.service_account_key.write_bytes(certificates.new_rsa_key_pem())
    names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    serving = authority.issue("kube-apiserver", ip_addresses=["127.0.0.1"], dns_names=names, server=True)
    serving.write(files.root, "apiserver")
    # It acts with one identity, not one per controller: nobody binds those here.
    controllers = authority.issue("system:kube-controller-manager", ["system:masters"])
    access = kubeconfigs.Access(server, authority.certificate_pem, controllers)
    kubeconfigs.write(files.root / "controller-manager.kubeconfig", access)
