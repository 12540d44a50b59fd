"""The wheel: one top-level name, the console script, and the files that belong into it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_has_one_top_level_name_and_everything_it_needs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"compressor"}
    for wanted in (
        "compressor/cli/__init__.py",
        "compressor/plugins/undercomplete.py",
        "compressor/archive/FORMAT.md",
        "compressor/report/page.html",
        "compressor/py.typed",
    ):
        assert wanted in names
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    content = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "compressor = compressor.cli:main" in content
    assert "undercomplete = compressor.plugins.undercomplete:Undercomplete" in content
