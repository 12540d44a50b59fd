"""The verb ``train``: images in, a model on disk out."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from .. import __version__
from ..anomaly.calibration import calibration_scores
from ..data.images import Pixels, Source
from ..data.sources import open_source
from ..engine.engine import Engine
from ..entropy.prior import Prior
from ..errors import ConfigError, OutputError
from ..export.graphs import export_graphs, score_names
from ..export.parity import check_parity
from ..files import output_errors, refuse_input, write_atomically
from ..log import log
from ..model import (
    ModelManifest,
    PluginEntry,
    calibration_bytes,
    file_entries,
    manifest_files,
    refuse_model_output,
    write_model,
)
from ..plugin import Autoencoder
from ..progress import Progress
from ..registry import Found, find, load
from ..spec import CodeSpec
from .card import model_card
from .images import Split, TrainingImages, load_images, split_images
from .loop import CHECKPOINT, Budget, Loop, State, log_bytes
from .quantiser import choose_steps, round_weights
from .settings import TrainingSettings, split_settings

PROBE_PIXELS = 2**20  # of the images on which rounding is judged, 1,024 of them at most
PRIOR_ELEMENTS = 2**26  # of the codes that the tables are learned from
GOLDEN = 5


def train(
    plugin: str,
    data: str | Path | Pixels,
    output: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains a plugin on ``data`` and writes the model to ``output`` (a folder, or *.zip).

    ``settings`` are the plugin's config and the training's settings by name. While it runs,
    ``output``.training holds the checkpoint and the log; ``resume`` goes on from there.

    Gives model, plugin, parameters, seconds, epochs, validation_loss (of an image, the sum over its
    elements; None without validation), images, unreadable, device. Raises CompressorError.
    """
    output = Path(output)
    started = time.monotonic()
    refuse_input(output, data)
    refuse_model_output(output, force)
    found = find(plugin)
    plugin_class = load(found)
    config, training = split_settings(settings or {}, plugin_class.Config, plugin)
    source = open_source(data)
    job = _job(found, source, config.model_dump(mode="json"), training, seed)
    with _training_folder(output, job, resume, force) as folder:
        images = load_images(source, folder)
        log.info("%d images of %s", images.count, "x".join(map(str, images.spec.shape)))
        torch.manual_seed(seed)
        model = plugin_class(config, images.spec)
        split = split_images(images.count, training.validation, training.calibration, seed)
        budget = Budget(max_steps, max_seconds)
        with Progress(f"train {plugin}", 1000, shown=progress) as bar:

            def report(state: State, done: float, loss: float) -> None:
                best = f", best validation {state.best_loss:.4g}" if state.best_weights else ""
                bar.update(int(done * 1000), f"step {state.step}, loss {loss:.4g}{best}")

            loop = Loop(model, training, images, split, budget, seed, folder, report)
            state = loop.run()
        log.info("exporting and checking the graphs")
        losses = [row[4] for row in state.log if row[4] == row[4]]
        facts: dict[str, Any] = {
            "settings": training.model_dump(mode="json"),
            "seed": seed,
            "steps": state.step,
            "epochs": round(state.step / loop.order.steps_per_epoch, 3),
            "seconds": round(state.seconds, 3),
            "validation_loss": min(losses) if losses else None,
            "images": len(split.training),
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {"compressor": __version__, "torch": torch.__version__.partition("+")[0]},
            "threads": torch.get_num_threads(),
        }
        entry = PluginEntry(name=plugin, distribution=found.distribution, version=found.version)
        files, manifest = bundle(model, entry, images, split, training, facts)
        files["training.csv"] = log_bytes(state)
        manifest = manifest.model_copy(update={"files": file_entries(files)})
        write_model(output, files | manifest_files(manifest), force)
    return {
        "model": str(output),
        "plugin": plugin,
        "parameters": facts["parameters"],
        "seconds": round(time.monotonic() - started, 3),
        "epochs": facts["epochs"],
        "validation_loss": facts["validation_loss"],
        "images": images.count,
        "unreadable": len(images.unreadable),
        "unreadable_names": [f"{name}: {reason}" for name, reason in images.unreadable[:20]],
    }


def bundle(
    model: Autoencoder,
    plugin: PluginEntry,
    images: TrainingImages,
    split: Split,
    training: TrainingSettings,
    facts: Mapping[str, Any],
) -> tuple[dict[str, bytes], ModelManifest]:
    """A model's files, and its manifest but for their hashes, from a trained plugin.

    Weights and codes are rounded, graphs exported and checked, tables learned, scores calibrated.
    """
    torch.manual_seed(facts["seed"])  # whatever was drawn before, or in the run that was resumed
    held_out = split.validation if len(split.validation) else split.training
    pixels = images.spec.height * images.spec.width
    probe = _to_x(images.pixels[held_out[: max(8, min(1024, PROBE_PIXELS // pixels))]])
    weight_bits = round_weights(model, probe)
    steps = choose_steps(model, probe, training.rounding_loss)
    files = {
        f"{name}.onnx": graph.SerializeToString(deterministic=True)
        for name, graph in export_graphs(model, steps).items()
    }
    graphs = {name.removesuffix(".onnx"): content for name, content in files.items()}
    some = images.pixels[held_out[: sum((1, 2, 5))]]
    parity = check_parity(model, steps, graphs, some)

    engine = Engine(files.__getitem__, "cpu")
    codes = _codes(engine, images, split.training)
    prior = Prior.learn(codes)
    files["prior.bin"] = prior.to_bytes()
    validation_codes = _codes(engine, images, held_out)
    scores = calibration_scores(engine, images.pixels, split.calibration)
    if scores:
        files["calibration.parquet"] = calibration_bytes(scores)
    files["golden.npz"] = golden_bytes(engine, images.pixels[held_out[:GOLDEN]])
    files["weights.safetensors"] = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    )
    spec = images.spec.model_copy(update={"stride": model.stride})
    manifest = ModelManifest(
        plugin=plugin,
        config=model.config.model_dump(mode="json"),
        data=spec,
        code=CodeSpec(shape=tuple(codes.shape[1:]), stride=model.stride),
        scores=score_names(model),
        training=dict(facts),
        quantiser={
            "steps": [float(step) for step in steps.flatten()],
            "weight_bits": weight_bits,
            "validation_codes": int(validation_codes.size),
            "validation_escapes": prior.escapes(validation_codes),
            "bits_per_image": prior.ideal_bits(validation_codes) / max(1, len(validation_codes)),
        },
        parity=parity,
        files={},
    )
    files["MODEL_CARD.md"] = model_card(manifest).encode()
    return files, manifest


def golden_bytes(engine: Engine, pixels: Pixels) -> bytes:
    """golden.npz: a few images, and what the graphs answer to them."""
    codes = engine.encode(pixels)
    arrays: dict[str, Any] = {
        "image": pixels,
        "code": codes,
        "reconstruction": engine.decode(codes, *pixels.shape[1:3]),
        **engine.score(pixels),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _codes(engine: Engine, images: TrainingImages, indices: Any) -> npt.NDArray[np.int32]:
    """Codes of ``indices``, or of as many, evenly spaced, as PRIOR_ELEMENTS allows."""
    (first,) = engine.encode(images.pixels[indices[:1]])
    every = -(-len(indices) * first.size // PRIOR_ELEMENTS)
    return np.concatenate(
        [engine.encode(images.pixels[piece]) for piece in _pieces(indices[::every])]
    )


def _pieces(indices: Any, size: int = 256) -> list[Any]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _to_x(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div(255)


def _job(
    found: Found, source: Source, config: Any, training: TrainingSettings, seed: int
) -> dict[str, Any]:
    return {
        "plugin": f"{found.name} of {found.distribution} {found.version}",
        "data": source.fingerprint(),
        "config": config,
        "training": training.model_dump(mode="json"),
        "seed": seed,
    }


@contextmanager
def _training_folder(
    output: Path, job: dict[str, Any], resume: bool, force: bool
) -> Iterator[Path]:
    """The folder of this training, new or of the run that is resumed.

    It goes when the body ends, but for an error with a checkpoint to resume from. Raises
    ConfigError or OutputError if what stands there is not for this job.
    """
    output = output.absolute()
    folder = output.with_name(f"{output.name}.training")
    record = folder / "job.json"
    if folder.exists() and resume:
        _refuse_other_job(folder, record, job)
    else:
        if folder.exists() and not force:
            raise OutputError(
                f"{folder} holds an unfinished training; give --resume to go on with it, or "
                "--force to start anew"
            )
        if folder.exists() and not record.exists():
            raise OutputError(
                f"{folder} is where the training keeps its files, and other data stand there; "
                "choose another output"
            )
        with output_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_atomically(record, json.dumps(job, indent=1).encode())
    try:
        with output_errors(folder):
            yield folder
    except BaseException:
        if not (folder / CHECKPOINT).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _refuse_other_job(folder: Path, record: Path, job: dict[str, Any]) -> None:
    try:
        earlier = json.loads(record.read_text())
    except (OSError, ValueError):
        earlier = {}
    if differing := [key for key in job if earlier.get(key) != job[key]]:
        raise ConfigError(
            f"{folder} holds a training with other {', '.join(differing)}; repeat the command "
            "that began it, or start anew with --force and without --resume"
        )
