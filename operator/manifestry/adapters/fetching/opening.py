"""The downloads that the settings describe."""

from collections.abc import Callable

from manifestry import settings
from manifestry.adapters.fetching import fetches, queues
from manifestry.adapters.store.contract import ports
from manifestry.core.fetching import addresses


def open_queue(
    chosen: settings.OperatorSettings, into: ports.Store, wake: Callable[[str, str], None]
) -> queues.FetchQueue | None:
    """Return the queue of downloads, None where `url` sources are not served.

    Args:
        chosen: the operator's settings.
        into: where the bytes are staged.
        wake: told namespace and name of the Artifact whose download has ended.

    Raises:
        SettingsError: the file of certificate authorities cannot be read.
    """
    if not chosen.fetch_enabled:
        return None
    try:
        tls = fetches.Trust(chosen.fetch_ca_file)
    except OSError as error:
        raise settings.SettingsError(f"{settings.PREFIX}FETCH_CA_FILE: {error}") from None
    fetcher = fetches.Fetcher(
        addresses.Policy(addresses.parse_networks(chosen.fetch_allowed_cidrs)),
        tls=tls,
        bounds=fetches.Bounds(chosen.fetch_max_bytes, chosen.fetch_timeout_seconds),
    )
    return queues.FetchQueue(fetcher, into, slots=chosen.fetch_concurrency, wake=wake)
