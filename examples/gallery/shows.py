"""What the sections of docs/lecture.md show: a function each, of the same name.

A function takes the folder that the section's commands wrote to and the path of its picture without
suffix, and gives lines of Markdown. Pictures have a ground of their own or a transparent one, so
that they suit light and dark pages.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compressor.data.images import Pixels
from compressor.engine.engine import Engine
from compressor.model import Model
from compressor.report.charts import diverging
from compressor.report.pictures import comparison_sheet, sheet

matplotlib.use("agg")
matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
DATA = Path(__file__).parents[1] / "data"
Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def eight(folder: Path, picture: Path) -> list[str]:
    codes = values(folder / "model", np.eye(8, dtype=np.float32))
    bits = np.round(codes).astype(int)
    different = len({tuple(row) for row in bits.tolist()})
    rows = [
        [f"{2**7 >> n:08b}", " ".join(f"{v:.2f}" for v in code), "".join(map(str, code_bits))]
        for n, (code, code_bits) in enumerate(zip(codes, bits.tolist(), strict=True))
    ]
    return [
        *table(["input", "the three units", "rounded"], rows),
        "",
        f"The {len(bits)} inputs have {different} different roundings.",
    ]


def plane(folder: Path, picture: Path) -> list[str]:
    points = np.load(folder / "points.npy").astype(np.float64)
    weights = Model.open(folder / "model").weights()
    decoder = next(weight for weight in weights.values() if weight.shape == (3, 2))
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    of_network = np.linalg.qr(decoder.astype(np.float64))[0]
    cosines = np.linalg.svd(axes[:2] @ of_network)[1].clip(-1, 1)
    angle = math.degrees(math.acos(cosines.min()))
    rebuilt = rebuilt_by(folder / "model", points.astype(np.float32))
    by_pca = centred @ axes[:2].T @ axes[:2]
    errors = [np.square(points - x).sum(1).mean() for x in (rebuilt, by_pca + points.mean(0))]
    figure, chart = axes_of(6.4, 2.2)
    for rows, colour, label in ((points, GREY, "x"), (rebuilt, ORANGE, "g(f(x))")):
        seen = (rows[:600] - points.mean(0)) @ axes[[0, 2]].T
        chart.scatter(seen[:, 0], seen[:, 1], s=4, color=colour, label=label)
    chart.set(xlabel="along the first component", ylabel="across the plane", ylim=(-0.7, 0.7))
    chart.legend(frameon=False, loc="upper right", ncols=2, markerscale=3)
    return [
        saved(
            figure,
            picture,
            "Points around a plane that is seen from its edge, and on it after the network",
        ),
        "",
        *table(
            ["", "mean squared error"],
            [["principal components", f"{errors[1]:.5f}"], ["the network", f"{errors[0]:.5f}"]],
        ),
        "",
        f"The plane of g and that of the principal components are {angle:.2f} degrees apart.",
    ]


def stacked(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    rows = []
    for name in ("untied", "tied"):
        parameters = Model.open(folder / name).manifest.training["parameters"]
        error = psnr(test, rebuilt_by(folder / name, test))
        rows.append([name, f"{parameters:,}", f"{error:.2f} dB"])
    shown = test[::100][:10]
    pixels = comparison_sheet(shown, rebuilt_by(folder / "tied", shown), 10, 84)
    return [
        *table(["weights", "parameters", "PSNR on 1,000 images not trained on"], rows),
        "",
        drawn(pixels, picture, "Clothes above what the tied network makes of them"),
    ]


def greedy(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    log = training_log(folder / "model")
    figure, chart = axes_of(6.4, 2.8)
    for phase, colour in zip(dict.fromkeys(row["phase"] for row in log), COLOURS, strict=False):
        rows = [row for row in log if row["phase"] == phase]
        steps, losses = ([float(row[key]) for row in rows] for key in ("step", "validation_loss"))
        chart.plot(steps, losses, color=colour, label=phase)
    chart.set(xlabel="step", ylabel="J, validation", yscale="log", yticks=[5, 10, 20, 50])
    chart.set_yticks([], minor=True)
    chart.yaxis.set_major_formatter("{x:.0f}")
    chart.legend(frameon=False)
    error, at_once = (
        psnr(test, rebuilt_by(model, test))
        for model in (folder / "model", folder.parent / "stacked" / "tied")
    )
    return [
        saved(figure, picture, "The loss in each phase of greedy training"),
        "",
        *table(
            ["training", "PSNR on 1,000 images not trained on"],
            [["greedy, then all layers", f"{error:.2f} dB"], ["at once", f"{at_once:.2f} dB"]],
        ),
    ]


COLOURS = (BLUE, ORANGE, "#38a169", "#805ad5")


def filters(folder: Path, picture: Path) -> list[str]:
    rows = []
    for name in ("plain", "denoising"):
        model = Model.open(folder / name)
        weight = model.weights()[model.manifest.training["first_layer"]].astype(np.float64)
        order = np.argsort(-np.square(weight).sum(1))[:28]
        pictures = [diverging(weight[n].reshape(28, 28)) for n in order]
        rows += [pictures[:14], pictures[14:]]
    pixels = sheet(rows, row_names=["plain", "", "denoising", ""], side=56, wider_after=2)
    says = "Filters of the first layer, of a plain and of a denoising autoencoder"
    return [drawn(pixels, picture, says)]


def labels(folder: Path, picture: Path) -> list[str]:
    given = np.load(folder / "few.npy")
    few = given >= 0
    with np.load(DATA / "fashion_mnist_labels.npz") as arrays:
        wanted = arrays["test"]
    with np.load(DATA / "fashion_mnist.npz") as arrays:
        pixels = [arrays[name].reshape(len(arrays[name]), -1) for name in ("train", "test")]
    codes = [np.load(folder / name) for name in ("train.npy", "test.npy")]
    rows = []
    for name, says in (("tied", "trained without labels"), ("stacked", "random")):
        share = json.loads((folder / f"{name}.json").read_text())["accuracy"]
        rows.append([f"`train classifier`, first weights: {says}", f"{share:.1%}"])
    for says, (train, test) in (("codes", codes), ("pixels", pixels)):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        classifier.fit(train[few], given[few])
        share = (classifier.predict(test) == wanted).mean()
        rows.append([f"logistic regression on {says}", f"{share:.1%}"])
    return table([f"{few.sum()} labels", "right"], rows)


def transfer(folder: Path, picture: Path) -> list[str]:
    letters = np.load(folder / "others.npy")[..., None]
    counts = sorted({int(path.name.split("-")[1]) for path in folder.glob("anew-*")})
    rows = [
        [
            f"{count}",
            *(
                f"{psnr(letters, rebuilt_by(folder / f'{start}-{count}', letters)):.2f} dB"
                for start in ("started", "anew")
            ),
        ]
        for count in counts
    ]
    return [
        *table(["steps", "PSNR from clothes", "PSNR from random weights"], rows),
        "",
        "Of 100 other letters.",
    ]


def noises(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    random = np.random.default_rng(0)
    hit = random.random(test.shape) < 0.25
    salt = np.where(random.random(test.shape) < 0.5, 0, 255)
    gaussian = np.clip(np.rint(test + random.normal(0, 0.3 * 255, test.shape)), 0, 255)
    corrupted = {
        "gaussian": gaussian.astype(np.uint8),
        "masking": np.where(hit, 0, test).astype(np.uint8),
        "salt-and-pepper": np.where(hit, salt, test).astype(np.uint8),
    }
    shown = slice(0, 1000, 100)
    numbers, rows, names = [], [test[shown]], ["x"]
    for noise, seen in corrupted.items():
        cleaned = rebuilt_by(folder / noise, seen)
        numbers.append([noise, f"{psnr(test, seen):.1f} dB", f"{psnr(test, cleaned):.1f} dB"])
        rows += [seen[shown], cleaned[shown]]
        names += [noise, "cleaned"]
    pixels = sheet(rows, row_names=names, side=56)
    return [
        drawn(pixels, picture, "Clothes, with each noise, and cleaned"),
        "",
        *table(["noise", "PSNR of x~", "PSNR of g(f(x~))"], numbers),
    ]


def projection(folder: Path, picture: Path) -> list[str]:
    points = np.load(folder / "spiral.npy")
    random = np.random.default_rng(1)
    count = 220
    start = points[random.choice(len(points), count, replace=False)]
    noisy = (start + random.normal(0, 0.12, start.shape)).astype(np.float32)
    back = rebuilt_by(folder / "model", noisy)
    curve = spiral(np.linspace(0, 1, 4000))
    before, after = (distances(x.astype(np.float64), curve) for x in (noisy, back))
    figure, chart = axes_of(4.6, 4.6)
    chart.plot(*curve.T, color=GREY, linewidth=2.5, zorder=1)
    chart.quiver(
        *noisy.T, *(back - noisy).T, angles="xy", scale_units="xy", scale=1, width=0.004,
        color=BLUE, zorder=3,
    )  # fmt: skip
    chart.scatter(noisy[:, 0], noisy[:, 1], s=7, color=ORANGE, zorder=2)
    chart.set_aspect("equal")
    chart.set_axis_off()
    return [
        saved(figure, picture, "Arrows from noisy points to what is rebuilt, near the curve"),
        "",
        f"The mean distance to the curve is {before.mean():.3f} before and {after.mean():.3f} "
        f"after.",
    ]


def spiral(at: Numbers) -> Numbers:
    """Points (n, 2) of the curve that the section's data lie on, for at in [0, 1]."""
    turn = 1.5 * np.pi * (1 + 2 * at)
    return np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1) / 10


def sparsity(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    figure, charts = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    rows = []
    for name, label, colour in (
        ("plain", "alpha = 0", GREY),
        ("sparse", "with the penalty", BLUE),
    ):
        zeros = Model.open(folder / name).manifest.training["measures"]["zeros in h"]
        h = values(folder / name, test)
        active = (np.abs(h) > 0).sum(1)
        charts[0].hist(active, bins=30, color=colour, alpha=0.8, label=label)
        charts[1].plot(np.sort((h > 0).mean(0))[::-1], color=colour, label=label)
        error = psnr(test, rebuilt_by(folder / name, test))
        rows.append(
            [label, f"{zeros:.0%}", f"{active.mean():.0f} of {h.shape[1]}", f"{error:.2f} dB"]
        )
    charts[0].set(xlabel="active units of an image", ylabel="images")
    charts[1].set(xlabel="unit", ylabel="share of images")
    charts[0].legend(frameon=False)
    return [
        saved(figure, picture, "Fewer units are active for an image with the penalty"),
        "",
        *table(["", "zeros in h", "active after rounding", "PSNR"], rows),
    ]


def contraction(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    figure, charts = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained", sharey=True)
    rows = []
    for chart, (name, label) in zip(
        charts, (("plain", "alpha = 0"), ("contractive", "with the penalty")), strict=True
    ):
        norm = next(iter(Model.open(folder / name).manifest.training["measures"].values()))
        h = values(folder / name, test)
        corners = (np.minimum(h, 1 - h) < 0.1).mean()
        chart.hist(
            h.ravel(), bins=20, range=(0, 1), color=BLUE, weights=np.full(h.size, 1 / h.size)
        )
        chart.set(title=label, xlabel="value of a unit")
        error = psnr(test, rebuilt_by(folder / name, test))
        rows.append([label, f"{norm:.2f}", f"{corners:.0%}", f"{error:.2f} dB"])
    charts[0].set_ylabel("share of the codes")
    return [
        saved(figure, picture, "The values of the code move to 0 and 1 with the penalty"),
        "",
        *table(["", "norm of df/dx", "within 0.1 of 0 or 1", "PSNR"], rows),
    ]


def vae(folder: Path, picture: Path) -> list[str]:
    model = Model.open(folder / "model")
    facts = model.manifest.training
    divergence = facts["measures"]["KL in nats"]
    bound = facts["validation_loss"]
    samples = model.golden()["samples"]
    rows = [samples[n : n + 16] for n in range(0, len(samples), 16)]
    return [
        drawn(sheet(rows, side=56), picture, "Samples of the variational autoencoder"),
        "",
        f"-ELBO of the validation images is {bound:.1f} nats: {divergence:.1f} of KL divergence, "
        f"{bound - divergence:.1f} of reconstruction.",
    ]


def manifold(folder: Path, picture: Path) -> list[str]:
    pictures = Model.open(folder / "model").golden()["manifold"]
    side = math.isqrt(len(pictures))
    rows = [pictures[n : n + side] for n in range(0, len(pictures), side)]
    says = "Decoded codes on a grid of the quantiles of N(0, I)"
    return [drawn(sheet(rows, side=56), picture, says)]


def game(folder: Path, picture: Path) -> list[str]:
    played = [row for row in training_log(folder / "model") if row["phase"] == "adversarial"]
    losses = [dict(pair.split("=") for pair in row["players"].split()) for row in played]
    steps = [float(row["step"]) for row in played]
    figure, chart = axes_of(6.4, 2.8)
    for player, best, colour in (("D", 2 * math.log(2), BLUE), ("g", math.log(2), ORANGE)):
        chart.plot(
            steps, [float(row[player]) for row in losses], color=colour, label=f"J({player})"
        )
        chart.axhline(best, color=colour, linestyle=":", linewidth=1)
    chart.set(xlabel="step", ylabel="loss", ylim=(0, None))
    chart.legend(frameon=False)
    measures = Model.open(folder / "model").manifest.training["measures"]
    return [
        saved(figure, picture, "The losses of discriminator and generator"),
        "",
        f"At the end D(x) is {measures['D(x)']:.2f} of real images and D(g(z)) "
        f"{measures['D(g(z))']:.2f} of made ones, in the mean.",
    ]


def dcgan(folder: Path, picture: Path) -> list[str]:
    samples = np.load(folder / "samples.npy").reshape(-1, 28, 28, 1)
    rows = [samples[n : n + 16] for n in range(0, len(samples), 16)]
    return [drawn(sheet(rows, side=56), picture, "Samples of the generator")]


def arithmetic(folder: Path, picture: Path) -> list[str]:
    shown = (
        ("sum", "Averages, their sum in the middle, and neighbours of the sum"),
        ("path", "A path between the codes of a T-shirt and of a boot"),
        ("moved", "One code element moved in each row"),
    )
    lines = []
    for name, says in shown:
        with Image.open(folder / f"{name}.png") as image:
            lines += [
                "",
                drawn(np.asarray(image), picture.with_name(f"{picture.name}-{name}"), says),
            ]
    return lines[1:]


def retrieval(folder: Path, picture: Path) -> list[str]:
    test = clothes()
    rows = []
    for file in sorted(folder.glob("*.csv"), key=lambda path: int(path.stem)):
        with file.open(newline="") as lines:
            rows.append([test[int(row["path"])] for row in csv.DictReader(lines)])
    says = "Each row: an image and the images whose codes are nearest"
    return [drawn(sheet(rows, side=56), picture, says)]


def compression(folder: Path, picture: Path) -> list[str]:
    summary = json.loads((folder / "compressed.json").read_text())
    raw, archive, psnr_here = (summary[key] for key in ("raw_bytes", "archive_bytes", "psnr"))
    sizes = [
        ("raw", raw, math.inf),
        ("this archive", archive, psnr_here),
        ("without its model", archive - summary["model_bytes"], psnr_here),
        *(
            (f"{row['codec']}, one mosaic", row["bytes"], row["psnr"])
            for row in summary["compare"][1:]
            if row["bytes"] is not None and row["form"] == "mosaic"
        ),
    ]
    rows = [
        [name, f"{size:,}", f"{8 * size / raw:.3f}", f"{quality:.2f} dB".replace("inf dB", "")]
        for name, size, quality in sizes
    ]
    return [
        f"{summary['images']:,} images:",
        "",
        *table(["", "bytes", "bits a pixel", "PSNR"], rows),
    ]


# What the functions above share


def clothes() -> Rows:
    """The 1,000 test images of the sample, uint8 (N, 28, 28, 1)."""
    with np.load(DATA / "fashion_mnist.npz") as arrays:
        images: Rows = arrays["test"][..., None]
    return images


def values(model: Path, rows: Rows) -> Numbers:
    """The codes as the decoder sees them, (N, K)."""
    opened = Model.open(model)
    steps = np.array(opened.manifest.quantiser["steps"])
    codes: Numbers = Engine(opened, "cpu").encode(rows) * steps
    return codes


def rebuilt_by(model: Path, rows: Rows) -> Rows:
    """What comes back of images (N, H, W, C) or vectors (N, D) from their integer codes."""
    engine = Engine(Model.open(model), "cpu")
    size = rows.shape[1:3] if rows.ndim == 4 else (1, rows.shape[1])
    return engine.decode(engine.encode(rows), *size)


def psnr(images: Rows, others: Rows) -> float:
    error = np.square(images.astype(np.float64) - others).mean()
    return float(10 * np.log10(255**2 / error))


def distances(points: Numbers, curve: Numbers) -> Numbers:
    """Of each point to the nearest of the curve's."""
    apart: Numbers = np.sqrt(np.square(points[:, None] - curve).sum(2).min(1))
    return apart


def training_log(model: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Model.open(model).read("training.csv").decode())))


def axes_of(width: float, height: float) -> tuple[Any, Axes]:
    return plt.subplots(figsize=(width, height), layout="constrained")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], f"|{'---|' * len(head)}", *lines[1:]]


def saved(figure: Any, picture: Path, says: str) -> str:
    """Saves a chart, and gives the line that shows it."""
    figure.savefig(picture.with_suffix(".png"), dpi=110)
    plt.close(figure)
    return shown_as(picture, says)


def drawn(pixels: Pixels, picture: Path, says: str) -> str:
    """Saves pixels, and gives the line that shows them."""
    image = Image.fromarray(pixels)
    colours = pixels[..., :3]
    is_grey = bool((colours == colours[..., :1]).all())
    (image.convert("LA") if is_grey else image).save(picture.with_suffix(".png"), optimize=True)
    return shown_as(picture, says)


def shown_as(picture: Path, says: str) -> str:
    return f"![{says}]({picture.parent.name}/{picture.name}.png)"
