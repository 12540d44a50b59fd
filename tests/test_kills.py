"""Every verb, killed before random changes of files: no half output, and the next run succeeds.

KILLS is how often each verb is killed; ``make kills`` does it more often than the other tests do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor import verbs
from compressor.data.images import Pixels
from compressor.model import Model

IMAGES = 300
KILLS = int(os.environ.get("KILLS", "2"))
OUTPUTS = {
    "train": "m",
    "export": "graphs",
    "encode": "codes.npy",
    "compress": "a",
    "decompress": "out",
    "score": "r.parquet",
    "calibrate": "model",
    "index": "i",
}
RESUMED = ("train", "compress", "score", "index")

# Calls a verb, and kills itself before that change of a file in the folder; says how many it made.
KILLED = """
import json, os, sys
from pathlib import Path
from compressor import verbs
from compressor import results
from compressor.archive import writer
from compressor.retrieval import writer as index_writer

folder, verb, given, settings, kill_at = json.loads(sys.argv[1])
writer.PART_IMAGES = results.PART_ROWS = index_writer.PART_ROWS = 256
if verb == "train":
    from compressor.model import Model
    from compressor.training import train
    manifest = Model.open(settings.pop("manifest_of")).manifest
    train.bundle = lambda *_: ({"MODEL_CARD.md": bytes(9999)}, manifest)
    train.rehearse = lambda *_: None
changes = 0

def count(event, arguments):
    global changes
    if event == "open":
        changing = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    else:
        changing = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link")
    if changing and str(arguments[0]).startswith(folder):
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), 9)

sys.addaudithook(count)
getattr(verbs, verb)(*given, **settings)
print(changes)
"""


@pytest.fixture
def given(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """The arguments of each verb without its output; parts are small."""
    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 256)
    monkeypatch.setattr("compressor.results.PART_ROWS", 256)
    monkeypatch.setattr("compressor.retrieval.writer.PART_ROWS", 256)
    np.save(tmp_path / "images.npy", clothes[:IMAGES])
    data, model = str(tmp_path / "images.npy"), str(dense_model)
    return {
        "train": ["undercomplete", data],
        "export": [model],
        "encode": [data, model],
        "compress": [data, model],
        "decompress": [str(tmp_path / "archive")],
        "score": [data, model],
        "index": [data, model],
    }


def is_whole(verb: str, output: Path) -> bool:
    """Whether an output has all that it should have."""
    if verb == "score":
        return int(pq.read_table(output).num_rows) == IMAGES
    if verb == "encode":
        return len(np.load(output)) == IMAGES
    if verb == "decompress":
        return len(list(output.glob("*.png"))) == IMAGES
    if verb == "export":
        return (output / "MODEL_CARD.md").exists() and (output / "encoder.onnx").exists()
    return bool(verbs.verify(output)["ok"])


def run(folder: Path, verb: str, given: list[str], settings: Any, kill_at: int) -> int | None:
    """How many changes the verb made, in a process of its own; None if it was killed."""
    arguments = json.dumps([str(folder), verb, given, settings, kill_at])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


@pytest.mark.parametrize("verb", OUTPUTS)
def test_a_killed_job_leaves_no_half_output_and_the_next_run_succeeds(
    verb: str,
    given: dict[str, list[str]],
    dense_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"score": {"fpr": 0.1}}.get(verb, {})
    if verb == "train":
        manifest = Model.open(dense_model).manifest
        files = {"MODEL_CARD.md": bytes(9999)}
        monkeypatch.setattr("compressor.training.train.bundle", lambda *_: (dict(files), manifest))
        monkeypatch.setattr("compressor.training.train.rehearse", lambda *_: None)
        config = {"network": "dense", "hidden": [4], "latent": 2}
        settings = {"settings": config, "max_steps": 3}
    if verb == "decompress":
        verbs.compress(*given["compress"], given["decompress"][0])
    draw, changes = random.Random(f"{verb} {KILLS}"), None
    for kill in range(KILLS + 1):  # the first one counts the changes
        folder = tmp_path / f"{kill}"
        folder.mkdir()
        output = folder / OUTPUTS[verb]
        arguments = [*given.get(verb, []), str(output)]
        if verb == "calibrate":
            shutil.copytree(dense_model, output)
            arguments = [str(output), given["encode"][0]]
        replaced = verb in ("compress", "score") and kill % 2 == 0
        if replaced:  # by force
            getattr(verbs, verb)(*arguments, **settings)
        given_settings = {**settings, **({"force": True} if replaced else {})}
        if verb == "train":
            given_settings["manifest_of"] = str(dense_model)
        kill_at = 0 if changes is None else draw.randint(1, changes)
        made = run(folder, verb, arguments, given_settings, kill_at)
        changes = changes or made
        if os.path.lexists(output) or replaced:
            assert is_whole(verb, output), kill_at
        resumed = verb in RESUMED and not output.exists()
        more = {"resume": True} if resumed else {} if verb == "calibrate" else {"force": True}
        getattr(verbs, verb)(*arguments, **settings, **more)
        assert is_whole(verb, output), kill_at
        assert [entry.name for entry in folder.iterdir()] == [output.name], kill_at
        if verb == "calibrate":
            assert not [entry for entry in output.iterdir() if entry.name.startswith(".")]
