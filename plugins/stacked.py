"""The stacked autoencoder: f = f_k(..f_1(x)), g = g_1(..g_k(h)), g_i f_i's mirror.

Trained end to end, or greedily (Hinton & Salakhutdinov 2006; Bengio et al. 2007; Masci et al. 2011
for convolutions): phase 1 minimises J(x, g_1(f_1(x))); phase i minimises |h - g_i(f_i(h))|^2 on
h = f_(i-1)(...f_1(x)) with the layers below fixed; a last phase may fine-tune the stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from compressor.likelihood import LIKELIHOODS, LikelihoodName
from compressor.networks.autoencoders import Latent, NetworkName, Stack, Widths
from compressor.networks.blocks import ActivationName
from compressor.plugin import Loss, Pass, Phase, Player, PluginConfig
from compressor.spec import DataSpec


class StackedConfig(PluginConfig):
    network: NetworkName = Field(
        "dense", description="conv: each layer halves the image; auto: conv for images"
    )
    hidden: Widths = Field([300], description="widths of the layers before the code's")
    latent: Latent = Field(150, description="elements (dense) or channels (conv) of h")
    tied: bool = Field(True, description="g's weights are f's, transposed: one tensor for both")
    training: Literal["end-to-end", "greedy"] = Field(
        "end-to-end", description="all layers at once, or one pair after the other, outermost first"
    )
    fine_tune: bool = Field(True, description="greedy: a last phase trains the whole stack")
    activation: ActivationName = Field("relu", description="of the hidden layers")
    code_activation: ActivationName = Field("linear", description="of h")
    loss: LikelihoodName = Field("square", description="J of the whole")


class Stacked(Stack):
    """Several layers and their mirrors, tied or not, trained at once or greedily."""

    contract = 2
    Config = StackedConfig

    def __init__(self, config: StackedConfig, spec: DataSpec) -> None:
        widths = [*config.hidden, config.latent]
        super().__init__(config, spec, widths, config.code_activation, tied=config.tied)

    def phases(self) -> Sequence[Phase]:
        if self.config.training == "end-to-end":
            return super().phases()
        greedy = [
            Phase(f"pair {number + 1}", [Player("pair", [pair], self._loss_of(number))])
            for number, pair in enumerate(self.pairs)
        ]
        whole = Phase("fine-tune", [Player("stack", [self])], share=len(greedy))
        return [*greedy, whole] if self.config.fine_tune else greedy

    def _loss_of(self, number: int) -> Loss:
        """What pair ``number`` minimises while those below it are fixed."""
        likelihood = LIKELIHOODS[self.likelihood if number == 0 else "square"]

        def loss(passed: Pass) -> Mapping[str, Tensor]:
            pair, target = self.pairs[number], self.up(passed.x, number)
            losses = likelihood.distortion(target, pair.g(pair.f(target)))
            return {"distortion": losses.flatten(1).sum(1).mean()}

        return loss
