"""Signed URLs, so that clients of a remote store may fetch payloads from it directly."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore

from manifestry.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# Where the clouds serve buckets, when the settings name no endpoint of their own.
_CLOUDS: Final = {
    "s3": (".amazonaws.com", ".amazonaws.com.cn"),
    "gcs": (".googleapis.com",),
    "azure": (".blob.core.windows.net",),
}


class Signer:
    """Signs links to one bucket.

    Args:
        bucket: of S3, Google Cloud Storage or Azure.
        settings: say on which host the bucket is.
    """

    def __init__(self, bucket: "ObjectStore", settings: StoreSettings) -> None:
        self._bucket = bucket
        self._settings = settings

    async def sign(self, key: str, seconds: float) -> str | None:
        """Return a URL that reads one key for a while, None unless it is on the configured host.

        A client is never sent to any other place, whatever the environment has made of the store's client.
        """
        bucket: Any = self._bucket
        url: str = await obstore.sign_async(bucket, "GET", key, timedelta(seconds=seconds))
        return url if is_on_host(url, self._settings) else None


def is_on_host(url: str, settings: StoreSettings) -> bool:
    """Tell whether a URL is of the host, or a bucket's own name below it, that the settings name."""
    found, wanted = urlsplit(url), urlsplit(settings.store_endpoint)
    if settings.store_endpoint:
        same = found.netloc == wanted.netloc or found.netloc.endswith(f".{wanted.netloc}")
        return same and found.scheme == wanted.scheme
    suffixes = _CLOUDS.get(settings.store_type, ())
    return found.scheme == "https" and f".{found.hostname or ''}".endswith(suffixes)
