from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.data import sinks
from compressor.data.sinks import open_sink, png_path
from compressor.data.sources import open_source
from compressor.errors import ArchiveError, ConfigError, OutputError
from compressor.spec import VectorSpec

UNSAFE = ["../x.png", "a/../../x", "/x", "C:x", "C:\\x", "..\\x", "a\\b", "", "a\0b", "..", "a/.."]


def write(path, images, count=None, force=False, at_once=3):
    """Writes the images {name: pixels}, a few at a time."""
    items = list(images.items())
    with open_sink(path, len(items) if count is None else count, force) as sink:
        for first in range(0, len(items), at_once):
            some = items[first : first + at_once]
            sink.write([name for name, _ in some], [pixels for _, pixels in some])


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def pixels_of(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.fixture
def images(clothes):
    return {f"{i:02}.png": clothes[i][..., None] for i in range(8)}


@pytest.fixture(params=["out", "out.npy", "out.parquet"])
def output(request, tmp_path):
    return tmp_path / "new" / request.param


# What all kinds share


def test_what_is_written_is_read_back_in_order(output, images, clothes, read):
    write(output, images)
    found = read(open_source(output))
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:8])
    if output.suffix != ".npy":
        assert found.names == list(images)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(output, images, error):
    with pytest.raises(error), open_sink(output, 8) as sink:
        sink.write(list(images), list(images.values()))
        raise error
    assert files_in(output.parent) == []


def test_an_output_that_exists_is_refused_without_force(output, images):
    write(output, images)
    with pytest.raises(OutputError, match="exists; give force=True"):
        write(output, images)


def test_an_interrupted_write_with_force_keeps_what_was_there(output, images, clothes, read):
    write(output, images)
    with pytest.raises(KeyboardInterrupt), open_sink(output, 8, force=True) as sink:
        sink.write(["00.png"], [clothes[50][..., None]])
        raise KeyboardInterrupt
    found = read(open_source(output))
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:8])
    assert len(files_in(output.parent)) == (9 if output.suffix == "" else 1)


def test_force_replaces_files(output, images, clothes, read):
    write(output, images)
    write(output, dict(zip(images, clothes[20:28, ..., None], strict=True)), force=True)
    found = read(open_source(output))
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[20:28])


def test_fewer_images_than_announced_make_a_whole_output(output, images, clothes, read):
    write(output, images, count=11)
    found = read(open_source(output))
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:8])


def test_a_full_disk_is_told_and_leaves_nothing(output, images, monkeypatch):
    def full(pixels):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sinks, "encode_png", full)
    monkeypatch.setattr(sinks.GrowingNpy, "append", lambda self, rows: full(rows))
    with pytest.raises(OutputError, match="disk is full"):
        write(output, images)
    assert files_in(output.parent) == []


def test_a_path_below_a_file_is_refused(output, images):
    output.parent.write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write(output, images)


def test_no_images_make_an_empty_output(output):
    write(output, {})
    if output.suffix == ".npy":
        assert np.load(output).shape == (0, 0, 0)
    elif output.suffix == ".parquet":
        assert pq.read_table(output).num_rows == 0
    else:
        assert files_in(output) == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_rgb_and_rgba_come_back_bit_for_bit(output, photo, channels, read):
    four = np.dstack([photo, photo[..., 0]])
    write(output, {"a.png": four[..., :channels], "b.png": four[::-1, :, :channels]})
    found = read(open_source(output))
    assert np.array_equal(found.pixels[0], four[..., :channels])
    assert np.array_equal(found.pixels[1], four[::-1, :, :channels])


# .npy


def test_an_npy_has_the_shape_of_the_images(tmp_path, clothes, photo):
    write(tmp_path / "grey.npy", {"a": clothes[0][..., None], "b": clothes[1][..., None]})
    assert np.array_equal(np.load(tmp_path / "grey.npy"), clothes[:2])
    write(tmp_path / "colour.npy", {"a": photo})
    assert np.load(tmp_path / "colour.npy").shape == (1, 84, 140, 3)


def test_an_npy_of_fewer_images_than_announced_has_no_bytes_too_many(tmp_path, images):
    write(tmp_path / "some.npy", images, count=10_000)
    write(tmp_path / "all.npy", images)
    assert (tmp_path / "some.npy").read_bytes() == (tmp_path / "all.npy").read_bytes()


def test_images_of_other_sizes_do_not_fit_into_an_npy(tmp_path, clothes, photo):
    with pytest.raises(OutputError, match=r"b is \(84, 140, 3\).*folder or a \.parquet"):
        write(tmp_path / "a.npy", {"a": clothes[0][..., None], "b": photo})
    assert files_in(tmp_path) == []


def test_an_npy_larger_than_the_free_space_is_refused_at_the_first_image(tmp_path, images):
    with pytest.raises(OutputError, match="disk is full"):
        write(tmp_path / "a.npy", images, count=10**15)
    assert files_in(tmp_path) == []


# Parquet


def test_parquet_has_the_columns_that_hugging_face_reads(tmp_path, images, photo, monkeypatch):
    monkeypatch.setattr(sinks, "ROW_GROUP_BYTES", 1000)
    path = tmp_path / "a.parquet"
    write(path, images | {"sub/photo.jpg": photo})
    file = pq.ParquetFile(path)
    assert file.num_row_groups > 1
    rows = file.read().to_pylist()
    assert [row["path"] for row in rows] == [*images, "sub/photo.jpg"]
    assert [row["image"]["path"] for row in rows] == [*images, "sub/photo.jpg"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(rows[-1]["image"]["bytes"]))), photo)
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    file.close()


# Folders


def test_names_and_subfolders_are_kept(tmp_path, clothes):
    names = ["b/2.png", "a.PNG", "00007", "sub.d/x/y", "c.tar", ".hidden.png", "日本/é.png"]
    write(tmp_path / "out", {name: clothes[i][..., None] for i, name in enumerate(names)})
    expected = ["b/2.png", "a.PNG", "00007.png", "sub.d/x/y.png", "c.tar.png", ".hidden.png",
                "日本/é.png"]  # fmt: skip
    found = [name for name in files_in(tmp_path / "out") if (tmp_path / "out" / name).is_file()]
    assert found == sorted(expected)
    for i, name in enumerate(expected):
        assert np.array_equal(pixels_of(tmp_path / "out" / name), clothes[i])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png"]),
        (["a.jpg", "a.jpg.png"], ["a.jpg.png", "a.jpg.png.png"]),
        (["a.jpg.png", "a.jpg"], ["a.jpg.png", "a.jpg.png.png"]),
        (["a.png", "a.png", "a.png"], ["a.png", "a.png.png", "a.png.png.png"]),
        (["a.png/b.png", "a.png"], ["a.png/b.png", "a.png.png"]),
        (["./a.png", "a.png"], ["a.png", "a.png.png"]),
    ],
)
def test_names_never_collide(tmp_path, clothes, names, expected):
    with open_sink(tmp_path / "out", 3) as sink:
        sink.write(names, [clothes[i][..., None] for i in range(len(names))])
    for i, name in enumerate(expected):
        assert np.array_equal(pixels_of(tmp_path / "out" / name), clothes[i])


def test_names_that_differ_in_case_do_not_collide_where_case_does_not_count(
    tmp_path, clothes, monkeypatch
):
    exists = sinks.os.path.lexists

    def exists_in_any_case(path):
        parent = path.parent
        return exists(path) or (
            parent.is_dir() and path.name.lower() in {p.name.lower() for p in parent.iterdir()}
        )

    monkeypatch.setattr(sinks.os.path, "lexists", exists_in_any_case)
    write(tmp_path / "out", {"a.png": clothes[0][..., None], "A.png": clothes[1][..., None]})
    assert files_in(tmp_path / "out") == ["A.png.png", "a.png"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_written(
    tmp_path, images, clothes, name
):
    with pytest.raises(ArchiveError, match="leads out of the output folder"):
        write(tmp_path / "deep" / "out", images | {name: clothes[9][..., None]})
    assert files_in(tmp_path) == ["deep"]


def test_an_image_whose_folder_has_the_name_of_another_image_is_refused(tmp_path, clothes):
    one = clothes[0][..., None]
    for name in ("a.png/b.png", "a.png/b/c.png"):
        with pytest.raises(ArchiveError, match="the name of another image"):
            write(tmp_path / "out", {"a.png": one, name: one})
    assert files_in(tmp_path) == []


def test_force_keeps_all_other_files_of_a_folder(tmp_path, clothes):
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for kept in ("diary.txt", "sub/old.png", "sub/1.png"):
        (out / kept).write_text("mine")
    write(out, {"sub/1.png": clothes[0][..., None], "2": clothes[1][..., None]}, force=True)
    assert files_in(out) == ["2.png", "diary.txt", "sub", "sub/1.png", "sub/old.png"]
    assert (out / "diary.txt").read_text() == (out / "sub/old.png").read_text() == "mine"
    assert np.array_equal(pixels_of(out / "sub" / "1.png"), clothes[0])
    assert np.array_equal(pixels_of(out / "2.png"), clothes[1])


def test_force_replaces_no_folder_and_follows_no_link(tmp_path, clothes):
    one = clothes[0][..., None]
    (tmp_path / "elsewhere").mkdir()
    for case in ("folder", "link", "file"):
        out = tmp_path / case
        out.mkdir()
        if case == "folder":
            (out / "b.png").mkdir()
        elif case == "link":
            (out / "b").symlink_to(tmp_path / "elsewhere")
        else:
            (out / "b").write_text("mine")
        name = "b.png" if case == "folder" else "b/1.png"
        before = files_in(out)
        with pytest.raises(OutputError, match="in the way"):
            write(out, {"a.png": one, name: one}, force=True)
        assert files_in(out) == before
    assert files_in(tmp_path / "elsewhere") == []


def test_force_does_not_turn_a_file_into_a_folder(tmp_path, images):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "out", images, force=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_force_does_not_replace_a_folder_by_a_file(tmp_path, images):
    (tmp_path / "out.npy").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "out.npy", images, force=True)
    assert files_in(tmp_path) == ["out.npy"]


def test_png_path_makes_nothing(tmp_path):
    assert png_path(tmp_path, "a/b.jpg") == tmp_path / "a" / "b.jpg.png"
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", UNSAFE)
def test_png_path_refuses_what_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(ArchiveError):
        png_path(tmp_path, name)


# Names that are too long


def names_file(folder):
    with (folder / "names.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["file"] for row in csv.DictReader(file)}


LONG = [
    "x" * 251 + ".png",  # just fits
    "x" * 251 + ".jpg",
    "x" * 248 + ".PNG",
    "x" * 4092 + ".png",
    "x" * 4091 + "y.png",
    "写" * 80 + ".jpg",
    "写" * 120 + ".tiff",
    "d" * 300 + "/1.png",
    "d" * 300 + "/2.jpg",
    "d" * 299 + "e/1.png",
    "/".join(["f" * 200] * 19) + "/" + "g" * 255,
    "/".join(["f"] * 2000) + "/g.png",
    "a." + "s" * 400,
    "short.png",
]


def test_names_that_are_too_long_are_shortened_and_listed(tmp_path, clothes, caplog):
    out = tmp_path / "out"
    for force in (False, True):  # into a folder that is there, too
        caplog.clear()
        write(out, {n: clothes[i][..., None] for i, n in enumerate(LONG)}, force=force)
        listed = names_file(out)
        assert caplog.messages == [
            f"shortened names that are too long for the file system: {len(listed)}; names.csv "
            "among the images has both"
        ]
        assert set(LONG) - set(listed) == {LONG[0], "x" * 248 + ".PNG", "写" * 80 + ".jpg",
                                           "short.png"}  # fmt: skip
        for i, name in enumerate(LONG):
            path = out / listed.get(name, name)
            if name == "写" * 80 + ".jpg":
                path = out / f"{name}.png"
            assert np.array_equal(pixels_of(path), clothes[i])
    assert listed["x" * 251 + ".jpg"].endswith(".jpg.png")
    assert Path(listed["d" * 300 + "/1.png"]).name == "1.png"
    assert Path(listed["d" * 300 + "/1.png"]).parent == Path(listed["d" * 300 + "/2.jpg"]).parent
    assert len(files_in(out)) == len(LONG) + 3  # two folders and the list
    assert all(len(part.encode()) <= 255 for file in files_in(out) for part in file.split("/"))


def test_short_names_that_collide_stay_apart(tmp_path, clothes):
    name = "x" * 300
    with open_sink(tmp_path / "out", 3) as sink:
        sink.write([name] * 3, [clothes[i][..., None] for i in range(3)])
    found = [pixels_of(path) for path in (tmp_path / "out").glob("*.png")]
    assert len(found) == 3
    for i in range(3):
        assert any(np.array_equal(pixels, clothes[i]) for pixels in found)


def test_without_long_names_there_is_no_list(tmp_path, images, caplog):
    write(tmp_path / "out", images)
    assert "names.csv" not in files_in(tmp_path / "out") and not caplog.messages


# Vectors


def spec_of(*columns, length=3):
    return VectorSpec(
        length=length, mean=(0.0,) * length, scale=(1.0,) * length, columns=columns or None
    )


def write_vectors(path, values, spec, force=False):
    """Writes the vectors {name: numbers}, two at a time."""
    items = list(values.items())
    with open_sink(path, len(items), force, spec) as sink:
        for first in range(0, len(items), 2):
            some = items[first : first + 2]
            sink.write([name for name, _ in some], [numbers for _, numbers in some])


@pytest.fixture
def vectors():
    """Float32 of every size, some of them subnormal, as bits come."""
    numbers = np.random.default_rng(0).bytes(4 * 300)
    values = np.frombuffer(numbers, np.float32).reshape(-1, 3)
    values = np.float32([*values[np.isfinite(values).all(1)], [0, -0.0, 1e-45], [0.1, 3.4e38, -1]])
    return {f"a/{place} b": row for place, row in enumerate(values)}


@pytest.fixture(params=["npy", "csv", "parquet"])
def table(request, tmp_path):
    return tmp_path / "new" / f"out.{request.param}"


@pytest.mark.parametrize("columns", [(), ("size", 'a "b", c', "größe")])
def test_vectors_are_read_back_bit_for_bit_with_names_and_columns(table, vectors, read, columns):
    write_vectors(table, vectors, spec_of(*columns))
    source = open_source(table)
    found = read(source)
    assert np.stack(found.pixels).tobytes() == np.stack(list(vectors.values())).tobytes()
    if table.suffix != ".npy":
        assert found.names == list(vectors)
        assert source.columns == (columns or ("c0", "c1", "c2"))


def test_columns_of_the_model_that_are_called_like_names_stay_what_they_are(tmp_path, read):
    rows = {"x": np.float32([1, 2, 3]), "y": np.float32([4, 5, 6])}
    spec = spec_of("id", "name", "path")
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet"):
        write_vectors(path, rows, spec)
        found = read(open_source(path, spec.columns))
        assert np.array_equal(np.stack(found.pixels), [[1, 2, 3], [4, 5, 6]])
        assert found.names == ["x", "y"]


def test_no_vectors_make_an_empty_output(table):
    write_vectors(table, {}, spec_of("a", "b", "c"))
    if table.suffix == ".npy":
        assert np.load(table).shape == (0, 3)
    elif table.suffix == ".csv":
        assert table.read_text() == '"name","a","b","c"\n'
    else:
        assert pq.read_table(table).schema.names == ["name", "a", "b", "c"]


def test_an_interrupted_write_of_vectors_leaves_what_was_there(table, vectors):
    write_vectors(table, vectors, spec_of())
    before = table.read_bytes()
    with pytest.raises(OutputError, match="exists; give force=True"):
        write_vectors(table, vectors, spec_of())
    with pytest.raises(KeyboardInterrupt), open_sink(table, 2, True, spec_of()) as sink:
        sink.write(["z"], [np.float32([1, 2, 3])])
        raise KeyboardInterrupt
    assert table.read_bytes() == before and files_in(table.parent) == [table.name]
    write_vectors(table, {"z": np.float32([1, 2, 3])}, spec_of(), force=True)
    assert table.read_bytes() != before


@pytest.mark.parametrize("name", ["out", "out.tsv", "out.png"])
def test_vectors_make_no_pictures(tmp_path, name):
    with (
        pytest.raises(ConfigError, match=r"vectors are written as \.npy, \.csv or \.parquet"),
        open_sink(tmp_path / name, 1, vectors=spec_of()),
    ):
        pass
    assert files_in(tmp_path) == []


def test_images_make_no_csv(tmp_path, images):
    with pytest.raises(ConfigError, match=r"images are written as \.npy, \.parquet or a folder"):
        write(tmp_path / "out.csv", images)
    assert files_in(tmp_path) == []
