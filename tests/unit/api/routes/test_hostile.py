"""Hostile text in everything a client controls, on every route: typed answers, and nothing of others'.

Requests are written byte by byte, because a client library would tidy them up.
"""

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.kube import names
from manifestry_api import openapi
from tests.unit.api import world
from tests.unit.api.routes.site import NAMESPACE, Site, condition

CANARY = "canary-of-another-tenant"
INJECTED = "x-injected"
HEADERS = frozenset(
    {
        "accept", "accept-patch", "accept-ranges", "allow", "audit-id", "cache-control", "connection",
        "content-disposition", "content-length", "content-location", "content-range",
        "content-security-policy", "content-type", "date", "etag", "location", "preference-applied",
        "repr-digest", "content-digest", "retry-after", "server", "traceparent", "transfer-encoding", "vary",
        "www-authenticate", "x-actor", "x-content-type-options", "x-reason", "x-roles", "x-tenant",
        "idempotency-replayed", "upload-offset", "upload-length", "upload-complete", "upload-limit",
        "upload-draft-interop-version",
    }
)  # fmt: skip
CODES = frozenset(kind.code for kind in errors.TABLE) - {"internal"}
ROUTES = sorted(openapi.guarded_actions(world.build().app))
PARAMETER = re.compile(r"\{[^}]*\}")

PIECES = st.sampled_from(
    [
        "..", "../", "/", "//", ".", "%2e%2e", "%2E%2E%2F", "%2f", "%252e%252e%252f", "%25", "..%5c", "\\",
        "%5C", "%00", "%0d%0aX-Injected:%201", "%0aX-Injected: 1", "%0D", "%E5%98%8AX-Injected:1",
        "%c0%ae%c0%ae/", "%ff", "%", "%zz", "%u002e", ";", ";x=y", "?", "&", "#", "a", "A", "-", "~", "*",
        "$(id)", "'", "%22", "<script>", "%E2%80%AE", "%F0%9F%98%80", "%CC%81", "a" * 300, "sha256:",
        "sha256:" + "0" * 64, "mine", "theirs", "ns-other", "uploads", "blobs", "null", "-1", "1e9",
        "..%2F..%2Fns-other%2Fartifacts%2Ftheirs", "\xff", "\xe9",
    ]
)  # fmt: skip
ENCODED = st.text(max_size=30).map(
    lambda text: quote(text.encode("utf-8", "surrogatepass").decode("latin-1"), safe="")
)
SEGMENT = st.one_of(PIECES, st.lists(PIECES, min_size=1, max_size=4).map("".join), ENCODED)
# What a header's value may hold at all: RFC 9110 field-content, any byte over 0x7f.
FIELD_CONTENT = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
VALUE = st.one_of(SEGMENT, st.text(FIELD_CONTENT, max_size=40))
SENT = st.sampled_from(
    [
        "If-Match", "If-None-Match", "If-Range", "Range", "Prefer", "Content-Type", "Content-Digest",
        "Repr-Digest", "Idempotency-Key", "X-Reason", "X-Actor", "X-Tenant", "X-Roles", "traceparent",
        "Accept", "Last-Event-ID", "Upload-Offset", "Upload-Length", "Upload-Complete", "X-Forwarded-For",
        "Authorization", "Content-Encoding", "Content-Range", "tracestate", "User-Agent", "Host",
    ]
)  # fmt: skip
TEXT = st.one_of(
    st.text(max_size=40),
    st.text("\r\n\t\x00 /\\.:%\u202e\u0301\ud800\ufeffX-Injected: 1", max_size=30),
    st.sampled_from(
        ["../../ns-other/theirs", "a\r\nX-Injected: 1", 'x"; filename=evil', "..", "\x00", "x" * 5000]
    ),
)
# Few examples each, for there are many routes, and a profile for CI would make it a quarter of an hour.
QUIET = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass
class Raw:
    """An answer as it stood on the wire."""

    status: int
    headers: list[tuple[str, str]]
    data: bytes


async def send(
    site: Site, method: str, target: str, headers: list[tuple[str, str]] | None = None, body: bytes = b""
) -> Raw | None:
    """Write one request as it is and read the whole answer; None when the server only closes."""
    sent = {"host": "facade", **world.headers("admin"), "prefer": "respond-async", "connection": "close"}
    for name, value in headers or ():
        sent[name.lower()] = value
    if body:
        sent["content-length"] = str(len(body))
        sent.setdefault("content-type", "application/json")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    url = urlsplit(site.base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        data = await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return None
    finally:
        writer.close()
    return parse(data) if data else None


def parse(data: bytes) -> Raw:
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Raw(int(first.split(" ")[1]), headers, rest)


def check(answer: Raw | None) -> None:
    if answer is None:
        return
    assert answer.status not in {500, 501, 502}, answer
    for name, value in answer.headers:
        assert name in HEADERS, (name, value)
        assert not re.search(r"[\r\n\x00]", value)
    assert CANARY.encode() not in answer.data
    if (
        answer.data
        and answer.status >= 400
        and dict(answer.headers).get("content-type") == "application/problem+json"
    ):
        document = re.search(rb"\{.*\}", answer.data, re.DOTALL)
        assert document is not None
        assert json.loads(document[0])["code"] in CODES


@pytest.fixture
async def guarded(site: Site) -> Site:
    """Give a facade with something of ours and something of another tenant's, whose API refuses odd names."""
    for name, namespace, text in (("mine", NAMESPACE, "hello"), ("theirs", "ns-other", CANARY)):
        tenant = site.world.ports.tenants.of_namespace(namespace)
        assert tenant is not None
        assert (await site.world.ports.store.put(tenant.uid, text.encode())).digest == digest_of(text)
        add(site, name, namespace, text)
    fake: Any = site.cluster
    for verb in ("get", "merge_patch", "delete"):
        setattr(fake, verb, strict(getattr(fake, verb)))
    mirror = site.world.ports.caches.jobs
    assert await mirror.wait_for(("ns-other", "theirs"), lambda _: True, 5)
    assert (await site.call("GET", "/artifacts/mine/content")).data == b"hello"
    return site


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def add(site: Site, name: str, namespace: str, text: str) -> None:
    """Put a ready artifact and a job, unless they are there."""
    pointer = {"digest": digest_of(text), "sizeBytes": len(text)}
    status = {"artifact": pointer, "manifest": pointer, "conditions": [condition("Ready", "True", "Stored")]}
    wanted: dict[names.Resource, Any] = {
        names.ARTIFACTS: {
            "spec": {"mediaType": "text/plain", "inline": {"text": text}, "annotations": {"a": text}},
            "status": status,
        },
        names.JOBS: {"spec": {"jobType": "render", "parameters": [{"name": "title", "value": text}]}},
    }
    for resource, parts in wanted.items():
        if site.cluster.find(resource, name, namespace) is None:
            annotations = {names.ACTOR_ANNOTATION: text}
            metadata = {"name": name, "namespace": namespace, "annotations": annotations}
            site.cluster.put(resource, {"metadata": metadata, **parts})


def strict(call: Any) -> Any:
    async def checked(resource: names.Resource, name: str, *args: Any, **options: Any) -> Any:
        assert names.is_dns_label(name), f"{resource.plural}/{name!r} reached the API"
        return await call(resource, name, *args, **options)

    return checked


def untouched(site: Site) -> None:
    for resource in (names.ARTIFACTS, names.JOBS):
        found = site.cluster.find(resource, "theirs", "ns-other")
        assert found is not None
        assert "deletionTimestamp" not in found["metadata"]
    add(site, "mine", NAMESPACE, "hello")  # for the next example
    others = [key for kind in site.cluster.objects.values() for key in kind if key[0] not in {"", NAMESPACE}]
    assert others == [("ns-other", "theirs")] * 2


def fill(path: str, parts: list[str]) -> str:
    taken = iter(parts)
    return PARAMETER.sub(lambda _: next(taken), path)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@QUIET
@given(st.lists(SEGMENT, min_size=3, max_size=3), st.lists(st.tuples(SEGMENT, SEGMENT), max_size=3))
@example(["..%2F..%2Fns-other%2Fartifacts%2Ftheirs"] * 3, [("continue", "%00")])
@example(["mine"] * 3, [("labelSelector", "%0d%0aX-Injected:%201"), ("name", "%ff")])
async def test_paths_and_queries(
    guarded: Site, method: str, path: str, parts: list[str], query: list[tuple[str, str]]
) -> None:
    target = fill(path, parts) + ("?" + "&".join(f"{key}={value}" for key, value in query) if query else "")
    check(await send(guarded, method, target.replace(" ", "%20")))
    untouched(guarded)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@QUIET
@given(st.lists(st.tuples(SENT, VALUE), min_size=1, max_size=4))
async def test_headers(guarded: Site, method: str, path: str, headers: list[tuple[str, str]]) -> None:
    body = b"{}" if method in {"POST", "PUT", "PATCH"} else b""
    check(await send(guarded, method, fill(path, ["mine"] * 3), headers, body))
    untouched(guarded)


LEAF = TEXT | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=6
)
ARTIFACT = st.fixed_dictionaries(
    {"mediaType": st.just("text/plain") | TEXT},
    optional={
        **dict.fromkeys(("name", "project", "artifactType", "fileName", "deletionPolicy", "digest"), TEXT),
        **dict.fromkeys(("annotations", "labels"), st.dictionaries(TEXT, TEXT, max_size=2)),
        "inline": st.fixed_dictionaries({}, optional={"text": TEXT, "data": TEXT}),
        "subjectRef": st.fixed_dictionaries({"name": TEXT}),
        "url": st.fixed_dictionaries({"url": TEXT}),
        "bogus": ANY,
    },
)
JOB = st.fixed_dictionaries(
    {"jobType": st.just("render") | TEXT},
    optional={
        "name": TEXT,
        "project": TEXT,
        "parameters": st.dictionaries(st.just("title") | TEXT, ANY, max_size=2),
        "overrides": ANY,
    },
)
NAME = st.characters(exclude_characters="/\\", exclude_categories=["Cc", "Cs"])
MERGE_PATCH = [("Content-Type", "application/merge-patch+json")]


@pytest.mark.parametrize(("method", "path"), [each for each in ROUTES if each[0] in {"POST", "PUT", "PATCH"}])
@QUIET
@given(document=ARTIFACT | JOB | ANY)
async def test_bodies(guarded: Site, method: str, path: str, document: Any) -> None:
    body = json.dumps(document).encode()
    for headers in ([], MERGE_PATCH):
        check(await send(guarded, method, fill(path, ["mine"] * 3), headers, body))
    untouched(guarded)


@QUIET
@given(
    st.text(st.characters(exclude_characters="/\\", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=80)
)
@example('a"b;c=d\u202e\u0301\u00a0.txt')
@example("%0d%0aX-Injected: 1")
async def test_whatever_name_a_file_has_its_header_is_one_line(guarded: Site, file_name: str) -> None:
    patch = json.dumps({"fileName": file_name}).encode()
    answer = await send(guarded, "PATCH", "/artifacts/mine", MERGE_PATCH, patch)
    check(answer)
    assert answer is not None
    assert answer.status in {200, 202}, answer
    check(await send(guarded, "GET", "/artifacts/mine"))
    content = await send(guarded, "GET", "/artifacts/mine/content")
    check(content)
    assert content is not None
    assert content.status == 200
    assert dict(content.headers)["content-disposition"].startswith("attachment; filename")
