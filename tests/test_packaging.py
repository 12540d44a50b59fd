"""The wheel, built from the sdist: every file of the tree, and what starts the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"compressor": "compressor", "plugins": "compressor/plugins"}
OUTSIDE = ("cli.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def belonging(tree: Path) -> set[str]:
    """The names in the wheel of every file in compressor/ and plugins/, and of cli.py."""
    return {"compressor/cli/__init__.py"} | {
        f"{package}/{path.relative_to(tree / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (tree / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def contents(wheel: Path) -> set[str]:
    """The names in a wheel, but for its metadata."""
    with zipfile.ZipFile(wheel) as names:
        return {name for name in names.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packed, with a new folder in it that no list names."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in OUTSIDE:
        shutil.copy(ROOT / name, tree / name)
    new = tree / "compressor" / "some" / "room"
    new.mkdir(parents=True)
    for path in (new.parent / "__init__.py", new / "__init__.py", new / "page.html"):
        path.write_text("")
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", folder, tree]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_file_of_the_tree_and_no_other(tree: Path, wheel: Path) -> None:
    wanted = belonging(tree)
    assert "compressor/some/room/page.html" in wanted
    assert contents(wheel) == wanted


def test_an_installed_wheel_starts_and_finds_its_plugins(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path, wheel], check=True)
    command = [tmp_path / "bin" / "compressor", "plugins", "--json", "--check"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    plugins = json.loads(done.stdout)
    assert {plugin["status"] for plugin in plugins} == {"ok"}
    names = {path.stem for path in (ROOT / "plugins").glob("*.py")} - {"__init__"}
    assert {plugin["name"] for plugin in plugins} >= names
