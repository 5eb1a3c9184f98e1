"""What clients were told is stored, and whether it still is."""

import hashlib
import random
import threading
from dataclasses import dataclass, field

from tests.e2e.rest import Answer, Rest

MEDIA_TYPE = "application/x-blob"


def digest_of(data: bytes) -> str:
    """Return the digest that the product must give these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Inventory:
    """Payloads by artifact: what was sent, and which of it was acknowledged.

    Args:
        rest: the caller who uploads and reads.
        seed: of the payloads.
    """

    rest: Rest
    seed: int = 0
    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def payload(self, name: str, size_bytes: int) -> bytes:
        """Return the artifact's bytes, the same at every try."""
        with self._lock:
            data = random.Random(f"{self.seed} {name}").randbytes(size_bytes)
            return self.sent.setdefault(name, data)

    def declare(self, name: str) -> Answer:
        """Create an artifact that waits for its upload; one that is there already is as good.

        Returns:
            The answer: it is there, or 503 and the caller may try again.
        """
        body = {"name": name, "mediaType": MEDIA_TYPE, "upload": {}}
        answer = self.rest.call("POST", "/artifacts", body, headers={"Prefer": "wait=0"})
        assert answer.status in {201, 202, 409, 503}, answer.data
        return answer

    def upload(self, name: str, size_bytes: int = 300_000) -> Answer:
        """Send the payload and note whether that was acknowledged."""
        data = self.payload(name, size_bytes)
        answer = self.rest.call(
            "PUT", f"/artifacts/{name}/content", data=data, headers={"Content-Type": MEDIA_TYPE}
        )
        if answer.status in {200, 202}:
            with self._lock:
                self.acknowledged.add(name)
        return answer

    def store(self, name: str, size_bytes: int = 300_000) -> None:
        """Create an artifact and upload its payload, which must succeed."""
        self.declare(name)
        answer = self.upload(name, size_bytes)
        assert answer.status == 200, answer.data

    def read(self, name: str) -> Answer:
        """Read an artifact's payload; what comes as a whole must be all of it, unchanged."""
        answer = self.rest.call("GET", f"/artifacts/{name}/content")
        if answer.status == 200:
            assert digest_of(answer.data) == digest_of(self.sent[name]), name
            assert answer.headers["etag"] == f'"{digest_of(self.sent[name])}"'
        return answer

    def check(self) -> None:
        """Read everything: what was acknowledged is there, nothing is there in part."""
        for name in self.sent:
            status = self.read(name).status
            assert status == 200 or (name not in self.acknowledged and status in {404, 409}), (name, status)
