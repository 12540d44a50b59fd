"""What a search found, for people: one sheet of pictures, or one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images import Pixels
from ..files import atomic_file
from .pictures import png, sheet
from .template import data_uri, write_page

MAX_EXACT_SIDE = 64  # of pictures that are stored without loss, and show single pixels
NAME = 18  # characters of a query's name on a sheet
SHEET_SIDE = 84


@dataclass(frozen=True)
class Neighbour:
    """What was found: ``picture`` uint8 (H, W, C), None where it is not there any more."""

    path: str
    distance: float
    picture: Pixels | None


@dataclass(frozen=True)
class Answer:
    """A query with what was found, nearest first; ``picture`` as that of a Neighbour."""

    query: str
    picture: Pixels | None
    found: Sequence[Neighbour]


def write_search_sheet(path: Path, answers: Sequence[Answer], force: bool) -> None:
    """A PNG file: a row for each query, which stands on the left, beside what was found.

    Raises OutputError if ``path`` exists and ``force`` is not given, or cannot be written.
    """
    missing = np.zeros((1, 1, 4), np.uint8)  # transparent
    rows = [
        [missing if shown is None else shown for shown in (answer.picture, *_pictures(answer))]
        for answer in answers
    ]
    ranks = [str(rank) for rank in range(1, max(map(len, rows)))]
    names = [_shortened(answer.query) for answer in answers]
    pixels = sheet(rows, row_names=names, column_names=["query", *ranks], side=SHEET_SIDE)
    with atomic_file(path, force) as temporary:
        temporary.write_bytes(png(pixels))


def _pictures(answer: Answer) -> list[Pixels | None]:
    return [neighbour.picture for neighbour in answer.found]


def _shortened(name: str) -> str:
    """Its end, which tells more than its beginning."""
    return name if len(name) <= NAME else "…" + name[1 - NAME :]


@dataclass(frozen=True)
class _Shown:
    """One picture of the page; uri is empty where there is none."""

    path: str
    says: str
    uri: str
    exact: bool


def write_search_page(
    path: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    answers: Sequence[Answer],
    metric: str,
    force: bool,
) -> None:
    """One HTML file, pictures included; facts: rows of (label, value).

    Raises OutputError if ``path`` exists and ``force`` is not given, or cannot be written.
    """
    rows = [
        (
            _shown(answer.query, "query", answer.picture),
            [
                _shown(found.path, f"{rank}. {found.distance:.3g}", found.picture)
                for rank, found in enumerate(answer.found, 1)
            ],
        )
        for answer in answers
    ]
    write_page(path, "search_page.html", force, title=title, facts=facts, rows=rows, metric=metric)


def _shown(path: str, says: str, picture: Pixels | None) -> _Shown:
    exact = picture is not None and max(picture.shape[:2]) <= MAX_EXACT_SIDE
    return _Shown(path, says, "" if picture is None else data_uri(picture, exact), exact)
