"""Fuzzes every parser of ours: changed files have to be read, or refused by an error of ours.

    python tests/attacks/fuzz.py SECONDS [PARSER...]

Each parser gets sound content that was changed at a few random places, by other bytes, cuts, pieces
taken out and put in again, for so many seconds, in this process: checksums that stand in front of a
parser are left out, as whoever can change a file can mend them. Prints for each parser how many
inputs were tried, how many were taken, and every exception that no one expected; the exit code says
whether there were any. Seeds are the golden files and small ones made here.
"""

from __future__ import annotations

import gzip
import io
import random
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from compressor.archive import manifest as archive_manifest
from compressor.archive.blocks import Header, scan, unpack
from compressor.archive.items import Index, Items
from compressor.data.decode import decode
from compressor.data.sources import open_source
from compressor.entropy.prior_file import read_prior
from compressor.errors import CompressorError
from compressor.labels.classifier import MANIFEST_FORMAT as CLASSIFIER_FORMAT
from compressor.labels.classifier import Beginning, ClassifierManifest
from compressor.labels.given import labels_of
from compressor.manifests import FileEntry
from compressor.model import MANIFEST_FORMAT, Model, _calibration_columns
from compressor.onnx_bytes import refuse_foreign
from compressor.packing import unpack as unpack_weights
from compressor.spec import ImageSpec
from compressor.untrusted import read_npz

GOLDEN = Path(__file__).parents[1] / "golden"
Parser = Callable[[bytes], object]
# What callers of a parser turn into an error of ours.
EXPECTED = (CompressorError,)
OF_ARRAYS = (CompressorError, ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile)


def parsers(folder: Path) -> dict[str, tuple[list[bytes], Parser, tuple[type[Exception], ...]]]:
    """Name: seeds, parser, and the exceptions that it may raise."""
    model, archive = GOLDEN / "3" / "model", GOLDEN / "3" / "archive"
    opened = Model.open(archive / "model")
    packed = [file.read_bytes() for file in sorted((archive / "model").glob("*.packed"))]
    graphs = [file.read_bytes() for file in sorted(model.glob("*.onnx"))]
    frames = (archive / "blocks" / "part-00000.bin").read_bytes()

    header = Header.parse(frames)
    assert header is not None

    def block(content: bytes) -> object:
        frame = header._replace(length=len(content), payload_crc=crc(content)).to_bytes()
        return unpack(frame + content, opened.prior, opened.code)

    def on_disk(name: str, read: Callable[[Path], object]) -> Parser:
        def parse(content: bytes) -> object:
            path = folder / name
            path.write_bytes(content)
            return read(path)

        return parse

    def rows(path: Path) -> object:
        source = open_source(path)
        return [images.names for chunk in source.chunks(16) for images in chunk.load()]

    npz, npy, tar, packed_zip = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    images = np.load(GOLDEN / "3" / "input.npy")
    np.save(npy, images[:8])
    np.savez(npz, images=images[:8], labels=np.arange(8))
    pictures = {f"{n}.png": encoded(image, "PNG") for n, image in enumerate(images[:3])}
    with tarfile.open(fileobj=tar, mode="w") as file:
        for name, content in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(packed_zip, "w") as archive_file:
        for name, content in pictures.items():
            archive_file.writestr(name, content)
    csv = b"a,b,c\n" + b"\n".join(b"%d,%d.5,-%d" % (n, n, n) for n in range(9)) + b"\n"
    semicolons = b"\xef\xbb\xbfsep=;\r\n" + csv.replace(b",", b";").replace(b".", b",")
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": list(pictures.values()), "path": list(pictures)}), table)
    formats = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
    return {
        "model's manifest": (
            [(model / "manifest.json").read_bytes()],
            lambda content: MANIFEST_FORMAT.parse(content, "model"),
            EXPECTED,
        ),
        "archive's manifest": (
            [(archive / "manifest.json").read_bytes()],
            lambda content: archive_manifest.MANIFEST_FORMAT.parse(content, "archive"),
            EXPECTED,
        ),
        "items": (
            [(archive / "items" / "part-00000.parquet").read_bytes()],
            Items.from_bytes,
            EXPECTED,
        ),
        "index": (
            [(archive / "blocks" / "part-00000.parquet").read_bytes()],
            Index.from_bytes,
            EXPECTED,
        ),
        "frames": ([frames], on_disk("part.bin", lambda path: list(scan(path))), EXPECTED),
        "payload": ([frames[header.size :]], block, EXPECTED),
        "packed weights": (packed, lambda content: unpack_weights(content, 1 << 22), OF_ARRAYS),
        "prior.bin": (
            [opened.read("prior.bin")],
            lambda content: read_prior(content, opened.read),
            EXPECTED,
        ),
        "graphs": (graphs, lambda content: refuse_foreign(content, "a.onnx"), EXPECTED),
        "arrays of a model": ([(model / "golden.npz").read_bytes()], read_npz, OF_ARRAYS),
        "calibration": (
            [(model / "calibration.parquet").read_bytes()],
            _calibration_columns,
            OF_ARRAYS,
        ),
        "images": ([encoded(images[0], name) for name in formats], decode, EXPECTED),
        ".npy": ([npy.getvalue()], on_disk("a.npy", rows), EXPECTED),
        ".npz": ([npz.getvalue()], on_disk("a.npz", rows), EXPECTED),
        ".csv": (
            [csv, semicolons, csv.decode().encode("utf-16")],
            on_disk("a.csv", rows),
            EXPECTED,
        ),
        ".tar": ([tar.getvalue()], on_disk("a.tar", rows), EXPECTED),
        ".tar.gz": ([gzip.compress(tar.getvalue())], on_disk("b.tar.gz", rows), EXPECTED),
        ".zip": ([packed_zip.getvalue()], on_disk("a.zip", rows), EXPECTED),
        "classifier's manifest": (
            [classifier_manifest()],
            lambda content: CLASSIFIER_FORMAT.parse(content, "classifier"),
            EXPECTED,
        ),
        "labels.csv": (
            [b"path,label\n0,a\n1,b\n2,\n"],
            on_disk("labels.csv", lambda path: labels_of(path, ["0", "1", "2"], np.arange(3), 3)),
            EXPECTED,
        ),
        "labels.npy": (
            [array_of(["a", "b", ""]), array_of([0, 1, -1])],
            on_disk("labels.npy", lambda path: labels_of(path, ["0", "1", "2"], np.arange(3), 3)),
            EXPECTED,
        ),
        "Parquet": ([table.getvalue().to_pybytes()], on_disk("a.parquet", rows), EXPECTED),
    }


def array_of(values: list[Any]) -> bytes:
    """As .npy."""
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def classifier_manifest() -> bytes:
    """One of a classifier of two labels."""
    manifest = ClassifierManifest(
        labels=("a", "b"),
        data=ImageSpec(height=4, width=4, channels=1),
        begins_with=Beginning(kind="plugin", name="undercomplete", config={"latent": 2}),
        training={"accuracy": 0.5},
        files={"classifier.onnx": FileEntry.of(b"graph")},
    )
    return manifest.to_files()["manifest.json"]


def crc(content: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(content))


def encoded(image: np.ndarray, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, name)
    return file.getvalue()


def changed(content: bytes, random_: random.Random) -> bytes:
    """A few changes, most of them small."""
    data = bytearray(content)
    for _ in range(random_.choice([1, 1, 1, 2, 3, 8])):
        at = random_.randrange(len(data) + 1)
        match random_.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random_.randrange(8)
            case 1 if at < len(data):
                data[at] = random_.choice([0, 1, 127, 128, 255, random_.randrange(256)])
            case 2:
                data[at : at + 4] = random_.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(
                    4, random_.choice(["little", "big"])
                )
            case 3:
                del data[at : at + random_.choice([1, 4, 16, len(data) // 4 + 1])]
            case 4:
                data[at:at] = random_.randbytes(random_.choice([1, 4, 16]))
            case 5:
                piece = data[at : at + random_.choice([4, 16, 64])]
                other = random_.randrange(len(data) + 1)
                data[other:other] = piece
            case _:
                digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
                if digits:
                    place = random_.choice(digits)
                    data[place : place + 1] = random_.choice(
                        [b"-1", b"99999999999999999999", b"1e999", b"null", b"[]", b'"', b"NaN"]
                    )
    return bytes(data)


def fuzz(
    name: str, seeds: list[bytes], parse: Parser, expected: tuple[type[Exception], ...],
    seconds: float,
) -> int:  # fmt: skip
    """How many kinds of exceptions no one expected."""
    random_, found = random.Random(name), dict[str, str]()
    tried = taken = 0
    slowest, ends = 0.0, time.monotonic() + seconds
    while (started := time.monotonic()) < ends:
        content = changed(random_.choice(seeds), random_)
        tried += 1
        try:
            parse(content)
            taken += 1
        except expected:
            pass
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.setdefault(f"{type(error).__name__} in {place.name}", str(error)[:200])
        slowest = max(slowest, time.monotonic() - started)
    print(f"{name}: {tried:,} inputs, {taken:,} taken, slowest {slowest:.1f} s", flush=True)
    for kind, text in found.items():
        print(f"  UNEXPECTED {kind}: {text!r}", flush=True)
    return len(found)


def main(seconds: float, *names: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = parsers(Path(folder))
        failed = sum(fuzz(name, *made[name], seconds) for name in names or made)
    print(f"{failed} kinds unexpected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
