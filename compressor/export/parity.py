"""Do the exported graphs agree with torch? Checked on real data; models that fail are refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.providers import choose_device
from ..errors import ExportError
from ..plugin import Autoencoder, Pass
from ..spec import VectorSpec
from .graphs import Decoder, Encoder
from .scores import FurtherScorer, Scorer, score_names

BATCHES = (1, 2, 5)  # sizes
NON_NEGATIVE_SCORES = ("l2", "l1")  # whose errors are relative to their own size
ROUNDING_TIE = 1e-3  # codes this near to a rounding boundary may fall on either side
SCORE_TOLERANCE = 1e-4
SCORE_FLOOR = 1e-9  # float32's own error: pixels that are 3e-5 apart
VALUE_TOLERANCE = 1e-4  # of a vector's values, relative to their column's scale and their size


@dataclass(frozen=True)
class Parity:
    """The largest differences seen. code_ties: how many of all ``codes`` differed, all by ties.

    pixel_levels: of images, in grey levels; value_relative: of vectors.
    """

    batches: tuple[int, ...]
    code_ties: int
    codes: int
    pixel_levels: int | None
    value_relative: float | None
    score_relative: float


def check_parity(
    model: Autoencoder,
    steps: Tensor,
    graphs: dict[str, bytes],
    data: npt.NDArray[Any],
    nats: float | None = None,
) -> dict[str, object]:
    """Runs torch and ONNX Runtime on ``data`` (N, *spec.shape) in batches of 1, 2 and 5.

    Raises ExportError where codes differ other than by rounding ties, pixels by more than one grey
    level, a vector's values or scores by more than 1e-4 relative.
    """
    encoder, decoder = Encoder(model, steps), Decoder(model, steps)
    scorer = Scorer(model, nats)
    further = None if model.rebuilds_features else FurtherScorer(model)
    sessions = {name: choose_device("cpu").session(graph) for name, graph in graphs.items()}
    names = [*score_names(model, nats), "error_map"]
    further_names = [] if further is None else [*further.names, "hidden_differences"]
    kind = model.spec.kind
    ties = codes = start = 0
    apart = relative = 0.0
    for size in BATCHES:
        batch = data[np.arange(start, start + size) % len(data)]
        start += size
        stored = torch.from_numpy(batch)
        with torch.no_grad():
            code = encoder(stored)
            scores = [score.numpy() for score in scorer(stored)]
            if further is not None:
                scores += [score.numpy() for score in further(stored)]
            scaled = encoder.scaled(
                Pass(model, encoder.normalisation(stored), training=False)
            ).numpy()
        (onnx_code,) = sessions["encoder"].run(["code"], {kind: batch})
        onnx_scores = sessions["scorer"].run(names, {kind: batch})
        if further is not None:
            onnx_scores += sessions["further"].run(further_names, {kind: batch})

        _refuse_shape("encoder", onnx_code, code.numpy())
        differs = onnx_code != code.numpy()
        near = np.abs(scaled + 0.5 - np.round(scaled + 0.5)) < ROUNDING_TIE * np.maximum(
            1, np.abs(scaled)
        )
        if not np.isfinite(scaled).all():
            raise ExportError("encoder: codes are not finite; the training has diverged")
        wrong = (differs & ~near) | (np.abs(onnx_code - code.numpy()) > 1)
        if wrong.any():
            raise ExportError(
                f"encoder: {int(wrong.sum())} of {differs.size} codes differ from "
                f"torch's in a batch of {size}"
            )
        ties, codes = ties + int(differs.sum()), codes + differs.size
        if "decoder" in sessions:
            with torch.no_grad():
                decoded = decoder(code).numpy()
            (onnx_decoded,) = sessions["decoder"].run([kind], {"code": code.numpy()})
            _refuse_shape("decoder", onnx_decoded, decoded)
            apart = max(apart, _decoded_apart(model, onnx_decoded, decoded, size))
        for name, ours, theirs in zip([*names, *further_names], scores, onnx_scores, strict=True):
            _refuse_shape("scorer", theirs, ours)
            if name == "error_map":
                continue
            # Other scores may have any sign, or be a small difference of large numbers.
            floor = (
                SCORE_FLOOR
                if name in NON_NEGATIVE_SCORES
                else float(np.abs(ours).max()) + SCORE_FLOOR
            )
            difference = np.maximum(np.abs(theirs - ours) - SCORE_FLOOR, 0)
            worst = float((difference / np.maximum(np.abs(ours), floor)).max())
            relative = max(relative, worst)
            if not worst <= SCORE_TOLERANCE:  # NaN, too
                raise ExportError(
                    f"scorer: {name} differs from torch's by {worst:.1e} relative in a batch "
                    f"of {size}"
                )
    levels, values = (None, apart) if isinstance(model.spec, VectorSpec) else (int(apart), None)
    if "decoder" not in sessions:
        levels = None
    return asdict(Parity(BATCHES, ties, codes, levels, values, relative))


def _decoded_apart(
    model: Autoencoder, ours: npt.NDArray[Any], torchs: npt.NDArray[Any], size: int
) -> float:
    """How far decoded data are apart: in grey levels, or relative; or ExportError."""
    if isinstance(model.spec, VectorSpec):
        scale = np.asarray(model.spec.scale, np.float32)
        apart = float((np.abs(ours - torchs) / (scale + np.abs(torchs))).max())
        if not apart <= VALUE_TOLERANCE:
            raise ExportError(
                f"decoder: values differ from torch's by {apart:.1e} relative in a batch of {size}"
            )
        return apart
    levels = int(np.abs(ours.astype(int) - torchs.astype(int)).max())
    if levels > 1:
        raise ExportError(
            f"decoder: pixels differ from torch's by {levels} grey levels in a batch of {size}"
        )
    return levels


def _refuse_shape(graph: str, ours: npt.NDArray[Any], torchs: npt.NDArray[Any]) -> None:
    if ours.shape != torchs.shape or ours.dtype != torchs.dtype:
        raise ExportError(
            f"{graph}: returns {ours.dtype} {ours.shape}, torch {torchs.dtype} {torchs.shape}"
        )
