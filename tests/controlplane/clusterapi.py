"""Talk to a cluster from a test: the calls that arrange and assert, on any API server."""

import copy
import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.controlplane import apirequests, kubeconfigs
from tests.controlplane.apirequests import ApiFailure, ResourceLike

CRD_FOLDER = Path(__file__).resolve().parents[2] / "crds"
_CRDS = "apiextensions.k8s.io/v1/customresourcedefinitions"
_FIELD_MANAGER = "manifestry-tests"
_POLL_SECONDS = 0.05

Object = dict[str, Any]
# Named here because inside the class `list` is the Kubernetes verb.
Objects = list[Object]
Names = list[str]


class WaitTimeoutError(AssertionError):
    """What the test waited for did not come true in time."""


class ClusterApi:
    """One user's view of one cluster.

    Args:
        kubeconfig: of that user.
        kubectl_argv: the program, "kubectl" itself or a multi-call binary's.
        folder: takes kubectl's caches; ports are reused, so a cache must not outlive its cluster.
    """

    def __init__(self, kubeconfig: Path, *, kubectl_argv: Sequence[str], folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self._kubectl_argv = list(kubectl_argv)
        self._access = kubeconfigs.read(kubeconfig)
        self._requester = apirequests.Requester(self._access)
        self._headers: dict[str, str] = {}

    @property
    def server(self) -> str:
        """Return the API server's URL."""
        return self._access.server

    @property
    def ca_pem(self) -> bytes:
        """Return the authority of the API server's certificate."""
        return self._access.ca_pem

    def close(self) -> None:
        """Close the connections."""
        self._requester.close()

    def as_user(self, user: str, groups: Sequence[str] = ()) -> Self:
        """Return a view that impersonates a user; its `kubectl` stays this one's user.

        Args:
            groups: at most one, http.client sends a header once.
        """
        other = copy.copy(self)
        other._headers = {"Impersonate-User": user}
        if groups:
            (group,) = groups
            other._headers["Impersonate-Group"] = group
        return other

    def kubectl(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout_seconds: float = 30.0,
        check: bool = True,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl.

        Raises:
            AssertionError: `check` is set and the exit code is not zero; the message holds the output.
        """
        argv = [*self._kubectl_argv, "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        env = {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
        }
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, env=env, check=False
        )
        if check and done.returncode:
            shown = " ".join(arguments)
            raise AssertionError(f"kubectl {shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 10.0,
    ) -> Any:
        """Send one request and return the parsed answer.

        Raises:
            ApiFailure: the answer is not a 2xx, or there is none.
        """
        sent = {"User-Agent": _FIELD_MANAGER, **self._headers, **(headers or {})}
        return self._requester.send(method, path, body, headers=sent, timeout_seconds=timeout_seconds)

    def get(self, resource: str | ResourceLike, name: str, namespace: str | None = None) -> Object:
        """Return one object."""
        return dict(self.request("GET", apirequests.path_of(resource, namespace, name)))

    def find(self, resource: str | ResourceLike, name: str, namespace: str | None = None) -> Object | None:
        """Return one object, None when it does not exist."""
        try:
            return self.get(resource, name, namespace)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    def list(
        self,
        resource: str | ResourceLike,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Objects:
        """Return every object of a kind, in one namespace or in all."""
        query = urlencode({"labelSelector": label_selector, "fieldSelector": field_selector})
        return list(self.request("GET", f"{apirequests.path_of(resource, namespace)}?{query}")["items"])

    def create(
        self,
        resource: str | ResourceLike,
        body: Mapping[str, Any],
        namespace: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Create an object.

        Args:
            query: for instance `{"dryRun": "All"}`.
        """
        tail = f"?{urlencode(query)}" if query else ""
        return dict(self.request("POST", apirequests.path_of(resource, namespace) + tail, dict(body)))

    def replace(
        self, resource: str | ResourceLike, body: Mapping[str, Any], *, subresource: str | None = None
    ) -> Object:
        """Replace an object (PUT); a resourceVersion in the body is a precondition."""
        meta = body["metadata"]
        path = apirequests.path_of(resource, meta.get("namespace"), meta["name"], subresource)
        return dict(self.request("PUT", path, dict(body)))

    def patch(
        self,
        resource: str | ResourceLike,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        """Change an object by a JSON merge patch."""
        path = apirequests.path_of(resource, namespace, name, subresource)
        headers = {"Content-Type": "application/merge-patch+json"}
        return dict(self.request("PATCH", path, dict(patch), headers=headers))

    def apply(self, resource: str | ResourceLike, body: Mapping[str, Any]) -> Object:
        """Create or change an object by server-side apply, taking every field over."""
        meta = body["metadata"]
        path = apirequests.path_of(resource, meta.get("namespace"), meta["name"])
        headers = {"Content-Type": "application/apply-patch+yaml"}
        query = urlencode({"fieldManager": _FIELD_MANAGER, "force": "true"})
        return dict(self.request("PATCH", f"{path}?{query}", dict(body), headers=headers))

    def delete(
        self,
        resource: str | ResourceLike,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object; one that is not there is fine."""
        options: dict[str, Any] = {"propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", apirequests.path_of(resource, namespace, name), options)
        except ApiFailure as failure:
            if failure.status != 404:
                raise

    def wait_for(
        self,
        resource: str | ResourceLike,
        name: str,
        namespace: str | None,
        predicate: Callable[[Object | None], object],
        *,
        timeout_seconds: float = 20.0,
    ) -> Object:
        """Wait until the predicate holds for an object and return the object, empty when it is gone.

        Args:
            predicate: gets None when the object does not exist; a server that is down is waited for.

        Raises:
            WaitTimeoutError: it did not hold in time; the message holds what was seen last.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                seen: Object | ApiFailure | None = self.find(resource, name, namespace)
                if not isinstance(seen, ApiFailure) and predicate(seen):
                    return seen or {}
            except ApiFailure as failure:
                if not failure.is_transient:
                    raise
                seen = failure
            if time.monotonic() > deadline:
                shown = json.dumps(seen, indent=1) if isinstance(seen, dict) else str(seen)
                where = f"{apirequests.path_of(resource, namespace, name)} after {timeout_seconds} s"
                raise WaitTimeoutError(f"{where}:\n{shown}")
            time.sleep(_POLL_SECONDS)

    def apply_crds(self, folder: Path = CRD_FOLDER, *, timeout_seconds: float = 30.0) -> Names:
        """Install every CRD of the folder, wait until each is served, and return their names."""
        crds = [crd for path in sorted(folder.glob("*.yaml")) for crd in _custom_resource_definitions(path)]
        assert crds, f"there is no CRD in {folder}"
        for crd in crds:
            self.apply(_CRDS, crd)
        for crd in crds:
            name = crd["metadata"]["name"]
            self.wait_for(_CRDS, name, None, is_established, timeout_seconds=timeout_seconds)
            self._wait_served(crd, timeout_seconds)
        return [crd["metadata"]["name"] for crd in crds]

    def _wait_served(self, crd: Mapping[str, Any], timeout_seconds: float) -> None:
        # Established comes a moment before the API server has installed the handler.
        spec = crd["spec"]
        for version in (version["name"] for version in spec["versions"] if version["served"]):
            resource = f"{spec['group']}/{version}/{spec['names']['plural']}"
            poll_until(functools.partial(self._is_served, resource), resource, timeout_seconds)

    def _is_served(self, resource: str) -> bool:
        try:
            self.list(resource)
        except ApiFailure as failure:
            if failure.status == 404 or failure.is_transient:
                return False
            raise
        return True

    def token(
        self,
        namespace: str,
        service_account: str,
        audience: str = "manifestry",
        *,
        expiration_seconds: int = 3600,
    ) -> str:
        """Return a token of the service account (TokenRequest), creating the account where it is missing."""
        accounts = "v1/serviceaccounts"
        if self.find(accounts, service_account, namespace) is None:
            self.create(accounts, {"metadata": {"name": service_account}}, namespace)
        body = {"spec": {"audiences": [audience], "expirationSeconds": expiration_seconds}}
        path = apirequests.path_of(accounts, namespace, service_account, "token")
        return str(self.request("POST", path, body)["status"]["token"])


def is_established(crd: Mapping[str, Any] | None) -> bool:
    """Tell whether a CRD is served under the names it asks for."""
    conditions = (crd or {}).get("status", {}).get("conditions", [])
    return any(found["type"] == "Established" and found["status"] == "True" for found in conditions)


def poll_until(condition: Callable[[], object], what: str, timeout_seconds: float = 20.0) -> None:
    """Wait until a condition holds.

    Raises:
        WaitTimeoutError: it did not hold in time; the message is `what`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"{what}: not after {timeout_seconds} s")
        time.sleep(_POLL_SECONDS)


def _custom_resource_definitions(path: Path) -> Objects:
    documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [found for found in documents if found and found.get("kind") == "CustomResourceDefinition"]
