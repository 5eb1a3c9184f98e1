"""The files of an artifact, each with what was uploaded for it.

What REST has published of a file stands in `spec.fileUploads`, not in the file's own `upload`: a client-side
`kubectl apply` replaces a list as a whole, and would take away again what its manifest does not have.
"""

from collections.abc import Mapping
from typing import Any

Item = Mapping[str, Any]


def merged(spec: Mapping[str, Any]) -> list[Any]:
    """Return `spec.files`, with `fileUploads` merged into each file's `upload`; empty when there are none.

    What is malformed is returned as it is: whoever reads it says so.
    """
    files, recorded = spec.get("files"), spec.get("fileUploads")
    if not isinstance(files, list):
        return []
    return [_with_upload(item, recorded) if isinstance(recorded, Mapping) else item for item in files]


def _with_upload(item: Any, recorded: Mapping[str, Any]) -> Any:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        return item
    upload, found = item.get("upload"), recorded.get(item["name"])
    if not isinstance(upload, Mapping) or not isinstance(found, Mapping):
        return item
    return {**item, "upload": {**upload, **found}}
