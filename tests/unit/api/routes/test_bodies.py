"""JSON bodies are bounded in size, width, depth and time."""

import asyncio
import json
import time
from typing import Any

import pytest
from starlette.requests import Request

from manifestry.core import errors
from manifestry_api.objects import schemas
from manifestry_api.request import bodies
from tests.unit.api.routes.site import Site


def wide(count: int) -> dict[str, int]:
    return {f"k{number}": number for number in range(count)}


@pytest.mark.parametrize(
    ("model", "content"),
    [
        (schemas.JobCreate, {"jobType": "render", **wide(60_000)}),
        (schemas.ArtifactCreate, {"mediaType": "a/b", "files": [wide(1000)] * 64}),
    ],
)
def test_a_body_of_unknown_fields_is_refused_without_reading_them_all(model: Any, content: Any) -> None:
    began = time.process_time()
    with pytest.raises(errors.Problem) as caught:
        bodies.validate(content, model)
    assert caught.value.kind is errors.VALIDATION_FAILED
    assert len(caught.value.errors) <= bodies.ERRORS_MAX_COUNT
    assert "fields" in caught.value.detail
    assert time.process_time() - began < 1  # 0.3 s are only so much more than 0.03 s on an idle machine


def test_some_unknown_fields_are_named() -> None:
    with pytest.raises(errors.Problem) as caught:
        bodies.validate({"jobType": "render", **wide(30)}, schemas.JobCreate)
    assert len(caught.value.errors) == bodies.ERRORS_MAX_COUNT
    assert caught.value.errors[0].pointer == "/k0"
    assert "(and 29 more)" in caught.value.detail


async def test_a_body_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)

    async def trickle() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, trickle)
    with pytest.raises(errors.Problem) as caught:
        await bodies.parse(request, 1000)
    assert caught.value.kind is errors.BAD_REQUEST


@pytest.mark.parametrize("depth", [64, 65])
async def test_depth_is_bounded(depth: int) -> None:
    text = ("[" * depth + "]" * depth).encode()
    if depth <= bodies.DEPTH_MAX:
        assert bodies.loads(text)
        return
    with pytest.raises(errors.Problem):
        bodies.loads(text)


async def test_the_bounds_hold_on_the_wire(site: Site) -> None:
    answer = await site.call("POST", "/jobs", {"jobType": "render", **wide(60_000)})
    assert (answer.status, answer.json["code"]) == (422, "validation-failed")
    assert len(json.dumps(answer.json)) < 4096
    assert site.cluster.writes == []
