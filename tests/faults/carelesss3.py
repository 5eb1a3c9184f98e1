"""A server that speaks as much S3 as a store needs, and does not keep all of S3's promises."""

import email.utils
import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from manifestry.core.blobs import signedurls

CREATE: Final = "If-None-Match"
REPLACE: Final = "If-Match"
EXPIRY: Final = "X-Amz-Expires"
ALL: Final = frozenset({CREATE, REPLACE, EXPIRY})


@dataclass
class _Objects:
    kept: frozenset[str]
    found: dict[str, tuple[bytes, float]] = field(default_factory=dict)


class CarelessS3:
    """Serves on loopback; use it with `with`.

    Args:
        kept: which of the promises it keeps; what is not among them it ignores, as a server does that does
            not know them.
    """

    def __init__(self, kept: frozenset[str]) -> None:
        self.objects = _Objects(kept)
        handler = type("Handler", (_Handler,), {"objects": self.objects})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def settings(self) -> dict[str, str]:
        """Return the store's settings for this server, as MANIFESTRY_* variables."""
        return {
            "MANIFESTRY_STORE_TYPE": "s3",
            "MANIFESTRY_STORE_BUCKET": "bucket",
            "MANIFESTRY_STORE_ENDPOINT": self.endpoint,
            "MANIFESTRY_STORE_ALLOW_HTTP": "true",
            "MANIFESTRY_STORE_ACCESS_KEY_ID": "id",
            "MANIFESTRY_STORE_SECRET_ACCESS_KEY": "secret",
        }


class _Handler(BaseHTTPRequestHandler):
    """Path-style requests of whole objects; credentials are not looked at."""

    objects: _Objects
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there = self.objects.found.get(self._key)
        wants_none, wanted = self.headers.get(CREATE), self.headers.get(REPLACE)
        is_taken = CREATE in self.objects.kept and wants_none == "*" and there is not None
        has_changed = there is None or _tag(there[0]) != wanted
        if is_taken or (REPLACE in self.objects.kept and wanted and has_changed):
            self._answer(412)
        else:
            self.objects.found[self._key] = (data, time.time())
            self._answer(200, ETag=_tag(data))

    def do_GET(self) -> None:
        self._read(with_body=True)

    def do_POST(self) -> None:
        """DeleteObjects, by which obstore removes even one."""
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        keys = re.findall(r"<Key>([^<]*)</Key>", text)
        for key in keys:
            self.objects.found.pop(f"{self._key.rstrip('/')}/{key}", None)
        gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_HEAD(self) -> None:
        self._read(with_body=False)

    def do_DELETE(self) -> None:
        span = signedurls.span(self.path) if parse_qs(urlsplit(self.path).query) else None
        if EXPIRY in self.objects.kept and span is not None and time.time() > span[1].timestamp():
            self._answer(403)
            return
        self.objects.found.pop(self._key, None)
        self._answer(204)

    @property
    def _key(self) -> str:
        return urlsplit(self.path).path

    def _read(self, *, with_body: bool) -> None:
        if "list-type=2" in self.path:  # nobody here needs to see anything in it
            self._answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            return
        there = self.objects.found.get(self._key)
        if there is None:
            self._answer(404)
            return
        data, modified = there
        date = email.utils.formatdate(modified, usegmt=True)
        body, status, extra = data, 200, {}
        if with_body and (asked := self.headers.get("Range", "")).startswith("bytes="):
            first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
            body, status = data[first : last + 1], 206
            extra = {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(data)}"}
        headers = {"ETag": _tag(data), "Last-Modified": date, **extra}
        self._answer(status, body if with_body else b"", length=len(body), **headers)

    def _answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
