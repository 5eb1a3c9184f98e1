"""From when and until when a store honours a signed URL: read from the URL itself, no clock of ours is asked.

References: SigV4 query parameters (S3), V4 signed URLs (Cloud Storage), service and user delegation SAS
(Azure).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs, urlsplit

_DATE_AND_SECONDS: Final = (("X-Amz-Date", "X-Amz-Expires"), ("X-Goog-Date", "X-Goog-Expires"))
_START, _END = "st", "se"


def span(url: str) -> tuple[datetime, datetime] | None:
    """Return the first and the last moment by the store's clock, None when they are not both said."""
    query = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        return _of_seconds(query) or _of_ends(query)
    except (ValueError, OverflowError):
        return None


def _of_seconds(query: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    for date, seconds in _DATE_AND_SECONDS:
        if date in query and seconds in query:
            start = datetime.strptime(query[date], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return start, start + timedelta(seconds=int(query[seconds]))
    return None


def _of_ends(query: Mapping[str, str]) -> tuple[datetime, datetime] | None:
    if _START not in query or _END not in query:
        return None
    start, end = (datetime.fromisoformat(query[name]) for name in (_START, _END))
    return (start, end) if start.tzinfo and end.tzinfo else None
