"""The verb ``calibrate``: new calibration scores, from images that the model was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images import Images, Rows
from ..engine.job import Job

Answers = dict[str, npt.NDArray[np.float32]]


def calibrate(
    model: str | Path, data: str | Path | Rows, *, device: str = "auto", progress: bool = False
) -> dict[str, Any]:
    """Scores normal images and puts their scores into the model in place of the earlier ones.

    Gives model, images, unreadable, seconds, device. Raises CompressorError.
    """
    job = Job("calibrate", data, model, device)
    names = job.model.manifest.scores

    def work(images: Images) -> list[Answers]:
        answers = [job.engine.score(group.pixels) for group in images.groups]
        return [{name: answer[name] for name in names} for answer in answers]

    answers = [answer for _, part in job.run(work, progress=progress) for answer in part]
    scores = {
        name: np.concatenate([answer[name] for answer in answers]).astype(np.float64)
        for name in names
    }
    job.model.write_calibration(scores)
    return {"model": str(model), **job.summary()}
