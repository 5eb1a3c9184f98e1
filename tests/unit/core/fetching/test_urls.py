"""One spelling of a URL is taken: everything that two programs could read differently is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.fetching import urls


@pytest.mark.parametrize(
    ("text", "url", "host", "port"),
    [
        ("https://example.org", "https://example.org/", "example.org", 443),
        ("HTTPS://Example.ORG/A?b=C%2f", "https://example.org/A?b=C%2f", "example.org", 443),
        ("https://example.org:443/", "https://example.org/", "example.org", 443),
        ("https://example.org:/", "https://example.org/", "example.org", 443),
        ("https://example.org:8443?x", "https://example.org:8443/?x", "example.org", 8443),
        ("https://example.org./", "https://example.org/", "example.org", 443),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://a_b.s3.example/k@v:1", "https://a_b.s3.example/k@v:1", "a_b.s3.example", 443),
        ("https://127.0.0.1/", "https://127.0.0.1/", "127.0.0.1", 443),
        ("https://127.0.0.1.:1/", "https://127.0.0.1:1/", "127.0.0.1", 1),
        ("https://[2001:DB8:0::1]:8443/", "https://[2001:db8::1]:8443/", "2001:db8::1", 8443),
        ("https://1.example/", "https://1.example/", "1.example", 443),
    ],
)
def test_a_url_is_normalised(text: str, url: str, host: str, port: int) -> None:
    found = urls.parse(text)
    assert (found.url, found.host, found.port) == (url, host, port)
    assert urls.parse(found.url) == found
    assert (found.address is not None) is host[-1].isdigit()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://example.org/",
        "file:///etc/passwd",
        "https:example.org",
        "https:/example.org",
        "https:///example.org",
        "https://",
        "https://?x",
        "//example.org/",
        "ftp://example.org/",
        "https://user@example.org/",
        "https://user:word@example.org/",
        "https://@example.org/",
        "https://example.org@127.0.0.1/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org\\.evil.example/",
        "https://example.org/#part",
        "https://example.org/a b",
        "https://example.org/\r\nHost: evil",
        "https://example.org/\x00",
        "https://b\u00fccher.example/",  # another script must be written as xn--
        "https://example\u3002org/",  # ideographic full stop
        "https://\u2460\u2461\u2466.0.0.1/",  # circled digits, which IDNA maps to 127
        "https://\uff11\uff12\uff17.0.0.1/",  # full-width digits
        "https://ex%61mple.org/",
        "https://127%2e0.0.1/",
        "https://localhost/",
        "https://kubernetes/",
        "https://example..org/",
        "https://.example.org/",
        "https://example.org../",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 130}example/",
        "https://2130706433/",  # decimal
        "https://017700000001/",  # octal
        "https://0x7f000001/",  # hexadecimal
        "https://0x7f.0x0.0x0.0x1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://0/",
        "https://0x/",
        "https://127.0.0.01/",
        "https://127.0.0.256/",
        "https://127.0.0.1.1/",
        "https://127.0.0.0x1/",
        "https://example.1/",
        "https://[::1/",
        "https://::1/",
        "https://[::1]x/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[v1.a]/",
        "https://[127.0.0.1]/",
        "https://example.org:0/",
        "https://example.org:65536/",
        "https://example.org:+1/",
        "https://example.org:1:2/",
        "https://example.org:https/",
        f"https://example.org/{'a' * urls.MAX_LENGTH}",
    ],
)
def test_another_spelling_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(urls.UrlError, match="must") as refused:
        urls.parse(text)
    assert len(text) < 12 or text not in str(refused.value)


@given(st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from("./:@[]%?#\\0x"), max_size=40))
def test_whatever_is_taken_is_plain_and_stays_the_same(rest: str) -> None:
    try:
        found = urls.parse(f"https://{rest}")
    except urls.UrlError:
        return
    assert found.url.isascii()
    assert found.url.startswith(f"https://{'[' if ':' in found.host else ''}{found.host}")
    assert urls.parse(found.url) == found
