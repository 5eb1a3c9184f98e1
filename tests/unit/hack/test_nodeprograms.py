"""Programs that are taken out of a kind node."""

import io
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import artefacts
import nodeimage
import nodeprograms
import nodesources
import shell
import versions
from engine import Engine
from layout import Layout
from nodesources import Source

PINS = replace(versions.load(), kubernetes="v1.37.2")
SOURCE = Source("sha256:1", "v1.37.0", "one-control-plane")


def write_layer(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as layer:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            layer.addfile(entry, io.BytesIO(data))


def keep(layout: Layout, version: str, age: int) -> Path:
    folder = layout.artefacts / f"{nodeprograms.PREFIX}-{version}-0"
    artefacts.ensure(folder, layout.lock("x"), lambda draft: (draft / "kb").touch())
    os.utime(folder, (age, age))
    return folder


@pytest.mark.parametrize(
    ("version", "wanted"), [("v1.37.0", True), ("v1.37.9-rc.1", True), ("v1.3.7", False), ("v1.36.1", False)]
)
def test_any_patch_of_the_minor_release_will_do(version: str, wanted: bool) -> None:
    assert nodesources.is_wanted(version, PINS) is wanted


def test_another_node_image_is_another_folder() -> None:
    layout = Layout(Path("/c"))
    first = nodeprograms.folder(SOURCE, layout)
    assert first.name.startswith("kb-of-node-v1.37.0-")
    assert nodeprograms.folder(replace(SOURCE, node=""), layout) == first
    assert nodeprograms.folder(replace(SOURCE, image="sha256:2"), layout) != first


def test_without_a_node_the_newest_copy_of_the_minor_release_is_taken(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert nodeprograms.cached(layout, PINS) is None
    keep(layout, "v1.36.5", 9)
    keep(layout, "v1.37.1", 3)
    newest = keep(layout, "v1.37.0", 5)
    broken = keep(layout, "v1.37.2", 7)
    (broken / "kb").unlink()
    assert nodeprograms.cached(layout, PINS) == newest


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_programs_are_read_out_of_a_layer(tmp_path: Path, mode: str) -> None:
    files = {"usr/local/bin/etcd": b"\x7fELF", "usr/local/bin/etcdctl": b"no", "usr/share/etcd": b"no"}
    write_layer(tmp_path / "blob", files, mode)
    assert nodeprograms.extract(tmp_path / "blob", {"etcd", "kube-apiserver"}, tmp_path) == {"etcd"}
    assert (tmp_path / "etcd").read_bytes() == b"\x7fELF"


def test_a_hard_link_is_the_program_it_links_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "blob", "w") as layer:
        entry = tarfile.TarInfo("usr/local/bin/etcd-3.7")
        entry.size = 3
        layer.addfile(entry, io.BytesIO(b"elf"))
        link = tarfile.TarInfo("usr/local/bin/etcd")
        link.type, link.linkname = tarfile.LNKTYPE, entry.name
        layer.addfile(link)
    assert nodeprograms.extract(tmp_path / "blob", {"etcd"}, tmp_path) == {"etcd"}
    assert (tmp_path / "etcd").read_bytes() == b"elf"


@pytest.mark.parametrize(
    "content", [b'{"schemaVersion": 2}', b"", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08broken"]
)
def test_what_is_no_layer_holds_no_program(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blob").write_bytes(content)
    assert nodeprograms.extract(tmp_path / "blob", {"etcd"}, tmp_path) == set()


def test_the_dispatcher_becomes_the_program(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text(nodeprograms.DISPATCHER)
    (tmp_path / "etcd").write_text('#!/bin/sh\necho "$$ $*"\n')
    for name in ("kb", "etcd"):
        (tmp_path / name).chmod(0o755)
    child = subprocess.Popen(
        [tmp_path / "kb", "etcd", "--name=a b", "x"], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    out, _ = child.communicate(timeout=10)
    assert out == f"{child.pid} --name=a b x\n"


def test_a_program_that_no_node_gives_needs_go(tmp_path: Path) -> None:
    with pytest.raises(shell.MissingError, match="does not give `kubelet`"):
        nodeprograms.path("kubelet", Layout(tmp_path), PINS)


# Two nodes run; the stock image is there, the one built here is not.
DOCKER = """#!/bin/sh
case "$*" in
  "ps "*) printf 'b-control-plane\\na-control-plane\\n' ;;
  "inspect "*) echo "sha256:of-$4" ;;
  "exec a-control-plane "*) echo v1.30.0 ;;
  "exec b-control-plane "*) echo NODE ;;
  "image inspect "*own*) exit 1 ;;
  "image inspect "*) echo sha256:stock ;;
  "run "*) echo v1.37.0 ;;
esac
"""


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("v1.37.2", Source("sha256:of-b-control-plane", "v1.37.2", "b-control-plane")),
        ("v1.36.0", Source("sha256:stock", "v1.37.0")),
    ],
)
def test_a_running_node_of_the_minor_release_goes_before_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, found: Source
) -> None:
    (tmp_path / "docker").write_text(DOCKER.replace("NODE", node))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(nodeimage, "own_tag", lambda _: "own:1")
    assert nodesources.find(Engine(False), PINS) == found
