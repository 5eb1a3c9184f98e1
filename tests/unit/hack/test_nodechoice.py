"""Which node image is taken. Docker is a script here that knows some images and can pull some."""

from dataclasses import replace
from pathlib import Path

import pytest

import host
import nodechoice
import nodeimage
import shell
import versions
from engine import Engine
from layout import Layout

STOCK, OWN, GIVEN = "stock:1", "own:1", "mirror.example/kindest/node:v1"
PINS = replace(versions.load(), kind_node_image=STOCK)
DOCKER = """#!/bin/sh
cd FOLDER
case "$1 $2" in
  "image inspect") grep -qx "$3" present ;;
  "info --format") cat cgroup ;;
  pull*) echo "$2" >> asked; grep -qx "$2" pullable || { echo "no such host" >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.replace("FOLDER", str(tmp_path)))
    docker.chmod(0o755)
    for name in ("present", "pullable", "asked"):
        (tmp_path / name).touch()
    (tmp_path / "cgroup").write_text("2\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(nodeimage, "own_tag", lambda _: OWN)
    monkeypatch.setattr(nodeimage, "build", lambda *_: (tmp_path / "built").touch())
    monkeypatch.setattr(host, "is_root", lambda: True)
    return Engine(False)


def choose(tmp_path: Path, engine: Engine, pins: versions.Versions = PINS) -> str:
    return nodechoice.ensure(engine, Layout(tmp_path), pins)


@pytest.mark.parametrize(
    ("machine", "image", "is_built"),
    [
        ({"present": f"{STOCK}\n{OWN}"}, STOCK, False),
        ({"present": OWN, "pullable": STOCK}, OWN, False),
        ({"pullable": STOCK}, STOCK, False),
        ({}, OWN, True),
        # On cgroup v1 the stock image does not boot.
        ({"present": STOCK, "pullable": STOCK, "cgroup": "1"}, OWN, True),
        ({"present": f"{STOCK}\n{OWN}", "cgroup": "1"}, OWN, False),
    ],
)
def test_the_stock_image_is_the_first_choice_where_it_boots(
    tmp_path: Path, engine: Engine, machine: dict[str, str], image: str, *, is_built: bool
) -> None:
    for name, text in machine.items():
        (tmp_path / name).write_text(text)
    assert choose(tmp_path, engine) == image
    assert (tmp_path / "built").exists() is is_built


def test_a_given_image_is_pulled_on_any_machine(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "pullable").write_text(GIVEN)
    (tmp_path / "cgroup").write_text("1")
    pins = versions.chosen(PINS, {"MANIFESTRY_NODE_IMAGE": GIVEN})
    assert choose(tmp_path, engine, pins) == GIVEN
    assert (tmp_path / "asked").read_text().split() == [GIVEN]


def test_a_given_image_that_cannot_be_pulled_is_an_error(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "present").write_text(OWN)
    pins = versions.chosen(PINS, {"MANIFESTRY_NODE_IMAGE": GIVEN})
    with pytest.raises(shell.UserError, match="no such host"):
        choose(tmp_path, engine, pins)
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize(("cgroup", "reason"), [("1", "cgroup v1"), ("2", "no registry")])
def test_without_root_the_reason_why_one_must_be_built_is_told(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, cgroup: str, reason: str
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    monkeypatch.setattr(host, "is_root", lambda: False)
    with pytest.raises(shell.MissingError, match=reason):
        choose(tmp_path, engine)
