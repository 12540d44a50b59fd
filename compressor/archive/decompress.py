"""The verb ``decompress``: an archive in, images or vectors out."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.images import Rows
from ..data.sinks import open_sink
from ..engine.engine import Engine
from ..engine.pipeline import in_order
from ..errors import ArchiveError, DataError, OutputError
from ..files import refuse_elsewhere, refuse_existing, refuse_input
from ..log import log
from ..manifests import HASH, MANIFEST
from ..model import Model
from ..progress import Progress
from ..spec import VectorSpec
from .pixels import decoded_images
from .reader import Archive, Segment


@dataclass(frozen=True)
class Decoded:
    """The images of a segment in order, and the names and reasons of those that are lost."""

    names: list[str]
    pixels: list[Rows]
    lost: list[tuple[str, str]]


def decompress(
    archive: str | Path,
    output: str | Path,
    *,
    only: str | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes the images of ``archive`` to a folder as PNG files, or to *.npy or *.parquet.

    Vectors go to *.npy, *.csv or *.parquet.

    ``only``: a glob over names; blocks without a match are not read. ``model``: a copy of the model
    that made the archive, where the one inside is missing or damaged. What damage leaves readable
    is written; the rest is named.

    Gives images, unreadable, damage, seconds, device. Raises CompressorError.
    """
    started = time.monotonic()
    refuse_elsewhere(archive, model, outputs=[output])
    output = Path(output)
    refuse_input(output, archive, model)
    if output.suffix in (".npy", ".parquet", ".csv"):
        refuse_existing(output, force)
    elif (output / MANIFEST).exists() and (output / HASH).exists():
        raise OutputError(
            f"{output} is a model or an archive, which more files would damage: give another folder"
        )
    opened = Archive.open(archive, None if model is None else Model.open(model))
    engine = Engine(opened.model, device)
    log.info("device: %s", engine.device)

    def work(segment: Segment) -> Decoded:
        images = decoded_images(segment.load(), engine)
        by_position: dict[int, Rows] = {}
        for group in images.groups:
            by_position |= zip(group.positions.tolist(), group.pixels, strict=True)
        places = sorted(by_position)
        lost = [(images.names[at], reason) for at, reason in sorted(images.unreadable.items())]
        return Decoded([images.names[p] for p in places], [by_position[p] for p in places], lost)

    spec, kind = opened.model.spec, opened.model.spec.kind
    vectors = spec if isinstance(spec, VectorSpec) else None
    images, lost = 0, []
    with (
        open_sink(output, opened.count, force, vectors) as sink,
        Progress("decompress", None if only else opened.count, shown=progress) as bar,
    ):
        for decoded in in_order(work, opened.segments(only)):
            sink.write(decoded.names, decoded.pixels)
            images += len(decoded.names)
            for reason, count in Counter(reason for _, reason in decoded.lost).items():
                log.warning("%d %ss %s", count, kind, reason)
            lost += decoded.lost
            bar.update(images + len(lost))
        if only is not None and not images and not lost:
            raise DataError(f"no {kind} in {archive} has a name that matches {only!r}")
        if lost and not images:
            raise ArchiveError(f"every {kind} of {archive} is lost; {' '.join(lost[0])}")
    for sentence in opened.damage:
        log.warning("damage: %s", sentence)
    return {
        "images": images,
        "unreadable": len(lost),
        "unreadable_names": [f"{name}: {reason}" for name, reason in lost],
        "damage": opened.damage,
        "seconds": round(time.monotonic() - started, 3),
        "device": engine.device.name,
    }
