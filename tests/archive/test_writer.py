import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compressor.archive import writer as writer_module
from compressor.archive.blocks import CodedImages
from compressor.archive.reader import Archive
from compressor.archive.verify import verify_archive
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.errors import DataError, OutputError

ROOT = Path(__file__).parents[2]


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(writer_module, "PART_IMAGES", 256)


def test_what_goes_in_comes_out_in_order(tmp_path, mixed, write, read, same):
    written = write(tmp_path / "a", mixed)
    assert written.images == len(mixed)
    archive = Archive.open(tmp_path / "a")
    codes, lost = read(archive)
    assert same(codes, mixed)
    assert (lost, archive.damage, archive.count) == ({}, [], len(mixed))
    assert verify_archive(tmp_path / "a") == []


def test_several_parts_hold_the_same_images(tmp_path, mixed, write, read, same, small_parts):
    write(tmp_path / "a", mixed)
    assert len(list((tmp_path / "a" / "blocks").glob("*.bin"))) == 3
    assert same(read(Archive.open(tmp_path / "a"))[0], mixed)
    assert verify_archive(tmp_path / "a") == []


def test_a_part_is_closed_when_it_has_its_payload(tmp_path, mixed, write, monkeypatch):
    monkeypatch.setattr(writer_module, "PART_BYTES", 1)
    write(tmp_path / "a", mixed)
    assert len(list((tmp_path / "a" / "blocks").glob("*.bin"))) == 3
    assert verify_archive(tmp_path / "a") == []


def test_unreadable_images_are_left_out_and_named(tmp_path, mixed, write, read):
    bad = ("clothes/00003.png", "clothes/00300.png")
    written = write(tmp_path / "a", mixed, unreadable=bad)
    assert written.unreadable.count == 2
    assert written.unreadable.first == tuple((name, "is broken") for name in bad)
    archive = Archive.open(tmp_path / "a")
    assert archive.manifest.unreadable == written.unreadable
    assert list(read(archive)[0]) == [name for name in mixed if name not in bad]


def test_an_archive_without_any_image_is_sound(tmp_path, write, read, mixed):
    name = next(iter(mixed))
    write(tmp_path / "a", {name: mixed[name]}, unreadable=(name,))
    assert read(Archive.open(tmp_path / "a")) == ({}, {})
    assert verify_archive(tmp_path / "a") == []


def test_sizes_are_those_of_the_images_the_codes_and_the_files(tmp_path, mixed, write, model):
    sizes = write(tmp_path / "a", mixed).sizes
    assert sizes.raw_bytes == sum(49 * code[0].size for code in mixed.values())
    bits = sum(model.prior.ideal_bits(code[None]) for code in mixed.values())
    assert sizes.ideal_bytes == pytest.approx(bits / 8, abs=1)
    assert sizes.ideal_bytes < sizes.payload_bytes < sizes.ideal_bytes + 8 * 9  # nine blocks
    on_disk = {name: len(content) for name, content in contents(tmp_path / "a").items()}
    assert sizes.archive_bytes == sum(on_disk.values())
    assert sizes.model_bytes == sum(n for name, n in on_disk.items() if name.startswith("model/"))
    assert sizes.items_bytes == on_disk["items/part-00000.parquet"]
    assert 0.8 * on_disk["blocks/part-00000.bin"] < sizes.payload_bytes
    assert sizes.payload_bytes < on_disk["blocks/part-00000.bin"]


@pytest.mark.parametrize(("count", "limit"), [(1000, 3), (10_000, 1)])
def test_items_of_numbered_images_take_few_bytes(tmp_path, images, model, write, count, limit):
    codes = np.zeros((3, 4, 4), np.int32)
    write(tmp_path / "a", {f"{number:05d}.png": codes for number in range(count)}, size=2048)
    content = (tmp_path / "a" / "items" / "part-00000.parquet").read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert (len(content) - footer) / count <= limit


def test_the_manifest_says_the_hash_of_every_file(tmp_path, mixed, write, model):
    write(tmp_path / "a", mixed)
    found = contents(tmp_path / "a")
    manifest = json.loads(found["manifest.json"])
    assert manifest["model"] == model.digest
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in found.items()
        if not name.startswith("manifest.")
    }
    if Path("/usr/bin/sha256sum").exists():
        command = ["/usr/bin/sha256sum", "-c", "manifest.sha256"]
        subprocess.run(command, cwd=tmp_path / "a", check=True, capture_output=True)


def test_a_shared_model_is_left_out_and_then_asked_for(tmp_path, mixed, write, read, same, model):
    assert write(tmp_path / "a", mixed, embed=False).sizes.model_bytes == 0
    assert same(read(Archive.open(tmp_path / "a", model))[0], mixed)
    assert verify_archive(tmp_path / "a", model) == []
    (problem,) = verify_archive(tmp_path / "a")
    assert "no model inside; give the model" in problem


def test_the_same_images_give_the_same_bytes(tmp_path, mixed, write):
    write(tmp_path / "a", mixed)
    write(tmp_path / "b", mixed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def stopped(path, mixed, model, chunks, after, job="test"):
    with (
        pytest.raises(KeyboardInterrupt),
        ArchiveWriter(path, model, {"source": job}) as writer,
    ):
        for number, chunk in enumerate(chunks(mixed)):
            if number == after:
                raise KeyboardInterrupt
            writer.add(pack_images(chunk, model.prior))


def test_after_an_error_only_whole_parts_stay_and_out_of_sight(
    tmp_path, mixed, model, chunks, small_parts
):
    stopped(tmp_path / "a", mixed, model, chunks, after=1)
    assert list(tmp_path.iterdir()) == []
    stopped(tmp_path / "a", mixed, model, chunks, after=2)
    assert [entry.name for entry in tmp_path.iterdir()] == [".a.partial"]


def test_a_resumed_job_goes_on_after_its_last_part_and_ends_the_same(
    tmp_path, mixed, write, model, chunks, small_parts
):
    bad = ("clothes/00003.png", "clothes/00300.png")
    whole = write(tmp_path / "whole", mixed, unreadable=bad)
    with (
        pytest.raises(ZeroDivisionError),
        ArchiveWriter(tmp_path / "a", model, {"source": "test"}) as writer,
    ):
        for chunk in list(chunks(mixed, 256, bad))[:2]:
            writer.add(pack_images(chunk, model.prior))
        raise ZeroDivisionError
    (tmp_path / ".a.partial" / "archive" / "blocks" / "part-00007.bin").write_bytes(b"left over")
    with ArchiveWriter(tmp_path / "a", model, {"source": "test"}, resume=True) as writer:
        assert writer.consumed == 256
        assert writer.unreadable.count == 1
        for chunk in chunks(mixed, 256, bad, writer.consumed):
            writer.add(pack_images(chunk, model.prior))
    assert writer.unreadable.count == 2
    assert writer.sizes == whole.sizes
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert not (tmp_path / ".a.partial").exists()


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import numpy as np
from conftest import chunks_of
from compressor.archive import writer as writer_module
from compressor.archive.writer import ArchiveWriter, pack_images
from compressor.model import Model

writer_module.PART_IMAGES = 256
model = Model.open(Path({model!r}))
with np.load({codes!r}) as stored:
    mixed = {{name: stored[name] for name in stored.files}}
step = {step!r}
replace = writer_module.replace_folder
if step == "before the rename":
    writer_module.replace_folder = lambda *paths: os._exit(9)
if step == "after the rename":
    writer_module.replace_folder = lambda *paths: (replace(*paths), os._exit(9))
with ArchiveWriter(Path({out!r}), model, {{"source": "test"}}) as writer:
    for number, chunk in enumerate(chunks_of(mixed)):
        writer.add(pack_images(chunk, model.prior))
        if number == step:
            os._exit(9)
"""


def killed(tmp_path, mixed, model, step):
    np.savez(tmp_path / "codes.npz", **mixed)
    script = KILLED.format(
        root=str(ROOT),
        tests=str(Path(__file__).parent),
        model=str(model.location),
        codes=str(tmp_path / "codes.npz"),
        out=str(tmp_path / "a"),
        step=step,
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 9, run.stderr


@pytest.mark.parametrize("step", [0, 1, 2, "before the rename"])
def test_a_killed_job_resumes_to_the_same_bytes(tmp_path, mixed, write, model, small_parts, step):
    killed(tmp_path, mixed, model, step)
    assert not (tmp_path / "a").exists()
    write(tmp_path / "whole", mixed)
    write(tmp_path / "a", mixed, resume=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert not (tmp_path / ".a.partial").exists()


def test_a_job_killed_after_the_rename_is_done(tmp_path, mixed, model, write):
    killed(tmp_path, mixed, model, "after the rename")
    assert verify_archive(tmp_path / "a") == []
    write(tmp_path / "a", mixed, force=True)
    assert not (tmp_path / ".a.partial").exists()


def test_without_resume_a_left_over_job_is_refused_and_with_force_starts_again(
    tmp_path, mixed, write, model, chunks, small_parts
):
    stopped(tmp_path / "a", mixed, model, chunks, after=2, job="another")
    with pytest.raises(
        OutputError, match="cut short; give resume=True to go on with it, or force=True"
    ):
        write(tmp_path / "a", mixed)
    write(tmp_path / "a", mixed, force=True)
    assert verify_archive(tmp_path / "a") == []


def test_another_job_is_not_resumed(tmp_path, mixed, write, model, chunks, small_parts):
    stopped(tmp_path / "a", mixed, model, chunks, after=2, job="another")
    with pytest.raises(
        OutputError, match="had another source; start anew with force=True instead of resume=True"
    ):
        write(tmp_path / "a", mixed, resume=True)
    with pytest.raises(OutputError, match="another embed, source"):
        write(tmp_path / "a", mixed, resume=True, embed=False)
    assert (tmp_path / ".a.partial" / "job.json").exists()


def test_a_left_over_job_that_was_damaged_is_not_resumed(
    tmp_path, mixed, write, model, chunks, small_parts
):
    stopped(tmp_path / "a", mixed, model, chunks, after=2, job="test")
    frames = tmp_path / ".a.partial" / "archive" / "blocks" / "part-00000.bin"
    frames.write_bytes(frames.read_bytes()[:-1])
    with pytest.raises(OutputError, match=r"part-00000.bin is damaged; start anew with force=True"):
        write(tmp_path / "a", mixed, resume=True)
    (tmp_path / ".a.partial" / "job.json").write_text("{")
    with pytest.raises(OutputError, match=r"job.json is damaged; start anew with force=True"):
        write(tmp_path / "a", mixed, resume=True)


def test_an_output_that_exists_is_replaced_only_with_force_and_only_if_ours(tmp_path, mixed, write):
    few = dict(list(mixed.items())[:9])
    write(tmp_path / "a", mixed)
    with pytest.raises(OutputError, match="give force=True"):
        write(tmp_path / "a", few)
    write(tmp_path / "a", few, force=True)
    assert Archive.open(tmp_path / "a").count == 9
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="choose another output"):
        write(tmp_path / "mine", few, force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path, mixed, model, chunks):
    with (
        pytest.raises(OutputError, match="exists"),
        ArchiveWriter(tmp_path / "a", model, {}) as writer,
    ):
        writer.add(pack_images(next(chunks(mixed)), model.prior))
        (tmp_path / "a").write_text("something")
    assert (tmp_path / "a").read_text() == "something"


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, mixed, write, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module, "sync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write(tmp_path / "a", mixed)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, mixed, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        write(tmp_path / "file" / "a", mixed)


@pytest.mark.parametrize(("name", "why"), [("x" * 5000, "5000 bytes"), ("\udcff.png", "not valid")])
def test_names_that_no_archive_can_hold_are_refused(model, mixed, chunks, name, why):
    chunk = next(chunks({name: next(iter(mixed.values()))}))
    with pytest.raises(DataError, match=why):
        pack_images(chunk, model.prior)


def test_an_image_neither_coded_nor_missing_is_a_mistake_of_the_caller(model):
    with pytest.raises(ValueError, match="have a code, be stored or be missing"):
        pack_images(CodedImages(["a"], [], {}), model.prior)


def test_more_images_at_a_time_than_a_part_holds_are_a_mistake_of_the_caller(
    tmp_path, mixed, write, small_parts
):
    with pytest.raises(ValueError, match="a part takes 256"):
        write(tmp_path / "a", mixed, size=300)
    assert list(tmp_path.iterdir()) == []
