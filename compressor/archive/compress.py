"""The verb ``compress``: images or vectors in, an archive out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Images, Pixels, Rows
from ..data.sources import open_source
from ..engine.job import Job, fitting
from ..errors import ConfigError
from ..files import refuse_input
from ..log import log
from ..report.rivals import compare as compare_rivals
from ..spec import DataSpec, VectorSpec, size_of
from .blocks import CodedImages, CodeGroup
from .writer import ArchiveWriter, PackedImages, pack_images


@dataclass(frozen=True)
class Compressed:
    """A chunk as blocks; where measured, with the sums over its numbers."""

    packed: PackedImages
    quality: Quality


@dataclass(frozen=True)
class Quality:
    """Sums over so many numbers: of squared errors, and of squares of the numbers themselves.

    Of images in grey levels; of vectors in standardised units, (value - mean) / scale.
    """

    squared_error: float = 0.0
    squares: float = 0.0
    elements: int = 0

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.squared_error + other.squared_error,
            self.squares + other.squares,
            self.elements + other.elements,
        )


def compress(
    data: str | Path | Rows,
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
    channels and images after rounding; of vectors for ``mse``, that of standardised values, and
    ``snr``, 10 log10 of their mean square over it, in dB. ``compare`` measures and then says what
    other codecs need for the same PSNR. Without ``embed`` the archive names its model by hash
    alone.

    Gives images, unreadable, raw_bytes, archive_bytes, model_bytes, items_bytes, payload_bytes,
    ideal_bytes, bits_per_pixel (of vectors: bits_per_value), seconds, device, and psnr (of vectors:
    mse and snr) if measured. Raises CompressorError.
    """
    refuse_input(Path(output), data, model)
    measure = measure or compare
    job = Job("compress", data, model, device)
    spec = job.model.spec
    if compare and isinstance(spec, VectorSpec):
        raise ConfigError("--compare is for images; these are vectors: leave it out")
    quality = Quality()

    def work(images: Images) -> Compressed:
        groups, found = [], Quality()
        for group in images.groups:
            height, width = size_of(group.pixels.shape[1:])
            codes = job.engine.encode(group.pixels)
            groups.append(CodeGroup(group.positions, height, width, codes))
            if measure:
                decoded = job.engine.decode(codes, height, width)
                found += _quality(spec, group.pixels, decoded)
        coded = CodedImages(images.names, groups, images.unreadable)
        return Compressed(pack_images(coded, job.model.prior), found)

    identity = {
        "source": job.source.fingerprint(),
        "images in a chunk": str(job.chunk),
    }
    with ArchiveWriter(
        Path(output), job.model, identity, force=force, resume=resume, embed=embed
    ) as writer:
        done = writer.consumed
        if done:
            log.info("resuming: %d %ss are in the archive already", done, spec.kind)
        # A PSNR is over all images, those of an earlier run included.
        position = 0 if measure else done
        for images, result in job.run(work, start=position, progress=progress):
            position += len(images.names)
            if position > done:
                writer.add(result.packed)
            quality += result.quality
    sizes = writer.sizes
    places = sizes.raw_bytes // spec.bytes_per_place
    unit = "value" if isinstance(spec, VectorSpec) else "pixel"
    summary = {
        **asdict(sizes),
        f"bits_per_{unit}": round(8 * sizes.archive_bytes / places, 5),
        **job.summary(),
        "images": writer.images,
        "unreadable": writer.unreadable.count,
    }
    if measure:
        summary |= _figures(spec, quality)
    if compare:
        log.info("comparing with other codecs")
        rivals = compare_rivals(_pixels(job, data), summary["psnr"] or math.inf)
        summary["compare"] = [
            {name: None if value == math.inf else value for name, value in vars(rival).items()}
            for rival in rivals
        ]
    return summary


def _quality(spec: DataSpec, original: Rows, decoded: Rows) -> Quality:
    if isinstance(spec, VectorSpec):
        mean, scale = np.array(spec.mean), np.array(spec.scale)
        difference, values = (original.astype(np.float64) - decoded) / scale, original - mean
        squares = float(np.square(values / scale).sum())
        return Quality(float(np.square(difference).sum()), squares, original.size)
    difference = original.astype(np.int32) - decoded
    return Quality(int(np.square(difference).sum(dtype=np.int64)), 0.0, original.size)


def _figures(spec: DataSpec, quality: Quality) -> dict[str, float | None]:
    """None, in dB, where nothing was lost; of vectors, also where it is no finite number."""
    error = quality.squared_error
    if isinstance(spec, VectorSpec):
        if not math.isfinite(error):
            return {"mse": None, "snr": None}
        known = error > 0 and quality.squares > 0
        snr = round(10 * math.log10(quality.squares / error), 4) if known else None
        return {"mse": error / quality.elements, "snr": snr}
    peak = 255**2 * quality.elements
    return {"psnr": round(10 * math.log10(peak / error), 4) if error else None}


def _pixels(job: Job, data: str | Path | Rows) -> Iterator[Pixels]:
    """The images that went into the archive, read again."""
    for chunk in open_source(data).chunks(job.chunk):
        for group in fitting(chunk.load(), job.model.spec).groups:
            yield from group.pixels
