"""Outputs in the way, full disks, interruptions: nothing half-written, nothing lost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.archive.writer import ArchiveWriter, PackedImages
from compressor.data.arrays import ArraySource
from compressor.data.images import Pixels
from compressor.errors import ConfigError
from compressor.files import refuse_elsewhere
from compressor.progress import Progress
from compressor.training import dataset as train_dataset

from .command_line import OUTPUTS, READERS, Ran, run
from .files import save, tree

AS_ROOT = os.name == "posix" and os.geteuid() == 0
WRITERS = ("train", "export", "encode", "compress", "decompress", "score")  # of a new output
EACH_OUTPUT = [(verb, name) for verb in WRITERS for name in OUTPUTS[verb]]


# Outputs


@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_output_that_exists_is_refused(
    verb: str,
    name: str,
    kind: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    output = tmp_path / name
    if kind == "file":
        output.write_bytes(b"mine")
    elif kind == "folder":
        output.mkdir()
        (output / "mine").write_bytes(b"mine")
    else:
        output.symlink_to("nowhere")
    before = tree(tmp_path)
    ran = run(*arguments(verb, output))
    assert ran.code == 1 and f"{output} exists" in ran.error and "--force" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", ["--heatmaps", "--report"])
def test_a_second_output_that_exists_is_refused(
    option: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    ran = run(*arguments("score", tmp_path / "r.parquet"), option, tmp_path / "there")
    assert ran.code == 1 and "there exists" in ran.error
    assert tree(tmp_path) == {"there": b"mine"}


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("train", ["-o"]),
        ("compress", ["-o"]),
        ("decompress", ["-o"]),
        ("export", ["-o"]),
        ("score", ["-o", "r.parquet", "--heatmaps"]),
    ],
)
def test_force_never_takes_a_folder_of_other_data(
    verb: str,
    options: list[str],
    tmp_path: Path,
    clothes: Pixels,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    save(tmp_path / "photos" / "precious.png", clothes[0])
    precious = tree(tmp_path)
    *given, _, _ = arguments(verb, tmp_path / "x")
    options = [str(tmp_path / o) if o == "r.parquet" else o for o in options]
    run(*given, *options, tmp_path / "photos", "--force")
    assert precious.items() <= tree(tmp_path).items()


def test_two_outputs_of_one_name_are_refused(
    tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    for option in ("--heatmaps", "--report"):
        output = tmp_path / "r.parquet"
        ran = run(*arguments("score", output), option, output)
        assert ran.code in (1, 2) and ran.error
        assert not tree(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_results_are_of_a_kind_that_can_be_read_again(
    suffix: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    """Parquet under another name is what ``inspect`` and people do not look for."""
    ran = run(*arguments("score", tmp_path / f"results{suffix}"))
    assert ran.code == 2 and ".parquet" in ran.error and ".csv" in ran.error
    assert not tree(tmp_path)


@pytest.mark.parametrize("where", ["below a file", "/proc"])
@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
def test_an_output_that_cannot_be_written_is_an_error_even_for_root(
    verb: str,
    name: str,
    where: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    if where == "below a file":
        (tmp_path / "file").write_bytes(b"mine")
        output = tmp_path / "file" / "deep" / name
    elif Path("/proc/self").exists():
        output = Path("/proc") / name
    else:
        pytest.skip("there is no /proc")
    before = tree(tmp_path)
    ran = run(*arguments(verb, output))
    assert ran.code == 1
    assert f"cannot write {output.parent}" in ran.error and "choose another output" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
def test_an_output_without_permission_is_an_error(
    verb: str, name: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    ran = run(*arguments(verb, tmp_path / "locked" / name))
    assert ran.code == 1 and "no permission to write there" in ran.error
    assert not list((tmp_path / "locked").iterdir())


# Places that are not files or folders of this machine

ADDRESSES = ("s3://bucket/x", "gs://b/x", "https://host/x", "file:///x", "memory://x")
PLACES = {
    "train": (1, ("--start",)),
    "export": (0, ()),
    "encode": (0, ("-m",)),
    "compress": (0, ("-m", "--measurements")),
    "decompress": (0, ("-m",)),
    "score": (0, ("-m", "--heatmaps", "--report", "--metrics")),
    "calibrate": (0, ()),
}


@pytest.mark.parametrize("address", [*ADDRESSES, "S3://b/x", "simplecache::s3://b/x"])
@pytest.mark.parametrize("verb", [*PLACES, "report", "inspect", "verify"])
def test_an_address_is_refused_wherever_a_path_is_given_and_no_folder_of_its_name_made(
    verb: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    monkeypatch.chdir(tmp_path)
    given: list[tuple[object, ...]] = []
    if verb in PLACES:
        position, options = PLACES[verb]
        plain = arguments(verb, tmp_path / OUTPUTS.get(verb, ["-"])[0])
        given = [(*plain, option, address) for option in options]
        given.append((*plain[: position + 1], address, *plain[position + 2 :]))
        if verb != "calibrate":
            given.append((*plain[:-1], address))
    else:
        more = ("data", "-o", "page.html") if verb == "report" else ()
        given = [(verb, address, *more)]
    for job in given:
        ran = run(*job)
        assert ran.code == 2, job
        assert f"{address} is an address, and addresses are not yet supported" in ran.error
        assert not tree(tmp_path), job


@pytest.mark.parametrize("path", ["a:/b", "./s3:/b", "set.npz::key", "/x/s3://b", "s3:", "s3"])
def test_paths_that_only_look_like_addresses_are_paths(path: str) -> None:
    refuse_elsewhere(path, outputs=[path])
    with pytest.raises(ConfigError, match="is an address"):
        refuse_elsewhere(Path("s3://bucket/x"))


@pytest.mark.parametrize("name", ["", "caf\udce9.parquet"])
@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_without_a_name_or_with_one_that_is_no_text_is_refused(
    verb: str, name: str, tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    ran = run(*arguments(verb, name))
    assert ran.code == 2 and ("is empty" if not name else "is not valid UTF-8") in ran.error
    assert not tree(tmp_path)


def test_images_are_not_put_into_a_model_or_an_archive(
    archive: Path, copy: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    ran = run("decompress", archive, "-o", copy, "--force")
    assert ran.code == 1 and "is a model or an archive" in ran.error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/fd/1", "/dev/null"])
@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_that_is_a_pipe_or_a_device_is_refused(
    verb: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments(verb, tmp_path)[:-1], place, "--force")
    assert ran.code == 2 and f"{place} is a pipe or a device" in ran.error
    assert "give the name of a new one" in ran.error
    assert not tree(tmp_path)


def test_data_from_a_pipe_are_refused(
    tmp_path: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    ran = run(*arguments("score", tmp_path / "r.csv", Path("-")))
    assert ran.code == 2 and "save the input as a file first" in ran.error


@pytest.mark.parametrize("verb", ["train", "encode", "compress", "score", "calibrate"])
def test_a_missing_input_is_said_not_to_exist(
    verb: str, tmp_path: Path, copy: Path, arguments: Callable[..., tuple[object, ...]]
) -> None:
    before = tree(tmp_path)
    output = tmp_path / OUTPUTS.get(verb, ["-"])[0]
    ran = run(*arguments(verb, output, tmp_path / "gone.npy", copy))
    assert ran.code == 1 and "gone.npy does not exist" in ran.error
    assert tree(tmp_path) == before


# What comes or changes while a job runs


@pytest.mark.parametrize(("verb", "name"), EACH_OUTPUT)
def test_an_output_that_comes_during_the_job_is_refused(
    verb: str,
    name: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, kept = tmp_path / name, {}

    def come() -> None:
        """Just before the rename."""
        if output.suffix:
            output.write_bytes(b"mine")
        elif not output.exists():
            output.mkdir()
            (output / "mine").write_bytes(b"mine")
        kept.update({path: content for path, content in tree(tmp_path).items() if path[0] != "."})

    monkeypatch.setattr("compressor.files.stop_if_caught", come)
    ran = run(*arguments(verb, output), *(("--set", "hidden=[]") if verb == "train" else ()))
    assert ran.code == 1 and f"{output} exists; give --force" in ran.error
    left = tree(tmp_path)
    assert kept and {path: left[path] for path in kept} == kept
    resumable = ("m.training", f"{name}.training", f".{name}.partial")
    assert all(path in kept or path.startswith(resumable) for path in left)


def change(path: Path) -> None:
    """Other values, the same size."""
    file = path / "0.png" if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("verb", READERS)
def test_a_source_that_changes_during_the_job_is_an_error_and_nothing_is_left(
    verb: str,
    kind: str,
    tmp_path: Path,
    clothes: Pixels,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "images" if kind == "folder" else tmp_path / "images.npy"
    if kind == "folder":
        for number, image in enumerate(clothes[:50]):
            save(source / f"{number}.png", image)
    else:
        np.save(source, clothes[:300])
    before = tree(tmp_path / "copy")
    decode = train_dataset._decode

    def changing(*given: Any) -> None:
        decode(*given)
        change(source)

    monkeypatch.setattr(train_dataset, "_decode", changing)
    monkeypatch.setattr(Progress, "update", lambda *_, **__: change(source))
    output = tmp_path / {"train": "m", "encode": "c.npy", "score": "r.csv"}.get(verb, "out")
    ran = run(*arguments(verb, output, source, copy))
    assert ran.code == 1 and f"{source} changed while it was read" in ran.error
    assert {entry.name for entry in tmp_path.iterdir()} == {"copy", source.name}
    assert tree(tmp_path / "copy") == before


# Full disks


@pytest.mark.parametrize(
    ("verb", "name", "limit"),
    [
        ("train", "m", 100_000),
        ("encode", "codes.npy", 4096),
        ("encode", "codes.parquet", 2048),
        ("compress", "a", 1024),
        ("decompress", "out", 256),
        ("decompress", "out.npy", 4096),
        ("decompress", "out.parquet", 4096),
        ("score", "r.parquet", 1024),
        ("score", "r.csv", 1024),
    ],
)
def test_a_file_that_cannot_grow_is_one_error_and_leaves_nothing(
    verb: str,
    name: str,
    limit: int,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
) -> None:
    command = [sys.executable, "-c", "from compressor.cli import main; main()"]
    done = subprocess.run(
        [*command, *map(str, arguments(verb, tmp_path / name))],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert ran.code == 1 and not ran.out
    assert f"cannot write {tmp_path}" in ran.error
    assert "the file would be larger than the system allows" in ran.error
    check_what_is_left(verb, tmp_path)


def check_what_is_left(verb: str, folder: Path) -> None:
    """Nothing, or what --resume takes: a checkpoint, or finished parts in a hidden folder."""
    left = tree(folder)
    if verb == "train" and left:
        assert all(path.partition("/")[0] == "m.training" for path in left)
        assert "m.training/checkpoint.pt" in left
        assert not [path for path in left if "partial" in path]
    elif verb == "compress" and left:
        assert all(path.partition("/")[0] == ".a.partial" for path in left)
        assert ".a.partial/archive/items/part-00000.parquet" in left
    else:
        assert not left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many KiB, mounted for the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(kibibytes: int) -> Path:
        if not AS_ROOT or sys.platform != "linux":
            pytest.skip("mounting a file system takes root on Linux")
        options = ["-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    ("verb", "name", "kibibytes"),
    [
        ("train", "m", 100),  # the decoded images
        ("train", "m", 1000),  # the first checkpoint
        ("export", "graphs", 64),
        ("encode", "codes.npy", 4),
        ("encode", "codes.parquet", 4),
        ("compress", "a", 8),
        ("compress", "a", 32),
        ("decompress", "out", 64),
        ("decompress", "out.npy", 64),
        ("decompress", "out.parquet", 32),
        ("score", "r.parquet", 4),
        ("score", "r.csv", 4),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_nothing(
    verb: str,
    name: str,
    kibibytes: int,
    small_disk: Callable[[int], Path],
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    disk = small_disk(kibibytes)
    ran = run(*arguments(verb, disk / name))
    assert ran.code == 1 and not ran.out
    assert f"cannot write {disk}" in ran.error and "the disk is full" in ran.error
    check_what_is_left(verb, disk)


def test_a_model_for_which_the_disk_has_no_room_can_be_had_with_resume(
    small_disk: Callable[[int], Path],
    clothes: Pixels,
    tmp_path: Path,
    quick_end: None,
) -> None:
    disk, data = small_disk(1000), tmp_path / "clothes.npy"
    np.save(data, clothes[:200])
    (disk / "other").write_bytes(bytes(600_000))
    settings = ("--set", "network=dense", "--set", "hidden=[]", "--set", "latent=1")
    train = ("train", "undercomplete", data, "-o", disk / "m", "--max-steps", "2", *settings)
    with (disk / "other").open("ab") as file:  # leaves room for the training, not for the model
        file.write(bytes(130_000))
    ran = run(*train)
    assert ran.code == 1 and "the disk is full" in ran.error
    assert {path.name for path in disk.iterdir()} == {"other", "m.training"}
    assert (disk / "m.training" / "checkpoint.pt").exists()
    (disk / "other").unlink()
    assert run(*train, "--resume").code == 0
    assert [path.name for path in disk.iterdir()] == ["m"]


def test_a_full_disk_while_calibrating_leaves_the_model_as_it_was(
    small_disk: Callable[[int], Path], model: Path, clothes: Pixels, tmp_path: Path
) -> None:
    size = sum(file.stat().st_size for file in model.iterdir())
    disk = small_disk(size * 3 // 2 // 1024)
    shutil.copytree(model, disk / "m")
    np.save(tmp_path / "images.npy", clothes[:50])
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    before = tree(disk)
    ran = run("calibrate", disk / "m", tmp_path / "images.npy")
    assert ran.code == 1 and "the disk is full" in ran.error
    assert tree(disk) == before


def test_heat_maps_and_a_report_without_room_leave_nothing(
    small_disk: Callable[[int], Path], arguments: Callable[..., tuple[object, ...]]
) -> None:
    disk = small_disk(64)
    score = (*arguments("score", disk / "r.parquet")[:-4], "--threshold", "0", "-o")
    for option in ("--heatmaps", "--report"):
        ran = run(*score, disk / "r.parquet", option, disk / "more")
        assert ran.code == 1 and "the disk is full" in ran.error
        assert all(path.startswith(".r.parquet.partial") for path in tree(disk))


# Interruptions


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    ids=["ctrl-c", "kill", "lost terminal"],
)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("train", "m"),
        ("encode", "codes.npy"),
        ("compress", "a"),
        ("decompress", "out"),
        ("decompress", "out.npy"),
        ("decompress", "out.parquet"),
        ("score", "r.parquet"),
        ("calibrate", "-"),
    ],
)
def test_an_interrupted_job_leaves_nothing_under_the_final_name(
    verb: str,
    name: str,
    number: signal.Signals,
    tmp_path: Path,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = tree(tmp_path)
    earlier = signal.getsignal(number)
    monkeypatch.setattr(Progress, "update", lambda *_, **__: signal.raise_signal(number))
    given = arguments(verb, tmp_path / name, model=copy)
    ran = run(*given, *(("--set", "hidden=[]") if verb == "train" else ()))
    assert ran.code == 1 and not ran.out
    assert "interrupted" in ran.error
    left = {path: content for path, content in tree(tmp_path).items() if path not in before}
    assert all(verb == "train" and path.startswith("m.training") for path in left)
    assert before.items() <= tree(tmp_path).items()
    assert signal.getsignal(number) is earlier


@pytest.mark.parametrize("verb", READERS)
def test_an_interruption_that_a_library_swallows_still_ends_the_job(
    verb: str,
    tmp_path: Path,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As PyArrow's import of pandas does, when Ctrl-C falls into it."""
    fingerprint, before = ArraySource.fingerprint, tree(copy)
    raise_signal = once(signal.raise_signal)

    def swallow(source: ArraySource) -> str:
        with contextlib.suppress(KeyboardInterrupt):
            raise_signal(signal.SIGINT)
        return fingerprint(source)

    monkeypatch.setattr(ArraySource, "fingerprint", swallow)
    output = tmp_path / {"train": "m", "encode": "c.npy", "score": "r.csv"}.get(verb, "out")
    ran = run(*arguments(verb, output, model=copy))
    assert ran.code == 1 and "interrupted" in ran.error
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left <= {"copy", "m.training"} and tree(copy) == before


@pytest.mark.parametrize("verb", ["encode", "export"])
def test_an_interruption_that_is_swallowed_late_keeps_the_output_from_its_name(
    verb: str,
    tmp_path: Path,
    arguments: Callable[..., tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swallow(path: Path) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            raise_signal(signal.SIGINT)

    raise_signal = once(signal.raise_signal)
    monkeypatch.setattr("compressor.files.sync", swallow)
    ran = run(*arguments(verb, tmp_path / "out.npy"))
    assert ran.code == 1 and "interrupted" in ran.error and not tree(tmp_path)


def once(function: Callable[..., None]) -> Callable[..., None]:
    """The function the first time, and then nothing."""
    calls = iter([function])
    return lambda *given: next(calls, lambda *_: None)(*given)


WAITING = """
import signal, sys, time
from compressor.interrupts import interruptible

with interruptible():
    ignored = [signal.getsignal(number) is signal.SIG_IGN for number in (1, 2, 15)]
    while True:
        try:
            print(*ignored, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("swallowed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_at_once_what_the_first_did_not(number: signal.Signals) -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert process.stdout.readline() == "swallowed\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number


def test_signals_that_the_parent_ignores_stay_ignored() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignore) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True True False\n"
        process.kill()


@pytest.mark.parametrize("options", [(), ("--measure",)], ids=["", "measured"])
def test_a_job_that_stopped_inside_of_a_chunk_resumes_to_the_same_bytes(
    options: tuple[str, ...],
    model: Path,
    clothes: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large images after a small one come in pieces, and a part may end with any of them."""
    monkeypatch.setattr("compressor.data.decode.CHUNK_BYTES", 3 * 56**2)
    monkeypatch.setattr("compressor.archive.writer.PART_IMAGES", 6)
    for number, image in enumerate(clothes[:20]):
        large = image.repeat(2, axis=0).repeat(2, axis=1)
        save(tmp_path / "images" / f"{number:02d}.png", large if number else image)

    def compress(name: str, *more: str) -> Ran:
        return run("compress", tmp_path / "images", "-m", model, "-o", tmp_path / name, *more)

    assert compress("whole", *options).code == 0
    add = ArchiveWriter.add

    def failing(writer: ArchiveWriter, packed: PackedImages) -> None:
        if packed.names[0] == "12.png":
            raise KeyboardInterrupt
        add(writer, packed)

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "add", failing)
        assert "interrupted" in compress("a").error
    assert len(list(tmp_path.glob(".a.partial/archive/items/*"))) == 1
    assert compress("a", "--resume", *options).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")
