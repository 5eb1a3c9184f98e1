"""What the client does with answers that a healthy server does not give."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry import trace

from manifestry.adapters.kube import apierrors, calls, cluster, kubeconfigs, retries, transport
from manifestry.adapters.kube import transport as kube_transport
from manifestry.core.kube import names
from tests.unit.adapters.fakeserver import FakeServer, status, write_kubeconfig

OK = {"kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "1"}}
BODY = {"metadata": {"name": "a", "namespace": "ns"}}


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path)


def ok(_: web.Request) -> web.Response:
    return web.json_response(OK)


def busy(code: int, wait: str | None = "0.1") -> web.Response:
    answer = status(code, "TooManyRequests")
    if wait is not None:
        answer.headers["Retry-After"] = wait
    return answer


async def read_log(client: cluster.KubeClient) -> bytes:
    async with client.stream_log("p", "ns") as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_a_read_is_tried_again_after_a_server_error(server: FakeServer, code: int) -> None:
    server.answers = [lambda _: status(code), ok]
    async with server.connected() as client:
        assert await client.get(names.CONFIG_MAPS, "a", "ns") == OK
    assert len(server.requests) == 2


async def test_a_write_is_not_tried_again_after_a_server_error(server: FakeServer) -> None:
    server.answers = [lambda _: status(500, "InternalError", details={"causes": [1]})]
    async with server.connected() as client:
        with pytest.raises(apierrors.UnavailableError) as refused:
            await client.create(names.CONFIG_MAPS, BODY)
    assert len(server.requests) == 1
    assert (refused.value.status, refused.value.details) == (500, {"causes": [1]})


@pytest.mark.parametrize("code", [429, 503])
async def test_anything_is_tried_again_when_the_server_asks_to_wait(server: FakeServer, code: int) -> None:
    server.answers = [lambda _: busy(code, "0.3"), ok]
    async with server.connected() as client:
        started = time.monotonic()
        await client.create(names.CONFIG_MAPS, BODY)
        assert time.monotonic() - started >= 0.3
    assert len(server.requests) == 2


async def test_an_exceeded_quota_is_told_at_once(server: FakeServer) -> None:
    server.answers = [lambda _: busy(429, None)]
    async with server.connected() as client:
        with pytest.raises(apierrors.TooManyRequestsError):
            await client.create(names.CONFIG_MAPS, BODY)
        with pytest.raises(apierrors.TooManyRequestsError):
            await client.get(names.CONFIG_MAPS, "a", "ns")
    assert len(server.requests) == 2


@pytest.mark.parametrize("wait", ["3600", "tomorrow", "-1"])
async def test_a_wait_beyond_reason_is_not_waited(server: FakeServer, wait: str) -> None:
    server.answers = [lambda _: busy(429, wait)]
    async with server.connected() as client:
        with pytest.raises(apierrors.TooManyRequestsError):
            await client.create(names.CONFIG_MAPS, BODY)


async def test_attempts_are_bounded(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries.Backoff, "delay", lambda *_: 0.001)
    server.answers = [lambda _: status(503)]
    async with server.connected() as client:
        with pytest.raises(apierrors.UnavailableError):
            await client.get(names.CONFIG_MAPS, "a", "ns")
    assert len(server.requests) == retries.MAX_ATTEMPTS


async def test_the_deadline_holds_for_all_attempts_together(server: FakeServer) -> None:
    async def late(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.json_response(OK)

    server.answers = [late]
    async with server.connected(request_timeout_seconds=0.5) as client:
        started = time.monotonic()
        with pytest.raises(apierrors.UnavailableError):
            await client.get(names.CONFIG_MAPS, "a", "ns")
        assert time.monotonic() - started < 2


async def test_an_answer_that_is_too_long_is_refused(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 1)
    server.answers = [lambda _: web.Response(body=b"x" * 5000)]
    async with server.connected() as client:
        with pytest.raises(apierrors.UnavailableError, match="over 1000 bytes"):
            await client.get(names.CONFIG_MAPS, "a", "ns")


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[1]", b"\xff\xfe"])
async def test_an_answer_that_is_no_object_is_an_error(server: FakeServer, body: bytes) -> None:
    server.answers = [lambda _: web.Response(body=body, status=404)]
    async with server.connected() as client:
        with pytest.raises(apierrors.NotFoundError):
            await client.get(names.CONFIG_MAPS, "a", "ns")
        server.answers = [lambda _: web.Response(body=b"{broken")]
        with pytest.raises(apierrors.UnavailableError, match="not JSON"):
            await client.get(names.CONFIG_MAPS, "a", "ns")


async def test_a_redirect_is_not_followed(server: FakeServer) -> None:
    server.answers = [lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})]
    async with server.connected() as client:
        with pytest.raises(apierrors.ApiError) as refused:
            await client.get(names.CONFIG_MAPS, "a", "ns")
    assert refused.value.status == 302


async def test_a_refused_token_is_read_again_once(server: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    def check(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == "Bearer new":
            return ok(request)
        token.write_text("new")
        return status(401, "Unauthorized")

    server.answers = [check]
    async with server.connected(user={"tokenFile": str(token)}) as client:
        await client.create(names.CONFIG_MAPS, BODY)
        assert len(server.requests) == 2
        server.answers = [lambda _: status(401, "Unauthorized")]
        with pytest.raises(apierrors.UnauthorizedError):
            await client.get(names.CONFIG_MAPS, "a", "ns")
        assert len(server.requests) == 4


async def test_a_token_is_read_again_each_minute(server: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    server.answers = [ok]
    async with server.connected(user={"tokenFile": str(token)}) as client:
        await client.get(names.CONFIG_MAPS, "a", "ns")
        token.write_text("second")
        await client.get(names.CONFIG_MAPS, "a", "ns")
        client._transport._credentials._refreshed -= kubeconfigs.REFRESH_SECONDS
        await asyncio.gather(*(client.get(names.CONFIG_MAPS, "a", "ns") for _ in range(5)))
    seen = [request.headers["Authorization"] for request in server.requests]
    assert seen == ["Bearer first"] * 2 + ["Bearer second"] * 5


async def test_the_session_for_kopf_has_the_credentials_too(server: FakeServer) -> None:
    server.answers = [ok]
    async with server.connected(user={"token": "t"}) as client:
        async with client.new_session(4) as session, session.get(client.base_url + "/x") as answer:
            assert answer.status == 200
        assert await client.get(names.CONFIG_MAPS, "a", "ns") == OK
    assert server.requests[0].headers["Authorization"] == "Bearer t"
    assert server.requests[0].headers["User-Agent"] == "test/1"


async def test_impersonation_and_parameters_reach_the_server(server: FakeServer) -> None:
    server.answers = [ok]
    as_whom = calls.Impersonation("ann", ("manifestry:viewer", "manifestry:publisher"))
    async with server.connected() as client:
        await client.create(names.CONFIG_MAPS, BODY, dry_run=True, impersonate=as_whom)
    (request,) = server.requests
    assert request.headers["Impersonate-User"] == "ann"
    assert request.headers.getall("Impersonate-Group") == ["manifestry:viewer", "manifestry:publisher"]
    assert dict(request.query) == {"fieldManager": "test", "dryRun": "All"}
    assert "Accept-Encoding" not in request.headers


@pytest.mark.parametrize("whom", [("", ("g",)), ("u", ()), ("u", ("g", ""))])
def test_nobody_is_impersonated_by_half(whom: tuple[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        calls.Impersonation(*whom)


async def test_a_header_cannot_be_injected(server: FakeServer) -> None:
    server.answers = [ok]
    evil = calls.Impersonation("ann\r\nImpersonate-Group: system:masters", ("g",))
    async with server.connected() as client:
        with pytest.raises(ValueError, match=r"(?i)newline|carriage|control|header"):
            await client.create(names.CONFIG_MAPS, BODY, impersonate=evil)
    assert server.requests == []


async def test_an_expired_page_token_lists_again_in_fewer_pieces(server: FakeServer) -> None:
    page = {"items": [{"metadata": {"name": "a"}}], "metadata": {"resourceVersion": "5", "continue": "t"}}
    whole = {
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}],
        "metadata": {"resourceVersion": "9"},
    }
    server.answers = [
        lambda _: web.json_response(page),
        lambda _: status(410, "Expired"),
        lambda _: web.json_response(whole),
    ]
    async with server.connected() as client:
        items, version = await client.list(names.CONFIG_MAPS)
    assert ([item["metadata"]["name"] for item in items], version) == (["a", "b"], "9")
    assert [request.query["limit"] for request in server.requests] == ["500", "500", "2000"]


def paged(sizes: list[int]) -> Callable[[web.Request], web.Response]:
    """Serve objects of these sizes in bytes, page by page."""

    def answer(request: web.Request) -> web.Response:
        begin = int(request.query.get("continue", "0"))
        end = min(begin + int(request.query["limit"]), len(sizes))
        items = [
            {"metadata": {"name": f"n{index}"}, "data": "x" * sizes[index]} for index in range(begin, end)
        ]
        more = {"continue": str(end)} if end < len(sizes) else {}
        return web.json_response({"items": items, "metadata": {"resourceVersion": "5", **more}})

    return answer


async def test_a_page_that_is_too_large_is_read_in_smaller_ones(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 4000)
    server.answers = [paged([3000] * 20)]
    async with server.connected() as client:
        items, _ = await client.list(names.CONFIG_MAPS)
        assert [item["metadata"]["name"] for item in items] == [f"n{index}" for index in range(20)]
        assert len(server.requests) == 20 + 3, "500, 62, 7, then one by one"
        pages = [page async for page in client.pages(names.CONFIG_MAPS, label_selector="a=b")]
        assert len(pages) == 20
        assert server.requests[-1].query["labelSelector"] == "a=b"
        server.answers = [paged([5000])]
        with pytest.raises(kube_transport.OversizeError, match="over 4000 bytes"):
            await client.list(names.CONFIG_MAPS)


async def test_an_attempt_after_the_deadline_has_a_limit_all_the_same(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: web.Request) -> web.Response:
        await real_sleep(1.5)
        return web.json_response(OK)

    async def oversleep(_: float) -> None:
        await real_sleep(0.4)

    real_sleep = asyncio.sleep
    server.answers = [lambda _: status(503), late]
    async with server.connected(request_timeout_seconds=0.3) as client:
        monkeypatch.setattr("asyncio.sleep", oversleep)
        async with asyncio.timeout(1):
            with pytest.raises(apierrors.UnavailableError):
                await client.get(names.CONFIG_MAPS, "a", "ns")


async def test_a_call_inside_of_a_span_carries_its_trace(server: FakeServer) -> None:
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    server.answers = [ok]
    async with server.connected() as client:
        with trace.use_span(trace.NonRecordingSpan(context)):
            await client.get(names.CONFIG_MAPS, "a", "ns")
        await client.get(names.CONFIG_MAPS, "a", "ns")
    assert [request.headers.get("traceparent") for request in server.requests] == [
        f"00-{1:032x}-{2:016x}-01",
        None,
    ]


async def test_log_followers_leave_room_for_watches(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STREAM_POOL_SIZE", 1)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 1.0)
    event = b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}\n'

    async def follow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(event if "watch" in request.query else b"line\n")
        await asyncio.sleep(0.5)
        return answer

    server.answers = [follow]
    async with server.connected() as client, client.stream_log("p", "ns", follow=True):
        events = client.watch(names.CONFIG_MAPS, resource_version="1")
        assert (await anext(events)).type == "BOOKMARK"
        await events.aclose()


async def test_a_log_streams_and_ends_with_an_error_when_it_breaks(server: FakeServer) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = 100
        await answer.prepare(request)
        await answer.write(b"line\n")
        assert request.transport is not None
        request.transport.close()
        return answer

    server.answers = [lambda _: web.Response(body=b"one\ntwo\n")]
    async with server.connected() as client:
        async with client.stream_log("p", "ns", container="c", follow=True, tail_lines=5) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"one\ntwo\n"
        assert dict(server.requests[0].query) == {"container": "c", "follow": "true", "tailLines": "5"}
        server.answers = [broken]
        with pytest.raises(apierrors.UnavailableError):
            await read_log(client)


async def test_a_callers_own_error_stays_its_own(server: FakeServer) -> None:
    server.answers = [lambda _: web.Response(body=b"one")]
    async with server.connected() as client:
        with pytest.raises(ConnectionResetError, match="the reader left"):
            async with client.stream_log("p", "ns"):
                raise ConnectionResetError("the reader left")


async def test_a_silent_watch_ends_with_an_error(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WATCH_INACTIVITY_SECONDS", 0.2)

    async def silent(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(5)
        return answer

    server.answers = [silent]
    async with server.connected() as client:
        with pytest.raises(apierrors.UnavailableError):
            async for _ in client.watch(names.CONFIG_MAPS, resource_version="1"):
                pass


async def test_a_warning_of_the_server_is_logged_once(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    warning = '299 - "unknown field \\"spec.x\\""'
    server.answers = [lambda _: web.json_response(OK, headers={"Warning": warning})]
    async with server.connected() as client:
        for _ in range(3):
            await client.get(names.CONFIG_MAPS, "a", "ns")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "API server warning"
    ]


@pytest.mark.parametrize("content", ["", "{", "not: a kubeconfig", "[]"])
async def test_a_broken_kubeconfig_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(kubeconfigs.CredentialsError, match="kubeconfig"):
        await cluster.KubeClient.connect(kubeconfig=str(path), user_agent="test/1")


async def test_outside_of_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(kubeconfigs.CredentialsError, match="service account"):
        await cluster.KubeClient.connect(user_agent="test/1")


async def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:1")
    client = await cluster.KubeClient.connect(
        kubeconfig=str(path), user_agent="test/1", request_timeout_seconds=0.5
    )
    with pytest.raises(apierrors.UnavailableError) as refused:
        await client.create(names.CONFIG_MAPS, BODY)
    assert refused.value.status == 503
    await client.close()
