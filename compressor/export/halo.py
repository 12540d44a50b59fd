"""How far a fully convolutional model sees: the margin that a tile of an image needs.

Measured: a NaN put into one place comes out wherever that place has any influence, whatever the
weights are and however saturated the units, since 0 * NaN and relu(NaN) are NaN. A mean over the
whole image, or attention, spreads it everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..plugin import Autoencoder, Pass
from ..spec import ImageSpec
from .scores import Scorer

FIELDS_TRIED = (
    8,
    32,
)  # code elements on each side of the NaN; the second only if the first is too small


@torch.no_grad()
def measure_halo(model: Autoencoder) -> int | None:
    """CodeSpec.halo of a model in eval mode: that of f, of g or of the error map, the largest.

    None where the model takes one size only, or sees as far as the largest of FIELDS_TRIED reaches.
    """
    spec, stride = model.spec, model.stride
    if stride is None or not isinstance(spec, ImageSpec):
        return None

    def code_of(x: Tensor) -> Tensor:
        return Pass(model, x).code.mean

    scorer = Scorer(model)
    code = code_of(torch.zeros(1, spec.channels, 2 * stride, 2 * stride))
    reaches = [
        _reach(code_of, spec.channels, stride, 1),
        _reach(lambda x: scorer.error_map(Pass(model, x))[:, None], spec.channels, stride, stride),
    ]
    if not model.rebuilds_features:
        reaches.append(_reach(model.decode, code.shape[1], 1, stride))
    return None if None in reaches else max(reach for reach in reaches if reach is not None)


def _reach(
    run: Callable[[Tensor], Tensor], channels: int, put_in: int, come_out: int
) -> int | None:
    """How many code elements away one of them has influence; a code element has put_in x put_in
    places in the input of ``run`` and come_out x come_out in its output."""
    for field in FIELDS_TRIED:
        side = (2 * field + 1) * put_in
        x = torch.zeros(1, channels, side, side)
        x[:, :, field * put_in :, field * put_in :][:, :, :put_in, :put_in] = math.nan
        nans = run(x)[0].isnan().any(0).nonzero()
        away = nans.div(come_out, rounding_mode="floor") - field
        if len(away) and away.abs().max() < field:
            return int(away.abs().max())
    return None
