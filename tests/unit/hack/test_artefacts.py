"""Built things are complete or not there, and damage heals."""

from pathlib import Path

import pytest

import artefacts


def build(folder: Path) -> None:
    (folder / "program").write_text("content")
    (folder / "program").chmod(0o755)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "thing-1234"


def ensure(target: Path) -> None:
    artefacts.ensure(target, target.parent / "locks" / "thing.lock", build)


def test_a_missing_artefact_is_built(target: Path) -> None:
    ensure(target)
    assert artefacts.is_intact(target)
    assert (target / "program").read_text() == "content"


def test_an_intact_artefact_is_not_built_again(target: Path) -> None:
    ensure(target)
    artefacts.ensure(target, target.parent / "lock", lambda _: pytest.fail("built again"))


@pytest.mark.parametrize("damage", ["truncate", "mode", "remove", "add", "stamp"])
def test_a_damaged_artefact_is_built_again(target: Path, damage: str) -> None:
    ensure(target)
    match damage:
        case "truncate":
            (target / "program").write_text("")
        case "mode":
            (target / "program").chmod(0o644)
        case "remove":
            (target / "program").unlink()
        case "add":
            (target / "stray").touch()
        case _:
            (target / artefacts.STAMP).write_text("{")
    assert not artefacts.is_intact(target)
    ensure(target)
    assert artefacts.is_intact(target)


def test_a_failed_build_leaves_nothing(target: Path) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        artefacts.ensure(target, target.parent / "lock", fail)
    assert not target.exists()
    assert not target.with_name(target.name + ".draft").exists()


def test_a_draft_of_a_killed_run_is_replaced(target: Path) -> None:
    draft = target.with_name(target.name + ".draft")
    draft.mkdir()
    (draft / "half").touch()
    ensure(target)
    assert not (target / "half").exists()


def test_the_digest_tells_where_one_input_ends() -> None:
    assert artefacts.digest("ab", "c") != artefacts.digest("a", "bc")


def test_the_tree_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = artefacts.tree_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = artefacts.tree_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, artefacts.tree_digest(tmp_path)}) == 3
