"""Pure parts of the routes, and the OpenAPI document they make."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from manifestry_api.jobs import submissions
from manifestry_api.objects import schemas, waiting
from manifestry_api.request import bodies, fields
from manifestry_api.wire import streams
from tests.unit.api import world


@pytest.mark.parametrize(
    ("header", "seconds", "applied"),
    [
        ([], 5.0, ""),
        (["wait=10"], 10.0, "wait=10"),
        (["Wait = 10"], 10.0, "wait=10"),
        (['wait="7"'], 7.0, "wait=7"),
        (["wait=100"], 60.0, "wait=60"),
        (["wait=99999999999999999999"], 60.0, "wait=60"),
        (["respond-async"], 0.0, "respond-async"),
        (["respond-async, wait=3"], 3.0, "wait=3"),
        (["respond-async", "wait=3;x=y"], 3.0, "wait=3"),
        (["wait=3, wait=9"], 3.0, "wait=3"),
        (["wait=-1"], 5.0, ""),
        (["wait=x, return=minimal"], 5.0, ""),
        (["wait=\u0663"], 5.0, ""),
    ],
)
def test_preferences(header: list[str], seconds: float, applied: str) -> None:
    found = waiting.preference(header, 5.0)
    assert (found.wait_seconds, found.applied) == (seconds, applied)
    assert found.headers == ({"Preference-Applied": applied} if applied else {})


def test_pointers_are_escaped() -> None:
    assert bodies.pointer(["a/b", 0, "c~d"]) == "/a~1b/0/c~0d"


def test_only_a_plain_media_type_reaches_a_header() -> None:
    assert fields.safe_media_type("text/plain") == "text/plain"
    assert fields.safe_media_type("text/plain\r\nX-Evil: 1") == "application/octet-stream"
    assert fields.essence(" Text/Plain ; charset=utf-8") == "text/plain"


def test_a_key_may_be_quoted() -> None:
    assert submissions.parse_key(['"abc"']) == submissions.parse_key(["abc"]) == "abc"
    assert submissions.parse_key([]) is None


@pytest.mark.parametrize("model", [schemas.ArtifactCreate, schemas.JobCreate])
def test_request_bodies_have_no_references(model: Any) -> None:
    assert "$ref" not in str(fields.inline_schema(model))


def test_the_document_is_valid_and_complete() -> None:
    document = world.build().app.openapi()
    OpenAPIV31SpecValidator(document).validate()
    paths = document["paths"]
    for path, methods in {
        "/artifacts": {"get", "post"},
        "/artifacts/{name}": {"get", "delete"},
        "/artifacts/{name}/content": {"get", "head", "put"},
        "/artifacts/{name}/manifest": {"get"},
        "/jobs": {"get", "post"},
        "/jobs/{name}": {"get", "delete"},
        "/jobs/{name}/cancel": {"post"},
        "/jobs/{name}/suspend": {"post"},
        "/jobs/{name}/resume": {"post"},
        "/jobs/{name}/logs": {"get"},
        "/quotas": {"get"},
        "/quotas/{job_type}": {"get"},
        "/quotas/{job_type}/queue": {"get"},
        "/job-types": {"get"},
        "/job-types/{name}": {"get"},
    }.items():
        assert methods <= set(paths[path]), path
    for operations in paths.values():
        for operation in operations.values():
            assert operation["summary"]
    assert "requestBody" in paths["/artifacts"]["post"]
    assert "text/plain" in paths["/jobs/{name}/logs"]["get"]["responses"]["200"]["content"]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("count", "expected"), [(0, b"abcdef"), (2, b"cdef"), (3, b"def"), (6, b""), (9, b"")]
)
async def test_the_beginning_of_a_stream_is_skipped(count: int, expected: bytes) -> None:
    assert (
        b"".join([chunk async for chunk in streams.skipped(pieces(b"ab", b"", b"cd", b"ef"), count)])
        == expected
    )


async def test_priming_changes_nothing() -> None:
    assert b"".join([bytes(chunk) async for chunk in await streams.primed(pieces(b"ab", b"c"))]) == b"abc"
    assert b"".join([bytes(chunk) async for chunk in await streams.primed(pieces())]) == b""


async def test_a_source_that_fails_at_once_fails_before_the_answer() -> None:
    async def broken() -> AsyncIterator[bytes]:
        raise OSError("gone")
        yield b""

    with pytest.raises(OSError, match="gone"):
        await streams.primed(broken())


async def test_a_client_that_leaves_closes_the_source() -> None:
    closed, left = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                left.set()
                await asyncio.sleep(3600)
        finally:
            closed.set()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message["type"].startswith("http.response")

    calls = []

    async def close() -> None:
        calls.append(1)

    await streams.StreamedResponse(endless(), close=close)({"type": "http"}, receive, send)
    assert closed.is_set()
    assert calls == [1]
