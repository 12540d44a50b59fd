"""A classifier from few labels, on real images: letters and clothes told apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.errors import CompressorError, ConfigError, DataError, ModelError, OutputError
from compressor.inspection import inspect, verify
from compressor.labels.classifier import Classifier
from compressor.manifests import hash_line
from compressor.training.start import restore
from compressor.verbs import classify, train, train_classifier


@pytest.fixture(scope="module")
def mixed(clothes: Pixels, letters: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz: x, 200 letters and 200 clothes in turn; few: labels of 24; all: of all."""
    x = np.stack([letters[:200], clothes[:200]], 1).reshape(400, 28, 28)
    every = np.tile(["letters", "clothes"], 200)
    few = np.where(np.arange(400) < 24, every, "")
    path = tmp_path_factory.mktemp("mixed") / "mixed.npz"
    np.savez(path, x=x, few=few, all=every)
    return path


@pytest.fixture(scope="module")
def trained(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier of letters and clothes, and what its training said."""
    path = tmp_path_factory.mktemp("classifier") / "classifier"
    summary = train_classifier(
        f"{mixed}::x", path, start=model, labels=f"{mixed}::few", max_steps=60
    )
    return path, summary


@pytest.fixture
def classifier(trained: Any) -> Path:
    path: Path = trained[0]
    return path


def test_few_labels_tell_letters_from_clothes(
    trained: Any, clothes: Pixels, letters: Pixels, tmp_path: Path
) -> None:
    path, said = trained
    assert (said["images"], said["labelled"], said["unlabelled"]) == (400, 24, 376)
    assert said["held_out"] == 2 and said["labels"] == {"clothes": 12, "letters": 12}
    assert not said["warnings"] and said["unmatched"] == []
    unseen = np.concatenate([letters[200:], clothes[200:300]])
    found = classify(
        unseen,
        path,
        tmp_path / "labels.parquet",
        labels=["letters"] * 100 + ["clothes"] * 100,
        probabilities=True,
    )
    assert found["labelled"] == found["images"] == 200 and found["accuracy"] > 0.85
    table = pq.read_table(tmp_path / "labels.parquet")
    assert table.schema.names == ["path", "label", "probability", "p_clothes", "p_letters", "error"]
    both = np.stack([table["p_clothes"].to_numpy(), table["p_letters"].to_numpy()], 1)
    np.testing.assert_allclose(both.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(both.max(1), table["probability"].to_numpy())
    named = np.array(["clothes", "letters"])[both.argmax(1)]
    assert named.tolist() == table["label"].to_pylist()
    assert found["labels"] == {name: int((named == name).sum()) for name in ("clothes", "letters")}


def test_the_graph_alone_gives_the_probabilities(classifier: Path) -> None:
    session = onnxruntime.InferenceSession(str(classifier / "classifier.onnx"))
    golden = np.load(classifier / "golden.npz")
    (answer,) = session.run(None, {"image": golden["image"]})
    np.testing.assert_allclose(answer, golden["probability"], atol=1e-4)
    assert inspect(classifier)["labels"] == ["clothes", "letters"]
    assert inspect(classifier)["kind"] == "classifier" and verify(classifier)["ok"]
    assert "clothes" in (classifier / "MODEL_CARD.md").read_text()


def test_a_job_that_was_cut_short_goes_on(
    classifier: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "clothes.npy", clothes[:300])
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    classify(tmp_path / "clothes.npy", classifier, whole)
    monkeypatch.setattr("compressor.results.PART_ROWS", 64)
    from compressor.results import ResultsWriter

    add, added = ResultsWriter.add, []

    def interrupted(self: ResultsWriter, rows: Any) -> None:
        add(self, rows)
        added.append(len(rows))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResultsWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            classify(tmp_path / "clothes.npy", classifier, parts)
    assert not parts.exists()
    summary = classify(tmp_path / "clothes.npy", classifier, parts, resume=True)
    assert summary["images"] == 300
    assert parts.read_bytes() == whole.read_bytes()


def test_what_cannot_be_classified_has_its_reason(classifier: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("L", (28, 28)).save(images / "a.png")
    Image.new("L", (30, 28)).save(images / "b.png")
    (images / "c.png").write_bytes(b"none")
    found = classify(images, classifier, tmp_path / "labels.csv")
    assert found["images"] == 1 and found["unreadable"] == 2
    rows = pyarrow.csv.read_csv(tmp_path / "labels.csv").to_pylist()
    assert rows[1]["label"] in (None, "") and "28x30" in rows[1]["error"].replace("30x28", "28x30")


def test_the_way_back_begins_an_autoencoder_where_the_classifier_ended(
    classifier: Path, clothes: Pixels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from compressor.training import train as training

    begun: dict[str, Any] = {}

    def stop(model: Any, *_: Any) -> None:
        begun.update(model.state_dict())
        raise ConfigError("enough")

    monkeypatch.setattr(training, "rehearse", stop)
    with pytest.raises(ConfigError, match="enough"):
        train("undercomplete", clothes[:64], tmp_path / "model", start=classifier)
    expected = restore(classifier).state_dict()
    assert all((begun[name] == value).all() for name, value in expected.items())
    with pytest.raises(ConfigError, match="is a classifier of the plugin undercomplete, not of"):
        train("sparse", clothes[:64], tmp_path / "model", start=classifier)


def damaged(classifier: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose manifest was changed, with the right hash."""
    copy = Path(shutil.copytree(classifier, folder / "copy"))
    manifest = json.loads((copy / "manifest.json").read_bytes())
    change(manifest)
    text = json.dumps(manifest).encode()
    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.sha256").write_bytes(hash_line(text))
    return copy


def test_a_classifier_that_is_none_is_refused(
    classifier: Path, model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    output = tmp_path / "labels.parquet"
    with pytest.raises(ModelError, match="is a compressor-model, not a classifier"):
        classify(clothes[:2], model, output)
    with pytest.raises(ModelError, match="there is no classifier at"):
        classify(clothes[:2], tmp_path / "none", output)
    newer = damaged(classifier, tmp_path / "1", lambda m: m.update(format_version=9))
    with pytest.raises(ModelError, match=r"classifier format version 9; .*: update compressor"):
        classify(clothes[:2], newer, output)
    twice = damaged(classifier, tmp_path / "2", lambda m: m.update(labels=["a", "a"]))
    with pytest.raises(ModelError, match="two labels are the same"):
        classify(clothes[:2], twice, output)
    more = damaged(classifier, tmp_path / "3", lambda m: m.update(labels=["a", "b", "c"]))
    with pytest.raises(ModelError, match=r"classifier.onnx: the output 'probability' is"):
        classify(clothes[:2], more, output)
    flipped = Path(shutil.copytree(classifier, tmp_path / "4"))
    content = bytearray((flipped / "classifier.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (flipped / "classifier.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="does not have the hash in the manifest"):
        classify(clothes[:2], flipped, output)
    assert not verify(flipped)["ok"]
    assert not output.exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 30, 28, 1), "30x28"), ((2, 28, 28, 4), "channels"), ((2, 9), "is a vector")],
)
def test_data_that_do_not_fit_are_refused(
    shape: tuple[int, ...], message: str, classifier: Path, tmp_path: Path
) -> None:
    kind = np.uint8 if len(shape) == 4 else np.float32
    rows = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    with pytest.raises(DataError, match=message):
        classify(rows, classifier, tmp_path / "labels.parquet")


def test_outputs_are_whole_or_refused(classifier: Path, clothes: Pixels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"written as .parquet or .csv"):
        classify(clothes[:2], classifier, tmp_path / "labels.txt")
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        classify(clothes[:2], classifier, tmp_path / "labels.csv")
    with pytest.raises(OutputError, match="is inside the input"):
        classify(clothes[:2], classifier, classifier / "labels.csv")


def test_it_can_be_pickled_and_zipped(classifier: Path, tmp_path: Path) -> None:
    import pickle

    opened = Classifier.open(classifier)
    Classifier.write(tmp_path / "c.zip", opened.contents(), force=False)
    again = Classifier.open(tmp_path / "c.zip")
    assert again.digest == opened.digest and not again.check()
    assert pickle.loads(pickle.dumps(Classifier.from_files(opened.contents()))).labels == (
        "clothes",
        "letters",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["a"] * 400}, "all labels of .* are 'a'"),
        ({"labels": [None] * 400}, "no input of .* has a label"),
        ({"labels": "folders"}, "no input of .* has a label: put each class into a folder"),
        ({"labels": [1, 2]}, "the labels has 2 labels, and there are 400"),
        ({"start": "none"}, "start=none is no model, no classifier, no FILE.onnx and no plugin"),
        ({"freeze": "some"}, "freeze=some: give all, none, or how many layers"),
        ({"settings": {"layer": "layer 9"}}, "layer=layer 9: this network has code, layer 1"),
        ({"settings": {"speed": 1}}, "a classifier has no setting 'speed'; it has layer, width"),
        ({"settings": {"width": -1}}, "width=-1"),
    ],
)
def test_trainings_that_cannot_be_are_refused(
    options: dict[str, Any], message: str, model: Path, mixed: Path, tmp_path: Path
) -> None:
    given = {"start": model, "labels": f"{mixed}::few", "max_steps": 1} | options
    with pytest.raises(CompressorError, match=message) as caught:
        train_classifier(f"{mixed}::x", tmp_path / "c", **given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_size_or_channels_than_the_network_are_refused(
    dense_model: Path, model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    labels = ["a", "b"] * 10
    with pytest.raises(ConfigError, match="takes 28x28x1 only, and these data are 20x28x1"):
        train_classifier(clothes[:20, :20], tmp_path / "c", start=dense_model, labels=labels)
    colours = clothes[:20].repeat(3, axis=3)
    with pytest.raises(ConfigError, match=r"images of 1 channels.*channels=grey converts them"):
        train_classifier(colours, tmp_path / "c", start=model, labels=labels)
    vectors = clothes[:20].reshape(20, -1).astype(np.float32)
    with pytest.raises(ConfigError, match="takes images, and these data are vectors"):
        train_classifier(vectors, tmp_path / "c", start=model, labels=labels)


def test_layers_of_another_maker_and_new_ones_that_stay_as_they_are(
    mixed: Path,
    clothes: Pixels,
    letters: Pixels,
    foreign_network: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = foreign_network(tmp_path / "foreign.onnx", 16)
    unseen = np.concatenate([letters[200:], clothes[200:300]])
    truth = ["letters"] * 100 + ["clothes"] * 100
    for start, options in ((f"{path}::pool", {}), ("undercomplete", {"freeze": "all"})):
        made = tmp_path / "made"
        said = train_classifier(
            f"{mixed}::x", made, start=start, labels=f"{mixed}::all", force=True, **options
        )
        assert said["steps"] == 0 and said["held_out"] == 40
        assert verify(made)["ok"], start
        found = classify(unseen, made, tmp_path / "labels.csv", labels=truth, force=True)
        assert found["accuracy"] > 0.75, start  # of layers that nobody has trained
        assert said["accuracy_interval"][0] <= said["accuracy"] <= said["accuracy_interval"][1]
    with pytest.raises(ConfigError, match="of an ONNX network all layers stay as they are"):
        train_classifier(f"{mixed}::x", tmp_path / "c", start=path, freeze=1)
