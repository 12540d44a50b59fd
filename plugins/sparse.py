"""The sparse autoencoder: J + alpha Omega(h), h = f(x), with few elements active at a time.

l1      Omega = sum_j |h_j| |w_j|, h = relu(.), w_j the weights that leave h_j, times the norms of
        g's later layers: scaling h down and any layer of g up gains nothing (Olshausen & Field
        1996 normalise w_j instead)
kl      Omega = sum_j p log(p / q_j) + (1 - p) log((1 - p) / (1 - q_j)), h = sigmoid(.), q_j the
        mean of h_j over the batch (Lee, Ekanadham & Ng 2008; Ng 2011)
square  Omega = sum_j (q_j - p)^2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.networks.autoencoders import FeedForward, NetworkConfig
from compressor.plugin import Pass
from compressor.spec import DataSpec

ALPHA = {"l1": 0.1, "kl": 50.0, "square": 200.0}


class SparseConfig(NetworkConfig):
    sparsity: Literal["l1", "kl", "square"] = Field(
        "l1", description="Omega; the code is relu with l1, sigmoid with the others"
    )
    p: float = Field(0.1, gt=0, lt=1, description="target mean activation, of kl and square")
    alpha: float | None = Field(
        None,
        ge=0,
        description="weight of Omega; null: " + ", ".join(f"{k} {v}" for k, v in ALPHA.items()),
    )


class Sparse(FeedForward):
    """A code of which few elements are active for any one input."""

    contract = 2
    Config = SparseConfig

    def __init__(self, config: SparseConfig, spec: DataSpec) -> None:
        super().__init__(config, spec, "relu" if config.sparsity == "l1" else "sigmoid")
        self.alpha = ALPHA[config.sparsity] if config.alpha is None else config.alpha

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        h, p = passed.code.mean, self.config.p
        if self.config.sparsity == "l1":
            leaving, *later = (
                m.weight for m in self.g.modules() if isinstance(m, nn.Linear | nn.Conv2d)
            )
            norms = leaving.transpose(0, 1).flatten(1).norm(dim=1)
            for weight in later:  # root mean square over outputs, so that depth costs little
                norms = norms * weight.norm() / len(weight) ** 0.5
            sizes = h.abs().flatten(2).sum(2) if h.ndim > 2 else h.abs()
            return {"l1": self.alpha * (sizes * norms).sum(1).mean()}
        q = h.transpose(0, 1).flatten(1).mean(1)
        if self.config.sparsity == "square":
            return {"square": self.alpha * (q - p).square().sum()}
        q = q.clamp(1e-6, 1 - 1e-6)
        divergence = p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
        return {"kl": self.alpha * divergence.sum()}

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        h = passed.code.mean
        if self.config.sparsity == "l1":
            return {"zeros in h": (h == 0).float().mean()}
        q = h.transpose(0, 1).flatten(1).mean(1)
        return {"mean |q - p|": (q - self.config.p).abs().mean()}
