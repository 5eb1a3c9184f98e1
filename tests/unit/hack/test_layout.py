"""Where things are kept."""

from pathlib import Path

import pytest

import layout

HOME = Path("/home/someone")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/home/someone/.cache/manifestry"),
        ({"XDG_CACHE_HOME": "/var/cache/x"}, "/var/cache/x/manifestry"),
        ({"XDG_CACHE_HOME": ""}, "/home/someone/.cache/manifestry"),
        ({"MANIFESTRY_CACHE": "/data/m", "XDG_CACHE_HOME": "/var/cache/x"}, "/data/m"),
    ],
)
def test_the_environment_decides_the_cache_folder(environment: dict[str, str], expected: str) -> None:
    assert layout.cache_root(environment, HOME) == Path(expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "manifestry"), ({"MANIFESTRY_CLUSTER": ""}, "manifestry"), ({"MANIFESTRY_CLUSTER": "two"}, "two")],
)
def test_the_environment_decides_the_cluster(environment: dict[str, str], expected: str) -> None:
    assert layout.cluster_name(environment) == expected


def test_everything_of_a_cluster_is_in_its_own_folder() -> None:
    paths = layout.Layout(Path("/c")).cluster("two")
    assert paths.kubeconfig == Path("/c/clusters/two/kubeconfig")
    assert paths.audit_log.parent == paths.audit_folder
    assert paths.audit_folder.is_relative_to(paths.root)
