"""Where audit records go: a sink port, and the sink that writes lines to standard output."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from manifestry.core.access import audit


class AuditSink(Protocol):
    """Keeps audit records; the hash-chained sink in the object store has the same shape."""

    async def write(self, record: Mapping[str, Any]) -> None:
        """Keep one record; it is durable, as far as this sink goes, when the call returns."""


class LineSink:
    """Writes each record as one JSON line, flushed, to a text stream (standard output)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    async def write(self, record: Mapping[str, Any]) -> None:
        """Write the line in one call, so that lines of several writers do not mix."""
        stream = self._stream or sys.stdout
        stream.write(audit.line(record) + "\n")
        stream.flush()
