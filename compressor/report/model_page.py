"""The verb ``report``: a page that shows what a model has learned, on the user's data."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Data, Pixels, Rows
from ..engine.engine import Codes
from ..engine.job import Job
from ..errors import ModelError
from ..files import refuse_elsewhere, refuse_existing, refuse_input
from ..spec import ImageSpec, VectorSpec, size_of
from .charts import Axis, Numbers, axis, bars, diverging, line, map_sheet, sheet
from .pictures import comparison_sheet
from .template import data_uri, write_page

MAX_INPUTS = 2000
MAX_ELEMENTS = 2**26  # of all these inputs together
INPUTS_PER_PLACE = 50  # consecutive ones, at evenly spaced places in the data
RECONSTRUCTIONS_SHOWN, WORST_SHOWN = 24, 8
FILTERS_SHOWN, HISTOGRAMS_SHOWN, MAX_BINS = 64, 32, 40


@dataclass(frozen=True)
class Picture:
    """A sheet of pictures, and what it shows."""

    title: str
    says: str
    uri: str
    width: int


@dataclass(frozen=True)
class Histogram:
    """The values of one element or channel of the codes."""

    name: str
    path: str
    low: float
    high: float
    zeros: float
    bits: float


@dataclass(frozen=True)
class Curve:
    """Losses over steps; phases as (place, name)."""

    training: str
    validation: list[str]
    x: Axis
    y: Axis
    phases: list[tuple[float, str]]


@dataclass(frozen=True)
class Sample:
    """Inputs of one size from all over the data, their codes and what these decode to."""

    rows: Rows
    codes: Codes
    rebuilt: Rows | None  # where the model decodes
    errors: Numbers


def report(
    model: str | Path,
    data: Data,
    output: str | Path,
    *,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """Writes a self-contained HTML page about ``model``, with inputs from ``data``.

    At most 2,000 inputs are read, from evenly spaced places. Returns report, images, unreadable,
    psnr (of vectors the mse of standardised values, of features their mse), seconds, device.
    Raises CompressorError.
    """
    refuse_elsewhere(data, model, outputs=[output])
    output = Path(output)
    refuse_input(output, data, model)
    refuse_existing(output, force)
    job = Job("report", data, model, device)
    sample = _sample(job)
    spec, manifest = job.model.spec, job.model.manifest
    points = _plane(job, sample.codes)
    pictures = _pictures(job, sample, points) if isinstance(spec, ImageSpec) else []
    quality = _quality(job, sample)
    points_at = [axis(points[:, 0]), axis(points[:, 1])]
    write_page(
        output,
        "model_page.html",
        force,
        title=f"{manifest.plugin.name}: what the model has learned",
        kind=spec.kind,
        quality=quality,
        tiles=_tiles(job, sample, quality),
        facts=_facts(job, sample),
        pictures=pictures,
        curve=_curve(job),
        histograms=_histograms(job, sample.codes),
        points=[
            (float(a), 100 - float(b))
            for a, b in zip(points_at[0].place(points[:, 0]), points_at[1].place(points[:, 1]),
                            strict=True)
        ] if isinstance(spec, VectorSpec) else [],
        columns=_columns(spec, sample) if isinstance(spec, VectorSpec) else [],
        sample=len(sample.rows),
    )  # fmt: skip
    name, value = quality
    return {"report": str(output), **job.summary(), "images": len(sample.rows), name: value}


def _sample(job: Job) -> Sample:
    """Inputs from evenly spaced places; the first ones where their number is unknown."""
    count = job.source.count()
    limit = min(MAX_INPUTS, max(INPUTS_PER_PLACE, MAX_ELEMENTS // job.model.spec.elements))
    every = 1 if count is None else math.ceil(count / limit)
    groups: list[Rows] = []
    taken = elements = 0
    chunks = islice(job.source.chunks(INPUTS_PER_PLACE), 0, None, every)
    for images in chain.from_iterable(map(job.load, chunks)):
        job.skip(images)
        for group in images.groups:
            if groups and group.pixels.shape[1:] != groups[0].shape[1:]:
                continue
            fits = max(1, (MAX_ELEMENTS - elements) // group.pixels[0].size)
            pixels = group.pixels[: min(fits, limit - taken)].copy()
            groups.append(pixels)
            taken += len(pixels)
            elements += pixels.size
        if taken >= limit or elements >= MAX_ELEMENTS:
            break
    if not groups:
        raise job.nothing()
    rows = np.concatenate(groups)
    codes = job.engine.encode(rows)
    if not job.model.decodes:
        return Sample(rows, codes, None, job.engine.score(rows)["l2"].astype(np.float64))
    rebuilt = job.engine.decode(codes, *size_of(rows.shape[1:]))
    spec = job.model.spec
    scale = np.array(spec.scale if isinstance(spec, VectorSpec) else 255, np.float32)
    errors = [
        float(np.square((row.astype(np.float32) - other) / scale).mean())
        for row, other in zip(rows, rebuilt, strict=True)
    ]
    return Sample(rows, codes, rebuilt, np.array(errors))


def _quality(job: Job, sample: Sample) -> tuple[str, float | None]:
    error = float(sample.errors.mean())
    if isinstance(job.model.spec, VectorSpec) or sample.rebuilt is None:
        return "mse", round(error, 6)
    return "psnr", round(-10 * math.log10(error), 3) if error else None


def _tiles(job: Job, sample: Sample, quality: tuple[str, float | None]) -> list[tuple[str, str]]:
    facts = job.model.manifest.training
    bits = job.model.prior.ideal_bits(sample.codes) / len(sample.codes)
    name, value = quality
    shown = "lossless" if value is None else f"{value:.2f} dB" if name == "psnr" else f"{value:.4g}"
    return [
        (shown, "PSNR" if name == "psnr" else "mean squared error"),
        (f"{bits:,.0f}", f"bits a{'n image' if job.model.spec.kind == 'image' else ' vector'}"),
        (f"{facts.get('parameters', 0):,}", "parameters"),
        (f"{facts.get('seconds', 0):,.0f} s", "training"),
        *(
            (f"{value:.3g}", name)
            for name, value in facts.get("measures", {}).items()
            if value is not None
        ),
    ]


def _facts(job: Job, sample: Sample) -> list[tuple[str, str]]:
    manifest = job.model.manifest
    facts = manifest.training
    size = "x".join(map(str, sample.rows.shape[1:]))
    settings = ", ".join(f"{name}={value}" for name, value in manifest.config.items())
    versions = ", ".join(f"{name} {v}" for name, v in facts.get("versions", {}).items())
    return [
        ("model", str(job.model.location)),
        ("data", f"{job.source.location}: {len(sample.rows):,} {manifest.data.kind}s of {size}"),
        ("settings", settings),
        ("code", f"{'x'.join(map(str, sample.codes.shape[1:]))} integers"),
        (
            "trained on",
            f"{facts.get('images', 0):,} {manifest.data.kind}s, {facts.get('steps', 0):,} steps, "
            f"seed {facts.get('seed')}; {versions}",
        ),
    ]


def _pictures(job: Job, sample: Sample, points: Numbers) -> list[Picture]:
    evenly = np.linspace(
        0, len(sample.rows) - 1, min(RECONSTRUCTIONS_SHOWN, len(sample.rows))
    ).astype(int)
    worst = np.argsort(-sample.errors)[:WORST_SHOWN]
    made = []
    if sample.rebuilt is not None:
        shown = "Inputs from all over the data, each above what the decoder makes of its code."
        sheets = comparison_sheet(sample.rows[evenly], sample.rebuilt[evenly], 12, 84)
        made.append(_picture("Reconstructions", shown, sheets))
        which = "with the largest squared error"
        sheets = comparison_sheet(sample.rows[worst], sample.rebuilt[worst], 8, 112)
    else:
        which = "whose features are rebuilt worst"
        sheets = sheet(list(sample.rows[worst]), 8, 112)
    says = f"The inputs {which}, worst first: what the model knows least."
    made.append(_picture("The worst", says, sheets))
    if (filters := _filters(job)) is not None:
        made.append(
            _picture(
                "Filters of the first layer",
                "The weights of up to 64 units, each relative to its largest: red is positive, "
                "blue negative. Edges and blobs show that the layer has learned, noise that it has "
                "not yet.",
                filters,
            )
        )
    axes = "its two elements" if sample.codes[0].size == 2 else "its first two principal components"
    made.append(
        _picture(
            "Map of the codes",
            f"Inputs at the places of their codes, along {axes}. Neighbours look alike where "
            "the code is good.",
            map_sheet(points, list(sample.rows)),
        )
    )
    return made + _denoised(job) + _generated(job)


def _picture(title: str, says: str, pixels: Pixels) -> Picture:
    return Picture(title, says, data_uri(pixels), pixels.shape[1])


def _filters(job: Job) -> Pixels | None:
    """The first layer's weights as images, averaged over channels."""
    name = job.model.manifest.training.get("first_layer")
    spec = job.model.spec
    if name is None or not isinstance(spec, ImageSpec):
        return None
    weight = job.model.weights().get(name, np.empty(0)).astype(np.float64)
    if weight.ndim == 2 and weight.shape[1] == spec.elements:
        weight = weight.reshape(-1, spec.channels, spec.height, spec.width)
    if weight.ndim != 4 or not weight.size:
        raise ModelError(f"{job.model.location} has no weights {name!r} of a first layer")
    order = np.argsort(-np.square(weight).sum((1, 2, 3)))[:FILTERS_SHOWN]
    return sheet([diverging(weight[number].mean(0)) for number in order], 16, 60, 6)


def _denoised(job: Job) -> list[Picture]:
    golden = job.model.golden()
    if "corrupted" not in golden:
        return []
    noisy = golden["corrupted"]
    cleaned = job.engine.decode(job.engine.encode(noisy), *size_of(noisy.shape[1:]))
    rows = [*golden["image"], *noisy, *cleaned]
    return [
        _picture(
            "Denoising",
            "Clean images that were not trained on, the same images corrupted as in training "
            "(here in grey levels), and what the model rebuilds from the latter.",
            sheet(rows, len(noisy), 112),
        )
    ]


def _generated(job: Job) -> list[Picture]:
    golden = job.model.golden()
    made = []
    if "samples" in golden:
        side = math.isqrt(len(golden["samples"]))
        pixels = sheet(list(golden["samples"]), side, 64)
        made.append(_picture("Samples", "Codes drawn from N(0, I), decoded.", pixels))
    if "manifold" in golden:
        side = math.isqrt(len(golden["manifold"]))
        others = golden["code"].shape[1] > 2
        made.append(
            _picture(
                "Manifold",
                "Decoded codes: two elements run through the quantiles of N(0, 1)"
                f"{', the others are those of one sample' if others else ''} (Kingma & Welling "
                "2013, figure 4).",
                sheet(list(golden["manifold"]), side, 48),
            )
        )
    return made


def _values(job: Job, codes: Codes) -> Numbers:
    """Codes as the decoder sees them."""
    values: Numbers = codes * _steps(job, codes).reshape(-1, *[1] * (codes.ndim - 2))
    return values


def _steps(job: Job, codes: Codes) -> Numbers:
    """The quantiser's step of each channel, or element, of codes (n, channels, ...)."""
    steps: Numbers = np.array(job.model.manifest.quantiser.get("steps", []), np.float64)
    if steps.shape != codes.shape[1:2]:
        raise ModelError(f"{job.model.location} does not have a step for each channel of a code")
    return steps


def _plane(job: Job, codes: Codes) -> Numbers:
    """(n, 2): codes along two principal components; codes of two elements as they are."""
    values = _values(job, codes).reshape(len(codes), -1)
    if values.shape[1] == 2:
        return values
    if values.shape[1] == 1:
        return np.hstack([values, np.zeros_like(values)])
    values = values - values.mean(0)
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    plane: Numbers = left[:, :2] * sizes[:2]
    return plane if plane.shape[1] == 2 else np.hstack([plane, np.zeros_like(plane)])


def _histograms(job: Job, codes: Codes) -> list[Histogram]:
    """Histograms of the elements, or channels, whose values spread most."""
    channels = np.moveaxis(codes, 1, 0).reshape(codes.shape[1], -1).astype(np.int64)
    steps = _steps(job, codes)
    made = []
    for number in np.argsort(-channels.std(1) * steps, kind="stable")[:HISTOGRAMS_SHOWN]:
        integers = channels[number]
        path, low, high = bars(integers, MAX_BINS)
        _, counts = np.unique(integers, return_counts=True)
        shares = counts / counts.sum()
        bits = abs(float((shares * np.log2(shares)).sum())) * (integers.size / len(codes))
        made.append(
            Histogram(
                str(number),
                path,
                low * steps[number],
                high * steps[number],
                float((integers == 0).mean()),
                bits,
            )
        )
    return made


def _curve(job: Job) -> Curve | None:
    if "training.csv" not in job.model.manifest.files:
        return None
    try:
        rows = list(csv.DictReader(io.StringIO(job.model.read("training.csv").decode())))
        step, loss, validation = (
            np.array([float(row[name]) for row in rows], np.float64)
            for name in ("step", "loss", "validation_loss")
        )
        phases = [row["phase"] for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ModelError(
            f"{job.model.location}/training.csv is damaged; take a good copy of the model"
        ) from error
    if len(rows) < 2:
        return None
    both = np.concatenate([loss, validation])
    x, y = axis(step), axis(both[np.isfinite(both)], logarithmic=True)
    starts = [n for n, phase in enumerate(phases) if n == 0 or phase != phases[n - 1]]
    ends = [*starts[1:], len(rows)]
    known = np.isfinite(validation)
    curves = [
        line(x.place(step[a:b][known[a:b]]), y.place(validation[a:b][known[a:b]]))
        for a, b in zip(starts, ends, strict=True)
        if known[a:b].any()
    ]
    marks = [(float(x.place(step[a])), phases[a]) for a in starts]
    return Curve(
        "".join(
            line(x.place(step[a:b]), y.place(loss[a:b])) for a, b in zip(starts, ends, strict=True)
        ),
        curves,
        x,
        y,
        marks if len(marks) > 1 else [],
    )


def _columns(spec: VectorSpec, sample: Sample) -> list[tuple[str, float, float, float]]:
    """The 20 worst columns: name, mean squared error (standardised), a value, it rebuilt."""
    scale = np.array(spec.scale)
    assert sample.rebuilt is not None  # features are of images
    errors = np.square((sample.rows.astype(np.float64) - sample.rebuilt) / scale).mean(0)
    names = spec.columns or [f"c{number}" for number in range(spec.length)]
    return [
        (names[n], float(errors[n]), float(sample.rows[0, n]), float(sample.rebuilt[0, n]))
        for n in np.argsort(-errors)[:20]
    ]
