"""Structured logs: one JSON object a line, a constant message with key-values, no secrets.

A caller says what happened in a constant text and gives everything that varies as `extra`.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

MAX_VALUE_LENGTH = 8192
REDACTED = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_KEY = re.compile(r"(?i)authorization|cookie|credential|passw|private|secret|token|api_?key")
_SECRET_TEXT = re.compile(
    r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
    r"|(?<=[?&])(sig|signature|token|x-amz-signature|x-amz-credential|x-amz-security-token)=[^&\s\"']+",
    re.DOTALL,
)
_QUIET = {"aiohttp.access": logging.WARNING, "asyncio": logging.WARNING, "kopf": logging.WARNING}


class JsonFormatter(logging.Formatter):
    """Renders a record as one line of JSON: time, level, logger, message, then the key-values."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and not key.startswith("_"):
                content[key] = redact_value(key, value)
        if record.exc_info and record.exc_info[0] is not None:
            content["exception"] = redact("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(content, default=_render, ensure_ascii=False)


def redact(text: str) -> str:
    """Return `text` without tokens, keys and passwords, and not longer than MAX_VALUE_LENGTH."""
    return _SECRET_TEXT.sub(REDACTED, text)[:MAX_VALUE_LENGTH]


def redact_value(key: str, value: Any) -> Any:
    """Return a value that may be logged under `key`; nested values are looked at as well."""
    if _SECRET_KEY.search(key) and isinstance(value, str | bytes | Mapping):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(name): redact_value(str(name), each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value("", each) for each in value]
    return value


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send every log of the process to `stream` (stdout), as JSON, from `level` on.

    Args:
        level: debug, info, warning or error.
        stream: where to; tests pass their own.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)


def _render(value: Any) -> str:
    return redact(str(value))
