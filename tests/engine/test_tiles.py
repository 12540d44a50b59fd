"""Images of any size: padded to the stride, and in tiles that leave no seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.data.images import Pixels
from compressor.engine import tiles as tiling
from compressor.engine.engine import Engine
from compressor.engine.tiles import MIN_HALOS_PER_TILE, Tile, padded, tiles
from compressor.model import Model
from compressor.spec import CodeSpec, DataSpec

MOST = 64**2  # pixels at once, where tests want tiles
SMALL_GOLDEN = Path(__file__).parents[1] / "golden" / "1" / "model"


def mosaic(images: Pixels, rows: int, columns: int) -> Pixels:
    """Images side by side, as one: (1, rows * 28, columns * 28, 1)."""
    sheet = images[: rows * columns].reshape(rows, columns, 28, 28)
    return np.ascontiguousarray(sheet.swapaxes(1, 2)).reshape(1, rows * 28, columns * 28, 1)


@dataclass
class Cut:
    """A model, with another halo than it has."""

    model: Model
    halo: int | None

    @property
    def code(self) -> CodeSpec:
        return self.model.code.model_copy(update={"halo": self.halo})

    @property
    def spec(self) -> DataSpec:
        return self.model.spec

    @property
    def graph_scores(self) -> Sequence[str]:
        return self.model.graph_scores

    @property
    def further_scores(self) -> Sequence[str]:
        return self.model.further_scores

    def read(self, name: str) -> bytes:
        return self.model.read(name)


class Watched:
    """A session that notes the shapes that reach it."""

    def __init__(self, session: Any) -> None:
        self.session, self.shapes = session, set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: list[str], inputs: dict[str, npt.NDArray[Any]]) -> Any:
        self.shapes |= {array.shape for array in inputs.values()}
        return self.session.run(names, inputs)


@pytest.fixture
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MAX_PIXELS", MOST)


# Padding


@pytest.mark.parametrize("size", [(1, 1), (1, 28), (27, 25), (28, 26), (5, 3)])
def test_the_graphs_see_the_edge_repeated_and_what_comes_back_is_cropped(
    size: tuple[int, int], model: Path, clothes: Pixels
) -> None:
    engine = Engine(Model.open(model))
    height, width = size
    given = clothes[:9, 28 - height :, 28 - width :]
    rows, columns = (np.minimum(np.arange(-(-n // 4) * 4), n - 1) for n in size)
    larger = given[:, rows][:, :, columns]
    codes = engine.encode(given)
    assert codes.shape == (9, 2, -(-height // 4), -(-width // 4))
    np.testing.assert_array_equal(codes, engine.encode(larger))
    decoded = engine.decode(codes, height, width)
    assert decoded.shape == given.shape
    whole = engine.decode(codes, *larger.shape[1:3])
    np.testing.assert_array_equal(decoded, whole[:, :height, :width])
    np.testing.assert_array_equal(larger, padded(given, 4))


def test_what_the_stride_divides_is_not_copied(clothes: Pixels) -> None:
    assert padded(clothes, 4) is clothes and padded(clothes, None) is clothes


def test_the_score_of_a_padded_image_is_that_of_its_own_pixels(
    model: Path, clothes: Pixels
) -> None:
    engine = Engine(Model.open(model))
    image = clothes[:6, :, :25].copy()
    image[:, :, 24] = 255  # repeated thrice, it would count thrice
    answers, larger = engine.score(image), engine.score(padded(image, 4))
    assert answers["error_map"].shape == (6, 28, 25)
    np.testing.assert_array_equal(answers["error_map"], larger["error_map"][:, :, :25])
    expected = answers["error_map"].astype(np.float64).mean((1, 2)).astype(np.float32)
    np.testing.assert_array_equal(answers["l2"], expected)
    assert (answers["l2"] < 0.9 * larger["l2"]).all()


# Tiles


@settings(deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from([1, 2, 4, 16]),
    st.integers(0, 12),
    st.integers(2**10, 2**16),
)
def test_tiles_cover_an_image_once_and_have_their_halo(
    height: int, width: int, stride: int, halo: int, most: int
) -> None:
    code = CodeSpec(shape=(3, 2, 2), stride=stride, halo=halo)
    _, h, w = code.shape_for(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "MAX_PIXELS", most)
        found = tiles(code, height, width)
    covered = np.zeros((h, w), np.int64)
    for tile in found:
        covered[tile.kept.rows, tile.kept.columns] += 1
        for axis, length in (("rows", h), ("columns", w)):
            window, own, within = (getattr(area, axis) for area in tile)
            assert 0 <= window.start <= max(0, own.start - halo)
            assert min(length, own.stop + halo) <= window.stop <= length
            assert own.start - window.start == within.start
            assert own.stop - window.start == within.stop
    assert (covered == 1).all()
    (size,) = {tile.window.size for tile in found}
    side = MIN_HALOS_PER_TILE * halo * stride
    assert size[0] * size[1] <= max(most, side**2, side * most**0.5) or len(found) == 1


def same_but_for_noise(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> bool:
    """Whether arrays of integers are equal, but for one step in a few places."""
    apart = np.abs(ours.astype(np.int64) - theirs)
    return bool(apart.max() <= 1 and (apart > 0).mean() < 1e-3)


@pytest.mark.parametrize("size", [(20, 30), (1, 80), (70, 1)])
@pytest.mark.parametrize("odd", [0, 1])
def test_a_large_image_in_tiles_is_what_it_is_as_a_whole(
    size: tuple[int, int], odd: int, model: Path, clothes: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = mosaic(clothes, *size)[:, odd:, odd:]
    height, width = image.shape[1:3]
    engine = Engine(Model.open(model))
    codes = engine.encode(image)
    decoded, scores = engine.decode(codes, height, width), engine.score(image)

    monkeypatch.setattr(tiling, "MAX_PIXELS", 2 * MOST if size == (20, 30) else 28 * 400)
    assert len(tiles(engine._model.code, height, width)) > 1
    seen = {name: Watched(engine.session(name)) for name in ("encoder", "decoder", "scorer")}
    engine._sessions.update(seen)  # type: ignore[arg-type]
    assert same_but_for_noise(engine.encode(image), codes)
    assert same_but_for_noise(engine.decode(codes, height, width), decoded)
    again = engine.score(image)
    np.testing.assert_allclose(again["error_map"], scores["error_map"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(again["l2"], scores["l2"], rtol=1e-5)
    for name, watched in seen.items():
        (shape,) = watched.shapes
        assert np.prod(shape[1:]) <= (2 if name == "decoder" else 1) * tiling.MAX_PIXELS


def test_without_a_halo_there_would_be_seams(
    model: Path, clothes: Pixels, few_pixels: None
) -> None:
    opened, image = Model.open(model), mosaic(clothes, 10, 10)
    assert opened.code.halo == 5
    right, wrong = (Engine(Cut(opened, halo)).encode(image) for halo in (5, 0))
    assert not same_but_for_noise(wrong, right)
    right, wrong = (Engine(Cut(opened, halo)).decode(right, 280, 280) for halo in (5, 0))
    assert not same_but_for_noise(wrong, right)


def test_images_beside_a_large_one_stay_apart(
    model: Path, clothes: Pixels, few_pixels: None
) -> None:
    engine = Engine(Model.open(model))
    images = np.concatenate([mosaic(clothes[start:], 5, 5) for start in (0, 100, 200)])
    codes = engine.encode(images)
    for number in range(3):
        np.testing.assert_array_equal(engine.encode(images[number : number + 1])[0], codes[number])
    decoded = engine.decode(codes, 140, 140)
    np.testing.assert_array_equal(engine.decode(codes[1:2], 140, 140)[0], decoded[1])
    scores = engine.score(images)["l2"]
    np.testing.assert_array_equal(engine.score(images[2:])["l2"][0], scores[2])


def test_a_model_whose_halo_is_not_known_does_images_whole(
    clothes: Pixels, few_pixels: None
) -> None:
    model = Model.open(SMALL_GOLDEN)
    assert model.code.stride is not None and model.code.halo is None
    (tile,) = tiles(model.code, 280, 280)
    assert tile.window.size == (280, 280)
    image = mosaic(clothes, 10, 10)
    engine = Engine(model)
    assert engine.decode(engine.encode(image), 280, 280).shape == image.shape


def test_other_scores_are_the_mean_of_the_tiles(
    model: Path, clothes: Pixels, few_pixels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, image = Engine(Model.open(model)), mosaic(clothes, 9, 9)
    run: Callable[..., dict[str, Any]] = engine._run

    def with_brightness(graph: str, array: Pixels, size: tuple[int, int]) -> dict[str, Any]:
        return {**run(graph, array, size), "bright": array.mean((1, 2, 3)).astype(np.float32)}

    monkeypatch.setattr(engine, "_run", with_brightness)
    answers = engine.score(image)
    expected = 0.0
    areas: list[Tile] = tiles(engine._model.code, 252, 252)
    for tile in areas:
        share = np.prod(tile.kept.size) / 252**2
        expected += share * image[tile.window.pixels].mean()
    assert len(areas) > 4
    np.testing.assert_allclose(answers["bright"], [expected], rtol=1e-6)
