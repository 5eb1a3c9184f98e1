"""Size bound, trace, audit and the outermost boundary, around a tiny application."""

import asyncio
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from manifestry.core import errors
from manifestry_api.guard import middleware
from manifestry_api.request import problems, telemetry
from tests.unit.api import asgi, world

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def wrap(endpoint: Any, *, json_bytes: int = 100, upload_bytes: int = 1000, idle_seconds: float = 5.0) -> Any:
    """Put an endpoint behind the three layers, in the order of `create_app`."""
    records, instruments = world.Records(), telemetry.Telemetry()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    layers: Any = middleware.Bounded(
        inner, json_bytes=json_bytes, upload_bytes=upload_bytes, idle_seconds=idle_seconds
    )
    layers = middleware.Audited(layers, records, lambda: world.NOW)
    layers = middleware.Traced(layers, instruments, lambda: world.NOW)
    layers.records, layers.instruments = records, instruments
    return layers


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("POST", "/jobs", 100, 200),
        ("POST", "/jobs", 101, 413),
        ("PUT", "/artifacts/a/content", 1000, 200),
        ("PUT", "/artifacts/a/content", 1001, 413),
        ("PATCH", "/uploads/0-1", 1000, 200),
        ("POST", "/artifacts/a/content", 101, 413),
        ("PUT", "/artifacts/a/b/content", 101, 413),
        ("PUT", "/x/artifacts/a/content", 101, 413),
    ],
)
@pytest.mark.parametrize("announced", [True, False])
async def test_bodies_are_bounded_by_route_announced_or_not(
    method: str, path: str, size: int, status: int, announced: bool
) -> None:
    app = wrap(echo)
    pieces = [b"x"] * size
    headers = {"content-length": str(size)} if announced else {"transfer-encoding": "chunked"}
    answer = await asgi.call(app, method, path, headers, pieces)
    assert answer.status == status
    if status == 413:
        assert answer.json()["code"] == "payload-too-large"
        assert answer.received_count == (0 if announced else 1 + (1000 if size > 1000 else 100))


@pytest.mark.parametrize("headers", [{"content-length": "101"}, {"transfer-encoding": "chunked"}])
async def test_a_get_with_a_body_is_bounded_too(headers: dict[str, str]) -> None:
    assert (await asgi.call(wrap(echo), "GET", "/jobs", headers, [b"x" * 101])).status == 413


async def test_of_a_repeated_header_the_first_counts_where_one_is_wanted() -> None:
    app = wrap(echo)
    pairs = [("user-agent", "first"), ("user-agent", "second"), ("traceparent", TRACE), ("traceparent", "x")]
    answer = await asgi.call(app, "GET", "/jobs", pairs)
    assert app.records.all[0]["userAgent"] == "first"
    assert answer.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]


@pytest.mark.parametrize("length", ["9" * 5000, str(1 << 63)])
async def test_an_absurd_content_length_is_too_large(length: str) -> None:
    assert (await asgi.call(wrap(echo), "POST", "/jobs", {"content-length": length})).status == 413


async def test_a_client_that_stops_sending_is_cut_off() -> None:
    app = wrap(echo, idle_seconds=0.05)
    sent: list[Any] = []

    async def silent() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/jobs", "headers": [], "query_string": b"",
        "scheme": "http", "server": ("a", 1),
    }  # fmt: skip
    await app(scope, silent, send)
    assert sent[0]["status"] == 400


async def test_waiting_for_the_client_to_leave_is_not_idleness() -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await request.receive()
        return PlainTextResponse("ok")

    app = wrap(endpoint, idle_seconds=0.01)
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(60)
        return {}

    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "POST", "path": "/jobs", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert statuses[0] == 200


async def test_every_answer_has_an_audit_id_and_continues_the_callers_trace() -> None:
    answer = await asgi.call(wrap(echo), "GET", "/jobs", {"traceparent": TRACE})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["audit-id"])
    version, trace_id, span_id, _flags = answer.headers["traceparent"].split("-")
    assert (version, trace_id) == ("00", "0af7651916cd43dd8448eb211c80319c")
    assert span_id != "b7ad6b7169203331"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_bad_traceparent_begins_a_new_trace() -> None:
    answer = await asgi.call(wrap(echo), "GET", "/jobs", {"traceparent": "00-zz"})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", answer.headers["traceparent"])


async def test_an_unexpected_error_is_500_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    async def endpoint(_request: Request) -> Response:
        raise RuntimeError("password=hunter2")

    app = wrap(endpoint)
    answer = await asgi.call(app, "GET", "/jobs")
    assert (answer.status, answer.json()["code"]) == (500, "internal")
    assert b"hunter2" not in answer.body
    assert len(app.records.all) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_an_error_after_the_first_byte_breaks_the_connection() -> None:
    async def endpoint(_request: Request) -> Response:
        async def body() -> Any:
            yield b"half"
            raise RuntimeError("gone")

        return StreamingResponse(body())

    with pytest.raises((RuntimeError, ExceptionGroup)):
        await asgi.call(wrap(endpoint), "GET", "/jobs")


@pytest.mark.parametrize("stream", [True, False])
async def test_one_record_whose_stage_says_whether_the_answer_was_whole(stream: bool) -> None:
    async def endpoint(_request: Request) -> Response:
        async def body() -> Any:
            yield b"x"

        return StreamingResponse(body()) if stream else JSONResponse({})

    app = wrap(endpoint)
    await asgi.call(app, "GET", "/jobs/a/logs", query=b"token=secret")
    (record,) = app.records.all
    assert record["stage"] == ("ResponseStarted" if stream else "ResponseComplete")
    assert record["requestURI"] == "/jobs/a/logs"
    assert record["sourceIPs"] == ["192.0.2.1"]


async def test_public_paths_are_not_audited() -> None:
    app = wrap(echo)
    await asgi.call(app, "GET", "/livez")
    assert app.records.all == []


async def test_a_sink_that_fails_does_not_lose_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    app = wrap(echo)

    async def broken(_record: Any) -> None:
        raise BrokenPipeError

    app.records.write = broken
    assert (await asgi.call(app, "GET", "/jobs")).status == 200
    assert "audit record could not be written" in caplog.text


async def test_requests_are_measured_by_route_and_unknown_methods_share_a_series() -> None:
    async def endpoint(_request: Request) -> Response:
        raise errors.Problem(errors.NOT_FOUND, "no")

    app = wrap(endpoint)
    await asgi.call(app, "BREW", "/pot")
    text = app.instruments.expose().decode()
    labels = 'http_request_method="_OTHER",http_response_status_code="404",http_route="unmatched"'
    assert f"http_server_request_duration_seconds_count{{{labels}}} 1.0" in text
    assert 'http_server_refusals_total{code="not-found"} 1.0' in text
    await asgi.call(app, "BREW", "/pot")
    assert f"http_server_request_duration_seconds_count{{{labels}}} 2.0" in app.instruments.expose().decode()


async def test_other_protocols_pass_through() -> None:
    seen: list[str] = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    layers: Any = middleware.Bounded(inner, json_bytes=1, upload_bytes=1)
    layers = middleware.Audited(layers, world.Records(), lambda: world.NOW)
    layers = middleware.Traced(layers, telemetry.Telemetry(), lambda: world.NOW)
    await layers({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


async def test_headers_are_echoed_once_they_are_believed() -> None:
    found = world.build()
    found.grant("viewer")
    answer = await asgi.call(
        found.app, "GET", "/job-types", world.headers("viewer", x_reason="Prüfung", x_roles="reader")
    )
    assert answer.status == 200
    assert answer.headers["x-actor"] == world.CI
    assert answer.headers["x-reason"].encode("latin-1").decode() == "Prüfung"
    assert answer.headers["x-roles"] == "viewer"
    (record,) = found.records.all
    assert record["user"]["username"] == world.CI
    assert record["annotations"]["manifestry.dev/reason"] == "Prüfung"
    assert record["annotations"]["manifestry.dev/action"] == "job-types:read"
    assert record["objectRef"]["namespace"] == "ns-acme"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not-found"),
        ("GET", "/jobs/", {}, 404, "not-found"),
        ("BREW", "/jobs", {}, 405, "method-not-allowed"),
        ("PUT", "/livez", {}, 405, "method-not-allowed"),
    ],
)
async def test_routing_refusals_are_problems(
    method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await asgi.call(world.build().app, method, path, headers)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert answer.json()["instance"] == path
    assert answer.headers["audit-id"] == answer.json()["auditId"]
    if status == 405:
        assert answer.headers["allow"]


async def test_allow_names_the_methods_of_every_route_at_the_path() -> None:
    answer = await asgi.call(world.build().app, "DELETE", "/jobs")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
