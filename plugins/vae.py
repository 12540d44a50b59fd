"""The variational autoencoder: -ELBO = -E log p(x | z) + beta KL(q(z | x) || N(0, I)).

q(z | x) = N(mu, sigma^2), (mu, log sigma^2) = f(x), z = mu + sigma epsilon in training, mu in use
(Kingma & Welling 2013; beta: Higgins et al. 2017). KL = 1/2 sum mu^2 + sigma^2 - log sigma^2 - 1.
With a rate the bottleneck's bits take the place of KL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from compressor.networks.autoencoders import FeedForward, NetworkConfig
from compressor.plugin import Code, Pass
from compressor.spec import DataSpec

LOG_VARIANCES = (-12.0, 6.0)
# The squared error is 2 s^2 times -log p(x | z) of a Gaussian with deviation s, so beta is 2 s^2;
# s = 0.1
SQUARE_BETA = 0.02
# An element is active where its mean varies between inputs (Burda, Grosse & Salakhutdinov 2016)
ACTIVE, ALL = "active units", "units of the code"
ACTIVE_FROM = 0.01  # variance
FEW_ACTIVE = 0.5  # of all


class VAEConfig(NetworkConfig):
    beta: float | None = Field(
        None,
        ge=0,
        description="weight of KL; null: 1 where the loss is a likelihood in nats (cross-entropy, "
        f"discretised-logistic), {SQUARE_BETA} with square and absolute",
    )


class VAE(FeedForward):
    """A Gaussian code close to N(0, I), which samples decode from."""

    contract = 2
    Config = VAEConfig

    def __init__(self, config: VAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec, numbers=2)
        in_nats = config.loss in ("cross-entropy", "discretised-logistic")
        self.beta = config.beta if config.beta is not None else 1.0 if in_nats else SQUARE_BETA

    @property
    def generative(self) -> bool:  # type: ignore[override]
        """Only KL draws codes to N(0, I)."""
        return self.bottleneck is None

    def encode(self, x: Tensor) -> Code:
        both = super().encode(x)
        mean, log_variance = both.mean.chunk(2, 1)
        scale = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCES))
        return Code(mean, scale, both.hidden)

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        if passed.bits is not None:  # the bits are the code's cost already
            return {}
        return {"kl": self.beta * divergence(passed.code).mean()}

    def measures(self, passed: Pass) -> Mapping[str, Tensor]:
        if passed.bits is not None:  # nothing has held KL down
            return {}
        return {
            "KL in nats": divergence(passed.code).mean(),
            ACTIVE: (passed.code.mean.var(0) > ACTIVE_FROM).sum(),
            ALL: torch.tensor(passed.code.mean[0].numel()),
        }

    def warnings(self, measures: Mapping[str, float]) -> Sequence[str]:
        if ACTIVE not in measures or measures[ACTIVE] >= FEW_ACTIVE * measures[ALL]:
            return ()
        return (
            f"{measures[ALL] - measures[ACTIVE]:.0f} of {measures[ALL]:.0f} elements of the code "
            "say nothing of the input (posterior collapse): give a smaller latent, or a smaller "
            "beta",
        )


def divergence(code: Code) -> Tensor:
    """KL(N(mean, scale^2) || N(0, I)) in nats, (N,)."""
    assert code.scale is not None
    variance = code.scale.square()
    return 0.5 * (code.mean.square() + variance - variance.log() - 1).flatten(1).sum(1)
