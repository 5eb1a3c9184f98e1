"""The pinned versions: one file says them, and every file that has to repeat one agrees."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = tomllib.loads((ROOT / "hack" / "versions.toml").read_text())
MODULES = ROOT / "hack" / "kind" / "go"


def required(folder: str, module: str) -> str:
    text = (MODULES / folder / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    assert found, f"{folder}/go.mod does not require {module}"
    return found[1]


@pytest.mark.parametrize(
    ("folder", "module", "pin"),
    [
        ("kb", "k8s.io/kubernetes", PINS["kubernetes"]["version"]),
        ("kb", "k8s.io/component-base", PINS["kubernetes"]["staging"]),
        ("kb", "go.etcd.io/etcd/server/v3", PINS["etcd"]["version"]),
        ("coredns", "github.com/coredns/coredns", PINS["coredns"]["version"]),
        ("crictl", "sigs.k8s.io/cri-tools", PINS["crictl"]["version"]),
        (
            "local-path-provisioner",
            "github.com/rancher/local-path-provisioner",
            PINS["local_path_provisioner"]["version"],
        ),
    ],
)
def test_go_mod_requires_the_pinned_version(folder: str, module: str, pin: str) -> None:
    assert required(folder, module) == pin


def test_every_staging_module_is_replaced_by_the_pinned_release() -> None:
    text = (MODULES / "kb" / "go.mod").read_text()
    replaced = dict(re.findall(r"^\s*(?:replace )?(k8s\.io/\S+) => \S+ (v\S+)", text, re.MULTILINE))
    assert replaced
    assert set(replaced.values()) == {PINS["kubernetes"]["staging"]}


def test_staging_is_the_same_release_as_kubernetes() -> None:
    release = PINS["kubernetes"]["version"].split(".", 1)[1]
    assert PINS["kubernetes"]["staging"].split(".", 1)[1] == release


def test_etcd_image_tag_names_the_pinned_etcd() -> None:
    assert f"v{PINS['etcd']['image_tag'].split('-')[0]}" == PINS["etcd"]["version"]


def test_stock_node_image_is_of_the_same_minor_release() -> None:
    tag = re.search(r":(v\d+\.\d+)\.\d+@sha256:[0-9a-f]{64}$", PINS["kind"]["node_image"])
    assert tag
    assert PINS["kubernetes"]["version"].startswith(tag[1] + ".")


def test_the_lock_file_has_the_pinned_uv() -> None:
    lock = (ROOT / "hack" / "requirements" / "dev.txt").read_text()
    assert re.search(rf"^uv=={re.escape(PINS['uv']['version'])}\b", lock, re.MULTILINE)
