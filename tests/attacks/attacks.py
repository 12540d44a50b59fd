"""Attacks on the project's own formats: `make attacks` runs them all, `make test` a few.

    python tests/attacks/attacks.py [NAME...]

Each attack makes a hostile model or archive of a sound one and gives it to verbs, each a process of
its own with a memory cap and a time limit. A line for each begins with

    clean     refused, with one clear line, or found by verify
    ok        worked, which is right for what is harmless
    CRASH     an exception that no one expected, or the end of the process
    HANG      past the time limit
    MEMORY    more than MAX_MEMORY
    WRONG     worked, and should not have

and the exit code is 1 unless all are clean or ok.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import lzma
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from compressor.archive.blocks import Header
from compressor.archive.items import Index, Items
from compressor.entropy.prior import tables_to_bytes
from compressor.entropy.tables import Table
from compressor.manifests import FileEntry, hash_line
from compressor.model import ModelManifest, digest_of
from compressor.packing import HEADER, TENSOR, TensorTables, _xz, pack

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL, ARCHIVE = GOLDEN / "3-scores" / "model", GOLDEN / "3" / "archive"
ADDRESS_SPACE = 6 << 30
MAX_MEMORY = 2 << 30  # resident
SECONDS = 60.0
MODEL_VERBS = ("verify", "encode")
ARCHIVE_VERBS = ("verify", "decompress")

Make = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Attack:
    """``make`` turns a copy of ``base`` into something hostile; it may return another path."""

    name: str
    base: Path
    make: Make
    verbs: tuple[str, ...]
    harmless: tuple[str, ...] = ()  # verbs that may end well
    quick: bool = False


def manifest_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data


def put_text(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_bytes(hash_line(text))


def put_manifest(folder: Path, **changes: Any) -> None:
    put_text(folder, json.dumps(manifest_of(folder) | changes).encode())


def nested(folder: Path) -> None:
    """A manifest of 100,000 lists in each other."""
    text = json.dumps(manifest_of(folder))[:-1]
    put_text(folder, f'{text}, "x": {"[" * 100_000}{"]" * 100_000}}}'.encode())


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Puts a file into a model, and its hash into the manifest."""
    (folder / name).write_bytes(content)
    files = manifest_of(folder)["files"] | {name: FileEntry.of(content).model_dump()}
    put_manifest(folder, files=files)


def given(name: str, content: bytes | Callable[[], bytes]) -> Make:
    """A model with that file; contents that take time to make come as functions."""
    return lambda folder: put_file(
        folder, name, content if isinstance(content, bytes) else content()
    )


def entries(**changes: dict[str, Any]) -> Make:
    """Changes keys of a model's manifest, one level down."""

    def make(folder: Path) -> None:
        data = manifest_of(folder)
        put_manifest(folder, **{key: data[key] | change for key, change in changes.items()})

    return make


def named(name: str) -> Make:
    """A manifest that has a file of that name, where there is one."""

    def make(folder: Path) -> None:
        content = b"not the user's\n"
        with contextlib.suppress(OSError, ValueError):
            (folder / name).write_bytes(content)
        files = manifest_of(folder)["files"] | {name: FileEntry.of(content).model_dump()}
        put_manifest(folder, files=files)

    return make


def linked(name: str, target: str) -> Make:
    def make(folder: Path) -> None:
        if (folder / name).is_dir():
            shutil.move(folder / name, folder.with_name("elsewhere"))
            target_of = str(folder.with_name("elsewhere"))
        else:
            (folder / name).unlink(missing_ok=True)
            target_of = target
        (folder / name).symlink_to(target_of)

    return make


def piped(name: str) -> Make:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def zipped(change: Callable[[zipfile.ZipFile], object]) -> Make:
    """The model as a zip, with what ``change`` adds."""

    def make(folder: Path) -> Path:
        path = folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
            change(archive)
        return path

    return make


def link_member(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = 0o120777 << 16
    archive.writestr(member, "/etc/hostname")


def duplicate_member(archive: zipfile.ZipFile) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("encoder.onnx", b"another")


def zip_bomb(size: int | None) -> Make:
    """encoder.onnx is 1 GiB of zeros in a member of 1 MB; ``size``: what the manifest says."""

    def make(folder: Path) -> Path:
        files = manifest_of(folder)["files"]
        files["encoder.onnx"] = {"size": 1 << 30 if size is None else size, "sha256": "0" * 64}
        put_manifest(folder, files=files)
        path = folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                if file.name != "encoder.onnx":
                    archive.write(file, file.name)
            with archive.open("encoder.onnx", "w", force_zip64=True) as member:
                for _ in range(64):
                    member.write(bytes(1 << 24))
        return path

    return make


def parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz_member(header: bytes, zeros: int = 0) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as member,
    ):
        member.write(header)
        for _ in range(zeros >> 24):
            member.write(b" " * (1 << 24))
    return buffer.getvalue()


class Evil:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def evil_array() -> Any:
    array = np.empty(1, object)
    array[0] = Evil()
    return array


def shape_of_2_40() -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**40}, 28, 28, 1), }}\n"
    return npz_member(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())


@functools.cache
def npz_files() -> dict[str, bytes]:
    return {
        "pickle": npz(image=evil_array(), code=evil_array(), grid=evil_array()),
        "raw pickle": pickle.dumps(Evil()),
        "garbage": b"garbage" * 99,
        "no arrays": npz(x=np.zeros(3)),
        "header of 256 MiB": npz_member(b"\x93NUMPY\x02\x00\xf0\xff\xff\xff", 1 << 28),
        "shape 2^40": shape_of_2_40(),
        "odd shapes": npz(image=np.zeros((2, 3)), code=np.zeros(5), l2=np.zeros(1)),
        "strings": npz(image=np.array(["a"]), code=np.array(["b"]), grid=np.array("c")),
    }


# Graphs.


def graph(
    nodes: list[onnx.NodeProto],
    tensors: Iterable[onnx.TensorProto] = (),
    output: tuple[str, int] = ("code", TensorProto.INT32),
    **more: Any,
) -> bytes:
    """image uint8 (N, H, W, 1) -> ``output``."""
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 1])
    answer = helper.make_tensor_value_info(output[0], output[1], None)
    made = helper.make_graph(nodes, "g", [given, *more.pop("inputs", [])], [answer], list(tensors))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], **more)
    model.ir_version = 10
    content: bytes = model.SerializeToString()
    return content


def cast(name: str = "code", kind: int = TensorProto.INT32) -> onnx.NodeProto:
    return helper.make_node("Cast", ["image"], [name], to=kind)


def external(location: str) -> bytes:
    tensor = onnx.TensorProto(name="secret", data_type=TensorProto.INT32, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    add = helper.make_node("Add", ["x", "secret"], ["code"])
    return graph([cast("x"), add], [tensor])


def subgraph() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("v2", TensorProto.INT32, None)
    return helper.make_graph([helper.make_node("Identity", ["x"], ["v2"])], "b", [], [value])


def loop() -> bytes:
    """An endless one."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Identity", ["v"], ["v2"]),
        ],
        "b",
        [info("i", 7, []), info("c", 9, []), info("v", 6, None)],
        [info("c2", 9, []), info("v2", 6, None)],
    )
    true = numpy_helper.from_array(np.array(True), "t")
    node = helper.make_node("Loop", ["", "t", "x"], ["code"], body=body)
    return graph([cast("x"), node], [true])


def integers(value: int | list[int], name: str = "k") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int32), name)


def function() -> bytes:
    made = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    return graph([cast()], functions=[made])


@functools.cache
def graphs() -> dict[str, bytes]:
    node = helper.make_node
    weights = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    condition = numpy_helper.from_array(np.array(True), "t")
    true_branch = node("If", ["t"], ["code"], then_branch=subgraph(), else_branch=subgraph())
    string = helper.make_tensor("v", TensorProto.STRING, [1], [b"x"])
    more = helper.make_tensor_value_info("more", TensorProto.INT32, ["N"])
    return {
        "endless Loop": loop(),
        "If": graph([cast("x"), true_branch], [condition]),
        "a function": function(),
        "another domain": graph([node("Evil", ["image"], ["code"], domain="com.evil")]),
        "ConstantOfShape of 8 GiB": graph(
            [node("ConstantOfShape", ["k"], ["code"])],
            [numpy_helper.from_array(np.array([1 << 33], np.int64), "k")],
        ),
        "external data /etc/hostname": external("/etc/hostname"),
        "external data in the folder": external("manifest.json"),
        "ConvTranspose of 0 groups": graph(
            [cast("x", 1), node("ConvTranspose", ["x", "w"], ["code"], group=0)], [weights]
        ),
        "the smallest integer by -1": graph(
            [cast("x"), node("Mul", ["x", "zero"], ["z"]), node("Add", ["z", "least"], ["y"]),
             node("Div", ["y", "k"], ["code"])],
            [integers(0, "zero"), integers(-(2**31), "least"), integers(-1)],
        ),
        "code of another shape": graph([cast()]),
        "float code": graph([cast("code", 1)], output=("code", TensorProto.FLOAT)),
        "another output": graph([cast("other")], output=("other", TensorProto.INT32)),
        "a scalar": graph([node("Constant", [], ["code"], value=integers(3))]),
        "a string": graph(
            [node("Constant", [], ["code"], value=string)], output=("code", TensorProto.STRING)
        ),
        "two inputs": graph([cast()], inputs=[more]),
        "20,000 operators": graph(
            [cast(), *[node("Relu", ["code"], [f"r{n}"]) for n in range(20_000)]]
        ),
        "a graph in a graph in a graph": b"\x3a\xff\xff\xff\x07" * 1000,
        "garbage": b"garbage" * 300,
        "nothing": b"",
    }  # fmt: skip


# Archives.


def fix(folder: Path, **changes: Any) -> None:
    """Makes all hashes of an archive right again."""
    with contextlib.suppress(Exception):
        changed = ModelManifest.model_validate(manifest_of(folder / "model"))
        changes = {"model": digest_of(changed), "data": changed.data.model_dump()} | changes
    files = {
        file.relative_to(folder).as_posix(): FileEntry.of_file(file).model_dump()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.parent != folder
    }
    put_manifest(folder, files=files, **changes)


def embedded(name: str, packed: bytes | Callable[[], bytes] | None = None, **entry: Any) -> Make:
    """Another file in the archive's model: its packed form, and what the manifest says of it."""

    def make(folder: Path) -> None:
        model = folder / "model"
        if packed is not None:
            content = packed if isinstance(packed, bytes) else packed()
            (model / f"{name}.packed").write_bytes(content)
        files = manifest_of(model)["files"]
        files[name] |= entry
        put_manifest(model, files=files)
        fix(folder)

    return make


def decoder(content: bytes) -> Make:
    entry = FileEntry.of(content).model_dump()
    return embedded("decoder.onnx", lambda: pack(content), **entry)


def of_model(change: Make) -> Make:
    def make(folder: Path) -> None:
        change(folder / "model")
        fix(folder)

    return make


def items(rows: Callable[[Items], dict[str, Any]]) -> Make:
    def make(folder: Path) -> None:
        path = folder / "items" / "part-00000.parquet"
        read = Items.from_bytes(path.read_bytes())
        path.write_bytes(Items(**{**vars(read), "path": list(read.path), **rows(read)}).to_bytes())
        fix(folder)

    return make


def every(name: str, value: int) -> Make:
    return items(lambda read: {name: np.full(len(read), value)})


def renamed(name: str) -> Make:
    return items(lambda read: {"path": [name, *list(read.path)[1:]]})


def long_names(**options: Any) -> Make:
    """65,536 names of 30,000 bytes, of which the file holds one."""

    def make(folder: Path) -> None:
        rows, name = 1 << 16, "x" * 30_000
        numbers = pa.array(np.zeros(rows, np.int32))
        fields = ("block", "index", "height", "width", "channels")
        schema = pa.schema(
            [pa.field("path", pa.string(), False)]
            + [pa.field(field, pa.int32(), False) for field in fields]
        )
        table = pa.Table.from_arrays([pa.array([name] * rows), *[numbers] * 5], schema=schema)
        content = parquet(table, store_schema=False, row_group_size=rows, **options)
        (folder / "items" / "part-00000.parquet").write_bytes(content)
        fix(folder, images=rows, parts=[{"images": rows, "blocks": 1}])

    return make


def index(**columns: int) -> Make:
    def make(folder: Path) -> None:
        path = folder / "blocks" / "part-00000.parquet"
        read = Index.from_bytes(path.read_bytes())
        changed = {name: np.full(len(read), value) for name, value in columns.items()}
        path.write_bytes(Index(**{**vars(read), **changed}).to_bytes())
        fix(folder)

    return make


def block(height: int, width: int, count: int = 1, codec: str = "model") -> Make:
    """One block, of images of that size, with nothing in it."""

    def make(folder: Path) -> None:
        crc = google_crc32c.value(b"")
        header = Header(codec, 0, 0, count, height, width, crc, 0)
        (folder / "blocks" / "part-00000.bin").write_bytes(header.to_bytes())
        one = {"height": np.array([height]), "width": np.array([width])}
        zero = np.zeros(1, np.int64)
        made = Index(codec=[codec], offset=zero, length=zero, count=np.array([count]), **one)
        (folder / "blocks" / "part-00000.parquet").write_bytes(made.to_bytes())
        all_rows = {name: np.repeat(value, count) for name, value in one.items()}
        rows = Items(
            path=[f"i{number}" for number in range(count)],
            codec=[codec] * count,
            block=np.zeros(count, np.int64),
            index=np.arange(count),
            channels=np.ones(count, np.int64),
            **all_rows,
        )
        (folder / "items" / "part-00000.parquet").write_bytes(rows.to_bytes())
        fix(folder, images=count, parts=[{"images": count, "blocks": 1}])

    return make


def tensor_bomb(bits: int, numbers: int) -> bytes:
    """A packed file of one tensor with as many numbers, none of which it holds."""
    tables = TensorTables([Table(0, np.array([65535, 1]))], [1])
    head = TENSOR.pack(0, 1, 1, numbers, bits) + bytes(2) + tables_to_bytes(tables)
    stream = _xz(head)
    return HEADER.pack(len(stream), 0, 1) + stream


def xz_bomb(mebibytes: int) -> bytes:
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    stream = b"".join([*parts, compressor.flush()])
    return HEADER.pack(len(stream), 0, 0) + stream


def prior(shape: tuple[int, ...]) -> bytes:
    sizes = np.array(shape, "<u4").tobytes()
    return struct.pack("<4sBBBB", b"CPRI", 1, len(shape), 1, 0) + sizes


def attacks() -> Iterator[Attack]:
    """All of them."""

    def model(name: str, make: Make, *verbs: str, quick: bool = False, **more: Any) -> Attack:
        return Attack(f"model: {name}", MODEL, make, verbs or MODEL_VERBS, quick=quick, **more)

    def archive(name: str, make: Make, *verbs: str, quick: bool = False, **more: Any) -> Attack:
        return Attack(
            f"archive: {name}", ARCHIVE, make, verbs or ARCHIVE_VERBS, quick=quick, **more
        )

    yield model("nothing", lambda folder: None, harmless=MODEL_VERBS)
    for name in ("../evil.txt", "/etc/hostname", "a/b", "a\\b", "..", "C:x", "a\0b", "", "x" * 300):
        yield model(f"a file named {name[:20]!r}", named(name), quick=name == "../evil.txt")
        yield archive(f"a file named {name[:20]!r}", named(name), "verify")
    yield archive("a file named 'notes'", named("notes"), "verify")
    yield model("encoder.onnx is a link", linked("encoder.onnx", "/etc/hostname"), quick=True)
    yield model("encoder.onnx is a FIFO", piped("encoder.onnx"))
    yield model("manifest.json is endless", linked("manifest.json", "/dev/zero"))
    for name in ("items", "blocks", "model"):
        yield archive(f"{name} is a link", linked(name, ""))
    yield archive("blocks are endless", linked("blocks/part-00000.bin", "/dev/zero"))
    yield archive("blocks are a FIFO", piped("blocks/part-00000.bin"))
    yield archive("another file is a link", linked("notes", "/etc/hostname"), "verify")

    for name, change in {
        "a member a/../../x": lambda z: z.writestr("a/../../x", b""),
        "a member twice": duplicate_member,
        "a member that is a link": link_member,
        "20,000 members": lambda z: [z.writestr(f"f{n}", b"") for n in range(20_000)],
    }.items():
        yield model(f"zip, {name}", zipped(change))
    yield model("zip of 1 GiB", zip_bomb(None), quick=True)
    yield model("zip of 1 GiB, size -2", zip_bomb(-2))

    yield model("nested manifest", nested)
    yield archive("nested manifest", nested)
    yield archive("nested manifest of its model", of_model(nested))
    for size in (-1, 1 << 40, 1 << 63, 1 << 200):
        files = {"encoder.onnx": {"size": size, "sha256": "0" * 64}}
        yield model(f"a file of {size} bytes", entries(files=files))
        yield archive(f"a file of {size} bytes in its model", embedded("decoder.onnx", size=size))
    for name, changes in {
        "no shape": {"code": {"shape": []}},
        "shape -1": {"code": {"shape": [-1, -1, 4]}},
        "shape 0": {"code": {"shape": [0, 0, 0]}},
        "two sides": {"code": {"shape": [2, 2]}},
        "shape 2^40": {"code": {"shape": [2**40], "stride": None}},
        "shape 2^28 each": {"code": {"shape": [2**28] * 3}},
        "stride 2^62": {"data": {"stride": 2**62}, "code": {"stride": 2**62}},
        "strides that differ": {"data": {"stride": None}},
        "halo 2^62": {"code": {"halo": 2**62}},
        "height 2^62": {"data": {"height": 2**62}},
    }.items():
        yield model(name, entries(**changes))
        yield archive(name, of_model(entries(**changes)))

    for name, content in graphs().items():
        encoder = given("encoder.onnx", content)
        quick = name in ("endless Loop", "external data in the folder", "code of another shape")
        yield model(f"encoder, {name}", encoder, quick=quick)
        yield archive(f"decoder, {name}", decoder(content), "decompress")

    calibrations: dict[str, bytes | Callable[[], bytes]] = {
        "strings": parquet(pa.table({"l2": ["a", "b"]})),
        "lists": parquet(pa.table({"l2": [[1.0], [2.0]]})),
        "nulls": parquet(pa.table({"l2": pa.array([None] * 300, pa.float64())})),
        "no rows": parquet(pa.table({"l2": pa.array([], pa.float64())})),
        "40 million rows": lambda: parquet(pa.table({"l2": np.zeros(40_000_000)})),
        "garbage": b"garbage" * 99,
        "nothing": b"",
    }
    for name, content in calibrations.items():
        put = given("calibration.parquet", content)
        fine = ("verify", "score") if name in ("nulls", "no rows") else ("verify",)
        yield model(f"calibration.parquet, {name}", put, "verify", "score", harmless=fine)
    for name, content in npz_files().items():
        for file, verb in (
            ("golden.npz", "verify"),
            ("scores.npz", "score knn"),
            ("density.npz", "sample"),
        ):
            put = given(file, content)
            yield model(f"{file}, {name}", put, verb)

    for name, content in weights().items():
        yield model(f"weights, {name}", given("weights.safetensors", content), "start")
    for name, table in {
        "garbage": b"\xff\x00" * 99,
        "no columns": b"step\n1\n2\n3\n",
        "words": b"step,phase,loss,validation_loss\na,b,c,d\n1,2,3,4\n",
        "a line of 20 MB": b"step,phase,loss,validation_loss\n1,1,1," + b"1" * (20 << 20),
    }.items():
        yield model(f"training.csv, {name}", given("training.csv", table), "report")
    for name, change in {
        "no such layer": {"first_layer": "nothing"},
        "a layer that is a number": {"first_layer": 7},
        "settings of other types": {"settings": [1], "measures": 3, "warnings": 4, "seed": {}},
    }.items():
        yield model(
            f"training, {name}", entries(training=change), "report", "start",
            harmless=("report", "start"),
        )  # fmt: skip
    for name, content in npz_files().items():
        yield model(f"golden.npz in a report, {name}", given("golden.npz", content), "report")

    many = {f"k{number}": {"size": 1, "sha256": "0"} for number in range(200_000)}
    yield model("200,000 wrong files", lambda f: put_manifest(f, files=many), "verify")
    yield archive("200,000 wrong files", lambda f: put_manifest(f, files=many), "verify")
    yield archive("images -5", lambda f: put_manifest(f, images=-5))
    yield archive("images 2^62", lambda f: put_manifest(f, images=2**62))
    yield archive("block of 65528x65528", block(65528, 65528), quick=True)
    yield archive("block of 16384x16384", block(16384, 16384))
    yield archive("256 images of 2000x2000", block(2000, 2000, 256))
    yield archive("PNG of 16384x16384", block(16384, 16384, codec="png"))
    yield archive("index, offset 2^62", index(offset=1 << 62))
    yield archive("index, length 2^31 - 1", index(length=(1 << 31) - 1))
    yield archive("index, no images", index(count=0))
    for name, value in (
        ("index", -1), ("index", 2**31 - 1), ("block", -1), ("block", 2**31 - 1),
        ("height", -1), ("width", 2**31 - 1), ("channels", 9),
    ):  # fmt: skip
        yield archive(
            f"items, {name} {value}",
            every(name, value),
            harmless=("decompress",) if name == "channels" else (),
        )
    for name in ("../../evil.png", "/tmp/evil.png", "a\0b", "", ".", "x" * 300):
        fine = ("decompress folder",) if name in (".", "x" * 300) else ()  # ..png; shortened
        yield archive(
            f"an image named {name[:20]!r}", renamed(name), "decompress folder", harmless=fine
        )
    yield archive("an image with a name of 100 kB", renamed("x" * 100_000))
    yield archive("long names by a dictionary", long_names(use_dictionary=["path"]))
    yield archive(
        "long names by their prefixes",
        long_names(use_dictionary=False, column_encoding={"path": "DELTA_BYTE_ARRAY"}),
    )
    for bits, numbers in ((0, 1 << 26), (8, 1 << 26), (200, 1 << 24)):
        bomb = tensor_bomb(bits, numbers)
        yield archive(
            f"a tensor of {numbers} numbers, {bits} low bits",
            embedded("decoder.onnx", bomb, size=1 << 28),
            quick=bits == 200,
        )
    yield archive(
        "xz of 1 GiB in its model", embedded("decoder.onnx", lambda: xz_bomb(1024), size=1 << 30)
    )
    for shape in ((2**32 - 1,) * 3, (0,), (3,)):
        content = prior(shape)
        made = embedded("prior.bin", pack(content), **FileEntry.of(content).model_dump())
        yield archive(f"prior.bin of shape {shape}", made)


def weights() -> dict[str, bytes | Callable[[], bytes]]:
    """What weights.safetensors may be, but the model's weights."""
    from safetensors.numpy import save

    header = struct.pack("<Q", 2**62)
    huge = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    return {
        "garbage": b"garbage" * 99,
        "nothing": b"",
        "header of 2^62": header + b"{}",
        "lists in each other": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "a tensor of 2^40": struct.pack("<Q", len(huge)) + huge.encode(),
        "an unknown type": struct.pack("<Q", 63)
        + b'{"x": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}   '[:63]
        + bytes(4),
        "other tensors": save({"x": np.zeros(3, np.float32)}),
    }


def png(height: int, width: int) -> bytes:
    """A PNG of zeros, made in pieces: a thousandth of its pixels."""
    compress = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    body = b"".join([compress.compress(row) for _ in range(height)] + [compress.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def tar_of(members: Iterable[tuple[str, bytes, int]], compression: str = "gz") -> Make:
    """A compressed tar of members of a type and of so many zeros."""

    def make(path: Path) -> Path:
        path = path.with_name(f"a.tar.{compression}")
        with tarfile.open(path, f"w:{compression}") as tar:
            for name, kind, size in members:
                member = tarfile.TarInfo(name)
                member.type, member.size = kind, size
                tar.addfile(member, io.BufferedReader(Zeros(size)))
        return path

    return make


class Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = min(len(buffer), self._left)
        buffer[:size] = bytes(size)
        self._left -= size
        return size


def zip_of(name: str, size: int) -> Make:
    def make(path: Path) -> Path:
        path = path.with_name("a.zip")
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(name, "w", force_zip64=True) as file,
        ):
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
        return path

    return make


def arrays(shape: tuple[int, ...]) -> Make:
    """An .npz with an array of zeros."""

    def make(path: Path) -> Path:
        path = path.with_name("a.npz")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        left = int(np.prod(shape, dtype=np.int64))
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w", force_zip64=True) as file,
        ):
            file.write(header.getvalue())
            for start in range(0, left, 1 << 20):
                file.write(bytes(min(1 << 20, left - start)))
        return path

    return make


def repeated(size: int, rows: int) -> Make:
    """Parquet that says one image of so many bytes again and again, by its dictionary."""

    def make(path: Path) -> Path:
        path = path.with_name("a.parquet")
        index = pa.array(np.zeros(rows, np.int32))
        column = pa.DictionaryArray.from_arrays(index, pa.array([bytes(size)], pa.binary()))
        table = pa.table({"image": column})
        pq.write_table(table, path, compression="zstd", use_dictionary=True, store_schema=False)
        return path

    return make


def images(content: Callable[[], bytes], count: int = 1) -> Make:
    def make(path: Path) -> Path:
        path = path.with_name("images")
        path.mkdir()
        for number in range(count):
            (path / f"{number}.png").write_bytes(content())
        return path

    return make


def data_attacks() -> Iterator[Attack]:
    """Data that stand for far more than they are."""
    data = functools.partial(Attack, base=MODEL, verbs=("data", "data train"))
    yield data("data: PNG of 13300x13300", make=images(lambda: png(13300, 13300)))
    yield data("data: npz of one image of 50000x50000", make=arrays((1, 50_000, 50_000)))
    gib, plain, long = 1 << 30, tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME
    for compression in ("gz", "xz"):
        several = [(f"{number}.png", plain, gib) for number in range(4)]
        yield data(f"data: tar.{compression} of 4 images of 1 GiB",
                   make=tar_of(several, compression))  # fmt: skip
        yield data(f"data: tar.{compression} of a text of 8 GiB",
                   make=tar_of([("a.txt", plain, 8 * gib)], compression))  # fmt: skip
    yield data("data: tar.gz with a name of 2 GiB", make=tar_of([("a", long, 2 * gib)]))
    yield data("data: tar.gz with attributes of 2 GiB",
               make=tar_of([("a", tarfile.XHDTYPE, 2 * gib)]))  # fmt: skip
    yield data("data: zip of an image of 4 GiB", make=zip_of("a.png", 4 * gib))
    yield data("data: Parquet, 128 times an image of 64 MiB", make=repeated(64 << 20, 128))


def arguments(verb: str, path: Path, folder: Path) -> list[str]:
    images = folder / "images.npy"
    if verb == "verify":
        return ["verify", str(path)]
    if verb.startswith("data"):
        if verb == "data train":
            return ["train", "codec", str(path), "-o", str(folder / "out"), "--max-steps", "1"]
        end = str(folder / "out")
        return ["compress", str(path), "-m", str(MODEL), "-o", end, "--device", "cpu"]
    if verb == "report":
        return ["report", str(path), str(images), "-o", str(folder / "page.html")]
    if verb == "start":
        data, end = str(images), str(folder / "out")
        return ["train", "vae", data, "--start", str(path), "-o", end, "--max-steps", "1"]
    if verb == "sample":
        return ["sample", str(path), "-o", str(folder / "samples.npy"), "--device", "cpu"]
    if verb.startswith("decompress"):
        end = "out" if verb.endswith("folder") else "out.npy"
        return ["decompress", str(path), "-o", str(folder / end), "--device", "cpu"]
    word, *scorer = verb.split()
    end = "scores.csv" if word == "score" else "codes.npy"
    more = ["--scorer", scorer[0]] if scorer else []
    end = str(folder / end)
    return [word, str(images), "-m", str(path), "-o", end, "--device", "cpu", *more]


def limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    os.setsid()


def ran(command: list[str], folder: Path) -> tuple[str, int | None, float, str]:
    """What a process did: a verdict on it alone, its exit code, its memory in bytes, its output."""
    output = folder / "output.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "compressor", *command],
            stdout=file, stderr=subprocess.STDOUT, cwd=folder, env=environment,
            preexec_fn=limits,
        )  # fmt: skip
    started, ended = time.monotonic(), 0
    while not ended:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not ended and time.monotonic() - started > SECONDS:
            os.killpg(process.pid, signal.SIGKILL)
            os.wait4(process.pid, 0)
            process.returncode = -signal.SIGKILL
            return "HANG", None, 0.0, ""
        time.sleep(0.02)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    text = output.read_text(errors="replace").strip()
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if code < 0 or "unexpected " in text or "Traceback" in text:
        return "CRASH", code, memory, text
    if memory > MAX_MEMORY or "out of memory" in text:
        return "MEMORY", code, memory, text
    return "ok" if code == 0 else "clean", code, memory, text


def made(attack: Attack, target: Path, folder: Path) -> Path:
    """The hostile path. In a process of its own: what a parent has held counts as its children's
    memory, too."""
    child = os.fork()
    if not child:
        try:
            path = attack.make(target)
            (folder / "path.txt").write_text(str(path if isinstance(path, Path) else target))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return Path((folder / "path.txt").read_text())


def run(attack: Attack, folder: Path) -> Iterator[tuple[str, str]]:
    """For each verb a verdict and its line. ``folder``: an empty one."""
    target = folder / "inside" / attack.base.name
    shutil.copytree(attack.base, target)
    np.save(folder / "images.npy", np.load(GOLDEN / "3-scores" / "input.npy"))
    path = made(attack, target, folder)
    for verb in attack.verbs:
        started = time.monotonic()
        verdict, code, memory, text = ran(arguments(verb, path, folder), folder)
        if verdict == "ok" and verb not in attack.harmless:
            verdict = "WRONG"
        if (folder / "pwned").exists() or (folder / "evil.png").exists():
            verdict = "WRONG"
        lines = [line for line in text.splitlines() if "rror" in line] or text.splitlines()
        seconds = time.monotonic() - started
        facts = f"rc={code} {seconds:.1f} s {memory / 2**30:.2f} GiB"
        last = (lines or [""])[-1].replace(str(folder), "")[:150]
        yield verdict, f"{verdict:7} {attack.name}: {verb} [{facts}] {last!r}"
        for name in ("out", "out.npy", "codes.npy", "scores.csv", "page.html"):
            shutil.rmtree(folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def main(words: list[str]) -> int:
    failed = 0
    for attack in chain(attacks(), data_attacks()):
        if words and not any(word in attack.name for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for verdict, line in run(attack, Path(folder)):
                print(line, flush=True)
                failed += verdict not in ("clean", "ok")
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
