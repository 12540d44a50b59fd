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
from PIL import Image

from compressor.anomaly.normals import Normals
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.errors import ArchiveError, CompressorError, ConfigError, DataError, OutputError
from compressor.inspection import inspect, verify
from compressor.manifests import hash_line
from compressor.model import Model
from compressor.report.template import data_uri
from compressor.retrieval import cells, writer
from compressor.retrieval.folder import Index
from compressor.retrieval.space import Space, reliability
from compressor.verbs import compress, decompress, duplicates, index, search


@pytest.fixture(scope="module")
def base(dense_model: Path, clothes: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 900 clothes, in parts of 256 rows."""
    path = tmp_path_factory.mktemp("retrieval") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_ROWS", 256)
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


CUT_SHORT_AT = ["_finish_parts", "_link", "write_together", "Unfinished.remove"]


@pytest.mark.parametrize("step", CUT_SHORT_AT)
def test_an_addition_that_is_cut_short_goes_on(
    step: str,
    copied: Path,
    dense_model: Path,
    clothes: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each step: the old index or the new one, and no trace of the interruption at the end."""
    np.save(tmp_path / "more.npy", clothes[300:1000])
    monkeypatch.setattr(writer, "PART_ROWS", 256)
    with monkeypatch.context() as patch:
        _stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "more.npy", dense_model, copied, add=True)
    there = inspect(copied)["images"]
    assert there == (1600 if step == "Unfinished.remove" else 900) and verify(copied)["ok"]
    if there == 900:
        with pytest.raises(OutputError, match="resume=True"):
            index(tmp_path / "more.npy", dense_model, copied, add=True)
    added = index(tmp_path / "more.npy", dense_model, copied, add=True, resume=True)
    assert (added["images"], added["added"]) == (1600, 700)
    np.testing.assert_array_equal(_vectors(copied)[900:], _vectors(copied)[_again(900)])
    assert verify(copied)["ok"] and sorted(p.name for p in tmp_path.iterdir()) == [
        "copied",
        "more.npy",
    ]


def _again(count: int) -> list[int]:
    """Which of 900 rows, or of those that came after them, each of 700 further ones repeats."""
    return [row if row < count else row + 600 for row in range(300, 1000)]


def _stop_at(patch: pytest.MonkeyPatch, step: str) -> None:
    """Ctrl-C at the second call of a step of the writer, or at the first where there is one."""
    calls = 0
    owner: Any = writer.IndexWriter if step == "_finish_parts" else writer
    if step == "Unfinished.remove":
        owner, step = writer.Unfinished, "remove"
    real = getattr(owner, step)

    def stop(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (2 if step in ("_finish_parts", "_link") else 1):
            raise KeyboardInterrupt
        return real(*given)

    patch.setattr(owner, step, stop)


def test_a_new_index_goes_on_where_it_was_cut_short(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 256)
    np.save(tmp_path / "images.npy", clothes[:700])
    index(tmp_path / "images.npy", dense_model, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _stop_at(patch, "_finish_parts")
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "images.npy", dense_model, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    encoded: list[int] = []
    real = Engine.encode

    def encode(self: Engine, pixels: Any) -> Any:
        encoded.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Engine, "encode", encode)
    resumed = index(tmp_path / "images.npy", dense_model, tmp_path / "index", resume=True)
    assert resumed["images"] == 700 and sum(encoded) == 700 - 256
    for file in [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]:
        other = tmp_path / "index" / file.relative_to(tmp_path / "whole")
        assert other.read_bytes() == file.read_bytes(), file


def test_an_archives_index_goes_on_too(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.archive.reader.SEGMENT_IMAGES", 256)
    monkeypatch.setattr(writer, "PART_ROWS", 256)
    compress(clothes[:700], dense_model, tmp_path / "archive")
    with monkeypatch.context() as patch:
        _stop_at(patch, "_finish_parts")
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "archive", dense_model, tmp_path / "index")
    with pytest.raises(OutputError, match="another"):
        index(clothes, dense_model, tmp_path / "index", resume=True)
    assert index(tmp_path / "archive", dense_model, tmp_path / "index", resume=True)["added"] == 700
    index(tmp_path / "archive", dense_model, tmp_path / "whole")
    np.testing.assert_array_equal(_vectors(tmp_path / "index"), _vectors(tmp_path / "whole"))
    assert Index.open(tmp_path / "index").names(2)[-1] == "00699"


def test_force_clears_away_what_a_killed_addition_left(
    copied: Path, dense_model: Path, clothes: Pixels
) -> None:
    for name in ("vectors/part-00004.npy", "names/part-00004.parquet"):
        (copied / name).write_bytes(b"left")
    assert index(clothes[:9], dense_model, copied, force=True)["images"] == 9
    assert verify(copied)["ok"] and len(list(copied.rglob("part-*"))) == 2
    (copied / "vectors" / "notes.txt").write_text("a user's own")
    with pytest.raises(OutputError, match="is not a compressor-index"):
        index(clothes[:9], dense_model, copied, force=True)


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


ROWS = np.random.default_rng(0).normal(size=(400, 3)) @ np.random.default_rng(1).normal(size=(3, 8))


@pytest.fixture(scope="module")
def vectors_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from compressor.verbs import train

    path = tmp_path_factory.mktemp("vectors") / "model"
    train("undercomplete", ROWS, path, settings={"latent": 3, "hidden": []}, max_steps=60)
    return path


def test_vectors_are_indexed_and_searched_too(tmp_path: Path, vectors_model: Path) -> None:
    index(ROWS, vectors_model, tmp_path / "index")
    found = search(tmp_path / "index", ROWS[7:8], k=400)["found"]
    assert "00007" in [row["path"] for row in found if row["distance"] == 0]


def test_a_sheet_and_a_page_show_queries_beside_what_was_found(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    """What is shown are the very images, read again from where they came."""
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "images.npy", clothes[:300])
    index(tmp_path / "there" / "images.npy", dense_model, tmp_path / "there" / "index")
    (tmp_path / "there").rename(tmp_path / "elsewhere")  # both: the way between them is the same
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    found = search(
        tmp_path / "elsewhere" / "index", clothes[300:303], k=4, sheet=sheet, report=page
    )["found"]
    pixels = np.asarray(Image.open(sheet).convert("RGBA"))
    assert pixels.shape[1] > pixels.shape[0] > 3 * 84
    text = page.read_text()
    for shown in [clothes[300], *(clothes[int(row["path"])] for row in found)]:
        assert data_uri(shown) in text
        assert _is_in(shown[..., 0].repeat(3, 0).repeat(3, 1), pixels[..., 0])
    assert text.count("<img") == 3 * 5 and text.count("no picture") == 0


def _is_in(picture: np.ndarray[Any, Any], sheet: np.ndarray[Any, Any]) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)
    row = picture.shape[0] // 2
    near = (windows[:, :, row] == picture[row]).all(-1)
    return any((windows[y, x] == picture).all() for y, x in zip(*np.nonzero(near), strict=True))


def test_pictures_of_an_archive_are_decoded_when_they_are_asked_for(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    compress(clothes[:300], dense_model, tmp_path / "archive", min_psnr=14)
    index(tmp_path / "archive", dense_model, tmp_path / "index")
    page = tmp_path / "page.html"
    found = search(tmp_path / "index", "::7", k=5, report=page)["found"]
    decompress(tmp_path / "archive", tmp_path / "out.npy")
    decoded = np.load(tmp_path / "out.npy")
    for name in ["7", *(row["path"] for row in found)]:
        assert data_uri(decoded[int(name)].reshape(28, 28, 1)) in page.read_text()
    (tmp_path / "archive").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="give data"):
        search(tmp_path / "index", "::7", report=page, force=True)
    search(tmp_path / "index", "::7", data=tmp_path / "moved", sheet=tmp_path / "s.png")


def test_what_is_not_there_any_more_is_left_out_of_a_page(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    """An input of another name is another one; an error names no picture that is wrong."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.fromarray(clothes[number, ..., 0]).save(images / f"{number:02d}.png")
    index(images, dense_model, tmp_path / "index")
    (images / "19.png").rename(images / "99.png")
    page = tmp_path / "page.html"
    search(tmp_path / "index", clothes[:1], k=20, report=page)
    text = page.read_text()
    assert text.count("no picture") == 1 and data_uri(clothes[18]) in text
    assert data_uri(clothes[19]) not in text


def test_vectors_have_no_pictures(tmp_path: Path, vectors_model: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    index(tmp_path / "rows.npy", vectors_model, tmp_path / "index")
    with pytest.raises(ConfigError, match="no pictures"):
        search(tmp_path / "index", "::0", report=tmp_path / "page.html")


def test_cells_find_nearly_all_of_what_is_nearest(
    dense_model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 256)
    monkeypatch.setattr(writer, "MIN_ROWS", 500)
    monkeypatch.setattr(cells, "ROWS_A_CELL", 20)
    path = tmp_path / "index"
    index(clothes[:400], dense_model, path)
    assert Index.open(path).cells is None
    index(clothes[400:800], dense_model, path, add=True)  # now there are enough
    made = Index.open(path).cells
    assert made is not None and made.probes < len(made.centres) == 40
    index(clothes[800:900], dense_model, path, add=True)  # goes into the cells that are there
    assert (path / "cells.npz").read_bytes() == made.to_bytes() and verify(path)["ok"]
    rows = {}
    for approximate in (False, True):
        found = search(
            path,
            clothes[900:],
            approximate=approximate,
            output=path.with_suffix(".csv"),
            force=True,
        )
        assert found["recall"] == (made.recall if approximate else 1)
        table = pyarrow.csv.read_csv(path.with_suffix(".csv")).to_pydict()
        rows[approximate] = set(zip(table["query"], table["path"], strict=True))
    assert 0.95 < len(rows[True] & rows[False]) / 1000 < 1
    everything = search(path, clothes[900:901], k=900, approximate=True)  # more than cells hold
    assert everything["k"] == 900 and everything["found"][0]["distance"] < 9
    found = search(path, clothes[900:], k=1, approximate=True)
    assert found["found"] == search(path, clothes[900:], k=1)["found"]


def test_an_expanded_query_is_the_mean_of_it_and_the_nearest(
    base: Path, dense_model: Path, clothes: Pixels
) -> None:
    model = Model.open(dense_model)
    space = Space.of(model)
    known, asked = (
        space.vectors(Engine(model, "cpu").encode(images)).astype(np.float64)
        for images in (clothes[:900], clothes[900:903])
    )
    nearest = np.argsort(np.linalg.norm(asked[:, None] - known, axis=2), 1)[:, :2]
    means = space.scaled((asked + known[nearest].sum(1)) / 3)
    distances = space.distances(np.square(means[:, None] - known).sum(2))
    found = search(base, clothes[900:903], k=5, expand=2)["found"]
    expected = np.sort(distances, 1)[:, :5].ravel()
    np.testing.assert_allclose([row["distance"] for row in found], expected, atol=1e-4)


def test_the_space_can_be_set(dense_model: Path, clothes: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "index"
    made = index(clothes[:50], dense_model, path, metric="cosine", whitening=0.7)
    assert (made["metric"], made["whitening"]) == ("cosine", 0.7)
    lengths = np.linalg.norm(_vectors(path), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert search(path, clothes[:1])["metric"] == "cosine"


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
    "no place of pictures": (
        lambda i, m, c, t: search(i, c[:1], sheet=t / "a.png"),
        ConfigError,
        "give data",
    ),
    "other pictures": (
        lambda i, m, c, t: search(i, c[800:801], k=1, sheet=t / "a.png", data=c[:1]),
        ConfigError,
        "nothing is in the data given",
    ),
    "metric": (lambda i, m, c, t: index(c, m, t / "x", metric="l1"), ConfigError, "euclidean"),
    "whitening": (lambda i, m, c, t: index(c, m, t / "x", whitening=2), ConfigError, "0 to 1"),
    "another space": (
        lambda i, m, c, t: index(c, m, i, add=True, metric="cosine"),
        ConfigError,
        "added to",
    ),
    "expand": (lambda i, m, c, t: search(i, c[:1], expand=-1), ConfigError, "expand=-1"),
    "no sheet": (lambda i, m, c, t: search(i, c[:1], sheet=t / "a.jpg"), ConfigError, ".png"),
    "no page": (lambda i, m, c, t: search(i, c[:1], report=t / "a.pdf"), ConfigError, ".html"),
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
        ({"sources": []}, "sources"),
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
