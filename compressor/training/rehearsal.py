"""Before the first step: can this model be exported, and do its graphs say what torch says?

Hours of training must not end with an operator that no runtime has. What the exporter writes down
here is used at the end, with the trained weights in place of these.
"""

from __future__ import annotations

import copy

import torch

from ..engine.tiles import padded
from ..export.graphs import Traced
from ..export.parity import BATCHES, check_parity
from ..export.scores import Scales
from ..normalisation import Normalisation
from ..plugin import Autoencoder
from .dataset import Dataset, Indices
from .quantiser import model_code


def rehearse(model: Autoencoder, dataset: Dataset, indices: Indices) -> Traced:
    """Exports a copy of an untrained model, and runs its graphs on a few of the rows ``indices``.

    Draws no random number that training draws. Raises ExportError.
    """
    model = copy.deepcopy(model).eval()
    rate_asked, model.bottleneck = model.bottleneck is not None, None
    rows = padded(dataset.rows[indices[: sum(BATCHES)]], model.stride)
    x = Normalisation(model.spec)(torch.from_numpy(rows))
    with torch.random.fork_rng():
        code = model_code(model, x)
        steps = torch.ones(code.shape[1], *[1] * (code.ndim - 2))
        scales = Scales.learn(model, x, [x], rate_asked)
        traced = Traced(model, steps, scales)
        graphs = traced.graphs(model, steps, scales)
        contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
        check_parity(model, steps, contents, rows, scales)
    return traced
