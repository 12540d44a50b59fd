"""What a job leaves out or does not keep is said, in its summary and on stderr."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compressor.data.images import Pixels

from .command_line import OUTPUTS, READERS, run
from .files import save


@pytest.fixture
def folder(tmp_path: Path, clothes: Pixels) -> Path:
    """20 images and 3 other files."""
    folder = tmp_path / "images"
    for number, image in enumerate(clothes[:20]):
        save(folder / f"{number:02d}.png", image)
    for name in ("a.txt", "b.txt", "README"):
        (folder / name).write_text("text")
    (folder / ".hidden").write_text("text")
    return folder


@pytest.mark.parametrize("verb", READERS)
def test_other_files_of_a_folder_are_counted_and_pictures_among_them_make_exit_code_4(
    verb: str,
    folder: Path,
    tmp_path: Path,
    copy: Path,
    arguments: Callable[..., tuple[object, ...]],
    quick_end: None,
) -> None:
    output = tmp_path / OUTPUTS.get(verb, ["-"])[0]
    ran = run(*arguments(verb, output, folder, copy), "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["left_out"] == {".txt": 2, "(no suffix)": 1}
    assert ran.err.count("left out: 2 .txt, 1 (no suffix)\n") == 1

    (folder / "photo.heic").write_bytes(b"\0")
    force = () if verb == "calibrate" else ("--force",)
    ran = run(*arguments(verb, output, folder, copy), *force)
    assert ran.code == 4
    assert "left_out: 2 .txt, 1 (no suffix), 1 .heic\n" in ran.out


def test_what_an_archive_does_not_keep_is_said(
    tmp_path: Path, clothes: Pixels, model: Path
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    packed = tmp_path / "images.tar"
    with tarfile.open(packed, "w") as tar:
        for number, image in enumerate(clothes[:12]):
            file = io.BytesIO()
            options = {"exif": exif} if number < 5 else {}
            Image.fromarray(image[..., 0]).save(file, "PNG", icc_profile=b"grey", **options)
            for suffix, content in (("png", file.getvalue()), ("json", b"{}"), ("cls", b"7")):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    ran = run("compress", packed, "-m", model, "-o", tmp_path / "a", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["left_out"] == {".cls": 12, ".json": 12}
    assert told["not_kept"] == {"ICC": 12, "EXIF": 5, ".cls": 12, ".json": 12}
    assert ran.err.count("not kept: ICC of 12, EXIF of 5, 12 .cls, 12 .json\n") == 1
    ran = run("compress", packed, "-m", model, "-o", tmp_path / "a", "--force")
    assert "not_kept: 12 ICC, 5 EXIF, 12 .cls, 12 .json\n" in ran.out


def test_names_with_control_characters_are_escaped(
    tmp_path: Path, clothes: Pixels, model: Path
) -> None:
    images = tmp_path / "images"
    save(images / "a.png", clothes[0])
    (images / "b\x1b[31m\n.png").write_bytes(b"broken")
    ran = run("compress", images, "-m", model, "-o", tmp_path / "a")
    assert ran.code == 4 and "\x1b" not in ran.out + ran.err
    assert "skipped b\\x1b[31m\\n.png: is damaged" in ran.err
    assert "  b\\x1b[31m\\n.png: is damaged" in ran.out
    ran = run("inspect", tmp_path / "no\x1b[31m")
    assert ran.code == 1 and "no\\x1b[31m" in ran.error and "\x1b" not in ran.err
