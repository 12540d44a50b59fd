"""Trains one of CompressAI's models for some seconds and measures it; run by compression.py.

It imports nothing of compressor and runs in an environment with CompressAI. One JSON object on
stdout: what Figures in rate_distortion/figures.py wants to know.

Usage: python compressai_cell.py MODEL TRAIN.npy TEST --width N --rate R --seconds S

MODEL is FactorizedPrior or ScaleHyperprior (Ballé et al. 2018), N wide and 3N/2 at the code, as the
published ones are with 128. Unlike those it takes grey images as one channel. The objective is that
of our codec: squared error of pixels in [0, 1], summed over an image, plus R times its bits; Adam,
cosine from 1e-3 to 0 over S seconds of CPU time. Small images are padded by reflection to what the
strides divide; the bits count for the whole padded image, the error only inside.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

CROP = 128  # larger images are trained on in random squares
BATCH_PIXELS = 2**16
LEARNING_RATE = 1e-3
WARMUP = 50  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["FactorizedPrior", "ScaleHyperprior"])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train = np.load(arguments.train, mmap_mode="r")
    net = network(arguments.model, arguments.width, train.shape[3])
    started = time.process_time()
    steps = fit(net, train, arguments.rate, arguments.seconds)
    spent = time.process_time() - started
    net.eval()
    net.update(force=True, update_quantiles=True)
    print(json.dumps(measured(net, arguments.test) | {"seconds": spent, "steps": steps}))


def without_torchvision() -> None:
    """CompressAI lists the transforms of torchvision, which no model needs.

    PyPI's torchvision is built for CUDA and cannot be imported beside a torch for CPUs.
    """
    torchvision, transforms = (ModuleType(f"torchvision{leaf}") for leaf in ("", ".transforms"))
    torchvision.__dict__["transforms"] = transforms
    sys.modules |= {module.__name__: module for module in (torchvision, transforms)}


def network(name: str, width: int, channels: int) -> Any:
    without_torchvision()
    from compressai import models
    from compressai.models.utils import conv, deconv

    net = getattr(models, name)(width, width * 3 // 2)
    if channels == 1:
        net.g_a[0], net.g_s[-1] = conv(1, width), deconv(width, 1)
    return net


def fit(net: Any, train: np.ndarray, rate: float, seconds: float) -> int:
    """Trains in place; gives the steps. The quantiles are found afterwards, exactly."""
    side = min(CROP, train.shape[1])
    padded = side + sum(margins(side, net.downsampling_factor))
    batch = max(1, BATCH_PIXELS // padded**2)
    random = np.random.default_rng(0)
    weights = [p for name, p in net.named_parameters() if not name.endswith("quantiles")]
    optimiser = torch.optim.Adam(weights, LEARNING_RATE)
    started, step = time.process_time(), 0
    while (done := (time.process_time() - started) / seconds) < 1:
        factor = min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * factor
        x = to_x([crop(train[n], side, random) for n in random.integers(len(train), size=batch)])
        out = net(pad(x, net.downsampling_factor))
        bits = sum(-part.log2().sum() for part in out["likelihoods"].values())
        error = (inside(out["x_hat"], x) - x).square().sum()
        loss = (error + rate * bits) / (rate * x[:, 0].numel())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
    return step


@torch.no_grad()
def measured(net: Any, test: Path) -> dict[str, Any]:
    """Bytes of the strings, and the error of what is decoded from them."""
    images = images_of(test)
    size, ideal, errors = 0, 0.0, []
    for start in range(0, len(images), 50):
        for same in of_one_shape(images[start : start + 50]):
            x = to_x(same)
            padded = pad(x, net.downsampling_factor)
            coded = net.compress(padded)
            size += sum(len(text) for texts in coded["strings"] for text in texts)
            out = net(padded)["likelihoods"]
            ideal += sum(float(-part.log2().sum()) for part in out.values()) / 8
            decoded = inside(net.decompress(coded["strings"], coded["shape"])["x_hat"], x)
            difference = (decoded * 255).round() - (x * 255).round()
            errors += difference.double().square().sum((1, 2, 3)).tolist()
    return {
        "bytes": size,
        "ideal_bytes": round(ideal),
        "model_bytes": decoder_bytes(net),
        "parameters": sum(p.numel() for p in net.parameters()),
        "errors": errors,
        "threads": torch.get_num_threads(),
    }


def decoder_bytes(net: Any) -> int:
    """The parameters that decoding needs (g_s, h_s, the entropy bottleneck), fp16, xz."""
    content = io.BytesIO()
    for name, parameter in net.named_parameters():
        if not name.startswith(("g_a", "h_a")):
            content.write(parameter.detach().half().numpy().tobytes())
    return len(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def images_of(path: Path) -> list[np.ndarray]:
    if path.is_dir():
        return [np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))]
    return list(np.load(path))


def of_one_shape(images: list[np.ndarray]) -> list[list[np.ndarray]]:
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        groups.setdefault(image.shape, []).append(image)
    return list(groups.values())


def crop(image: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    top, left = (int(random.integers(length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def to_x(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, C) each -> float32 (N, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def margins(side: int, stride: int) -> tuple[int, int]:
    """What a side lacks to a multiple of the stride, before and behind."""
    lacking = -side % stride
    return lacking // 2, lacking - lacking // 2


def pad(x: torch.Tensor, stride: int) -> torch.Tensor:
    (top, bottom), (left, right) = (margins(side, stride) for side in x.shape[2:])
    return functional.pad(x, (left, right, top, bottom), mode="reflect")


def inside(padded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The part of a padded image that is the image."""
    top, left = ((a - b) // 2 for a, b in zip(padded.shape[2:], x.shape[2:], strict=True))
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]


if __name__ == "__main__":
    main()
