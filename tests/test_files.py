"""Outputs: what is never replaced, and what survives a rename that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import OutputError
from compressor.files import atomic_folder, merging_folder, refuse_input, refuse_irreplaceable


def test_an_output_is_no_input_and_holds_none(tmp_path: Path) -> None:
    data = tmp_path / "set" / "images.npz"
    data.parent.mkdir()
    data.write_bytes(b"images")
    for output in (data, data.parent, tmp_path):
        with pytest.raises(OutputError, match="holds the input"):
            refuse_input(output, f"{data}::train")
    refuse_input(data.parent / "model", data, None)
    refuse_input(tmp_path / "new", data.parent)


def test_force_spares_a_folder_of_ours_that_holds_other_files_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    manifest = '{"format": "compressor-model", "files": {"prior.bin": {}}}'
    (tmp_path / "m" / "manifest.json").write_text(manifest)
    (tmp_path / "m" / "prior.bin").write_bytes(b"")
    refuse_irreplaceable(tmp_path / "m", True, "compressor-model")
    (tmp_path / "m" / "raw").mkdir()
    (tmp_path / "m" / "raw" / "photo.png").write_bytes(b"precious")
    with pytest.raises(OutputError, match="does not replace other data"):
        refuse_irreplaceable(tmp_path / "m", True, "compressor-model")


def test_what_stood_there_comes_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_bytes(b"old")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError), atomic_folder(output, force=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (output / "old").read_bytes() == b"old"


def test_what_a_killed_process_left_in_a_folder_goes_and_what_a_running_one_writes_stays(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getppid()):
        (tmp_path / f".images.{process}.partial").mkdir()
    with merging_folder(tmp_path, force=True) as folder:
        (folder / "a.png").write_bytes(b"a")
    assert {entry.name for entry in tmp_path.iterdir()} == {
        f".images.{os.getppid()}.partial",
        "a.png",
    }
