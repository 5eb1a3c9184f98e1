"""Put images into a node's containerd store without running the node."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import processes
import shell

START_SECONDS = 30.0
IMPORT_SECONDS = 600.0
DISCARD_SECONDS = 10.0
LAYER_BYTES = 1 << 20
CRI_PLUGINS = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
)


def config(store: Path, scratch: Path) -> str:
    """Return the configuration of a containerd that only stores images."""
    disabled = ", ".join(f'"{name}"' for name in CRI_PLUGINS)
    return (
        f'version = 3\nroot = "{store}"\nstate = "{scratch}/state"\ndisabled_plugins = [{disabled}]\n'
        f'[grpc]\n  address = "{scratch}/containerd.sock"\n'
    )


def _wait_for(socket: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise shell.explain("the containerd that fills the node image does not start", log)
        time.sleep(0.1)


def _import(ctr: list[str], archive: Path, log: Path) -> None:
    options = ["--local", "--snapshotter", "overlayfs", "--discard-unpacked-layers"]
    shell.run(shell.Job([*ctr, "images", "import", *options, str(archive)], log, IMPORT_SECONDS))
    for image in shell.need([*ctr, "images", "ls", "-q"]).split():
        # Pinned: the kubelet's clean-up could not pull them again.
        shell.need([*ctr, "images", "label", image, "io.cri-containerd.pinned=pinned"])


def _wait_discarded(store: Path) -> None:
    # The unpacked layer is collected in the background; without it the node image is 300 MB smaller.
    blobs = store / "io.containerd.content.v1.content/blobs/sha256"
    deadline = time.monotonic() + DISCARD_SECONDS
    while time.monotonic() < deadline and any(b.stat().st_size > LAYER_BYTES for b in blobs.glob("*")):
        time.sleep(0.2)


def fill(store: Path, archive: Path, scratch: Path, programs: Mapping[str, str], log: Path) -> None:
    """Import the archive into the containerd root `store`, unpacked."""
    scratch.mkdir(parents=True, exist_ok=True)
    settings, socket = scratch / "config.toml", scratch / "containerd.sock"
    settings.write_text(config(store, scratch))
    with shell.open_log(log) as stream:
        args = [programs["containerd"], "--config", str(settings)]
        nothing = subprocess.DEVNULL
        daemon = subprocess.Popen(args, stdout=stream, stderr=stream, stdin=nothing, start_new_session=True)
    try:
        _wait_for(socket, daemon, log)
        _import([programs["ctr"], "--address", str(socket), "--namespace", "k8s.io"], archive, log)
        _wait_discarded(store)
    finally:
        daemon.terminate()
        if not processes.wait_ended([daemon.pid]):
            daemon.kill()
        daemon.wait()
