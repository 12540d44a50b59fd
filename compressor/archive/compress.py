"""The verb ``compress``: images in, an archive out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Images, Pixels
from ..data.sources import open_source
from ..engine.job import Job, fitting
from ..files import refuse_input
from ..log import log
from ..report.rivals import compare as compare_rivals
from .blocks import CodedImages, CodeGroup
from .writer import ArchiveWriter, PackedImages, pack_images


@dataclass(frozen=True)
class Compressed:
    """A chunk as blocks; where measured, with its squared error over so many numbers."""

    packed: PackedImages
    squared_error: int
    elements: int


def compress(
    data: str | Path | Pixels,
    model: str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    measure: bool = False,
    compare: bool = False,
    embed: bool = True,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Compresses ``data`` into the archive ``output``; ``resume`` goes on with a job cut short.

    ``measure`` decodes too, for the PSNR: 10 log10(255^2 / MSE) in dB, pooled over all pixels,
    channels and images after rounding. ``compare`` measures and then says what other codecs need
    for the same PSNR. Without ``embed`` the archive names its model by hash alone.

    Gives images, unreadable, raw_bytes, archive_bytes, model_bytes, items_bytes, payload_bytes,
    ideal_bytes, bits_per_pixel, seconds, device, and psnr if measured. Raises CompressorError.
    """
    refuse_input(Path(output), data, model)
    measure = measure or compare
    job = Job("compress", data, model, device)
    squared_error = elements = 0

    def work(images: Images) -> Compressed:
        groups, error, count = [], 0, 0
        for group in images.groups:
            height, width = group.pixels.shape[1:3]
            codes = job.engine.encode(group.pixels)
            groups.append(CodeGroup(group.positions, height, width, codes))
            if measure:
                error += _squared_error(group.pixels, job.engine.decode(codes, height, width))
                count += group.pixels.size
        coded = CodedImages(images.names, groups, images.unreadable)
        return Compressed(pack_images(coded, job.model.prior), error, count)

    identity = {
        "source": job.source.fingerprint(),
        "images in a chunk": str(job.chunk),
    }
    with ArchiveWriter(
        Path(output), job.model, identity, force=force, resume=resume, embed=embed
    ) as writer:
        done = writer.consumed
        if done:
            log.info("resuming: %d images are in the archive already", done)
        # A PSNR is over all images, those of an earlier run included.
        position = 0 if measure else done
        for images, result in job.run(work, start=position, progress=progress):
            position += len(images.names)
            if position > done:
                writer.add(result.packed)
            squared_error += result.squared_error
            elements += result.elements
    sizes = writer.sizes
    pixels = sizes.raw_bytes // job.model.spec.channels
    summary = {
        **asdict(sizes),
        "bits_per_pixel": round(8 * sizes.archive_bytes / pixels, 5),
        **job.summary(),
        "images": writer.images,
        "unreadable": writer.unreadable.count,
    }
    if measure:
        summary["psnr"] = _psnr(squared_error, elements)
    if compare:
        log.info("comparing with other codecs")
        rivals = compare_rivals(_pixels(job, data), summary["psnr"] or math.inf)
        summary["compare"] = [
            {name: None if value == math.inf else value for name, value in vars(rival).items()}
            for rival in rivals
        ]
    return summary


def _squared_error(original: Pixels, decoded: Pixels) -> int:
    difference = original.astype(np.int32) - decoded
    return int(np.square(difference).sum(dtype=np.int64))


def _psnr(squared_error: int, elements: int) -> float | None:
    """In dB; None where nothing was lost."""
    if squared_error == 0:
        return None
    return round(10 * math.log10(255**2 * elements / squared_error), 4)


def _pixels(job: Job, data: str | Path | Pixels) -> Iterator[Pixels]:
    """The images that went into the archive, read again."""
    for chunk in open_source(data).chunks(job.chunk):
        for group in fitting(chunk.load(), job.model.spec).groups:
            yield from group.pixels
