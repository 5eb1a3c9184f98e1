"""How the code lies in the repository."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "operator" / "manifestry", ROOT / "api" / "manifestry_api")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_operator_is_a_plain_folder_that_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "api" / "__init__.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), relative(path)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if path.name == "settings.py" and path.parent.name == "manifestry":
        return
    tree = ast.parse(path.read_text())
    reads = {"environ", "environb", "getenv", "putenv"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
    }
    assert not reads & (attributes | imported)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_function_is_longer_than_fifty_lines_of_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 50, f"{relative(path)}: {node.name}"


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=relative)
def test_no_file_is_longer_than_four_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [path for path in MODULES if "core" in path.parts], ids=relative)
def test_the_core_has_no_event_loop(path: Path) -> None:
    loops = ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, loops)]


ROOMS = [path for path in MODULES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", ROOMS, ids=relative)
def test_a_room_has_words_and_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [node.targets[0] for node in tree.body[1:] if isinstance(node, ast.Assign)]
    assert len(tree.body) == 1 + len(names), "no logic, no re-exports"
    assert all(isinstance(name, ast.Name) and name.id == "__version__" for name in names)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_name_is_imported_from_where_it_is_made(path: Path) -> None:
    assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    assert "__all__" not in [getattr(node.targets[0], "id", "") for node in assigned], "a re-export"


def test_the_map_has_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [relative(path.parent) for path in ROOMS if path.parent not in PACKAGES]
    assert [room for room in rooms if f"`{room}`" not in text] == []
