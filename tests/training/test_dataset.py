"""The data of a training: crops of images of several sizes, and sizes that no stride divides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressor.plugins.undercomplete import Undercomplete
from PIL import Image

from compressor.data.images import Pixels
from compressor.data.sources import open_source
from compressor.engine.engine import Engine
from compressor.errors import ConfigError, DataError
from compressor.model import Model
from compressor.spec import VectorSpec
from compressor.training.checkpoint import State
from compressor.training.dataset import Dataset, load_dataset, split_rows
from compressor.training.loop import Budget, Loop
from compressor.training.settings import TrainingSettings
from compressor.verbs import calibrate, compress, decompress, train, verify

SIZES = [(28, 28), (56, 28), (28, 84), (40, 41)]
SOME = np.arange(3)


@pytest.fixture
def photos(clothes: Pixels, tmp_path: Path) -> tuple[Path, dict[str, Pixels]]:
    """60 images of four sizes, by name, and the folder that holds them."""
    folder, found = tmp_path / "photos", {}
    folder.mkdir()
    for number in range(60):
        four = clothes[4 * number : 4 * number + 4]
        sheet = np.concatenate([np.concatenate([*four[:3]], 1), np.concatenate([*four[1:]], 1)])
        height, width = SIZES[number % 4]
        name = f"{number:02d}.png"
        found[name] = sheet[:height, :width]
        Image.fromarray(found[name][..., 0]).save(folder / name)
    return folder, found


def is_crop_of(crop: Pixels, image: Pixels) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], crop.shape[:2])
    return bool((windows == crop[..., 0]).all((2, 3)).any())


def test_rows_are_the_middles_and_steps_draw_other_places(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    folder, images = photos
    data = load_dataset(open_source(folder), tmp_path, crop=20)
    assert (data.count, data.shape) == (60, (20, 20, 1)) and not data.unreadable
    assert data.spec(np.arange(60), standardise=True).shape == (20, 20, 1)

    middles = {
        image[(h - 19) // 2 :, (w - 19) // 2 :][:20, :20].tobytes()
        for image in images.values()
        for h, w in [image.shape[:2]]
    }
    everything = np.arange(60)
    rows = data.rows[everything]
    assert rows.shape == (60, 20, 20, 1) and {row.tobytes() for row in rows} == middles

    drawn = data.drawn(everything, seed=5, step=3)
    assert (drawn != rows).any((1, 2, 3)).sum() > 50
    by_size: list[Pixels] = list(images.values())
    for crop in drawn:
        assert any(is_crop_of(crop, image) for image in by_size)


def test_crops_are_a_function_of_seed_and_step(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    data = load_dataset(open_source(photos[0]), tmp_path, crop=20)
    some = np.array([3, 17, 42])
    first = data.drawn(some, 5, 3)
    again = load_dataset(open_source(photos[0]), tmp_path, crop=20)  # mapped, not decoded
    np.testing.assert_array_equal(first, again.drawn(some, 5, 3))
    for seed, step in ((5, 4), (6, 3)):
        assert (first != data.drawn(some, seed, step)).any()


def test_every_place_of_an_image_is_drawn(clothes: Pixels, tmp_path: Path) -> None:
    data = load_dataset(open_source(clothes[:1]), tmp_path, crop=26)
    corners = {data.drawn(np.zeros(64, np.int64), 0, step)[n].tobytes()
               for step in range(3) for n in range(64)}  # fmt: skip
    expected = {clothes[0, y : y + 26, x : x + 26].tobytes() for y in range(3) for x in range(3)}
    assert corners == expected


def test_images_smaller_than_the_crop_are_named_and_left_out(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    data = load_dataset(open_source(photos[0]), tmp_path, crop=30)
    assert data.count == 15  # of 40x41
    assert len(data.unreadable) == 45
    assert ("01.png", "is 56x28, smaller than crop=30") in data.unreadable
    with pytest.raises(DataError, match=r"nothing in .* smaller than crop=99"):
        load_dataset(open_source(photos[0]), tmp_path / "photos", crop=99)


@pytest.fixture
def mixed(clothes: Pixels, tmp_path: Path) -> Path:
    """Grey, colours, grey in colours, opaque alpha and alpha, by their names."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    colours = clothes[:3, ..., 0].transpose(1, 2, 0)
    opaque = np.full((28, 28, 1), 255, np.uint8)
    for name, image in {
        "grey": clothes[3, ..., 0],
        "colours": colours,
        "grey-in-colours": clothes[4].repeat(3, 2),
        "opaque": np.concatenate([colours[::-1], opaque], 2),
        "alpha": np.concatenate([colours, clothes[5]], 2),
    }.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_images_of_several_kinds_are_converted_on_demand(mixed: Path, tmp_path: Path) -> None:
    left = [
        ("alpha.png", "has alpha that is not opaque everywhere, which channels=grey would lose")
    ]
    data = load_dataset(open_source(mixed), tmp_path, channels="grey")
    assert data.shape == (28, 28, 1) and data.unreadable == left
    found = {row.tobytes() for row in data.rows}
    names = ("grey", "colours", "grey-in-colours", "opaque")
    assert found == {Image.open(mixed / f"{n}.png").convert("L").tobytes() for n in names}

    for name in ("job", "rgb"):
        (tmp_path / name).mkdir()
    data = load_dataset(open_source(mixed), tmp_path / "rgb", channels="rgb")
    assert data.shape == (28, 28, 3) and len(data.unreadable) == 1
    found = {row.tobytes() for row in data.rows}
    assert found == {Image.open(mixed / f"{n}.png").convert("RGB").tobytes() for n in names}

    data = load_dataset(open_source(mixed), tmp_path / "job", crop=20, channels="grey")
    assert data.shape == (20, 20, 1) and data.count == 4
    with pytest.raises(ConfigError, match="channels=grey is for images"):
        load_dataset(open_source(np.ones((9, 9), np.float32)), mixed, channels="grey")


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_that_is_stored_as_colours_is_told_and_kept(
    clothes: Pixels, tmp_path: Path, caplog: pytest.LogCaptureFixture, alpha: bool
) -> None:
    colours = clothes[:300].repeat(3, 3)
    if alpha:
        colours = np.concatenate([colours, np.full((300, 28, 28, 1), 255, np.uint8)], 3)
    data = load_dataset(open_source(colours), tmp_path)
    assert np.array_equal(data.rows, colours)
    assert caplog.messages == [
        "all images are grey, but stored as colours: channels=grey trains on one channel"
    ]
    caplog.clear()
    colours[299, 0, 0, 1] ^= 1
    for name, images in {"one": colours, "grey": clothes[:300]}.items():
        (tmp_path / name).mkdir()
        load_dataset(open_source(images), tmp_path / name)
    assert not caplog.messages


def test_crops_want_images_of_one_number_of_channels(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="crop=4 is for images"):
        load_dataset(open_source(np.ones((9, 9), np.float32)), tmp_path, crop=4)
    Image.fromarray(np.zeros((28, 28, 4), np.uint8)).save(photos[0] / "rgba.png")
    with pytest.raises(DataError, match=r"number of channels \(or .*rgba\.png is 28x28x4"):
        load_dataset(open_source(photos[0]), tmp_path, crop=4)
    with pytest.raises(DataError, match=r"one size \(or crop=N\): .*01\.png is 56x28x1"):
        load_dataset(open_source(photos[0]), tmp_path)


def test_a_model_is_trained_on_crops_and_used_on_whole_images(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    folder, images = photos
    settings = {"hidden": [4, 8], "latent": 2, "crop": 22, "batch_size": 16, "calibration": 0.3}
    summary = train("undercomplete", folder, tmp_path / "m", settings=settings, max_steps=30)
    assert summary["images"] == 60
    model = Model.open(tmp_path / "m")
    assert model.spec.shape == (22, 22, 1) and model.code.shape == (2, 6, 6)
    assert len(model.calibration("l2")) == 18
    assert verify(tmp_path / "m")["ok"]

    engine = Engine(model)
    data = load_dataset(open_source(folder), tmp_path, crop=22)
    scores = engine.score(data.rows[np.arange(60)])["l2"]
    assert set(model.calibration("l2").astype(np.float32)) <= set(scores)

    compress(folder, tmp_path / "m", tmp_path / "a")
    decompress(tmp_path / "a", tmp_path / "out")
    for name, image in images.items():
        with Image.open(tmp_path / "out" / name) as restored:
            found = np.asarray(restored)
        expected = engine.decode(engine.encode(image[None]), *image.shape[:2])[0, ..., 0]
        np.testing.assert_array_equal(found, expected)
    calibrate(tmp_path / "m", folder)
    assert len(Model.open(tmp_path / "m").calibration("l2")) == 60


def test_a_training_on_crops_that_was_interrupted_ends_with_the_same_weights(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    data = load_dataset(open_source(photos[0]), tmp_path, crop=24)
    split = split_rows(data.count, 0.1, 0.1, seed=3)
    settings = TrainingSettings(batch_size=16, evaluate_every=5, accelerator="cpu", crop=24)

    def interrupt(state: State, *_: float) -> None:
        if state.step == 13:
            raise KeyboardInterrupt

    def run(folder: Path, report: Any, seed: int = 3) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(3)
        model = Undercomplete(Undercomplete.Config(hidden=[4], latent=2), data.spec(SOME, True))
        Loop(model, settings, data, split, Budget(20), seed, folder, report).run()
        return torch.cat([weight.flatten() for weight in model.state_dict().values()])

    whole = run(tmp_path / "whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", interrupt)
    assert torch.equal(run(tmp_path / "cut", lambda *_: None), whole)
    assert not torch.equal(run(tmp_path / "other", lambda *_: None, seed=4), whole)


@pytest.mark.parametrize("plugin", ["undercomplete", "denoising"])
def test_a_model_of_a_size_that_its_stride_does_not_divide(
    plugin: str, clothes: Pixels, tmp_path: Path
) -> None:
    odd = clothes[:300, 1:, 3:]
    settings: dict[str, Any] = {"hidden": [4, 8], "latent": 2, "learning_rate": 0.02}
    settings["discriminator"] = plugin == "denoising"
    train(plugin, odd, tmp_path / "m", settings=settings, max_steps=60)
    model = Model.open(tmp_path / "m")
    assert model.spec.shape == (27, 25, 1)
    assert (model.code.shape, model.code.stride) == ((2, 7, 7), 4)
    assert verify(tmp_path / "m")["ok"]
    summary = compress(odd, tmp_path / "m", tmp_path / "a", measure=True)
    assert summary["psnr"] > 10 and summary["raw_bytes"] == odd.size
    decompress(tmp_path / "a", tmp_path / "out.npy")
    restored = np.load(tmp_path / "out.npy")
    engine = Engine(model)
    np.testing.assert_array_equal(restored, engine.decode(engine.encode(odd), 27, 25)[..., 0])
    # What calibrates is scored as what is asked about: without the padding.
    scores = set(engine.score(odd)["l2"].tolist())
    assert set(model.calibration("l2").astype(np.float32).tolist()) <= scores


def test_a_dataset_goes_to_other_processes_without_its_content(
    photos: tuple[Path, dict[str, Pixels]], tmp_path: Path
) -> None:
    data = load_dataset(open_source(photos[0]), tmp_path, crop=20)
    rows = data.rows[np.arange(3)]
    state = data.__getstate__()
    assert "rows" not in state
    np.testing.assert_array_equal(Dataset(**state).rows[np.arange(3)], rows)


# Columns that float32 cannot tell apart


def table(path: Path, offset: float, deviation: float) -> Path:
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 3)) * [1, deviation, 1] + [0, offset, 5]
    np.savetxt(path, values, "%.17g", ",", header="x,time,y", comments="")
    return path


def test_a_column_whose_values_float32_cannot_tell_apart_is_refused_by_name(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "a.csv", 1_723_456_789, 5)
    message = (
        r"a\.csv: float32 cannot tell the values of the column 'time' apart: .*around 1723456789 "
        r".*steps of 128; subtract 1723457000 from them, .*or leave the column out"
    )
    with pytest.raises(DataError, match=message):
        train("undercomplete", path, tmp_path / "model", max_steps=1)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.csv"]
    for array in (TIMES, TIMES.astype(np.int64)):
        with pytest.raises(DataError, match=r"the array: float32 .* the columns 0, 1 apart"):
            load_dataset(open_source(array), tmp_path)
    assert load_dataset(open_source(f"{path}::x,y"), tmp_path).count == 300


TIMES = np.round(1.7e9 + np.random.default_rng(0).normal(0, 5, (300, 2)), 3)


@pytest.mark.parametrize(
    ("offset", "deviation", "warned"),
    [(5.2e6, 1, True), (47.123456, 1e-5, True), (1.7e9, 86400, False), (293.15, 0.01, False)],
)
def test_a_column_that_float32_makes_rough_is_trained_on_with_a_warning(
    tmp_path: Path, offset: float, deviation: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_dataset(open_source(table(tmp_path / "a.csv", offset, deviation)), tmp_path)
    spec = data.spec(np.arange(300), standardise=True)
    assert isinstance(spec, VectorSpec)
    assert spec.scale[1] == pytest.approx(deviation, rel=0.2)
    assert ("in part, float32 cannot tell the values of the column 'time'" in caplog.text) == warned
