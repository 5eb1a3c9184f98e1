"""Name every place the tool writes to: all of them are below one cache folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CLUSTER = "manifestry"


@dataclass(frozen=True)
class ClusterPaths:
    """The files of one cluster."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig; ~/.kube/config is never touched."""
        return self.root / "kubeconfig"

    @property
    def kind_config(self) -> Path:
        """Return the rendered kind configuration."""
        return self.root / "kind.yaml"

    @property
    def audit_policy(self) -> Path:
        """Return the API server's audit policy."""
        return self.root / "audit-policy.yaml"

    @property
    def audit_folder(self) -> Path:
        """Return the folder which the API server writes its audit log to."""
        return self.root / "audit"

    @property
    def audit_log(self) -> Path:
        """Return the audit log, one JSON object per line."""
        return self.audit_folder / "audit.log"

    @property
    def state(self) -> Path:
        """Return the record of how this cluster was made."""
        return self.root / "state.json"


@dataclass(frozen=True)
class Layout:
    """The cache folder."""

    root: Path

    @property
    def artefacts(self) -> Path:
        """Return the folder of built things, one stamped folder each."""
        return self.root / "artefacts"

    @property
    def tools(self) -> Path:
        """Return the folder to prepend to PATH."""
        return self.root / "tools"

    @property
    def logs(self) -> Path:
        """Return the folder of the sub-commands' output."""
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Return the scratch folder of a build."""
        return self.root / "work"

    @property
    def locks(self) -> Path:
        """Return the folder of the lock files."""
        return self.root / "locks"

    @property
    def engine(self) -> Path:
        """Return the folder of the container engine which this tool starts."""
        return self.root / "engine"

    def log(self, name: str) -> Path:
        """Return the log file of one kind of sub-command."""
        return self.logs / f"{name}.log"

    def lock(self, name: str) -> Path:
        """Return the lock file that serialises one activity."""
        return self.locks / f"{name}.lock"

    def cluster(self, name: str) -> ClusterPaths:
        """Return the files of the named cluster."""
        return ClusterPaths(self.root / "clusters" / name)


def cache_root(environment: Mapping[str, str], home: Path) -> Path:
    """Return the cache folder that the environment asks for."""
    if explicit := environment.get("MANIFESTRY_CACHE"):
        return Path(explicit).expanduser().absolute()
    base = environment.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base).absolute() / "manifestry"


def cluster_name(environment: Mapping[str, str]) -> str:
    """Return the name of the cluster to work on."""
    return environment.get("MANIFESTRY_CLUSTER") or DEFAULT_CLUSTER
