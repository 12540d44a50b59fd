"""How like test images samples of a model are, by the density that they are drawn from.

    OMP_NUM_THREADS=1 python benchmarks/latent.py MODEL --train F.npz::x_train --test F.npz::x_test

Fits densities with other numbers of Gaussians, temperatures and axes to the codes of 20,000
training images, and compares 5,000 samples of each with 5,000 test images, all by their first 40
principal components at half of the size: the Fréchet distance (Heusel et al. 2017), and precision
and recall of 2,000 each, k = 3 (Kynkäänniemi et al. 2019). For grey images of even sides.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from generation import frechet, precision_and_recall

from compressor.data.sources import open_source
from compressor.latent import density
from compressor.latent.density import Density
from compressor.latent.latents import Latents

Array = np.ndarray[Any, Any]
COMPONENTS = 40
COMPARED = 2000  # of each, for precision and recall
MIXTURES = ((1,), (1, 10), (1, 10, 30), (1, 10, 30, 100))


def images(location: str, count: int) -> Array:
    """The first ``count``, uint8 (n, H, W, C)."""
    chunk = next(iter(open_source(location).chunks(count)))
    return np.concatenate([group.pixels for piece in chunk.load() for group in piece.groups])


def halved(pixels: Array) -> Array:
    count, height, width, _ = pixels.shape
    parts = pixels.astype(np.float32).reshape(count, height // 2, 2, width // 2, 2)
    flat: Array = parts.mean((2, 4)).reshape(count, -1) / 255
    return flat


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    arguments = parser.parse_args()
    latents = Latents.open(arguments.model, "cpu")
    train, test = images(arguments.train, 20_000), images(arguments.test, 5000)
    codes = np.concatenate([latents.engine.encode(part) for part in np.array_split(train, 80)])
    known = halved(test)
    axes = np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:COMPONENTS].T
    real = (known - known.mean(0)) @ axes

    def say(name: str, pixels: Array) -> None:
        drawn = (halved(pixels) - known.mean(0)) @ axes
        precision, recall = precision_and_recall(real[:COMPARED], drawn[:COMPARED])
        print(f"{name}: {frechet(real, drawn):.2f}, {precision:.2f}, {recall:.2f}", flush=True)

    def say_density(name: str, fitted: Density, temperature: float = 1.0) -> None:
        flat = fitted.sample(5000, np.random.default_rng(1), temperature)
        name = f"{name}: {fitted.components} Gaussians, {fitted.axes} axes, {temperature}"
        say(name, latents.decode(flat.reshape((-1, *latents.shape))))

    say("reconstructions", latents.decode(latents.engine.encode(test)))
    for mixture in MIXTURES:
        density.COMPONENTS = mixture
        chosen = Density.learn(codes, 0)
        say_density(f"of {mixture}", chosen)
    for temperature in (0.8, 0.6):
        say_density("chosen", chosen, temperature)
    density.MAX_AXES = 32
    say_density("fewer axes", Density.learn(codes, 0))


if __name__ == "__main__":
    main()
