"""Requests that HTTP itself wants refused: typed, traced and audited like any other, over real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from manifestry_api.wire import heads, protocols
from tests.unit.api import world
from tests.unit.api.routes.site import Site

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GOOD = "".join(f"{name}: {value}\r\n" for name, value in world.headers("admin").items())
PIECE = (
    f"PUT /artifacts/a/content HTTP/1.1\r\nhost: a\r\n{GOOD}content-type: text/plain\r\n"
    "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
)


@contextlib.asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Streams]:
    url = urlsplit(site.base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Read one answer with a Content-Length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(first.split(" ")[1]), headers, json.loads(body) if body else None


async def exchange(site: Site, text: str) -> tuple[int, dict[str, str], Any]:
    async with connected(site) as (reader, writer), asyncio.timeout(10):
        writer.write(text.encode("latin-1"))
        found = await answer(reader)
        assert await reader.read() == b""
        return found


POST = "POST /jobs HTTP/1.1\r\nhost: a\r\n"
BAD = {
    "no HTTP": "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": "BREW / HTTP/1.1\r\nhost: a\r\n\r\n",
    "a method without a path": "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
    "no host": f"GET /artifacts HTTP/1.1\r\n{GOOD}\r\n",
    "two hosts": f"GET /artifacts HTTP/1.1\r\nhost: a\r\nhost: a\r\n{GOOD}\r\n",
    "a host with a path": f"GET /artifacts HTTP/1.1\r\nhost: a/b\r\n{GOOD}\r\n",
    "two framings": f"{POST}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": f"{POST}content-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
    "a coding that we do not undo": f"{POST}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": "POST /jobs HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded field": "GET /jobs HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n",
    "a NUL": "GET /jobs HTTP/1.1\r\nhost: a\r\nx-a: b\x00\r\n\r\n",
    "a space before the colon": "GET /jobs HTTP/1.1\r\nhost : a\r\n\r\n",
    "bare line feeds": "GET /jobs HTTP/1.1\nhost: a\n\n",
    "a path that is not ASCII": "GET /\xe9 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a long URL": f"GET /{'a' * heads.URL_MAX_BYTES} HTTP/1.1\r\nhost: a\r\n\r\n",
    "a very long URL": f"GET /{'a' * 66_000} HTTP/1.1\r\nhost: a\r\n\r\n",
    "a long field": f"GET /jobs HTTP/1.1\r\nhost: a\r\nx-a: {'a' * heads.HEAD_MAX_BYTES}\r\n\r\n",
    "many fields": "GET /jobs HTTP/1.1\r\nhost: a\r\n" + "a:\r\n" * 14_000 + "\r\n",
}

TOO_LONG = {
    "a long URL": (414, "uri-too-long"),
    "a very long URL": (414, "uri-too-long"),
    "a long field": (431, "head-too-large"),
    "many fields": (431, "head-too-large"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_request_is_a_problem_that_is_traced_and_audited(site: Site, case: str) -> None:
    status, headers, problem = await exchange(site, BAD[case])
    expected = TOO_LONG.get(case, (400, "bad-request"))
    assert (status, problem["code"]) == expected
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["audit-id"] == problem["auditId"]
    assert headers["traceparent"].split("-")[1] == problem["traceId"]
    (record,) = site.world.records.all
    assert record["auditID"] == problem["auditId"]
    assert record["responseStatus"]["code"] == status
    assert record["user"]["username"] == "system:anonymous"


async def test_a_refusal_does_not_cut_into_the_answer_before_it(site: Site) -> None:
    async with connected(site) as (reader, writer), asyncio.timeout(10):
        writer.write(
            f"GET /artifacts HTTP/1.1\r\nhost: a\r\n{GOOD}\r\n\x16\x03\x01\r\n\r\n".encode("latin-1")
        )
        assert (await answer(reader))[2] == {"items": []}
        assert (await answer(reader))[0] == 400
        assert await reader.read() == b""


async def test_a_body_that_breaks_its_framing_is_a_problem_and_stores_nothing(site: Site) -> None:
    await site.call("POST", "/artifacts", {"name": "a", "mediaType": "text/plain", "upload": {}})
    async with connected(site) as (reader, writer), asyncio.timeout(10):
        writer.write(PIECE.encode())
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\nhello\r\n")
        status, headers, problem = await answer(reader)
        assert await reader.read() == b""
    assert (status, problem["detail"]) == (400, "the body must be framed as HTTP/1.1 has it")
    assert headers["audit-id"] == problem["auditId"] == site.world.records.all[-1]["auditID"]
    assert (await site.call("GET", "/artifacts/a")).json["status"] == "awaiting-upload"


async def test_a_client_that_goes_on_with_a_refused_body_is_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "UNREAD_SECONDS", 0.2)
    async with connected(site) as (reader, writer), asyncio.timeout(10):
        writer.write(b"PUT /artifacts/a/content HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n")
        assert (await answer(reader))[0] == 401
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await asyncio.sleep(0.02)
                await asyncio.wait_for(asyncio.shield(writer.drain()), 1)


async def test_a_refused_body_that_ends_leaves_the_connection_open(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "UNREAD_SECONDS", 0.2)
    async with connected(site) as (reader, writer), asyncio.timeout(10):
        writer.write(b"PUT /artifacts/a/content HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n")
        assert (await answer(reader))[0] == 401
        writer.write(b"body")
        await asyncio.sleep(0.4)
        writer.write(f"GET /artifacts HTTP/1.1\r\nhost: a\r\n{GOOD}\r\n".encode())
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_requests_as_they_should_be_are_served(site: Site, version: str) -> None:
    host = "" if version == "1.0" else "host: [::1]:8080\r\n"
    request = f"GET /artifacts HTTP/{version}\r\n{host}{GOOD}connection: close\r\n\r\n"
    status, headers, _ = await exchange(site, request)
    assert (status, headers["content-type"]) == (200, "application/json")


async def test_another_protocol_is_not_offered_and_not_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = "connection: upgrade, close\r\nupgrade: websocket\r\n"
    assert (await exchange(site, f"GET /artifacts HTTP/1.1\r\nhost: a\r\n{GOOD}{upgrade}\r\n"))[0] == 200
    assert not caplog.records
