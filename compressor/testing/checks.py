"""The checks; each is named after what holds when it passes."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ..errors import ExportError
from ..export.graphs import export_graphs
from ..export.halo import measure_halo
from ..export.parity import check_parity
from ..likelihood import LIKELIHOODS
from ..model import RESERVED_SCORES
from ..plugin import CONTRACT, Autoencoder, Code, Pass
from ..spec import ImageSpec
from ..training.checkpoint import State
from ..training.objective import Objective, template_loss
from ..training.quantiser import choose_steps, model_code
from .cases import STEPS, Case

INTERRUPTED_AT = 17
CORE_SCORES = {"l2", "l1", "kl", "elbo", "error_map", *RESERVED_SCORES}


def config_round_trip(case: Case) -> None:
    """Config has defaults and descriptions, survives JSON, and knows no other fields."""
    config = type(case.config)
    again = config.model_validate_json(case.config.model_dump_json())
    assert again == case.config, f"{config.__name__} changes on its way through JSON"
    config()  # every field has a default
    for name, field in config.model_fields.items():
        assert field.description, (
            f"{config.__name__}.{name} has no description: compressor plugins lists it"
        )
    try:
        config.model_validate({"no_such_field": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(f"{config.__name__} takes unknown fields: derive it from PluginConfig")
    assert (case.plugin.__doc__ or "").strip(), (
        "the class has no docstring: its first line is shown"
    )


def names_its_contract(case: Case) -> None:
    """The class says which version of the contract it follows, and it is this one."""
    version = vars(case.plugin).get("contract")
    assert version == CONTRACT, (
        f"the class has contract = {version}; write contract = {CONTRACT} once all others pass"
    )


def seeded_build(case: Case) -> None:
    """The same seed makes the same weights."""
    first, second = case.model().state_dict(), case.model().state_dict()
    for name in first:
        assert torch.equal(first[name], second[name]), (
            f"{name} differs between two builds with one seed: draw from torch's global generator"
        )


def shapes(case: Case) -> None:
    """encode returns a Code of float32 (N, K) or (N, C, h, w), decode what the likelihood takes."""
    model, x = case.model(), case.x
    with torch.no_grad():
        target = model.target(x)
        code = model.encode(target)
        assert isinstance(code, Code), f"encode returns {type(code).__name__}, not a Code"
        mean = code.mean
        assert mean.dtype == torch.float32 and mean.ndim in (2, 4) and len(mean) == len(x), (
            f"the code is {mean.dtype} {tuple(mean.shape)}, not float32 (N, K) or (N, C, h, w)"
        )
        if code.scale is not None:
            assert code.scale.shape == mean.shape and bool((code.scale > 0).all()), (
                "Code.scale must be positive and have the shape of Code.mean"
            )
        assert model.likelihood in LIKELIHOODS, f"there is no likelihood {model.likelihood!r}"
        out = model.decode(mean)
    if model.rebuilds_features:
        assert target.ndim == 4 and len(target) == len(x), (
            f"features are {tuple(target.shape)}, not (N, C, h, w)"
        )
    else:
        assert target is x, "a plugin whose target is not x needs rebuilds_features = True"
    outputs = LIKELIHOODS[model.likelihood].outputs
    wanted = (len(x), target.shape[1] * outputs, *target.shape[2:])
    assert out.shape == wanted, f"decode returns {tuple(out.shape)}, not {wanted}"


def any_size_that_the_stride_divides(case: Case) -> None:
    """A plugin with a stride takes every multiple of it."""
    model = case.model()
    if model.stride is None or not isinstance(model.spec, ImageSpec):
        return
    height, width = model.stride * 3, model.stride * 5
    x = torch.rand(2, model.spec.channels, height, width)
    with torch.no_grad():
        target = model.target(x)
        code = model.encode(target).mean
        out = model.decode(code)
    assert code.shape[2:] == (3, 5), f"stride {model.stride}: {height}x{width} has {code.shape}"
    assert out.shape[2:] == target.shape[2:], (
        f"{tuple(target.shape)} comes back as {tuple(out.shape)}"
    )


def tiles_equal_the_whole(case: Case) -> None:
    """With a stride: nothing farther away than the measured halo changes an answer."""
    model = case.model()
    halo, stride = measure_halo(model), model.stride
    # Of features, tiles join only error maps.
    if halo is None or stride is None or model.rebuilds_features:
        return
    cut = slice(2 * stride, -2 * stride)
    middle = slice(halo * stride, (halo + 1) * stride)
    x = torch.rand(2, case.x.shape[1], *[(2 * halo + 5) * stride] * 2)
    with torch.no_grad():
        whole, part = Pass(model, x), Pass(model, x[:, :, cut, cut])
        pairs = {
            "encode": (whole.code.mean[:, :, 2:-2, 2:-2], part.code.mean, slice(halo, halo + 1)),
            "decode": (
                model.decode(whole.z)[:, :, cut, cut],
                model.decode(whole.z[:, :, 2:-2, 2:-2]),
                middle,
            ),
            "decode after encode": (whole.out[:, :, cut, cut], part.out, middle),
        }
    for name, (ours, theirs, at) in pairs.items():
        apart = (ours - theirs)[:, :, at, at].abs().max()
        assert apart <= 1e-4 * (1 + ours.abs().max()), (
            f"{name} sees farther than {halo} elements of the code, where a NaN no longer "
            "arrives: compute without comparisons, or leave stride None"
        )


def deterministic_encoding(case: Case) -> None:
    """In eval mode encode and decode give the same answer twice."""
    model, x = case.model(), case.x
    with torch.no_grad():
        first, second = model_code(model, x), model_code(model, x)
        assert torch.equal(first, second), "encode is random in eval mode: sample in training only"
        assert torch.equal(model.decode(first), model.decode(first)), "decode is random"


def batch_independent_encoding(case: Case) -> None:
    """An input's code, output and scores do not depend on the inputs beside it."""
    model, _ = case.trained
    x = case.x
    with torch.no_grad():
        together = _answers(model, x)
        for number in range(3):
            for name, answer in _answers(model, x[number : number + 1]).items():
                assert torch.allclose(answer[0], together[name][number], rtol=1e-4, atol=1e-5), (
                    f"{name} of an input depends on its batch: normalise over an input alone, or "
                    "with running statistics"
                )


def finite_objective(case: Case) -> None:
    """Losses and penalties are finite scalars, and every trained parameter gets a gradient."""
    model = case.model()
    model.train()
    objective = Objective(model)
    for number, phase in enumerate(model.phases()):
        for place, player in enumerate(phase.players):
            passed = Pass(model, case.x)
            for name, part in (player.loss or template_loss)(passed).items():
                assert part.ndim == 0, f"phase {phase.name!r}: {name} is no scalar: average it"
                assert bool(part.isfinite()), f"phase {phase.name!r}: {name} is {part.item()}"
            model.zero_grad()
            objective(case.x, number, place).backward()
            trained = {n for m in player.modules for n in _names(model, m)}
            missing = [n for n, p in model.named_parameters() if n in trained and p.grad is None]
            assert not missing, (
                f"phase {phase.name!r}, player {player.name!r}: no gradient reaches "
                f"{', '.join(missing[:3])}; leave its module out of the player"
            )


def loss_falls(case: Case) -> None:
    """Training lowers the validation loss, and the distortion."""
    _, state = case.trained
    last = [row for row in state.log if row[2] == state.log[-1][2]]
    losses = [float(row[4]) for row in last if math.isfinite(float(row[4]))]
    if len(losses) > 1:
        assert min(losses[1:]) < losses[0] * 1.0001, f"the validation loss went {losses}"
    before = _distortion(case.model(), case.x)
    after = _distortion(case.trained[0], case.x)
    assert after < before, f"the distortion went from {before:.4g} to {after:.4g} in {STEPS} steps"


def codes_shrink_with_a_rate(case: Case) -> None:
    """The more a bit costs, the fewer the code takes."""
    bits = []
    for rate in (1e-6, 10.0):
        model = case.train(lambda *_: None, model=case.with_rate(rate)).model
        with torch.no_grad():
            of_each = Pass(model, case.x).bits
        assert of_each is not None and bool(of_each.isfinite().all()), "bits are not finite"
        bits.append(float(of_each.mean()))
    assert bits[1] < bits[0], (
        f"a code takes {bits[1]:.4g} bits at a high rate and {bits[0]:.4g} at a low one: read the "
        "code after the bottleneck, passed.z or what is made of it, in some loss"
    )


def decoder_range(case: Case) -> None:
    """Decoded data are finite, and images stay near [0, 1]."""
    model, _ = case.trained
    with torch.no_grad():
        pixels = Pass(model, case.x).pixels
    assert bool(pixels.isfinite().all()), "decode returns numbers that are not finite"
    if case.kind == "image" and not model.rebuilds_features:
        low, high = float(pixels.min()), float(pixels.max())
        assert low >= -1 and high <= 2, f"images go from {low:.2f} to {high:.2f}: x is in [0, 1]"


def scores_for_each_input(case: Case) -> None:
    """Scores are finite, (N,) each, and have names that the core does not use."""
    model, _ = case.trained
    with torch.no_grad():
        for name, score in model.scores(Pass(model, case.x)).items():
            assert name not in CORE_SCORES, f"{name!r} is a name of the core"
            assert score.shape == (len(case.x),), f"the score {name} is {tuple(score.shape)}"
            assert bool(score.isfinite().all()), f"the score {name} is not finite"


def measures_are_scalars(case: Case) -> None:
    """Measures are finite scalars, one for a whole pass."""
    model, _ = case.trained
    with torch.no_grad():
        for name, value in model.measures(Pass(model, case.x)).items():
            assert value.ndim == 0, f"the measure {name!r} is {tuple(value.shape)}: average it"
            assert bool(value.isfinite()), f"the measure {name!r} is {value.item()}"


def frozen_modules_stay(case: Case) -> None:
    """What no player of a phase trains does not change in it, batch statistics included."""
    model = case.model()
    snapshots: dict[int, list[dict[str, Tensor]]] = {}

    def note(state: State, *_: Any) -> None:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        snapshots.setdefault(state.phase, []).append(weights)

    case.train(note, model=model)
    for number, phase in enumerate(model.phases()):
        trained = {n for p in phase.players for m in p.modules for n in _names(model, m)}
        first, last = snapshots[number][0], snapshots[number][-1]
        moved = [
            name for name in first.keys() - trained if not torch.equal(first[name], last[name])
        ]
        assert not moved, (
            f"phase {phase.name!r} changes {moved[0]}, which none of its players trains"
        )


def resumes_from_a_checkpoint(case: Case) -> None:
    """An interrupted and resumed training ends with the same weights as an uninterrupted one."""

    class Interrupted(Exception):
        pass

    def interrupt(state: State, *_: Any) -> None:
        if state.step == INTERRUPTED_AT:
            raise Interrupted

    with tempfile.TemporaryDirectory() as folder:
        try:
            case.train(interrupt, folder)
        except Interrupted:
            pass
        else:
            raise AssertionError(f"the training ended before step {INTERRUPTED_AT}")
        resumed = case.train(lambda *_: None, folder).model.state_dict()
    for name, tensor in case.trained[0].state_dict().items():
        assert torch.equal(tensor, resumed[name]), (
            f"{name} differs after an interruption: keep state in parameters and buffers, and draw "
            "random numbers from torch's global generator"
        )


def portable_export_with_parity(case: Case) -> None:
    """The graphs have only portable operators and agree with torch at N = 1, 2 and 5."""
    model, _ = case.trained
    torch.manual_seed(7)
    steps = choose_steps(model, case.x, 0.5)
    try:
        graphs = {
            name: graph.SerializeToString() for name, graph in export_graphs(model, steps).items()
        }
        check_parity(model, steps, graphs, case.rows[:8])
    except ExportError as error:
        raise AssertionError(str(error)) from error


def no_files_or_network(case: Case) -> None:
    """Building, encoding, decoding and the losses open no file and no connection."""
    with _watched() as touched:
        model = case.model()
        model.train()
        passed = Pass(model, case.x)
        for player in (player for phase in model.phases() for player in phase.players):
            (player.loss or template_loss)(passed)
        model.scores(passed)
    assert not touched, f"the plugin touched {touched[0]}; a plugin computes, the core reads"


CHECKS: list[Callable[[Case], None]] = [
    names_its_contract,
    config_round_trip,
    seeded_build,
    shapes,
    any_size_that_the_stride_divides,
    tiles_equal_the_whole,
    deterministic_encoding,
    finite_objective,
    no_files_or_network,
    loss_falls,
    codes_shrink_with_a_rate,
    batch_independent_encoding,
    decoder_range,
    scores_for_each_input,
    measures_are_scalars,
    frozen_modules_stay,
    resumes_from_a_checkpoint,
    portable_export_with_parity,
]


def _answers(model: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    passed = Pass(model, x)
    return {"the code": passed.code.mean, "the output": passed.out, **model.scores(passed)}


def _names(model: Autoencoder, module: torch.nn.Module) -> set[str]:
    """The names in ``model`` of what ``module`` holds."""
    held = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    return {n for n, t in model.state_dict(keep_vars=True).items() if id(t) in held}


@torch.no_grad()
def _distortion(model: Autoencoder, x: Tensor) -> float:
    return float(Pass(model, x).distortion.mean())


_touched: list[str] | None = None
_hooked = False


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Collects what is opened in the body, except Python's own files, which imports read."""
    global _touched, _hooked
    if not _hooked:  # an audit hook cannot be removed
        sys.addaudithook(_audit)
        _hooked = True
    touched: list[str] = []
    _touched = touched
    try:
        yield touched
    finally:
        _touched = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched is None:
        return
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        if not isinstance(arguments[0], int):
            _touched.append(f"the file {arguments[0]}")
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        _touched.append(event)
