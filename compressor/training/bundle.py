"""From a trained plugin to a model's files: rounded, exported, checked, with tables and scores."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from onnx import ModelProto
from torch import Tensor, nn

from ..anomaly.calibration import Scores
from ..anomaly.ensemble import Quartiles, quartiles_of
from ..anomaly.normals import LEARNED_FROM, NAME, Normals
from ..anomaly.scorers import Scorer, score_rows, scorers
from ..anomaly.separability import MAX_INPUTS, separability
from ..bottleneck.bottleneck import Bottleneck
from ..bottleneck.hyperprior import SCALES, Hyperprior
from ..bundles import WEIGHTS
from ..data.images import Rows
from ..engine.engine import Engine
from ..engine.tiles import padded
from ..entropy.hyperprior import HyperTables
from ..entropy.networks import OnnxNetworks
from ..entropy.prior import Prior
from ..entropy.tables import Tables
from ..errors import ExportError
from ..export.graphs import Traced, without_outputs
from ..export.halo import measure_halo
from ..export.hyperprior import export_hyperprior
from ..export.parity import BATCHES, Parity, check_parity
from ..export.scores import FurtherScorer, Scales, score_names
from ..latent import density
from ..latent.density import Density
from ..likelihood import LIKELIHOODS
from ..log import log
from ..model import ModelManifest, PluginEntry, calibration_bytes
from ..normalisation import Normalisation
from ..plugin import Autoencoder, Pass
from ..spec import CodeSpec, DataSpec, ImageSpec
from .card import model_card
from .dataset import ELEMENTS_AT_ONCE, Dataset, Indices, Split, pieces
from .quantiser import choose_steps, fitted_steps, model_code, squared_error
from .rate import Aim, places
from .samples import sample_measures
from .settings import TrainingSettings
from .weights import round_weights

FINISHING = (
    "rounding weights and codes",
    "making and checking the graphs",
    "encoding training data",
    "learning the prior",
    "scoring calibration data",
)
PROBE_ELEMENTS = 2**20  # of the inputs on which rounding is judged, 1,024 of them at most
BORDERED_INPUTS, BORDERED_ELEMENTS = 256, 2**24  # whose features' borders are looked at
PRIOR_ELEMENTS = 2**24  # of the codes that the tables are learned from
COUNTED_INPUTS = 4096  # on which tables are counted to see what codes take
GOLDEN_INPUTS = 5
SPOILT_ELEMENTS = 2**25  # of the inputs that scores are compared on
MEASURED_INPUTS = 256
# Of z ~ N(0, I) at most: few codes are enough to rebuild inputs by, and decode to few samples.
GENERATIVE_STEP = 0.125
SAMPLES, MANIFOLD = 8, 15  # along each side of a grid
SAMPLE_ELEMENTS = 2**22  # of such a grid at most


def bundle(
    model: Autoencoder,
    plugin: PluginEntry,
    dataset: Dataset,
    split: Split,
    training: TrainingSettings,
    facts: Mapping[str, Any],
    traced: Traced | None,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[dict[str, bytes], ModelManifest]:
    """A model's files, and its manifest but for their hashes.

    Takes the bottleneck out of ``model``: from here on the graphs and the prior stand for it.
    traced: what a rehearsal has exported, if there was one. report: is told each of FINISHING.
    """
    trained = _Trained.take(model, dataset, split, training, facts)
    torch.manual_seed(trained.seed)  # whatever was drawn before, or in the run that was resumed
    rows, probe = trained.probe()
    report("rounding weights and codes")
    steps, weight_bits = _round(trained, probe)
    report("making and checking the graphs")
    graphs, parity = _export(trained, traced, steps, rows, probe)
    engine = Engine(graphs, "cpu")
    report("encoding training data")
    codes = _codes(engine, dataset, split.training, model.spec)
    report("learning the prior")
    quantiser = _learn_prior(trained, graphs, engine, codes, steps, probe)
    report("scoring calibration data")
    judged = _learn_scores(trained, graphs, engine, codes)
    files = graphs.files
    if not model.rebuilds_features:
        files[density.NAME] = _density(trained, codes, steps).to_bytes()
    files["golden.npz"] = _golden(trained, graphs, engine, rows[:GOLDEN_INPUTS], probe)
    files[WEIGHTS] = safetensors.torch.save(
        # Parameters that modules share have several names, and safetensors refuses shared memory.
        {name: tensor.clone().contiguous() for name, tensor in trained.weights().items()}
    )
    manifest = ModelManifest(
        plugin=plugin,
        config=model.config.model_dump(mode="json"),
        data=_as_given(model, dataset),
        code=graphs.code,
        scores=graphs.graph_scores,
        default_score=graphs.default_score,
        further_scores=graphs.further_scores,
        separability=judged.separability,
        quartiles=judged.quartiles,
        generative=trained.generative,
        training={
            **facts,
            "first_layer": first_layer(model, model.spec),
            "measures": _measures(trained, probe),
        },
        quantiser={
            "steps": [float(step) for step in steps.flatten()],
            "weight_bits": weight_bits,
            **quantiser,
        },
        parity=parity,
        files={},
    )
    files["MODEL_CARD.md"] = model_card(manifest).encode()
    return files, manifest


@dataclass(frozen=True)
class _Trained:
    """What a training has left: the model, and beside it the bottleneck that it was trained with.

    bottleneck: None without a rate, or where the rate had no effect; bottleneck_weights: share its
    memory, so that they change when it settles.
    """

    model: Autoencoder
    bottleneck: Bottleneck | None
    bottleneck_weights: Mapping[str, Tensor]
    generative: bool
    dataset: Dataset
    split: Split
    settings: TrainingSettings
    seed: int

    @classmethod
    def take(
        cls,
        model: Autoencoder,
        dataset: Dataset,
        split: Split,
        settings: TrainingSettings,
        facts: Mapping[str, Any],
    ) -> _Trained:
        """Takes the bottleneck out of ``model``."""
        generative = model.generative  # with a bottleneck it may say otherwise
        bottleneck, model.bottleneck = model.bottleneck, None
        weights = {} if bottleneck is None else bottleneck.state_dict(prefix="bottleneck.")
        if bottleneck is not None and not bottleneck.started:
            log.warning(
                "no loss of this training looked behind the bottleneck: the rate had no effect, "
                "and codes are rounded afterwards"
            )
            bottleneck = None
        return cls(
            model, bottleneck, weights, generative, dataset, split, settings, int(facts["seed"])
        )

    @property
    def rate_asked(self) -> bool:
        """Whether the model was trained with a rate, even one without effect."""
        return bool(self.bottleneck_weights)

    @property
    def held_out(self) -> Indices:
        """What rounding is judged on: rows that no step has seen, if there are some."""
        return self.split.validation if len(self.split.validation) else self.split.training

    def probe(self) -> tuple[Rows, Tensor]:
        """Held-out inputs as they are stored, padded, and as x.

        From all over the data, which may be in order; shuffled, since some look at the first alone.
        """
        count = max(8, min(1024, PROBE_ELEMENTS // self.model.spec.elements))
        count = min(count, len(self.held_out))
        spread = self.held_out[np.linspace(0, len(self.held_out) - 1, count).astype(int)]
        spread = np.random.default_rng(self.seed).permutation(spread)
        rows = padded(self.dataset.rows[spread], self.model.stride)
        return rows, Normalisation(self.model.spec)(torch.from_numpy(rows))

    def bordered(self) -> Iterator[Tensor]:
        """Whole held-out images, as x, for what is looked at of their borders."""
        count = max(8, min(BORDERED_INPUTS, BORDERED_ELEMENTS // self.model.spec.elements))
        some = self.held_out[:: -(-len(self.held_out) // count)]
        for piece in pieces(some, self.model.spec):
            rows = padded(self.dataset.rows[piece], self.model.stride)
            yield Normalisation(self.model.spec)(torch.from_numpy(rows))

    def weights(self) -> dict[str, Tensor]:
        """The model's and the bottleneck's, to go on from."""
        return {**self.model.state_dict(), **self.bottleneck_weights}


def _round(trained: _Trained, probe: Tensor) -> tuple[Tensor, Any]:
    """Rounds the weights in place; the steps of the code, and the bits of the weights."""
    model, bottleneck, settings = trained.model, trained.bottleneck, trained.settings
    weight_bits = None
    if not model.rebuilds_features:  # no archive will have these weights in it
        weight_bits = round_weights(model, probe, settings.weight_loss)
    if bottleneck is None:
        steps = choose_steps(model, probe, settings.rounding_loss)
        return steps.clamp_max(GENERATIVE_STEP) if trained.generative else steps, weight_bits
    if not settings.aims:
        return bottleneck.steps.detach(), weight_bits
    trained_on = _unrounded(model, trained.dataset, trained.split.training)
    steps = fitted_steps(model, bottleneck, probe, trained_on, Aim(settings))
    bottleneck.log_steps.data.copy_(steps.log())
    return steps, weight_bits


def _export(
    trained: _Trained, traced: Traced | None, steps: Tensor, rows: Rows, probe: Tensor
) -> tuple[_Unsaved, dict[str, Any]]:
    """The graphs, which an engine can run, and how far they are from torch."""
    model = trained.model
    scales = Scales.learn(model, probe, trained.bordered(), trained.rate_asked)

    def checked(made: Mapping[str, ModelProto]) -> tuple[dict[str, bytes], Parity]:
        contents = {n: graph.SerializeToString(deterministic=True) for n, graph in made.items()}
        return contents, check_parity(model, steps, contents, rows[: sum(BATCHES)], scales)

    try:
        graphs, parity = checked(
            (traced or Traced(model, steps, scales)).graphs(model, steps, scales)
        )
    except ExportError:
        if traced is None:
            raise
        # Training may have changed more than weights: what f and g do then has to be traced anew.
        graphs, parity = checked(Traced(model, steps, scales).graphs(model, steps, scales))
    left_out = parity.disagreeing
    for score, apart in left_out.items():
        log.warning(
            "the score %s is left out of the model: ONNX Runtime's differs from torch's by %.1f "
            "times what float32 explains",
            score,
            apart,
        )
    for name in ("scorer", "further") if left_out else ():
        content = without_outputs(graphs.pop(name), left_out) if name in graphs else None
        if content is not None:
            graphs[name] = content
    shape = tuple(model_code(model, probe[:1]).shape[1:])
    unsaved = _Unsaved(
        files={f"{name}.onnx": content for name, content in graphs.items()},
        code=CodeSpec(shape=shape, stride=model.stride, halo=measure_halo(model)),
        spec=model.spec,
        graph_scores=tuple(n for n in score_names(model, scales) if n not in left_out),
        default_score=None if model.default_score in left_out else model.default_score,
        further_scores=tuple(
            name
            for name in (FurtherScorer(model).names if "further" in graphs else ())
            if name not in left_out
        ),
        has_differences="further" in graphs and "hidden_differences" not in left_out,
    )
    return unsaved, parity.for_manifest()


def _learn_prior(
    trained: _Trained,
    graphs: _Unsaved,
    engine: Engine,
    codes: npt.NDArray[np.int32],
    steps: Tensor,
    probe: Tensor,
) -> dict[str, Any]:
    """Learns the prior from training codes, adds its files, and measures rate and distortion."""
    model, bottleneck = trained.model, trained.bottleneck
    if bottleneck is not None and (
        trained.settings.aims or isinstance(bottleneck.prior, Hyperprior)
    ):
        bottleneck.settle(torch.from_numpy(codes))
    graphs.prior, prior_files = learn_prior(codes, bottleneck)
    graphs.files |= prior_files
    held_out_codes = _codes(engine, trained.dataset, trained.held_out, model.spec)
    bits = graphs.prior.ideal_bits(held_out_codes) / max(1, len(held_out_codes))
    integers = torch.floor(model_code(model, probe) / steps + 0.5)
    error = squared_error(model, probe, integers * steps)
    return {
        "codes_equal": bool((codes == codes[:1]).all()),
        "validation_codes": int(held_out_codes.size),
        "validation_escapes": graphs.prior.escapes(held_out_codes),
        "bits_per_image": bits,
        **(_of_rate(bottleneck, held_out_codes) if bottleneck is not None else {}),
        "bits_per_place": bits / places(model.spec),
        "psnr": None if model.rebuilds_features else -10 * math.log10(max(error, 1e-12)),
    }


@dataclass(frozen=True)
class _Judged:
    """What ``auto`` and ensembles go by, by score."""

    separability: dict[str, float]
    quartiles: dict[str, Quartiles]


def _learn_scores(
    trained: _Trained, graphs: _Unsaved, engine: Engine, codes: npt.NDArray[np.int32]
) -> _Judged:
    """Learns where normal inputs lie, calibrates every score, and compares them."""
    dataset, split = trained.dataset, trained.split
    differences = None
    if graphs.has_differences:
        differences = _differences(engine, dataset, split.training, trained.model.spec)
    graphs.files[NAME] = Normals.learn(codes, differences, trained.seed).to_bytes()
    available = scorers(graphs)
    if graphs.default_score not in (None, *available):
        raise ExportError(
            f"the plugin's default_score is {graphs.default_score!r}; its models have "
            f"{', '.join(available)}"
        )
    calibration = score_rows(available, engine, dataset.rows, split.calibration)
    if calibration:
        graphs.files["calibration.parquet"] = calibration_bytes(calibration)
    return _compared(available, engine, dataset, split.validation, trained.seed)


def _density(trained: _Trained, codes: npt.NDArray[np.int32], steps: Tensor) -> Density:
    """What new codes are drawn from."""
    if trained.generative:
        return Density.normal(np.broadcast_to(steps.numpy(), codes.shape[1:]).ravel())
    return Density.learn(codes, trained.seed)


def learn_prior(
    codes: npt.NDArray[np.int32], bottleneck: Bottleneck | None
) -> tuple[Tables, dict[str, bytes]]:
    """The prior of training codes, a hyperprior where the bottleneck has one, and its files."""
    if bottleneck is None or not isinstance(bottleneck.prior, Hyperprior):
        prior = Prior.learn(codes)
        return prior, {"prior.bin": prior.to_bytes()}
    files = {
        f"{name}.onnx": graph.SerializeToString(deterministic=True)
        for name, graph in export_hyperprior(bottleneck.prior).items()
    }
    side_channels, reach = bottleneck.prior.density.channels, bottleneck.prior.decoder.reach
    networks = OnnxNetworks(codes.shape[1], side_channels, reach, files.__getitem__)
    learned = HyperTables.learn(codes, SCALES, networks)
    return learned, {"prior.bin": learned.to_bytes(), **files}


@torch.no_grad()
def _unrounded(model: Autoencoder, dataset: Dataset, indices: Indices) -> Tensor:
    """f(x) of some of the rows, evenly spaced, as many as tables are to be counted on."""
    few = indices[:: -(-len(indices) // COUNTED_INPUTS)]
    normalisation = Normalisation(model.spec)
    parts = [padded(dataset.rows[part], model.stride) for part in pieces(few, model.spec)]
    return torch.cat([model_code(model, normalisation(torch.from_numpy(p))) for p in parts])


@torch.no_grad()
def _of_rate(bottleneck: Bottleneck, codes: npt.NDArray[np.int32]) -> dict[str, float]:
    """lambda, and what the loss takes these codes to cost."""
    integers = torch.from_numpy(codes).float()
    bits = 0.0
    for piece in torch.split(integers, max(1, ELEMENTS_AT_ONCE // integers[0].numel())):
        bits += bottleneck.bits(piece).sum().item()
    return {"rate": bottleneck.rate.item(), "loss_bits_per_image": bits / max(1, len(codes))}


@dataclass
class _Unsaved:
    """What an engine and scores need of a model that is not on disk yet."""

    files: dict[str, bytes]
    code: CodeSpec
    spec: DataSpec
    graph_scores: tuple[str, ...]
    default_score: str | None
    further_scores: tuple[str, ...]
    has_differences: bool  # of hidden layers, between x and x^
    prior: Tables = field(init=False)  # comes last

    def read(self, name: str) -> bytes:
        return self.files[name]


def _as_given(model: Autoencoder, dataset: Dataset) -> DataSpec:
    """The model's DataSpec with its stride, and with the size that images have before padding."""
    if not isinstance(model.spec, ImageSpec):
        return model.spec
    height, width, _ = dataset.shape
    return model.spec.model_copy(update={"height": height, "width": width, "stride": model.stride})


@torch.no_grad()
def _measures(trained: _Trained, probe: Tensor) -> dict[str, float]:
    """The plugin's, of codes as they are in use: behind the bottleneck, if there is one.

    Then what its samples are worth, if it makes some.
    """
    model = trained.model.eval()
    model.bottleneck = trained.bottleneck
    measures = model.measures(Pass(model, probe[:MEASURED_INPUTS])).items()
    model.bottleneck = None
    of_samples = sample_measures(model, probe) if trained.generative else {}
    return {name: value.item() for name, value in measures if value.isfinite()} | of_samples


def first_layer(model: nn.Module, spec: DataSpec) -> str | None:
    """The name of the weights that see the input: the first that have its size in the right place.

    Those of a dense layer are (out, elements), of a convolution (out, C, k, k).
    """
    channels = spec.channels if isinstance(spec, ImageSpec) else None
    for name, weight in model.named_parameters():
        if (
            weight.ndim in (2, 4)
            and weight.shape[1] == {2: spec.elements, 4: channels}[weight.ndim]
        ):
            return name
    return None


def _golden(
    trained: _Trained, graphs: _Unsaved, engine: Engine, rows: Rows, probe: Tensor
) -> bytes:
    """golden.npz: a few inputs, what the graphs answer; and what reports show of the training."""
    model = trained.model
    codes = engine.encode(rows)
    height, width = rows.shape[1:3] if rows.ndim == 4 else (1, rows.shape[1])
    arrays: dict[str, Any] = {
        model.spec.kind: rows,
        "code": codes,
        **engine.score(rows),
    }
    if "further.onnx" in graphs.files:
        arrays |= engine.further(rows)
    if not model.rebuilds_features:
        arrays["reconstruction"] = engine.decode(codes, height, width)
    normalisation = Normalisation(model.spec)
    x = normalisation(torch.from_numpy(rows))
    seen = model.corrupt(x)
    if not torch.equal(seen, x):
        arrays["corrupted"] = normalisation.stored(seen).numpy()
    if trained.generative:
        arrays |= {
            name: normalisation.stored(drawn).numpy() for name, drawn in _drawn(model, probe)
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@torch.no_grad()
def _drawn(model: Autoencoder, probe: Tensor) -> Iterator[tuple[str, Tensor]]:
    """ "samples": decoded from z ~ N(0, I); "manifold", row by row, where codes are flat.

    The manifold is what two elements do, at the quantiles of N(0, 1) (Kingma & Welling 2013,
    figure 4): those that inputs' codes spread most in, the others being those of one sample.
    """
    code = model.encode(probe).mean
    side = max(2, min(SAMPLES, math.isqrt(SAMPLE_ELEMENTS // model.spec.elements)))
    pixels = LIKELIHOODS[model.likelihood].pixels
    yield "samples", pixels(model.decode(torch.randn(side * side, *code.shape[1:])))
    if code.ndim == 2 and code.shape[1] > 1:
        side = max(2, min(MANIFOLD, math.isqrt(SAMPLE_ELEMENTS // model.spec.elements)))
        quantiles = torch.special.ndtri((torch.arange(side) + 0.5) / side)
        z = torch.randn(1, code.shape[1]).repeat(side * side, 1)
        across, down = code.std(0, correction=0).topk(2).indices
        z[:, across] = quantiles.repeat(side)
        z[:, down] = quantiles.flip(0).repeat_interleave(side)
        yield "manifold", pixels(model.decode(z))


def _differences(
    engine: Engine, dataset: Dataset, indices: Indices, spec: DataSpec
) -> npt.NDArray[np.float32]:
    """hidden_differences (n, K) of as many of ``indices`` as NAP's statistics are taken of."""
    spread = indices[:: -(-len(indices) // LEARNED_FROM)]
    parts = [engine.further(dataset.rows[piece]) for piece in pieces(spread, spec)]
    return np.concatenate([part["hidden_differences"] for part in parts])


def _compared(
    available: Mapping[str, Scorer],
    engine: Engine,
    dataset: Dataset,
    held_out: Indices,
    seed: int,
) -> _Judged:
    """Scores of validation inputs, as they are and spoilt; nothing without two of them."""
    if len(held_out) < 2:
        return _Judged({}, {})
    most = max(
        2, min(MAX_INPUTS, SPOILT_ELEMENTS // math.prod(dataset.rows.shape[1:]), len(held_out))
    )
    evenly = np.linspace(0, len(held_out) - 1, most).astype(int)

    def score(rows: Rows) -> dict[str, Scores]:
        return score_rows(available, engine, rows, np.arange(len(rows)))

    normal = dataset.rows[held_out[evenly]]
    usual = score(normal)
    aurocs = separability(score, normal, usual, seed)
    return _Judged({name: round(auroc, 4) for name, auroc in aurocs.items()}, quartiles_of(usual))


def _codes(
    engine: Engine, dataset: Dataset, indices: Indices, spec: DataSpec
) -> npt.NDArray[np.int32]:
    """Codes of ``indices``, or of as many, evenly spaced, as PRIOR_ELEMENTS allows."""
    (first,) = engine.encode(dataset.rows[indices[:1]])
    every = -(-len(indices) * first.size // PRIOR_ELEMENTS)
    return np.concatenate(
        [engine.encode(dataset.rows[piece]) for piece in pieces(indices[::every], spec)]
    )
