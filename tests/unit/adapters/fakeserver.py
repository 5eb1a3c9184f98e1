"""A small HTTP server in the place of a kube-apiserver, for answers that the real one gives seldom."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from manifestry.adapters.kube import cluster

Answer = Callable[[web.Request], Any]


def status(code: int, reason: str = "", **content: Any) -> web.Response:
    """Return a metav1.Status."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": "no", "code": code, **content}
    return web.json_response(body, status=code)


class FakeServer:
    """Answers each request with the next of `answers`; the last one is repeated."""

    def __init__(self, folder: Path) -> None:
        self.answers: list[Answer] = []
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self._folder = folder

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        result = answer(request)
        made: web.StreamResponse = await result if hasattr(result, "__await__") else result
        return made

    @asynccontextmanager
    async def connected(self, user: Any = None, **options: Any) -> AsyncIterator[cluster.KubeClient]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        server = TestServer(application)
        await server.start_server()
        path = write_kubeconfig(self._folder, str(server.make_url("/")), user)
        client = await cluster.KubeClient.connect(kubeconfig=str(path), user_agent="test/1", **options)
        try:
            yield client
        finally:
            await client.close()
            await server.close()


def write_kubeconfig(folder: Path, server: str, user: Any = None) -> Path:
    """Write a kubeconfig (JSON is YAML) and return its path."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path
