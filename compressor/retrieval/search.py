"""The verb ``search``: the nearest of an index to each query."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.images import Data, Pixels
from ..data.tables import refuse_table, table_file
from ..engine.job import Job
from ..errors import ConfigError, DataError
from ..files import refuse_elsewhere, refuse_existing, refuse_input
from ..model import Model
from ..report.search_page import Answer, Neighbour, write_search_page, write_search_sheet
from .cells import Cells
from .folder import Index
from .inputs import DataVectors
from .nearest import Found, nearest, nearest_in_cells
from .pictures import Pictures
from .space import Vectors

SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("rank", pa.int32()),
        ("path", pa.string()),
        ("distance", pa.float64()),
    ]
)
SHOWN = 50  # of the rows found, in the summary
ON_SHEET = 20, 20  # queries, and of each what was found
MAX_SHOWN, MAX_FOUND = 60, 50  # the same of a report
EXACT_ROWS = 1_000_000  # larger indexes are searched by cells unless another way is asked for


def search(
    index: str | Path,
    query: Data,
    *,
    k: int = 10,
    model: str | Path | None = None,
    output: str | Path | None = None,
    sheet: str | Path | None = None,
    report: str | Path | None = None,
    data: Data | None = None,
    expand: int = 0,
    approximate: bool | None = None,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """The ``k`` nearest of ``index`` to each query: images or vectors, or "::N", the index's row N.

    ``model``: by default the encoder inside the index. ``output``: a .parquet or .csv with the
    columns query, rank (from 1), path and distance (1 - the cosine, or Euclidean).
    ``sheet``: a .png, and ``report``: an .html, with pictures of the first queries beside what was
    found, from the sources of the index, or from ``data`` if these are elsewhere now.

    ``expand``: search again with the mean of the query and so many nearest in its place, which
    finds more of the same kind (average query expansion: Chum et al. 2007); distances are to it.
    ``approximate``: whether each query is compared with the cells nearest to it alone, which finds
    about 0.98 of the ten nearest; by default in an index of more than a million.

    Gives images (of the index), queries, k, metric, recall (1 where nothing near is missed, else
    about how much is found), found (the first of that table, as dicts),
    unreadable, seconds. Raises CompressorError.
    """
    refuse_elsewhere(index, query, model, data, outputs=_given(output, sheet, report))
    started = time.monotonic()
    if k < 1:
        raise ConfigError(f"k={k}: at least one has to be asked for")
    if expand < 0:
        raise ConfigError(f"expand={expand}: give how many of the nearest, or 0")
    target = None if output is None else Path(output)
    if target is not None:
        refuse_table("output", target, force, index, query)
    for option, path, suffix in (("sheet", sheet, ".png"), ("report", report, ".html")):
        _refuse_shown(option, path, suffix, force, index, query, data)
    opened = Index.open(index)
    pictures = None if sheet is report is None else Pictures(opened, data, model, device)
    asked = _asked(opened, query, model, device, 0 if pictures is None else MAX_SHOWN)
    by_cells = opened.count > EXACT_ROWS if approximate is None else approximate
    cells = opened.cells if by_cells else None  # a small index has none
    vectors = asked.vectors
    if expand:
        vectors = _expanded(opened, vectors, _nearest(opened, cells, vectors, expand))
    found = _nearest(opened, cells, vectors, k)
    table = _table(opened, asked.names, found)
    answers = [] if pictures is None else _answers(pictures, asked, found, table)
    if target is not None:
        with table_file(target, SCHEMA, force) as file:
            file.write_table(table)
    if sheet is not None:
        rows = [replace(one, found=one.found[: ON_SHEET[1]]) for one in answers[: ON_SHEET[0]]]
        write_search_sheet(Path(sheet), rows, force)
    if report is not None:
        _write_report(Path(report), opened, query, found, answers, len(asked.names), expand, force)
    return {
        "images": opened.count,
        "queries": len(asked.names),
        "k": found.rows.shape[1],
        "metric": opened.space.metric,
        "recall": 1.0 if cells is None else cells.recall,
        "found": table.slice(0, SHOWN).to_pylist(),
        **asked.summary,
        "seconds": round(time.monotonic() - started, 3),
    }


def _given(*paths: str | Path | None) -> list[str | Path]:
    return [path for path in paths if path is not None]


def _refuse_shown(
    option: str, path: str | Path | None, suffix: str, force: bool, *inputs: object
) -> None:
    """Raises ConfigError or OutputError for a sheet or a report that cannot be written."""
    if path is None:
        return
    if Path(path).suffix != suffix:
        raise ConfigError(f"{option}={path}: it is written as {suffix}")
    refuse_input(Path(path), *inputs)
    refuse_existing(Path(path), force)


@dataclass(frozen=True)
class _Asked:
    """Queries: names, vectors float32 (n, D), pictures of the first few, the row of the index if
    they are one, and what the summary says of their source."""

    names: list[str]
    vectors: Vectors
    pictures: list[Pixels]
    row: int | None
    summary: dict[str, Any]


def _asked(index: Index, query: Data, model: str | Path | None, device: str, shown: int) -> _Asked:
    if isinstance(query, str) and query.startswith("::"):
        number = query.removeprefix("::")
        if not number.isdecimal() or int(number) >= index.count:
            raise DataError(f"{query}: rows of {index.path} are ::0 to ::{index.count - 1}")
        ((part, inside),) = index.parts_with(np.array([int(number)]))
        names, vectors = [index.names(part)[int(inside[0])]], index.vectors(part)[inside]
        return _Asked(names, vectors, [], int(number), {})
    if model is not None:
        index.refuse_other(Model.open(model))
    else:
        index.model()  # is it whole, and the one that it was?
    job = Job("search", query, model or index.path / "model", device)
    reader = DataVectors(job, index.space, shown)
    names, each, pictures = [], [], list[Pixels]()
    for piece in reader.run():
        names += piece.names
        each += piece.vectors
        pictures += piece.pictures[: shown - len(pictures)]
    return _Asked(names, np.stack(each), pictures, None, reader.summary())


def _nearest(index: Index, cells: Cells | None, queries: Vectors, k: int) -> Found:
    """Of the rows in a few cells; of all where there are none, or fewer than k in these."""
    if cells is None:
        return nearest(index, queries, k)
    found = nearest_in_cells(index, index.cell_numbers, cells, queries, k)
    lacking = np.flatnonzero(found.rows[:, -1] < 0)
    if len(lacking):
        found.rows[lacking], found.squares[lacking] = nearest(index, queries[lacking], k)
    return found


def _expanded(index: Index, queries: Vectors, found: Found) -> Vectors:
    """The mean of each query (n, D) and what was found for it; of length one by the cosine."""
    sums = queries.astype(np.float64)
    starts = np.cumsum([0, *index.counts])
    for part, _ in index.parts_with(np.unique(found.rows)):
        here = (found.rows >= starts[part]) & (found.rows < starts[part + 1])
        of_query, _ = np.nonzero(here)
        np.add.at(sums, of_query, index.vectors(part)[found.rows[here] - starts[part]])
    return index.space.scaled(sums / (1 + found.rows.shape[1])).astype(np.float32)


def _table(index: Index, queries: list[str], found: Found) -> pa.Table:
    """As SCHEMA has it, the nearest of the first query first."""
    distances = index.space.distances(found.squares)
    names: dict[int, str] = {}
    starts = np.cumsum([0, *index.manifest.parts])
    for part, inside in index.parts_with(np.unique(found.rows)):
        of_part = index.names(part)
        names |= {int(starts[part]) + row: of_part[row] for row in inside.tolist()}
    count, k = found.rows.shape
    return pa.table(
        [
            pa.array([query for query in queries for _ in range(k)], pa.string()),
            pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), count)),
            pa.array([names[row] for row in found.rows.ravel().tolist()], pa.string()),
            pa.array(distances.ravel()),
        ],
        SCHEMA,
    )


def _answers(pictures: Pictures, asked: _Asked, found: Found, table: pa.Table) -> list[Answer]:
    """The first queries and what was found, with pictures."""
    count, k = min(MAX_SHOWN, len(asked.names)), found.rows.shape[1]
    rows = found.rows[:count, :MAX_FOUND]
    own = [] if asked.row is None else [asked.row]
    there = pictures.of(np.append(rows.ravel(), own).astype(np.int64))
    queries = asked.pictures if asked.row is None else [there.get(asked.row)]
    paths, distances = (
        table[column].slice(0, count * k).to_pylist() for column in ("path", "distance")
    )
    return [
        Answer(
            asked.names[query],
            queries[query],
            [
                Neighbour(paths[place], distances[place], there.get(row))
                for place, row in enumerate(rows[query].tolist(), query * k)
            ],
        )
        for query in range(count)
    ]


def _write_report(
    path: Path,
    index: Index,
    query: Data,
    found: Found,
    answers: list[Answer],
    queries: int,
    expand: int,
    force: bool,
) -> None:
    named = str(query) if isinstance(query, str | Path) else "data in memory"
    facts = [
        ("queries", named if queries == len(answers) else f"{named}, the first {len(answers)}"),
        ("index", f"{index.path}, {index.count:,} images"),
    ]
    if expand:
        facts.append(("expanded by", f"{expand}; distances are those to the mean"))
    title = f"The {found.rows.shape[1]} nearest to each of {queries:,} queries"
    write_search_page(path, title, facts, answers, index.space.metric, force)
