"""The contractive autoencoder: J + alpha |df(x)/dx|^2, squared Frobenius norm (Rifai et al. 2011).

One dense sigmoid layer: |df/dx|^2 = sum_j (h_j (1 - h_j))^2 sum_i W_ji^2. Otherwise the Jacobian
is computed for all inputs at once, or, for wide codes, estimated: E |v^T df/dx|^2 over random signs
v (Hutchinson 1990). g's weights are f's transposed: with its own, g could undo f's scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compressor.likelihood import LikelihoodName
from compressor.networks.autoencoders import Latent, NetworkName, Stack, Widths
from compressor.networks.blocks import ActivationName, Pair
from compressor.plugin import Pass, PluginConfig
from compressor.spec import DataSpec

ROWS_AT_ONCE = 64  # of a Jacobian; and the draws of an estimate in reports
MEASURED_INPUTS = 32  # inputs whose whole Jacobians are computed for reports
MAX_EXACT_IN_REPORTS = 4096  # elements of a code: it takes seconds; with more it is an estimate
MAX_EXACT = 32  # elements of a code: with more the default is an estimate


class ContractiveConfig(PluginConfig):
    network: NetworkName = Field(
        "dense", description="conv: each layer halves the image; auto: conv for images"
    )
    hidden: Widths = Field([], description="widths of the layers before the code's")
    latent: Latent = Field(128, description="elements (dense) or channels (conv) of h")
    activation: ActivationName = Field("sigmoid", description="of the hidden layers")
    code_activation: ActivationName = Field("sigmoid", description="of h")
    loss: LikelihoodName = Field(
        "square", description="J; cross-entropy drives sigmoid codes to the hypercube's corners"
    )
    alpha: float = Field(0.1, ge=0, description="weight of the squared Jacobian norm")
    jacobian: Literal["auto", "exact", "hutchinson"] = Field(
        "auto",
        description="auto: exact for one dense sigmoid layer and for codes of "
        f"{MAX_EXACT} elements at most, else Hutchinson's estimate",
    )


class Contractive(Stack):
    """A code that changes little when the input does."""

    contract = 2
    Config = ContractiveConfig

    def __init__(self, config: ContractiveConfig, spec: DataSpec) -> None:
        widths = [*config.hidden, config.latent]
        super().__init__(config, spec, widths, config.code_activation, tied=True)
        self.closed = self.dense and len(widths) == 1 and config.code_activation == "sigmoid"

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        choice = self.config.jacobian
        h = passed.code.mean
        if self.closed and choice != "hutchinson":
            norm = one_sigmoid_layer(self.pairs[0], h)
        elif choice == "exact" or (choice == "auto" and h[0].numel() <= MAX_EXACT):
            norm = jacobian_norm(self.up, passed.seen)
        else:
            norm = hutchinson_norm(self.up, passed.seen)
        return {"jacobian": self.config.alpha * norm.mean()}

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        x = passed.x[:MEASURED_INPUTS]
        if passed.code.mean[0].numel() <= MAX_EXACT_IN_REPORTS:
            return {"Jacobian norm": jacobian_norm(self.up, x).sqrt().mean()}
        draws = torch.stack([hutchinson_norm(self.up, x) for _ in range(ROWS_AT_ONCE)])
        return {"Jacobian norm (estimate)": draws.mean(0).sqrt().mean()}


def one_sigmoid_layer(pair: Pair, h: Tensor) -> Tensor:
    """|dh/dx|^2, (N,), of h = sigmoid(W x + b): float, (N, K)."""
    return (h * (1 - h)).square() @ pair.weight.square().sum(1)


def jacobian_norm(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|df/dx|^2, (N,), exact, for f of each input alone; a pass back for each code element."""
    h, pull = torch.func.vjp(f, x)  # type: ignore[misc]  # three only with has_aux

    def row(unit: Tensor) -> Tensor:
        (gradient,) = pull(unit.expand_as(h))
        squared: Tensor = gradient.square().flatten(1).sum(1)
        return squared

    norms: Tensor = h.new_zeros(len(h))
    elements = h[0].numel()
    for indices in torch.split(torch.arange(elements, device=h.device), ROWS_AT_ONCE):
        units = F.one_hot(indices, elements).to(h.dtype).reshape(-1, 1, *h.shape[1:])
        norms = norms + torch.func.vmap(row)(units).sum(0)
    return norms


def hutchinson_norm(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An unbiased estimate of |df/dx|^2, (N,), at the cost of one pass back."""
    h, pull = torch.func.vjp(f, x)  # type: ignore[misc]  # three only with has_aux
    (gradient,) = pull(torch.randint_like(h, 0, 2) * 2 - 1)
    estimate: Tensor = gradient.square().flatten(1).sum(1)
    return estimate
