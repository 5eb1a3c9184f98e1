"""Count the rooms of each layer and the arrows between them; fail on a circle, a crowd or a long file.

A room is a folder with the modules directly in it, an arrow a room that imports another; `-v` shows them.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("manifestry.core", "manifestry.adapters", "manifestry.handlers", "manifestry_api")
MODULES_MAX, LINES_MAX = 16, 400


def modules() -> dict[str, Path]:
    """Return every module of the two packages by its dotted name."""
    files = [(root, path) for root in (ROOT / "operator", ROOT / "api") for path in root.rglob("*.py")]
    return {
        ".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for root, p in files
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    named = {(f"{node.module}.{alias.name}", str(node.module)) for node in nodes for alias in node.names}
    return {full if full in known else module for full, module in named if {full, module} & known.keys()}


def judge(layer: str, known: dict[str, Path]) -> list[str]:
    """Print what a layer has, and return what is wrong with it."""
    rooms = {name: name if p.name == "__init__.py" else name.rpartition(".")[0] for name, p in known.items()}
    inside = [name for name in known if name.startswith(f"{layer}.") and rooms[name] != layer]
    pairs = {(rooms[name], rooms[other]) for name in inside for other in imports(known[name], known)}
    arrows = sorted((a, b) for a, b in pairs if a != b and b.startswith(f"{layer}."))
    sizes = {
        room: sum(rooms[name] == room != name for name in known) for room in {layer, *map(rooms.get, inside)}
    }
    print(
        f"{layer}: {len(sizes) - 1} rooms, {len(arrows)} arrows, at most {max(sizes.values())} modules in one"
    )
    print("".join(f"  {a} -> {b}\n" for a, b in arrows if "-v" in sys.argv), end="")
    bad = [f"{room} has {size} modules" for room, size in sizes.items() if size > MODULES_MAX]
    try:
        TopologicalSorter({room: {b for a, b in arrows if a == room} for room in sizes}).prepare()
        return bad
    except CycleError as error:
        return [*bad, f"{layer} has a circle: {error.args[1]}"]


def main() -> str:
    """Return what has outgrown its room, empty for nothing."""
    known = modules()
    bad = [line for layer in LAYERS for line in judge(layer, known)]
    bad += [f"{path} is long" for path in known.values() if path.read_text().count("\n") > LINES_MAX]
    return "\n".join(bad)


sys.exit(main() or 0)
