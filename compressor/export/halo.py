"""How far a fully convolutional model sees: what a tile of an image must take along.

Found by experiment: a NaN that is put into one place comes out wherever that place has any
influence, whatever the weights are and however saturated the units, since 0 * NaN and relu(NaN) are
NaN. A mean over the whole image, or attention, spreads it everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..plugin import Autoencoder, Pass
from ..spec import ImageSpec
from .scores import error_map

FIELDS = (8, 32)  # code elements on each side of the spoilt one: the larger only if it is needed


@torch.no_grad()
def measure_halo(model: Autoencoder) -> int | None:
    """CodeSpec.halo of a model in eval mode: that of f, of g or of the error map, the largest.

    None where the model takes one size only, or sees as far as the largest of FIELDS.
    """
    spec, stride = model.spec, model.stride
    if stride is None or not isinstance(spec, ImageSpec):
        return None

    def code_of(x: Tensor) -> Tensor:
        return Pass(model, x).code.mean

    code = code_of(torch.zeros(1, spec.channels, 2 * stride, 2 * stride))
    found = [
        _reach(code_of, spec.channels, stride, 1),
        _reach(lambda x: error_map(Pass(model, x))[:, None], spec.channels, stride, stride),
    ]
    if not model.rebuilds_features:
        found.append(_reach(model.decode, code.shape[1], 1, stride))
    return None if None in found else max(reach for reach in found if reach is not None)


def _reach(
    run: Callable[[Tensor], Tensor], channels: int, put_in: int, come_out: int
) -> int | None:
    """How many code elements away one of them is felt, with so many places to a side of each."""
    for field in FIELDS:
        side = (2 * field + 1) * put_in
        x = torch.zeros(1, channels, side, side)
        x[:, :, field * put_in :, field * put_in :][:, :, :put_in, :put_in] = math.nan
        felt = run(x)[0].isnan().any(0).nonzero().div(come_out, rounding_mode="floor") - field
        if len(felt) and felt.abs().max() < field:
            return int(felt.abs().max())
    return None
