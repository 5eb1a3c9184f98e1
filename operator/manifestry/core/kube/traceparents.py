"""The W3C trace context of a request: read it when it is well formed, else begin a new trace.

References: https://www.w3.org/TR/trace-context/ section 3.2 (traceparent) and 4.2 (unknown versions).
"""

import re
from dataclasses import dataclass

_FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_VERSION_ZERO_LENGTH = 55
SAMPLED = 0x01


@dataclass(frozen=True)
class TraceParent:
    """One span's place in a trace.

    Args:
        trace_id: 32 lower-case hex digits, not all zero.
        span_id: 16 lower-case hex digits, not all zero.
        flags: bit field; bit 0 says the caller may have recorded the trace.
    """

    trace_id: str
    span_id: str
    flags: int = SAMPLED

    def __str__(self) -> str:
        """Return the header's value in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & SAMPLED:02x}"


def parse(text: str) -> TraceParent | None:
    """Return the caller's span, or None when the header must be ignored."""
    match = _FORMAT.fullmatch(text.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, _rest = match.groups()
    if version == "ff" or (version == "00" and len(text.strip()) != _VERSION_ZERO_LENGTH):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & SAMPLED)


def from_ids(trace_id: int, span_id: int, flags: int) -> TraceParent:
    """Return the place of a span whose ids are numbers, as OpenTelemetry keeps them."""
    return TraceParent(f"{trace_id:032x}", f"{span_id:016x}", flags & SAMPLED)
