"""What tests of uploads over HTTP have in common."""

import base64
import hashlib
from typing import Any

from manifestry.core.kube import names
from manifestry_api.objects import views
from tests.unit.api.routes.site import NAMESPACE, TENANT_UID, Reply, Site

DATA = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
PARTIAL = {"Content-Type": "application/partial-upload"}


def field(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def artifact(site: Site, name: str = "a", **body: Any) -> None:
    made = await site.call(
        "POST", "/artifacts", {"name": name, "mediaType": "application/zip", "upload": {}, **body}
    )
    assert (made.status, made.json["status"]) == (202, "awaiting-upload")


async def begin(site: Site, name: str = "a", **headers: str) -> str:
    made = await site.call("POST", f"/artifacts/{name}/uploads", headers=headers)
    assert made.status == 201, made.data
    views.UploadView.model_validate(made.json)
    assert made.headers["Location"] == made.json["links"]["self"]
    return made.headers["Location"]


async def patch(
    site: Site, path: str, offset: int | str, data: Any, *, last: bool = False, **headers: str
) -> Reply:
    stated = {"Upload-Offset": str(offset), "Upload-Complete": "?1" if last else "?0"}
    return await site.call("PATCH", path, data=data, headers={**PARTIAL, **stated, **headers})


async def head(site: Site, path: str) -> tuple[int, str | None, str | None]:
    found = await site.call("HEAD", path)
    return found.status, found.headers.get("Upload-Offset"), found.headers.get("Upload-Complete")


def recorded(site: Site, name: str = "a") -> dict[str, Any]:
    found = site.cluster.find(names.ARTIFACTS, name, NAMESPACE)
    assert found is not None
    return dict(found["spec"]["upload"])


def files(site: Site) -> list[str]:
    root = site.world.ports.store.local_path(TENANT_UID, DIGEST)
    assert root is not None
    return sorted(
        str(path.relative_to(root.parents[6])) for path in root.parents[6].rglob("*") if path.is_file()
    )
