"""How programs are built."""

from dataclasses import replace
from pathlib import Path

import pytest

import binaries
import shell
import versions

PINS = versions.load()
TABLE = binaries.recipes(PINS)
OUT = Path("/out")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("kb", "kb"),
        ("kubectl", "kb"),
        ("etcd", "kb"),
        ("ctr", "containerd"),
        ("containerd-shim-runc-v2", "containerd"),
        ("helm", "helm"),
    ],
)
def test_a_program_is_found_by_any_of_its_names(name: str, recipe: str) -> None:
    assert binaries.find(name, TABLE).name == recipe


def test_an_unknown_program_is_refused_with_the_known_ones() -> None:
    with pytest.raises(shell.UserError, match="kubectl"):
        binaries.find("nonsense", TABLE)


def test_own_modules_are_built_into_the_folder() -> None:
    args = binaries.command(TABLE["kb"], OUT)
    assert args[:2] == ["go", "build"]
    assert args[args.index("-o") + 1] == "/out/kb"
    assert f"gitVersion={PINS.kubernetes}" in args[args.index("-ldflags") + 1]


def test_public_programs_are_installed_at_the_pinned_version() -> None:
    recipe = TABLE["containerd"]
    args = binaries.command(recipe, OUT)
    assert args[:2] == ["go", "install"]
    assert all(arg.endswith(f"@{PINS.containerd}") for arg in args[-len(recipe.packages) :])
    assert binaries.environment(recipe, OUT)["GOBIN"] == "/out"


def test_runc_has_seccomp() -> None:
    assert "seccomp" in binaries.command(TABLE["runc"], OUT)
    assert binaries.environment(TABLE["runc"], OUT)["CGO_ENABLED"] == "1"


def test_a_new_version_is_a_new_key() -> None:
    bumped = binaries.recipes(replace(PINS, kind="v9.9.9"))
    assert binaries.key(bumped["kind"]) != binaries.key(TABLE["kind"])
    assert binaries.key(bumped["helm"]) == binaries.key(TABLE["helm"])


def test_a_changed_module_is_a_new_key(tmp_path: Path) -> None:
    (tmp_path / "pause").mkdir()
    (tmp_path / "pause" / "main.go").write_text("package main")
    first = binaries.key(TABLE["pause"], tmp_path)
    (tmp_path / "pause" / "main.go").write_text("package main // changed")
    assert binaries.key(TABLE["pause"], tmp_path) != first
