"""Send JSON requests to an API server, blocking, for arranging and asserting in tests."""

import contextlib
import http.client
import json
import queue
import select
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.controlplane.kubeconfigs import Access

_IDLE_CONNECTIONS = 8


class ApiFailure(Exception):  # noqa: N818 - an answer, often an expected one
    """The API server refused (`status` is HTTP's) or could not be reached (`status` 0)."""

    def __init__(
        self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})

    @property
    def is_transient(self) -> bool:
        """Tell whether the same request may succeed a moment later."""
        return self.status in {0, 429} or self.status >= 500


class ResourceLike(Protocol):
    """What names a kind, such as `manifestry.core.kube.names.Resource`."""

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""

    @property
    def version(self) -> str:
        """The API version."""

    @property
    def plural(self) -> str:
        """The kind's name in URLs."""


def path_of(
    resource: str | ResourceLike,
    namespace: str | None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """Return the URL path of a collection, an object or its subresource.

    Args:
        resource: "v1/pods", "batch/v1/jobs", or an object with group, version and plural.
    """
    if not isinstance(resource, str):
        resource = "/".join(part for part in (resource.group, resource.version, resource.plural) if part)
    *api, plural = resource.split("/")
    root = "/apis/" if len(api) == 2 else "/api/"
    scope = f"/namespaces/{namespace}" if namespace else ""
    tail = "".join(f"/{part}" for part in (name, subresource) if part)
    return f"{root}{'/'.join(api)}{scope}/{plural}{tail}"


def tls_context(access: Access) -> ssl.SSLContext:
    """Return a context that trusts the cluster's authority and presents the user's certificate."""
    context = ssl.create_default_context(cadata=access.ca_pem.decode())
    # Python 3.13 asks for extensions that some clusters' authorities do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if access.certificate:
        with tempfile.TemporaryDirectory() as folder:
            context.load_cert_chain(*access.certificate.write(Path(folder), "client"))
    return context


class Requester:
    """A small pool of connections to one API server."""

    def __init__(self, access: Access) -> None:
        address = urlsplit(access.server)
        self._host, self._port = address.hostname or "", address.port or 443
        self._tls = tls_context(access)
        self._headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._idle: queue.LifoQueue[http.client.HTTPSConnection] = queue.LifoQueue(_IDLE_CONNECTIONS)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 10.0,
    ) -> Any:
        """Send one request and return the parsed JSON, or the text of an answer that is none.

        Raises:
            ApiFailure: the answer is not a 2xx, or there is none.
        """
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Accept": "application/json, */*;q=0.1",
            "Content-Type": "application/json",
            **self._headers,
            **(headers or {}),
        }
        connection = self._connection(timeout_seconds)
        try:
            connection.request(method, path, body=data, headers=sent)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiFailure(0, "Unreachable", f"{method} {path}: {error!r}") from error
        self._give_back(connection)
        return _parsed(response.status, text)

    def close(self) -> None:
        """Close the idle connections."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _connection(self, timeout_seconds: float) -> http.client.HTTPSConnection:
        with contextlib.suppress(queue.Empty):
            while True:
                idle = self._idle.get_nowait()
                # Readable while nothing was asked: the server has closed it, or was killed.
                if idle.sock and not select.select([idle.sock], [], [], 0)[0]:
                    idle.sock.settimeout(timeout_seconds)
                    return idle
                idle.close()
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_seconds, context=self._tls)

    def _give_back(self, connection: http.client.HTTPSConnection) -> None:
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()


def _parsed(status: int, text: str) -> Any:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if 200 <= status < 300:
        return text if document is None else document
    if isinstance(document, dict) and document.get("kind") == "Status":
        raise ApiFailure(
            status, document.get("reason", ""), document.get("message", ""), document.get("details")
        )
    raise ApiFailure(status, "", text[:500])
