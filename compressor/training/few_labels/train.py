"""The verb ``train classifier``: labelled data in, a classifier on disk out."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ... import __version__
from ...bundles import WEIGHTS, format_of
from ...data.images import Data, Rows
from ...data.sources import open_source
from ...engine.providers import choose_device
from ...errors import ConfigError, DataError, ExportError
from ...export.graphs import export_graph, without_batch_norm
from ...files import refuse_elsewhere, refuse_input
from ...labels.classifier import GOLDEN, GRAPH, Beginning, Classifier, ClassifierManifest
from ...labels.given import FOLDERS, NONE, Labels, fingerprint_of, labels_of, listed
from ...log import log
from ...manifests import file_entries
from ...model import Model, PluginEntry
from ...networks.discriminator import WithDiscriminator
from ...plugin import Autoencoder
from ...progress import Progress
from ...registry import discover, find, load
from ...spec import DataSpec
from ..checkpoint import State, log_bytes
from ..dataset import Dataset, Indices, load_dataset, seeded
from ..loop import Budget
from ..settings import TrainingSettings, checked
from ..start import make_model, opened, plain_weights, restore
from ..train import training_folder
from .foreign import Foreign
from .loop import FewLabelLoop, fit_head, fitted_temperature, logits_of
from .network import Network, Trunk, refuse_other_data
from .settings import ClassifierSettings

GOLDEN_INPUTS = 5
APART = 1e-4  # of a probability: how far ONNX Runtime may be from torch
HELD_OUT_STREAM = 2**61  # of random numbers; those of steps are below
MAX_JUDGES = 10_000
AT_ONCE = 256


def train_classifier(
    data: Data,
    output: str | Path,
    *,
    start: str | Path,
    labels: Any = FOLDERS,
    unlabelled: Data | None = None,
    freeze: int | str = "none",
    settings: Mapping[str, Any] | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains a classifier on the labels of some of ``data``, and writes it to ``output``.

    start: what layers are copied from: a model; a classifier of ours; FILE.onnx or
    FILE.onnx::TENSOR; or a plugin's name, whose network is new but for what it has pretrained.
    labels: see labels/given.py. unlabelled: more data, without labels. freeze: "none", "all" or how
    many layers of f, from the input on, stay as they are; with "all" the head is linear, and only
    labelled data count. settings: those of settings.py by name.

    Gives model, labels (how many inputs have each), images, labelled, unlabelled, held_out (labels
    that judge), accuracy (on those) and accuracy_interval (95%, Wilson 1927), temperature, steps,
    seconds, unreadable, unmatched (paths of labels that no input has), and warnings, in sentences.
    Raises CompressorError.
    """
    refuse_elsewhere(data, unlabelled, start, labels, outputs=[output])
    output, began = Path(output), time.monotonic()
    refuse_input(output, data, unlabelled, start, labels)
    Classifier.refuse_output(output, force)
    for name in settings or {}:
        if name not in ClassifierSettings.model_fields:
            raise ConfigError(
                f"a classifier has no setting {name!r}; it has "
                f"{', '.join(ClassifierSettings.model_fields)}"
            )
    chosen = checked(ClassifierSettings, dict(settings or {}))
    beginning = _Beginning.of(start, chosen)
    fixed = _layers_fixed(freeze, beginning)
    source = open_source(data, beginning.columns)
    more = None if unlabelled is None else open_source(unlabelled, beginning.columns)
    job = {
        "plugin": f"classifier on {beginning.name}",
        "data": [source.fingerprint(), more and more.fingerprint()],
        "labels": fingerprint_of(labels),
        "training": chosen.model_dump(mode="json"),
        "start": beginning.sha256,
        "freeze": freeze,
        "seed": seed,
    }
    with training_folder(output, job, resume, force) as folder:
        dataset = load_dataset(source, folder, channels=chosen.channels)
        others = None
        if more is not None:
            (folder / "unlabelled").mkdir(exist_ok=True)
            others = load_dataset(more, folder / "unlabelled", channels=chosen.channels)
        given = labels_of(labels, *dataset.names, dataset.read)
        _refuse_labels(given, source.location)
        split = _split(given, chosen.held_out, seed)
        rows = _AllRows(dataset, others)
        spec = beginning.spec_for(dataset)
        torch.manual_seed(seed)
        trained = _train(
            beginning,
            spec,
            _Task(given, split, rows, chosen, fixed, Budget(max_steps, max_seconds), seed, folder),
            progress,
        )
        facts = _facts(trained, given, split, rows, chosen, seed, freeze)
        log.info("exporting and checking the graph")
        golden = rows.of(split.held_out if len(split.held_out) else split.training)
        files = _files(trained, spec, golden)
        files["training.csv"] = log_bytes(trained.state)
        manifest = ClassifierManifest(
            labels=given.names,
            data=spec,
            begins_with=beginning.entry(trained),
            training=facts,
            files={},
        )
        files["MODEL_CARD.md"] = _card(manifest).encode()
        manifest = manifest.model_copy(update={"files": file_entries(files)})
        Classifier.write(output, files | manifest.to_files(), force)
    return {
        "model": str(output),
        **{name: facts[name] for name in SUMMARISED},
        "labels": facts["counts"],
        "seconds": round(time.monotonic() - began, 3),
        "unreadable": len(dataset.unreadable),
        "unreadable_names": [f"{name}: {reason}" for name, reason in dataset.unreadable],
        "unmatched": list(given.unmatched),
        "warnings": list(_warnings(given, split, facts)),
    }


SUMMARISED = (
    "images",
    "labelled",
    "unlabelled",
    "held_out",
    "accuracy",
    "accuracy_interval",
    "temperature",
    "steps",
)


@dataclass(frozen=True)
class _Beginning:
    """What a classifier begins with: a plugin's network, or another one in ONNX."""

    name: str
    sha256: str | None
    settings: ClassifierSettings
    model: Model | Classifier | None = None
    plugin: str | None = None
    onnx: tuple[Path, str] | None = None

    @classmethod
    def of(cls, start: str | Path, settings: ClassifierSettings) -> _Beginning:
        """Raises ConfigError or ModelError if it is nothing that a classifier can begin with."""
        text = str(start)
        path, _, tensor = text.partition("::")
        if path.endswith(".onnx"):
            return cls(Path(path).name, None, settings, onnx=(Path(path), tensor))
        if not Path(text).exists() and text in discover():
            return cls(text, None, settings, plugin=text)
        if format_of(text) is None and not Path(text).exists():
            raise ConfigError(
                f"start={text} is no model, no classifier, no FILE.onnx and no plugin; plugins are "
                f"{', '.join(discover())}"
            )
        model = opened(text)
        weights = model.manifest.files.get(WEIGHTS)
        if weights is None:
            name, _ = model.network
            raise ConfigError(f"{start} is a classifier on {name}, which cannot be copied from it")
        return cls(model.network[0], weights.sha256, settings, model=model)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Those of the vectors that it takes."""
        return getattr(self.model.spec, "columns", None) if self.model else None

    def spec_for(self, dataset: Dataset) -> DataSpec:
        """Of the data, with the numbers that the network's vectors are standardised by."""
        spec = dataset.spec(np.arange(dataset.count), standardise=True)
        if self.model is None:
            return spec
        refuse_other_data(self.model.spec, spec, str(self.model.location))
        return spec if spec.kind == "image" else self.model.spec

    def autoencoder(self, spec: DataSpec) -> Autoencoder:
        """The plugin's network with the weights that it begins with."""
        if self.plugin is not None:
            plugin = load(find(self.plugin))
            return make_model(plugin, plugin.Config(), spec, TrainingSettings())
        assert self.model is not None
        earlier = restore(self.model.location)
        plain = earlier.model if isinstance(earlier, WithDiscriminator) else earlier
        model = make_model(type(plain), plain.config, spec, TrainingSettings())
        model.load_state_dict(plain_weights(earlier))
        return model

    def entry(self, trained: _Trained) -> Beginning:
        """For the manifest."""
        if trained.foreign is not None:
            foreign = trained.foreign
            return Beginning(
                kind="onnx", name=self.name, layer=foreign.tensor, sha256=foreign.sha256
            )
        assert trained.network is not None
        found = find(self.name)
        return Beginning(
            kind="plugin",
            name=self.name,
            plugin=PluginEntry(
                name=found.name, distribution=found.distribution, version=found.version
            ),
            config=trained.network.trunk.model.config.model_dump(mode="json"),
            layer=self.settings.layer,
            sha256=self.sha256,
        )


@dataclass(frozen=True)
class _Split:
    """The numbers of labelled inputs that train, and of those that judge."""

    training: Indices
    held_out: Indices


class _AllRows:
    """The labelled data and behind them the unlabelled ones, by number."""

    def __init__(self, dataset: Dataset, others: Dataset | None) -> None:
        if others is not None and others.shape != dataset.shape:
            raise DataError(
                f"unlabelled data are {'x'.join(map(str, others.shape))}, and labelled ones "
                f"{'x'.join(map(str, dataset.shape))}: give data of one size"
            )
        self._parts = [dataset] if others is None else [dataset, others]
        self.count = sum(part.count for part in self._parts)

    def of(self, numbers: Indices) -> Rows:
        """(n, *shape), as they are stored."""
        first = self._parts[0]
        inside = numbers < first.count
        if inside.all():
            return np.asarray(first.rows[numbers])
        other = self._parts[1].rows
        rows = np.empty((len(numbers), *first.shape), other.dtype)
        rows[inside] = first.rows[numbers[inside]]
        rows[~inside] = other[numbers[~inside] - first.count]
        return rows


@dataclass(frozen=True)
class _Task:
    """What is to be learned, from what."""

    labels: Labels
    split: _Split
    rows: _AllRows
    settings: ClassifierSettings
    freeze: int | None  # layers; None: all of them
    budget: Budget
    seed: int
    folder: Path

    @property
    def guessed(self) -> Indices:
        """The inputs whose labels are guessed: all but those that judge."""
        others = np.ones(self.rows.count, bool)
        others[self.split.held_out] = False
        return np.flatnonzero(others)

    def numbers(self, of: Indices) -> Tensor:
        """Their labels, int64 (n,)."""
        return torch.from_numpy(self.labels.of[of])


@dataclass(frozen=True)
class _Trained:
    """A network of ours, or the ONNX network that a head was learned for."""

    state: State
    held_out: Tensor  # logits of the inputs that judge, before the temperature
    temperature: float
    network: Network | None = None
    foreign: Foreign | None = None
    head: tuple[Tensor, Tensor] | None = None

    def probabilities(self, rows: Rows) -> Tensor:
        """(n, labels), by torch."""
        if self.network is not None:
            with torch.no_grad():
                answer: Tensor = self.network(torch.from_numpy(np.array(rows)))
            return answer
        assert self.foreign is not None and self.head is not None
        weight, bias = self.head
        return torch.nn.functional.linear(self.foreign.activations(rows), weight, bias).softmax(1)


def _train(beginning: _Beginning, spec: DataSpec, task: _Task, progress: bool) -> _Trained:
    if beginning.onnx is not None:
        path, tensor = beginning.onnx
        settings = task.settings
        foreign = Foreign(path, tensor, spec, settings.mean, settings.deviation)
        return _with_foreign(foreign, task)
    model = beginning.autoencoder(spec)
    trunk = Trunk(model, task.settings.layer)
    is_fixed = task.freeze is None or model.rebuilds_features
    width = 0 if is_fixed else task.settings.width
    network = Network(trunk, spec, len(task.labels.names), width)
    network.eval()
    if is_fixed:
        state, logits = _with_fixed_layers(network, task)
    else:
        state = _fine_tune(network, task, progress)
        logits = logits_of(network, _tensors(task.rows), task.split.held_out)
    temperature = _temperature(logits, task)
    network.temperature.fill_(temperature)
    return _Trained(state, logits, temperature, network=network)


def _fine_tune(network: Network, task: _Task, progress: bool) -> State:
    of = np.full(task.rows.count, NONE)
    of[: len(task.labels.of)] = task.labels.of
    assert task.freeze is not None
    with Progress("train classifier", 100, unit="%", shown=progress) as bar:

        def report(state: State, done: float, loss: float) -> None:
            bar.update(int(done * 100), f"step {state.step}, loss {loss:.4g}")

        loop = FewLabelLoop(
            network,
            task.settings,
            _tensors(task.rows),
            of,
            task.split.training,
            task.split.held_out,
            task.guessed,
            task.freeze,
            task.budget,
            task.seed,
            task.folder,
            report,
        )
        state = loop.run()
        bar.update(100)
    return state


def _with_fixed_layers(network: Network, task: _Task) -> tuple[State, Tensor]:
    """Fits the head alone; the state of no step, and the logits of those that judge."""

    @torch.no_grad()
    def activations(numbers: Indices) -> Tensor:
        parts = [
            network.trunk(network.normalisation(torch.from_numpy(task.rows.of(part))))
            for part in _parts(numbers)
        ]
        return torch.cat(parts)

    head = network.head[0]
    assert isinstance(head, torch.nn.Linear)
    return _fit(head, activations, task)


def _with_foreign(foreign: Foreign, task: _Task) -> _Trained:
    def activations(numbers: Indices) -> Tensor:
        return torch.cat([foreign.activations(task.rows.of(part)) for part in _parts(numbers)])

    size = activations(task.split.training[:1]).shape[1]
    head = torch.nn.Linear(size, len(task.labels.names))
    state, logits = _fit(head, activations, task)
    temperature = _temperature(logits, task)
    weights = head.weight.detach() / temperature, head.bias.detach() / temperature
    return _Trained(state, logits, temperature, foreign=foreign, head=weights)


def _fit(
    head: torch.nn.Linear, activations: Callable[[Indices], Tensor], task: _Task
) -> tuple[State, Tensor]:
    split = task.split
    judging = activations(split.held_out) if len(split.held_out) else None
    judges = None if judging is None else (judging, task.numbers(split.held_out))
    log.info("fitting a linear head on layers that stay as they are")
    fit_head(head, activations(split.training), task.numbers(split.training), judges)
    with torch.no_grad():
        logits = torch.empty(0, len(task.labels.names)) if judging is None else head(judging)
    return State(), logits


def _temperature(logits: Tensor, task: _Task) -> float:
    if not len(logits):
        return 1.0
    return fitted_temperature(logits, task.numbers(task.split.held_out))


def _parts(numbers: Indices) -> Iterator[Indices]:
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]


def _tensors(rows: _AllRows) -> Callable[[Indices], Tensor]:
    return lambda numbers: torch.from_numpy(rows.of(numbers))


def _layers_fixed(freeze: int | str, beginning: _Beginning) -> int | None:
    """How many layers stay as they are; None: all. Raises ConfigError."""
    text = str(freeze)
    if text == "all":
        return None
    if text not in ("none", "0") and not text.isdecimal():
        raise ConfigError(f"freeze={freeze}: give all, none, or how many layers")
    if beginning.onnx is not None:
        if text != "none":
            raise ConfigError(f"freeze={freeze}: of an ONNX network all layers stay as they are")
        return None
    return 0 if text == "none" else int(text)


def _refuse_labels(labels: Labels, location: str) -> None:
    """Raises DataError unless there are two classes."""
    if not labels.names:
        raise DataError(
            f"no input of {location} has a label: put each class into a folder of its own, or give "
            "labels=FILE with the columns path and label"
        )
    if len(labels.names) == 1:
        raise DataError(
            f"all labels of {location} are {labels.names[0]!r}: a classifier tells classes apart, "
            "and needs two"
        )


def _split(labels: Labels, share: float, seed: int) -> _Split:
    """Holds out a share of each class, at least one of it where it has three."""
    held_out: list[Indices] = []
    draw = seeded(seed, HELD_OUT_STREAM)
    for number in range(len(labels.names)):
        of_class = draw.permutation(np.flatnonzero(labels.of == number))
        count = round(share * len(of_class))
        if share and len(of_class) >= 3:
            count = max(1, count)
        held_out.append(of_class[: min(count, MAX_JUDGES // len(labels.names) + 1)])
    judges = np.sort(np.concatenate(held_out))
    labelled = np.flatnonzero(labels.of != NONE)
    return _Split(np.setdiff1d(labelled, judges), judges)


def _facts(
    trained: _Trained,
    labels: Labels,
    split: _Split,
    rows: _AllRows,
    settings: ClassifierSettings,
    seed: int,
    freeze: int | str,
) -> dict[str, Any]:
    """What the manifest says of the training."""
    labelled = len(split.training) + len(split.held_out)
    counts = np.bincount(labels.of[labels.of != NONE], minlength=len(labels.names)).tolist()
    right = int((trained.held_out.argmax(1) == torch.from_numpy(labels.of[split.held_out])).sum())
    judges = len(split.held_out)
    return {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "freeze": freeze,
        "steps": trained.state.step,
        "training_seconds": round(trained.state.seconds, 3),
        "images": rows.count,
        "labelled": labelled,
        "unlabelled": rows.count - labelled,
        "counts": dict(zip(labels.names, counts, strict=True)),
        "held_out": judges,
        "accuracy": right / judges if judges else None,
        "accuracy_interval": _wilson(right, judges) if judges else None,
        "temperature": trained.temperature,
        "versions": {"compressor": __version__, "torch": torch.__version__.partition("+")[0]},
    }


def _wilson(right: int, count: int) -> list[float]:
    """The 95% interval of a share (Wilson 1927)."""
    z2 = 1.96**2
    centre = (right + z2 / 2) / (count + z2)
    half = 1.96 / (count + z2) * math.sqrt(right * (count - right) / count + z2 / 4)
    return [round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)]


def _files(trained: _Trained, spec: DataSpec, rows: Rows) -> dict[str, bytes]:
    """The graph, checked, the weights, and golden.npz. Raises ExportError."""
    if trained.network is not None:
        module = without_batch_norm(trained.network).eval()
        axes = {"probability": ["N", "labels"]}
        graph = export_graph(module, spec, axes, "classifier")
    else:
        assert trained.foreign is not None and trained.head is not None
        graph = trained.foreign.classifier(*trained.head)
    some = np.ascontiguousarray(rows[:: max(1, len(rows) // GOLDEN_INPUTS)][:GOLDEN_INPUTS])
    session = choose_device("cpu").session(graph)
    (answer,) = session.run(["probability"], {spec.kind: some})
    apart = float(np.abs(answer - trained.probabilities(some).numpy()).max())
    if not apart <= APART:
        raise ExportError(f"classifier: probabilities differ from torch's by {apart:.1e}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{str(spec.kind): some, "probability": answer})
    files = {GRAPH: graph, GOLDEN: buffer.getvalue()}
    if trained.network is not None:
        weights = trained.network.state_dict()
        files[WEIGHTS] = safetensors.torch.save(
            {name: value.clone().contiguous() for name, value in weights.items()}
        )
    return files


def _warnings(labels: Labels, split: _Split, facts: Mapping[str, Any]) -> Iterator[str]:
    counts = facts["counts"]
    if few := [name for name, count in counts.items() if count == 1]:
        yield f"one label alone has {listed(few)}: give more of them"
    if not len(split.held_out):
        yield "no label was held out: nothing says how good this is, nor how sure it may be"
    if labels.unmatched:
        yield (
            f"{len(labels.unmatched):,} labels are of no input, as that of "
            f"{listed(labels.unmatched)}"
        )


def _card(manifest: ClassifierManifest) -> str:
    """MODEL_CARD.md, from the manifest alone."""
    facts, data = manifest.training, manifest.data
    accuracy = "not measured: no label was held out"
    if facts["accuracy"] is not None:
        low, high = facts["accuracy_interval"]
        accuracy = (
            f"{facts['accuracy']:.1%} of {facts['held_out']} held-out labels "
            f"(95% interval {low:.1%} to {high:.1%})"
        )
    counts = "\n".join(f"| {name} | {count:,} |" for name, count in facts["counts"].items())
    stored = "uint8 (N, H, W, C)" if data.kind == "image" else "float32 (N, D)"
    return f"""# Classifier

| | |
|---|---|
| {data.kind.capitalize()}s | {"x".join(map(str, data.shape))} |
| Began with | {manifest.begins_with.name} |
| Labelled, unlabelled | {facts["labelled"]:,}, {facts["unlabelled"]:,} |
| Accuracy | {accuracy} |

## Labels and how many inputs have them
| | |
|---|---|
{counts}

## Use
`classifier.onnx` turns {stored}, as they are stored, into the probability of each label, in the
order above. `golden.npz` holds a few {data.kind}s with the answers to expect.

## Limits
It knows these labels alone, and gives one of them to anything. Its probabilities were set by
held-out labels like those above: on other data they may be too sure.
"""
