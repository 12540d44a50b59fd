"""Damaged and hostile archives: right pixels, or one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compressor.archive.blocks import CodedImages, CodeGroup
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.entropy.prior import Prior
from compressor.entropy.tables import Table
from compressor.manifests import FileEntry, file_entries
from compressor.model import Model
from compressor.packing import pack, unpack

from .command_line import run
from .files import pixels_of, rehash, same, tree


def cut_lengths(size: int) -> list[int]:
    return sorted({0, 1, size // 3, size * 2 // 3, size - 1})


def decompress_damaged(damaged: Path, where: str, output: Path, rebuilt: dict[str, Pixels]) -> None:
    """Right pixels under their names, or a name with the reason, or an error: nothing else."""
    ran = run("decompress", damaged, "-o", output, "--json")
    if ran.code == 1:
        assert where.startswith(("model/", "blocks/part-00000.bin")), ran.err
        assert not output.exists() and ran.error
        return
    told = json.loads(ran.out)
    if ran.code == 0:  # of the model, what is not content: an end of xz, a name beside a hash
        assert where.startswith("model/")
    else:
        assert ran.code == 4 and (told["damage"] or told["unreadable"])
    found = pixels_of(output)
    output.unlink()
    lost = {line.partition(": ")[0] for line in told["unreadable_names"]}
    assert len(found) == told["images"] and len(lost) == told["unreadable"]
    if where.startswith("items/"):  # the names are gone, and said to be: the order is not
        assert all(name.startswith("damaged-00000/") for name in found)
        found = dict(zip(rebuilt, found.values(), strict=True))
    expected = {name: pixels for name, pixels in rebuilt.items() if name not in lost}
    assert same(found, expected)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_in_any_file_of_an_archive_never_gives_wrong_pixels(
    damage: str, archive: Path, rebuilt: dict[str, Pixels], tmp_path: Path
) -> None:
    damaged = shutil.copytree(archive, tmp_path / "a")
    random = np.random.default_rng(0)
    for file in sorted(path for path in damaged.rglob("*") if path.is_file()):
        where = file.relative_to(damaged).as_posix()
        content = file.read_bytes()
        if damage == "cut":
            changed = [content[:length] for length in cut_lengths(len(content))]
        elif damage == "flip":
            changed = []
            for position in random.integers(0, len(content), 6):
                flipped = bytearray(content)
                flipped[position] ^= 1 << random.integers(8)
                changed.append(bytes(flipped))
        else:
            changed = [b""]
        for new in changed:
            file.unlink() if damage == "gone" else file.write_bytes(new)
            decompress_damaged(damaged, where, tmp_path / "out.parquet", rebuilt)
            ran = run("verify", damaged, "--json")
            assert ran.code == 1 and json.loads(ran.out)["problems"]
        file.write_bytes(content)
    assert run("verify", damaged).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def with_other_tables(archive: Path, copy: Path) -> Path:
    """A copy with one table moved by one integer: all codes can be decoded, some to other ones.

    The hashes are left as they were.
    """
    altered = shutil.copytree(archive, copy)
    prior = Model.open(archive / "model").prior
    assert isinstance(prior, Prior)
    low, frequencies = prior.tables[0]
    tables = [Table(low + 1, frequencies), *prior.tables[1:]]
    content = Prior(prior.shape, prior.per_element, tables).to_bytes()
    (altered / "model" / "prior.bin.packed").write_bytes(pack(content))
    return altered


def make_hashes_right(archive: Path) -> None:
    """As somebody would who means to change an archive: from the tables up to its own manifest."""
    model = archive / "model"
    tables = file_entries({"prior.bin": unpack((model / "prior.bin.packed").read_bytes(), 1 << 20)})
    files = json.loads((model / "manifest.json").read_text())["files"]
    rehash(model, files=files | {"prior.bin": tables["prior.bin"].model_dump()})
    files = json.loads((archive / "manifest.json").read_text())["files"]
    for file in model.iterdir():
        files[f"model/{file.name}"] = FileEntry.of_file(file).model_dump()
    rehash(archive, files=files, model=Model.open(model).digest)


@pytest.mark.parametrize(
    ("hashes", "reason"),
    [
        ("stale", "prior.bin does not have the hash in the manifest"),
        ("right", "decodes to codes without their checksum: it was made with another prior"),
    ],
)
def test_tables_that_were_altered_are_one_error_and_never_wrong_pixels(
    hashes: str, reason: str, archive: Path, tmp_path: Path
) -> None:
    altered = with_other_tables(archive, tmp_path / "a")
    if hashes == "right":
        make_hashes_right(altered)
    for name in ("out", "out.npy", "out.parquet"):
        ran = run("decompress", altered, "-o", tmp_path / name)
        assert ran.code == 1 and reason in ran.error
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    ran = run("verify", altered, "--json")
    problems = json.loads(ran.out)["problems"]
    assert ran.code == 1 and any(reason in problem for problem in problems)
    if hashes == "right":  # nothing but the checksum of the codes tells
        assert all(reason in problem for problem in problems)


def test_a_name_in_an_archive_never_leads_out_of_the_output(
    dense_model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    model = Model.open(dense_model)
    codes = Engine(model).encode(clothes[:2])
    images = CodedImages(["shirt.png", "../evil.png"], [CodeGroup(np.arange(2), 28, 28, codes)], {})
    with ArchiveWriter(tmp_path / "a", model, {"source": "hostile"}) as writer:
        writer.add(pack_images(images, model.prior))
    before = tree(tmp_path)
    ran = run("decompress", tmp_path / "a", "-o", tmp_path / "out")
    assert ran.code == 1 and "'../evil.png' has a name that leads out" in ran.error
    assert tree(tmp_path) == before
    assert run("decompress", tmp_path / "a", "-o", tmp_path / "out.npy").code == 0


def test_an_archive_from_a_newer_version_is_refused_with_what_to_do(
    archive: Path, tmp_path: Path
) -> None:
    newer = shutil.copytree(archive, tmp_path / "a")
    rehash(newer, format_version=5)
    for arguments in (("decompress", newer, "-o", tmp_path / "out"), ("inspect", newer)):
        ran = run(*arguments)
        assert ran.code == 1
        assert "has archive format version 5;" in ran.error and "update compressor" in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    ran = run("verify", newer)
    assert ran.code == 1 and "update compressor" in ran.out + ran.err
