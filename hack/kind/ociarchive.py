"""Write an OCI archive of many images that share one layer and differ in name and entry point."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import host

OCI = "application/vnd.oci.image"
PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A piece of content by its digest and size."""

    digest: str
    size: int

    def descriptor(self, media_type: str, **more: Any) -> dict[str, Any]:
        """Return the OCI descriptor of this blob."""
        return {"mediaType": media_type, "digest": f"sha256:{self.digest}", "size": self.size, **more}


def encode(document: Any) -> bytes:
    """Encode JSON the same way every time, since its digest names it."""
    return json.dumps(document, sort_keys=True).encode()


def blob_of(data: bytes) -> Blob:
    """Return the blob of some bytes."""
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


def image_config(name: str, entry_point: str, layer: Blob, architecture: str) -> bytes:
    """Return the OCI image configuration; the name makes each image's ID its own."""
    return encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [entry_point], "Env": [PATH]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}"]},
            "history": [{"created_by": f"hack/kind {name}"}],
        }
    )


def manifest(config: Blob, layer: Blob) -> bytes:
    """Return the OCI manifest of one image."""
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": config.descriptor(f"{OCI}.config.v1+json"),
            "layers": [layer.descriptor(f"{OCI}.layer.v1.tar")],
        }
    )


def documents(images: Mapping[str, str], layer: Blob, architecture: str) -> dict[str, bytes]:
    """Return every small file of the archive by its path.

    Args:
        images: image name to entry point.
        layer: the one layer of all of them.
        architecture: in Go's words.
    """
    files: dict[str, bytes] = {"oci-layout": encode({"imageLayoutVersion": "1.0.0"})}
    index = []
    for name, entry_point in images.items():
        config = image_config(name, entry_point, layer, architecture)
        body = manifest(blob_of(config), layer)
        for data in (config, body):
            files[f"blobs/sha256/{blob_of(data).digest}"] = data
        index.append(
            blob_of(body).descriptor(
                f"{OCI}.manifest.v1+json",
                platform={"architecture": architecture, "os": "linux"},
                annotations={"io.containerd.image.name": name},
            )
        )
    files["index.json"] = encode(
        {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": index}
    )
    return files


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _write_layer(root: Path, path: Path) -> Blob:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in sorted(root.iterdir()):
            archive.add(entry, arcname=entry.name, filter=_anonymous)
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            total.update(chunk)
    return Blob(total.hexdigest(), path.stat().st_size)


def write(path: Path, root: Path, images: Mapping[str, str]) -> None:
    """Write the archive of `images`, all made of the folder `root`."""
    layer_path = path.with_suffix(".layer")
    layer = _write_layer(root, layer_path)
    with tarfile.open(path, "w") as archive:
        for name, data in documents(images, layer, host.architecture()).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        archive.add(layer_path, arcname=f"blobs/sha256/{layer.digest}", filter=_anonymous)
    layer_path.unlink()
