"""The verb ``arithmetic``: sums and differences of codes, decoded (Radford et al. 2016, figure 7).

Of ``smiling - neutral + man`` each name stands for inputs whose codes are averaged: one image may
show anything beside what it stands for.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.images import Pixels, Rows
from ..errors import ConfigError, DataError
from ..files import refuse_elsewhere
from ..report.pictures import sheet
from .latents import Latents, refuse_different_sizes, unreadable
from .pictures import Output

_OPERATORS = re.compile(r"\s+([+-])\s+")
MAX_TERMS = 64
NEIGHBOURS = 8
# How far neighbours lie off in each number at most, in deviations: 0.25 of z ~ U(-1, 1), whose
# deviation is 0.577 (figure 7). But not less than what can change a rounded number.
NOISE, LEAST_NOISE = 0.43, 0.6
MAX_NAME = 14  # characters of a name in the picture
EXAMPLE = '"smiling - neutral + man", with blanks around each sign'


class Term(NamedTuple):
    """sign: 1 or -1; name: as it was written."""

    sign: int
    name: str


def arithmetic(
    model: str | Path,
    expression: str,
    *,
    output: str | Path,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """Decodes the sum of the mean codes of what ``expression`` names: images, folders, globs.

    output: a .png with the averages in a row and the result below, in the middle of eight
    neighbours; or, as for ``sample``, the averages, the result and the neighbours themselves.

    Gives terms (with how many inputs each has), noise (how far neighbours lie off, in deviations),
    density (what the deviations are from), seed, unreadable, seconds, device. Raises
    CompressorError.
    """
    refuse_elsewhere(model, outputs=[output])
    started = time.monotonic()
    terms = parsed(expression)
    names = list(dict.fromkeys(term.name for term in terms))
    refuse_elsewhere(*names)
    latents = Latents.open(model, device)
    target = Output(output, force, latents.model.spec, model, *names)
    data = {name: named(name) for name in names}
    averages = {name: latents.average("arithmetic", name, data[name]) for name in names}
    refuse_different_sizes(list(averages.values()))
    clean = sum(term.sign * averages[term.name].code for term in terms)
    size, (_, deviations) = averages[names[0]].size, latents.normal(np.shape(clean))
    random = np.random.default_rng(seed)
    most = np.where(deviations > 0, np.maximum(NOISE * deviations, LEAST_NOISE), 0)
    noise = random.uniform(-most, most, (NEIGHBOURS, *np.shape(clean)))
    codes = np.stack([*(averages[name].code for name in names), clean, *(clean + noise)])
    rows = latents.decode(codes, size)
    of_rows = [f"average-{number}" for number in range(len(names))]
    of_rows += ["result", *(f"neighbour-{number}" for number in range(NEIGHBOURS))]
    target.write(of_rows, rows, lambda: _picture(terms, names, rows))
    return {
        "terms": [
            {"sign": "+" if term.sign > 0 else "-", "name": term.name, "inputs": inputs}
            for term, inputs in ((term, averages[term.name].inputs) for term in terms)
        ],
        "noise": NOISE,
        "density": latents.origin,
        "seed": seed,
        **unreadable(list(averages.values())),
        "seconds": round(time.monotonic() - started, 3),
        "device": latents.engine.device.name,
    }


def parsed(expression: str) -> list[Term]:
    """The terms of a sum. Raises ConfigError for what is none."""
    signs, text = [1], expression.strip()
    if text[:1] in ("+", "-"):
        signs, text = [-1 if text[0] == "-" else 1], text[1:].strip()
    first, *rest = _OPERATORS.split(text)
    signs += [-1 if sign == "-" else 1 for sign in rest[::2]]
    names = [name.strip() for name in (first, *rest[1::2])]
    for name in names:
        if not name or name in ("+", "-") or name[:2] in ("+ ", "- ") or name[-2:] in (" +", " -"):
            raise ConfigError(f"{expression!r}: a name is missing beside a sign; write {EXAMPLE}")
    if not 1 <= len(names) <= MAX_TERMS:
        raise ConfigError(f"an expression has at most {MAX_TERMS} names, and this {len(names)}")
    return [Term(*pair) for pair in zip(signs, names, strict=True)]


def named(name: str) -> str | list[Path]:
    """What a name stands for: a path that is there, or the files of a glob, in their order."""
    if not glob.has_magic(name) or Path(name).exists():
        return name
    found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (it may be absolute)
    if not found:
        raise DataError(f"{name} matches no file: give images, a folder of images or a glob")
    return [Path(path) for path in found]


def _picture(terms: Sequence[Term], names: Sequence[str], rows: Rows) -> Pixels:
    """The averages under their names, and below the result amid its neighbours."""
    of_names = dict(zip(names, rows, strict=False))
    result, *neighbours = rows[len(names) :]
    grid = [*neighbours[:4], result, *neighbours[4:]]
    titles = [_title(term, number) for number, term in enumerate(terms)]
    return sheet(
        [[of_names[term.name] for term in terms], grid[:3], grid[3:6], grid[6:]],
        column_names=titles,
        row_names=["averages", "", "result", ""],
    )


def _title(term: Term, number: int) -> str:
    """A name that is short enough to stand above a picture."""
    path = Path(term.name)
    short = path.parent.name if glob.has_magic(path.name) and path.parent.name else path.stem
    short = short if len(short) <= MAX_NAME else f"{short[: MAX_NAME - 1]}…"
    return f"{'-' if term.sign < 0 else '+'} {short}" if number or term.sign < 0 else short
