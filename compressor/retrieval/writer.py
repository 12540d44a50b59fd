"""Writes an index part by part, in ``.NAME.partial/index``; resume.py says how a job goes on.

A new index is renamed to NAME at last. An addition's parts are linked into the index that is there,
where they count once its manifest, which is replaced in one step, names them.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ..data.images import Unreadable
from ..errors import DataError, OutputError
from ..files import (
    output_errors,
    refuse_existing,
    refuse_irreplaceable,
    replace_folder,
    sync,
    write_together,
)
from ..manifests import HASH, MANIFEST, FileEntry
from ..model import Model
from ..resume import Ledger, Unfinished
from .cells import JUDGED, MIN_ROWS, NEAREST, ROWS_A_CELL, SAMPLE_A_CELL, Cells
from .folder import (
    CELLS,
    ENCODER,
    FORMAT,
    MAX_PART_ROWS,
    MAX_PARTS,
    NAMES,
    SPACE,
    Index,
    IndexManifest,
    IndexSource,
    cell_file,
    part_files,
    remove_strays,
)
from .inputs import Piece
from .nearest import nearest
from .space import Space, Vectors

PART_NUMBERS = 1 << 22  # of a part's vectors together: 16 MiB
PART_ROWS = MAX_PART_ROWS


class IndexLedger(Ledger):
    """The rows of each finished part, and what was left out."""

    parts: tuple[int, ...] = ()
    unreadable: Unreadable = Unreadable()


class IndexWriter:
    """Writes an index to ``path``, or adds to ``earlier``, the one that is there.

    ``job`` says what the vectors are made from. With ``resume`` the job that was cut short goes on:
    the first ``consumed`` inputs of the source are to be left out. With ``complete`` there is none
    left: an addition was killed when it already counted.

    ``manifest`` is there after the ``with`` block. Raises OutputError if ``path`` cannot be written
    or the job cannot go on.
    """

    manifest: IndexManifest

    def __init__(
        self,
        path: Path,
        model: Model,
        space: Space,
        source: IndexSource,
        job: Mapping[str, str],
        *,
        earlier: Index | None,
        force: bool,
        resume: bool,
    ) -> None:
        self._model, self._space, self._source = model, space, source
        self._earlier, self._force, self._resume = earlier, force, resume
        onto = earlier.digest if earlier else "nothing"
        ledger = IndexLedger(job={**job, "model": model.digest, "index": onto})
        # Of several names of one index, links, one: that of the folder that is locked.
        path = path.resolve() if earlier else path
        self._work = Unfinished(path, "index", ledger, model.spec.kind)
        self.path, self._folder = self._work.path, self._work.folder
        self._rows = max(1, min(PART_ROWS, PART_NUMBERS // space.dimensions))
        self._names: list[str] = []
        self._numbers: list[int] = []
        self._vectors: list[Vectors] = []
        self.complete = False

    @property
    def _ledger(self) -> IndexLedger:
        return self._work.ledger

    @property
    def consumed(self) -> int:
        """How many inputs of the source are done, unreadable ones included."""
        return self._ledger.consumed

    @property
    def added(self) -> int:
        """How many inputs the finished parts hold, those of the job's earlier runs included."""
        return sum(self._ledger.parts)

    @property
    def unreadable(self) -> Unreadable:
        """The inputs left out, those of the job's earlier runs included."""
        return self._ledger.unreadable

    def __enter__(self) -> IndexWriter:
        if self._earlier is None:
            refuse_existing(self.path, self._force)
        with output_errors(self.path):
            counted = self._counted()
            discard = self._force or counted is not None
            self._work.open(resume=self._resume and counted is None, discard=discard)
            try:
                self._prepare()
            except BaseException:
                self._work.close()
                raise
            if counted is not None and self._resume:
                self._work.ledger, self.complete = counted, True
        return self

    def _prepare(self) -> None:
        remove_strays(self.path)
        if self._earlier is None:
            refuse_irreplaceable(self.path, self._force, FORMAT)
        elif Index.open(self.path).digest != self._earlier.digest:
            raise OutputError(f"{self.path} was changed meanwhile; run the command again")

    def _counted(self) -> IndexLedger | None:
        """The ledger of an addition that was killed after its parts had come to count."""
        if self._earlier is None:
            return None
        try:
            text = (self._work.partial / "job.json").read_bytes()
            ledger = IndexLedger.model_validate_json(text)
        except (OSError, ValidationError):
            return None
        known = self._earlier.manifest.files
        return ledger if ledger.files and ledger.files.items() <= known.items() else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with output_errors(self.path):
            try:
                if kind is None:
                    self._finish()
            finally:
                self._work.close()

    def add(self, piece: Piece) -> None:
        """Adds the next inputs of the source."""
        with output_errors(self.path):
            if len(self._names) + len(piece.names) > self._rows:
                self._finish_parts()
        ledger = self._ledger
        self._names += piece.names
        self._numbers += [ledger.consumed + at for at in piece.positions]
        self._vectors += piece.vectors
        self._note(
            consumed=ledger.consumed + piece.count,
            unreadable=ledger.unreadable.plus(piece.unreadable),
        )

    def _note(self, **changes: object) -> None:
        self._work.ledger = self._ledger.model_copy(update=changes)

    def _finish_parts(self) -> None:
        """Writes what has come: one part, or several where a single piece was more than one."""
        if not self._names:
            return
        for start in range(0, len(self._names), self._rows):
            self._write_part(slice(start, start + self._rows))
        self._names, self._numbers, self._vectors = [], [], []
        self._work.save()

    def _write_part(self, rows: slice) -> None:
        ledger = self._ledger
        part = len(ledger.parts) + (len(self._earlier.manifest.parts) if self._earlier else 0)
        if part >= MAX_PARTS:
            raise OutputError(f"{self.path} has {MAX_PARTS:,} parts, and takes no more")
        array, table = io.BytesIO(), io.BytesIO()
        vectors = np.stack(self._vectors[rows])
        np.save(array, vectors, allow_pickle=False)  # raises where objects are in it
        pq.write_table(self._named(rows), table, compression="zstd")
        files = dict(ledger.files)
        for name, file in zip(part_files(part), (array, table), strict=True):
            files[name] = self._put(name, file.getvalue())
        self._note(parts=(*ledger.parts, len(vectors)), files=files)

    def _named(self, rows: slice) -> pa.Table:
        try:
            names = pa.array(self._names[rows], pa.string())
        except UnicodeEncodeError as error:
            raise DataError(f"the name {error.object!r} is not valid text; rename it") from error
        return pa.table([names, pa.array(self._numbers[rows], pa.int64())], NAMES)

    def _put(self, name: str, content: bytes) -> FileEntry:
        (self._folder / name).parent.mkdir(exist_ok=True)
        (self._folder / name).write_bytes(content)
        sync(self._folder / name)
        sync((self._folder / name).parent)
        return FileEntry.of(content)

    def _finish(self) -> None:
        if self.complete and self._earlier is not None:
            self.manifest = self._earlier.manifest
            self._work.remove()
            return
        self._finish_parts()
        self._add_cells()
        ledger = self._ledger
        source = self._source.model_copy(update={"parts": len(ledger.parts)})
        if self._earlier is None:
            self.manifest = self._new(source)
            refuse_irreplaceable(self.path, self._force, FORMAT)  # it may have come meanwhile
            replace_folder(self._folder, self.path, self._force)
        else:
            earlier = self._earlier.manifest
            self.manifest = earlier.model_copy(
                update={
                    "parts": (*earlier.parts, *ledger.parts),
                    "sources": (*earlier.sources, source),
                    "files": earlier.files | ledger.files,
                }
            )
            for name in ledger.files:
                _link(self._folder / name, self.path / name)
            write_together(self.path, self.manifest.to_files())
        self._work.remove()

    @property
    def counts(self) -> tuple[int, ...]:
        """The rows of each part, those of the index that is added to first."""
        return (*(self._earlier.counts if self._earlier else ()), *self._ledger.parts)

    def vectors(self, part: int) -> Vectors:
        """Of one of these parts."""
        if self._earlier is not None and part < len(self._earlier.counts):
            return self._earlier.vectors(part)
        vectors: Vectors = np.load(self._folder / part_files(part)[0])
        return vectors

    def _add_cells(self) -> None:
        """Says of every new row in which cell it is; or of all rows, once there are enough."""
        cells = self._earlier.cells if self._earlier else None
        first = len(self._earlier.counts) if cells and self._earlier else 0
        files = dict(self._ledger.files)
        if cells is None:
            if sum(self.counts) < MIN_ROWS:
                return
            cells, first = self._learned_cells(), 0
            files[CELLS] = self._put(CELLS, cells.to_bytes())
        for part in range(first, len(self.counts)):
            content = io.BytesIO()
            np.save(content, cells.of(self.vectors(part)), allow_pickle=False)
            files[cell_file(part)] = self._put(cell_file(part), content.getvalue())
        self._note(files=files)

    def _learned_cells(self) -> Cells:
        """From rows of all parts, of which some are the queries that tell how many are needed."""
        total = sum(self.counts)
        step = max(1, ROWS_A_CELL // SAMPLE_A_CELL)
        parts = [self.vectors(part)[::step] for part in range(len(self.counts))]
        sample = np.concatenate(parts)
        cells = Cells.learn(sample, total)
        queries = sample[:: max(1, len(sample) // JUDGED)]
        near = nearest(self, queries, NEAREST).rows
        of_near, start = np.empty(near.shape, np.uint16), 0
        for part, count in enumerate(self.counts):
            here = (near >= start) & (near < start + count)
            of_near[here] = cells.of(self.vectors(part)[near[here] - start])
            start += count
        return cells.probing(queries, of_near)

    def _new(self, source: IndexSource) -> IndexManifest:
        files = {SPACE: self._put(SPACE, self._space.to_bytes())}
        of_model = self._model.contents()
        for name in (MANIFEST, HASH, ENCODER):
            files[f"model/{name}"] = self._put(f"model/{name}", of_model[name])
        manifest = IndexManifest(
            model=self._model.digest,
            parts=self._ledger.parts,
            sources=(source,),
            files=files | self._ledger.files,
        )
        for name, content in manifest.to_files().items():
            (self._folder / name).write_bytes(content)
        return manifest


def _link(file: Path, target: Path) -> None:
    """``target`` is to be the same file, or a copy where there are no links."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
        sync(target)
    sync(target.parent)
