"""Outputs: what is never replaced, and what survives a rename that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import OutputError
from compressor.files import (
    atomic_file,
    atomic_folder,
    merging_folder,
    read_current,
    refuse_input,
    refuse_irreplaceable,
    write_together,
)

KINDS = [atomic_file, atomic_folder, merging_folder]


@pytest.fixture(params=["renameat2", "plain renames"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux does it, and as systems do that have no renameat2."""
    if request.param == "plain renames":
        monkeypatch.setattr("compressor.files._renameat2", lambda: None)


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def fill(path: Path, content: bytes) -> None:
    """Writes a file, or one in a folder."""
    (path / "new" if path.is_dir() else path).write_bytes(content)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_an_output_is_no_input_and_holds_none(tmp_path: Path) -> None:
    data = tmp_path / "set" / "images.npz"
    data.parent.mkdir()
    data.write_bytes(b"images")
    for output in (data, data.parent, tmp_path):
        with pytest.raises(OutputError, match="holds the input"):
            refuse_input(output, f"{data}::train")
    model = tmp_path / "model"
    model.mkdir()
    (model / "manifest.sha256").touch()
    with pytest.raises(OutputError, match="inside the input"):
        refuse_input(model / "new.csv", data, model)
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

    monkeypatch.setattr("compressor.files._renameat2", lambda: None)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError), atomic_folder(output, force=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (output / "old").read_bytes() == b"old"


def test_what_a_killed_process_left_in_a_folder_goes_and_what_a_running_one_writes_stays(
    tmp_path: Path, ended: int
) -> None:
    for process in (ended, os.getppid()):
        (tmp_path / f".images.{process}.partial").mkdir()
    with merging_folder(tmp_path, force=True) as folder:
        (folder / "a.png").write_bytes(b"a")
    assert names(tmp_path) == {f".images.{os.getppid()}.partial", "a.png"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_process_left_beside_an_output_goes_with_the_next_run(
    kind: Any, tmp_path: Path, ended: int
) -> None:
    if kind is merging_folder:
        (tmp_path / "out").mkdir()
    else:
        (tmp_path / "out").write_bytes(b"earlier")
    (tmp_path / f".out.{ended}.old").write_bytes(b"")
    (tmp_path / f".out.{ended}.partial").mkdir()
    others = {f".out.{os.getppid()}.partial", f".out2.{ended}.partial", "out.1"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with kind(tmp_path / "out", force=True) as new:
        fill(new, b"new")
    assert names(tmp_path) == {*others, "out"}


def test_the_work_to_resume_of_an_output_with_a_number_at_its_end_is_no_leftover(
    tmp_path: Path, ended: int
) -> None:
    other = tmp_path / f".out.{ended}.partial"  # of the output out.NUMBER, see resume.py
    other.mkdir()
    (other / "job.json").write_bytes(b"{}")
    with atomic_folder(tmp_path / "out", force=False):
        pass
    assert (other / "job.json").exists()


@pytest.mark.parametrize("process", ["ended", "own"])
def test_an_output_whose_process_was_killed_between_two_renames_comes_back(
    process: str, tmp_path: Path, ended: int
) -> None:
    """Where the system cannot exchange two folders in one step."""
    number = ended if process == "ended" else os.getpid()
    old = tmp_path / f".out.{number}.old"
    old.mkdir()
    (old / "mine").write_bytes(b"mine")
    with pytest.raises(OutputError, match="out exists"), atomic_folder(tmp_path / "out", False):
        pass
    assert names(tmp_path) == {"out"} and (tmp_path / "out" / "mine").exists()


# What comes while a job runs


@pytest.mark.parametrize("there", ["file", "folder", "empty folder", "link"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_meanwhile_is_not_replaced(
    kind: Any, there: str, tmp_path: Path, renames: None
) -> None:
    output = tmp_path / "out"
    with (
        pytest.raises(OutputError, match="out exists; give force=True"),
        kind(output, False) as new,
    ):
        fill(new, b"new")
        if there == "file":
            output.write_bytes(b"mine")
        elif there == "link":
            output.symlink_to("nowhere")
        else:
            output.mkdir()
            if there == "folder":
                (output / "mine").write_bytes(b"mine")
    assert names(tmp_path) == {"out"}
    if there == "folder":
        assert (output / "mine").read_bytes() == b"mine"
    elif there == "file":
        assert output.read_bytes() == b"mine"
    else:
        assert output.is_symlink() if there == "link" else not any(output.iterdir())


def test_with_force_it_is_replaced_and_a_folder_of_images_gets_more(
    tmp_path: Path, renames: None
) -> None:
    for kind in KINDS:
        output = tmp_path / kind.__name__
        with kind(output, True) as new:
            fill(new, b"new")
            if kind is atomic_file:
                output.write_bytes(b"mine")
            else:
                output.mkdir()
                (output / "mine").write_bytes(b"mine")
    assert names(tmp_path) == {kind.__name__ for kind in KINDS}
    assert (tmp_path / "atomic_file").read_bytes() == b"new"
    assert names(tmp_path / "atomic_folder") == {"new"}
    assert names(tmp_path / "merging_folder") == {"mine", "new"}


def test_a_file_system_without_hard_links_is_looked_at_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("compressor.files._renameat2", lambda: None)
    monkeypatch.setattr(os, "link", none)
    with atomic_file(tmp_path / "out", False) as new:
        fill(new, b"new")
    with pytest.raises(OutputError), atomic_file(tmp_path / "more", False) as new:
        fill(new, b"new")
        (tmp_path / "more").write_bytes(b"mine")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "more").read_bytes() == b"mine"


# Several files as one

KILLED = """
import os, sys
from pathlib import Path
from compressor.files import write_together

left = int(sys.argv[2])
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open")

def kill(event, arguments):
    global left
    if event in CHANGES and str(arguments[0]).startswith(sys.argv[1]):
        left -= 1
        if left < 0:
            os._exit(9)

sys.addaudithook(kill)
write_together(Path(sys.argv[1]), {name: b"new" for name in "abc"})
"""


def test_several_files_are_all_old_or_all_new_after_a_kill_before_any_step(tmp_path: Path) -> None:
    contents, step, code = set(), 0, 9
    while code == 9:
        folder = tmp_path / f"{step}"
        folder.mkdir()
        for name in "abcd":
            (folder / name).write_bytes(b"old")
        code = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step)]).returncode
        found = {read_current(folder, name, 10) for name in "abc"}
        assert len(found) == 1
        contents |= found
        write_together(folder, dict.fromkeys("abc", b"newer"))
        assert names(folder) == set("abcd") and (folder / "d").read_bytes() == b"old"
        assert {(folder / name).read_bytes() for name in "abc"} == {b"newer"}
        step += 1
    assert code == 0 and step > 10 and contents == {b"old", b"new"}


def test_a_link_for_the_folder_of_committed_files_moves_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a").write_bytes(b"mine")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".committed").symlink_to(tmp_path / "home")
    with pytest.raises(OutputError):
        write_together(tmp_path / "m", {"a": b"new"})
    assert names(tmp_path / "home") == {"a"} and names(tmp_path / "m") == {".committed"}
