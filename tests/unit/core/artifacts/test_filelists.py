"""Uploads are merged into the files they are for; whatever is malformed passes as it is."""

from typing import Any

import pytest

from manifestry.core.artifacts import filelists

UPLOAD = {"digest": "sha256:" + "a" * 64, "sizeBytes": 5}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, []),
        ({"files": None, "fileUploads": {"a": UPLOAD}}, []),
        ({"files": [{"name": "a", "upload": {}}]}, [{"name": "a", "upload": {}}]),
        (
            {
                "files": [{"name": "a", "upload": {"x": 1}}, {"name": "b", "upload": {}}],
                "fileUploads": {"a": UPLOAD},
            },
            [{"name": "a", "upload": {"x": 1, **UPLOAD}}, {"name": "b", "upload": {}}],
        ),
        (
            {"files": [{"name": "a", "inline": {}}], "fileUploads": {"a": UPLOAD}},
            [{"name": "a", "inline": {}}],
        ),
        ({"files": [{"name": "a", "upload": {}}], "fileUploads": {"a": 7}}, [{"name": "a", "upload": {}}]),
        ({"files": [{"name": "a", "upload": {}}], "fileUploads": []}, [{"name": "a", "upload": {}}]),
        ({"files": [7, {"name": []}, {}], "fileUploads": {"a": UPLOAD}}, [7, {"name": []}, {}]),
    ],
)
def test_files_with_their_uploads(spec: dict[str, Any], expected: list[Any]) -> None:
    assert filelists.merged(spec) == expected
