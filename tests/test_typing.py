"""mypy finds the package's types from a program outside of the checkout: see typed in Makefile."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
from compressor import verbs
from compressor.plugins.vae import VAE
from compressor.sklearn import AutoencoderDetector

reveal_type(verbs.plugins())
reveal_type(VAE.penalty)
reveal_type(AutoencoderDetector())
"""


def test_mypy_finds_the_types_from_a_users_program(tmp_path: Path) -> None:
    """In an environment that knows of the package what ``make typed`` tells it, and nothing else.

    Without the libraries that the package imports, which are Any then, mypy needs a few seconds.
    """
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    make = ["make", "--silent", "-C", str(ROOT), f"VENV={environment}", "typed"]
    subprocess.run(make, check=True, capture_output=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable"]
    done = subprocess.run(
        [*mypy, environment / "bin" / "python", "program.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert not done.stderr
    plugins, penalty, detector, end = done.stdout.splitlines()
    assert plugins.endswith('type is "list[dict[str, Any]]"')
    assert "compressor.plugins.vae.VAE" in penalty
    assert detector.endswith('type is "compressor.sklearn.AutoencoderDetector"')
    assert end.startswith("Success")
