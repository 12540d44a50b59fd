"""Files as an archive's model has them: exact for any content, small for weights."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import helper, numpy_helper

from compressor.model import Model
from compressor.packing import HEADER, pack, unpack


def graph_of(*tensors: np.ndarray) -> bytes:
    initialisers = [numpy_helper.from_array(t, f"w{n}") for n, t in enumerate(tensors)]
    graph = helper.make_graph([], "g", [], [], initialisers)
    return helper.make_model(graph).SerializeToString()


def test_weights_in_fixed_point_take_little_more_than_their_entropy() -> None:
    random = np.random.default_rng(0)
    integers = np.rint(random.laplace(scale=6, size=(64, 32, 3, 3))) + 0.0
    content = graph_of((integers * 2.0 ** random.integers(-12, -3, (1, 32, 1, 1))).astype("f4"))
    _, counts = np.unique(integers, return_counts=True)
    entropy = -counts @ np.log2(counts / integers.size) / 8
    assert len(pack(content)) < 1.02 * entropy + 400
    assert len(lzma.compress(content)) > 1.3 * entropy
    assert unpack(pack(content), len(content)) == content


@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_that_has_the_powers_of_two_is_found(axis: int) -> None:
    random = np.random.default_rng(0)
    integers = random.integers(-7, 8, (80, 80))
    powers = 2.0 ** np.expand_dims(random.integers(-12, 0, 80), 1 - axis)
    content = graph_of((integers * powers).astype("f4"))
    assert len(pack(content)) < integers.size * 4.2 / 8 + 400


def test_little_content_takes_little_memory() -> None:
    packed = pack(bytes(range(256)) * 40)
    (length, *_) = HEADER.unpack_from(packed)
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 18)
    assert len(unpacker.decompress(packed[HEADER.size :][:length])) == 10240


@given(st.binary(max_size=300))
def test_any_content_comes_back(content: bytes) -> None:
    assert unpack(pack(content), len(content)) == content


@given(
    st.lists(
        arrays(
            np.float32,
            array_shapes(max_dims=4, max_side=12),
            elements=st.one_of(
                st.integers(-300, 300).map(float),
                st.sampled_from([-0.0, 2.0**-149, 2.0**-130, 1e30, float("inf"), float("nan")]),
                st.floats(-1, 1, width=16),
            ),
        ),
        max_size=3,
    )
)
def test_any_weights_come_back(tensors: list[np.ndarray]) -> None:
    content = graph_of(*tensors)
    assert unpack(pack(content), len(content)) == content


def test_tensors_in_other_fields_stay_with_the_rest() -> None:
    weights = np.arange(100, dtype=np.float32)
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [100], weights)  # no raw bytes
    content = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    assert HEADER.unpack_from(pack(content))[2] == 0
    assert unpack(pack(content), len(content)) == content


@pytest.mark.parametrize("seed", range(4))
def test_damage_gives_something_else_and_never_another_error(seed: int, model: Path) -> None:
    content = Model.open(model).read("decoder.onnx")
    packed = pack(content)
    random = np.random.default_rng(seed)
    for _ in range(100):
        damaged = bytearray(packed)
        for place in random.integers(0, min(len(packed), random.choice([40, 10**9])), 2):
            damaged[place] ^= 1 << random.integers(8)
        if bytes(damaged) != packed:
            assert unpack(bytes(damaged), len(content)) != content
        assert unpack(packed[: random.integers(len(packed))], len(content)) != content


def test_no_memory_is_taken_for_numbers_that_a_file_cannot_have() -> None:
    tensors = struct.pack("<4IB", 0, 2**31, 1, 1, 0)
    stream = lzma.compress(tensors + bytes(1000))
    assert unpack(HEADER.pack(len(stream), 0, 1) + stream, 10**6) == b""
