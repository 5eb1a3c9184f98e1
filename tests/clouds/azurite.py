"""One Azurite process on loopback: Microsoft's emulator of Azure Storage, from its package on npm."""

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from obstore.store import AzureStore

from tests.controlplane import ports
from tests.controlplane.children import Child, Program

ACCOUNT = "manifestrytest"
ACCOUNT_KEY = base64.b64encode(b"manifestry-test-key").decode()
API_VERSION = "2023-11-03"
_PACKAGE = Path(__file__).with_name("azurite")
_INSTALL_SECONDS = 600


class NoNodeError(RuntimeError):
    """There is neither an installed Azurite nor an npm to install it with."""


class Azurite(Child):
    """A running Azurite and how to reach it; its data outlive a kill and go with `dispose`.

    Args:
        folder: for its data and its log.
        main: what `program` returned.
        tls: certificate and key; with them it also takes bearer tokens, whose signature it does not check.
    """

    account, account_key = ACCOUNT, ACCOUNT_KEY

    def __init__(
        self,
        folder: Path,
        main: Path,
        container: str = "manifestry",
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.container = container
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        port = ports.free_port()
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}/{ACCOUNT}"
        argv = [shutil.which("node") or "node", str(main), "--silent", "--disableTelemetry"]
        argv += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(self._data)]
        argv += ["--oauth", "basic", "--cert", str(tls[0]), "--key", str(tls[1])] if tls else []
        env = {"PATH": os.defpath, "HOME": str(folder), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
        super().__init__(Program("azurite", argv, self._has_container, env=env), folder / "azurite.log")

    def store(self, prefix: str | None = None) -> AzureStore:
        """Return a new client of the container."""
        return AzureStore(
            self.container,
            prefix=prefix,
            endpoint=self.endpoint,
            account_name=ACCOUNT,
            account_key=ACCOUNT_KEY,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )

    def settings(self) -> dict[str, str]:
        """Return the MANIFESTRY_* variables that make a process use this store."""
        return {
            "MANIFESTRY_STORE_TYPE": "azure",
            "MANIFESTRY_STORE_BUCKET": self.container,
            "MANIFESTRY_STORE_ENDPOINT": self.endpoint,
            "MANIFESTRY_STORE_ACCESS_KEY_ID": ACCOUNT,
            "MANIFESTRY_STORE_SECRET_ACCESS_KEY": ACCOUNT_KEY,
            "MANIFESTRY_STORE_ALLOW_HTTP": "true",
        }

    def dispose(self) -> None:
        """Kill the server and remove its data."""
        super().dispose()
        shutil.rmtree(self._data, ignore_errors=True)

    def _has_container(self) -> bool:
        try:
            # The server is our own child, on loopback; what it is asked here is no secret.
            trusting = ssl._create_unverified_context()
            with urllib.request.urlopen(self._create_container(), timeout=5, context=trusting):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 409  # it is there already
        except OSError:
            return False

    def _create_container(self) -> urllib.request.Request:
        """References: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
        date = format_datetime(datetime.now(UTC), usegmt=True)
        resource = f"/{ACCOUNT}/{ACCOUNT}/{self.container}\nrestype:container"
        lines = ["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{API_VERSION}", resource]
        signed = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256)
        headers = {
            "x-ms-date": date,
            "x-ms-version": API_VERSION,
            "Content-Length": "0",
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}",
        }
        url = f"{self.endpoint}/{self.container}?restype=container"
        return urllib.request.Request(url, method="PUT", headers=headers)


def program() -> Path:
    """Return Azurite's entry point, installed once below the cache folder: half a minute.

    Raises:
        NoNodeError: there is no Node.js.
        subprocess.CalledProcessError: npm failed.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NoNodeError("Azurite needs Node.js 20 and npm")
    lock = _PACKAGE / "package-lock.json"
    folder = _cache() / "artefacts" / f"azurite-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    main = folder / "node_modules/azurite/dist/src/blob/main.js"
    if not main.is_file():
        _install(folder)
    return main


def _install(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="azurite-", dir=folder.parent))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_PACKAGE / name, place / name)
        # What the packages' own scripts would do is not needed, and not our code to run.
        argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(argv, cwd=place, check=True, timeout=_INSTALL_SECONDS)
        with contextlib.suppress(OSError):  # another run has just installed it
            place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MANIFESTRY_CACHE") or Path(base) / "manifestry").absolute()
