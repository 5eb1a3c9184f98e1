"""The door of the webhook's port: whoever does not know the path of the moment is answered 404, unread.

Behind it the request has a path that is no secret: audit records, logs and errors cannot give the other away.
"""

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from manifestry.adapters.kube import cluster
from manifestry.core.access import webhookpaths
from manifestry_api.webhook import secretwatches

REPORT_SECONDS = 60.0  # one line in that time, however many knock
logger = logging.getLogger(__name__)


class PathLoader:
    """Keeps the paths at what the Secret lists; one without a usable token leaves those that are in use.

    Args:
        client: the Kubernetes API.
        name: the Secret.
        namespace: our own.
    """

    def __init__(self, client: cluster.KubeClient, name: str, namespace: str) -> None:
        self._name = name
        self._watch = secretwatches.SecretWatch(client, name, namespace, take=self.take, report=self._fail)
        self._paths: tuple[bytes, ...] = ()
        self._failure = "there is no path yet"

    @property
    def reason(self) -> str:
        """Return why the API server cannot get in, empty when it can."""
        return self._failure

    async def run(self) -> None:
        """Follow the Secret for ever."""
        await self._watch.run()

    def take(self, secret: Mapping[str, Any]) -> None:
        """Accept what a Secret lists from now on, and nothing else."""
        found = tuple(webhookpaths.path(token).encode() for token in webhookpaths.accepted(secret))
        if not found:
            self._failure = f"Secret {self._name} has no usable token"
            logger.warning("webhook path not usable", extra={"reason": self._failure})
            return
        self._paths, self._failure = found, ""

    def opens(self, path: str) -> bool:
        """Tell whether a request's path is one of the accepted, in a time that says nothing about them."""
        asked = path.encode(errors="replace")
        return any([hmac.compare_digest(asked, known) for known in self._paths])  # noqa: C419 - all of them

    def _fail(self, reason: str) -> None:
        if not self._paths:
            self._failure = reason


class Door:
    """Pure ASGI middleware: lets in who knows the path, and forgets it.

    Args:
        app: serves those.
        paths: what is accepted.
        inside: the path that `app` sees.
        refused: is called for each of the others.
    """

    def __init__(self, app: ASGIApp, paths: PathLoader, inside: str, refused: Callable[[], None]) -> None:
        self._app = app
        self._paths = paths
        self._inside = inside
        self._refused = refused
        self._unreported = 0
        self._quiet_until = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._paths.opens(scope["path"]):
            inside = {**scope, "path": self._inside, "raw_path": self._inside.encode()}
            await self._app(inside, receive, send)
            return
        self._refused()
        self._report(scope)
        await PlainTextResponse("not found", 404)(scope, receive, send)

    def _report(self, scope: Scope) -> None:
        """Say that somebody knocks, but not at which path: it may be one that was accepted a moment ago."""
        self._unreported += 1
        if time.monotonic() < self._quiet_until:
            return
        client = scope.get("client") or ("",)
        extra = {"count": self._unreported, "lastClient": client[0]}
        logger.warning("webhook called at a path that is not accepted", extra=extra)
        self._unreported, self._quiet_until = 0, time.monotonic() + REPORT_SECONDS
