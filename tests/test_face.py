"""What ``import compressor`` gives, and that it gives it late."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import compressor
from compressor import verbs


@pytest.mark.parametrize("module", [compressor, verbs])
def test_all_is_sorted_complete_and_in_dir(module) -> None:
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) - {"__version__"} == set(module._MODULES)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_names_are_those_of_their_modules() -> None:
    assert compressor.verbs is verbs
    assert compressor.errors is importlib.import_module("compressor.errors")
    assert compressor.Model is importlib.import_module("compressor.model").Model
    assert compressor.Archive is importlib.import_module("compressor.archive.reader").Archive
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        compressor.nothing  # noqa: B018


def test_importing_compressor_loads_nothing_else() -> None:
    code = "import sys, json, compressor; dir(compressor); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in json.loads(done.stdout) if name.startswith("compressor")]
    assert ours == ["compressor"]


def test_the_command_line_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "compressor", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert compressor.__version__ in done.stdout
