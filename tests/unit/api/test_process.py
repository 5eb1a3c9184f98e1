"""Certificates that rotate, log lines that cannot be forged, settings that are checked."""

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manifestry import settings
from manifestry.adapters.kube import apierrors, watchevents
from manifestry_api import __main__, loglines
from manifestry_api.access import authenticators
from manifestry_api.webhook import secretwatches, tls
from tests.controlplane.certificates import Authority


def secret(authority: Authority, name: str = "a.example") -> dict[str, Any]:
    issued = authority.issue("api", dns_names=[name], server=True)
    data = {"tls.crt": issued.certificate_pem, "tls.key": issued.key_pem}
    return {"data": {key: base64.b64encode(pem).decode() for key, pem in data.items()}}


class Kubernetes:
    """A Secret that is there at the list, and events that the test feeds."""

    def __init__(self) -> None:
        self.listed: list[Any] = []
        self.events: asyncio.Queue[watchevents.WatchEvent] = asyncio.Queue()
        self.error: Exception | None = None

    async def list(self, *_args: Any, field_selector: str, **_kwargs: Any) -> tuple[list[Any], str]:
        assert field_selector == "metadata.name=tls"
        if self.error:
            raise self.error
        return self.listed, "1"

    async def watch(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[watchevents.WatchEvent]:
        while True:
            yield await self.events.get()


def loader(kubernetes: Kubernetes | None = None) -> tls.CertificateLoader:
    return tls.CertificateLoader(kubernetes or Kubernetes(), "tls", "ns")  # type: ignore[arg-type]


async def served_name(context: ssl.SSLContext, authority: Authority, name: str) -> bool:
    """Tell whether a client that trusts `authority` gets through to `name`."""

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    trust = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    port = listening.sockets[0].getsockname()[1]
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
    except ssl.SSLError:
        return False
    else:
        writer.close()
        return True
    finally:
        listening.close()


async def test_a_rotated_pair_is_served_without_a_restart_and_a_broken_one_is_not() -> None:
    authority, subject = Authority(), loader()
    assert subject.reason == "there is no certificate yet"
    subject.take(secret(authority))
    assert subject.loaded.is_set()
    assert subject.reason == ""
    assert await served_name(subject.context, authority, "a.example")
    subject.take(secret(authority, "b.example"))
    assert await served_name(subject.context, authority, "b.example")
    good, other = secret(authority, "c.example"), secret(authority, "d.example")
    good["data"]["tls.key"] = other["data"]["tls.key"]
    subject.take(good)
    assert "no usable pair" in subject.reason
    assert await served_name(subject.context, authority, "b.example")


@pytest.mark.parametrize(
    "data", [None, {}, {"tls.crt": "!", "tls.key": "!"}, {"tls.crt": "eA==", "tls.key": "eA=="}]
)
def test_a_secret_without_a_pair_leaves_the_webhook_closed(data: Any) -> None:
    subject = loader()
    subject.take({"data": data})
    assert not subject.loaded.is_set()
    assert "no usable pair" in subject.reason


async def test_the_secret_is_followed_from_its_absence_on() -> None:
    kubernetes = Kubernetes()
    subject = loader(kubernetes)
    running = asyncio.create_task(subject.run())
    await asyncio.sleep(0.01)
    kubernetes.events.put_nowait(watchevents.WatchEvent("BOOKMARK", {}))
    kubernetes.events.put_nowait(watchevents.WatchEvent("ADDED", secret(Authority())))
    async with asyncio.timeout(2):
        await subject.loaded.wait()
    running.cancel()


async def test_a_secret_that_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secretwatches, "POLL_SECONDS", 0.01)
    kubernetes = Kubernetes()
    kubernetes.error = apierrors.ForbiddenError(403, "Forbidden", "no")
    subject = loader(kubernetes)
    running = asyncio.create_task(subject.run())
    await asyncio.sleep(0.05)
    assert subject.reason == "Secret tls: 403 Forbidden"
    running.cancel()


def test_log_lines_are_json_with_extras_and_without_line_breaks() -> None:
    record = logging.makeLogRecord(
        {"msg": "a\nb %s", "args": ("\r\x1b",), "levelname": "INFO", "auditId": "1"}
    )
    line = loglines.JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == "a\nb \r\x1b"
    assert json.loads(line)["auditId"] == "1"


def test_log_lines_carry_the_exception() -> None:
    error = RuntimeError("x")
    record = logging.makeLogRecord({"msg": "m", "exc_info": (RuntimeError, error, None)})
    assert "RuntimeError: x" in json.loads(loglines.JsonFormatter().format(record))["exception"]


def test_bad_settings_end_the_process_with_all_of_them_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"MANIFESTRY_API_PORT": "x", "MANIFESTRY_WAIT_SECONDS": "-1"}
    monkeypatch.setattr(settings, "environment", lambda: env)
    assert __main__.main() == 2
    said = capsys.readouterr().err
    assert "MANIFESTRY_API_PORT" in said
    assert "MANIFESTRY_WAIT_SECONDS" in said


def test_the_kubernetes_issuer_can_be_switched_off() -> None:
    on, off = settings.ApiSettings(), settings.ApiSettings(kubernetes_issuer=False)
    assert len(authenticators.configured(on, None)) == 1  # type: ignore[arg-type]
    assert authenticators.configured(off, None) == []  # type: ignore[arg-type]
