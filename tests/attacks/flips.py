"""Flips bits and cuts files of archives and models, at random: nothing wrong may come out unsaid.

    python tests/attacks/flips.py SEED COUNT [PATH...]

PATH: archives and models, by default those of tests/golden. Each change is tried alone, in this
process: verify has to find it, and what is read in spite of it has to be right, or named as lost.
Prints what happened how often for each path, then every failure; the exit code says whether there
were any.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from compressor import verbs
from compressor.archive.pixels import decoded_images
from compressor.archive.reader import Archive
from compressor.engine.engine import Engine
from compressor.errors import CompressorError
from compressor.model import Model

GOLDEN = Path(__file__).parents[1] / "golden"
CUTS = 0.2  # of all changes


def read(path: Path, engine: Engine | None = None) -> tuple[list[bytes], dict[str, bytes], bool]:
    """All inputs that an archive gives, those by name, and whether it says that it is whole."""
    archive = Archive.open(path)
    if engine is None or archive.model.digest != engine._model.digest:  # type: ignore[attr-defined]
        engine = Engine(archive.model, "cpu")
    every, by_name, whole = [], {}, True
    for segment in archive.segments():
        images = decoded_images(segment.load(), engine)
        whole &= not images.unreadable
        for group in images.groups:
            for position, pixels in zip(group.positions.tolist(), group.pixels, strict=True):
                every.append(pixels.tobytes())
                by_name[images.names[position]] = pixels.tobytes()
    return every, by_name, whole and not archive.damage


def wrong(path: Path, sound: object, engine: Engine | None) -> str | None:
    """What a changed archive or model gives that it should not; None if all is well."""
    try:
        found = not verbs.verify(path)["ok"]
    except CompressorError:
        found = True
    try:
        if isinstance(sound, dict):
            contents = Model.open(path).contents()
            different = any(contents.get(name) != content for name, content in sound.items())
            return "another content" if different else None
        assert isinstance(sound, tuple)
        every, by_name, whole = read(path, engine)
    except CompressorError:
        return None if found else "refused, and verify found nothing"
    expected, names = Counter(sound[0]), sound[1]
    if Counter(every) - expected:
        return "wrong pixels"
    known = {name: pixels for name, pixels in by_name.items() if not name.startswith("damaged-")}
    if any(names.get(name) != pixels for name, pixels in known.items()):
        return "a wrong name"
    if whole and len(every) < len(sound[0]):
        return "images are lost without a word"
    return None if found else "verify found nothing"


def changes(seed: int, files: list[Path], count: int) -> Iterator[tuple[Path, bytes, str]]:
    """``count`` changes of files: which, its new content, and what was done."""
    drawn = random.Random(seed)
    sizes = [file.stat().st_size for file in files]
    for number in range(count):
        # Large and small files alike: the small ones have the structure.
        file = drawn.choice(files) if number % 2 else drawn.choices(files, sizes)[0]
        content = bytearray(file.read_bytes())
        if not content:
            continue
        if drawn.random() < CUTS:
            end = drawn.randrange(len(content))
            yield file, bytes(content[:end]), f"cut to {end} bytes"
            continue
        bit = drawn.randrange(8 * len(content))
        content[bit >> 3] ^= 1 << (bit & 7)
        yield file, bytes(content), f"bit {bit}"


def flip(path: Path, seed: int, count: int) -> list[str]:
    """Tries ``count`` changes of a copy of an archive or a model; a line for each failure."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(path, Path(folder) / path.name)
        archive = (copy / "blocks").is_dir()
        sound: object = read(copy) if archive else Model.open(copy).contents()
        engine = Engine(Archive.open(copy).model, "cpu") if archive else None
        files = sorted(file for file in copy.rglob("*") if file.is_file())
        for file, content, done in changes(seed, files, count):
            before = file.read_bytes()
            file.write_bytes(content)
            try:
                problem = wrong(copy, sound, engine)
            except Exception as error:  # whatever is raised here is what flips are to find
                problem = repr(error)
            file.write_bytes(before)
            if problem:
                failures.append(f"{file.relative_to(copy)}, {done}: {problem}")
    return failures


def main(seed: int, count: int, paths: list[Path]) -> int:
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    failed = 0
    for path in paths:
        failures = flip(path, seed, count)
        print(f"{path}: {count} changes, {len(failures)} failures", *failures, sep="\n", flush=True)
        failed += len(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[3:]]
    both = [*sorted(GOLDEN.glob("*/archive")), *sorted(GOLDEN.glob("*/model"))]
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), given or both))
