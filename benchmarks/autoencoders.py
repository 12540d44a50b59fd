"""Every built-in plugin on the same data and budget, and the claim that each is there for.

Usage: python benchmarks/autoencoders.py [--data FOLDER] [--output FOLDER] [--seconds S]
                                         [--only NAME ...]

FOLDER (or the environment variable COMPRESSOR_DATA) holds fashion_mnist_pub.npz, mnist.npz (both
with x_train and x_test) and notmnist_pub.npz (x), uint8 images of 28x28. Each cell (a plugin's row,
or a claim) is kept as JSON in the output folder and not measured again, and models are not trained
again, so that a run that was stopped goes on: after a change of SIZES or of a plugin remove what it
is about. The tables are printed as Markdown at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from compressor.plugins.contractive import Contractive, jacobian_norm
from compressor.plugins.denoising import Denoising
from compressor.plugins.vae import divergence
from scipy.linalg import subspace_angles
from scipy.stats import mannwhitneyu
from sklearn.decomposition import PCA
from torch import Tensor

from compressor import verbs
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.plugin import Autoencoder, Pass
from compressor.training.start import restore

Images = npt.NDArray[np.uint8]
PYTHAE = 89.8  # nats, its VAE on the same kind of data
Cell = dict[str, Any]
SIZES: dict[str, dict[str, Any]] = {
    "undercomplete": {"network": "dense", "hidden": [300], "latent": 32},
    "stacked": {"hidden": [300], "latent": 150},
    "sparse": {"network": "dense", "hidden": [], "latent": 512},
    "contractive": {
        "hidden": [256],
        "latent": 128,
        "activation": "relu",
        "loss": "cross-entropy",
        "batch_size": 64,
        "learning_rate": 4e-3,
        "alpha": 0.5,
    },
    "denoising": {"network": "dense", "hidden": [512], "latent": 128},
    "vae": {"network": "dense", "hidden": [300], "latent": 32},
    "gan": {"network": "conv", "hidden": [16, 32], "latent": 64, "learning_rate": 5e-3},
}


class Bench:
    """The data, where cells are kept, and the budget of a training in seconds."""

    def __init__(self, data: Path, output: Path, seconds: float) -> None:
        self.output, self.seconds = output / f"{seconds:g}s", seconds  # other budgets, other cells
        self.output.mkdir(parents=True, exist_ok=True)
        with np.load(data / "fashion_mnist_pub.npz") as arrays:
            self.clothes, self.test = arrays["x_train"][..., None], arrays["x_test"][..., None]
        with np.load(data / "mnist.npz") as arrays:
            self.digits_train, self.digits = arrays["x_train"], arrays["x_test"]
        with np.load(data / "notmnist_pub.npz") as arrays:
            self.letters = arrays["x"][: len(self.test), ..., None]

    def cell(self, name: str, measure: Callable[[], Cell]) -> Cell:
        """What ``measure`` gives, now or in an earlier run."""
        file = self.output / f"{name}.json"
        if not file.exists():
            print(f"{name} ...", flush=True)
            content = json.dumps(measure(), indent=1)
            file.write_text(content)
            print(f"{name} {content}", flush=True)
        result: Cell = json.loads(file.read_text())
        return result

    def train(self, name: str, plugin: str, data: Images | None = None, **settings: Any) -> Path:
        """A model of that name in the output folder; keyword arguments are settings."""
        path = self.output / name
        seed, seconds = settings.pop("seed", 0), settings.pop("seconds", self.seconds)
        if not path.exists():
            verbs.train(
                plugin,
                self.clothes if data is None else data,
                path,
                settings={"patience": 1000, **settings},
                max_seconds=seconds,
                seed=seed,
                force=True,
            )
        return path

    def row(self, plugin: str) -> Cell:
        """Parameters, training time, PSNR, bits an image, AUROC of l2: on test images."""
        path = self.train(plugin, plugin, **SIZES[plugin])
        with tempfile.TemporaryDirectory() as folder:
            summary = verbs.compress(self.test, path, Path(folder) / "archive", measure=True)
        facts = Model.open(path).manifest.training
        return {
            "parameters": facts["parameters"],
            "seconds": facts["seconds"],
            "steps": facts["steps"],
            "psnr": summary["psnr"],
            "bits": summary["payload_bytes"] * 8 / summary["images"],
            "mnist": auroc(path, "l2", self.digits[: len(self.test), ..., None], self.test),
            "notmnist": auroc(path, "l2", self.letters, self.test),
        }


def auroc(path: Path, score: str, strange: Images, normal: Images) -> float:
    """How often a strange image scores above a normal one (ties count a half)."""
    engine = Engine(Model.open(path), "cpu")
    ours, theirs = engine.score(strange)[score], engine.score(normal)[score]
    return float(mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def to_x(images: Images) -> Tensor:
    """(N, H, W, C) uint8 -> float32 (N, C, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def squared_error(model: Autoencoder, x: Tensor) -> float:
    """The mean squared error from the continuous code, before clipping and rounding."""
    return float((Pass(model, x).pixels - x).square().mean())


def psnr(error: float) -> float:
    return -10 * math.log10(error)


# The claims: one function a plugin, each giving its figures and a sentence.


def undercomplete(bench: Bench) -> Cell:
    """Linear units and square loss against principal component analysis."""
    latent = 30  # the 30th and 31st components differ enough for the subspace to be one
    path = bench.train(
        "pca",
        "undercomplete",
        network="dense",
        hidden=[],
        latent=latent,
        weight_loss=0.001,
        clip_norm=None,
        batch_size=256,
        learning_rate=5e-3,
        validation=0.02,
        calibration=0.02,
    )
    model = restore(path)
    flat = bench.clothes.reshape(len(bench.clothes), -1) / np.float32(255)
    pca = PCA(latent, svd_solver="covariance_eigh").fit(flat)
    test = bench.test.reshape(len(bench.test), -1) / np.float32(255)
    best = float(np.mean((test - pca.inverse_transform(pca.transform(test))) ** 2))
    ours = squared_error(model, to_x(bench.test))
    weight = dict(model.named_parameters())["g.0.weight"].detach().numpy()
    angles = np.degrees(subspace_angles(weight, pca.components_.T))
    return {
        "error": ours,
        "pca_error": best,
        "ratio": ours / best,
        "largest_angle": float(angles.max()),
        "median_angle": float(np.median(angles)),
        "met": ours / best <= 1.01,
        "says": f"linear, {latent} elements: squared error {ours / best:.4f} of PCA's on test "
        f"images (wanted at most 1.01); principal angles {angles.max():.1f} degrees at most, "
        f"{np.median(angles):.2f} in the median",
    }


def stacked(bench: Bench) -> Cell:
    """Tied weights, and greedy phases against training end to end."""
    sizes = SIZES["stacked"]
    tied = restore(bench.train("stacked", "stacked", **sizes))
    untied = restore(bench.train("stacked-untied", "stacked", tied=False, **sizes))
    greedy = restore(bench.train("stacked-greedy", "stacked", training="greedy", **sizes))
    counts = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    x = to_x(bench.test)
    figures = [psnr(squared_error(model, x)) for model in (tied, untied, greedy)]
    return {
        "parameters": counts,
        "psnr": figures,
        "met": counts[0] < 0.51 * counts[1],
        "says": f"784-300-150-300-784: {counts[0]:,} parameters tied, {counts[1]:,} untied; "
        f"continuous codes give {figures[0]:.2f} dB tied, {figures[1]:.2f} untied, "
        f"{figures[2]:.2f} tied and greedy with fine-tuning",
    }


def sparse(bench: Bench) -> Cell:
    """Exact zeros of L1; mean activations of the target forms."""
    sizes = SIZES["sparse"]
    x = to_x(bench.test)
    figures: Cell = {}
    for form in ("l1", "kl", "square"):
        name = "sparse" if form == "l1" else f"sparse-{form}"
        model = restore(bench.train(name, "sparse", sparsity=form, **sizes))
        with torch.no_grad():
            h = model.encode(x).mean
        q = h.mean(0)
        figures[form] = {
            "zeros": float((h == 0).float().mean()),
            "never_active": float((h == 0).all(0).float().mean()),
            "mean": float((q - 0.1).abs().mean()),
            "furthest": float((q - 0.1).abs().max()),
            "psnr": psnr(squared_error(model, x)),
        }
    zeros, dead = figures["l1"]["zeros"], figures["l1"]["never_active"]
    kl, square = figures["kl"], figures["square"]
    return {
        **figures,
        "met": zeros >= 0.7 and max(kl["furthest"], square["furthest"]) <= 0.02,
        "says": f"L1: {zeros:.1%} of the codes are exactly 0 (wanted 70%), {dead:.0%} of the "
        f"512 elements for every image and {(zeros - dead) / (1 - dead):.0%} of the others; "
        f"|q - p| is {kl['mean']:.4f} in the mean and {kl['furthest']:.4f} at most with KL, "
        f"{square['mean']:.4f} and {square['furthest']:.4f} with the square (wanted 0.02)",
    }


def contractive(bench: Bench) -> Cell:
    """The Jacobian's norm against that of the same network without the penalty."""
    sizes = SIZES["contractive"]
    x = to_x(bench.test)
    norms, errors, histograms = [], [], []
    for name, alpha in (("contractive-long", sizes["alpha"]), ("contractive-0", 0.0)):
        settings = {**sizes, "alpha": alpha, "seconds": 2 * bench.seconds}
        model = restore(bench.train(name, "contractive", **settings))
        assert isinstance(model, Contractive)
        with torch.no_grad():
            norms.append(float(jacobian_norm(model.up, x[:500]).sqrt().mean()))
            h = model.encode(x).mean.numpy()
        errors.append(squared_error(model, x))
        histograms.append((np.histogram(h, 10, (0, 1))[0] / h.size).round(4).tolist())
    corners = [histogram[0] + histogram[-1] for histogram in histograms]
    fold, price = norms[1] / norms[0], errors[0] / errors[1]
    return {
        "norms": norms,
        "errors": errors,
        "histograms": histograms,
        "met": fold >= 5 and price <= 1.3,
        "says": f"exact Jacobian norm (Frobenius) {fold:.1f} times below the unregularised one "
        f"({fold**2:.0f} times squared, as the penalty has it) at {price:.2f} times its error "
        f"(wanted 5 and 1.3); {corners[0]:.0%} of the codes lie within 0.1 of 0 or 1, "
        f"{corners[1]:.0%} without the penalty",
    }


def denoising(bench: Bench) -> Cell:
    """How much nearer to the clean image the output is than the input was."""
    x = to_x(bench.test)
    figures = {}
    for noise in ("gaussian", "masking", "salt-and-pepper", "dropout"):
        name = "denoising" if noise == "gaussian" else f"denoising-{noise}"
        model = restore(bench.train(name, "denoising", noise=noise, **SIZES["denoising"]))
        assert isinstance(model, Denoising)
        torch.manual_seed(0)
        seen = model.corrupt(x)
        with torch.no_grad():
            pixels = Pass(model, seen).pixels
        before, after = ((x - other).square().mean().item() for other in (seen, pixels))
        figures[noise] = {"before": psnr(before), "after": psnr(after)}
    gains = {noise: row["after"] - row["before"] for noise, row in figures.items()}
    others = ", ".join(
        f"{noise} {gain:.1f}" for noise, gain in gains.items() if noise != "gaussian"
    )
    return {
        **figures,
        "met": gains["gaussian"] >= 6,
        "says": f"Gaussian noise of 0.3: {figures['gaussian']['before']:.1f} dB before, "
        f"{figures['gaussian']['after']:.1f} after, a gain of {gains['gaussian']:.1f} dB (wanted "
        f"6); other noises, nu = 0.25: {others} dB",
    }


def vae(bench: Bench) -> Cell:
    """ELBO and importance-sampled likelihood in nats, on MNIST binarised once with seed 0."""
    random = np.random.default_rng(0)
    binary = [
        np.where(random.random(part.shape) * 255 < part, 255, 0).astype(np.uint8)[..., None]
        for part in (bench.digits_train, bench.digits)
    ]
    path = bench.train(
        "vae-mnist",
        "vae",
        binary[0],
        seconds=8 * bench.seconds,
        network="dense",
        hidden=[500, 500],
        latent=40,
        loss="cross-entropy",
        learning_rate=1e-3,
        validation=0.02,
        calibration=0,
    )
    model, x, samples = restore(path), to_x(binary[1]), 1000
    torch.manual_seed(0)
    with torch.no_grad():
        elbo = torch.cat([elbo_of(model, part) for part in torch.split(x, 1000)]).mean().item()
        logs = torch.cat([likelihood_of(model, part, samples) for part in torch.split(x[::10], 5)])
    facts = Model.open(path).manifest.training
    nll, deviation = -logs.mean().item(), logs.std().item() / math.sqrt(len(logs))
    apart = f"{abs(nll - PYTHAE):.1f} {'above' if nll > PYTHAE else 'below'} Pythae's {PYTHAE}"
    return {
        "minus_elbo": -elbo,
        "nll": nll,
        "nll_deviation": deviation,
        "seconds": facts["seconds"],
        "epochs": facts["epochs"],
        "met": -elbo <= 105 and nll <= 98,
        "says": f"MNIST, binarised once: -ELBO {-elbo:.1f} nats on 10,000 test images (wanted "
        f"105), NLL {nll:.1f} +- {deviation:.1f} with {samples} importance samples on every tenth "
        f"(wanted 98), {apart}, after {facts['seconds'] / 60:.0f} minutes on one core",
    }


def elbo_of(model: Autoencoder, x: Tensor) -> Tensor:
    """The evidence lower bound of each image, in nats, with one sample (N,)."""
    model.training = True  # the pass samples; there are no layers that behave otherwise
    passed = Pass(model, x)
    bound: Tensor = -passed.distortion - divergence(passed.code)
    model.training = False
    return bound


def likelihood_of(model: Autoencoder, x: Tensor, samples: int) -> Tensor:
    """log p(x), (N,), by importance sampling from q(z | x) (Burda et al. 2016, eq. 8)."""
    code = model.encode(x)
    assert code.scale is not None
    noise = torch.randn(samples, *code.mean.shape)
    z = code.mean + code.scale * noise
    log_ratio = (0.5 * (noise.square() - z.square()) + code.scale.log()).sum(2)  # p(z) / q(z | x)
    out = model.decode(z.flatten(0, 1)).reshape(samples, *x.shape)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        out, x.expand_as(out), reduction="none"
    )
    return torch.logsumexp(log_ratio - loss.flatten(2).sum(2), 0) - math.log(samples)


def gan(bench: Bench) -> Cell:
    """The discriminator as a scorer, of a DCGAN, over three seeds; and once with dense networks."""
    figures: dict[str, list[float]] = {}
    paths = [
        bench.train(f"gan-{n}" if n else "gan", "gan", seed=n, **SIZES["gan"]) for n in range(3)
    ]
    paths.append(bench.train("gan-dense", "gan", network="dense", latent=64))
    for path in paths:
        for score in ("logit", "feature_distance", "l2"):
            for name, strange in (
                ("MNIST", bench.digits[: len(bench.test), ..., None]),
                ("notMNIST", bench.letters),
            ):
                key = f"{score} {name}"
                figures.setdefault(key, []).append(auroc(path, score, strange, bench.test))
    spread = "; ".join(
        f"{key} {', '.join(f'{value:.3f}' for value in values[:3])} (dense {values[3]:.3f})"
        for key, values in figures.items()
    )
    return {**figures, "met": None, "says": f"AUROC of seeds 0, 1, 2: {spread}"}


CLAIMS = {
    "undercomplete": undercomplete,
    "stacked": stacked,
    "sparse": sparse,
    "contractive": contractive,
    "denoising": denoising,
    "vae": vae,
    "gan": gan,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPRESSOR_DATA"))
    parser.add_argument("--output", type=Path, default=Path("autoencoders-benchmark"))
    parser.add_argument("--seconds", type=float, default=90, help="of each training")
    parser.add_argument(
        "--only", choices=CLAIMS, nargs="+", default=list(CLAIMS), help="some plugins of all"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set COMPRESSOR_DATA")
    bench = Bench(Path(arguments.data), arguments.output, arguments.seconds)
    names = arguments.only
    rows = {name: bench.cell(f"{name}-row", partial(bench.row, name)) for name in names}
    claims = {name: bench.cell(f"{name}-claim", partial(CLAIMS[name], bench)) for name in names}
    print("\n| plugin | parameters | training | steps | PSNR | bits/image | MNIST | notMNIST |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| `{name}` | {row['parameters']:,} | {row['seconds']:.0f} s | {row['steps']:,} | "
            f"{row['psnr']:.2f} dB | {row['bits']:.0f} | {row['mnist']:.3f} | "
            f"{row['notmnist']:.3f} |"
        )
    print("\n| plugin | claim | met |")
    print("|---|---|---|")
    for name, claim in claims.items():
        met = {True: "yes", False: "**no**", None: "-"}[claim["met"]]
        says = claim["says"].replace("|", "\\|")
        print(f"| `{name}` | {says} | {met} |")


if __name__ == "__main__":
    main()
