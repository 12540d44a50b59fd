"""index, search and duplicates, on real images: exact, without decoding, refused where wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from compressor.anomaly.normals import Normals
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ArchiveError, CompressorError, ConfigError, DataError, OutputError
from compressor.inspection import inspect, verify
from compressor.manifests import hash_line
from compressor.model import Model
from compressor.retrieval import index as index_module
from compressor.retrieval.index import Index
from compressor.retrieval.space import Space, reliability
from compressor.verbs import compress, duplicates, index, search


@pytest.fixture(scope="module")
def base(dense_model: Path, clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 900 clothes, in parts of 256 rows."""
    path = tmp_path_factory.mktemp("retrieval") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "MAX_PART_ROWS", 256)
        summary = index(clothes[:900], dense_model, path)
    assert summary["images"] == summary["added"] == 900 and summary["unreadable"] == 0
    return path


@pytest.fixture
def copied(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copied"))


def test_what_is_nearest_is_what_every_distance_says(
    base: Path, dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    model = Model.open(dense_model)
    engine, space = Engine(model, "cpu"), Space.of(model)
    known, asked = (
        space.vectors(engine.encode(images)).astype(np.float64)
        for images in (clothes[:900], clothes[900:])
    )
    distances = np.linalg.norm(asked[:, None] - known[None], axis=2)
    if space.cosine:
        distances = distances**2 / 2
    order = np.argsort(distances, axis=1, kind="stable")[:, :7]
    found = search(base, clothes[900:], k=7, output=tmp_path / "found.parquet")
    assert found["queries"] == 100 and len(found["found"]) == 50
    table = pq.read_table(tmp_path / "found.parquet").to_pydict()
    assert table["rank"] == list(range(1, 8)) * 100
    assert [int(name) for name in table["path"]] == order.ravel().tolist()
    expected = np.take_along_axis(distances, order, 1).ravel()
    np.testing.assert_allclose(table["distance"], expected, atol=1e-5)


def test_neighbours_are_of_the_same_class_more_often_than_by_chance(
    base: Path, dense_model: Path, clothes: Pixels
) -> None:
    """Without labels there is something to measure: pixels' own neighbours agree."""
    found = search(base, clothes[900:], k=1)["found"]
    flat = clothes.reshape(len(clothes), -1).astype(float)
    usual = np.linalg.norm(flat[900:950, None] - flat[None, :900], axis=2)
    nearest = [usual[place, int(row["path"])] for place, row in enumerate(found)]
    assert np.mean(nearest) < 0.7 * usual.mean()


def test_an_archive_is_indexed_without_decoding_and_alike(
    dense_model: Path,
    clothes: Pixels,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compress(clothes[:900], dense_model, tmp_path / "archive", min_psnr=14)
    codecs = inspect(tmp_path / "archive")["codecs"]
    assert codecs["model"] > 50 and codecs["webp-lossless"] > 0

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Engine, "decode", refuse)
    summary = index(tmp_path / "archive", dense_model, tmp_path / "index")
    assert summary["images"] == 900
    for one, other in zip(_vectors(tmp_path / "index"), _vectors(base), strict=True):
        np.testing.assert_array_equal(one, other)


def _vectors(path: Path) -> np.ndarray[Any, Any]:
    opened = Index.open(path)
    return np.concatenate([opened.vectors(part) for part in range(len(opened.manifest.parts))])


def test_more_is_added_without_touching_what_is_there(
    copied: Path, dense_model: Path, clothes: Pixels
) -> None:
    before = {p: p.read_bytes() for p in copied.rglob("part-*")}
    added = index(clothes[900:], dense_model, copied, add=True)
    assert (added["images"], added["added"]) == (1000, 100)
    assert {p: p.read_bytes() for p in before} == before
    assert verify(copied)["ok"] and inspect(copied)["images"] == 1000
    found = search(copied, clothes[950:951], k=50)["found"]
    assert "00050" in [row["path"] for row in found if row["distance"] == 0]


def test_an_addition_that_is_cut_short_changes_nothing(
    copied: Path, dense_model: Path, clothes: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "write_together", fail)
        with pytest.raises(KeyboardInterrupt):
            index(clothes[900:], dense_model, copied, add=True)
    assert inspect(copied)["images"] == 900 and verify(copied)["ok"]
    assert index(clothes[900:], dense_model, copied, add=True)["images"] == 1000
    assert verify(copied)["ok"]


def test_force_replaces_an_index(copied: Path, dense_model: Path, clothes: Pixels) -> None:
    assert index(clothes[:20], dense_model, copied, force=True)["images"] == 20
    assert verify(copied)["ok"] and len(list(copied.rglob("part-*"))) == 2


def test_a_row_of_the_index_finds_itself(base: Path) -> None:
    found = search(base, "::300", k=50)["found"]
    assert {row["query"] for row in found} == {"00300"}
    assert "00300" in [row["path"] for row in found if row["distance"] == 0]
    assert sorted(found, key=lambda row: row["rank"]) == found and found[-1]["distance"] > 0


def test_copies_and_nearly_equal_images_are_groups(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    images = np.concatenate([clothes[:300], clothes[:5], clothes[10:12]])
    index(images, dense_model, tmp_path / "index")
    summary = duplicates(tmp_path / "index", output=tmp_path / "groups.csv")
    table = pyarrow.csv.read_csv(tmp_path / "groups.csv").to_pydict()
    groups: dict[int, set[int]] = {}
    for group, name in zip(table["group"], table["path"], strict=True):
        groups.setdefault(group, set()).add(int(name))
    copies = [(row, 300 + row) for row in range(5)] + [(10, 305), (11, 306)]
    for pair in copies:
        assert any(set(pair) <= group for group in groups.values())
    assert len(groups) == summary["groups"] < 100
    assert duplicates(tmp_path / "index", threshold=0)["groups"] >= 7
    everything = duplicates(tmp_path / "index", threshold=1e9)
    assert (everything["groups"], everything["duplicates"]) == (1, 306)


def test_thousands_of_equal_images_are_one_group(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    """In time and memory that do not grow with the pairs in Python: 24 million here."""
    images = np.concatenate([np.repeat(clothes[:1], 7000, 0), clothes[:20]])
    index(images, dense_model, tmp_path / "index")
    summary = duplicates(tmp_path / "index", threshold=0)
    assert 6999 <= summary["duplicates"] <= 7020
    assert {row["group"] for row in summary["found"]} == {0}
    found = search(tmp_path / "index", clothes[:1], k=3)["found"]
    assert [row["path"] for row in found] == ["00000", "00001", "00002"]


def test_where_nothing_tells_codes_are_compared_as_they_are() -> None:
    """By the cosine codes of one number would be 1 or -1."""
    assert reliability(np.random.default_rng(0).normal(size=(500, 1)), 0.0, True) == 0
    assert Space.from_bytes(_space_of_one_number().to_bytes()).cosine is False


def _space_of_one_number() -> Space:
    codes = np.random.default_rng(0).integers(-9, 9, (500, 1), np.int32)
    return Space.learn(Normals.learn(codes, None, 0))


def test_noise_is_less_reliable_than_structure() -> None:
    random = np.random.default_rng(0)
    hidden = random.normal(size=(1000, 3))
    codes = hidden @ random.normal(size=(3, 24)) + 0.1 * random.normal(size=(1000, 24))
    noise = random.normal(size=(1000, 24))
    assert reliability(codes, 0.0, False) > 0.3 > 0.1 > reliability(noise, 0.0, False)
    # Whitening makes noise count as much as structure.
    assert reliability(codes, 0.0, False) > reliability(codes, 1.0, False)


def test_vectors_are_indexed_and_searched_too(tmp_path: Path) -> None:
    from compressor.verbs import train

    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 3)) @ random.normal(size=(3, 8))
    train("undercomplete", rows, tmp_path / "m", settings={"latent": 3, "hidden": []}, max_steps=60)
    index(rows, tmp_path / "m", tmp_path / "index")
    found = search(tmp_path / "index", rows[7:8], k=400)["found"]
    assert "00007" in [row["path"] for row in found if row["distance"] == 0]


BAD: dict[str, tuple[Callable[..., Any], type[CompressorError], str]] = {
    "no index": (lambda i, m, c, t: search(t, c[:1]), ArchiveError, "is not an index"),
    "a model": (lambda i, m, c, t: search(m, c[:1]), ArchiveError, "is a compressor-model"),
    "another size": (lambda i, m, c, t: search(i, c[:1, :20]), DataError, "20x28"),
    "colours": (
        lambda i, m, c, t: search(
            i, np.random.default_rng(0).integers(0, 255, (1, 28, 28, 3), "u1")
        ),
        DataError,
        "channel",
    ),
    "no row": (lambda i, m, c, t: search(i, "::900"), DataError, "::0 to ::899"),
    "no number": (lambda i, m, c, t: search(i, "::x"), DataError, "::0 to ::899"),
    "no file": (lambda i, m, c, t: search(i, t / "a.png"), DataError, "does not exist"),
    "k of 0": (lambda i, m, c, t: search(i, c[:1], k=0), ConfigError, "k=0"),
    "no table": (lambda i, m, c, t: search(i, c[:1], output=t / "a.txt"), ConfigError, ".parquet"),
    "threshold": (lambda i, m, c, t: duplicates(i, threshold=-1), ConfigError, "0 or more"),
    "there already": (lambda i, m, c, t: index(c, m, i), OutputError, "exists"),
    "add and force": (
        lambda i, m, c, t: index(c, m, i, add=True, force=True),
        ConfigError,
        "one of them",
    ),
    "add to nothing": (lambda i, m, c, t: index(c, m, t / "x", add=True), ArchiveError, "no such"),
    "force on a model": (
        lambda i, m, c, t: index(c, m, m.parent, force=True),
        OutputError,
        "holds the input",
    ),
    "force on tests": (
        lambda i, m, c, t: index(c, m, Path(__file__).parent, force=True),
        OutputError,
        "is not a compressor-index",
    ),
    "address": (lambda i, m, c, t: index(c, m, "s3://b/i"), CompressorError, "s3://"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, base: Path, dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    run, error, said = BAD[case]
    with pytest.raises(error) as raised:
        run(base, dense_model, clothes, tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_another_models_data_and_queries_are_refused(
    copied: Path, model: Path, clothes: Pixels
) -> None:
    for run in (
        lambda: index(clothes, model, copied, add=True),
        lambda: search(copied, clothes[:1], model=model),
    ):
        with pytest.raises(ArchiveError, match="another model"):
            run()


@pytest.mark.parametrize(
    "name",
    ["space.npz", "vectors/part-00001.npy", "names/part-00001.parquet", "model/encoder.onnx"],
)
def test_a_damaged_index_is_refused_and_verify_names_the_file(
    name: str, copied: Path, clothes: Pixels
) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(CompressorError, match=Path(name).name):
        search(copied, clothes[900:], k=900)
    told = verify(copied)
    assert not told["ok"] and any(Path(name).name in problem for problem in told["problems"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "update compressor"),
        ({"parts": [256, 256, 256, 10**9]}, "parts"),
        ({"parts": [256, 256, 256, 256]}, "float32"),
        ({"files": {"../evil": {"size": 1, "sha256": "0" * 64}}}, "not the name"),
        ({"model": "0" * 64}, "swapped"),
    ],
)
def test_hostile_manifests_are_refused(
    change: dict[str, Any], said: str, copied: Path, clothes: Pixels
) -> None:
    manifest = json.loads((copied / "manifest.json").read_bytes()) | change
    text = json.dumps(manifest).encode()
    (copied / "manifest.json").write_bytes(text)
    (copied / "manifest.sha256").write_bytes(hash_line(text))
    with pytest.raises(ArchiveError, match=said):
        search(copied, clothes[:1])


def test_links_inside_are_not_followed(copied: Path, clothes: Pixels, tmp_path: Path) -> None:
    part = copied / "vectors" / "part-00000.npy"
    part.rename(tmp_path / "elsewhere.npy")
    part.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ArchiveError, match="link"):
        search(copied, clothes[:1])
