"""A server of the part of Cloud Storage's XML API that obstore speaks, and of a metadata server. No test.

`python -m tests.clouds.gcs_server PORT BUCKET FOLDER`, the service account's key in FOLDER's
`account.json`. It is strict where the real one is: conditions do not go with uploads in
parts, parts are 5 MiB, a missing object's deletion is 404, nothing passes without a valid token or signature.

References: https://cloud.google.com/storage/docs/xml-api/reference-methods.
"""

import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from aiohttp import web

from tests.clouds.gcs_access import EMAIL, Gate
from tests.clouds.gcs_objects import Found, Objects, RefusedError

CONDITION = "x-goog-if-generation-match"
LIST_MAX = 1000
BODY_MAX_BYTES = 64 << 20
TOKEN = "token-of-the-metadata-server"


class Server:
    """Answers the requests of one bucket."""

    def __init__(self, bucket: str, objects: Objects, gate: Gate) -> None:
        self._bucket, self._objects, self._gate = bucket, objects, gate

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; the body comes first, so that nothing else happens in between."""
        body = await request.read()
        try:
            return self._answer(request, body)
        except RefusedError as refused:
            text = f"<?xml version='1.0'?><Error><Code>{refused.code}</Code></Error>"
            return web.Response(status=refused.status, text=text, content_type="application/xml")

    def _answer(self, request: web.Request, body: bytes) -> web.Response:
        path = request.rel_url.raw_path
        self._gate.check(request.method, path, request.query, request.headers)
        bucket, _, name = unquote(path).removeprefix("/").partition("/")
        if bucket != self._bucket:
            raise RefusedError(404, "NoSuchBucket")
        if request.method in {"GET", "HEAD"}:
            return self._get(request, name) if name else self._list(request)
        if {"uploads", "uploadId"} & request.query.keys():
            return self._upload(request, name, body)
        return self._change(request, name, body)

    def _change(self, request: web.Request, name: str, body: bytes) -> web.Response:
        match request.method:
            case "PUT":
                return self._put(request, name, body)
            case "DELETE":
                self._objects.delete(name)
                return web.Response(status=204)
        raise RefusedError(405, "MethodNotAllowed")

    def _upload(self, request: web.Request, name: str, body: bytes) -> web.Response:
        if CONDITION in request.headers:  # see "Request preconditions" in the reference: "XML API multipart"
            raise RefusedError(400, "NotImplemented")
        match request.method:
            case "POST" if "uploads" in request.query:
                begun = self._objects.begin()
                return _xml("InitiateMultipartUploadResult", f"<UploadId>{begun}</UploadId>")
            case "PUT":
                return self._part(request, body)
            case "POST":
                return self._complete(request, name, body)
            case "DELETE":
                self._objects.abort(request.query["uploadId"])
                return web.Response(status=204)
        raise RefusedError(405, "MethodNotAllowed")

    def _get(self, request: web.Request, name: str) -> web.Response:
        found = self._objects.get(name)
        asked = request.http_range
        start, end = asked.start or 0, min(asked.stop or found.size, found.size)
        is_part = "Range" in request.headers
        if is_part and start >= found.size:
            raise RefusedError(416, "InvalidRange")
        headers = _headers(found) | {"Accept-Ranges": "bytes"}
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(found.size)})
        data = self._objects.read(found, start, end - start)
        return web.Response(status=206 if is_part else 200, body=data, headers=headers)

    def _put(self, request: web.Request, name: str, body: bytes) -> web.Response:
        if "Content-Length" not in request.headers:
            raise RefusedError(411, "MissingContentLength")
        condition = _condition(request)
        source = request.headers.get("x-goog-copy-source")
        if source is None:
            stored = self._objects.put(name, [body], condition, _metadata_in(request))
            return web.Response(headers=_headers(stored))
        bucket, _, other = unquote(source).removeprefix("/").partition("/")
        if bucket != self._bucket:
            raise RefusedError(404, "NoSuchBucket")
        copied = self._objects.copy(other, name, condition)
        return _xml("CopyObjectResult", f"<ETag>{escape(copied.etag)}</ETag>", _headers(copied))

    def _part(self, request: web.Request, body: bytes) -> web.Response:
        query = request.query
        etag = self._objects.part(query["uploadId"], int(query["partNumber"]), body)
        return web.Response(headers={"ETag": etag})

    def _complete(self, request: web.Request, name: str, body: bytes) -> web.Response:
        parts = [
            (int(part.findtext("{*}PartNumber") or 0), part.findtext("{*}ETag") or "")
            for part in ET.fromstring(body).iter()
            if part.tag.rpartition("}")[2] == "Part"
        ]
        found = self._objects.complete(request.query["uploadId"], name, parts)
        return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(found.etag)}</ETag>", _headers(found))

    def _list(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("list-type") != "2":
            raise RefusedError(400, "InvalidArgument")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        limit = min(int(query.get("max-keys", LIST_MAX)), LIST_MAX)
        shown: dict[str, str] = {}  # in the order of names, a folder at its first object's place
        for name in self._objects.names(prefix):
            folder = _folder(name, prefix, delimiter)
            if folder is None:
                text = _contents(self._objects.get(name))
            else:
                text = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            if (folder or name).encode() > after.encode():
                shown.setdefault(folder or name, text)
        page = list(shown)[:limit]
        text = "".join(shown[name] for name in page)
        if len(shown) > limit:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        return _xml("ListBucketResult", f"<IsTruncated>{str(len(shown) > limit).lower()}</IsTruncated>{text}")


def _folder(name: str, prefix: str, delimiter: str) -> str | None:
    below, found, _ = name.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
    return f"{prefix}{below}{delimiter}" if found else None


def _contents(found: Found) -> str:
    updated = datetime.fromtimestamp(found.updated, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    return (
        f"<Contents><Key>{escape(found.name)}</Key><Generation>{found.generation}</Generation>"
        f"<LastModified>{updated}</LastModified><ETag>{escape(found.etag)}</ETag>"
        f"<Size>{found.size}</Size></Contents>"
    )


def _headers(found: Found) -> dict[str, str]:
    return {
        "ETag": found.etag,
        "Last-Modified": format_datetime(datetime.fromtimestamp(found.updated, UTC), usegmt=True),
        "x-goog-generation": str(found.generation),
        **found.metadata,
    }


def _metadata_in(request: web.Request) -> dict[str, str]:
    """Return a client's own metadata; what else a browser is told is not kept here."""
    named = ((name.lower(), value) for name, value in request.headers.items())
    return {name: value for name, value in named if name.startswith("x-goog-meta-")}


def _xml(element: str, inside: str, headers: dict[str, str] | None = None) -> web.Response:
    text = f"<?xml version='1.0' encoding='UTF-8'?><{element}>{inside}</{element}>"
    return web.Response(text=text, content_type="application/xml", headers=headers)


def _condition(request: web.Request) -> int | None:
    return int(request.headers[CONDITION]) if CONDITION in request.headers else None


async def _metadata(request: web.Request) -> web.Response:
    """References: https://cloud.google.com/compute/docs/metadata/querying-metadata."""
    if request.headers.get("Metadata-Flavor") != "Google":
        raise web.HTTPForbidden
    if request.match_info["what"] == "email":
        return web.Response(text=EMAIL)
    return web.json_response({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})


def main(port: str, bucket: str, folder: str) -> None:
    """Serve until the process is killed."""
    account = (Path(folder) / "account.json").read_text()
    server = Server(bucket, Objects(Path(folder) / "bucket"), Gate(account, {TOKEN}))
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app.router.add_get("/computeMetadata/v1/instance/service-accounts/default/{what:token|email}", _metadata)
    app.router.add_route("*", "/{tail:.*}", server.answer)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
