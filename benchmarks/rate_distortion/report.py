"""Tables and plot of the cells: benchmarks/results/compression.md and compression.svg."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cells import RESULTS, Cell

from .curves import Best, Curve, Point, RateOfPsnr, bd_rate, bits_a_pixel
from .figures import Figures
from .ours import LONGER, OURS
from .plot import write_plot

HEADLINE = 100_000
SHARING = (10_000, HEADLINE, 1_000_000)
CODECS = ("JPEG", "JPEG 2000", "WebP", "AVIF", "JPEG-XL")
FACTORIZED, HYPERPRIOR = "bmshj2018-factorized", "bmshj2018-hyperprior"
GRID = range(18, 41, 2)  # dB
NOT_ALIKE = (LONGER, HYPERPRIOR)  # what is to be compared was trained as long

# (bits a pixel, dB): the mean of the PSNRs of all 24 Kodak photos, from 8-bit output; without the
# model. CompressAI's repository, results/image/8bit-decoded/kodak/compressai-*_mse_ans_cuda.json
# (Bégaint et al. 2020); rounded to four digits.
PUBLISHED = {
    FACTORIZED: (
        (0.1226, 26.906),
        (0.1885, 28.214),
        (0.2878, 29.611),
        (0.4404, 31.268),
        (0.6481, 32.944),
        (0.9670, 35.360),
        (1.3512, 37.365),
        (1.8333, 39.569),
    ),
    HYPERPRIOR: (
        (0.1313, 27.578),
        (0.2089, 29.192),
        (0.3199, 30.964),
        (0.4784, 32.827),
        (0.6687, 34.509),
        (0.9388, 36.716),
        (1.2592, 38.543),
        (1.6602, 40.493),
    ),
}


@dataclass(frozen=True)
class Goal:
    """``against``: "rivals" (the best codec), or a method; ``wanted``: a change of rate."""

    data: str
    against: str
    wanted: float
    low: float = -np.inf
    high: float = np.inf


GOALS = (
    *(
        Goal(data, "rivals", wanted, low, high)
        for data in ("fashion-mnist", "mnist")
        for low, high, wanted in ((20, 24, -0.55), (24, 28, -0.35), (28, 32, -0.10))
    ),
    *(Goal(data, "rivals", -0.20) for data in ("cifar-10", "crops", "eurosat")),
    *(
        Goal(data, HYPERPRIOR, -0.10)
        for data in ("fashion-mnist", "mnist", "cifar-10", "crops", "eurosat", "kodak")
    ),
    Goal("kodak", f"{FACTORIZED}, published", 0.0),
)


@dataclass(frozen=True)
class Found:
    """All measured cells of one data set."""

    name: str
    title: str
    split: str
    cells: Sequence[tuple[Cell[Figures], Figures]]

    def of(self, method: str) -> list[tuple[Cell[Figures], Figures]]:
        return [(cell, figures) for cell, figures in self.cells if cell.key["method"] == method]

    def curve(self, method: str, sharing: int | None, mean: bool = False) -> Curve | None:
        """Through all points of a method, with pooled PSNRs or the means of the images' PSNRs."""
        points = [
            Point(bits_a_pixel(figures, sharing), figures.mean_psnr if mean else figures.psnr)
            for _, figures in self.of(method)
        ]
        return Curve(points) if points else None

    def ideal(self, method: str) -> Curve | None:
        """As if each image's bits were those of its likelihoods, at the headline."""
        points = [
            Point(
                bits_a_pixel(replace(figures, bytes=figures.facts["ideal_bytes"]), HEADLINE),
                figures.psnr,
            )
            for _, figures in self.of(method)
        ]
        return Curve(points) if points else None

    def variants(self, codec: str) -> dict[str, Curve]:
        """A curve for each form and setting that is no level."""
        points: dict[str, list[Point]] = {}
        for cell, figures in self.of(codec):
            name = f"{cell.key['form']}, {cell.key['setting']}"
            points.setdefault(name, []).append(Point(bits_a_pixel(figures, None), figures.psnr))
        return {name: Curve(found) for name, found in points.items()}

    def codecs(self) -> dict[str, Best]:
        """Each in its best form and setting at each PSNR."""
        found = {codec: list(self.variants(codec).values()) for codec in CODECS}
        return {codec: Best(curves) for codec, curves in found.items() if curves}

    def rivals(self) -> Best | None:
        """The best codec at each PSNR."""
        curves = [curve for codec in CODECS for curve in self.variants(codec).values()]
        return Best(curves) if curves else None

    def opponent(self, against: str) -> RateOfPsnr | None:
        if against == "rivals":
            return self.rivals()
        if against.endswith(", published"):
            return published(against.removesuffix(", published"))
        return self.curve(against, HEADLINE)


def published(method: str) -> Curve:
    return Curve([Point(bits, psnr) for bits, psnr in PUBLISHED[method]])


def write_report(found: Sequence[Found], seconds: float, longer: float) -> None:
    """compression.md, and the plot that it shows."""
    parts = [_introduction(seconds, longer), _goals(found), *map(_section, found)]
    report = "\n\n".join(part for part in parts if part)
    (RESULTS / "compression.md").write_text(f"{report}\n")
    write_plot(RESULTS / "compression.svg", {data.title: _plotted(data) for data in found})


def _introduction(seconds: float, longer: float) -> str:
    return f"""\
# Compression: all tables

    python benchmarks/compression.py --data FOLDER --work FOLDER --compressai PYTHON \\
        --seconds {seconds:g} --longer {longer:g}

measures. The same with `--report` writes this page and its plot from the measured cells and from
those in [compression.jsonl](compression.jsonl), which are not measured again.
[docs/benchmarks.md](../../docs/benchmarks.md#compression) says what follows from it.

A training is one process of one thread (`OMP_NUM_THREADS=1`); its time is the thread's CPU time,
which other work on the machine changes little. Bytes are sizes of files; a rate is bytes times 8
over height x width, in bits a pixel. PSNR is 10 log10(255² / MSE), the MSE pooled over all values
of all test images after rounding. Rates between measured points are interpolated (PCHIP of the log
rate over PSNR). No test image was trained on.

- *Codecs* are those of `compress --compare`, as one file an image (at most 500 images) and as
  mosaic (all test images on near-square sheets of up to 4 megapixels): JPEG with optimised Huffman
  tables, 4:2:0 and 4:4:4; JPEG 2000, irreversible; WebP, method 6; AVIF, speed 4 and, as mosaic of
  at most 2,000 images, 0, 4:2:0 and 4:4:4 (4:0:0 for grey); JPEG-XL, effort 7 and, as such a
  mosaic, 9. The *best codec* is at each PSNR the one with the fewest bits in its best form and
  setting. Mosaics of cells padded to 32x32, as AVIF's transforms would like, were tried at speed 4:
  more bits for Fashion-MNIST, no fewer for MNIST.
- *Ours* trained for {seconds:g} s a row, and CompressAI's models on the same images for as long;
  *ours, longer* for {longer:g} s. "As measured" is the archive of the test images without the
  model. "At" a number of images, so many share the model and what an archive holds once whatever
  its size (its manifest; found by compressing the test images twice over). The headline is
  {HEADLINE:,}.
- *CompressAI* 1.2.8: Adam from 1e-3 to 0 in the time given, our objective, N = 32 or 64 (which was
  better at the middle rate; the published models have 128) and M = 3N/2, one channel for grey.
  Small images are padded by reflection to multiples of 16 or 64; bits are those of `compress()` for
  the whole padded image, errors those inside. "Ideal" is the code length of the likelihoods: a
  string an image costs some bytes more, which shows where images are small. The model's bytes are
  its decoder side's parameters in fp16 and xz, while what is measured runs in float32.
- *PCA* is fitted to the training images (larger ones in pieces of 16x16) and rounded with one step;
  each component costs the ideal code length under the frequencies of the training codes. Its model
  is not counted, so it is no codec but a bound on a linear one.

![Rate and distortion on the data sets](compression.svg)"""


def _goals(found: Sequence[Found]) -> str:
    """BD-rates of our models, where there are any, shared by the headline's number of images."""
    rows = []
    for goal in GOALS:
        data = next((data for data in found if data.name == goal.data), None)
        is_published = goal.against.endswith("published")
        for method in (OURS, LONGER):
            if data is None or not data.of(method) or (method, goal.against) == NOT_ALIKE:
                continue
            ours = data.curve(method, HEADLINE, mean=is_published)
            theirs = data.opponent(goal.against)
            result = bd_rate(ours, theirs, goal.low, goal.high) if ours and theirs else None
            asked = "all" if goal.low < 0 else f"{goal.low:g} to {goal.high:g}"
            against = "the best codec" if goal.against == "rivals" else goal.against
            row = [data.title, method, against, asked]
            wanted = f"{goal.wanted:.0%}"
            if result is None:
                apart = f"none: theirs end at {theirs.high:.1f}" if ours and theirs else "none"
                rows.append([*row, apart, "-", wanted, "-"])
                continue
            over = f"{result.low:.1f} to {result.high:.1f}"
            whole = goal.low < 0 or (result.low <= goal.low and result.high >= goal.high)
            reached = "yes" if whole else "over these dB only"
            met = "**no**" if result.change > goal.wanted else reached
            rows.append([*row, over, f"{result.change:+.1%}", wanted, met])
    if not rows:
        return ""
    head = ["data", "", "against", "dB asked", "dB compared", "BD-rate", "wanted", "met"]
    return f"""## Against the goals

BD-rate of our models with their part of the model at {HEADLINE:,} images: the mean change of rate
at equal PSNR over what both curves cover, from five points or more each.

{_table(head, rows)}"""


def _section(data: Found) -> str:
    parts = [f"## {data.title}", f"Training and test: {data.split}.", _rates(data)]
    if best := _best_codecs(data):
        parts.append(best)
    if points := _points(data):
        parts.append(points)
    return "\n\n".join(parts)


def _rates(data: Found) -> str:
    """Bits a pixel at round PSNRs."""
    curves: dict[str, RateOfPsnr | None] = {**data.codecs(), "**best codec**": data.rivals()}
    curves["PCA, ideal, without model"] = data.curve("PCA", None)
    for method in (FACTORIZED, HYPERPRIOR):
        curves[f"{method}, at {HEADLINE:,}"] = data.curve(method, HEADLINE)
        curves[f"{method}, at {HEADLINE:,}, ideal"] = data.ideal(method)
    for method in (OURS, LONGER):
        curves[f"{method}, as measured"] = data.curve(method, None)
        for sharing in SHARING:
            mark = "**" if sharing == HEADLINE else ""
            curves[f"{mark}{method}, at {sharing:,}{mark}"] = data.curve(method, sharing)
    if data.name == "kodak":
        for method in PUBLISHED:
            curves[f"{method}, published, mean PSNR"] = published(method)
        curves[f"ours, at {HEADLINE:,}, mean PSNR"] = data.curve(OURS, HEADLINE, mean=True)
    psnr = np.array(GRID, np.float64)
    rows = []
    for name, curve in curves.items():
        if curve:
            bits = curve.bits(psnr)
            rows.append([name, *("-" if np.isnan(value) else _bits(value) for value in bits)])
    return "Bits a pixel at a PSNR in dB:\n\n" + _table(["", *map(str, GRID)], rows)


def _best_codecs(data: Found) -> str:
    """Which codec, form and setting the best is; dB in a row where it is the same."""
    variants = {
        f"{codec}, {name}": curve
        for codec in CODECS
        for name, curve in data.variants(codec).items()
    }
    if not variants:
        return ""
    psnr = np.array(GRID, np.float64)
    bits = Best(list(variants.values())).all_bits(psnr)
    spans: list[tuple[str, list[int]]] = []
    for place, column in zip(GRID, bits.T, strict=True):
        if not np.isnan(column).all():
            name = list(variants)[int(np.nanargmin(column))].replace("{:g}", "*")
            name = name.replace("{:.3g}", "*")
            if not spans or spans[-1][0] != name:
                spans.append((name, []))
            spans[-1][1].append(place)
    choices = "; ".join(
        f"{places[0]} to {places[-1]} dB {name}" if len(places) > 1 else f"{places[0]} dB {name}"
        for name, places in spans
    )
    return f"The best codec: {choices}."


def _points(data: Found) -> str:
    """The measured points of what was trained."""
    rows = []
    for method in (FACTORIZED, HYPERPRIOR, OURS, LONGER):
        for cell, figures in sorted(data.of(method), key=lambda found: found[1].psnr):
            facts = figures.facts
            rows.append(
                [
                    method,
                    _setting(cell.key),
                    f"{facts['parameters']:,}",
                    f"{facts['seconds']:.0f} s, {facts['steps']:,}",
                    f"{figures.psnr:.2f}",
                    f"{figures.mean_psnr:.2f}",
                    f"{figures.bytes / figures.images:,.1f}",
                    f"{figures.model_bytes:,}",
                    *(_bits(bits_a_pixel(figures, sharing)) for sharing in (None, *SHARING)),
                ]
            )
    if not rows:
        return ""
    head = ["", "setting", "parameters", "training, steps", "PSNR", "mean PSNR", "bytes an image"]
    head += ["model", "as measured", *(f"at {sharing:,}" for sharing in SHARING)]
    return "The points of what was trained; the last four columns are bits a pixel:\n\n" + _table(
        head, rows
    )


def _setting(key: Any) -> str:
    if "width" in key:
        return f"N = {key['width']}, rate {key['rate']:g}"
    settings = ", ".join(f"{name}={value}" for name, value in key["settings"].items())
    return f"`{key['plugin']}` {settings}"


def _plotted(data: Found) -> dict[str, RateOfPsnr]:
    curves: dict[str, RateOfPsnr | None] = {**data.codecs(), "PCA, ideal": data.curve("PCA", None)}
    for method in (FACTORIZED, HYPERPRIOR):
        curves[method] = data.curve(method, HEADLINE)
    if data.name == "kodak":
        curves |= {f"{method}, published": published(method) for method in PUBLISHED}
    curves |= {method: data.curve(method, HEADLINE) for method in (OURS, LONGER)}
    return {name: curve for name, curve in curves.items() if curve}


def _bits(value: float) -> str:
    return f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
