"""What signed URLs say about their time, in the forms of the three clouds."""

from datetime import UTC, datetime

import pytest

from manifestry.core.blobs import signedurls

START = datetime(2026, 11, 23, 14, 13, 51, tzinfo=UTC)
END = datetime(2026, 11, 23, 14, 14, 51, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261123T141351Z&X-Amz-Expires=60&X-Amz-Signature=0",
        "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Date=20261123T141351Z&X-Goog-Expires=60",
        "sv=2023-11-03&sp=d&se=2026-11-23T14%3A14%3A51Z&sr=b&st=2026-11-23T14%3A13%3A51Z&sig=0",
    ],
)
def test_the_span_of_a_signature_is_read_from_its_url(query: str) -> None:
    assert signedurls.span(f"https://bucket.example.com/gc/a%2Fb?{query}") == (START, END)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "X-Amz-Date=20261123T141351Z",
        "X-Amz-Expires=60",
        "X-Amz-Date=yesterday&X-Amz-Expires=60",
        "X-Amz-Date=20261123T141351Z&X-Amz-Expires=x",
        "X-Amz-Date=20261123T141351Z&X-Amz-Expires=99999999999999",
        "se=2026-11-23T14%3A14%3A51Z",
        "st=2026-11-23T14%3A13%3A51&se=2026-11-23T14%3A14%3A51Z",
        "st=1&se=2",
    ],
)
def test_a_url_that_says_no_time_has_none(query: str) -> None:
    assert signedurls.span(f"https://bucket.example.com/gc/a?{query}") is None
