"""Every score of a model: what it is, what it costs, what older models have."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compressor.anomaly.normals import Normals
from compressor.anomaly.scorers import Seen, score_all, score_rows, scorers, webp_bits
from compressor.anomaly.separability import auroc, separability
from compressor.codecs.image_codecs import decode
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.entropy import coder
from compressor.model import Model
from compressor.verbs import calibrate, inspect, score

GOLDEN = Path(__file__).parents[1] / "golden"
EVERY = [
    *("l2", "l1", "top", "gradient", "hidden", "nap", "mahalanobis", "knn"),
    *("codelength", "codelength_over_webp"),
]


def test_every_model_has_every_score_and_its_calibrations(model: Path, dense_model: Path) -> None:
    for path, images in ((model, 200), (dense_model, 100)):
        opened = Model.open(path)
        assert list(scorers(opened)) == EVERY == list(opened.calibration_columns())
        assert {len(column) for column in opened.calibration_columns().values()} == {images}
        assert list(opened.manifest.separability) == EVERY
        told = {entry["name"]: entry["calibration"] for entry in inspect(path)["scorers"]}
        assert told == dict.fromkeys(EVERY, images)


def test_an_image_has_the_same_scores_alone_as_among_others(
    model: Path, clothes: Pixels, letters: Pixels
) -> None:
    opened, images = Model.open(model), np.concatenate([clothes[:40], letters[:40]])
    engine, available = Engine(opened), scorers(opened)
    together = score_all(available, Seen(engine, images))
    for number in (0, 41):
        alone = score_all(available, Seen(engine, images[number : number + 1]))
        for name, scores in alone.items():
            assert scores.dtype == np.float64 and scores.shape == (1,)
            np.testing.assert_allclose(scores[0], together[name][number], rtol=1e-6, err_msg=name)


def test_letters_are_strange_to_every_score_of_clothes(
    dense_model: Path, clothes: Pixels, letters: Pixels
) -> None:
    opened = Model.open(dense_model)
    engine, available = Engine(opened), scorers(opened)
    normal, strange = (
        score_rows(available, engine, rows, np.arange(len(rows))) for rows in (clothes, letters)
    )
    found = {name: auroc(normal[name], strange[name]) for name in available}
    assert min(found.values()) > 0.5 and found["l2"] > 0.95, found


def test_a_job_pays_for_what_its_scores_read(model: Path, clothes: Pixels) -> None:
    opened = Model.open(model)
    for names, graphs in (
        (["l2", "l1", "top"], {"scorer"}),
        (["knn", "codelength"], {"encoder"}),
        (["gradient", "hidden", "nap"], {"further"}),
    ):
        engine, available = Engine(opened), scorers(opened)
        score_all({name: available[name] for name in names}, Seen(engine, clothes[:8]))
        assert engine._sessions.keys() == graphs


def test_top_is_the_mean_of_the_worst_pixels(model: Path, clothes: Pixels) -> None:
    opened = Model.open(model)
    seen = Seen(Engine(opened), clothes[:50])
    errors = np.sort(seen.scored["error_map"].reshape(50, -1), axis=1)
    expected = errors[:, -16:].mean(1)  # of 784
    np.testing.assert_allclose(scorers(opened)["top"](seen), expected, rtol=1e-6)


@pytest.mark.parametrize("folder", ["1", "2-hyperprior"])
def test_codelengths_sum_to_what_the_coder_spends(folder: str) -> None:
    opened = Model.open(GOLDEN / folder / "model")
    inputs = np.load(GOLDEN / folder / "input.npy")
    inputs = inputs.reshape(-1, *opened.spec.shape)
    seen = Seen(Engine(opened), np.tile(inputs, (6, 1, 1, 1)))
    lengths = scorers(opened)["codelength"](seen)
    assert lengths.sum() == pytest.approx(opened.prior.ideal_bits(seen.codes), rel=1e-9)
    spent = 8 * len(coder.encode(seen.codes, opened.prior))
    assert abs(spent - lengths.sum()) < 64 + 0.002 * spent


def test_an_integer_outside_its_table_costs_what_an_escape_does(dense_model: Path) -> None:
    prior = Model.open(dense_model).prior
    codes = np.zeros((2, 12), np.int32)
    codes[1, 0] = 10**6
    low, high = prior.bits_of_each(codes)
    assert high > low + 32


def test_webp_bits_are_those_of_a_file_that_gives_the_image_back(clothes: Pixels) -> None:
    from compressor.codecs.image_codecs import IMAGE_CODECS

    file = IMAGE_CODECS["webp-lossless"].encode(clothes[0], 0)
    assert webp_bits(clothes[:1])[0] == 8 * len(file)
    np.testing.assert_array_equal(decode("webp-lossless", file, (28, 28, 1)), clothes[0])
    assert webp_bits(np.zeros((1, 1, 20000, 1), np.uint8))[0] > 0  # too wide for WebP


def test_simple_images_that_pass_for_normal_are_strange_for_what_they_cost(
    clothes: Pixels, letters: Pixels
) -> None:
    """Raw codelengths, like likelihoods, call simple images likely (Nalisnick et al. 2019): small
    faint letters cost a codec of clothes less than its own kind, and are rebuilt better. They cost
    it more than images that WebP finds as simple do (Serra et al. 2020)."""
    opened = Model.open(GOLDEN / "2-hyperprior" / "model")
    faint = np.zeros_like(letters)
    faint[:, 7:21, 7:21] = letters.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 2
    engine, available = Engine(opened), scorers(opened)
    normal, strange = (
        score_rows(available, engine, rows, np.arange(300)) for rows in (clothes, faint)
    )
    found = {name: auroc(normal[name], strange[name]) for name in available}
    assert found["l2"] < 0.2 and found["codelength"] < 0.4
    assert found["codelength_over_webp"] > 0.9


@pytest.mark.parametrize("folder", ["1", "1-vectors", "1-discriminator", "2-hyperprior"])
def test_models_from_before_score_with_what_they_have(folder: str, tmp_path: Path) -> None:
    path = shutil.copytree(GOLDEN / folder / "model", tmp_path / "model")
    inputs = np.load(GOLDEN / folder / "input.npy")
    names = list(scorers(Model.open(path)))
    graph = list(Model.open(path).manifest.scores)
    assert names[: len(graph)] == graph
    over = [] if folder == "1-vectors" else ["codelength_over_webp"]
    assert names[len(graph) :] == ["top", "codelength", *over]
    score(inputs, path, tmp_path / "a.parquet", scorer="codelength", threshold=100)
    calibrate(path, inputs)
    summary = score(inputs, path, tmp_path / "b.parquet", scorer=["ensemble", *names], fpr=0.2)
    assert summary["other_scorers"] == names


def test_numbers_far_out_are_stranger_than_anything() -> None:
    opened = Model.open(GOLDEN / "1-vectors" / "model")
    inputs = np.load(GOLDEN / "1-vectors" / "input.npy")
    far = np.concatenate([inputs, np.full_like(inputs[:2], 3e38)])
    available = scorers(opened)
    normals = Normals.learn(opened.golden()["code"], inputs, seed=0)
    with np.errstate(over="ignore"):
        available["nap"] = lambda seen: normals.hidden.distances(far * np.float32(10))
    for name, scores in score_all(available, Seen(Engine(opened), far)).items():
        assert not np.isnan(scores).any()
        assert (scores[-2:] > scores[:-2].max()).all(), name


def test_separability_needs_no_labels_and_knows_a_good_score_from_a_bad_one(
    clothes: Pixels,
) -> None:
    mean = clothes[500:].mean(0, dtype=np.float64)

    def scores(images: Pixels) -> dict[str, np.ndarray]:
        nearest = np.square(images[:, None] / 255 - clothes[None, 500:700] / 255).mean((2, 3, 4))
        return {
            "nearest": nearest.min(1),
            "mean": np.square(images - mean).mean((1, 2, 3)),
            "brightness": -images.mean((1, 2, 3)),
        }

    found = separability(scores, clothes[:60], scores(clothes[:60]), seed=0)
    assert found == separability(scores, clothes[:60], scores(clothes[:60]), seed=0)
    assert found["nearest"] > max(found["mean"], found["brightness"]) + 0.1
