"""Imports that point upwards are found, wherever they stand; the house itself has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def rooms(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tests" / "rooms.py", tree]
    return subprocess.run(command, capture_output=True, text=True)


def build(tree: Path, files: dict[str, str]) -> Path:
    for name, text in {"cli.py": "", **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def test_no_import_of_the_house_points_upwards() -> None:
    done = rooms(ROOT)
    assert done.returncode == 0, done.stderr
    assert " archive -> base, " in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("compressor/files.py", "\nfrom .model import Model\n", "base imports model"),
        ("compressor/data/a.py", "\nfrom ..entropy import coder\n", "data imports entropy"),
        ("compressor/data/a.py", "def f():\n    import compressor.zarr\n", "data imports zarr"),
        ("compressor/spec.py", "\nfrom . import verbs\n", "base imports verbs"),
        ("compressor/spec.py", "\nfrom . import train\n", "base imports face"),
        ("compressor/report/a.py", "\nfrom ..plugin import P\n", "report uses models"),
        ("compressor/training/a.py", "\nfrom ..plugins import vae\n", "training imports plugins"),
        ("plugins/vae.py", "\nfrom compressor.training import loop\n", "plugins imports training"),
        ("compressor/verbs.py", "M = {\n    'f': '.sklearn'}\n", "verbs imports sklearn"),
    ],
)
def test_an_arrow_upwards_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, fault: str
) -> None:
    done = rooms(build(tmp_path, {name: text}))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}:2: {fault}")


def test_a_folder_in_no_room_is_named(tmp_path: Path) -> None:
    done = rooms(build(tmp_path, {"compressor/attic/boxes.py": "", "compressor/verbs.py": ""}))
    assert done.returncode == 1
    assert done.stderr == "compressor/attic: in no room of tests/rooms.py\n"


def test_what_points_downwards_and_what_only_types_need_is_no_fault(tmp_path: Path) -> None:
    files = {
        "compressor/model.py": "from . import __version__\nfrom .entropy.coder import encode\n",
        "compressor/spec.py": "if TYPE_CHECKING:\n    from .model import Model\n",
        "compressor/verbs.py": "M = {'train': '.training.train', 'all': '.npy'}\n",
        "compressor/__init__.py": "def __getattr__(name):\n    from . import verbs\n",
        "plugins/vae.py": "from . import sparse\nfrom compressor.networks import blocks\n",
    }
    done = rooms(build(tmp_path, files))
    assert done.returncode == 0, done.stderr
    assert "verbs -> training\n" in done.stdout and "face -> verbs\n" in done.stdout
