"""The verb ``calibrate``: new calibration scores, from images that the model was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import Data, Images
from ..engine.job import Job
from ..files import refuse_elsewhere
from .calibration import Scores
from .scorers import Seen, score_all, scorers


def calibrate(
    model: str | Path, data: Data, *, device: str = "auto", progress: bool = False
) -> dict[str, Any]:
    """Scores normal images and puts all their scores into the model in place of the earlier ones.

    Gives model, images, unreadable, seconds, device. Raises CompressorError.
    """
    refuse_elsewhere(data, outputs=[model])
    job = Job("calibrate", data, model, device)
    available = scorers(job.model)

    def work(images: Images) -> list[dict[str, Scores]]:
        return [score_all(available, Seen(job.engine, group.pixels)) for group in images.groups]

    answers = [answer for _, part in job.run(work, progress=progress) for answer in part]
    scores = {name: np.concatenate([answer[name] for answer in answers]) for name in available}
    job.model.write_calibration(scores)
    return {"model": str(model), **job.summary()}
