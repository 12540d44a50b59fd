"""The verb ``index``: vectors of a dataset, or of an archive's codes, in a folder to search in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..archive.reader import Archive
from ..data.images import Data
from ..engine.job import Job
from ..errors import ConfigError
from ..files import refuse_elsewhere, refuse_input
from ..log import log
from ..model import Model
from .folder import Index, IndexSource
from .inputs import ArchiveVectors, DataVectors
from .space import Space
from .writer import IndexWriter


def index(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    add: bool = False,
    metric: str = "auto",
    whitening: float | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes an index of ``data``, or of the codes of an archive, none of which is decoded.

    ``add``: to an index that is there, of the same model; ``force`` then replaces nothing, but
    gives up an addition that was cut short. ``resume`` goes on with a job that was cut short.

    ``metric``: "cosine" or "euclidean", and ``whitening``: the power, from 0 to 1, of the
    deviations that axes are divided by; "auto" and None choose what makes neighbours most reliable.

    Gives images (of all the index), added, dimensions, metric ("cosine" or "euclidean"), whitening,
    reliability (of ten neighbours by half
    of the code's numbers, the share that the other half has, too), unreadable, seconds, device.
    Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output])
    output, started = Path(output), time.monotonic()
    refuse_input(output, data, model)
    if add and (metric != "auto" or whitening is not None):
        raise ConfigError("metric and whitening are those of the index that is added to: leave out")
    opened = Model.open(model)
    earlier = Index.open(output) if add else None
    if earlier is not None:
        earlier.refuse_other(opened)
    space = earlier.space if earlier else Space.of(opened, metric, whitening)
    reader: ArchiveVectors | DataVectors
    archive = is_archive(data)
    if archive:
        reader = ArchiveVectors(Archive.open(data, opened), opened, device, space)
    else:
        reader = DataVectors(Job("index", data, model, device), space)
    source = IndexSource.of(data, output, archive)
    writer = IndexWriter(
        output,
        opened,
        space,
        source,
        reader.identity(),
        earlier=earlier,
        force=force,
        resume=resume,
    )
    with writer:
        if writer.consumed and not writer.complete:
            log.info("resuming: %d are in the index already", writer.consumed)
        for piece in () if writer.complete else reader.run(writer.consumed, progress):
            writer.add(piece)
    return {
        "images": sum(writer.manifest.parts),
        "added": writer.added,
        "dimensions": space.dimensions,
        "metric": space.metric,
        "whitening": space.power,
        "reliability": space.reliability,
        **reader.summary(),
        **writer.unreadable.summary(),
        "seconds": round(time.monotonic() - started, 3),
    }


def is_archive(data: Data) -> bool:
    if not isinstance(data, str | Path):
        return False
    return (Path(data) / "blocks").is_dir() and (Path(data) / "items").is_dir()
