"""The rooms of the house and their layers: which may import which, and which do.

    python tests/rooms.py [TREE]

Prints what each room of compressor/, plugins/ and cli.py imports, lowest layer first, then every
import that points upwards with its file and line. The exit code is 1 if there are any.

An import inside a function counts, one under TYPE_CHECKING does not. A room is a folder, or some
modules beside the folders. It may import rooms of lower layers only, not of its own; and what uses
models never imports what makes them.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# Lowest first; each room with its folder or its modules.
LAYERS: tuple[dict[str, str], ...] = (
    {"base": "errors log progress spec files interrupts runtime summaries onnx_bytes untrusted"},
    {"manifests": "manifests"},
    {"data": "data", "entropy": "entropy"},
    {"model": "model packing resume", "codecs": "codecs", "bottleneck": "bottleneck"},
    {"engine": "engine", "contract": "plugin likelihood normalisation"},
    {"report": "report", "networks": "networks", "registry": "registry"},
    {"archive": "archive", "anomaly": "anomaly", "export": "export"},
    {"retrieval": "retrieval", "latent": "latent"},
    {"inspection": "inspection", "datasets": "datasets", "zarr": "zarr", "training": "training"},
    {"verbs": "verbs", "testing": "testing"},
    {"sklearn": "sklearn"},
    {"face": "__init__"},
    {"cli": "cli __main__ streams", "plugins": "plugins"},
)
# What needs torch. All others use models without it, but for the doors to both halves, which load
# the making one when it is asked for: tests/test_imports.py takes torch away from them.
MAKING = {
    *("bottleneck", "contract", "networks", "export", "training"),
    *("testing", "datasets", "plugins"),
}
DOORS = {"registry", "verbs", "sklearn", "face", "cli"}
FOR_PLUGINS = {"base", "contract", "networks"}  # all that plugins/ may import

LAYER = {room: number for number, layer in enumerate(LAYERS) for room in layer}
ROOM = {name: room for layer in LAYERS for room, names in layer.items() for name in names.split()}

Arrow = tuple[str, str, str]  # from a room, to a room, file:line


def files(tree: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each file, and its place below compressor: ["anomaly", "score"], ["cli"]."""
    for path in sorted((tree / "compressor").rglob("*.py")):
        yield path, list(path.relative_to(tree / "compressor").with_suffix("").parts)
    for path in sorted((tree / "plugins").rglob("*.py")):
        yield path, list(path.relative_to(tree).with_suffix("").parts)
    yield tree / "cli.py", ["cli"]


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a file but what is under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child)


def imported(node: ast.AST, place: list[str]) -> set[str]:
    """The folders and modules right below compressor that a node imports."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = ["compressor", *place][: -node.level] if node.level else []
        package += node.module.split(".") if node.module else []
        names = [[*package, alias.name] for alias in node.names]
    elif place[0] in ("verbs", "__init__") and isinstance(node, ast.Constant):
        loaded = str(node.value).split(".")  # ".training.train", when it is asked for
        return {loaded[1]} & ROOM.keys() if loaded[0] == "" and loaded[1:] else set()
    else:
        return set()
    below = [name[1:] for name in names if name[0] == "compressor"]
    # "from . import train": what is no module is the face's, but for the version.
    return {
        name[0] if name and name[0] in ROOM else "__init__"
        for name in below
        if name != ["__version__"] and (len(name) < 2 or name[0] in ROOM)
    }


def arrows(tree: Path) -> Iterator[Arrow]:
    """Every import of one room by another."""
    for path, place in files(tree):
        here = ROOM.get(place[0], "")
        for node in nodes(ast.parse(path.read_text())) if here else ():
            for there in sorted({ROOM[name] for name in imported(node, place)} - {here}):
                assert isinstance(node, ast.stmt | ast.expr)
                yield here, there, f"{path.relative_to(tree)}:{node.lineno}"


def wrong(arrow: Arrow) -> str | None:
    """Why an import may not be, or None."""
    here, there, where = arrow
    if LAYER[there] >= LAYER[here]:
        return f"{where}: {here} imports {there}, which is not below it"
    if there in MAKING and here not in MAKING | DOORS:
        return f"{where}: {here} uses models and imports {there}, which makes them"
    if here == "plugins" and there not in FOR_PLUGINS:
        return f"{where}: {here} imports {there}, which is not for plugins"
    return None


def homeless(tree: Path) -> set[str]:
    """What lies in compressor/ and has no room in LAYERS."""
    return {f"compressor/{place[0]}" for _, place in files(tree) if place[0] not in ROOM}


def main(tree: Path) -> int:
    found = list(arrows(tree))
    there: dict[str, set[str]] = defaultdict(set)
    for room, other, _ in found:
        there[room].add(other)
    for room in LAYER:
        half = "making" if room in MAKING else "both" if room in DOORS else "using"
        targets = ", ".join(sorted(there[room], key=lambda other: (LAYER[other], other)))
        print(f"{LAYER[room] + 1:2} {half:6} {room} -> {targets}".rstrip(" ->"))
    faults = [fault for fault in map(wrong, found) if fault]
    faults += [f"{name}: in no room of tests/rooms.py" for name in sorted(homeless(tree))]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1]))
