"""The hyperprior, on real codes and on any integers."""

from __future__ import annotations

import lzma

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from compressor.archive.blocks import HEADER_SIZE, pack
from compressor.bottleneck.bottleneck import Bottleneck
from compressor.bottleneck.hyperprior import MAX_EXACT_SUM, MAX_HIDDEN, SCALES, Hyperprior
from compressor.entropy.coder import decode, encode
from compressor.entropy.hyperprior import MAX_SIDE_VALUE, HyperTables, side_channels
from compressor.entropy.networks import OnnxNetworks
from compressor.entropy.prior import Prior
from compressor.entropy.prior_file import read_prior
from compressor.errors import ArchiveError, ModelError
from compressor.export.hyperprior import export_hyperprior

INT32 = np.iinfo(np.int32)
SHAPES = [(32,), (45,), (32, 1, 1), (9, 1, 4), (8, 7, 7)]
Files = dict[str, bytes]


def untrained(shape: tuple[int, ...], factor: float = 3.0) -> Bottleneck:
    torch.manual_seed(0)
    bottleneck = Bottleneck(shape, "hyperprior", 0.01)
    assert isinstance(bottleneck.prior, Hyperprior)
    with torch.no_grad():
        for parameter in bottleneck.prior.parameters():
            parameter.mul_(factor)  # so that answers differ from place to place
    return bottleneck


def files_of(bottleneck: Bottleneck) -> Files:
    graphs = export_hyperprior(bottleneck.prior)
    return {f"{name}.onnx": graph.SerializeToString() for name, graph in graphs.items()}


def networks_of(bottleneck: Bottleneck, files: Files) -> OnnxNetworks:
    prior = bottleneck.prior
    channels, side = prior.encoder.first.in_channels, prior.density.channels
    return OnnxNetworks(channels, side, prior.decoder.reach, files.__getitem__)


def learned(bottleneck: Bottleneck, codes) -> tuple[HyperTables, Files]:
    files = files_of(bottleneck)
    return HyperTables.learn(codes, SCALES, networks_of(bottleneck, files)), files


@pytest.fixture(scope="module")
def trained(train_codes) -> tuple[Bottleneck, HyperTables, Files]:
    """The bits alone, minimised on real codes."""
    bottleneck = untrained((8, 7, 7), 1.0)
    integers = torch.from_numpy(train_codes[:2000]).float()
    optimiser = torch.optim.Adam(bottleneck.parameters(), 5e-3)
    for step in range(300):
        batch = integers[step * 64 % 1920 :][:64]
        optimiser.zero_grad()
        bottleneck.bits(batch, training=True).mean().backward()
        optimiser.step()
    bottleneck.settle(integers)
    return bottleneck, *learned(bottleneck, train_codes)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graphs_are_torchs_networks(shape) -> None:
    """To the last integer where it matters; side information may round as it likes."""
    bottleneck = untrained(shape)
    networks = networks_of(bottleneck, files_of(bottleneck))
    size = shape[1:] or (1, 1)
    codes = torch.randint(-30, 30, (5, shape[0], *size)).float()
    side = networks.side(codes.numpy())
    with torch.no_grad():
        wanted = bottleneck.prior.encoder(codes).clamp(-MAX_SIDE_VALUE, MAX_SIDE_VALUE).numpy()
    assert np.abs(side - wanted).max() < 0.51
    known = torch.randint(-300, 300, (5, side.shape[1] + 1, *side.shape[2:])).float()
    with torch.no_grad():
        expected = bottleneck.prior.decoder(known).numpy()
    assert np.array_equal(networks.expected(known.numpy(), *expected.shape[2:]), expected)
    assert len(np.unique(expected)) > 2


def integer_answer(prior: Hyperprior, side: np.ndarray) -> np.ndarray:
    """What the decoder gives, written out in 64-bit integers."""
    x = side.clip(-MAX_SIDE_VALUE, MAX_SIDE_VALUE).astype(np.int64)
    decoder = prior.decoder
    for layer in (decoder.first, decoder.second, decoder.third):
        with torch.no_grad():
            weight, bias, factor = (v.numpy() for v in layer.integers())
        assert np.array_equal(weight, np.rint(weight)) and np.array_equal(bias, np.rint(bias))
        most = np.abs(weight).sum((1, 2, 3)) * layer.largest + np.abs(bias)
        assert most.max() < MAX_EXACT_SUM  # no partial sum leaves float32's exact range
        power = np.rint(np.log2(1 / factor)).astype(np.int64)
        x = np.pad(x, [(0, 0), (0, 0), *[(layer.padding, layer.padding)] * 2])
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
        total = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.int64))
        total += bias.astype(np.int64)[:, None, None]
        larger = 1 << np.maximum(-power, 0)  # where a factor is above 1
        power = np.maximum(power, 0)
        x = (2 * total * larger + (1 << power)) >> (power + 1)
        if layer is decoder.first:
            n, c, h, w = x.shape
            r = decoder.reach
            x = x.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
            x = x.reshape(n, c // r**2, h * r, w * r)
        if layer is not decoder.third:
            x = x.clip(0, MAX_HIDDEN)
    return x


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([(8, 7, 7), (40,)]),
    st.floats(-4, 3),
    st.sampled_from(["nothing", "weight", "bias", "row", "zeros"]),
    st.integers(0, 2**32 - 1),
)
def test_the_graph_gives_what_integers_give_whatever_the_weights(shape, size, odd, seed) -> None:
    torch.manual_seed(seed)
    bottleneck = Bottleneck(shape, "hyperprior", 0.01)
    with torch.no_grad():
        for layer in (bottleneck.prior.decoder.first, bottleneck.prior.decoder.third):
            layer.weight.mul_(10**size)
            if odd == "weight":
                layer.weight[1, 0, 0, 0] = 1e3
            elif odd == "bias":
                layer.bias[1] = 1e5
            elif odd == "row":
                layer.weight[1] *= 1e4
            elif odd == "zeros":
                layer.weight[1], layer.bias[1] = 0, 0
    side = np.random.default_rng(seed).integers(
        -300,
        300,
        (2, bottleneck.prior.density.channels + 1, *((2, 3) if len(shape) == 3 else (1, 1))),
    )
    wanted = integer_answer(bottleneck.prior, side)
    networks = networks_of(bottleneck, files_of(bottleneck))
    if np.abs(wanted).max() <= 2**24:
        answer = networks.expected(side.astype(np.float32), *wanted.shape[2:])
        assert np.array_equal(answer, wanted)


def test_a_channel_that_never_changes_takes_nothing_from_the_others() -> None:
    """Its centre may be thousands of steps away."""
    torch.manual_seed(0)
    bottleneck = Bottleneck((8, 7, 7), "hyperprior", 0.01)
    code = torch.randn(64, 8, 7, 7)
    code[:, 3] = 5.0
    bottleneck.start(code, torch.ones(8))
    integers = torch.floor(code / bottleneck.steps + 0.5)
    assert integers.abs().max() > 10_000
    with torch.no_grad():
        assert bottleneck.prior.encoder(integers).abs().mean() < 20
        weight = bottleneck.prior.decoder.third.integers()[0]
    assert (weight == 0).float().mean() < 0.1


@pytest.mark.parametrize(
    ("bound", "positions", "pieces"),
    [("MAX_POSITIONS", 500, 4), ("MAX_POSITIONS_IN_CACHE", 2000, 3)],
)
def test_pieces_give_what_the_whole_gives(monkeypatch, bound, positions, pieces) -> None:
    monkeypatch.setattr("compressor.entropy.networks.MAX_POSITIONS_IN_CACHE", 2**17)
    bottleneck = untrained((8, 7, 7))
    networks = networks_of(bottleneck, files_of(bottleneck))
    codes = np.random.default_rng(0).integers(-9, 10, (3, 8, 45, 30)).astype(np.float32)
    side = networks.side(codes)
    known = np.concatenate([side, np.ones_like(side[:, :1])], 1)
    expected = networks.expected(known, 45, 30)
    monkeypatch.setattr(f"compressor.entropy.networks.{bound}", positions)
    assert len(list(networks._pieces(3, 12, 8))) == pieces
    assert np.mean(networks.side(codes) != side) < 0.01  # in floating point
    assert np.array_equal(networks.expected(known, 45, 30), expected)


def test_unrounded_it_is_nearly_the_same() -> None:
    """What training sees is what use gives, but for rounding."""
    prior = untrained((8, 7, 7), 1.0).prior
    known = torch.randint(-20, 20, (4, prior.density.channels + 1, 2, 2)).float()
    with torch.no_grad():
        exact, real = prior.decoder(known), prior.decoder(known, exact=False)
    assert (exact - real).abs().mean() < 0.5
    assert (exact - real).abs().max() < 2


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(SHAPES), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_any_integers_come_back(shape, count, seed) -> None:
    random = np.random.default_rng(seed)
    bottleneck = untrained(shape)
    near = random.integers(-9, 10, (20, *shape)).astype(np.int32)
    prior, files = learned(bottleneck, near)
    prior = read_prior(prior.to_bytes(), files.__getitem__)
    codes = random.integers(-9, 10, (count, *shape)).astype(np.int32)
    codes[random.random(codes.shape) < 0.1] = random.choice([INT32.min, INT32.max, 5000])
    decoded = decode(encode(codes, prior), count, shape, prior)
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, codes)


def test_real_codes_take_what_the_loss_says_and_less_than_without(
    trained, train_codes, test_codes
) -> None:
    bottleneck, prior, _ = trained
    codes = test_codes[:256]
    payload = encode(codes, prior)
    assert np.array_equal(decode(payload, 256, codes.shape[1:], prior), codes)
    assert len(payload) * 8 <= 1.002 * prior.ideal_bits(codes) + 64
    integers = torch.from_numpy(codes).float()
    with torch.no_grad():
        loss = bottleneck.bits(integers).sum().item()
    assert len(payload) * 8 <= 1.02 * loss  # tables also know what the loss has still to learn
    assert len(payload) * 8 < 0.97 * Prior.learn(train_codes).ideal_bits(codes)


def test_a_block_and_its_ideal_bits_take_one_run_of_each_network(trained, test_codes) -> None:
    prior, codes = trained[1], test_codes[:20]
    runs = []

    class Counting:
        def side(self, values):
            runs.append("side")
            return prior.networks.side(values)

        def expected(self, side, height, width):
            runs.append("expected")
            return prior.networks.expected(side, height, width)

    counted = HyperTables(8, prior.first, prior.code_tables.tables, prior.chosen, Counting())
    frame, bits = pack(codes, 28, 28, counted)
    assert runs == ["side", "expected"]
    assert frame[HEADER_SIZE:] == encode(codes, prior)
    assert bits == prior.ideal_bits(codes)


def test_the_bits_of_each_code_are_those_it_has_alone(trained, test_codes) -> None:
    prior, codes = trained[1], test_codes[:40].copy()
    codes[7, 3, 2, 2] = 90_000  # escapes
    each = prior.bits_of_each(codes)
    assert each[7] == pytest.approx(prior.ideal_bits(codes[7:8]))
    assert each[8] == pytest.approx(prior.ideal_bits(codes[8:9]))
    assert each.sum() == pytest.approx(prior.ideal_bits(codes))


def test_decoding_asks_for_the_decoder_alone(trained, test_codes) -> None:
    _, prior, files = trained
    decoding = {"hyper_decoder.onnx": files["hyper_decoder.onnx"]}
    again = read_prior(prior.to_bytes(), decoding.__getitem__)
    payload = encode(test_codes[:9], prior)
    assert np.array_equal(decode(payload, 9, (8, 7, 7), again), test_codes[:9])


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
    _, prior, files = trained
    content = prior.to_bytes()
    again = read_prior(content, files.__getitem__)
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


def refused(content: bytes, files: Files) -> bool:
    try:
        read_prior(content, files.__getitem__)
    except ModelError:
        return True
    return False


def test_a_stored_prior_cut_short_or_altered_is_sound_or_refused(trained, test_codes) -> None:
    """Altered it is refused, or codes something, and decodes what it coded."""
    _, prior, files = trained
    content, codes = prior.to_bytes(), test_codes[:2]
    assert all(refused(content[:size], files) for size in range(0, len(content), 11))
    assert refused(content + b"\0", files)
    taken = 0
    for position in [*range(4, 540), *range(540, len(content), 37)]:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        if not refused(bytes(damaged), files):
            taken += 1
            if taken % 20 == 0:
                altered = read_prior(bytes(damaged), files.__getitem__)
                assert np.array_equal(decode(encode(codes, altered), 2, (8, 7, 7), altered), codes)
    assert 0 < taken < 400


def test_more_side_information_than_there_can_be_is_refused(trained) -> None:
    _, prior, files = trained
    first = Prior.learn(np.zeros((4, 9, 2, 2), np.int32))
    larger = HyperTables(8, first, prior.code_tables.tables, prior.chosen, prior.networks)
    assert refused(larger.to_bytes(), files)


def test_more_tables_than_can_be_chosen_are_refused(trained) -> None:
    _, prior, files = trained
    tables = [*prior.code_tables.tables, *prior.code_tables.tables[:1] * 256][:257]
    assert refused(
        HyperTables(8, prior.first, tables, prior.chosen, prior.networks).to_bytes(), files
    )
    fewer = HyperTables(8, prior.first, tables[:256], prior.chosen, prior.networks)
    assert not refused(fewer.to_bytes(), files)


def test_another_models_networks_are_refused(trained, test_codes) -> None:
    _, prior, files = trained
    other = files_of(untrained((45, 7, 7)))
    content = prior.to_bytes()
    assert refused(content, other)
    assert refused(content, {"hyper_decoder.onnx": b"no graph"})
    mixed = files | {"hyper_encoder.onnx": other["hyper_encoder.onnx"]}
    with pytest.raises(ModelError, match=r"hyper_encoder\.onnx does not belong"):
        encode(test_codes[:2], read_prior(content, mixed.__getitem__))


def test_small_codes_have_none() -> None:
    assert side_channels((8,)) == 0
    assert not isinstance(Bottleneck((8,), "hyperprior", 0.1).prior, Hyperprior)


DAMAGES = ["nan", "huge", "fraction", "channels", "batch", "integers", "strings"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_a_model_error(trained, test_codes, damage) -> None:
    _, prior, files = trained
    graph = onnx.load_from_string(files["hyper_decoder.onnx"])
    (bias,) = (t for t in graph.graph.initializer if t.name == "third_raised_0")
    if damage == "channels":
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 99
    elif damage in ("batch", "integers", "strings"):
        last = graph.graph.node[-1]
        kind = {"integers": TensorProto.INT64, "strings": TensorProto.STRING}.get(damage, 1)
        last.output[0] = "before"
        if damage == "batch":
            graph.graph.node.append(
                helper.make_node("Concat", ["before"] * 2, ["expected"], axis=0)
            )
        else:
            graph.graph.node.append(helper.make_node("Cast", ["before"], ["expected"], to=kind))
        graph.graph.output[0].type.tensor_type.elem_type = kind
    else:
        value = {"nan": np.nan, "huge": 1e30, "fraction": 0.5}[damage]
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array(value, np.float32), bias.name))
        if damage == "fraction":
            graph.graph.node[-1].op_type = "Identity"
    damaged_files = files | {"hyper_decoder.onnx": graph.SerializeToString()}
    with pytest.raises(ModelError):
        encode(test_codes[:2], read_prior(prior.to_bytes(), damaged_files.__getitem__))


def test_the_prior_settles_on_a_single_code() -> None:
    bottleneck = untrained((8, 7, 7), 1.0)
    code = torch.ones(1, 8, 7, 7)
    before = bottleneck.bits(code).item()
    bottleneck.settle(code)
    assert bottleneck.bits(code).item() < 0.1 * before
