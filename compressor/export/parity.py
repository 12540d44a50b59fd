"""Do the exported graphs say what torch says? Checked on real images; a model fails without it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.images import Pixels
from ..engine.providers import choose_device
from ..errors import ExportError
from ..plugin import Autoencoder
from .graphs import Decoder, Encoder, Scorer, score_names

BATCHES = (1, 2, 5)
TIE = 1e-3  # a code this near to a rounding boundary may fall on either side
SCORE_TOLERANCE = 1e-4
SCORE_FLOOR = 1e-9  # an error of float32 itself: pixels that are 3e-5 apart


@dataclass(frozen=True)
class Parity:
    """The largest differences seen; codes: how many differed, all of them ties."""

    batches: tuple[int, ...]
    code_ties: int
    codes: int
    pixel_levels: int
    score_relative: float


def check_parity(
    model: Autoencoder, steps: Tensor, graphs: dict[str, bytes], images: Pixels
) -> dict[str, object]:
    """Runs torch and ONNX Runtime on ``images`` (N, H, W, C) uint8 in batches of 1, 2 and 5.

    Raises ExportError where codes differ but for ties at rounding, pixels by more than one grey
    level, or scores by more than 1e-4 relative.
    """
    encoder, decoder, scorer = Encoder(model, steps), Decoder(model, steps), Scorer(model)
    sessions = {name: choose_device("cpu").session(graph) for name, graph in graphs.items()}
    ties = codes = levels = 0
    relative, start = 0.0, 0
    for size in BATCHES:
        batch = images[np.arange(start, start + size) % len(images)]
        start += size
        x = torch.from_numpy(batch)
        with torch.no_grad():
            code, scores = encoder(x), scorer(x)
            image = decoder(code).numpy()
            scaled = (model.encode(x.permute(0, 3, 1, 2).float() / 255).mean / steps).numpy()
        (onnx_code,) = sessions["encoder"].run(["code"], {"image": batch})
        (onnx_image,) = sessions["decoder"].run(["image"], {"code": code.numpy()})
        names = [*score_names(model), "error_map"]
        onnx_scores = sessions["scorer"].run(names, {"image": batch})

        _refuse_shape("encoder", onnx_code, code.numpy())
        _refuse_shape("decoder", onnx_image, image)
        differs = onnx_code != code.numpy()
        near = np.abs(scaled + 0.5 - np.round(scaled + 0.5)) < TIE * np.maximum(1, np.abs(scaled))
        if not np.isfinite(scaled).all():
            raise ExportError("encoder: codes are not finite; the training has diverged")
        wrong = (differs & ~near) | (np.abs(onnx_code - code.numpy()) > 1)
        if wrong.any():
            raise ExportError(
                f"encoder: {int(wrong.sum())} of {differs.size} codes differ from "
                f"torch's in a batch of {size}"
            )
        ties, codes = ties + int(differs.sum()), codes + differs.size
        levels = max(levels, int(np.abs(onnx_image.astype(int) - image.astype(int)).max()))
        if levels > 1:
            raise ExportError(
                f"decoder: pixels differ from torch's by {levels} grey levels in a batch of {size}"
            )
        for name, ours, theirs in zip(names, scores, onnx_scores, strict=True):
            _refuse_shape("scorer", theirs, ours.numpy())
            if name == "error_map":
                continue
            difference = np.maximum(np.abs(theirs - ours.numpy()) - SCORE_FLOOR, 0)
            found = float((difference / (np.abs(ours.numpy()) + SCORE_FLOOR)).max())
            relative = max(relative, found)
            if not found <= SCORE_TOLERANCE:  # also where it is not a number
                raise ExportError(
                    f"scorer: {name} differs from torch's by {found:.1e} relative in a batch "
                    f"of {size}"
                )
    return asdict(Parity(BATCHES, ties, codes, levels, relative))


def _refuse_shape(graph: str, ours: np.ndarray, torchs: np.ndarray) -> None:
    if ours.shape != torchs.shape or ours.dtype != torchs.dtype:
        raise ExportError(
            f"{graph}: gives {ours.dtype} {ours.shape}, torch gives {torchs.dtype} {torchs.shape}"
        )
