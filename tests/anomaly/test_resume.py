"""Batch jobs: killed at any point and resumed, they end with the rows of an uninterrupted one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor import results as results_module
from compressor.data.images import Pixels
from compressor.errors import ConfigError, OutputError
from compressor.results import read_manifest
from compressor.verbs import score

MODEL = Path(__file__).parents[1] / "golden" / "1-discriminator" / "model"


def rows_of(results: Path) -> list[dict[str, Any]]:
    files = sorted(results.glob("part-*.parquet")) if results.is_dir() else [results]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, clothes: Pixels, letters: Pixels) -> Path:
    """Twelve tar files of 20 images each, two of them letters and one that is broken."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(12):
        images = [*clothes[20 * number : 20 * number + 17], *letters[2 * number : 2 * number + 2]]
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for position, image in enumerate([*images, None]):
                file = io.BytesIO(b"no image")
                if image is not None:
                    file = io.BytesIO()
                    Image.fromarray(image[:, :, 0]).save(file, "PNG")
                member = tarfile.TarInfo(f"{position:02d}.png")
                member.size = len(file.getvalue())
                tar.addfile(member, io.BytesIO(file.getvalue()))
    return folder


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a job that ends, as by Ctrl-C, after so many chunks have been added."""

    def run(after: int, *arguments: Any, **options: Any) -> None:
        add, added = results_module.ResultsWriter.add, []

        def interrupted(self: Any, *args: Any) -> None:
            if len(added) == after:
                raise KeyboardInterrupt
            added.append(1)
            add(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(results_module.ResultsWriter, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                score(*arguments, **options)

    return run


# The layout


def test_a_part_for_each_shard_that_other_tools_read_as_one_table(
    shards: Path, tmp_path: Path
) -> None:
    import duckdb
    import pyarrow.dataset

    summary = score(shards, MODEL, tmp_path / "one.parquet", fpr=0.05)
    parted = score(shards, MODEL, f"{tmp_path}/r/", fpr=0.05)
    names = [f"part-{number:05d}.parquet" for number in range(12)]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["_manifest.json", *names]
    rows = rows_of(tmp_path / "one.parquet")
    assert len(rows) == 240 and rows_of(tmp_path / "r") == rows
    assert [row["path"] for row in rows[18:22]] == [
        "00.tar/18.png",
        "00.tar/19.png",
        "01.tar/00.png",
        "01.tar/01.png",
    ]
    told = {"seconds": 0}
    assert parted | told == summary | told and summary["unreadable"] == 12

    dataset = pyarrow.dataset.dataset(tmp_path / "r")
    assert (
        dataset.to_table(filter=pyarrow.dataset.field("is_anomaly")).num_rows
        == (summary["anomalies"])
    )
    found = duckdb.execute(f"select count(*), sum(is_anomaly) from '{tmp_path}/r/*.parquet'")
    assert found.fetchall()[0] == (240, summary["anomalies"])

    manifest = read_manifest(tmp_path / "r")
    assert manifest is not None and manifest.summary == parted
    assert [(part.file, part.rows, part.shard) for part in manifest.parts] == [
        (name, 20, f"{number:02d}.tar") for number, name in enumerate(names)
    ]


def test_data_without_shards_are_cut_into_ranges(
    clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "PART_ROWS", 300)
    score(clothes, MODEL, tmp_path / "r", threshold=0.05)
    manifest = read_manifest(tmp_path / "r")
    assert manifest is not None
    assert [part.rows for part in manifest.parts] == [300, 300, 300, 100]
    assert [row["path"] for row in rows_of(tmp_path / "r")] == [f"{n:05d}" for n in range(1000)]


def test_a_folder_that_is_not_results_is_not_replaced(clothes: Pixels, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="choose another output"):
        score(clothes[:9], MODEL, tmp_path / "mine", force=True)
    score(clothes[:9], MODEL, tmp_path / "r")
    with pytest.raises(OutputError, match="give force=True"):
        score(clothes[:9], MODEL, tmp_path / "r")
    score(clothes[:8], MODEL, tmp_path / "r", force=True)
    assert len(rows_of(tmp_path / "r")) == 8
    for name in ("r", "r/maps"):
        with pytest.raises(ConfigError, match=r"report=.*: (each output|give a place outside)"):
            score(clothes[:9], MODEL, tmp_path / "r", report=tmp_path / name, force=True)


# Resuming

KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import compressor.verbs
from compressor.cli import main

compressor.verbs.score  # imported once: a child has but its work to do
arguments, folder, kills = json.loads(sys.argv[1])
os.chdir(folder)


def started():
    child = os.fork()
    if child:
        return child
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.argv = ["compressor", *arguments]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(0)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


began = time.monotonic()
codes, resumed, killed = [ended(started())], 0, 0
duration = time.monotonic() - began
Path("run-0").mkdir()
shutil.move("out", "run-0")
while killed < kills:
    child = started()
    time.sleep(random.uniform(0, duration))
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    killed += code == -signal.SIGKILL
    resumed += "resuming: " in Path("log").read_text()
    if killed == kills:
        code = ended(started())
    if code >= 0:
        codes.append(code)
        Path(f"run-{len(codes) - 1}").mkdir()
        shutil.move("out", f"run-{len(codes) - 1}")
print(json.dumps([codes, resumed]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_twenty_random_points_and_resumed_the_rows_are_those_of_one_run(
    shards: Path, tmp_path: Path
) -> None:
    """With what else a job can write; and exit code 4, for images that could not be read."""
    outputs = ("-o", "out/r/", "--heatmaps", "out/maps", "--report", "out/r.html")
    arguments = ("score", str(shards), "-m", str(MODEL), *outputs, "--fdr", "0.3", "--resume")
    given = json.dumps([arguments, str(tmp_path), 20])
    done = subprocess.run([sys.executable, "-c", KILLED, given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes, resumed = json.loads(done.stdout)
    assert set(codes) == {4} and len(codes) > 1 and resumed > 0
    whole = tmp_path / "run-0" / "out"
    assert len(rows_of(whole / "r")) == 240 and len(bytes_below(whole / "maps")) > 5
    for number in range(1, len(codes)):
        again = tmp_path / f"run-{number}" / "out"
        assert rows_of(again / "r") == rows_of(whole / "r")
        assert bytes_below(again / "maps") == bytes_below(whole / "maps")
        assert (again / "r.html").read_bytes() == (whole / "r.html").read_bytes()
        assert {path.name for path in again.iterdir()} >= {"maps", "r", "r.html"}
        assert not (again / ".r.partial").exists()


@pytest.mark.parametrize("name", ["r/", "r.parquet", "r.csv"])
def test_only_what_is_not_on_disk_yet_is_scored_again(
    shards: Path, tmp_path: Path, cut_short: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "whole").mkdir()
    score(shards, MODEL, f"{tmp_path}/whole/{name}", fpr=0.05)
    cut_short(1, shards, MODEL, f"{tmp_path}/{name}", fpr=0.05)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == [
        f".{name.rstrip('/')}.partial"
    ]
    added: list[str] = []
    add = results_module.ResultsWriter.add

    def watched(self: Any, rows: Any) -> None:
        added.extend(rows["path"].to_pylist())
        add(self, rows)

    monkeypatch.setattr(results_module.ResultsWriter, "add", watched)
    score(shards, MODEL, f"{tmp_path}/{name}", fpr=0.05, resume=True)
    assert added[0].endswith("/00.png") and 20 <= len(added) < 240
    whole, again = tmp_path / "whole" / name, tmp_path / name
    if name == "r.csv":
        assert again.read_bytes() == whole.read_bytes()
    else:
        assert rows_of(again) == rows_of(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", name.rstrip("/")}


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"fpr": 0.1}, "fpr"), ({"scorer": "logit"}, "scorer"), ({"report": "x.html"}, "report")],
)
def test_another_job_is_not_resumed(
    shards: Path, tmp_path: Path, cut_short: Any, changed: dict[str, Any], what: str
) -> None:
    options = {"fpr": 0.05}
    cut_short(1, shards, MODEL, tmp_path / "r", **options)
    with pytest.raises(OutputError, match=f"cannot resume .*r: .* had another {what}; start anew"):
        score(shards, MODEL, tmp_path / "r", **options | changed, resume=True)
    with pytest.raises(OutputError, match="images of a job that was cut short; give resume=True"):
        score(shards, MODEL, tmp_path / "r", **options)
    score(shards, MODEL, tmp_path / "r", **options, force=True)
    assert len(rows_of(tmp_path / "r")) == 240 and not (tmp_path / ".r.partial").exists()


def test_one_file_starts_anew_without_a_word_as_it_always_did(
    shards: Path, tmp_path: Path, cut_short: Any
) -> None:
    cut_short(1, shards, MODEL, tmp_path / "r.parquet", fpr=0.05)
    score(shards, MODEL, tmp_path / "r.parquet", fpr=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_a_job_that_has_ended_is_not_done_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = score(shards, MODEL, tmp_path / "r", resume=True)
    monkeypatch.setattr(results_module.ResultsWriter, "add", None)
    assert score(shards, MODEL, tmp_path / "r", resume=True) == summary
    with pytest.raises(OutputError, match="exists; give force=True"):
        score(shards, MODEL, tmp_path / "r", resume=True, fpr=0.2)


def test_two_jobs_cannot_write_one_output(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = results_module.ResultsWriter.add

    def add_and_start_another(self: Any, *args: Any) -> None:
        monkeypatch.setattr(results_module.ResultsWriter, "add", add)
        with pytest.raises(OutputError, match="another job is writing"):
            score(shards, MODEL, tmp_path / "r", resume=True)
        add(self, *args)

    monkeypatch.setattr(results_module.ResultsWriter, "add", add_and_start_another)
    score(shards, MODEL, tmp_path / "r")
    assert len(rows_of(tmp_path / "r")) == 240
