"""The network of a classifier: f of an autoencoder, copied, and a head on its activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...normalisation import Normalisation, example
from ...plugin import Autoencoder, Pass
from ...spec import DataSpec, ImageSpec

MAX_ACTIVATIONS = 4096  # of a layer, as the head sees them; larger maps are averaged


class Trunk(nn.Module):
    """x (N, C, H, W) or (N, D) -> activations (N, K) of layers of f.

    Where the plugin rebuilds features that nothing trains, those are the activations. layer:
    "auto", "code" or the name of a hidden layer.
    """

    def __init__(self, model: Autoencoder, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        if layer not in ("auto", *self.layers()):
            raise ConfigError(
                f"layer={layer}: this network has {', '.join(self.layers())}, or auto"
            )

    @torch.no_grad()
    def layers(self) -> list[str]:
        """The names that ``layer`` may have."""
        if self.model.rebuilds_features:
            return ["features"]
        spec = self.model.spec
        passed = Pass(self.model, Normalisation(spec)(example(spec, 1)), training=False)
        return ["code", *passed.code.hidden]

    def forward(self, x: Tensor) -> Tensor:
        if self.model.rebuilds_features:
            return _flat(self.model.target(x))
        if self.model.stride:
            for axis in (2, 3):  # the border is repeated, as the engine does for autoencoders
                last = x.narrow(axis, x.shape[axis] - 1, 1)
                x = torch.cat([x, *[last] * (-x.shape[axis] % self.model.stride)], axis)
        code = self.model.encode(self.model.target(x))
        layers = [code.mean, *list(code.hidden.values())[-1:]]
        if self.layer != "auto":
            layers = [code.mean if self.layer == "code" else code.hidden[self.layer]]
        return torch.cat([_flat(layer) for layer in layers], 1)


def _flat(layer: Tensor) -> Tensor:
    """(N, K): a map is averaged over squares until it has few enough numbers."""
    if layer.ndim == 4:
        side = 1
        while layer[0].numel() / side**2 > MAX_ACTIVATIONS and side < min(layer.shape[2:]):
            side += 1
        down, across = (length // side for length in layer.shape[2:])
        layer = layer[:, :, : down * side, : across * side]
        layer = torch.unflatten(torch.unflatten(layer, 3, (across, side)), 2, (down, side))
        layer = layer.mean((3, 5))
    return layer.flatten(1)


class Network(nn.Module):
    """data (N, *spec.shape), as they are stored -> probabilities (N, labels).

    temperature: what logits are divided by (Guo et al. 2017).
    """

    temperature: Tensor

    def __init__(self, trunk: Trunk, spec: DataSpec, labels: int, width: int) -> None:
        super().__init__()
        self.normalisation, self.trunk = Normalisation(spec), trunk
        with torch.no_grad():
            inputs = self.trunk(self.normalisation(example(spec, 2))).shape[1]
        if width:
            self.head = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, labels))
        else:
            self.head = nn.Sequential(nn.Linear(inputs, labels))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, data: Tensor) -> Tensor:
        return (self.logits(self.normalisation(data)) / self.temperature).softmax(1)

    def logits(self, x: Tensor) -> Tensor:
        """Of x, (N, labels)."""
        logits: Tensor = self.head(self.trunk(x))
        return logits


def refuse_other_data(spec: DataSpec, data: DataSpec, name: str) -> None:
    """Raises ConfigError if a network for ``spec`` cannot take ``data``."""
    if spec.kind != data.kind:
        raise ConfigError(f"{name} takes {spec.kind}s, and these data are {data.kind}s")
    if isinstance(spec, ImageSpec) and spec.channels != data.channels:
        advice = {1: "; channels=grey converts them", 3: "; channels=rgb converts them"}
        raise ConfigError(
            f"{name} takes images of {spec.channels} channels, and these have {data.channels}"
            f"{advice.get(spec.channels, '')}"
        )
    if spec.stride is None and spec.shape != data.shape:
        raise ConfigError(
            f"{name} takes {'x'.join(map(str, spec.shape))} only, and these data are "
            f"{'x'.join(map(str, data.shape))}"
        )


def layers_of(trunk: Trunk, x: Tensor) -> list[list[nn.Parameter]]:
    """The parameters that the activations depend on, layer by layer, from the input inwards."""
    for parameter in trunk.parameters():
        parameter.requires_grad_(True)
    trunk.zero_grad()
    with torch.enable_grad():
        activations = trunk(x)
        if activations.requires_grad:
            activations.square().sum().backward()
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trunk.named_parameters():
        if parameter.grad is not None:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter)
        parameter.requires_grad_(parameter.grad is not None)
    trunk.zero_grad()
    return list(layers.values())
