"""Structured logs: constant messages, key-values, no secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from manifestry.adapters.telemetry import logs

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    made = io.StringIO()
    logs.configure("debug", made)
    yield made
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_key_values(stream: io.StringIO) -> None:
    logging.getLogger("x").info("it happened", extra={"job": "a\nb", "count": 3, "who": {"a": [1]}})
    (line,) = lines(stream)
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "x",
        "message": "it happened",
        "job": "a\nb",
        "count": 3,
        "who": {"a": [1]},
    }


def test_an_exception_is_part_of_the_line(stream: io.StringIO) -> None:
    try:
        int(f"token {JWT}")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    (line,) = lines(stream)
    assert "ValueError" in str(line["exception"])
    assert JWT not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {JWT}",
        f"got {JWT} here",
        "Basic dXNlcjpodW50ZXIyaHVudGVyMg==",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMHcCAQ",
        "https://user:hunter2@example.com/x",
        "https://s3/b/k?X-Amz-Signature=hunter2&a=1",
        "https://blob/k?sv=1&sig=hunter2%3D",
    ],
)
def test_secrets_in_texts_are_redacted(text: str) -> None:
    cleaned = logs.redact(text)
    assert logs.REDACTED in cleaned
    for secret in ("hunter2", JWT, "dXNlcjpo", "MHcCAQ"):
        assert secret not in cleaned


@pytest.mark.parametrize(
    "text", ["https://example.com:8443/a?b=c", "the bearer of news", "sha256:" + "a" * 64, "ns/name@1"]
)
def test_harmless_texts_stay(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize(
    "key",
    ["Authorization", "password", "access_token", "client-secret", "Set-Cookie", "api_key", "tls.private"],
)
def test_values_under_a_secrets_name_are_redacted_wherever_they_are(key: str) -> None:
    assert logs.redact_value("headers", {"deep": [{key: "hunter2"}]}) == {"deep": [{key: logs.REDACTED}]}


def test_long_values_are_cut_and_odd_ones_are_shown(stream: io.StringIO) -> None:
    logging.getLogger("x").info("long", extra={"text": "x" * 100_000, "odd": object(), "set": {1}})
    (line,) = lines(stream)
    assert len(str(line["text"])) == logs.MAX_VALUE_LENGTH
    assert "object" in str(line["odd"])
    assert line["set"] == [1]


def test_noisy_libraries_are_quiet(stream: io.StringIO) -> None:
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    logging.getLogger("asyncio").debug("Using selector")
    assert lines(stream) == []
