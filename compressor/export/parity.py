"""Do the exported graphs say what torch says? Checked on real data, each output in its own unit.

Between two runtimes float32 arithmetic leaves differences: in x^ about PIXELS_APART, in activations
about as much of the largest one. What they become in a score depends on the score: the mean square
of an error e moves by 2 e d + d^2, its mean absolute by d. So a bound relative to the score alone
would refuse what is rebuilt almost exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..engine.providers import choose_device
from ..errors import ExportError
from ..normalisation import Normalisation
from ..plugin import Autoencoder, Pass
from ..spec import VectorSpec
from .graphs import Decoder, Encoder
from .scores import UNSCALED, FurtherScorer, Scales, Scorer, score_names

BATCHES = (1, 2, 5)
ROUNDING_TIE = 1e-3  # codes this near to a rounding boundary may fall on either side
CODE_TOLERANCE = 1e-5  # of a code's size, where that is more than one step
SCORE_TOLERANCE = 1e-4  # of a score's size
PIXELS_APART = 3e-5  # in x^, and as a part of the largest activation
VALUE_TOLERANCE = 1e-4  # of a vector's values, relative to their column's scale and their size

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """The largest differences seen.

    code_ties: how many of ``codes`` differed, all of them ties; pixel_levels: of images, in grey
    levels; value_relative: of vectors; l2_of_allowed: of l2, as a part of what float32 explains;
    disagreeing: the scores that differ by more than that, and by how many times as much.
    """

    code_ties: int = 0
    codes: int = 0
    pixel_levels: int | None = None
    value_relative: float | None = None
    l2_of_allowed: float = 0.0
    disagreeing: dict[str, float] = field(default_factory=dict)
    batches: tuple[int, ...] = BATCHES

    def for_manifest(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value != {}}


def check_parity(
    model: Autoencoder,
    steps: Tensor,
    graphs: Mapping[str, bytes],
    data: npt.NDArray[Any],
    scales: Scales = UNSCALED,
) -> Parity:
    """Runs torch and ONNX Runtime on ``data`` (N, *spec.shape) in batches of 1, 2 and 5.

    Raises ExportError where codes differ but for ties at rounding, pixels by more than one grey
    level, a vector's values by more than 1e-4 relative, or l2 by more than float32 explains.
    """
    encoder, decoder = Encoder(model, steps), Decoder(model, steps)
    sessions = {name: choose_device("cpu").session(graph) for name, graph in graphs.items()}
    kind = model.spec.kind
    ties = codes = start = 0
    decoded_apart: float | None = None
    l2_apart, disagreeing = 0.0, dict[str, float]()
    for size in BATCHES:
        batch = data[np.arange(start, start + size) % len(data)]
        start += size
        stored = torch.from_numpy(batch)
        with torch.no_grad():
            code, scaled = encoder(stored), encoder.scaled(stored).numpy()
        (onnx_code,) = sessions["encoder"].run(["code"], {kind: batch})
        ties += _code_ties(onnx_code, code.numpy(), scaled)
        codes += scaled.size
        if "decoder" in sessions:
            with torch.no_grad():
                decoded = decoder(code).numpy()
            (onnx_decoded,) = sessions["decoder"].run([kind], {"code": code.numpy()})
            _refuse_shape("decoder", onnx_decoded, decoded)
            decoded_apart = max(
                decoded_apart or 0.0, _decoded_apart(model, onnx_decoded, decoded, size)
            )
        for name, apart in _scores_apart(model, sessions, batch, scales).items():
            if name == "l2":
                l2_apart = max(l2_apart, apart)
            elif not apart <= 1:
                disagreeing[name] = max(disagreeing.get(name, 0.0), apart)
        if not l2_apart <= 1:
            raise ExportError(
                f"scorer: l2 differs from torch's by {l2_apart:.1f} times what float32 explains, "
                f"in a batch of {size}"
            )
    levels = None if decoded_apart is None else int(decoded_apart)
    if isinstance(model.spec, VectorSpec):
        return Parity(ties, codes, None, decoded_apart, l2_apart, disagreeing)
    return Parity(ties, codes, levels, None, l2_apart, disagreeing)


def _code_ties(onnx_code: npt.NDArray[Any], code: npt.NDArray[Any], scaled: Floats) -> int:
    """How many codes differ; raises ExportError unless they are ties."""
    _refuse_shape("encoder", onnx_code, code)
    if not np.isfinite(scaled).all():
        raise ExportError("encoder: codes are not finite; the training has diverged")
    apart = np.abs(onnx_code.astype(np.int64) - code)
    sizes = np.abs(scaled)
    to_boundary = np.abs(scaled + 0.5 - np.round(scaled + 0.5))
    near = to_boundary < ROUNDING_TIE * np.maximum(1, sizes)
    wrong = ((apart > 0) & ~near) | (apart > np.maximum(1, CODE_TOLERANCE * sizes))
    if wrong.any():
        raise ExportError(
            f"encoder: {int(wrong.sum())} of {apart.size} codes differ from torch's in a batch of "
            f"{len(code)}"
        )
    return int((apart > 0).sum())


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


@torch.no_grad()
def _scores_apart(
    model: Autoencoder, sessions: Mapping[str, Any], batch: npt.NDArray[Any], scales: Scales
) -> dict[str, float]:
    """How far each output of the scorers is from torch's, as a part of what is allowed."""
    passed = Pass(model, Normalisation(model.spec)(torch.from_numpy(batch)), training=False)
    names = [*score_names(model, scales), "error_map"]
    ours = [output.numpy() for output in Scorer(model, scales).of(passed)]
    onnxs = list(sessions["scorer"].run(names, {model.spec.kind: batch}))
    if "further" in sessions:
        further = FurtherScorer(model)
        further_names = [*further.names, "hidden_differences"]
        ours += [output.numpy() for output in further.of(passed)]
        onnxs += sessions["further"].run(further_names, {model.spec.kind: batch})
        names += further_names
    apart = {}
    for name, score, onnx_score in zip(names, ours, onnxs, strict=True):
        _refuse_shape("scorer", onnx_score, score)
        if name == "error_map":  # a single place may have a tie of its own: l2 is its mean
            continue
        difference = np.abs(onnx_score.astype(np.float64) - score)
        # NaN in both is agreement; in one it is none
        same = (np.isnan(score) & np.isnan(onnx_score)) | (score == onnx_score)
        parts = np.where(same, 0.0, difference / _allowed(name, score, passed))
        apart[name] = float(np.where(np.isnan(parts), np.inf, parts).max())
    return apart


def _allowed(name: str, score: Floats, passed: Pass) -> npt.NDArray[np.float64]:
    """The difference from ``score`` that float32 explains."""
    size: npt.NDArray[np.float64] = np.abs(score.astype(np.float64))
    relative = SCORE_TOLERANCE * size
    pixels = PIXELS_APART * max(1.0, float(passed.target.abs().max()))
    layers = [*passed.code.hidden.values(), passed.code.mean]
    activations = PIXELS_APART * max(1e-6, *(float(layer.abs().max()) for layer in layers))
    if name == "l2":
        return relative + 2 * pixels * np.sqrt(size) + pixels**2
    if name == "l1":
        return relative + pixels
    if name == "gradient":  # at most 1, and as steep as its constant allows
        return relative + pixels
    if name == "hidden_differences":
        return relative + activations
    if name == "hidden":
        count = sum(layer.shape[1] for layer in layers)
        return relative + 2 * activations * np.sqrt(count * size) + count * activations**2
    # Others may have any sign, or be a small difference of large numbers.
    largest = max(float(size.max()), 1e-5)
    return relative + SCORE_TOLERANCE * largest


def _refuse_shape(graph: str, ours: npt.NDArray[Any], torchs: npt.NDArray[Any]) -> None:
    if ours.shape != torchs.shape or ours.dtype != torchs.dtype:
        raise ExportError(
            f"{graph}: gives {ours.dtype} {ours.shape}, torch gives {torchs.dtype} {torchs.shape}"
        )
