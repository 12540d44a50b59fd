"""sample, interpolate, arithmetic and traverse, on real images and on vectors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import CompressorError, ConfigError, DataError, ModelError, OutputError
from compressor.latent.arithmetic import parsed
from compressor.latent.attributes import measured
from compressor.latent.density import NAME
from compressor.latent.interpolate import spherical, straight
from compressor.model import Model, manifest_files
from compressor.verbs import arithmetic, decompress, interpolate, sample, train, traverse

GOLDEN = Path(__file__).parent.parent / "golden"
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def table_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array]:
    """A model of vectors with a code of two numbers, and its data: float32 (400, 6), a ring."""
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, 400)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * random.normal(size=(400, 2))
    rows = (ring @ random.normal(size=(2, 6))).astype(np.float32)
    path = tmp_path_factory.mktemp("latent") / "table"
    settings = {"latent": 2, "hidden": [], "learning_rate": 0.05, "batch_size": 64}
    train("undercomplete", rows, path, settings=settings, max_steps=150)
    return path, rows


@pytest.fixture(scope="module")
def photos(clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders shirts/ and bags/ with ten clothes each, a smaller one in small/, an empty empty/."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(clothes[:20, ..., 0]):
        path = folder / ("shirts", "bags")[number // 10] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "small").mkdir()
    Image.fromarray(clothes[0, :20, :, 0]).save(folder / "small" / "0.png")
    Image.fromarray(
        np.stack([clothes[0, ..., 0], 255 - clothes[1, ..., 0], clothes[2, ..., 0]], 2)
    ).save(folder / "colours.png")
    (folder / "empty").mkdir()
    return folder


def size_of_png(path: Path) -> tuple[int, int]:
    """Width and height."""
    with Image.open(path) as image:
        return image.size


def changed(model: Path, target: Path, **update: Any) -> Path:
    """A copy whose manifest says something else."""
    shutil.copytree(model, target)
    manifest = Model.open(model).manifest.model_copy(update=update)
    for name, content in manifest_files(manifest).items():
        (target / name).write_bytes(content)
    return target


def without_density(model: Path, target: Path) -> Path:
    """A copy as versions before 0.5 made it."""
    files = {n: e for n, e in Model.open(model).manifest.files.items() if n != NAME}
    copy = changed(model, target, files=files)
    (copy / NAME).unlink()
    return copy


# sample


def test_samples_are_like_training_images_and_differ(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    told = sample(dense_model, n=300, output=tmp_path / "s.npy", sheet=tmp_path / "s.png", seed=3)
    assert told["samples"] == 300 and NAME in told["density"]
    samples = np.load(tmp_path / "s.npy")
    assert samples.shape == (300, 28, 28) and samples.dtype == np.uint8
    assert told["distinct"] == len(np.unique(samples, axis=0)) > 100
    engine = Engine(Model.open(dense_model), "cpu")
    rebuilt = engine.decode(engine.encode(clothes), 28, 28)[..., 0].astype(float)
    # Of each pixel, over all clothes and all samples: a mean image is dark where they are.
    apart = np.abs(samples.mean(0) - rebuilt.mean(0)).mean()
    assert apart < 0.15 * np.abs(rebuilt - rebuilt.mean(0)).mean()
    assert samples.std(0).mean() == pytest.approx(rebuilt.std(0).mean(), rel=0.2)
    assert size_of_png(tmp_path / "s.png")[0] > 400


def test_a_seed_says_which_samples_and_a_temperature_how_unusual(
    model: Path, tmp_path: Path
) -> None:
    sample(model, n=5, output=tmp_path / "few.npy", seed=1)
    sample(model, n=300, output=tmp_path / "many.npy", seed=1)
    few, many = np.load(tmp_path / "few.npy"), np.load(tmp_path / "many.npy")
    np.testing.assert_array_equal(many[:5], few)
    told = sample(model, n=300, output=tmp_path / "cold.npy", seed=1, temperature=0)
    sample(model, n=5, output=tmp_path / "other.npy", seed=2)
    cold, other = np.load(tmp_path / "cold.npy"), np.load(tmp_path / "other.npy")
    assert len(np.unique(cold, axis=0)) <= told["components"] < len(np.unique(many, axis=0))
    assert (other != few).any()


def test_of_a_generative_model_the_prior_is_sampled(dense_model: Path, tmp_path: Path) -> None:
    older = without_density(dense_model, tmp_path / "older")
    copy = changed(older, tmp_path / "copy", generative=True)
    told = sample(copy, n=200, output=tmp_path / "folder")
    assert "N(0, I)" in told["density"] and len(list((tmp_path / "folder").glob("*.png"))) == 200
    assert told["components"] == 1


def test_golden_models_are_sampled_if_they_are_generative(tmp_path: Path) -> None:
    for golden in ("1-discriminator", "3-scores"):
        told = sample(GOLDEN / golden / "model", n=3, output=tmp_path / f"{golden}.npy")
        assert told["samples"] == 3 and "N(0, I)" in told["density"]
    for golden in ("1", "1-vectors", "2-hyperprior", "3"):
        with pytest.raises(ModelError, match="older version"):
            sample(GOLDEN / golden / "model", output=tmp_path / "none.npy")
    assert not (tmp_path / "none.npy").exists()


def test_an_older_model_with_scores_npz_has_a_gaussian(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    copy = without_density(dense_model, tmp_path / "copy")
    told = sample(copy, n=300, output=tmp_path / "s.npy")
    assert told["components"] == 1 and "scores.npz" in told["density"]
    codes = Engine(Model.open(copy), "cpu").encode(clothes)
    from compressor.latent.latents import Latents

    density = Latents.open(copy, "cpu").density
    assert np.abs(density.centre() - codes.mean(0)).max() < 0.3 * codes.std(0).min() + 0.5
    np.testing.assert_allclose(density.deviations(), codes.std(0), rtol=0.2)


def test_vectors_are_sampled_into_tables(table_model: tuple[Path, Array], tmp_path: Path) -> None:
    model, rows = table_model
    told = sample(model, n=500, output=tmp_path / "s.csv")
    assert told["components"] >= 1
    table = pyarrow.csv.read_csv(tmp_path / "s.csv").drop_columns(["name"])
    drawn = np.stack([column.to_numpy() for column in table.columns], axis=1)
    assert drawn.shape == (500, 6)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=0.3)
    sample(model, n=3, output=tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 3


def test_an_archive_takes_no_density_along(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    from compressor.verbs import compress

    compress(clothes[:20], dense_model, tmp_path / "archive")
    assert not list((tmp_path / "archive").rglob(f"*{NAME}*"))
    decompress(tmp_path / "archive", tmp_path / "out.npy")


# interpolate


def test_paths_begin_at_a_and_end_at_b(
    model: Path, photos: Path, clothes: Pixels, tmp_path: Path
) -> None:
    a, b = photos / "shirts" / "0.png", photos / "bags" / "10.png"
    told = interpolate(model, a, b, steps=5, output=tmp_path / "path.npy")
    rows = np.load(tmp_path / "path.npy").reshape(2, 5, 28, 28)
    engine = Engine(Model.open(model), "cpu")
    ends = [clothes[:1], clothes[10:11]]
    rebuilt = [engine.decode(engine.encode(end), 28, 28)[0, ..., 0] for end in ends]
    for path in rows:
        np.testing.assert_array_equal(path[[0, -1]], rebuilt)
    assert told["inputs"] == [1, 1] and len(told["path"]) == 5 and 0 < told["angle"] < 180
    interpolate(model, a, b, output=tmp_path / "path.png")
    assert size_of_png(tmp_path / "path.png")[0] > 900


def test_a_spherical_path_keeps_the_length_and_a_straight_one_cuts_through() -> None:
    random = np.random.default_rng(0)
    a, b = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 50)))
    ways = np.linspace(0, 1, 11)
    np.testing.assert_allclose(np.linalg.norm(spherical(a, b, ways), axis=1), 1)
    assert np.linalg.norm(straight(a, b, ways), axis=1).min() < 0.9
    steps = np.diff(spherical(a, b, ways), axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), np.linalg.norm(steps[0]))
    for same in (a, -a):
        np.testing.assert_array_equal(spherical(a, same, ways), straight(a, same, ways))


def test_vectors_and_means_of_several_have_paths_too(
    table_model: tuple[Path, Array], tmp_path: Path
) -> None:
    model, rows = table_model
    told = interpolate(model, rows[:7], rows[7:8], steps=4, output=tmp_path / "p.csv")
    assert told["inputs"] == [7, 1]
    assert pyarrow.csv.read_csv(tmp_path / "p.csv").num_rows == 8


# arithmetic


def test_sums_of_codes_are_decoded(model: Path, photos: Path, tmp_path: Path) -> None:
    shirts, bags = f"{photos}/shirts/*.png", f"{photos}/bags"
    told = arithmetic(model, f"{shirts} - {bags} + {bags}", output=tmp_path / "sum.npy")
    assert [(term["sign"], term["inputs"]) for term in told["terms"]] == [
        ("+", 10),
        ("-", 10),
        ("+", 10),
    ]
    mean_shirt, _, result, *neighbours = np.load(tmp_path / "sum.npy")
    np.testing.assert_array_equal(result, mean_shirt)
    assert len(neighbours) == 8
    for neighbour in neighbours:
        assert 0 < np.abs(neighbour.astype(float) - result).mean() < 30
    arithmetic(model, f"{shirts} - {bags} + {bags}", output=tmp_path / "sum.png")
    width, height = size_of_png(tmp_path / "sum.png")
    assert width > 3 * 112 and height > 4 * 112


def test_expressions_are_names_with_signs_between() -> None:
    assert parsed("a - b-c + d e") == [(1, "a"), (-1, "b-c"), (1, "d e")]
    assert parsed("-a + a") == [(-1, "a"), (1, "a")] and parsed("+ a") == [(1, "a")]


@pytest.mark.parametrize("expression", ["", " ", "a +", "a - - b", "+ + a", "a + ", "-"])
def test_a_bad_expression_is_one_sentence(expression: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a name is missing"):
        arithmetic(model, expression, output=tmp_path / "a.png")


# traverse


def test_each_number_of_a_flat_code_is_a_latent(
    dense_model: Path, photos: Path, clothes: Pixels, tmp_path: Path
) -> None:
    image = photos / "shirts" / "3.png"
    told = traverse(dense_model, image, output=tmp_path / "t.npy")
    assert told["latents"] == 12 == len(told["shown"])
    changes = [row["change"] for row in told["shown"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    rows = np.load(tmp_path / "t.npy").reshape(12, 7, 28, 28).astype(float)
    ends = np.abs(rows[:, 0] - rows[:, -1]).mean((1, 2))
    np.testing.assert_allclose(ends, changes, atol=1e-3)


def test_axes_of_a_convolutional_code_are_latents_and_attributes_go_with_them(
    model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    told = traverse(model, data=clothes[:500], output=tmp_path / "t.png")
    assert told["kind"] == "principal axes of codes" and len(told["shown"]) == 16
    assert (told["correlation"], told["measured"], told["images"]) == ("Spearman", 500, 500)
    assert 0.1 < told["chance"] < 0.2
    best = {row["attribute"]: row for row in told["attributes"]}
    assert abs(best["grey"]["correlation"]) > 0.7
    height = size_of_png(tmp_path / "t.png")[1]
    assert height > 16 * 112


def test_own_attributes_are_correlated_by_path(
    dense_model: Path, photos: Path, clothes: Pixels, tmp_path: Path
) -> None:
    grey = measured(clothes[:20])[:, 0]
    lines = [f"{name}.png,{value}" for name, value in zip(range(10), grey, strict=False)]
    file = tmp_path / "own.csv"
    file.write_text("\n".join(["path,brightness", *lines]))
    told = traverse(dense_model, data=photos / "shirts", attributes=file)
    assert told["measured"] == 10 and told["attributes"][0]["attribute"] == "brightness"
    file.write_text("path,brightness\nelsewhere.png,1\n")
    with pytest.raises(DataError, match=r"'elsewhere\.png'"):
        traverse(dense_model, data=photos / "shirts", attributes=file)
    file.write_text("\n".join(["path,brightness", *lines[:9]]))
    with pytest.raises(DataError, match="9 inputs have all"):
        traverse(dense_model, data=photos / "shirts", attributes=file)


def test_a_code_of_two_numbers_is_a_plane(table_model: tuple[Path, Array], tmp_path: Path) -> None:
    model, _ = table_model
    traverse(model, output=tmp_path / "plane.npy")
    plane = np.load(tmp_path / "plane.npy").reshape(20, 20, 6)
    # Its decoder is linear: equal steps to the right and upwards, but for rounding.
    right, down = np.diff(plane, axis=1).mean((0, 1)), np.diff(plane, axis=0).mean((0, 1))
    corners = plane[0, 0] + 19 * (right + down)
    np.testing.assert_allclose(plane[-1, -1], corners, atol=1e-3)
    assert np.linalg.matrix_rank(np.stack([right, down])) == 2


def test_images_of_another_size_go_through_a_convolutional_model(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    small = photos / "small" / "0.png"
    told = traverse(model, small, output=tmp_path / "t.npy")
    assert told["kind"] == "channels of the code" and told["latents"] == 2
    assert np.load(tmp_path / "t.npy").shape == (14, 20, 28)
    arithmetic(model, f"{small} + {small} - {small}", output=tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").shape[1:] == (20, 28)


BAD: dict[str, tuple[Callable[..., Any], type[CompressorError], str]] = {
    "no samples": (lambda m, d, v, p, t: sample(m, n=0, output=t / "a.npy"), ConfigError, "n=0"),
    "no place": (lambda m, d, v, p, t: sample(m), ConfigError, "sheet=F.png"),
    "temperature": (
        lambda m, d, v, p, t: sample(m, output=t / "a.npy", temperature=-1),
        ConfigError,
        "temperature=-1",
    ),
    "features": (
        lambda m, d, v, p, t: sample(features(m, t), output=t / "a.npy"),
        ModelError,
        "rebuilds features",
    ),
    "table of images": (
        lambda m, d, v, p, t: sample(m, output=t / "a.csv"),
        ConfigError,
        ".npy, .parquet or a folder",
    ),
    "picture of vectors": (
        lambda m, d, v, p, t: sample(v, sheet=t / "a.png"),
        ConfigError,
        "no picture",
    ),
    "folder of vectors": (
        lambda m, d, v, p, t: sample(v, output=t / "a"),
        ConfigError,
        "vectors are written as",
    ),
    "no png": (lambda m, d, v, p, t: sample(m, sheet=t / "a.jpg"), ConfigError, "as .png"),
    "there already": (lambda m, d, v, p, t: sample(m, output=p), OutputError, "exists"),
    "into the model": (
        lambda m, d, v, p, t: sample(m, output=m / "a.npy"),
        OutputError,
        "the input",
    ),
    "one step": (
        lambda m, d, v, p, t: interpolate(m, p / "colours.png", p, steps=1),
        ConfigError,
        "steps=1",
    ),
    "no file": (
        lambda m, d, v, p, t: interpolate(m, p / "none.png", p / "shirts"),
        DataError,
        "none.png does not exist",
    ),
    "a vector for an image": (
        lambda m, d, v, p, t: interpolate(d, p / "shirts" / "0.png", np.zeros((1, 6), "f4")),
        DataError,
        "is a vector, the model takes images",
    ),
    "an image for a vector": (
        lambda m, d, v, p, t: interpolate(v, np.zeros((1, 6), "f4"), p / "shirts" / "0.png"),
        DataError,
        "is an image, the model takes vectors",
    ),
    "two sizes": (
        lambda m, d, v, p, t: interpolate(m, p / "shirts" / "0.png", p / "small" / "0.png"),
        DataError,
        "20x28",
    ),
    "two sizes in one": (
        lambda m, d, v, p, t: arithmetic(m, f"{p}/*/0.png", output=t / "a.png"),
        DataError,
        "images of one size",
    ),
    "another size": (
        lambda m, d, v, p, t: traverse(d, p / "small" / "0.png"),
        DataError,
        "is 20x28, the model takes 28x28 only",
    ),
    "colours": (
        lambda m, d, v, p, t: traverse(m, p / "colours.png"),
        DataError,
        "has 3 channels, the model takes 1",
    ),
    "missing name": (
        lambda m, d, v, p, t: arithmetic(m, f"{p}/shirts - {p}/none.png", output=t / "a.png"),
        DataError,
        "none.png does not exist",
    ),
    "empty glob": (
        lambda m, d, v, p, t: arithmetic(m, f"{p}/empty/*.png", output=t / "a.png"),
        DataError,
        "matches no file",
    ),
    "empty folder": (
        lambda m, d, v, p, t: arithmetic(m, f"{p}/empty", output=t / "a.png"),
        DataError,
        "holds no images",
    ),
    "address": (
        lambda m, d, v, p, t: arithmetic(m, "s3://b/a.png", output=t / "a.png"),
        ConfigError,
        "s3://",
    ),
    "no data": (
        lambda m, d, v, p, t: traverse(m, attributes=p / "own.csv"),
        ConfigError,
        "data=DATA",
    ),
    "nothing to measure": (
        lambda m, d, v, p, t: traverse(v, data=np.zeros((20, 6), "f4")),
        ConfigError,
        "attributes=FILE.csv",
    ),
    "no attributes": (
        lambda m, d, v, p, t: traverse(m, data=p / "shirts", attributes=p / "own.csv"),
        DataError,
        "own.csv does not exist",
    ),
}


def features(model: Path, folder: Path) -> Path:
    """A model as plugins that rebuild features make it."""
    files = {n: e for n, e in Model.open(model).manifest.files.items() if n != "decoder.onnx"}
    return changed(model, folder.parent / f"{folder.name}-features", files=files)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str,
    model: Path,
    dense_model: Path,
    table_model: tuple[Path, Array],
    photos: Path,
    tmp_path: Path,
) -> None:
    run, error, said = BAD[case]
    with pytest.raises(error) as raised:
        run(model, dense_model, table_model[0], photos, tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_density_is_refused(dense_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dense_model, tmp_path / "copy"))
    (copy / NAME).write_bytes((copy / NAME).read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"density\.npz does not have the hash"):
        sample(copy, output=tmp_path / "a.npy")
