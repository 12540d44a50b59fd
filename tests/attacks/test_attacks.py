"""A few of the attacks, and what they check where a process of its own is not needed."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from compressor.errors import CompressorError, ModelError
from compressor.model import Model
from compressor.onnx_bytes import refuse_foreign
from compressor.untrusted import open_regular, plain_name, read_npz
from compressor.verbs import verify

from . import attacks, fuzz
from .flips import flip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
ALL = list(attacks.attacks())
# Harmless where they are not run: a verb that reads everything says so.
REFUSED_ON_OPENING = [
    attack
    for attack in ALL
    if attack.name.startswith(("model: a file", "model: zip, ", "model: shape", "model: stride"))
]


@pytest.mark.parametrize("attack", [a for a in ALL if a.quick], ids=lambda a: a.name)
def test_quick_attacks_are_refused_in_a_line(attack: attacks.Attack, tmp_path: Path) -> None:
    for verdict, line in attacks.run(
        attacks.dataclasses.replace(attack, verbs=attack.verbs[-1:]), tmp_path
    ):
        assert verdict == "clean", line


def test_parsers_take_or_refuse_what_was_changed_at_random(tmp_path: Path) -> None:
    for name, (seeds, parse, expected) in fuzz.parsers(tmp_path).items():
        assert not fuzz.fuzz(name, seeds, parse, expected, 0.3)


@pytest.mark.parametrize("attack", REFUSED_ON_OPENING, ids=lambda a: a.name)
def test_verify_names_what_is_wrong_with_a_manifest(attack: attacks.Attack, tmp_path: Path) -> None:
    target = shutil.copytree(attack.base, tmp_path / "inside" / "model")
    made = attack.make(target)
    report = verify(made if isinstance(made, Path) else target)
    assert not report["ok"] and all("\n" not in problem for problem in report["problems"])


@pytest.mark.parametrize("name", attacks.graphs())
def test_hostile_graphs_are_refused_or_their_answers_are(name: str, tmp_path: Path) -> None:
    content = attacks.graphs()[name]
    harmless = {"code of another shape", "float code", "another output", "a scalar", "a string",
                "two inputs"}  # fmt: skip
    if name in harmless:  # until they are run
        refuse_foreign(content, "encoder.onnx")
        target = shutil.copytree(attacks.MODEL, tmp_path / "model")
        attacks.put_file(target, "encoder.onnx", content)
        assert any("encoder.onnx" in problem for problem in verify(target)["problems"])
        return
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        refuse_foreign(content, "encoder.onnx")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/hostname", "a/b", "a\\b", "..", "C:x", ""])
def test_models_in_memory_have_plain_names_too(name: str, tmp_path: Path) -> None:
    contents = Model.open(attacks.MODEL).contents() | {name: b"evil"}
    with pytest.raises(ModelError, match="plain name"):
        Model.from_files(contents)
    with pytest.raises(ModelError, match="plain name"):
        Model.write(tmp_path / "inside" / "model", contents, force=False)
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_model_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(attacks.MODEL)
    assert verify(tmp_path / "link")["ok"]


def test_names_that_are_not_plain_are_refused() -> None:
    for name in ("encoder.onnx", "MODEL_CARD.md", "a b", "ä"):
        assert plain_name(name) == name
    for name in ("", ".", "..", "a/b", "a\\b", "C:", "a\0", "a\n", "\x1b[31m", "x" * 256, "\udc80"):
        with pytest.raises(ValueError):
            plain_name(name)


def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(__file__)
    with pytest.raises(OSError, match="link"):
        open_regular(tmp_path / "link")
    attacks.os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


@pytest.mark.parametrize("name", attacks.npz_files())
def test_hostile_npz_files_make_no_arrays(name: str) -> None:
    try:
        arrays = read_npz(attacks.npz_files()[name])
    except ValueError:
        return
    assert name in ("no arrays", "odd shapes", "strings")
    assert all(array.nbytes < 1000 for array in arrays.values())


def test_npz_files_come_back() -> None:
    arrays = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
        "c": np.float64(2),
    }
    read = read_npz(attacks.npz(**arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_a_field_with_a_longer_number_is_not_overlooked() -> None:
    """Readers cut keys to 32 bits: a tensor in another file could hide behind a longer one."""
    tensor = struct.pack("BB", 8 << 3 | 2, 1) + b"w" + b"\xf0\x80\x80\x80\x10\x01"  # 14 + 2**29
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    with pytest.raises(ModelError):
        refuse_foreign(b"\x3a" + bytes([len(graph)]) + graph, "encoder.onnx")


@pytest.mark.parametrize(
    ("path", "count"),
    [
        (attacks.GOLDEN / "3" / "archive", 25),
        (attacks.GOLDEN / "1-vectors" / "archive", 25),
        (attacks.GOLDEN / "2-fallback" / "archive", 25),
        (attacks.GOLDEN / "3-scores" / "model", 15),
    ],
    ids=["images", "vectors", "fallback", "model"],
)
def test_flipped_bits_are_found_and_give_no_wrong_pixels(path: Path, count: int) -> None:
    assert flip(path, seed=5, count=count) == []


def test_every_error_is_the_project_s() -> None:
    assert issubclass(ModelError, CompressorError)
