from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.data import containers
from compressor.data.left_out import left_out
from compressor.data.reading import chunks_of
from compressor.data.sources import open_source
from compressor.errors import DataError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
BROKEN = b"\x89PNG\r\n\x1a\n and no more"


def write_folder(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_parquet(path, files, row_group_size=4):
    images = [{"bytes": data, "path": name} for name, data in files.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images}), path, row_group_size=row_group_size)
    return path


def write_npy(path, clothes):
    np.save(path, clothes[:20])
    return path


def write_npz(path, clothes):
    np.savez_compressed(path, images=clothes[:20], labels=np.arange(20))
    return path


@pytest.fixture
def files(clothes, png):
    return {f"{i:02}.png": png(clothes[i]) for i in range(20)}


@pytest.fixture(
    params=["folder", "npy", "npz", "array", "parquet", "parts", "tar", "tar.gz", "zip"]
)
def source(request, tmp_path, clothes, files):
    """The same 20 images in every kind of source."""
    path = tmp_path / f"data.{request.param}"
    match request.param:
        case "folder":
            write_folder(path, files)
        case "npy":
            write_npy(path, clothes)
        case "npz":
            write_npz(path, clothes)
        case "array":
            return open_source(clothes[:20])
        case "parquet":
            write_parquet(path, files)
        case "parts":
            parts = list(files.items())
            write_parquet(path / "a.parquet", dict(parts[:9]))
            write_parquet(path / "b" / "b.parquet", dict(parts[9:]))
        case "tar":
            write_tar(path, files)
        case "tar.gz":
            write_tar(path, files, "w:gz")
        case "zip":
            write_zip(path, files)
    return open_source(path)


def names_of(source, files):
    has_names = not any(kind in source.location for kind in (".npy", ".npz", "the array"))
    return list(files) if has_names else [f"{i:05}" for i in range(20)]


@pytest.mark.parametrize("size", [1, 6, 20, 50])
def test_every_kind_gives_all_images_in_order(source, clothes, files, read, size):
    found = read(source, size)
    assert found.names == names_of(source, files)
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:20])
    assert not found.unreadable


@pytest.mark.parametrize("start", [0, 1, 8, 9, 13, 19, 20])
def test_every_kind_can_start_anywhere(source, clothes, files, read, start):
    found = read(source, 6, start)
    assert found.names == names_of(source, files)[start:]
    for pixels, expected in zip(found.pixels, clothes[start:20], strict=True):
        assert np.array_equal(pixels[..., 0], expected)


def test_every_kind_has_no_chunks_after_its_end(source):
    assert list(source.chunks(6, start=25)) == []


def test_every_kind_says_how_many_images_it_has_except_a_stream(source):
    assert source.count() == (None if ".tar" in source.location else 20)


def test_chunks_load_in_several_threads_at_once(source, clothes):
    barrier = threading.Barrier(4, timeout=20)

    def load(chunk):
        barrier.wait()
        return next(chunk.load())

    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(load, source.chunks(5)))
    pixels = np.concatenate([images.groups[0].pixels for images in loaded])
    assert np.array_equal(pixels[..., 0], clothes[:20])


def test_pixels_can_be_written_to_without_changing_the_source(source, clothes):
    for chunk in source.chunks(20):
        next(chunk.load()).groups[0].pixels[:] = 0
        assert np.array_equal(next(chunk.load()).groups[0].pixels[..., 0], clothes[:20])


def test_an_open_source_gives_the_same_fingerprint_every_time(source):
    assert source.fingerprint() == source.fingerprint()
    assert len(bytes.fromhex(source.fingerprint())) == 32


def test_images_and_names_in_a_dictionary_are_read(tmp_path, files, clothes, read):
    table = pa.table({"image": pa.array(files.values()), "name": pa.array(files)})
    columns = [column.combine_chunks().dictionary_encode() for column in table.columns]
    pq.write_table(pa.table(columns, table.column_names), tmp_path / "data.parquet")
    found = read(open_source(tmp_path / "data.parquet"), 6)
    assert found.names == list(files)
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:20])


def test_a_column_of_several_images_a_row_is_no_column_of_images(tmp_path, files):
    pq.write_table(pa.table({"images": [list(files.values())[:2]] * 3}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'images' is list<.*neither numbers nor encoded images"):
        open_source(tmp_path / "a.parquet")


# Fingerprints


def test_the_fingerprint_of_a_folder_changes_with_names_sizes_and_times(tmp_path, files):
    write_folder(tmp_path, files)
    first = tmp_path / "00.png"
    seen = {open_source(tmp_path).fingerprint()}
    os.utime(first, ns=(1, 1))
    seen.add(open_source(tmp_path).fingerprint())
    first.write_bytes(files["00.png"] + b"more")
    os.utime(first, ns=(1, 1))
    seen.add(open_source(tmp_path).fingerprint())
    first.rename(tmp_path / "000.png")
    seen.add(open_source(tmp_path).fingerprint())
    assert len(seen) == 4


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "tar", "zip"])
def test_the_fingerprint_of_a_file_changes_with_its_time(tmp_path, clothes, files, kind):
    path = tmp_path / f"data.{kind}"
    write = {"npy": write_npy, "npz": write_npz}.get(kind)
    if write:
        write(path, clothes)
    else:
        {"parquet": write_parquet, "tar": write_tar, "zip": write_zip}[kind](path, files)
    before = open_source(path).fingerprint()
    os.utime(path, ns=(1, 1))
    assert open_source(path).fingerprint() != before


def test_the_fingerprint_of_an_array_is_that_of_its_values(clothes):
    one = open_source(clothes).fingerprint()
    assert open_source(np.asfortranarray(clothes)).fingerprint() == one
    other = clothes.copy()
    other[-1, 14, 14] ^= 1
    assert open_source(other).fingerprint() != one
    assert open_source(clothes.reshape(50, 56, 28)).fingerprint() != one


# Folders


def test_a_folder_is_read_recursively_sorted_by_path_without_other_and_hidden_files(
    tmp_path, clothes, photo, png, read
):
    write_folder(
        tmp_path,
        {
            "b/z.PNG": png(clothes[0]),
            "b.png": png(clothes[1]),
            "a/x/2.png": png(clothes[2]),
            "a/x/10.png": png(photo),
            "notes.txt": b"text",
            "labels.csv": b"a,b",
            ".hidden.png": png(clothes[3]),
            ".thumbnails/a.png": png(clothes[3]),
        },
    )
    suffixes = ("bmp", "dib", "jfif", "jpe", "jpeg", "jpg", "tif", "tiff", "webp",
                "avif", "gif", "j2k", "jp2", "pgm", "ppm")  # fmt: skip
    for suffix in suffixes:
        image = Image.fromarray(photo[..., 0] if suffix == "pgm" else photo)
        image.save(tmp_path / f"c.{suffix}")
    source = open_source(tmp_path)
    found = read(source)
    assert found.names == [
        "a/x/10.png", "a/x/2.png", "b.png", "b/z.PNG", *(f"c.{s}" for s in sorted(suffixes))
    ]  # fmt: skip
    assert left_out(source) == {".csv": 1, ".txt": 1}
    assert np.array_equal(found.pixels[0], photo)
    assert np.array_equal(found.pixels[3][..., 0], clothes[0])
    assert not found.unreadable


def test_unreadable_files_keep_their_places_and_stop_nothing(tmp_path, files, read):
    files["07.png"] = BROKEN
    files["08.png"] = files["08.png"][:-40]
    files["19.png"] = b""
    write_folder(tmp_path, files)
    (tmp_path / "10.png").unlink()
    (tmp_path / "10.png").symlink_to("nowhere.png")
    (tmp_path / "11.png").unlink()
    os.mkfifo(tmp_path / "11.png")
    source = open_source(tmp_path)
    (tmp_path / "03.png").unlink()
    found = read(source)
    assert found.names == list(files)
    assert found.unreadable.keys() == {3, 7, 8, 10, 11, 19}
    assert "No such file" in found.unreadable[3]
    assert "regular file" in found.unreadable[11]


def test_a_name_that_other_systems_take_for_a_path_makes_a_file_unreadable(tmp_path, files, read):
    write_folder(tmp_path, {"a\\b.png": files["00.png"], "c.png": files["01.png"]})
    found = read(open_source(tmp_path))
    assert found.unreadable.keys() == {0}
    assert "rename" in found.unreadable[0]


def test_names_that_are_not_utf8_are_written_with_escapes_and_stay_different(
    tmp_path, clothes, png, read
):
    for number, name in enumerate((b"/caf\xe8.png", b"/caf\xe9.png")):
        # A Path takes no bytes.
        with open(os.fsencode(tmp_path) + name, "wb") as file:  # noqa: PTH123
            file.write(png(clothes[number]))
    found = read(open_source(tmp_path))
    assert found.names == ["caf%E8.png", "caf%E9.png"]
    assert np.array_equal(found.pixels[1][..., 0], clothes[1])


def test_links_to_folders_are_followed_and_loops_end(tmp_path, files, read):
    folder = tmp_path / "data"
    write_folder(folder, {"a/1.png": files["00.png"]})
    write_folder(tmp_path / "elsewhere", {"2.png": files["01.png"]})
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "self").symlink_to(".")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "a")
    assert read(open_source(folder)).names == ["a/1.png", "b/2.png"]


def test_images_without_suffix_are_known_by_their_first_bytes(tmp_path, photo, png, read):
    content = {"PNG": png(photo)}
    for name in ("JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, name)
        content[name] = file.getvalue()
    content["JXL"] = imagecodecs.jpegxl_encode(photo)
    write_folder(tmp_path / "data", content)
    others = {"LICENSE": b"text", "empty": b"", "IMG.0001": b"BM, no image", "photo": HEIC}
    write_folder(tmp_path / "data", others | {"scan.0001": png(photo), "a.bak": png(photo)})
    source = open_source(tmp_path / "data")
    found = read(source)
    assert found.names == sorted([*content, "scan.0001"]) and not found.unreadable
    assert left_out(source) == {"(no suffix)": 3, ".bak": 1, ".heic": 1}
    assert read(open_source(tmp_path / "data" / "PNG")).names == ["PNG"]


def test_pipes_are_named_and_never_opened(tmp_path, png, photo, read):
    write_folder(tmp_path, {"a.png": png(photo)})
    for name in ("pipe", "b.png", "c.txt"):
        os.mkfifo(tmp_path / name)
    source = open_source(tmp_path)
    assert read(source).unreadable == {1: "is not a regular file"}
    assert left_out(source) == {"(no regular file)": 1, ".txt": 1}
    for name in ("a.parquet", "b.tar", "c.npy"):
        folder = tmp_path / name.partition(".")[2]
        folder.mkdir()
        os.mkfifo(folder / name)
        for given in (folder, folder / name):
            with pytest.raises(DataError, match=f"{name} is a pipe, which is not opened"):
                open_source(given)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.npy"))
        with pytest.raises(DataError, match="is a socket, which is not opened"):
            open_source(tmp_path / "s.npy")
    with pytest.raises(DataError, match="is a device, which is not opened"):
        open_source("/dev/zero")


def test_images_beside_another_dataset_are_refused(tmp_path, clothes, photo, png, files, read):
    makers = {
        "data.parquet": lambda path: write_parquet(path, files),
        "data.tar": lambda path: write_tar(path, files),
        "data.npy": lambda path: write_npy(path, clothes),
    }
    for name, make in makers.items():
        folder = write_folder(tmp_path / name.partition(".")[2], {"logo.png": png(photo)})
        make(folder / "sub" / name) if name == "data.parquet" else make(folder / name)
        with pytest.raises(DataError, match=rf"images \(1: logo.png\) and .*{name}\).*own path"):
            open_source(folder)
    parquet = tmp_path / "parquet"
    with pytest.raises(DataError, match="::COLUMN"):
        open_source(parquet)
    source = open_source(f"{parquet}::image")
    assert len(read(source).names) == 20 and left_out(source) == {".png": 1}
    (parquet / "logo.png").unlink()
    write_npy(parquet / "a.npy", clothes)
    with pytest.raises(DataError, match=r"Parquet files \(1: .* and .npy files \(1: "):
        open_source(parquet)


def test_labels_beside_images_are_left_out(tmp_path, png, photo, read):
    write_folder(tmp_path, {"a.png": png(photo), "README": b"text", "metadata.csv": b"a,b"})
    (tmp_path / "test").mkdir()
    for folder in (tmp_path, tmp_path / "test"):
        pq.write_table(pa.table({"file_name": ["a.png"]}), folder / "metadata.parquet")
    source = open_source(tmp_path)
    assert read(source).names == ["a.png"]
    assert left_out(source) == {".parquet": 2, "(no suffix)": 1, ".csv": 1}


def test_files_beside_parquet_tar_and_npy_files_are_counted(tmp_path, clothes, files, read):
    write_parquet(tmp_path / "parquet" / "a.parquet", files)
    (tmp_path / "npy").mkdir()
    write_npy(tmp_path / "npy" / "a.npy", clothes)
    (tmp_path / "tar").mkdir()
    write_tar(tmp_path / "tar" / "a.tar", files | {"a.json": b"", "a.cls": b""})
    write_tar(tmp_path / "tar" / "b.tar", files | {"b.json": b"", "b.npy": b""})
    for kind, inside in (("parquet", {}), ("npy", {}), ("tar", {".json": 2, ".cls": 1, ".npy": 1})):
        write_folder(tmp_path / kind, {"README.md": b"", "infos.json": b"{}"})
        source = open_source(tmp_path / kind)
        for start in (0, 15):
            for chunk in source.chunks(7, start):
                list(chunk.load())
            expected = dict(inside) | {".md": 1, ".json": inside.get(".json", 0) + 1}
            assert left_out(source) == expected


def test_a_folder_of_many_suffixes_is_counted_in_bounded_memory(tmp_path, png, photo):
    many = {f"{number}.{number}x": b"" for number in range(300)}
    source = open_source(write_folder(tmp_path, many | {"a.png": png(photo)}))
    assert sum(left_out(source).values()) == 300 and len(left_out(source)) == 101


@pytest.mark.parametrize("other", [{}, {"notes.txt": b""}, {".hidden.png": b""}])
def test_a_folder_without_images_is_refused(tmp_path, other):
    with pytest.raises(DataError, match=r"no images and no Parquet, \.tar or \.npy files"):
        open_source(write_folder(tmp_path, other))


def test_a_single_image_is_a_source(tmp_path, photo, read):
    path = tmp_path / "photo.PNG"
    Image.fromarray(photo).save(path)
    found = read(open_source(str(path)))
    assert found.names == ["photo.PNG"]
    assert np.array_equal(found.pixels[0], photo)


@pytest.mark.parametrize("name", ["missing", "missing.npy", "missing.png", "a\0b"])
def test_what_does_not_exist_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="cannot open" if "\0" in name else "does not exist"):
        open_source(tmp_path / name)


def test_a_file_of_another_kind_is_refused_saying_what_is_wanted(tmp_path):
    (tmp_path / "data.doc").write_text("1,2")
    with pytest.raises(DataError, match=r"data\.doc.*\.npy"):
        open_source(tmp_path / "data.doc")
    (tmp_path / "data.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"only \.npz, Parquet and CSV"):
        open_source(f"{tmp_path}/data.npy::key")


# Arrays


def test_arrays_of_colour_images_and_any_memory_layout_are_read(photo, read):
    array = np.stack([photo, photo[::-1], photo[:, ::-1]])
    for given in (array, np.asfortranarray(array), array[::-1][::-1]):
        found = read(open_source(given), 2)
        assert np.array_equal(np.stack(found.pixels), array)
        assert found.chunks[0].groups[0].pixels.flags.c_contiguous


def test_rows_are_named_with_numbers_as_wide_as_the_last():
    big = np.zeros((100_001, 1, 2), np.uint8)
    source = open_source(big)
    assert next(next(source.chunks(2)).load()).names == ["000000", "000001"]
    assert next(next(source.chunks(2, start=100_000)).load()).names == ["100000"]
    (last,) = open_source(big[:100_000]).chunks(1, start=99_999)
    assert next(last.load()).names == ["99999"]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 28, 28), np.float32),
        np.zeros((5, 28, 28), np.uint16),
        np.zeros((5, 28, 28), bool),
        np.zeros((28, 28), np.uint8),
        np.zeros((5, 3, 28, 28), np.uint8),
        np.zeros((5, 28, 28, 2), np.uint8),
        np.zeros((0, 28, 28), np.uint8),
        np.zeros((5, 0, 28), np.uint8),
        np.zeros((84, 140, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_not_images_are_refused_saying_what_is_wanted(tmp_path, array):
    with pytest.raises(DataError, match=r"uint8 \(N, H, W\)"):
        open_source(array)
    np.savez(tmp_path / "data.npz", array=array)
    with pytest.raises(DataError, match=r"uint8 \(N, H, W\)"):
        open_source(f"{tmp_path}/data.npz::array")


@pytest.mark.parametrize("name", ["a.npy", "a.parquet"])
def test_a_file_leaves_nothing_in_memory(tmp_path, name):
    """Resident memory, that is, to which the pages of a map would add."""
    code = (
        "import sys; from pathlib import Path; from compressor.data.sources import open_source\n"
        "found = 0\n"
        "for chunk in open_source(sys.argv[1]).chunks(100):\n"
        "    found += sum(len(images.names) for images in chunk.load())\n"
        "print(found, Path('/proc/self/status').read_text())"
    )
    peaks = []
    for rows in (100, 20_000):
        if name == "a.npy":
            np.save(tmp_path / name, np.zeros((rows, 100, 100), np.uint8))
        else:
            table = pa.table({"image": [bytes(10_000)] * rows})  # no images, but as many bytes
            pq.write_table(table, tmp_path / name, compression="none", use_dictionary=False)
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert told.split()[0] == str(rows)
        peaks.append(int(re.findall(r"VmHWM:\s+(\d+) kB", told)[0]))
    assert peaks[1] - peaks[0] < 60_000  # of 200 MB


def test_an_npy_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path, clothes):
    path = write_npy(tmp_path / "a.npy", clothes)
    chunks = list(open_source(path).chunks(10))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.npy.*damaged or cut off.*shorter than its header"):
        next(iter(chunks[-1].load()))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.npy: No such file"):
        next(iter(chunks[0].load()))


def test_damaged_npy_files_are_refused(tmp_path, clothes):
    path = write_npy(tmp_path / "a.npy", clothes)
    data = path.read_bytes()
    for damaged in (b"", data[:50], data[:-1], b"no array" * 100):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npy.*damaged or cut off"):
            open_source(path)


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    np.save(tmp_path / "a.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=np.array([Trap()], object))
    for location in ("a.npy", "a.npz", "a.npz::images"):
        with pytest.raises(DataError):
            open_source(tmp_path / location)


def test_an_npz_with_several_arrays_of_images_wants_a_key(tmp_path, clothes, read):
    path = tmp_path / "a.npz"
    np.savez(path, train=clothes[:9], test=clothes[9:12], labels=np.arange(9))
    with pytest.raises(DataError, match=r"train, test, labels.*::KEY"):
        open_source(path)
    with pytest.raises(DataError, match=r"'dev'; its keys are train, test, labels"):
        open_source(f"{path}::dev")
    found = read(open_source(f"{path}::test"), 2)
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[9:12])
    assert open_source(f"{path}::test").fingerprint() != open_source(f"{path}::train").fingerprint()


def test_a_path_with_two_colons_in_it_is_a_path(tmp_path, files, read):
    folder = write_folder(tmp_path / "a::b", {"1.png": files["00.png"]})
    assert read(open_source(folder)).names == ["1.png"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_an_npz(tmp_path, clothes, save):
    save(tmp_path / "a.npz", images=np.tile(clothes, (200, 1, 1)))
    tracemalloc.start()
    try:
        for chunk in open_source(tmp_path / "a.npz").chunks(100):
            next(chunk.load())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_npz_in_fortran_order_is_refused(tmp_path, clothes):
    np.savez(tmp_path / "a.npz", images=np.asfortranarray(clothes))
    with pytest.raises(DataError, match="ascontiguousarray"):
        open_source(tmp_path / "a.npz")


def test_damage_in_an_npz_is_noticed(tmp_path, clothes, read):
    path = tmp_path / "a.npz"
    np.savez(path, images=clothes)
    data = bytearray(path.read_bytes())
    data[40_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut off"):
        read(open_source(path))
    path.write_bytes(data[:20_000])
    with pytest.raises(DataError, match="damaged or cut off"):
        open_source(path)


def test_an_npz_that_has_fewer_rows_than_it_says_is_refused(tmp_path, clothes, read):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)}
    )
    write_zip(tmp_path / "a.npz", {"images.npy": file.getvalue() + clothes.tobytes()})
    with pytest.raises(DataError, match="shorter than its header says"):
        read(open_source(tmp_path / "a.npz"), 1000)


# Parquet


def test_parquet_takes_plain_binary_and_the_only_candidate(tmp_path, files, clothes, read):
    table = pa.table({"label": list(range(20)), "scan": list(files.values())})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(open_source(tmp_path / "a.parquet"))
    assert found.names == [f"{i:05}" for i in range(20)]
    assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[:20])


def test_parquet_with_several_columns_of_images_wants_one_named(tmp_path, files, clothes, read):
    encoded = list(files.values())
    table = pa.table({"left": encoded[:10], "right": encoded[10:], "label": list(range(10))})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    with pytest.raises(DataError, match="left, right; name one as PATH::COLUMN"):
        open_source(path)
    with pytest.raises(DataError, match=r"no column 'middle'; it has left, right, label"):
        open_source(f"{path}::middle")
    for location in (f"{path}::right", f"{tmp_path}::right"):
        found = read(open_source(location))
        assert np.array_equal(np.stack(found.pixels)[..., 0], clothes[10:20])
    pq.write_table(table.rename_columns(["image", "right", "label"]), path)
    assert np.array_equal(read(open_source(path)).pixels[0][..., 0], clothes[0])


@pytest.mark.parametrize("column", ["path", "name", "filename"])
def test_parquet_names_come_from_a_column_before_the_struct(tmp_path, files, read, column):
    images = [{"bytes": data, "path": f"struct/{name}"} for name, data in files.items()]
    table = pa.table({column: [f"column/{name}" for name in files], "image": images})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(open_source(tmp_path / "a.parquet")).names == [f"column/{name}" for name in files]


@pytest.mark.parametrize("bad", [None, "01.png", "../x.png", "/data/x.png", "C:x.png", ""])
def test_parquet_rows_have_numbers_if_a_name_is_missing_double_or_unsafe(
    tmp_path, files, read, bad
):
    names = [*list(files)[:-1], bad]
    images = [{"bytes": d, "path": n} for n, d in zip(names, files.values(), strict=True)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    assert read(open_source(tmp_path / "a.parquet")).names == [f"{i:05}" for i in range(20)]


def test_parquet_rows_without_or_with_broken_bytes_are_unreadable(tmp_path, files, read):
    images = [{"bytes": data, "path": name} for name, data in files.items()]
    images[3] = {"bytes": None, "path": "03.png"}
    images[5] = {"bytes": BROKEN, "path": "05.png"}
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    found = read(open_source(tmp_path / "a.parquet"))
    assert found.unreadable.keys() == {3, 5}
    assert "embed" in found.unreadable[3]
    images[4] = None
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    found = read(open_source(tmp_path / "a.parquet"))
    assert found.unreadable.keys() == {3, 4, 5}


def test_parquet_parts_with_other_columns_are_refused(tmp_path, files):
    write_parquet(tmp_path / "a.parquet", files)
    pq.write_table(pa.table({"image": list(files.values())}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has other columns"):
        open_source(tmp_path)


def test_damaged_and_empty_parquet_files_are_refused(tmp_path, files, read):
    path = write_parquet(tmp_path / "a.parquet", files)
    data = path.read_bytes()
    for damaged in (b"", data[:-10], b"PAR1" * 10):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet.*damaged or cut off"):
            open_source(path)
    path.write_bytes(data[:4] + bytes(2000) + data[2004:])
    with pytest.raises(DataError, match=r"a\.parquet.*damaged or cut off"):
        read(open_source(path))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    with pytest.raises(DataError, match="no rows"):
        open_source(path)


# Tar and zip


@pytest.fixture(params=["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
def write_archive(request, tmp_path):
    def write(files):
        path = tmp_path / f"data.{request.param}"
        if request.param == "zip":
            return write_zip(path, files)
        compression = {"tar": "", "tar.bz2": "bz2", "tar.xz": "xz"}.get(request.param, "gz")
        return write_tar(path, files, f"w:{compression}")

    return write


def test_members_that_are_not_images_or_hidden_are_left_out(write_archive, files, read):
    path = write_archive(
        {
            "a/0001.cls": b"7",
            "a/0001.json": b"{}",
            "./a/0001.input.png": files["00.png"],
            "a/._0001.png": b"resource fork",
            "__MACOSX/._a.png": b"resource fork",
            "__MACOSX/a.png": b"resource fork",
            "b/0002.PNG": files["01.png"],
        }
    )
    source = open_source(path)
    assert read(source).names == ["a/0001.input.png", "b/0002.PNG"]
    assert left_out(source) == {".cls": 1, ".json": 1}
    next(source.chunks(1))  # a look at the first image changes nothing
    assert left_out(source) == {".cls": 1, ".json": 1}


def test_members_without_suffix_are_images_by_their_first_bytes(write_archive, files, read):
    path = write_archive({"0001": files["00.png"], "0002": b"text", "x.01": files["01.png"]})
    source = open_source(path)
    found = read(source)
    assert found.names == ["0001", "x.01"] and not found.unreadable
    assert left_out(source) == {"(no suffix)": 1}


def test_backslashes_in_the_names_of_members_are_slashes(write_archive, files, read):
    """PowerShell 5's Compress-Archive wrote them."""
    path = write_archive({"a\\b\\1.png": files["00.png"], "a\\c.txt": b""})
    if path.suffix == ".zip":
        data = path.read_bytes()
        assert b"a\\b\\1.png" in data
    assert read(open_source(path)).names == ["a/b/1.png"]


def test_tar_files_one_after_the_other_are_read_whole(tmp_path, files, read):
    parts = [dict(list(files.items())[:8]), dict(list(files.items())[8:])]
    for mode, suffix in (("w", "tar"), ("w:gz", "tar.gz")):
        contents = [write_tar(tmp_path / "part", part, mode).read_bytes() for part in parts]
        path = tmp_path / f"all.{suffix}"
        path.write_bytes(b"".join(contents))
        assert read(open_source(path)).names == list(files)
        path.write_bytes(contents[0] + contents[1][: len(contents[1]) // 2])
        with pytest.raises(DataError, match="damaged or cut off"):
            read(open_source(path))
    path = tmp_path / "all.tar"
    whole = write_tar(path, files).read_bytes()
    path.write_bytes(whole + b"something else".ljust(2048))
    assert read(open_source(path)).names == list(files)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_a_tar_in_bzip2_or_xz_that_is_damaged_is_refused(tmp_path, files, read, kind):
    path = write_tar(tmp_path / f"a.tar.{kind}", files, f"w:{kind}")
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged or cut off"):
        read(open_source(path))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut off"):
        read(open_source(path))


@pytest.mark.parametrize("where", ["image", "text", "end"])
@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(
    tmp_path, files, read, monkeypatch, kind, where
):
    path = tmp_path / f"a.{kind}"
    zeros = {"image": "zeros.png", "text": "zeros.txt"}.get(where)
    more = {zeros: bytes(5 << 20)} if zeros else {}
    if kind == "zip":
        write_zip(path, files | more)
    else:
        write_tar(path, files | more, f"w:{kind[4:]}")
        if where == "end":
            opened = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind[4:]]
            with opened(path, "ab") as file:
                file.write(bytes(5 << 20))
    read(open_source(path))  # of this size anything may be
    monkeypatch.setattr(containers, "SURELY_UNPACKED", 1 << 20)
    if kind == "zip" and where != "image":
        read(open_source(path))  # what is left out is not unpacked
        return
    with pytest.raises(DataError, match="unpacks to more than 64 times its size"):
        read(open_source(path))


def test_a_large_image_that_a_table_repeats_is_in_memory_once():
    large, small = (bytes([1]) + bytes(size) for size in (1 << 20, 99))
    images = ((f"{n}.png", bytes(bytearray(large if n % 2 else small))) for n in range(40))
    (chunk,) = chunks_of(images, 40, 0)
    contents = chunk.load.args[1]
    assert len({id(content) for content in contents if len(content) > 1 << 20}) == 1
    assert [content[:1] for content in contents] == [b"\1"] * 40


def test_shards_are_named_by_braces(tmp_path, files, read):
    names = list(files)
    for number in range(11):
        write_tar(tmp_path / f"data-{number:04}.tar", {names[number]: files[names[number]]})
    pattern = f"{tmp_path}/data-{{0000..0010}}.tar"
    assert read(open_source(pattern), 1).names == [
        f"data-{number:04}.tar/{names[number]}" for number in range(11)
    ]
    found = read(open_source(f"{tmp_path}/data-00{{10,08}}.tar"), 1).names
    assert found == [f"data-{n}.tar/{names[int(n)]}" for n in ("0010", "0008")]
    (tmp_path / "data-0003.tar").unlink()
    with pytest.raises(DataError, match=r"1 of the 11 files .* do not exist: \S*data-0003\.tar$"):
        open_source(pattern)
    for many in ("{0..999999999}", "{0..999}{0..999}"):
        with pytest.raises(DataError, match="more than 100,000 files"):
            open_source(f"{tmp_path}/{many}.tar")
    assert read(open_source(f"{tmp_path}/data-00{{1..0}}{{0..0}}.tar"), 1).names == [
        f"data-{n}.tar/{names[int(n)]}" for n in ("0010", "0000")
    ]
    for other in ("{}.tar", "{a}.tar", "{1..2}.png", "{1,{2..3}}.tar"):
        with pytest.raises(DataError, match=r"does not exist|must be \.tar or \.npy"):
            open_source(tmp_path / other)


def test_unreadable_members_keep_their_places_and_stop_nothing(write_archive, files, read):
    files["07.png"] = BROKEN
    files["08.png"] = b""
    found = read(open_source(write_archive(files)))
    assert found.names == list(files)
    assert found.unreadable.keys() == {7, 8}


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/x.png", "..\\x.png", "C:\\x.png", "a/..", "../x.txt"]
)
def test_a_name_that_leads_out_of_a_folder_refuses_the_archive(write_archive, files, read, name):
    path = write_archive({**files, name: files["00.png"]})
    with pytest.raises(DataError, match="leads out of a folder"):
        read(open_source(path))


def test_an_archive_without_images_is_refused(write_archive, read):
    for content in ({}, {"a.json": b"{}"}):
        path = write_archive(content)
        with pytest.raises(DataError, match="holds no images"):
            read(open_source(path))


def test_a_tar_keeps_its_order_and_a_zip_is_sorted(tmp_path, files, read):
    backwards = dict(reversed(files.items()))
    found = read(open_source(write_tar(tmp_path / "a.tar", backwards)))
    assert found.names == list(backwards)
    found = read(open_source(write_zip(tmp_path / "a.zip", backwards)))
    assert found.names == list(files)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_that_is_cut_off_anywhere_is_refused(tmp_path, clothes, png, read, suffix):
    files = {f"{i}.png": png(clothes[i]) for i in range(3)}
    path = write_tar(tmp_path / f"a.{suffix}", files, "w:gz" if suffix == "tar.gz" else "w")
    data = path.read_bytes()
    content = len(data) if suffix == "tar.gz" else len(data.rstrip(b"\0"))
    for kept in {*range(0, content, 64), *range(0, content, 512)}:
        path.write_bytes(data[:kept])
        with pytest.raises(DataError, match=f"a.{suffix}.*damaged or cut off"):
            read(open_source(path))


def test_a_damaged_header_is_not_taken_for_the_end_of_a_tar(tmp_path, files, read):
    path = write_tar(tmp_path / "a.tar", files)
    data = bytearray(path.read_bytes())
    data[data.index(b"11.png")] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut off"):
        read(open_source(path))


def test_a_damaged_gzip_stream_is_noticed(tmp_path, files, read):
    path = write_tar(tmp_path / "a.tar.gz", files, "w:gz")
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut off"):
        read(open_source(path))


def test_links_in_a_tar_are_unreadable_images(tmp_path, files, read):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        member = tarfile.TarInfo("c.png")
        member.size = len(files["00.png"])
        tar.addfile(member, io.BytesIO(files["00.png"]))
    found = read(open_source(path))
    assert found.names == ["a.png", "b.png", "c.png"]
    assert found.unreadable.keys() == {0, 1}


def test_memory_does_not_grow_with_a_tar(tmp_path, files):
    many = {f"{i:05}.png": files["00.png"] for i in range(4_000)}
    path = write_tar(tmp_path / "a.tar", many)
    tracemalloc.start()
    try:
        read = sum(chunk.count for chunk in open_source(path).chunks(100))
        assert read == 4_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_damaged_member_of_a_zip_is_an_unreadable_image(tmp_path, files, read):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        place = archive.getinfo("04.png").header_offset + 100
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    found = read(open_source(path))
    assert found.unreadable.keys() == {4}
    assert "CRC" in found.unreadable[4]


def test_an_encrypted_member_of_a_zip_is_an_unreadable_image(tmp_path, files, read):
    path = write_zip(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    found = read(open_source(path))
    assert found.unreadable.keys() == {0}
    assert "encrypted" in found.unreadable[0]


def test_a_member_that_unpacks_to_more_than_the_limit_is_not_unpacked(
    tmp_path, files, read, monkeypatch
):
    monkeypatch.setattr("compressor.data.containers.MAX_ENCODED_BYTES", 100_000)
    files["05.png"] = bytes(200_000)
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        found = read(open_source(path))
        assert found.unreadable == {5: "is larger than 100,000 bytes"}


def test_damaged_zip_files_are_refused(tmp_path, files):
    path = write_zip(tmp_path / "a.zip", files)
    data = path.read_bytes()
    for damaged in (b"", data[:-30], b"PK" * 100):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.zip.*damaged or cut off"):
            open_source(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "tar", "tar.gz", "zip"])
def test_random_damage_ends_in_images_or_a_data_error(tmp_path, clothes, png, kind):
    files = {f"{i}.png": png(clothes[i]) for i in range(4)}
    path = tmp_path / f"a.{kind}"
    match kind:
        case "npy":
            np.save(path, clothes[:4])
        case "npz":
            np.savez_compressed(path, images=clothes[:4])
        case "parquet":
            write_parquet(path, files)
        case "tar" | "tar.gz":
            write_tar(path, files, "w" if kind == "tar" else "w:gz")
        case "zip":
            write_zip(path, files)
    whole = path.read_bytes()
    chance = random.Random(7)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        near_an_end = chance.choice([chance.randrange(200), -1 - chance.randrange(200)])
        damaged[chance.choice([near_an_end, chance.randrange(len(whole))])] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            for chunk in open_source(path).chunks(3):
                next(chunk.load())
        except DataError:
            refused += 1
    assert refused
