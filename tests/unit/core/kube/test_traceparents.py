"""W3C trace context."""

import pytest

from manifestry.core.kube import traceparents

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 1),
        (f" 00-{TRACE}-{SPAN}-01 ", 1),
        (f"01-{TRACE}-{SPAN}-01-what-comes-later", 1),
        (f"cc-{TRACE}-{SPAN}-01", 1),
    ],
)
def test_well_formed_headers_are_read(text: str, flags: int) -> None:
    assert traceparents.parse(text) == traceparents.TraceParent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}x-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        "00-" + "a" * 5000,
    ],
)
def test_malformed_headers_are_ignored(text: str) -> None:
    assert traceparents.parse(text) is None


def test_ids_as_numbers_are_padded_and_round_trip() -> None:
    made = traceparents.from_ids(1, 2, 3)
    assert str(made) == f"00-{'0' * 31}1-{'0' * 15}2-01"
    assert traceparents.parse(str(made)) == made
