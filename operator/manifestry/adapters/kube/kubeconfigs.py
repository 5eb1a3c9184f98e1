"""Where the Kubernetes API is and how to prove who we are, read by the `kubernetes` package."""

import asyncio
import ssl
import time
from typing import Any

import aiohttp
import yaml
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.config_exception import ConfigException

_config: Any = config  # the package is marked as typed, but these functions are not
# The package does not check a file's shape, so a wrong one shows as whatever goes wrong first.
UNREADABLE = (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError)
REFRESH_SECONDS = 60.0  # the kubelet rotates a projected token at 80 % of its life; a minute is early enough


class CredentialsError(Exception):
    """No usable configuration: the kubeconfig or the service account is missing or malformed."""


class Credentials:
    """One server and one identity; the bearer token is read again every minute.

    References: kubernetes.aio.config: kubeconfig (certificates, token, tokenFile, exec, OIDC), in-cluster.
    """

    def __init__(self, configuration: Any, loader: Any | None) -> None:
        self._configuration = configuration
        self._loader = loader
        self._refreshed = time.monotonic()
        self._lock = asyncio.Lock()

    @classmethod
    async def load(cls, kubeconfig: str | None) -> "Credentials":
        """Read `kubeconfig`, or the pod's service account where it is None.

        Raises:
            CredentialsError: there is nothing usable.
        """
        configuration = Configuration()
        try:
            if kubeconfig:
                loader = await _config.load_kube_config(
                    config_file=kubeconfig, client_configuration=configuration, persist_config=False
                )
            else:
                loader = _config.load_incluster_config(client_configuration=configuration)
        except UNREADABLE as error:
            where = kubeconfig or "the pod's service account"
            raise CredentialsError(f"no Kubernetes credentials in {where}: {error}") from error
        return cls(configuration, loader)

    @property
    def server(self) -> str:
        """Return the API server's base URL without a trailing slash."""
        return str(self._configuration.host).rstrip("/")

    @property
    def proxy(self) -> str | None:
        """Return the proxy's URL, or None."""
        return self._configuration.proxy or None

    def ssl_context(self) -> ssl.SSLContext:
        """Return a new context that trusts the cluster's CA and carries the client certificate."""
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        if not configuration.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def expire(self) -> None:
        """Make the next request read the token again: the server has just refused it."""
        self._refreshed = -REFRESH_SECONDS

    async def authorization(self) -> str | None:
        """Return the value of `Authorization`, or None when a client certificate is the identity."""
        keys = self._configuration.api_key
        if keys and time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            await self._refresh()
        header: str | None = keys.get("BearerToken")
        return header

    async def _refresh(self) -> None:
        async with self._lock:
            if time.monotonic() - self._refreshed < REFRESH_SECONDS:
                return
            try:
                await self._reload()
            except UNREADABLE as error:
                raise aiohttp.ClientConnectionError(f"credentials cannot be read again: {error}") from error
            self._refreshed = time.monotonic()

    async def _reload(self) -> None:
        if self._loader is not None:
            await self._loader.load_and_set(self._configuration)
        elif self._configuration.refresh_api_key_hook:
            self._configuration.refresh_api_key_hook(self._configuration)

    async def authorize(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Put the credentials on a request (an aiohttp client middleware, so kopf's session has it too)."""
        header = await self.authorization()
        if header:
            request.headers["Authorization"] = header
        name = getattr(self._configuration, "tls_server_name", None)
        if name:
            request.server_hostname = name
        return await handler(request)
