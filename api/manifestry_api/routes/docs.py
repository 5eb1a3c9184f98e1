"""The OpenAPI document, and a page that shows it without a script, a font or a request to anybody else."""

import html
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

router = APIRouter(include_in_schema=False)
POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
METHODS = ("get", "head", "post", "put", "patch", "delete")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid #ccc; border-radius: 4px; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
code, pre { font: 13px ui-monospace, monospace; }
pre { overflow: auto; background: #f5f5f5; padding: .6rem; }
.m { display: inline-block; min-width: 4.5rem; font-weight: 600; }
.r { color: #666; }
"""


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Return the OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the page."""
    return HTMLResponse(page(request.app.openapi()), headers={"Content-Security-Policy": POLICY})


@router.get("/docs/style.css")
async def style() -> Response:
    """Return the page's style sheet; the policy allows no inline style."""
    return Response(STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"})


def page(document: Mapping[str, Any]) -> str:
    """Return the document as HTML; every text in it is escaped."""
    info = document["info"]
    rows = "".join(
        _operation(method, path, operations[method])
        for path, operations in document["paths"].items()
        for method in METHODS
        if method in operations
    )
    title = html.escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<link rel="stylesheet" href="docs/style.css"></head><body><h1>{title}</h1>'
        f"<p>{html.escape(info.get('description', ''))}</p>"
        f'<p>The machine-readable document: <a href="openapi.json">openapi.json</a></p>{rows}</body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    roles = ", ".join(operation.get("x-manifestry-roles", ())) or "no credentials"
    head = (
        f'<span class="m">{method.upper()}</span> <code>{html.escape(path)}</code> '
        f'{html.escape(operation.get("summary", ""))} <span class="r">({html.escape(roles)})</span>'
    )
    parts = (("Parameters", "parameters"), ("Body", "requestBody"), ("Answers", "responses"))
    body = "".join(_json(title, operation.get(key)) for title, key in parts)
    text = html.escape(operation.get("description") or "")
    return f"<details><summary>{head}</summary><p>{text}</p>{body}</details>"


def _json(title: str, value: Any) -> str:
    if not value:
        return ""
    return f"<h4>{title}</h4><pre>{html.escape(json.dumps(value, indent=2))}</pre>"
