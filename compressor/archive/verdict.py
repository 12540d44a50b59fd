"""Whether an archive is worth it: beside the data as they were stored, and beside other codecs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..codecs.rivals import RivalSize

OURS = "this archive"  # as a row beside those of other codecs


def row_of(size: RivalSize) -> dict[str, Any]:
    """As JSON has it."""
    return {name: None if value == math.inf else value for name, value in vars(size).items()}


def our_row(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The archive beside its rivals. summary: that of ``compress`` with ``measure``."""
    size, pixels = summary["archive_bytes"], summary["bits_per_pixel"]
    psnr, images = summary["psnr"], summary["images"]
    return row_of(RivalSize(OURS, "with its model", "", size, pixels, psnr, images))


def verdict(summary: Mapping[str, Any]) -> Iterator[str]:
    """Sentences. summary: that of ``compress``, with "compare" if that was asked."""
    archive, model, images = (summary[k] for k in ("archive_bytes", "model_bytes", "images"))
    source = summary["source_bytes"]
    if source:
        smaller = _by_how_much(archive, source)
        yield f"the archive is {smaller} than the data as they were stored, {_loss(summary)}"
        if archive >= source:
            yield "it does not pay for these data: keep them as they are"
    rivals = [r for r in summary.get("compare", ()) if r["codec"] != OURS and r["bytes"]]
    if not rivals:
        return
    best = min(rivals, key=lambda rival: int(rival["bytes"]))
    name = f"{best['codec']} ({best['form']})"
    yield f"the archive is {_by_how_much(archive, best['bytes'])} than {name} at this PSNR"
    saved = (best["bytes"] - (archive - model)) / images  # by the codes alone, of each image
    if saved <= 0:
        yield f"its model does not pay, however many such images there are: use {best['codec']}"
    elif archive >= best["bytes"]:
        yield f"its model pays from about {math.ceil(model / saved):,} such images on"


def _loss(summary: Mapping[str, Any]) -> str:
    for name, unit in (("psnr", " dB"), ("mse", "")):
        if name in summary:
            value = summary[name]
            return f"with {name.upper()} {value:.4g}{unit}" if value is not None else "exactly"
    return "with a loss that was not measured (--measure)"


def _by_how_much(size: int, other: int) -> str:
    percent = 100 * abs(1 - size / other)
    digits = 0 if percent >= 10 else 1
    return f"{percent:.{digits}f}% {'smaller' if size <= other else 'larger'}"
