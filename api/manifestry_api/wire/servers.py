"""A uvicorn server that leaves the signals to the process, with the connections of this room."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from manifestry_api.wire import protocols

KEEP_ALIVE_SECONDS = 75  # longer than the usual proxy's 60, or it meets a closing connection
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to us: two servers share one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


async def serve(config: uvicorn.Config, shutdown: asyncio.Event) -> None:
    """Serve until `shutdown` is set; what is being served then may end within the grace period."""
    server = Server(config)
    stopper = asyncio.create_task(_stop(server, shutdown))
    try:
        await server.serve()
    finally:
        stopper.cancel()


async def _stop(server: Server, shutdown: asyncio.Event) -> None:
    await shutdown.wait()
    logger.info("shutting down")
    server.should_exit = True


def configure(application: ASGIApp, host: str, port: int, grace_seconds: int) -> uvicorn.Config:
    """Return how an application is served; `grace_seconds` are for what is under way at the end."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="asyncio",
        http=protocols.BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
    )
