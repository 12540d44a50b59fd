"""The verb ``sample``: new images or vectors, decoded from codes that a density draws."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Rows
from ..data.sinks import open_sink
from ..errors import ConfigError
from ..files import refuse_elsewhere
from ..progress import Progress
from ..spec import VectorSpec
from .latents import Latents
from .pictures import MAX_SHOWN, grid, refuse_picture, refuse_rows, write_picture


def sample(
    model: str | Path,
    *,
    n: int = 64,
    output: str | Path | None = None,
    sheet: str | Path | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    device: str = "auto",
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Decodes ``n`` codes, drawn from N(0, I) or from the density of the model's training codes.

    output: a folder of PNG, .npy or .parquet; of vectors .npy, .csv or .parquet. sheet: a .png with
    the first images side by side. One of them is needed. temperature: deviations are multiplied by
    it; 0 gives the means. Of one seed the first samples are the same whatever ``n`` is.

    Gives samples, density (in words), components, temperature, seed, seconds, device.
    Raises CompressorError.
    """
    refuse_elsewhere(model, outputs=[path for path in (output, sheet) if path is not None])
    started = time.monotonic()
    if n < 1:
        raise ConfigError(f"n={n}: at least one has to be drawn")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature={temperature}: a temperature is 0 or more")
    if output is None and sheet is None:
        raise ConfigError("samples need a place: give output=FOLDER or sheet=F.png")
    target = None if output is None else Path(output)
    picture = None if sheet is None else Path(sheet)
    latents = Latents.open(model, device)
    vectors = latents.model.spec if isinstance(latents.model.spec, VectorSpec) else None
    if target is not None:
        refuse_rows(target, force, model)
    if picture is not None:
        refuse_picture("sheet", picture, force, latents.model.spec, model)
    shown: list[Rows] = []
    latents.density  # noqa: B018  (what has none writes nothing)
    with ExitStack() as stack:
        sink = target and stack.enter_context(open_sink(target, n, force, vectors))
        bar = stack.enter_context(Progress("sample", n, shown=progress))
        done, width = 0, len(str(n - 1))
        for codes in latents.draw(n, seed, temperature):
            rows = latents.decode(codes)
            names = [f"{number:0{width}}" for number in range(done, done + len(rows))]
            if sink:
                sink.write(names, list(rows))
            shown.append(rows[: MAX_SHOWN - done] if done < MAX_SHOWN else rows[:0])
            done += len(rows)
            bar.update(done)
    if picture is not None:
        write_picture(picture, grid(np.concatenate(shown)), force)
    return {
        "samples": n,
        "density": latents.origin,
        "components": latents.density.components,
        "temperature": temperature,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 3),
        "device": latents.engine.device.name,
    }
