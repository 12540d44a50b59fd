"""The verb ``train``: data in, a model on disk out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..anomaly.calibration import smallest_fpr
from ..bundles import WEIGHTS
from ..data.images import Data, Source
from ..data.reading import refuse_changed
from ..data.sources import open_source
from ..errors import ConfigError, OutputError
from ..files import (
    is_leftover,
    output_errors,
    refuse_elsewhere,
    refuse_input,
    write_atomically,
)
from ..labels.classifier import Classifier
from ..likelihood import LIKELIHOODS
from ..log import log
from ..manifests import file_entries
from ..model import (
    Model,
    ModelManifest,
    PluginEntry,
    manifest_files,
)
from ..normalisation import Normalisation
from ..plugin import Autoencoder
from ..progress import Progress
from ..registry import Found, find, load
from ..resume import FolderLock, empty
from ..spec import VectorSpec
from .bundle import FINISHING, bundle
from .checkpoint import Checkpoint, State, log_bytes
from .dataset import Dataset, load_dataset, pieces, split_rows
from .loop import Budget, Loop
from .rehearsal import rehearse
from .samples import few_kinds
from .settings import TrainingSettings, split_settings
from .start import begin_where, make_model, opened

MAX_MISSED_DECIBELS, MAX_MISSED_BITS = 1.0, 0.1  # of an aim, without a warning
RECORD = "job.json"  # in a training's folder: which job it is of


def train(
    plugin: str,
    data: Data,
    output: str | Path,
    *,
    start: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains a plugin on ``data`` and writes the model to ``output`` (a folder, or *.zip).

    ``settings`` are the plugin's config and the training's settings by name. ``start`` is a model
    of the same plugin, or a classifier that began with one: its weights are the first ones, and its
    config holds where ``settings`` do not say otherwise. While it runs, ``output``.training holds
    the checkpoint and the log; ``resume`` goes on from there.

    Gives model, plugin, parameters, seconds, epochs, validation_loss (of an image, the sum over its
    elements; None without validation), of held-out data psnr (in dB) or, of vectors, mse (of
    standardised numbers), bits (of a pixel, or of a vector's number, by the prior), aim (quality=DB
    or bits=B, if one was asked), images, unreadable, left_out, smallest_fpr (the smallest --fpr
    that score can hold with the calibration inputs kept aside), and warnings, in sentences. Raises
    CompressorError.
    """
    refuse_elsewhere(data, start, outputs=[output])
    output = Path(output)
    started = time.monotonic()
    refuse_input(output, data)
    Model.refuse_output(output, force)
    announced = find(plugin)
    plugin_class = load(announced)
    earlier = None if start is None else _opened(start, plugin)
    given = {**(earlier.network[1] if earlier else {}), **(settings or {})}
    config, training = split_settings(given, plugin_class.Config, plugin)
    source = open_source(data)
    job = _job(announced, source, config.model_dump(mode="json"), training, seed)
    first_weights = earlier and earlier.manifest.files[WEIGHTS].sha256
    job["start"] = first_weights
    with training_folder(output, job, resume, force) as folder:
        dataset = load_dataset(source, folder, training.crop, training.channels)
        refuse_changed(source, job["data"])
        log.info("%d inputs of %s", dataset.count, "x".join(map(str, dataset.shape)))
        split = split_rows(dataset.count, training.validation, training.calibration, seed)
        spec = dataset.spec(split.training, training.standardise)
        torch.manual_seed(seed)
        model = make_model(plugin_class, config, spec, training)
        if start is not None:
            begin_where(model, start)
        _refuse_data(model, dataset)
        _refuse_batches_of_one(model, min(training.batch_size, len(split.training)))
        log.info("a rehearsal of the export")
        traced = rehearse(model, dataset, split.training)
        budget = Budget(max_steps, max_seconds)
        loop = Loop(model, training, dataset, split, budget, seed, folder)
        state = _fit(loop, plugin, progress)
        facts = _facts(loop, state) | ({"start": first_weights} if first_weights else {})
        entry = PluginEntry(
            name=plugin, distribution=announced.distribution, version=announced.version
        )
        log.info("exporting and checking the graphs")
        with Progress("finish", len(FINISHING), shown=progress) as bar:
            report_step = partial(_report_step, bar)
            files, manifest = bundle(
                model, entry, dataset, split, training, facts, traced, report_step
            )
            bar.update(len(FINISHING))
        files["training.csv"] = log_bytes(state)
        manifest = manifest.model_copy(update={"files": file_entries(files)})
        Model.write(output, files | manifest_files(manifest), force)
    return {
        "model": str(output),
        "plugin": plugin,
        "parameters": facts["parameters"],
        "seconds": round(time.monotonic() - started, 3),
        "epochs": facts["epochs"],
        "validation_loss": facts["validation_loss"],
        **_quality(manifest),
        "bits": manifest.quantiser["bits_per_place"],
        "aim": _aim(training),
        "images": dataset.count,
        "unreadable": len(dataset.unreadable),
        "unreadable_names": [f"{name}: {reason}" for name, reason in dataset.unreadable],
        "left_out": dict(dataset.left_out),
        "smallest_fpr": smallest_fpr(len(split.calibration)),
        "warnings": [
            *_warnings(manifest, training),
            *model.warnings(manifest.training["measures"]),
        ],
    }


def _fit(loop: Loop, plugin: str, progress: bool) -> State:
    """Trains, and shows how far it is."""
    with Progress(f"train {plugin}", 100, unit="%", shown=progress) as bar:

        def report(state: State, done: float, loss: float) -> None:
            best = f", best validation {state.best_loss:.4g}" if state.best_weights else ""
            bar.update(int(done * 100), f"step {state.step}, loss {loss:.4g}{best}")

        loop.report = report
        state = loop.run()
        bar.update(100)
    return state


def _facts(loop: Loop, state: State) -> dict[str, Any]:
    """What the manifest says of a training."""
    return {
        "settings": loop.settings.model_dump(mode="json"),
        "seed": loop.seed,
        "steps": state.step,
        "epochs": round(state.step / loop.order.steps_per_epoch, 3),
        "seconds": round(state.seconds, 3),
        "validation_loss": state.validation_loss,
        "images": len(loop.split.training),
        "parameters": sum(p.numel() for p in loop.model.parameters()),
        "versions": {"compressor": __version__, "torch": torch.__version__.partition("+")[0]},
        "threads": torch.get_num_threads(),
    }


def _quality(manifest: ModelManifest) -> dict[str, float | None]:
    psnr = manifest.quantiser["psnr"]
    if isinstance(manifest.data, VectorSpec):
        return {"psnr": None, "mse": 10 ** (-psnr / 10)}
    return {"psnr": psnr, "mse": None}


def _aim(training: TrainingSettings) -> str | None:
    """What was asked of the codes, as it is typed."""
    if training.quality is not None:
        return f"quality={training.quality:g}"
    return None if training.bits is None else f"bits={training.bits:g}"


def _warnings(manifest: ModelManifest, training: TrainingSettings) -> Iterator[str]:
    """Why the model may not be what was wanted."""
    quantiser = manifest.quantiser
    if quantiser["codes_equal"]:
        setting = "rate" if "rate" in quantiser else "rounding_loss"
        yield (
            "every input has the same code, so nothing that tells them apart comes back: train "
            f"longer, or give a larger latent or a smaller {setting}"
        )
    if sentence := few_kinds(manifest.training["measures"], f"{manifest.data.kind}s"):
        yield sentence
    psnr, bits = quantiser["psnr"], quantiser["bits_per_place"]
    if training.quality is not None and abs(psnr - training.quality) >= MAX_MISSED_DECIBELS:
        yield (
            f"the model missed its aim: quality={training.quality:g} was asked, and its PSNR is "
            f"{psnr:.2f} dB; train longer, or with a larger network"
        )
    if training.bits is not None and abs(bits / training.bits - 1) >= MAX_MISSED_BITS:
        yield (
            f"the model missed its aim: bits={training.bits:g} was asked, and codes take "
            f"{bits:.3g}; train longer"
        )


def _report_step(bar: Progress, step: str) -> None:
    bar.update(FINISHING.index(step), step)


def _opened(start: str | Path, plugin: str) -> Model | Classifier:
    """What a training starts from. Raises ConfigError if it is of another plugin."""
    model = opened(start)
    name, _ = model.network
    if name != plugin:
        raise ConfigError(f"{start} is a {model.format.kind} of the plugin {name}, not of {plugin}")
    model.weights()  # found damaged now, and not when the data are decoded
    return model


def _refuse_data(model: Autoencoder, dataset: Dataset) -> None:
    """Raises ConfigError if the model, or its likelihood, does not accept such data."""
    if model.rebuilds_features and len(dataset.shape) != 3:
        raise ConfigError("this plugin rebuilds features of images; these data are vectors")
    wanted = LIKELIHOODS[model.likelihood].data
    if len(dataset.shape) == 3 or wanted == "any":
        return
    if wanted == "levels":
        raise ConfigError(f"the likelihood {model.likelihood} is for images; vectors take square")
    normalisation = Normalisation(model.spec)
    for part in pieces(np.arange(dataset.count), model.spec):
        x = normalisation(torch.from_numpy(dataset.rows[part]))
        if x.min() < 0 or x.max() > 1:
            raise ConfigError(
                f"the likelihood {model.likelihood} takes values in [0, 1], and x goes from "
                f"{x.min():.3g} to {x.max():.3g}; use square, or, if the data themselves lie "
                "there, standardise=false"
            )


def _refuse_batches_of_one(model: Autoencoder, size: int) -> None:
    if size == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise ConfigError(
            "this network has batch normalisation, which learns nothing from a batch of one: give "
            "a larger batch_size, or more data"
        )


def _job(
    announced: Found, source: Source, config: Any, training: TrainingSettings, seed: int
) -> dict[str, Any]:
    return {
        "plugin": f"{announced.name} of {announced.distribution} {announced.version}",
        "data": source.fingerprint(),
        "config": config,
        "training": training.model_dump(mode="json"),
        "seed": seed,
    }


@contextmanager
def training_folder(output: Path, job: dict[str, Any], resume: bool, force: bool) -> Iterator[Path]:
    """The folder of this training, new or of the run that is resumed.

    It goes when the body ends, but for an error with a checkpoint to resume from. Raises
    ConfigError or OutputError if what stands there is not for this job.
    """
    output = output.absolute()
    folder = output.with_name(f"{output.name}.training")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, output)
    lock.take()
    try:
        _prepare(folder, job, resume, force)
        try:
            with output_errors(folder):
                yield folder
        except BaseException:
            if not Checkpoint(folder).path.exists():
                with suppress(OSError):
                    _remove(folder)
            raise
        _remove(folder)
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    empty(folder, last=RECORD)
    folder.rmdir()


def _prepare(folder: Path, job: dict[str, Any], resume: bool, force: bool) -> None:
    """Leaves the folder, which exists, as a training begins or goes on with it."""
    record = folder / RECORD
    is_empty = all(is_leftover(entry.name) for entry in folder.iterdir())
    if resume and not is_empty:
        _refuse_other_job(folder, record, job)
        return
    if not is_empty and not record.exists():
        raise OutputError(
            f"{folder} is where the training keeps its files, and other data stand there; "
            "choose another output"
        )
    if not is_empty and not force:
        raise OutputError(
            f"{folder} holds an unfinished training; give resume=True to go on with it, or "
            "force=True to start anew"
        )
    with output_errors(folder):
        empty(folder, last=RECORD)
        write_atomically(record, json.dumps(job, indent=1).encode())


def _refuse_other_job(folder: Path, record: Path, job: dict[str, Any]) -> None:
    try:
        earlier = json.loads(record.read_text())
    except (OSError, ValueError):
        earlier = {}
    if differing := [key for key in job if earlier.get(key) != job[key]]:
        raise ConfigError(
            f"{folder} holds a training with other {', '.join(differing)}; repeat the command "
            "that began it, or start anew with force=True and without resume=True"
        )
