"""A hyperprior's networks as ONNX graphs; the decoder computes exact integers in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..bottleneck.hyperprior import (
    MAX_EXACT_SUM,
    MAX_HIDDEN,
    SIDE_UNIT,
    SLOPE,
    HyperDecoder,
    HyperEncoder,
    Hyperprior,
)
from ..entropy.hyperprior import MAX_SIDE_VALUE
from ..errors import ExportError
from .portable import IR_VERSION, OPSET, clean, refuse_unportable


def export_hyperprior(prior: Hyperprior) -> dict[str, onnx.ModelProto]:
    """hyper_encoder: code (N, C, h, w) -> side; hyper_decoder: side and ones -> expected."""
    return {
        "hyper_encoder": _encoder(prior.encoder),
        "hyper_decoder": _decoder(prior.decoder),
    }


class _Chain:
    """Nodes one after another."""

    def __init__(self, given: str) -> None:
        self.given = self.last = given
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[np.float32]] = {}

    def add(self, kind: str, name: str, *others: Any, **attributes: Any) -> None:
        names = [f"{name}_{number}" for number in range(len(others))]
        self.constants |= {
            constant: np.asarray(value, np.float32)
            for constant, value in zip(names, others, strict=True)
        }
        self.nodes.append(
            helper.make_node(kind, [self.last, *names], [name], name=name, **attributes)
        )
        self.last = name

    def graph(self, channels: int, outputs: int) -> onnx.ModelProto:
        here = helper.make_tensor_value_info(
            self.given, TensorProto.FLOAT, ["N", channels, "h", "w"]
        )
        there = helper.make_tensor_value_info(
            self.last, TensorProto.FLOAT, ["N", outputs, "out_h", "out_w"]
        )
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "hyperprior", [here], [there], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        clean(model)
        refuse_unportable(model, "hyperprior")
        return model


def _encoder(encoder: HyperEncoder) -> onnx.ModelProto:
    chain = _Chain("code")
    chain.add("Sub", "centred", encoder.centres.numpy())
    layers = {"first": encoder.first, "second": encoder.second, "third": encoder.third}
    for name, layer in layers.items():
        assert layer.bias is not None
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        reach = weight.shape[2] // 2
        chain.add("Conv", f"{name}_conv", weight, bias, strides=layer.stride, pads=[reach] * 4)
        if layer is not encoder.third:
            chain.add("LeakyRelu", name, alpha=SLOPE)
    chain.add("Mul", "scaled", SIDE_UNIT)
    chain.add("Add", "raised", 0.5)
    chain.add("Floor", "rounded")
    chain.add("Clip", "side", -MAX_SIDE_VALUE, MAX_SIDE_VALUE)
    return chain.graph(encoder.first.in_channels, encoder.third.out_channels)


def _decoder(decoder: HyperDecoder) -> onnx.ModelProto:
    """Every number is an integer, or before a Floor one over a power of two, below 2^24."""
    chain = _Chain("side")
    chain.add("Clip", "clipped", -MAX_SIDE_VALUE, MAX_SIDE_VALUE)
    layers = {"first": decoder.first, "second": decoder.second, "third": decoder.third}
    for name, layer in layers.items():
        weight, bias, factor = layer.integers()
        constants = weight.detach().numpy(), bias.detach().numpy()
        sums = np.abs(constants[0]).sum((1, 2, 3)) * layer.largest + np.abs(constants[1])
        if not (sums < MAX_EXACT_SUM).all():
            raise ExportError("the hyperprior's weights are too large for exact arithmetic")
        chain.add("Conv", f"{name}_sum", *constants, pads=[layer.padding] * 4)
        chain.add("Mul", f"{name}_scaled", factor.numpy())
        chain.add("Add", f"{name}_raised", 0.5)
        if layer is decoder.third:
            chain.add("Floor", "expected")
            break
        chain.add("Floor", f"{name}_rounded")
        if layer is decoder.first and decoder.reach > 1:
            chain.add("DepthToSpace", f"{name}_planes", blocksize=decoder.reach, mode="CRD")
        chain.add("Clip", name, 0, MAX_HIDDEN)
    side = decoder.first.weight.shape[1]
    return chain.graph(side, decoder.third.weight.shape[0])
