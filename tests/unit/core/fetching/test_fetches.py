"""Redirects and answers: which end a fetch, which are followed, which are tried again."""

import pytest

from manifestry.core.fetching import fetches, urls
from manifestry.core.fetching.addresses import Policy, parse_networks
from manifestry.core.fetching.fetches import Failure, FetchError, Head, Order

MIB = 1 << 20
START = urls.parse("https://a.example/dir/file?q=1")


def failure(error: pytest.ExceptionInfo[FetchError]) -> tuple[str, str]:
    return error.value.failure.reason, error.value.failure.retry


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://b.example/x", "https://b.example/x"),
        ("//b.example/x", "https://b.example/x"),
        ("/x", "https://a.example/x"),
        ("x?y", "https://a.example/dir/x?y"),
        ("?y", "https://a.example/dir/file?y"),
        ("../../../x", "https://a.example/x"),
        ("https://b.example/x#part", "https://b.example/x"),
        ("https://127.0.0.1/x", "https://127.0.0.1/x"),  # the address is judged when it is connected to
    ],
)
def test_a_redirect_leads_on(location: str, url: str) -> None:
    assert fetches.follow([START], location).url == url


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://user:word@b.example/",
        "//b.example\\@c.example/",
        "https://0x7f.1/",
        "https://[::1/",
        "https://b\u00fccher.example/",
        "/a b",
        "/a\r\nSet-Cookie: x",
        "https://a.example/dir/file?q=1",
        "file?q=1",
        "#part",
    ],
)
def test_a_redirect_that_is_not_followed(location: str | None) -> None:
    with pytest.raises(FetchError) as error:
        fetches.follow([START], location)
    assert failure(error) == ("InvalidSource", "seldom")


def test_five_redirects_are_followed() -> None:
    trail = [START]
    for number in range(fetches.REDIRECTS_MAX_COUNT):
        trail.append(fetches.follow(trail, f"/{number}"))
    with pytest.raises(FetchError, match="more than 5 times"):
        fetches.follow(trail, "/again")


def test_a_longer_circle_is_seen() -> None:
    trail = [START, fetches.follow([START], "https://b.example/")]
    with pytest.raises(FetchError, match="circle"):
        fetches.follow(trail, START.url)


def test_only_permitted_addresses_are_selected_each_once() -> None:
    found = ["8.8.8.8", "10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111"]
    assert fetches.select(Policy(), found) == ("8.8.8.8", "2606:4700::1111")
    assert fetches.select(Policy(parse_networks("10.0.0.0/8")), found[:2]) == ("8.8.8.8", "10.0.0.1")


@pytest.mark.parametrize("found", [[], ["10.0.0.1"], ["127.0.0.1", "::1"]])
def test_a_name_of_ours_looks_like_no_name(found: list[str]) -> None:
    with pytest.raises(FetchError) as error:
        fetches.select(Policy(), found)
    assert error.value.failure == Failure(
        "InvalidSource", "the host has no public address, and none that the administrator has allowed"
    )


@pytest.mark.parametrize(
    ("head", "order", "limit"),
    [
        (Head(200, length=5), Order("u"), MIB),
        (Head(200, length=MIB), Order("u"), MIB),
        (Head(200, is_chunked=True), Order("u"), MIB),
        (Head(200, encoding=" Identity", length=5), Order("u"), MIB),
        (Head(200, length=5), Order("u", size_bytes=5), 5),
        (Head(200, length=0), Order("u", size_bytes=0), 0),
        (Head(200), Order("u", digest="sha256:x"), MIB),
        (Head(200, is_chunked=True), Order("u", size_bytes=2 * MIB), MIB),
    ],
)
def test_an_answer_that_is_taken(head: Head, order: Order, limit: int) -> None:
    assert not head.is_redirect
    assert fetches.accept(head, order, MIB) == limit


@pytest.mark.parametrize(
    ("head", "order", "expected"),
    [
        (Head(404), Order("u"), ("SourceNotFound", "soon")),
        (Head(410), Order("u"), ("SourceNotFound", "soon")),
        (Head(408), Order("u"), ("SourceUnavailable", "soon")),
        (Head(429), Order("u"), ("SourceUnavailable", "soon")),
        (Head(500), Order("u"), ("SourceUnavailable", "soon")),
        (Head(503), Order("u"), ("SourceUnavailable", "soon")),
        (Head(401), Order("u"), ("InvalidSource", "seldom")),
        (Head(403), Order("u"), ("InvalidSource", "seldom")),
        (Head(204), Order("u"), ("InvalidSource", "seldom")),
        (Head(206, length=5), Order("u"), ("InvalidSource", "seldom")),
        (Head(300), Order("u"), ("InvalidSource", "seldom")),
        (Head(304), Order("u"), ("InvalidSource", "seldom")),
        (Head(200, encoding="gzip", length=5), Order("u"), ("InvalidSource", "seldom")),
        (Head(200), Order("u"), ("InvalidSource", "seldom")),
        (Head(200), Order("u", size_bytes=5), ("InvalidSource", "seldom")),
        (Head(200, length=MIB + 1), Order("u"), ("TooLarge", "never")),
        (Head(200, length=6), Order("u", size_bytes=5), ("SizeMismatch", "never")),
        (Head(200, length=3 * MIB), Order("u", size_bytes=2 * MIB), ("TooLarge", "never")),
    ],
)
def test_an_answer_that_is_not_taken(head: Head, order: Order, expected: tuple[str, str]) -> None:
    with pytest.raises(FetchError) as error:
        fetches.accept(head, order, MIB)
    assert failure(error) == expected


def test_only_a_bad_url_is_refused_for_ever() -> None:
    with pytest.raises(FetchError) as error:
        fetches.parse("http://a.example/")
    assert failure(error) == ("InvalidSource", "never")
    assert fetches.parse("https://a.example").url == "https://a.example/"
