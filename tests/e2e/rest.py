"""A caller of the facade: what a client in any language would send."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import urllib3

BUSY_TRIES = 10


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.data)


@dataclass
class Rest:
    """One identity at one facade.

    Args:
        base_url: without a trailing slash.
        headers: sent with every request.
        patient: ask again when the answer is 503 and says when to, as kubectl does.
    """

    base_url: str
    headers: dict[str, str]
    timeout_seconds: float = 60.0
    patient: bool = False
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=64, retries=False))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request with a JSON `body` or raw `data` and return the whole answer."""
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        for _ in range(BUSY_TRIES):
            answer = self.pool.request(
                method,
                self.base_url + path,
                body=data,
                headers=sent,
                timeout=self.timeout_seconds,
                redirect=False,
            )
            if not self.patient or answer.status != 503 or "Retry-After" not in answer.headers:
                break
            time.sleep(min(int(answer.headers["Retry-After"]), 2))
        return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.data)

    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """Yield the answer's bytes as they come.

        Raises:
            AssertionError: the answer is not 200.
            urllib3.exceptions.HTTPError: the stream broke off.
        """
        answer = self.pool.request(
            "GET",
            self.base_url + path,
            headers={**self.headers, **(headers or {})},
            preload_content=False,
            timeout=self.timeout_seconds,
        )
        try:
            assert answer.status == 200, answer.data
            while chunk := answer.read1(65536):
                yield chunk
        finally:
            answer.close()

    def without(self, *names: str) -> "Rest":
        """Return the same caller with some headers left out."""
        kept = {name: value for name, value in self.headers.items() if name not in names}
        return Rest(self.base_url, kept, self.timeout_seconds, self.patient, self.pool)

    def with_headers(self, **changes: str) -> "Rest":
        """Return the same caller with headers changed; underscores stand for dashes."""
        renamed = {name.replace("_", "-"): value for name, value in changes.items()}
        return Rest(self.base_url, {**self.headers, **renamed}, self.timeout_seconds, self.patient, self.pool)
