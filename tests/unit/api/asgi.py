"""Call an ASGI application without a socket: what it sends is what is asserted."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers


@dataclass
class Answer:
    """A complete answer.

    Args:
        received_count: how many pieces of the body the application has read.
    """

    status: int = 0
    headers: Headers = field(default_factory=lambda: Headers(raw=[]))
    body: bytes = b""
    received_count: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any,
    method: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    chunks: Iterable[bytes] = (b"",),
    *,
    query: bytes = b"",
) -> Answer:
    """Send one request and collect the answer."""
    answer, pieces, parts = Answer(), list(chunks), []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower().encode(), text.encode()) for name, text in pairs],
        "client": ("192.0.2.1", 4711),
        "server": ("api", 80),
    }

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        answer.received_count += 1
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], Headers(raw=list(message["headers"]))
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    answer.body = b"".join(parts)
    return answer
