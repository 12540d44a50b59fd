"""The verb ``export``: the ONNX graphs of a model alone, for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ConfigError
from ..files import merging_folder, refuse_elsewhere
from ..model import Model

PRECISIONS = ("float32", "float16")
EXPORTED = (
    "encoder.onnx",
    "decoder.onnx",
    "scorer.onnx",
    "further.onnx",
    "golden.npz",
    "MODEL_CARD.md",
)
# Models that rebuild features lack both, those made before 0.4.0 the second.
OPTIONAL_FILES = ("decoder.onnx", "further.onnx")


def export(
    model: str | Path,
    output: str | Path,
    *,
    precision: str = "float32",
    force: bool = False,
) -> dict[str, Any]:
    """Writes the ONNX graphs, golden.npz and the card to a folder.

    A model that rebuilds features has neither decoder.onnx nor further.onnx.

    With precision="float16" those weights that float16 holds exactly are stored in half the bytes
    and cast back to float32 inside the graph (tract does not read such graphs). Returns output,
    precision and the sizes of the files.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision}: allowed are {', '.join(PRECISIONS)}")
    refuse_elsewhere(model, outputs=[output])
    opened = Model.open(model)
    output = Path(output)
    sizes = {}
    with merging_folder(output, force) as folder:
        for name in EXPORTED:
            if name in OPTIONAL_FILES and name not in opened.files:
                continue
            content = opened.read(name)
            if name.endswith(".onnx") and precision == "float16":
                content = _store_float16(content)
            (folder / name).write_bytes(content)
            sizes[name] = len(content)
    return {"output": str(output), "precision": precision, "files": sizes}


def _store_float16(content: bytes) -> bytes:
    """Stores each weight tensor that float16 holds exactly as float16, followed by a Cast."""
    graph_model = onnx.load_from_string(content)
    graph = graph_model.graph
    casts = []
    for initializer in list(graph.initializer):
        if initializer.data_type != TensorProto.FLOAT:
            continue
        weights = numpy_helper.to_array(initializer)
        if weights.size < 16 or np.abs(weights).max() > np.finfo(np.float16).max:
            continue
        half = weights.astype(np.float16)
        if (half.astype(np.float32) != weights).any():
            continue
        stored = numpy_helper.from_array(half, f"{initializer.name}.float16")
        casts.append(
            helper.make_node("Cast", [stored.name], [initializer.name], to=TensorProto.FLOAT)
        )
        graph.initializer.remove(initializer)
        graph.initializer.append(stored)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(graph_model, full_check=True)
    return bytes(graph_model.SerializeToString(deterministic=True))
