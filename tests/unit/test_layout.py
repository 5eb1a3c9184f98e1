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


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_file_is_longer_than_five_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
