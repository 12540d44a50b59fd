"""Rate-distortion curves of several data sets, side by side, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .curves import Curve, RateOfPsnr

COLUMNS = 2
PSNR = (16, 42)  # dB shown
# Colours of Okabe & Ito 2008, which most people can tell apart.
STYLES: dict[str, dict[str, object]] = {
    "JPEG": {"color": "#b0b0b0"},
    "JPEG 2000": {"color": "#777777"},
    "WebP": {"color": "#56b4e9"},
    "AVIF": {"color": "#0072b2"},
    "JPEG-XL": {"color": "#009e73"},
    "PCA, ideal": {"color": "#cc79a7", "linestyle": ":"},
    "bmshj2018-factorized": {"color": "#e69f00", "marker": "."},
    "bmshj2018-hyperprior": {"color": "#8c5a00", "marker": "."},
    "bmshj2018-factorized, published": {"color": "#e69f00", "linestyle": "--"},
    "bmshj2018-hyperprior, published": {"color": "#8c5a00", "linestyle": "--"},
    "ours, longer": {"color": "#d00000", "marker": "o", "markersize": 4, "linewidth": 2.2},
    "ours": {"color": "#ff8080", "marker": "o", "markersize": 3},
}


def write_plot(file: Path, panels: Mapping[str, Mapping[str, RateOfPsnr]]) -> None:
    """A panel for each data set by its title; curves by the names in STYLES."""
    rows = -(-len(panels) // COLUMNS)
    # Without a date and with ids from a fixed salt the file changes only if the figures do.
    with matplotlib.rc_context({"svg.hashsalt": "compression", "font.size": 9}):
        figure = Figure(figsize=(9.5, 3.6 * rows + 0.7), layout="constrained")
        axes = figure.subplots(rows, COLUMNS, squeeze=False)
        lines = {}
        for place, (title, curves) in zip(axes.flat, panels.items(), strict=False):
            for name, curve in curves.items():
                psnr = np.linspace(max(curve.low, PSNR[0]), min(curve.high, PSNR[1]), 200)
                style = {"linewidth": 1.4, **STYLES[name]}
                marks = style.pop("marker", None)
                (lines[name],) = place.plot(curve.bits(psnr), psnr, label=name, **style)
                if marks and isinstance(curve, Curve):
                    place.plot(curve.rates, curve.psnrs, marker=marks, linestyle="", **style)
            place.set_xscale("log")
            place.set_ylim(*PSNR)
            place.set_title(title, fontsize=10)
            place.set_xlabel("bits a pixel")
            place.set_ylabel("PSNR in dB")
            place.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            place.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            place.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            place.grid(alpha=0.25)
            place.spines[["top", "right"]].set_visible(False)
        for place in axes.flat[len(panels) :]:
            place.set_visible(False)
        names = [name for name in STYLES if name in lines]
        figure.legend(
            [lines[name] for name in names],
            names,
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        figure.savefig(file, metadata={"Date": None})
