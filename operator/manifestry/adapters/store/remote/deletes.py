"""Removals that a bucket's server refuses after a while: signed requests with an end.

A plain request that is held up, with its process or on its way, removes whatever is there when it arrives. A
signed one names the moment after which it does nothing; it is signed before one looks, sent after.
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import obstore
from obstore import exceptions as obstore_errors
from yarl import URL

from manifestry.adapters.store.contract.ports import StoreUnavailableError
from manifestry.adapters.store.remote import links
from manifestry.core.blobs import signedurls
from manifestry.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONNECT_SECONDS: Final = 5.0
POOL_SIZE: Final = 16
# By how much our clock may be ahead of the store's. Amazon and Google let a signature begin a quarter of an
# hour from now, so the limit is the end, `CLAIM_SECONDS` from now. Azure does not, so one has to wait.
AHEAD: Final = timedelta(minutes=15)
AHEAD_AZURE: Final = timedelta(seconds=20)
EARLY_PAUSE_SECONDS: Final = 1.0
# What obstore says where credentials cannot sign at all, or are not allowed to.
_CANNOT: Final = re.compile(r"not supported|status code: 40[13]", re.IGNORECASE)
_REFUSED: Final = frozenset({400, 401, 403})  # Cloud Storage says 400 to what has expired, the others 403

_logger = logging.getLogger(__name__)


class Deletes:
    """Signs and sends removals of keys of one bucket.

    Args:
        bucket: of S3, Google Cloud Storage or Azure.
        settings: say on which host the bucket is, and whether that may be plain http.

    Attributes:
        ahead: by how much this machine's clock may be ahead of the store's.
    """

    def __init__(self, bucket: "ObjectStore", settings: StoreSettings) -> None:
        self._bucket = bucket
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._is_warned = False
        self.ahead = AHEAD_AZURE if settings.store_type == "azure" else AHEAD

    async def sign(self, keys: Sequence[str], seconds: int) -> list[str] | None:
        """Return for each key the URL that removes it for so long from now; None when that cannot be had.

        Local for S3, for an account's key of Azure and a service account's of Cloud Storage. With an identity
        Azure is asked once for all keys, Google's IAM once for each.

        Raises:
            obstore.exceptions.BaseError: whoever has to be asked does not answer.
        """
        bucket: Any = self._bucket
        try:
            urls = list(await obstore.sign_async(bucket, "DELETE", keys, timedelta(seconds=seconds)))
        except obstore_errors.BaseError as error:
            if not _CANNOT.search(str(error)):
                raise
            self._warn("its credentials cannot sign")
            return None
        if not all(self._is_safe(url) for url in urls):
            self._warn("its client signs for another host than the settings name")
            return None
        return urls

    def _is_safe(self, url: str) -> bool:
        is_allowed = self._settings.store_allow_http or url.startswith("https://")
        return is_allowed and links.is_on_host(url, self._settings) and signedurls.span(url) is not None

    def _warn(self, why: str) -> None:
        if not self._is_warned:
            _logger.warning("removals from the object store have no end: %s", why)
        self._is_warned = True

    async def send(self, url: str) -> bool:
        """Remove a key; tell whether it is gone. False: the store has refused, and has done nothing.

        Sent once: of a request without an answer nobody knows whether it is still on its way.

        Raises:
            StoreUnavailableError: there was no answer, or none that says which.
        """
        while (status := await self._status(url)) in _REFUSED and self._is_early(url):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(EARLY_PAUSE_SECONDS)
        if status in _REFUSED:
            return False
        if status // 100 == 2 or status == 404:
            return True
        raise StoreUnavailableError("the object store does not answer (delete)")

    def _is_early(self, url: str) -> bool:
        """Tell whether the store's clock may be before the beginning of a signature."""
        span = signedurls.span(url)
        is_strict = self._settings.store_type == "azure"
        return is_strict and span is not None and datetime.now(UTC) < span[0] + AHEAD_AZURE

    async def _status(self, url: str) -> int:
        with _typed():
            async with self._opened().delete(
                URL(url, encoded=True), allow_redirects=False, middlewares=(_Once(),)
            ) as answer:
                return answer.status
        raise AssertionError("there is an answer or an error")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=POOL_SIZE,
                ssl=ssl.create_default_context(),  # SSL_CERT_FILE and SSL_CERT_DIR, as for obstore
                force_close=True,  # a kept one may be closed at the other end, and we send once only
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=True,  # the proxy that obstore takes
                timeout=aiohttp.ClientTimeout(
                    total=self._settings.store_timeout_seconds, connect=CONNECT_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class _Once:
    """Stops aiohttp, which sends a DELETE again by itself when the connection breaks."""

    def __init__(self) -> None:
        self._is_sent = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._is_sent:
            raise aiohttp.ClientConnectionError
        self._is_sent = True
        return await handler(request)


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        # Its text may have the URL in it, and that is a secret for as long as it holds.
        raise StoreUnavailableError("the object store does not answer (delete)") from OSError(
            type(error).__name__
        )
