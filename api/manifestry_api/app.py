"""The REST application: routes, the guard's middleware and the error mapper around the given ports."""

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

import manifestry
from manifestry import settings as settings_module
from manifestry_api import openapi
from manifestry_api.guard import deps, middleware, shortcuts
from manifestry_api.health import probes
from manifestry_api.request import problems
from manifestry_api.routes import (
    artifacts,
    contents,
    docs,
    files,
    garbage,
    health,
    job_types,
    jobs,
    logs,
    quotas,
    retained,
    uploads,
)
from manifestry_api.wire import heads

PUBLIC: tuple[APIRouter, ...] = (health.router, docs.router)
GUARDED: tuple[APIRouter, ...] = (
    artifacts.router,
    files.router,
    uploads.router,
    jobs.router,
    logs.router,
    quotas.router,
    job_types.router,
    garbage.router,
    retained.router,
)


def create_app(settings: settings_module.ApiSettings, ports: deps.Ports) -> FastAPI:
    """Return the application; nothing is started and nothing global is touched."""
    app = FastAPI(
        title="manifestry",
        version=getattr(manifestry, "__version__", "0.1.0"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
        middleware=[
            Middleware(middleware.Traced, instruments=ports.instruments, clock=ports.clock),
            Middleware(middleware.Audited, sink=ports.audit, clock=ports.clock),
            Middleware(heads.Refused, answer=problems.response),
            Middleware(
                middleware.Bounded,
                json_bytes=settings.max_body_bytes,
                upload_bytes=settings.max_upload_bytes,
            ),
            Middleware(shortcuts.Shortcuts, shortcuts=tuple(shortcuts.of(contents.router, contents.SHORT))),
        ],
    )
    app.state.ports = ports
    app.state.health = probes.Health(ports)
    for router in (*PUBLIC, *GUARDED):
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    return app
