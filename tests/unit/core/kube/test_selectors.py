"""Label selectors: the API server's grammar and meaning; tests/cluster compares the two doors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core import errors
from manifestry.core.kube import selectors

BLUE = {"colour": "blue", "size": "3", "example.org/tier": "web", "empty": ""}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        (" \t", True),
        ("colour", True),
        ("nothing", False),
        ("!nothing", True),
        ("! colour", False),
        ("colour=blue", True),
        ("colour==blue", True),
        ("colour = blue", True),
        ("colour=red", False),
        ("colour!=red", True),
        ("colour!=blue", False),
        ("nothing!=blue", True),
        ("nothing=blue", False),
        ("nothing=", False),
        ("empty=", True),
        ("empty!=", False),
        ("empty", True),
        ("colour in (red,blue)", True),
        ("colour in(red)", False),
        ("colour in ( red , blue )", True),
        ("colour notin (red,green)", True),
        ("colour notin (red,blue)", False),
        ("nothing notin (red)", True),
        ("nothing in (red)", False),
        ("empty in ()", True),
        ("empty in (,a)", True),
        ("empty in (a,)", True),
        ("empty in (a,,b)", True),
        ("empty in (a,b)", False),
        ("colour notin ()", True),
        ("example.org/tier=web", True),
        ("example.org/tier in (web),colour=blue,!nothing", True),
        ("example.org/tier in (web),colour=red", False),
        ("size>2", True),
        ("size>3", False),
        ("size<4", True),
        ("size<3", False),
        ("colour>1", False),
        ("nothing>1", False),
        ("in in (x)", False),
        ("notin", False),
        ("!in", True),
        ("colour!=in", True),
        ("colour=blue,colour=red", False),
    ],
)
def test_what_a_selector_means(text: str, holds: bool) -> None:
    assert selectors.matches(selectors.parse(text), BLUE) is holds


def test_an_object_without_labels_is_met_by_negations_only() -> None:
    absent: tuple[dict[str, str] | None, ...] = (None, {})
    for labels in absent:
        assert selectors.matches(selectors.parse("!a,b!=c,d notin (e)"), labels)
        assert not selectors.matches(selectors.parse("a"), labels)


@pytest.mark.parametrize(
    "text",
    [
        ",", "a,", ",a", "a,,b", "=a", "==", "!", "!!a", "!a=b", "a b", "a=b c", "a===b", "a=!b", "a!",
        "a in", "a in b", "a in (b", "a in b)", "a in (b c)", "a in ((b))", "a in (", "a notin",
        "a,in (b)", "(a)", "a()",
        "a=b=c", "a>b", "a>", "a>-5", f"a>{'9' * 20}", "a=-", "a=.b", "a=b/c", f"a={'x' * 64}", "-a", "a/",
        "/a", "a/b/c", "A.b_/c", f"{'x' * 64}", f"{'a.' * 127}b/c", "a=\u00e9", "\u00e9", "a\x00b", "a=b\x00",
        "a in (b\u00a0c)", "a=%41", "a=*", "a='b'",
    ],
)  # fmt: skip
def test_what_is_no_selector_is_a_bad_request(text: str) -> None:
    with pytest.raises(errors.Problem) as caught:
        selectors.parse(text)
    assert caught.value.kind is errors.BAD_REQUEST
    assert caught.value.errors[0].pointer == "query:labelSelector"
    assert text not in caught.value.detail or len(text) < 3


@given(st.text(max_size=40) | st.text("ab=!,() ><in", max_size=20))
def test_any_text_is_a_selector_or_a_bad_request(text: str) -> None:
    try:
        found = selectors.parse(text)
    except errors.Problem as problem:
        kind = problem.kind
    else:
        kind = errors.BAD_REQUEST if selectors.matches(found, BLUE) in {True, False} else errors.INTERNAL
    assert kind is errors.BAD_REQUEST


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a", True), ("A_b.c-d", True), ("example.org/a", True), ("", False), ("a/", False), ("/a", False),
        ("x" * 63, True), ("x" * 64, False), (f"{'a' * 253}/b", True), (f"{'a' * 254}/b", False),
        ("a..b/c", False), ("a\n", False),
    ],
)  # fmt: skip
def test_keys(text: str, holds: bool) -> None:
    assert selectors.is_key(text) is holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [("", True), ("a", True), ("a.b", True), ("a\n", False), ("-", False), ("x" * 64, False)],
)
def test_values(text: str, holds: bool) -> None:
    assert selectors.is_value(text) is holds
