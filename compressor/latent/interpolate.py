"""The verb ``interpolate``: what lies between two inputs, on a straight and on a spherical path.

straight:   u(t) = (1 - t) a + t b
spherical:  u(t) = (sin((1 - t) w) a + sin(t w) b) / sin w,  w the angle between a and b

(Shoemake 1985; White 2016: codes of N(0, I) lie near a sphere, through whose inside the straight
path leads.) u are codes less their mean, divided by their deviations.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Data, Pixels, Rows
from ..errors import ConfigError
from ..files import refuse_elsewhere
from ..report.pictures import sheet
from .density import Vectors
from .latents import Latents, refuse_different_sizes, unreadable
from .pictures import Output, side_of

MAX_STEPS = 1000
SMALLEST_SINE = 1e-6  # between which there is no one great circle


def interpolate(
    model: str | Path,
    a: Data,
    b: Data,
    *,
    steps: int = 9,
    output: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """Decodes ``steps`` codes from that of ``a`` to that of ``b``, on both paths.

    a, b: an image or a vector, or several, whose codes are averaged. output: a .png with both
    paths, or, as for ``sample``, the images or vectors, those of the straight path first.

    Gives inputs (how many each of a and b are), angle (degrees), path (of each step t, the mean
    change of a pixel, 0 to 255, or of a number since the step before), density (what mean and
    deviations are from), unreadable, seconds, device. Raises CompressorError.
    """
    refuse_elsewhere(model, a, b, outputs=[] if output is None else [output])
    started = time.monotonic()
    if not 2 <= steps <= MAX_STEPS:
        raise ConfigError(f"steps={steps}: from 2 to {MAX_STEPS:,} steps")
    latents = Latents.open(model, device)
    target = Output(output, force, latents.model.spec, model, a, b)
    ends = [
        latents.average("interpolate", f"{data}" if isinstance(data, str | Path) else name, data)
        for name, data in (("a", a), ("b", b))
    ]
    refuse_different_sizes(ends)
    mean, deviations = latents.normal(ends[0].code.shape)
    unit = np.where(deviations > 0, deviations, 1)
    from_a, to_b = ((end.code - mean) / unit for end in ends)
    ways = np.linspace(0, 1, steps)
    paths = straight(from_a, to_b, ways), spherical(from_a, to_b, ways)
    decoded = [latents.decode(mean + unit * path, ends[0].size) for path in paths]

    kinds = ("straight", "spherical")

    def picture() -> Pixels:
        titles = [f"{way:.3g}" for way in ways]
        return sheet(decoded, row_names=kinds, column_names=titles, side=side_of(steps))

    names = [f"{kind}-{step:0{len(str(steps - 1))}}" for kind in kinds for step in range(steps)]
    target.write(names, np.concatenate(decoded), picture)
    changes = [_changes(rows) for rows in decoded]
    return {
        "inputs": [end.inputs for end in ends],
        "angle": round(float(np.degrees(_angle(from_a, to_b))), 2),
        "path": [
            {"t": round(float(way), 4), "straight": one, "spherical": other}
            for way, one, other in zip(ways, *changes, strict=True)
        ],
        "density": latents.origin,
        **unreadable(ends),
        "seconds": round(time.monotonic() - started, 3),
        "device": latents.engine.device.name,
    }


def straight(a: Vectors, b: Vectors, ways: Vectors) -> Vectors:
    """(n, *shape), of a and b (*shape) and ways (n,) from 0 to 1."""
    at = ways.reshape(-1, *[1] * a.ndim)
    return (1 - at) * a + at * b


def spherical(a: Vectors, b: Vectors, ways: Vectors) -> Vectors:
    """The same on a great circle; straight where a and b point the same way or opposite ways."""
    angle = _angle(a, b)
    if np.sin(angle) < SMALLEST_SINE:
        return straight(a, b, ways)
    at = ways.reshape(-1, *[1] * a.ndim)
    path: Vectors = (np.sin((1 - at) * angle) * a + np.sin(at * angle) * b) / np.sin(angle)
    return path


def _angle(a: Vectors, b: Vectors) -> float:
    """In radians, 0 where one of them is zero."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.arccos(np.clip((a * b).sum() / lengths, -1, 1))) if lengths else 0.0


def _changes(rows: Rows) -> list[float]:
    apart = np.abs(np.diff(rows.astype(np.float64), axis=0)).reshape(len(rows) - 1, -1).mean(1)
    return [0.0, *(round(float(change), 4) for change in apart)]
