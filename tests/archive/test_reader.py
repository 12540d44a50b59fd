import hashlib
import json
import shutil
import threading
from fnmatch import fnmatchcase

import google_crc32c
import numpy as np
import pytest

from compressor.archive import blocks
from compressor.archive import reader as reader_module
from compressor.archive import writer as writer_module
from compressor.archive.items import Index
from compressor.archive.reader import Archive
from compressor.archive.verify import iterate_problems, verify_archive
from compressor.errors import ArchiveError
from compressor.model import Model

INDEX = "blocks/part-00000.parquet"


@pytest.fixture
def archive_path(tmp_path, mixed, write, monkeypatch):
    """700 images of three sizes in three parts of three blocks each."""
    monkeypatch.setattr(writer_module, "PART_IMAGES", 256)
    write(tmp_path / "a", mixed)
    return tmp_path / "a"


@pytest.fixture(scope="module")
def few(mixed):
    return dict(list(mixed.items())[:10])


@pytest.fixture(scope="module")
def small(few, write, tmp_path_factory):
    """A small archive: do not change it."""
    path = tmp_path_factory.mktemp("small") / "a"
    write(path, few, size=5)
    return path


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "copy")


def flip(path, position, mask=0x01):
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def rehash(folder):
    text = (folder / "manifest.json").read_bytes()
    line = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (folder / "manifest.sha256").write_text(line)


def change_manifest(folder, **changes):
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | changes))
    rehash(folder)


def test_one_image_is_read_without_any_block_but_its_own(
    archive_path, mixed, read, same, monkeypatch
):
    decoded = []

    def counting(frame, prior, code):
        decoded.append(frame)
        return unpack(frame, prior, code)

    unpack = blocks.unpack
    monkeypatch.setattr(blocks, "unpack", counting)
    codes, _ = read(Archive.open(archive_path), only="*/00300.png")
    assert same(codes, {"clothes/00300.png": mixed["clothes/00300.png"]})
    assert len(decoded) == 1


@pytest.mark.parametrize("only", ["clothes/000[12]5.png", "*0.png", "nothing", "00015.png"])
def test_a_glob_chooses_by_whole_name(archive_path, mixed, read, same, only):
    expected = {name: code for name, code in mixed.items() if fnmatchcase(name, only)}
    assert same(read(Archive.open(archive_path), only)[0], expected)


def test_segments_are_as_small_as_their_blocks_allow(archive_path, monkeypatch):
    monkeypatch.setattr(reader_module, "SEGMENT_IMAGES", 1)
    counts = [segment.count for segment in Archive.open(archive_path).segments()]
    assert counts == [256, 256, 188]


def test_large_images_make_small_segments(tmp_path, mixed, write, monkeypatch):
    monkeypatch.setattr(reader_module, "SEGMENT_PIXELS", 7 * 28 * 28)
    write(tmp_path / "a", mixed, size=10)
    counts = [segment.count for segment in Archive.open(tmp_path / "a").segments()]
    assert set(counts) == {10}


def test_segments_load_in_threads_in_any_order(archive_path, mixed):
    segments = list(Archive.open(archive_path).segments())
    loaded = {}

    def load(number):
        loaded[number] = segments[number].load()

    threads = [threading.Thread(target=load, args=(n,)) for n in reversed(range(len(segments)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name for number in sorted(loaded) for name in loaded[number].names] == list(mixed)


def test_items_are_read_part_by_part(archive_path, monkeypatch):
    archive = Archive.open(archive_path)
    asked = []
    part = archive.part
    monkeypatch.setattr(archive, "part", lambda number: asked.append(number) or part(number))
    segments = archive.segments()
    next(segments)
    assert asked == [0]


def test_a_newer_version_is_refused_with_the_version_that_is_read(copy):
    change_manifest(copy, format_version=5)
    refusal = r"version 5; .* reads versions 1 to 4: update compressor"
    with pytest.raises(ArchiveError, match=refusal):
        Archive.open(copy)
    with pytest.raises(ArchiveError, match="version 5"):
        verify_archive(copy)


def test_keys_of_later_programs_are_ignored(copy, few, read, same):
    change_manifest(copy, colour="blue")
    assert same(read(Archive.open(copy))[0], few)
    assert verify_archive(copy) == []


def test_what_is_no_archive_is_refused(tmp_path, model, small):
    with pytest.raises(ArchiveError, match="no such folder"):
        Archive.open(tmp_path / "nothing")
    with pytest.raises(ArchiveError, match="no such folder"):
        Archive.open(small / "manifest.json")
    with pytest.raises(ArchiveError, match="is not an archive"):
        Archive.open(tmp_path)
    with pytest.raises(ArchiveError, match="is a compressor-model, not an archive"):
        Archive.open(model.location)


@pytest.mark.parametrize("field", ["parts", "data", "files", "images"])
def test_a_manifest_that_lacks_a_field_names_it(copy, field):
    data = json.loads((copy / "manifest.json").read_text())
    del data[field]
    (copy / "manifest.json").write_text(json.dumps(data))
    rehash(copy)
    with pytest.raises(ArchiveError, match=f"field {field}"):
        Archive.open(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": {}}'])
def test_a_manifest_that_is_none_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    rehash(copy)
    with pytest.raises(ArchiveError):
        Archive.open(copy)


def test_another_model_is_refused_even_if_only_its_decoder_differs(small, copy, model, other_model):
    assert Archive.open(small, model).model is model
    with pytest.raises(ArchiveError, match="was made with another model"):
        Archive.open(small, other_model)
    (copy / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match="was made with another model"):
        Archive.open(copy, other_model)


def test_a_swapped_model_inside_is_refused(copy, other_model, few, read, same, model):
    shutil.rmtree(copy / "model")
    other_model.embed(copy / "model")
    with pytest.raises(ArchiveError, match="was swapped"):
        Archive.open(copy)
    assert same(read(Archive.open(copy, model))[0], few)
    assert any("model/" in problem for problem in verify_archive(copy))


@pytest.mark.parametrize("name", ["decoder.onnx.packed", "prior.bin.packed", "manifest.json"])
def test_a_damaged_model_inside_is_replaced_by_the_same_one_from_outside(
    copy, few, read, same, model, other_model, name
):
    flip(copy / "model" / name, 30)
    with pytest.raises(ArchiveError, match="give the model that it was made with"):
        Archive.open(copy)
    assert same(read(Archive.open(copy, model))[0], few)
    flip(copy / "manifest.json", -3)  # which still tells the digest
    assert same(read(Archive.open(copy, model))[0], few)
    with pytest.raises(ArchiveError, match="another model"):
        Archive.open(copy, other_model)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_without_a_manifest_the_parts_speak_for_themselves(archive_path, mixed, read, same, name):
    (archive_path / name).unlink()
    archive = Archive.open(archive_path)
    assert archive.count == len(mixed)
    codes, lost = read(archive)
    assert same(codes, mixed)
    assert lost == {}
    assert f"{name} is missing; read on from the parts" in archive.damage[0]
    assert verify_archive(archive_path) == [
        archive.damage[0].removesuffix("; read on from the parts themselves")
    ]


def test_without_items_images_come_numbered_in_block_order(archive_path, mixed, read):
    (archive_path / "items" / "part-00001.parquet").write_bytes(b"PAR1 nonsense PAR1")
    archive = Archive.open(archive_path)
    codes, lost = read(archive)
    names = list(codes)
    assert names[:256] == list(mixed)[:256]
    assert names[256:258] == ["damaged-00001/00000000", "damaged-00001/00000001"]
    assert names[511:513] == ["damaged-00001/00000255", "clothes/00512.png"]
    assert lost == {}
    assert len(archive.damage) == 1
    assert "items/part-00001.parquet is damaged" in archive.damage[0]
    # The same images: blocks hold one size each, in the order of the source within it.
    middle = list(mixed.values())[256:512]
    shapes = list(dict.fromkeys(code.shape for code in middle))
    ordered = [code for shape in shapes for code in middle if code.shape == shape]
    found = [codes[f"damaged-00001/{number:08d}"] for number in range(256)]
    assert all(np.array_equal(one, other) for one, other in zip(found, ordered, strict=True))


@pytest.mark.parametrize("damage", ["gone", "garbage", "swapped"])
def test_without_an_index_the_blocks_are_found_by_scanning(archive_path, mixed, read, same, damage):
    index = archive_path / "blocks" / "part-00001.parquet"
    if damage == "gone":
        index.unlink()
    elif damage == "garbage":
        index.write_bytes(b"PAR1" + bytes(900) + b"PAR1")
    else:
        shutil.copy(archive_path / "blocks" / "part-00000.parquet", index)
    archive = Archive.open(archive_path)
    codes, lost = read(archive)
    assert same(codes, mixed)
    assert lost == {}
    assert len(archive.damage) == 1
    assert "blocks/part-00001.parquet is" in archive.damage[0]


def test_without_an_index_a_broken_header_costs_its_block_alone(archive_path, mixed, read, same):
    (archive_path / "blocks" / "part-00000.parquet").unlink()
    flip(archive_path / "blocks" / "part-00000.bin", 8)
    codes, lost = read(Archive.open(archive_path))
    shape = next(iter(mixed.values())).shape
    expected = {
        name: code
        for number, (name, code) in enumerate(mixed.items())
        if number >= 256 or code.shape != shape
    }
    assert same(codes, expected)
    assert set(lost) == mixed.keys() - expected.keys()
    assert set(lost.values()) == {"lost: block 0 of part 0 was not found"}


@pytest.mark.parametrize("suffixes", [["bin"], ["bin", "parquet"]])
@pytest.mark.parametrize("manifest", [True, False])
def test_swapped_parts_never_give_images_under_wrong_names(
    tmp_path, mixed, write, read, same, monkeypatch, suffixes, manifest
):
    square = {name: code for name, code in mixed.items() if code.shape == (3, 4, 4)}
    monkeypatch.setattr(writer_module, "PART_IMAGES", 100)
    write(tmp_path / "a", square, size=100)
    for suffix in suffixes:
        one, two = (tmp_path / "a" / "blocks" / f"part-0000{number}.{suffix}" for number in (0, 1))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    if not manifest:
        (tmp_path / "a" / "manifest.json").unlink()
    codes, lost = read(Archive.open(tmp_path / "a"))
    assert same(codes, dict(list(square.items())[200:]))
    assert len(lost) == 200
    assert len(verify_archive(tmp_path / "a")) >= 2


@pytest.mark.parametrize("lost", [(), (INDEX,), ("manifest.json",), (INDEX, "manifest.json")])
@pytest.mark.parametrize("version", [2, 1])
def test_a_block_of_another_archive_never_passes(tmp_path, mixed, write, read, same, lost, version):
    """Frames of equal length and number: nothing but the archive's id tells them apart."""
    square = {name: code for name, code in mixed.items() if code.shape == (3, 4, 4)}
    ours, others = dict(list(square.items())[:8]), dict(list(square.items())[:8])
    first, second, *_ = others  # of one block: its length stays
    others[first], others[second] = others[second], others[first]
    for name, some in (("a", ours), ("b", others)):
        write(tmp_path / name, some, source=name, size=4)
    one, two = (tmp_path / name / "blocks" / "part-00000.bin" for name in ("a", "b"))
    content, foreign = one.read_bytes(), two.read_bytes()
    (start, header), _ = blocks.scan(two)
    assert len(foreign) == len(content)
    frame = foreign[start : start + header.size + header.length]
    if version == 1:
        fields = frame[:3] + b"\1" + frame[4:32]
        crc = google_crc32c.value(fields).to_bytes(4, "little")
        frame = fields + crc + frame[header.size :]
    (_, (at, _)) = blocks.scan(one)
    one.write_bytes(frame.ljust(at, b"\0") + content[at:])
    for name in lost:
        (tmp_path / "a" / name).unlink()
    codes, missing = read(Archive.open(tmp_path / "a"))
    assert same(codes, dict(list(ours.items())[4:]))
    assert len(missing) == 4
    assert verify_archive(tmp_path / "a")


@pytest.mark.parametrize("keep", [0, 20, 40, 200, -1])
def test_a_file_of_blocks_cut_short_costs_what_was_behind_the_cut(copy, few, read, keep):
    frames = copy / "blocks" / "part-00000.bin"
    whole = list(blocks.scan(frames))
    content = frames.read_bytes()[:keep]
    frames.write_bytes(content)
    codes, lost = read(Archive.open(copy))
    left = sum(
        header.images
        for offset, header in whole
        if offset + header.size + header.length <= len(content)
    )
    assert len(codes) == left
    assert len(codes) + len(lost) == len(few)
    assert all(np.array_equal(code, few[name]) for name, code in codes.items())


def test_a_file_cut_short_at_any_length_never_gives_other_codes(copy, few, read):
    for file in [file for file in copy.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        for keep in {0, 1, len(content) // 3, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:keep])
            assert verify_archive(copy), file
            check_reading(copy, file, few, read)
        file.write_bytes(content)
    assert verify_archive(copy) == []


def check_reading(folder, file, few, read):
    """Reading gives the right codes under the right names, or says what it could not.

    Returns the images that are lost, with reasons."""
    try:
        archive = Archive.open(folder)
    except ArchiveError as error:
        assert file.parent.name == "model"
        assert "give the model" in str(error)
        return {}
    codes, lost = read(archive)
    if file.parent.name == "items":
        assert list(codes) == [f"damaged-00000/{number:08d}" for number in range(len(few))]
        found, expected = ({code.tobytes() for code in each.values()} for each in (codes, few))
        assert found == expected
    else:
        assert all(np.array_equal(code, few[name]) for name, code in codes.items())
        assert {*codes, *lost} == few.keys()
    assert bool(lost) == (file.suffix == ".bin")
    assert bool(archive.damage) == (file.suffix != ".bin" and file.parent.name != "model")
    return lost


def test_any_flipped_byte_is_found_by_verify_and_costs_at_most_a_block(copy, few, read):
    """Every byte in turn, one bit of it; where every byte is under one hash, reading a sample."""
    largest = max(header.images for _, header in blocks.scan(copy / "blocks" / "part-00000.bin"))
    for file in [file for file in copy.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            assert any(iterate_problems(copy)), (file, position)
            if file.suffix == ".bin" or position % 5 == 0:
                assert len(check_reading(copy, file, few, read)) <= largest
        file.write_bytes(content)
    assert verify_archive(copy) == []


def test_verify_finds_additional_and_missing_files(copy):
    (copy / "items" / ".hidden").write_text("")
    (copy / "blocks" / "part-00000.parquet").unlink()
    problems = verify_archive(copy)
    assert f"{copy}/items/.hidden does not belong to the archive" in problems
    assert f"{copy}/blocks/part-00000.parquet is missing" in problems


def rebuilt(folder, items=None, index=None):
    """Replaces tables and makes all hashes right: what a careless writer could have made."""
    for name, table in (("items", items), ("blocks", index)):
        if table is not None:
            (folder / name / "part-00000.parquet").write_bytes(table.to_bytes())
    data = json.loads((folder / "manifest.json").read_text())
    for name, entry in data["files"].items():
        content = (folder / name).read_bytes()
        entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(folder, files=data["files"])


@pytest.mark.parametrize(
    ("column", "value"),
    [("block", 99), ("block", -1), ("index", 1000), ("index", -1), ("height", 14), ("width", 7)],
)
def test_a_row_that_points_nowhere_is_lost_alone_and_verify_says_so(copy, few, read, column, value):
    items = Archive.open(copy).part(0).items
    getattr(items, column)[0] = value
    rebuilt(copy, items=items)
    codes, lost = read(Archive.open(copy))
    assert list(lost) == ["clothes/00000.png"]
    assert all(np.array_equal(code, few[name]) for name, code in codes.items())
    assert verify_archive(copy)


def test_verify_finds_an_image_listed_twice_and_other_channels(copy):
    items = Archive.open(copy).part(0).items
    items.index[np.flatnonzero(items.block == items.block[0])[1]] = items.index[0]
    items.channels[3] = 3
    rebuilt(copy, items=items)
    problems = " ".join(verify_archive(copy))
    assert "does not have each image exactly once" in problems
    assert "other channels" in problems


def test_verify_finds_items_of_another_codec(copy, few, read, same):
    items = Archive.open(copy).part(0).items
    items.codec[3] = "png"
    rebuilt(copy, items=items)
    assert same(read(Archive.open(copy))[0], few)
    assert verify_archive(copy) == [f"{copy}: part 0 has items of another codec"]


def test_an_index_of_another_codec_gives_no_codes(copy, few, read):
    index = Index.from_bytes((copy / "blocks" / "part-00000.parquet").read_bytes())
    index.codec[0] = "webp"
    rebuilt(copy, index=index)
    codes, lost = read(Archive.open(copy))
    assert all(np.array_equal(code, few[name]) for name, code in codes.items())
    assert set(lost.values()) == {"lost: block 0 of part 0 is not what its index says"}
    assert any("block 0 and the index do not agree" in problem for problem in verify_archive(copy))


def test_a_codec_that_is_not_known_is_damage(copy, few, read):
    items = Archive.open(copy).part(0).items
    items.codec[3] = "gif"
    rebuilt(copy, items=items)
    archive = Archive.open(copy)
    codes, _ = read(archive)
    assert len(codes) == len(few) and next(iter(codes)) == "damaged-00000/00000000"
    assert "has a codec that this version does not know: 'gif'" in archive.damage[0]


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", 2**40), ("offset", 7), ("offset", -1), ("length", 2**31 - 4), ("count", 2**31 - 1)],
)
def test_an_index_that_lies_gives_no_other_codes_and_takes_no_memory(
    copy, few, read, column, value
):
    index = Index.from_bytes((copy / "blocks" / "part-00000.parquet").read_bytes())
    getattr(index, column)[1] = value
    rebuilt(copy, index=index)
    codes, _ = read(Archive.open(copy))
    assert all(np.array_equal(code, few[name]) for name, code in codes.items())
    assert len(codes) >= len(few) - 2
    assert verify_archive(copy)


def test_blocks_of_a_size_that_the_model_does_not_take_are_lost(copy, read, few):
    frames = copy / "blocks" / "part-00000.bin"
    offset, header = next(iter(blocks.scan(frames)))
    content = bytearray(frames.read_bytes())
    content[offset : offset + 36] = header._replace(height=0).to_bytes()
    frames.write_bytes(content)
    (copy / "blocks" / "part-00000.parquet").unlink()
    _, lost = read(Archive.open(copy))
    assert len(lost) == header.images
    assert "it has no pixels" in next(iter(lost.values()))


def test_the_embedded_model_is_all_that_decoding_needs(small, model):
    inside = Model.open(small / "model")
    assert inside.digest == model.digest
    assert inside.prior.to_bytes() == model.prior.to_bytes()
