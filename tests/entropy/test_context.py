"""The prior with context, on real codes and on any integers."""

from __future__ import annotations

import lzma
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.archive.blocks import HEADER_SIZE, pack
from compressor.bottleneck.bottleneck import Bottleneck
from compressor.bottleneck.context import EXACT, KNOWN, SCALES, TOP, UNIT, IntegerNetwork
from compressor.entropy.coder import decode, encode
from compressor.entropy.context import ContextPrior
from compressor.entropy.network import OnnxNetwork
from compressor.entropy.passes import plan
from compressor.entropy.prior import Prior
from compressor.entropy.stored import read_prior
from compressor.errors import ArchiveError, ModelError
from compressor.export.prior import export_context

INT32 = np.iinfo(np.int32)
SHAPES = [(2,), (5,), (2, 1, 1), (3, 1, 4), (8, 7, 7)]


def untrained(shape: tuple[int, ...], factor: float = 3.0) -> Bottleneck:
    torch.manual_seed(0)
    bottleneck = Bottleneck(shape, "context", 0.01)
    assert bottleneck.context is not None
    with torch.no_grad():
        for parameter in bottleneck.context.parameters():
            parameter.mul_(factor)  # so that answers differ from place to place
    return bottleneck


def learned(bottleneck: Bottleneck, codes) -> tuple[ContextPrior, bytes]:
    graph = export_context(bottleneck.context).SerializeToString()
    network = OnnxNetwork(graph, bottleneck.passes)
    return ContextPrior.learn(codes, bottleneck.passes, SCALES, network), graph


@pytest.fixture(scope="module")
def trained(train_codes) -> tuple[Bottleneck, ContextPrior, bytes]:
    """The bits alone, minimised on real codes."""
    bottleneck = untrained((8, 7, 7), 1.0)
    integers = torch.from_numpy(train_codes[:2000]).float()
    optimiser = torch.optim.Adam(bottleneck.parameters(), 5e-3)
    for step in range(300):
        batch = integers[step * 64 % 1920 :][:64]
        optimiser.zero_grad()
        bottleneck.bits(batch, batch).mean().backward()
        optimiser.step()
    return bottleneck, *learned(bottleneck, train_codes)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_belongs_to_one_pass_and_sees_earlier_ones_alone(shape) -> None:
    codes = np.zeros((1, *shape), np.int32)
    images = codes.reshape(1, shape[0], *shape[1:] or (1, 1))
    for which in plan(shape):
        seen = which.known(*images.shape[2:])
        assert np.array_equal(seen, images[0, : which.inputs] > 0)
        which.of(codes)[...] += 1
    assert (codes == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_is_torchs_network_to_the_last_integer(shape) -> None:
    bottleneck = untrained(shape)
    network = OnnxNetwork(export_context(bottleneck.context).SerializeToString(), bottleneck.passes)
    size = shape[1:] or (1, 1)
    for number, own in enumerate(bottleneck.context.networks, start=1):
        known = torch.randint(-300, 300, (5, own.which.inputs, *size)).float()
        if own.which.row < size[0] and own.which.column < size[1]:
            with torch.no_grad():
                expected = own(known).numpy()
            assert np.array_equal(network(number, known.numpy()), expected)
            assert len(np.unique(expected)) > 2


def test_the_networks_are_what_integers_give() -> None:
    """Written out in 64-bit integers, and no partial sum leaves float32's exact range."""
    bottleneck = untrained((8, 7, 7))
    for own in bottleneck.context.networks:
        assert isinstance(own, IntegerNetwork)
        known = torch.randint(-300, 300, (2, own.which.inputs, 7, 7))
        with torch.no_grad():
            answer = own(known.float()).numpy()
            x = known.clamp(-KNOWN, KNOWN).numpy().astype(np.int64)
            left, right, top, bottom = own.padding
            x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
            for layer in (own.first, own.second, own.third):
                weight, bias, factor = (
                    v.numpy() if torch.is_tensor(v) else v for v in layer.integers()
                )
                assert np.array_equal(weight, np.rint(weight))
                most = np.abs(weight).sum((1, 2, 3)) * layer.largest + np.abs(bias)
                assert most.max() < EXACT
                weight, power = weight.astype(np.int64), round(np.log2(1 / factor))
                windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
                windows = windows[:, :, :: layer.stride, :: layer.stride]
                total = np.einsum("nchwij,ocij->nohw", windows, weight)
                total += bias.astype(np.int64)[:, None, None]
                x = (2 * total + (1 << power)) >> (power + 1)
                if layer is not own.third:
                    x = x.clip(0, TOP)
        assert np.array_equal(x, answer)
    assert UNIT & (UNIT - 1) == 0


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SHAPES), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_any_integers_come_back(shape, count, seed) -> None:
    random = np.random.default_rng(seed)
    bottleneck = untrained(shape)
    near = random.integers(-9, 10, (20, *shape)).astype(np.int32)
    prior, graph = learned(bottleneck, near)
    prior = read_prior(prior.to_bytes(), lambda: graph)
    codes = random.integers(-9, 10, (count, *shape)).astype(np.int32)
    codes[random.random(codes.shape) < 0.1] = random.choice([INT32.min, INT32.max, 5000])
    decoded = decode(encode(codes, prior), count, shape, prior)
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, codes)


def test_real_codes_take_what_the_loss_says_and_less_than_without_context(
    trained, train_codes, test_codes
) -> None:
    bottleneck, prior, _ = trained
    codes = test_codes[:256]
    payload = encode(codes, prior)
    assert np.array_equal(decode(payload, 256, codes.shape[1:], prior), codes)
    assert len(payload) * 8 <= 1.002 * prior.ideal_bits(codes) + 64
    integers = torch.from_numpy(codes).float()
    with torch.no_grad():
        loss = bottleneck.bits(integers, integers).sum().item()
    assert len(payload) * 8 <= 1.02 * loss  # tables also know what the loss has still to learn
    assert len(payload) * 8 < 0.97 * Prior.learn(train_codes).ideal_bits(codes)


def test_a_block_and_its_ideal_bits_take_one_run_of_each_network(trained, test_codes) -> None:
    prior, codes = trained[1], test_codes[:20]
    runs = []

    def counting(number, known):
        runs.append(number)
        return prior.network(number, known)

    counted = ContextPrior(prior.passes, prior.first, prior.own.tables, prior.chosen, counting)
    frame, bits = pack(codes, 28, 28, counted)
    assert runs == list(range(1, len(prior.passes)))
    assert frame[HEADER_SIZE:] == encode(codes, prior)
    assert bits == prior.ideal_bits(codes)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 4), (14, 14)])
def test_codes_of_another_size_go_through(trained, size) -> None:
    prior = trained[1]
    codes = np.random.default_rng(0).integers(-5, 6, (3, 8, *size)).astype(np.int32)
    assert np.array_equal(decode(encode(codes, prior), 3, (8, *size), prior), codes)


def test_codes_that_the_prior_never_saw_are_refused(trained) -> None:
    for shape in [(7, 7, 7), (8,), (392,)]:
        with pytest.raises(ModelError, match="it cannot code"):
            decode(b"", 1, shape, trained[1])


def test_stored_it_is_small_and_the_same(trained) -> None:
    _, prior, graph = trained
    content = prior.to_bytes()
    again = read_prior(content, lambda: graph)
    assert again.to_bytes() == content
    assert len(lzma.compress(content)) < 6000


def test_damage_gives_other_codes_or_an_archive_error(trained, test_codes) -> None:
    prior = trained[1]
    payload = encode(test_codes[:2], prior)
    for position in range(0, len(payload), 3):
        damaged = bytearray(payload)
        damaged[position] ^= 0x55
        try:
            decoded = decode(bytes(damaged), 2, (8, 7, 7), prior)
        except ArchiveError:
            continue
        assert not np.array_equal(decoded, test_codes[:2])


def refused(content: bytes, graph: Callable[[], bytes]) -> bool:
    try:
        read_prior(content, graph)
    except ModelError:
        return True
    return False


def test_a_stored_prior_cut_short_or_altered_is_sound_or_refused(trained) -> None:
    _, prior, graph = trained
    content = prior.to_bytes()
    assert all(refused(content[:size], lambda: graph) for size in range(0, len(content), 11))
    assert refused(content + b"\0", lambda: graph)
    head = len(content) - len(prior.first.to_bytes())
    for position in range(5, min(head, 400)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        refused(bytes(damaged), lambda: graph)  # never another error


def test_another_models_network_is_refused(trained) -> None:
    _, prior, _ = trained
    other = export_context(untrained((4, 7, 7)).context).SerializeToString()
    assert refused(prior.to_bytes(), lambda: other)
    assert refused(prior.to_bytes(), lambda: b"no graph")


def test_one_channel_has_passes_and_one_element_no_context() -> None:
    assert Bottleneck((1,), "context", 0.1).context is None
    bottleneck = untrained((1, 5, 5))
    codes = np.random.default_rng(0).integers(-5, 6, (4, 1, 5, 5)).astype(np.int32)
    prior, _ = learned(bottleneck, codes)
    assert np.array_equal(decode(encode(codes, prior), 4, (1, 5, 5), prior), codes)


@pytest.mark.parametrize("damage", ["nan", "huge", "name", "channels"])
def test_a_damaged_network_is_a_model_error(trained, test_codes, damage) -> None:
    _, prior, content = trained
    graph = onnx.load_from_string(content)
    (bias,) = (t for t in graph.graph.initializer if t.name == "third_bias_1")
    values = onnx.numpy_helper.to_array(bias).copy()
    if damage == "name":
        graph.graph.output[0].name = graph.graph.node[-1].output[0] = "other"
    elif damage == "channels":
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 99
    else:
        values[:] = {"nan": np.nan, "huge": 1e30}[damage]
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    with pytest.raises(ModelError):
        damaged = read_prior(prior.to_bytes(), graph.SerializeToString)
        encode(test_codes[:2], damaged)
