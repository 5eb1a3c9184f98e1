"""Stands before Azurite and ends each copy some time after its answer, as Azure may with large blobs.

Azurite copies at once. For the time in between this does what the reference says of copies that are aborted
or fail: the blob is there, without bytes; a second copy onto it is a conflict; a copy whose source goes
fails. That a blob which is still being copied is copied further without its bytes is the worst that may be.

References: https://learn.microsoft.com/rest/api/storageservices/copy-blob, ".../abort-copy-blob".
"""

import asyncio
from typing import Self
from urllib.parse import unquote, urlsplit

import obstore
from aiohttp import ClientSession, web
from multidict import CIMultiDictProxy
from yarl import URL

from tests.clouds.azurite import Azurite

SOURCE = "x-ms-copy-source"
EMPTY = {"ETag": '"0x1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "x-ms-blob-type": "BlockBlob"}


class SlowCopies:
    """A proxy as a context; `settings` tells how to use it.

    Args:
        azurite: what is behind.
        seconds: from a copy's answer to its end.
    """

    def __init__(self, azurite: Azurite, seconds: float) -> None:
        self._azurite = azurite
        self._target = urlsplit(azurite.endpoint)
        self._seconds = seconds
        self._empty: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.settings: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner, self._session = web.AppRunner(app), ClientSession(auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}{self._target.path}"
        self.settings = self._azurite.settings() | {"MANIFESTRY_STORE_ENDPOINT": endpoint}
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._tasks)
        await self._session.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if SOURCE in request.headers:
            return await self._copy(request, path)
        if path in self._empty and request.method == "HEAD":
            return web.Response(headers={**EMPTY, "Content-Length": "0", "x-ms-copy-status": "pending"})
        if path in self._empty and request.method == "GET":
            return web.Response(status=416, headers={"x-ms-error-code": "InvalidRange"})
        return await self._pass_on(
            request.method, str(request.rel_url), request.headers, await request.read()
        )

    async def _copy(self, request: web.Request, path: str) -> web.Response:
        if path in self._empty:
            return web.Response(status=409, headers={"x-ms-error-code": "PendingCopyOperation"})
        source = urlsplit(request.headers[SOURCE]).path
        if not await self._is_there(source):
            return web.Response(status=404, headers={"x-ms-error-code": "BlobNotFound"})
        if source in self._empty:
            self._empty.add(path)
        else:
            self._tasks.add(asyncio.create_task(self._end(request, path)))
            await asyncio.sleep(0)
        return web.Response(status=202, headers={"x-ms-copy-status": "pending", "x-ms-copy-id": "1"})

    async def _is_there(self, path: str) -> bool:
        if path in self._empty:
            return True
        key = unquote(path).removeprefix(f"{self._target.path}/{self._azurite.container}/")
        try:
            await obstore.head_async(self._azurite.store(), key)
        except FileNotFoundError:
            return False
        return True

    async def _end(self, request: web.Request, path: str) -> None:
        self._empty.add(path)
        await asyncio.sleep(self._seconds)
        answer = await self._pass_on("PUT", str(request.rel_url), request.headers, b"")
        if answer.status != 404:
            self._empty.discard(path)

    async def _pass_on(
        self, method: str, path: str, headers: CIMultiDictProxy[str], body: bytes
    ) -> web.Response:
        url = URL(f"{self._target.scheme}://{self._target.netloc}{path}", encoded=True)
        # A header more, and the signature were another.
        plain = ("Content-Type", "User-Agent", "Accept", "Accept-Encoding")
        sending = self._session.request(
            method, url, headers=headers, data=body or None, skip_auto_headers=plain
        )
        async with sending as answer:
            data = await answer.read()
            back = {name: value for name, value in answer.headers.items() if name != "Transfer-Encoding"}
            return web.Response(status=answer.status, body=data or None, headers=back)
