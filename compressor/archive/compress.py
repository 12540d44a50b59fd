"""The verb ``compress``: images or vectors in, an archive out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..codecs.quality import psnr, structural_similarity
from ..codecs.rivals import compare as compare_rivals
from ..data.images import Data, Group, Images, Pixels
from ..data.left_out import left_out, listed
from ..data.sources import open_source
from ..data.tables import refuse_table, table_file
from ..engine.engine import Engine
from ..engine.job import Job
from ..entropy.tables import Tables
from ..errors import ConfigError, MissingDependency
from ..files import refuse_elsewhere, refuse_input
from ..log import log
from ..spec import DataSpec, VectorSpec, size_of
from .blocks import MODEL, CodedImages, CodeGroup
from .fallback import FALLBACKS, Fallback
from .fallback_blocks import StoredGroup
from .measurements import MEASUREMENTS, ImageQuality, Quality, Rebuilt, VectorQuality
from .verdict import our_row, row_of, verdict
from .writer import ArchiveWriter, PackedImages, pack_images


@dataclass(frozen=True)
class Compressed:
    """Some images as blocks; where they are measured, with what Quality.measure found."""

    packed: PackedImages
    measures: Any  # of Quality.measure


@dataclass(frozen=True)
class Compression:
    """How images become blocks; ``blocks`` may run in any thread.

    fallback: what stores images that the model rebuilds badly, or None; quality: what measures how
    well images come back, or None.
    """

    engine: Engine
    prior: Tables
    fallback: Fallback | None
    quality: Quality | None

    def blocks(self, images: Images) -> Compressed:
        """The images in blocks: by the model, or by the fallback."""
        groups: list[CodeGroup] = []
        stored: list[StoredGroup] = []
        rebuilt: list[Rebuilt] = []
        for group in images.groups:
            height, width = size_of(group.pixels.shape[1:])
            codes = self.engine.encode(group.pixels)
            kept = np.ones(len(codes), bool)
            if self.fallback is not None or self.quality is not None:
                decoded = self.engine.decode(codes, height, width)
                if self.fallback is not None:
                    kept = psnr(group.pixels, decoded) >= self.fallback.min_psnr
                    bad = Group(group.positions[~kept], group.pixels[~kept])
                    files = self.fallback.store(bad)
                    stored += files
                    rebuilt += [Rebuilt(f.positions, f.codec, f.originals, f.pixels) for f in files]
                rebuilt.append(
                    Rebuilt(group.positions[kept], MODEL, group.pixels[kept], decoded[kept])
                )
            if kept.any():
                groups.append(CodeGroup(group.positions[kept], height, width, codes[kept]))
        coded = CodedImages(images.names, groups, images.unreadable)
        measures = self.quality.measure(images.names, rebuilt) if self.quality else None
        return Compressed(pack_images(coded, self.prior, stored), measures)


def compress(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    measure: bool = False,
    measurements: str | Path | None = None,
    min_psnr: float | None = None,
    fallback: str | None = None,
    compare: bool = False,
    embed: bool = True,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Compresses ``data`` into the archive ``output``; ``resume`` goes on with a job cut short.

    ``min_psnr``: an image that comes back from the model with a lower PSNR, in dB, is stored by
    ``fallback`` instead: webp-lossless (the default), webp, jpegxl-lossless or jpegxl. What counts
    are the pixels that come back, after rounding, on this device.

    ``measure`` decodes too. Of images it gives ``psnr``, 10 log10(255^2 / MSE) in dB, pooled over
    all pixels, channels and images after rounding; over the images' own PSNR ``psnr_mean``, without
    those that came back exactly, which are counted as ``exact_images``, and ``psnr_min``; and over
    their SSIM (Wang et al. 2004) ``ssim``, the mean, and ``ssim_min``, None without scikit-image.
    Of vectors it gives ``mse``, that of standardised values, and ``snr``, 10 log10 of their mean
    square over it, in dB.
    ``measurements``: a .parquet or .csv with a row an image, path, psnr, ssim and codec.
    ``compare`` measures and then says what other codecs need for the same PSNR. Without ``embed``
    the archive names its model by hash alone.

    Gives images, unreadable, source_bytes (of the data as they were stored; None of arrays in
    memory), raw_bytes, archive_bytes, model_bytes, items_bytes, payload_bytes, ideal_bytes,
    fallback_images, fallback_bytes (of the payload), bits_per_pixel (of vectors: bits_per_value),
    left_out (other files of the source, by suffix), not_kept (how many images have EXIF and the
    like, and those files), verdict (whether the archive is worth it, in sentences), seconds,
    device, and what was measured. Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output, measurements])
    output = Path(output)
    refuse_input(output, data, model)
    table = None if measurements is None else Path(measurements)
    if table is not None:
        _refuse_table(table, output, data, model, force)
    if fallback is not None and min_psnr is None:
        raise ConfigError(f"fallback={fallback} stores images below min_psnr: give that, too")
    store = None if min_psnr is None else Fallback(fallback or FALLBACKS[0], min_psnr)
    job = Job("compress", data, model, device)
    job.model.refuse_without_decoder()
    spec = job.model.spec
    if isinstance(spec, VectorSpec):
        _refuse_for_vectors(compare=compare, min_psnr=min_psnr, measurements=measurements)
    quality = _quality(spec) if measure or compare or table is not None else None
    compression = Compression(job.engine, job.model.prior, store, quality)
    identity = {
        "source": job.fingerprint,
        "images in a chunk": str(job.chunk),
    }
    if store is not None:
        identity |= {"min-psnr": str(store.min_psnr), "fallback": store.name}
    writer = ArchiveWriter(output, job.model, identity, force=force, resume=resume, embed=embed)
    with ExitStack() as outputs:
        rows = outputs.enter_context(table_file(table, MEASUREMENTS, force)) if table else None
        outputs.enter_context(writer)
        for compressed in _compressed(job, compression, writer, progress):
            if rows is not None:
                rows.write_table(compressed.measures.table())
    summary = _summary(job, writer)
    if summary["not_kept"]:
        log.warning("not kept: %s", _said(job, summary["left_out"]))
    if quality is not None:
        summary |= quality.figures()
    if compare:
        log.info("comparing with other codecs")
        rivals = compare_rivals(_pixels(job, data), summary["psnr"] or math.inf)
        summary["compare"] = [our_row(summary), *map(row_of, rivals)]
    return summary | {"verdict": list(verdict(summary))}


def _compressed(
    job: Job, compression: Compression, writer: ArchiveWriter, progress: bool
) -> Iterator[Compressed]:
    """Puts all images into the archive, but for those that an earlier run has put there."""
    done = writer.consumed
    if done:
        log.info("resuming: %d %ss are in the archive already", done, job.model.spec.kind)
    # What is measured is all images, those of an earlier run included. Else it begins with a
    # chunk, for pieces to end where they did in the earlier run.
    position = 0 if compression.quality else done - done % job.chunk
    for images, compressed in job.run(compression.blocks, start=position, progress=progress):
        position += len(images.names)
        if position > done:
            writer.add(compressed.packed)
        if compression.quality:
            compression.quality.add(compressed.measures)
        yield compressed


def _summary(job: Job, writer: ArchiveWriter) -> dict[str, Any]:
    """What a job has written, measures apart."""
    sizes, spec = writer.sizes, job.model.spec
    unit = "value" if isinstance(spec, VectorSpec) else "pixel"
    places = sizes.raw_bytes // spec.bytes_per_place
    return {
        "source_bytes": job.source.bytes_on_disk(),
        **asdict(sizes),
        f"bits_per_{unit}": round(8 * sizes.archive_bytes / places, 5),
        **job.summary(),
        "not_kept": dict(job.not_kept.most_common()) | left_out(job.source),
        "images": writer.images,
        "unreadable": writer.unreadable.count,
    }


def _said(job: Job, others: Mapping[str, int]) -> str:
    """What an archive does not keep, as a line names it: "EXIF of 12, 12 .json"."""
    of_images = [f"{name} of {count:,}" for name, count in job.not_kept.most_common()]
    return ", ".join([*of_images, *filter(None, [listed(others)])])


def _quality(spec: DataSpec) -> Quality:
    """What measures such data; without scikit-image that is PSNR alone."""
    if isinstance(spec, VectorSpec):
        return VectorQuality(spec)
    try:
        structural_similarity()
    except MissingDependency as error:
        log.warning("%s; PSNR is measured without", error)
        return ImageQuality(similarity=False)
    return ImageQuality()


def _refuse_for_vectors(**settings: object) -> None:
    """Raises ConfigError if one of these settings, which are for images, is given."""
    for name, value in settings.items():
        if value is not None and value is not False:
            raise ConfigError(f"{name}={value} is for images; these are vectors: leave it out")


def _refuse_table(table: Path, output: Path, data: Data, model: str | Path, force: bool) -> None:
    """Raises ConfigError or OutputError for a file of measurements that cannot be written."""
    inside = output.absolute().resolve()
    if inside in (table.absolute().resolve(), *table.absolute().resolve().parents):
        raise ConfigError(f"measurements={table}: give a file outside of the archive {output}")
    refuse_table("measurements", table, force, data, model)


def _pixels(job: Job, data: Data) -> Iterator[Pixels]:
    """The images that went into the archive, read again."""
    for chunk in open_source(data).chunks(job.chunk):
        for images in job.load(chunk):
            for group in images.groups:
                yield from group.pixels
