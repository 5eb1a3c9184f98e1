"""Where a download may go: redirects, private addresses, names, certificates, on real https servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from manifestry.adapters.fetching import fetches
from manifestry.adapters.telemetry.storage_metrics import METRICS
from manifestry.core.blobs import digests
from tests.component.fetching import originserver
from tests.component.fetching.fetchworld import ALLOWED, DATA, NAME, PRIVATE, World, opened
from tests.controlplane.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    async with opened(tmp_path, authority) as found:
        yield found


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_and_resolved_anew(world: World, code: int) -> None:
    world.origin.answers |= {"/a": originserver.redirect("/b", code), "/b": originserver.status(200, DATA)}
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)
    assert world.names.asked == [NAME, NAME]


@pytest.mark.parametrize("host", ["", NAME])
async def test_a_private_address_is_never_connected_to(world: World, host: str) -> None:
    world.names.answers = [[PRIVATE]]
    world.private.answers["/secret"] = originserver.status(200, b"secret")
    reason, retry, message = await world.refused(world.private.url("/secret", host))
    assert (reason, retry) == ("InvalidSource", "seldom")
    assert PRIVATE not in message
    assert world.private.connections == 0
    assert await world.fetch(world.private.url("/secret", host), world.fetcher("127.0.0.0/8")) == digests.of(
        b"secret"
    )


@pytest.mark.parametrize("by_name", [False, True])
async def test_a_redirect_to_a_private_address_is_refused(world: World, by_name: bool) -> None:
    world.names.answers = [[ALLOWED], [PRIVATE]]
    target = world.private.url("/secret", "internal.example" if by_name else "")
    world.origin.answers["/a"] = originserver.redirect(target)
    reason, _, message = await world.refused(world.origin.url("/a", NAME))
    assert reason == "InvalidSource"
    assert "no public address" in message
    assert world.private.connections == 0


async def test_a_name_that_changes_its_address_does_not_lead_inside(world: World) -> None:
    """The server's own name: public when it is judged, private a moment later."""
    world.names.answers = [[ALLOWED], [PRIVATE]]
    world.origin.answers |= {"/a": originserver.status(200, DATA), "/again": originserver.redirect("/a")}
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)  # resolved once, not twice
    assert world.names.asked == [NAME]
    world.names.answers = [[ALLOWED], [PRIVATE]]
    for path in world.staged():
        path.unlink()
    assert (await world.refused(world.origin.url("/again", NAME)))[0] == "InvalidSource"
    assert world.private.connections == 0


async def test_of_several_addresses_only_the_permitted_ones_are_tried(world: World) -> None:
    world.names.answers = [[PRIVATE, "::1", ALLOWED]]
    world.origin.answers["/a"] = originserver.status(200, DATA)
    assert await world.fetch(world.origin.url("/a", NAME)) == digests.of(DATA)
    assert world.private.connections == 0


async def test_redirects_end(world: World) -> None:
    for number in range(7):
        world.origin.answers[f"/{number}"] = originserver.redirect(f"/{number + 1}")
    world.origin.answers["/loop"] = originserver.redirect("/loop2")
    world.origin.answers["/loop2"] = originserver.redirect(world.origin.url("/loop"))
    world.origin.answers["/plain"] = originserver.redirect(f"http://{ALLOWED}/")
    world.origin.answers["/nowhere"] = originserver.status(302)
    for path, message in {
        "/0": "more than 5",
        "/loop": "circle",
        "/plain": "https",
        "/nowhere": "usable",
    }.items():
        reason, _, shown = await world.refused(world.origin.url(path))
        assert reason == "InvalidSource"
        assert message in shown
    assert len([request for request in world.origin.requests if request.target[1:].isdigit()]) == 6


async def test_a_certificate_must_be_the_hosts_and_of_a_known_authority(world: World) -> None:
    world.origin.answers["/a"] = originserver.status(200, DATA)
    message = "the server's certificate cannot be verified for its host"
    wrong_host = await world.refused(world.origin.url("/a", "wrong.example"))
    assert wrong_host == ("InvalidSource", "seldom", message)
    world.ca_file.write_bytes(Authority("another").certificate_pem)
    assert await world.refused(world.origin.url("/a", NAME)) == ("InvalidSource", "seldom", message)
    assert world.origin.requests == []


async def test_a_new_file_of_authorities_counts_without_a_restart(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.origin.answers["/a"] = originserver.status(200, DATA)
    right = world.ca_file.read_bytes()
    world.ca_file.write_bytes(Authority("another").certificate_pem)
    fetcher, url = world.fetcher(), world.origin.url("/a", NAME)
    before = METRICS.fetched_bytes._value.get()
    assert (await world.refused(url, fetcher))[0] == "InvalidSource"
    world.ca_file.write_bytes(right)
    assert await world.fetch(url, fetcher) == digests.of(DATA)
    assert METRICS.fetched_bytes._value.get() - before == len(DATA)
    for broken in (b"half a certificate", None):
        world.ca_file.unlink() if broken is None else world.ca_file.write_bytes(broken)
        assert await world.fetch(url, fetcher) == digests.of(DATA)
    assert caplog.text.count("the old ones count") == 2


async def test_old_tls_and_no_tls_are_refused(world: World) -> None:
    assert fetches.tls_context().minimum_version == ssl.TLSVersion.TLSv1_2

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    plain = await asyncio.start_server(answer, ALLOWED, 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        found = await world.refused(f"https://{ALLOWED}:{port}/")
        assert found[:2] == ("SourceUnavailable", "soon")


async def test_names_that_cannot_be_resolved_are_tried_again(world: World) -> None:
    async def broken(*_: object) -> Sequence[str]:
        raise OSError("the name servers do not answer")

    fetcher = world.fetcher()
    fetcher._resolve = broken
    assert (await world.refused(world.origin.url("/a", NAME), fetcher))[:2] == ("SourceUnavailable", "soon")
    world.names.answers = [[]]
    assert (await world.refused(world.origin.url("/a", NAME)))[:2] == ("InvalidSource", "seldom")


async def test_the_systems_resolver_is_asked_for_absolute_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look_up(host: str, port: int) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", ("192.0.2.1", port)), (10, 1, 6, "", ("2001:db8::1", port, 0, 0))]

    monkeypatch.setattr(fetches, "_look_up", look_up)
    assert await fetches.SystemResolver()("example.org", 443) == ["192.0.2.1", "2001:db8::1"]
    assert asked == ["example.org."]
    monkeypatch.undo()
    assert await fetches.SystemResolver()("does-not-exist.invalid", 443) == ()


def test_a_file_without_certificates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nothing")
    for name in ("ca", "absent"):
        with pytest.raises(OSError, match=r"\S"):
            fetches.Trust(str(tmp_path / name))
