"""The verb ``encode``: the latent codes themselves, for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.images import Data, Images
from ..data.npy import GrowingNpy
from ..errors import ConfigError
from ..files import atomic_file, refuse_elsewhere, refuse_existing, refuse_input
from .engine import Codes
from .job import Job

Made = TypeVar("Made")


def encode(
    data: Data,
    model: str | Path,
    output: str | Path,
    *,
    device: str = "auto",
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes the integer codes of ``data``: int32 (N, *code_shape) as .npy, or as .parquet.

    The Parquet file has the columns path and code (a list of int32, in C order) and takes images
    of any size; an .npy takes images of the size trained on, a row for each readable one in order.

    Returns images, unreadable, code_shape, seconds, device. Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output])
    output = Path(output)
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"{output}: codes are written as .npy or .parquet")
    refuse_input(output, data, model)
    refuse_existing(output, force)
    job = Job("encode", data, model, device)

    def work(images: Images) -> dict[int, Codes]:
        """The code of each readable image, by its position."""
        by_position: dict[int, Codes] = {}
        for group in images.groups:
            codes = job.engine.encode(group.pixels)
            by_position |= zip(group.positions.tolist(), codes, strict=True)
        return by_position

    with (
        atomic_file(output, force) as temporary,
        _codes_file(temporary, output.suffix, job.model.code.shape) as file,
    ):
        for images, codes in job.run(work, progress=progress):
            file.write(*readable(images.names, codes))
    return {"code_shape": list(job.model.code.shape), **job.summary()}


def readable(names: list[str], by_position: Mapping[int, Made]) -> tuple[list[str], list[Made]]:
    """Names of the readable images and what was made of each, in the order of the source."""
    places = sorted(by_position)
    return [names[place] for place in places], [by_position[place] for place in places]


class _CodesFile(Protocol):
    def write(self, names: list[str], codes: list[Codes]) -> None: ...


class _NpyCodes:
    def __init__(self, file: GrowingNpy, shape: tuple[int, ...]) -> None:
        self._file, self._shape = file, shape

    def write(self, names: list[str], codes: list[Codes]) -> None:
        for name, code in zip(names, codes, strict=True):
            if code.shape != self._shape:
                raise ConfigError(
                    f"{name} has a code of {code.shape}, and an .npy holds only codes of "
                    f"{self._shape}: write a .parquet"
                )
        if codes:
            self._file.append(np.stack(codes))


class _ParquetCodes:
    SCHEMA = pa.schema([("path", pa.string()), ("code", pa.list_(pa.int32()))])

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, names: list[str], codes: list[Codes]) -> None:
        if codes:
            flat = [code.ravel() for code in codes]
            self._writer.write_table(pa.table([pa.array(names), pa.array(flat)], self.SCHEMA))


@contextmanager
def _codes_file(path: Path, suffix: str, shape: tuple[int, ...]) -> Iterator[_CodesFile]:
    if suffix == ".npy":
        with GrowingNpy(path, shape, np.int32) as file:
            yield _NpyCodes(file, shape)
    else:
        with pq.ParquetWriter(path, _ParquetCodes.SCHEMA, compression="zstd") as writer:
            yield _ParquetCodes(writer)
