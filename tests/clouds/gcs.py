"""One process on loopback that speaks Cloud Storage's XML API, and how to reach it."""

import os
import shutil
import socket
import sys
from pathlib import Path

from obstore.store import GCSStore

from tests.clouds import gcs_access
from tests.controlplane import ports
from tests.controlplane.children import Child, Program

ROOT = Path(__file__).resolve().parents[2]


class Gcs(Child):
    """A running server; its data outlive a kill and go with `dispose`."""

    def __init__(self, folder: Path, bucket: str = "manifestry") -> None:
        self.bucket = bucket
        self._folder = folder
        self.account = gcs_access.service_account()
        (folder / "account.json").write_text(self.account)
        self._port = ports.free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"
        argv = [sys.executable, "-m", "tests.clouds.gcs_server", str(self._port), bucket, str(folder)]
        env = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
        program = Program("gcs", argv, self._listens, env=env, cwd=ROOT)
        super().__init__(program, folder / "gcs.log")

    def store(self, prefix: str | None = None) -> GCSStore:
        """Return a new client of the bucket."""
        return GCSStore(
            self.bucket,
            prefix=prefix,
            base_url=self.endpoint,
            service_account_key=self.account,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )

    def settings(self) -> dict[str, str]:
        """Return the MANIFESTRY_* variables that make a process use this store."""
        return {
            "MANIFESTRY_STORE_TYPE": "gcs",
            "MANIFESTRY_STORE_BUCKET": self.bucket,
            "MANIFESTRY_STORE_ENDPOINT": self.endpoint,
            "MANIFESTRY_STORE_SECRET_ACCESS_KEY": self.account,
            "MANIFESTRY_STORE_ALLOW_HTTP": "true",
        }

    def dispose(self) -> None:
        """Kill the server and remove its data."""
        super().dispose()
        shutil.rmtree(self._folder / "bucket", ignore_errors=True)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return True
        except OSError:
            return False
