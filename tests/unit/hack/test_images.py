"""System images, root file systems and the project's own image."""

import json
import shlex
from pathlib import Path

import pytest

import appimage
import builders
import ociarchive
import rootfs
import shell
import systemimages
import versions
from ociarchive import Blob

SOURCE = """package nodeimage

const storageProvisionerImage = "example/provisioner:v1"
const storageHelperImage = "example/helper:v2"

const defaultStorageManifest = `
kind: Deployment
image: ` + storageProvisionerImage + `
helper: ` + storageHelperImage + `
---
`
"""


def test_kinds_storage_is_read_out_of_its_source() -> None:
    storage = systemimages.parse_storage(SOURCE)
    assert storage.manifest.splitlines() == [
        "kind: Deployment",
        "image: example/provisioner:v1",
        "helper: example/helper:v2",
        "---",
    ]


@pytest.mark.parametrize("missing", ["storageHelperImage =", "defaultStorageManifest"])
def test_an_unexpected_source_is_refused(missing: str) -> None:
    with pytest.raises(shell.UserError, match="adapt"):
        systemimages.parse_storage(SOURCE.replace(missing, "other ="))


def test_every_image_that_kubeadm_asks_for_is_named() -> None:
    pins = versions.load()
    names = systemimages.names(pins, systemimages.parse_storage(SOURCE))
    assert names[f"registry.k8s.io/kube-proxy:{pins.kubernetes}"] == "/usr/local/bin/kube-proxy"
    assert names[f"registry.k8s.io/etcd:{pins.etcd_image_tag}"] == "/usr/local/bin/etcd"
    assert names["example/helper:v2"] == "/bin/sh"
    assert len(names) == 8 + len(pins.pause_image_tags)


def test_libraries_are_read_from_ldd() -> None:
    listing = """/usr/sbin/nft:
\tlinux-vdso.so.1 (0x00007ffe)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
/usr/sbin/other:
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
"""
    assert systemimages.linked_libraries(listing) == [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
    ]


def test_images_share_the_layer_and_differ_in_configuration() -> None:
    files = ociarchive.documents({"a:1": "/a", "b:1": "/b"}, Blob("0" * 64, 10), "amd64")
    index = json.loads(files["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index] == ["a:1", "b:1"]
    manifests = [json.loads(files["blobs/sha256/" + entry["digest"].split(":")[1]]) for entry in index]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    assert manifests[0]["config"]["digest"] != manifests[1]["config"]["digest"]


def test_no_package_host_is_named() -> None:
    args = rootfs.command(rootfs.python("bookworm"), Path("/o/root.tar"))
    assert args[-2:] == ["bookworm", "/o/root.tar"]
    assert not any("://" in arg for arg in args)


def test_what_a_root_file_system_is_made_of_names_it() -> None:
    assert rootfs.node("bookworm").key != rootfs.node("trixie").key


DOCKERFILE = "ARG BASE_IMAGE=python:3-slim\nFROM ${BASE_IMAGE}\nARG PIP_INDEX_URL\n"


def test_the_base_image_is_the_dockerfiles_default() -> None:
    assert appimage.default_base(DOCKERFILE, "other") == "python:3-slim"
    assert appimage.default_base("FROM scratch\n", "other") == "other"


def test_only_declared_pip_settings_are_passed_on() -> None:
    names = appimage.declared(DOCKERFILE)
    environment = {"PIP_EXTRA_INDEX_URL": "e", "PIP_INDEX_URL": ""}
    assert appimage.pip_settings(environment, "configured", names) == {"PIP_INDEX_URL": "configured"}


def test_values_that_may_be_secret_stay_off_the_command_line() -> None:
    plan = appimage.Plan(
        "docker",
        "t:1",
        Path("/r/Dockerfile"),
        Path("/r"),
        {"BASE_IMAGE": "b"},
        {"PIP_INDEX_URL": "s3cret"},
        True,
    )
    command = "docker build --tag t:1 --file /r/Dockerfile --network host"
    assert shlex.join(appimage.command(plan)) == (
        f"{command} --build-arg BASE_IMAGE=b --build-arg PIP_INDEX_URL /r"
    )


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("kindest/node:v1", "docker.io/kindest/node:v1"),
        ("localhost/manifestry:dev", "localhost/manifestry:dev"),
        ("mirror.example/python:3", "mirror.example/python:3"),
        ("mirror:5000/python:3", "mirror:5000/python:3"),
    ],
)
def test_a_short_image_name_is_docker_hubs(image: str, full: str) -> None:
    assert builders.qualified(image) == full


@pytest.mark.parametrize("name", builders.OTHERS)
def test_podman_and_buildah_are_told_the_registry_and_use_the_machines_network(name: str) -> None:
    builder = builders.Builder(name)
    assert builder.machine_network
    assert builder.full_name("python:3.11-slim") == "docker.io/library/python:3.11-slim"


@pytest.mark.parametrize("name", ["docker", *builders.OTHERS])
def test_a_root_file_system_becomes_an_image_that_runs_python(name: str) -> None:
    commands = builders.import_commands(name, Path("/c/root.tar"), "localhost/base:1")
    words = [word for command in commands for word in command]
    assert {"/c/root.tar", "localhost/base:1"} <= set(words)
    assert any(builders.PATH in word for word in words)
    assert commands[-1][-1] == "localhost/base:1"
