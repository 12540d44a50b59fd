import shutil
import sys

import numpy as np
import pytest
from cells import Cells, name_of
from detection import command, ours, peers
from detection.metrics import Figures
from detection.ours import Row, our_cells, scored
from detection.peers import Peers, peer_cells
from detection.tasks import Sample, Task

from compressor.engine.engine import Engine
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.verbs import inspect


def task_of(sample, data="other data"):
    return Task(data, "letters", 0, "digest", "same", lambda: sample)


@pytest.fixture
def sample(clothes, letters):
    test = np.concatenate([clothes[:100], letters[:100]])
    return Sample(clothes, test, np.arange(200) >= 100)


@pytest.fixture
def trained(tmp_path, model, monkeypatch):
    """A row whose model is there already, in the place where it is looked for."""
    row = Row("small", "undercomplete")
    monkeypatch.setitem(ours.ROWS, "other data", (row,))

    def place(cell):
        key = {**cell.key, "data": "same"}
        del key["part"]
        shutil.copytree(model, tmp_path / name_of(key))

    return place


def test_ours_are_measured_by_every_score_of_the_model(tmp_path, sample, trained, model):
    (cell,) = our_cells(task_of(sample), tmp_path, 1)
    trained(cell)
    figures = cell.measure()
    every = [scorer["name"] for scorer in inspect(model)["scorers"]]
    assert list(figures.auroc) == [*every, "ensemble", "auto"] and {"l2", "knn"} <= set(every)
    assert figures.auroc["l2"] > 0.9
    assert figures.scorer == "l2" and figures.auroc["auto"] > 0.9
    assert figures.images == 200 and figures.facts["steps"] == 120
    assert figures.pro is None


def test_masks_bring_figures_of_pixels(tmp_path, sample, trained):
    masks = np.zeros((200, 56, 56), bool)
    masks[100:, 8:48, 8:48] = True
    pixels = Sample(sample.train, sample.test, sample.strange, masks)
    (cell,) = our_cells(task_of(pixels), tmp_path, 1)
    trained(cell)
    figures = cell.measure()
    assert figures.pixel_auroc > 0.6 and 0 < figures.pro < 1


def test_scores_are_those_of_the_engine_in_the_order_of_the_rows(model, letters):
    expected = Engine(Model.open(model), "cpu").score(letters)
    for name, scores in scored(letters, model, ["l2", "l1"]).items():
        assert np.allclose(scores, expected[name], rtol=1e-5)


def test_a_peer_that_fails_is_told_and_the_next_one_is_asked(tmp_path, monkeypatch):
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    bad = asked['method'] == 'bad'\n"
        "    print(json.dumps({'error': 'no such thing'} if bad else asked), flush=True)\n"
    )
    monkeypatch.setattr(peers, "SCRIPT", script)
    python = Peers(sys.executable)
    try:
        with pytest.raises(RuntimeError, match="bad: no such thing"):
            python.ask({"method": "bad"})
        assert python.ask({"method": "good"}) == {"method": "good"}
    finally:
        python.close()


def test_the_scripts_of_peers_answer_errors_in_json():
    """It runs in this environment, too, where PyOD is not installed."""
    python = Peers(sys.executable)
    request = {"train": "none.npy", "test": None, "output": "", "seconds": 1, "seed": 0}
    try:
        with pytest.raises(RuntimeError, match="FileNotFoundError"):
            python.ask({"method": "PyOD KNN", **request})
    finally:
        python.close()


def test_peers_get_images_as_shares_and_tables_standardised(sample, monkeypatch):
    asked = []

    class Fake:
        def ask(self, request):
            train, test = (np.load(request[name]) for name in ("train", "test"))
            asked.append((train, test, request["seconds"]))
            np.savez(request["output"], scores=test.reshape(len(test), -1).mean(1))
            return {"train_seconds": 1.0, "score_seconds": 1.0, "facts": {}}

    figures = next(iter(peer_cells(task_of(sample), Fake(), 30))).measure()
    train, test, seconds = asked.pop()
    assert train.dtype == np.float32 and train.max() == 1 and seconds == 30
    assert np.allclose(test * 255, sample.test) and figures.judged > 0.5

    rows = sample.train.mean(2).reshape(-1, 28).astype(np.float32)
    table = Sample(rows[:500], rows[500:], np.arange(500) >= 250)
    next(iter(peer_cells(task_of(table, "adbench, test"), Fake(), 30))).measure()
    train, test, seconds = asked.pop()
    assert np.allclose(train.mean(0), 0, atol=1e-4) and seconds == 5
    assert set(np.round(train.std(0), 3)) <= {0, 1}
    assert not np.allclose(test.mean(0), 0, atol=1e-4)


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def fail():
        raise RuntimeError("out of luck")

    def figures():
        return Figures({"l2": 0.75}, "l2", 1, 1, 1)

    cells = [command.Cell({"data": "d", "method": m}, f) for m, f in (("a", fail), ("b", figures))]

    class Data:
        @staticmethod
        def tasks(data, seeds):
            return [task_of(None)]

    monkeypatch.setitem(command.DATASETS, "d", Data)
    monkeypatch.setattr(command, "classic_cells", lambda task: cells)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "none")
    bench = command.Bench(tmp_path, tmp_path, 1, Peers(None))
    assert bench.run(["d"], ["classic"], [0], None) is False
    said = capsys.readouterr().out
    assert "FAILED: out of luck" in said and "0.7500" in said
    found = Cells(tmp_path / "cells", tmp_path / "none", Figures)
    assert [found.find(cell) is not None for cell in cells] == [False, True]


def test_errors_of_ours_are_told_likewise(tmp_path, monkeypatch, capsys):
    def fail():
        raise CompressorError("no model")

    class Data:
        @staticmethod
        def tasks(data, seeds):
            return [task_of(None)]

    monkeypatch.setitem(command.DATASETS, "d", Data)
    cell = command.Cell({"data": "d", "method": "a"}, fail)
    monkeypatch.setattr(command, "classic_cells", lambda task: [cell])
    bench = command.Bench(tmp_path, tmp_path, 1, Peers(None))
    assert bench.run(["d"], ["classic"], [0], None) is False
    assert "no model" in capsys.readouterr().out
