"""Objects of Python as sources: each kind gives what it holds, or one sentence names its type."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

import compressor
from compressor import verbs
from compressor.data.images import Pixels
from compressor.data.sources import open_source
from compressor.errors import CompressorError, ConfigError, DataError

NAMES = [f"case {number}" for number in range(20)]
Png = Callable[[Pixels], bytes]


@pytest.fixture(scope="module")
def few() -> Any:
    """(20, 3) float64."""
    return np.random.default_rng(0).normal(size=(20, 3)).round(2)


def vectors_of(kind: str, few: Any) -> Any:
    """The same vectors in each kind of object."""
    frame = pd.DataFrame(few, columns=["a", "b", "c"])
    match kind:
        case "torch":
            return torch.tensor(few, requires_grad=True)
        case "list of arrays":
            return list(few)
        case "list of lists":
            return few.tolist()
        case "list of tensors":
            return list(torch.tensor(few))
        case "frame":
            return frame
        case "arrow":
            return pa.Table.from_pandas(frame)
        case "batch":
            return pa.RecordBatch.from_pandas(frame)
        case "dataset":
            return datasets.Dataset.from_pandas(frame)
        case "dataset of lists":
            return datasets.Dataset.from_dict({"embedding": few.tolist()})
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("torch", "list of arrays", "list of lists", "list of tensors"),
        *("frame", "arrow", "batch", "dataset", "dataset of lists"),
    ],
)
@pytest.mark.parametrize("names", [None, NAMES])
def test_vectors_of_every_kind_are_read(few: Any, read: Any, kind: str, names: Any) -> None:
    data = vectors_of(kind, few)
    source = open_source(data if names is None else compressor.rows(data, names=names))
    for start in (0, 8):
        found = read(source, 6, start)
        assert found.names == (names or [f"{row:05}" for row in range(20)])[start:]
        assert np.array_equal(np.stack(found.pixels), few[start:].astype(np.float32))
    is_table = kind in ("frame", "arrow", "batch", "dataset")
    assert source.columns == (("a", "b", "c") if is_table else None)
    assert (
        source.fingerprint()
        == open_source(data if names is None else compressor.rows(data, names=names)).fingerprint()
    )


@pytest.fixture(scope="module")
def encoded(clothes: Pixels) -> list[bytes]:
    files = []
    for image in clothes[:20]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


def images_of(kind: str, clothes: Pixels, encoded: list[bytes], folder: Path) -> Any:
    for name, data in zip(NAMES, encoded, strict=True):
        (folder / f"{name}.png").write_bytes(data)
    paths = [folder / f"{name}.png" for name in NAMES]
    pictures = [Image.fromarray(image) for image in clothes]
    structs = [{"bytes": b, "path": f"{n}.png"} for b, n in zip(encoded, NAMES, strict=True)]
    feature = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    match kind:
        case "torch":
            return torch.tensor(clothes)
        case "list of arrays":
            return list(clothes)
        case "list of pictures":
            return pictures
        case "list of paths":
            return [str(path) for path in paths]
        case "arrow":
            return pa.table({"image": structs})
        case "frame":
            return pd.DataFrame({"bytes": encoded, "name": [f"{name}.png" for name in NAMES]})
        case "dataset":
            return datasets.Dataset.from_dict({"image": pictures, "label": range(20)}, feature)
        case "dataset of paths":
            paths_alone = {"image": list(map(str, paths)), "label": list(range(20))}
            return datasets.Dataset.from_dict(paths_alone, feature)
        case "shuffled dataset":
            data = {"image": pictures[::-1], "label": list(range(20))}
            return datasets.Dataset.from_dict(data, feature).select(range(19, -1, -1))
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("torch", "list of arrays", "list of pictures", "list of paths", "arrow", "frame"),
        *("dataset", "dataset of paths", "shuffled dataset"),
    ],
)
def test_images_of_every_kind_are_read(
    clothes: Pixels, encoded: list[bytes], tmp_path: Path, read: Any, kind: str
) -> None:
    data = images_of(kind, clothes[:20], encoded, tmp_path)
    source = open_source(data)
    named = kind in ("list of paths", "arrow", "frame")
    names = [f"{name}.png" for name in NAMES] if named else [f"{row:05}" for row in range(20)]
    for start in (0, 8):
        found = read(source, 6, start)
        assert found.names == names[start:] and not found.unreadable
        assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[start:20])
    assert source.fingerprint() == open_source(data).fingerprint()
    assert read(open_source(compressor.rows(data, names=NAMES)), 6).names == NAMES


def test_images_of_a_list_may_have_any_sizes_and_modes(
    clothes: Pixels, photo: Pixels, read: Any
) -> None:
    turned = Image.fromarray(photo)
    turned.getexif()[0x0112] = 3
    pictures = [
        Image.fromarray(photo),
        Image.fromarray(clothes[0]),
        Image.fromarray(photo).convert("CMYK"),
        Image.fromarray(clothes[0].astype(np.uint16) * 257),
        turned,
    ]
    found = read(open_source(pictures))
    assert np.array_equal(found.pixels[0], photo) and found.pixels[2].shape == photo.shape
    assert np.array_equal(found.pixels[1][..., 0], clothes[0])
    assert "8 unsigned bits" in found.unreadable[3]
    assert np.array_equal(found.pixels[4], photo[::-1, ::-1])
    found = read(open_source([photo, clothes[0], photo[:5]]))
    assert [row.shape for row in found.pixels] == [photo.shape, (28, 28, 1), (5, 140, 3)]
    assert np.array_equal(read(open_source(Image.fromarray(photo))).pixels[0], photo)


def test_large_images_of_a_list_come_in_pieces(
    photo: Pixels, clothes: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.data.objects.CHUNK_BYTES", photo.size + 1000)
    (chunk,) = open_source([photo, clothes[0], photo, photo]).chunks(10)
    assert [images.names for images in chunk.load()] == [["00000", "00001"], ["00002"], ["00003"]]


def test_paths_that_are_no_images_are_unreadable(tmp_path: Path, read: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    found = read(open_source([tmp_path / "a.png", tmp_path / "gone.png", tmp_path]))
    assert found.names[:2] == ["a.png", "gone.png"]
    assert "not a PNG" in found.unreadable[0] and "No such file" in found.unreadable[1]
    with pytest.raises(ConfigError, match=r"s3://b/a\.png is an address"):
        open_source(["s3://b/a.png"])


def test_an_index_names_the_rows_of_a_frame(few: Any, read: Any) -> None:
    frame = pd.DataFrame(few, columns=["a", "b", "c"], index=pd.Index(NAMES, name="patient"))
    source = open_source(frame)
    assert source.columns == ("a", "b", "c") and read(source, 7).names == NAMES
    assert open_source(frame, ["c", "a"]).columns == ("c", "a")
    assert open_source(compressor.rows(frame, columns=["b"])).columns == ("b",)
    with pytest.raises(DataError, match="the table lacks d, which the model was trained on"):
        open_source(frame, ["d"])


def test_columns_of_an_array_have_the_names_that_are_given(few: Any, tmp_path: Path) -> None:
    assert open_source(compressor.rows(few, columns=["x", "y", "z"])).columns == ("x", "y", "z")
    with pytest.raises(DataError, match=r"columns=x,y are 2 names of columns, and the rows of the"):
        open_source(compressor.rows(few, columns=["x", "y"]))
    pd.DataFrame(few, columns=["a", "b", "c"]).to_csv(tmp_path / "a.csv", index=False)
    named = compressor.rows(tmp_path / "a.csv", names=NAMES, columns=["c", "a"])
    assert open_source(named).columns == ("c", "a")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:5], "5 names for the 20 rows"),
        (["a"] * 20, "two rows are named 'a'"),
        (["../a", *NAMES[1:]], r"'\.\./a' could lead out of a folder"),
    ],
)
def test_names_that_do_not_fit_are_refused(few: Any, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(compressor.rows(few, names=names))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "type NoneType; give a path"),
        (3, "type int; give a path"),
        (b"a.png", "type bytes; give a path"),
        (
            {"train": 1, "test": 2},
            "type dict, with the keys 'train', 'test': give one of its values",
        ),
        (datasets.DatasetDict(), r"type datasets\.DatasetDict"),
        ((row for row in "ab"), "type generator, which is read once.*make a list of it"),
        (
            datasets.IterableDataset.from_generator(lambda: iter([])),
            "IterableDataset, which is read",
        ),
        (pd.Series([1.0, 2.0]), r"float64 \(2,\).*array\[:, None\] for one number a row"),
        (pd.DataFrame({"a": [1, "x"], "b": [{}, 3]}), "the DataFrame cannot be read"),
        (pd.DataFrame({"a": ["x"]}), r"'a' is (large_)?string, .*compressor.rows\(data, columns="),
        (pa.table([[1], [2]], ["a", "a"]), "two columns named 'a'"),
        ([], "the list is empty"),
        ([[1, 2], [3]], "the rows of the list differ"),
        ([np.zeros((5, 5)), np.zeros((5, 5))], r"row 0 of the list, as array\[None\], is float64"),
        ([{"a": 1}], "object"),
        (torch.zeros(5, 3, 9, 9, dtype=torch.uint8), r"come first, array\.transpose\(0, 2, 3, 1\)"),
        (torch.zeros(5, 3, dtype=torch.bfloat16), r"torch\.Tensor cannot be made an array"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_refused_by_its_type(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_verbs_take_objects(few: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame(np.tile(few, (10, 1)), columns=["a", "b", "c"])
    settings = {"latent": 2, "hidden": [4]}
    verbs.train("undercomplete", frame, tmp_path / "m", settings=settings, max_steps=3)
    data = compressor.rows(few, names=NAMES)
    verbs.score(data, tmp_path / "m", tmp_path / "r.csv", threshold=1.0)
    rows = pd.read_csv(tmp_path / "r.csv")
    assert rows["path"].tolist() == NAMES
    verbs.score(frame[["c", "b", "a"]][:20], tmp_path / "m", tmp_path / "s.csv", threshold=1.0)
    assert np.allclose(pd.read_csv(tmp_path / "s.csv")["score"], rows["score"])
    with pytest.raises(CompressorError, match="type int"):
        verbs.score(3, tmp_path / "m", tmp_path / "t.csv", threshold=1.0)


def test_nothing_is_imported_for_objects_of_libraries() -> None:
    code = (
        "import sys, numpy as np; from compressor.data.sources import open_source\n"
        "open_source(np.zeros((3, 2), np.float32)); open_source([[1.0], [2.0]])\n"
        "print(sorted({'torch', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
