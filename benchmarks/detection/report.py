"""Tables of the cells: benchmarks/results/anomaly.md."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cells import RESULTS, Cell

from .classic import KNN, KNN_MIN_MAX, NEIGHBOURS, PCA_ERROR, VARIANCE
from .metrics import FPR_LIMIT, SMOOTHING, Figures
from .ours import ROWS
from .peers import GANOMALY, PATCH_KNN, SIDE, VERSIONS
from .tasks import NORMALS_ONLY, DataSet

Place = tuple[str, int]  # part and seed
Values = Mapping[Place, float]


@dataclass(frozen=True)
class Goal:
    """``least``: an AUROC; ``above``: methods, by name, on the same parts and seeds.

    ``method``: of ours; where nothing is said the data set's first row, which was chosen without
    labels.
    """

    data: str
    least: float | None = None
    above: str | None = None
    method: str | None = None


GOALS = (
    Goal("mnist", 0.983),
    Goal("fashion-mnist", 0.939),
    Goal("cifar-10", 0.656),
    *(Goal(NORMALS_ONLY, above=name) for name in (KNN, KNN_MIN_MAX, "PyOD KNN")),
    *(
        Goal(data, above=name)
        for data in ("screw", "magnetic tile")
        for name in (GANOMALY, PCA_ERROR, KNN)
    ),
    *(Goal(data, above=PATCH_KNN, method="features") for data in ("screw", "magnetic tile")),
    Goal("screw", 0.90, method="features"),
    Goal("screw", 0.98, method="features"),
)


@dataclass(frozen=True)
class Found:
    """All measured cells of one data set, and how many seeds were asked for."""

    data: DataSet
    cells: Sequence[tuple[Cell[Figures], Figures]]
    seeds: int

    @cached_property
    def methods(self) -> dict[str, dict[Place, Figures]]:
        found: dict[str, dict[Place, Figures]] = {}
        for cell, figures in self.cells:
            place = cell.key["part"], cell.key["seed"]
            found.setdefault(cell.key["method"], {})[place] = figures
        return found

    @property
    def expected(self) -> int:
        """Cells of a method."""
        return len(self.data.parts) * self.seeds

    def whole(self, values: Values) -> bool:
        """Whether each part has one."""
        return {part for part, _ in values} == set(self.data.parts)

    def mean(self, values: Values) -> str:
        """In brackets where parts are missing."""
        return _auroc(mean(values)) if self.whole(values) else f"({_auroc(mean(values))})"

    def judged(self, method: str) -> Values:
        return {place: one.judged for place, one in self.methods.get(method, {}).items()}


def mean(values: Values) -> float:
    """The mean over parts of each part's mean over seeds."""
    parts: dict[str, list[float]] = {}
    for (part, _), value in values.items():
        parts.setdefault(part, []).append(value)
    return float(np.mean([np.mean(found) for found in parts.values()]))


def spread(values: Values, parts: int) -> tuple[float, float] | None:
    """The least and the largest mean of a seed, over the seeds that have all parts; None of one."""
    seeds: dict[int, list[float]] = {}
    for (_, seed), value in values.items():
        seeds.setdefault(seed, []).append(value)
    means = [float(np.mean(found)) for found in seeds.values() if len(found) == parts]
    return (min(means), max(means)) if len(means) > 1 else None


def write_report(found: Sequence[Found], seconds: float) -> None:
    """anomaly.md."""
    measured = [data for data in found if data.cells]
    parts = [_introduction(seconds), _goals(found), *map(_section, measured)]
    (RESULTS / "anomaly.md").write_text("\n\n".join(parts) + "\n")


def _introduction(seconds: float) -> str:
    steps = max(row.steps for rows in ROWS.values() for row in rows if row.steps)
    return f"""\
# Anomalies: all tables

    OMP_NUM_THREADS=1 python benchmarks/anomaly.py --data FOLDER --work FOLDER --peers PYTHON

measures. The same with `--report` writes this page from the measured cells and from those in
[anomaly.jsonl](anomaly.jsonl), which are not measured again.
[docs/benchmarks.md](../../docs/benchmarks.md#anomalies) says what follows from it.

AUROC is of raw scores, ties counting a half. A data set's figure is the mean over its parts
(classes, tables) of each part's mean over seeds, and beside it stand the least and the largest of
the seeds' means. A figure in brackets is the mean of some parts only: do not compare it with
others. Goals are compared over the parts and seeds that both sides have. Times are CPU seconds of
one thread.

- *Ours* train for {seconds:g} s on images (`features` for 120 steps, `gradients` for 500) and at
  most {steps:,} steps on tables, export and calibration not counted. They are judged by the
  model's default score, `top` of `features` and else `l2`, the first row of tables by `ensemble`;
  `auto`, the choice that sees no label, stands among the other scores. The goals are about the
  first row of a data set. Nothing was chosen by test labels, with three exceptions: `features` was
  put together with the screw's in sight; the first row of tables, its width, its score, and that
  ranks go on beyond the strangest normal row, were chosen with some of theirs in sight; and that
  oriented gradients help at all was learned from those of one-vs-rest. A tenth of the training data
  is for early stopping, a tenth for calibration.
- *kNN*: the Euclidean distance to neighbour {NEIGHBOURS} of the rows trained on; columns are
  standardised by them, or, *min-max*, scaled to [0, 1]. *PCA*: the squared error of the fewest
  components that keep {VARIANCE:.0%} of the variance. Both on pixels in [0, 1] at full size.
- *PyOD*, *anomalib* ({VERSIONS}): the settings that they come with, columns
  standardised; networks train for {seconds:g} s on images and {seconds / 6:g} on tables. Surfaces
  are resized to {SIDE}x{SIDE} for them. Of anomalib's models only GANomaly needs no download
  (DRAEM needs textures, the others weights).
- *patch kNN*: distances to features of patches by the ImageNet weights of a package, as in
  PatchCore (Roth et al. 2022), but with a random coreset.
- Pixel AUROC, and PRO up to a false positive rate of {FPR_LIMIT:g} (Bergmann et al. 2021), are of
  error maps smoothed with a Gaussian of {SMOOTHING:g} pixels, for all methods alike."""


def _goals(found: Sequence[Found]) -> str:
    by_name = {data.data.name: data for data in found}
    rows = []
    for goal in GOALS:
        data = by_name[goal.data]
        method = goal.method or ROWS[goal.data][0].method
        ours = data.judged(method)
        theirs = data.judged(goal.above) if goal.above else None
        wanted = f"above {goal.above}" if goal.above else f"at least {goal.least:.3f}"
        shared = ours if theirs is None else {place: ours[place] for place in ours.keys() & theirs}
        if not shared:
            rows.append([data.data.title, f"`{method}`", "-", wanted, "-", "not measured"])
            continue
        limit = goal.least if theirs is None else mean({place: theirs[place] for place in shared})
        assert limit is not None
        met = mean(shared) >= limit if theirs is None else mean(shared) > limit
        said = "yes" if met else "**no**"
        if theirs is None and not data.whole(shared):
            said = "not known"  # parts differ: of some of them a mean says nothing
        said += _so_far(len(shared), data.expected)
        row = [data.data.title, f"`{method}`", data.mean(shared), wanted, _auroc(limit), said]
        rows.append(row)
    return "## Against the goals\n\n" + _table(
        ["data", "ours", "AUROC", "wanted", "which is", "met"], rows
    )


def _so_far(cells: int, expected: int) -> str:
    return "" if cells >= expected else f", of {cells} of {expected} cells"


def _section(found: Found) -> str:
    ours = [row.method for row in ROWS[found.data.name] if row.method in found.methods]
    order = [*ours, *(name for name in found.methods if name not in ours)]
    parts = [
        f"## {found.data.title}",
        f"{found.data.protocol[0].upper()}{found.data.protocol[1:]}.",
        _methods(found, order, ours),
    ]
    if any(len(one.auroc) > 1 for name in ours for one in found.methods[name].values()):
        parts.append(_scores(found, ours))
    if len(found.data.parts) > 1:
        parts.append(_parts(found, order))
    return "\n\n".join(parts)


def _methods(found: Found, order: Iterable[str], ours: Collection[str]) -> str:
    has_maps = any(figures.pro is not None for _, figures in found.cells)
    rows = []
    for method in order:
        cells = found.methods[method]
        values = found.judged(method)
        between = spread(values, len(found.data.parts))
        row = [
            f"**ours: `{method}`**" if method in ours else method,
            found.mean(values),
            f"{_auroc(between[0])} to {_auroc(between[1])}" if between else "-",
        ]
        if has_maps:
            for name in ("pixel_auroc", "pro"):
                known = {place: getattr(one, name) for place, one in cells.items()}
                row.append("-" if None in known.values() else found.mean(known))
        images = sum(one.images for one in cells.values())
        scoring = sum(one.score_seconds for one in cells.values())
        row += [
            f"{np.mean([one.train_seconds for one in cells.values()]):,.1f}",
            # PyOD knows the scores of the rows that it was trained on.
            f"{images / scoring:,.0f}" if scoring > 1e-7 * images else "-",
            f"{len(cells)} of {found.expected}",
        ]
        rows.append(row)
    head = ["", "AUROC", "over seeds"]
    head += ["pixel AUROC", "PRO"] if has_maps else []
    return _table([*head, "training, s", "scored a second", "cells"], rows)


def _scores(found: Found, ours: Iterable[str]) -> str:
    """Each score of our models."""
    rows = []
    for method in ours:
        names = {name for one in found.methods[method].values() for name in one.auroc}
        values = {
            name: {
                place: one.auroc[name]
                for place, one in found.methods[method].items()
                if name in one.auroc
            }
            for name in sorted(names)
        }
        rows += [[f"`{method}`", f"`{name}`", found.mean(known)] for name, known in values.items()]
    return "Every score of ours, in hindsight:\n\n" + _table(["", "score", "AUROC"], rows)


def _parts(found: Found, order: Sequence[str]) -> str:
    rows = []
    for part in found.data.parts:
        row = [part]
        for method in order:
            known = {p: value for p, value in found.judged(method).items() if p[0] == part}
            row.append(_auroc(mean(known)) if known else "-")
        rows.append(row)
    return "Part by part:\n\n" + _table(["", *order], rows)


def _auroc(value: float) -> str:
    return f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
