"""The networks of a prior with context as one ONNX graph of exact integers, carried in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..bottleneck.context import KNOWN, TOP, Context, IntegerConv, IntegerNetwork
from .portable import IR_VERSION, OPSET, clean, refuse_unportable


def export_context(context: Context) -> onnx.ModelProto:
    """Inputs known_n (N, inputs, h, w), outputs expected_n (N, 2 channels, h', w') for pass n.

    The networks share no node and no dimension. Every number is an integer (or, before a Floor,
    one over a power of two) that float32 holds exactly, whatever the order of a sum.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, npt.ArrayLike] = {
        "half": 0.5,
        "zero": 0,
        "top": TOP,
        "lowest": -KNOWN,
        "highest": KNOWN,
    }
    inputs, outputs = [], []
    for number, network in enumerate(context.networks, start=1):
        assert isinstance(network, IntegerNetwork)
        which = network.which
        nodes += _nodes(number, network, constants)
        channels = 2 * (which.stop - which.start)
        sizes = [f"{axis}{number}" for axis in ("N", "h", "w")]
        here: list[str | int | None] = [sizes[0], which.inputs, *sizes[1:]]
        there: list[str | int | None] = [sizes[0], channels, f"out_h{number}", f"out_w{number}"]
        inputs.append(helper.make_tensor_value_info(f"known_{number}", TensorProto.FLOAT, here))
        outputs.append(
            helper.make_tensor_value_info(f"expected_{number}", TensorProto.FLOAT, there)
        )
    stored = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "prior", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    clean(model)
    refuse_unportable(model, "prior")
    return model


def _nodes(
    number: int, network: IntegerNetwork, constants: dict[str, npt.ArrayLike]
) -> Iterator[onnx.NodeProto]:
    at = f"known_{number}"

    def node(kind: str, name: str, *others: str, **attributes: Any) -> onnx.NodeProto:
        nonlocal at
        before, at = at, f"{name}_{number}"
        return helper.make_node(kind, [before, *others], [at], name=at, **attributes)

    yield node("Clip", "clipped", "lowest", "highest")
    layers = {"first": network.first, "second": network.second, "third": network.third}
    for name, layer in layers.items():
        assert isinstance(layer, IntegerConv)
        weight, bias, factor = layer.integers()
        own = [f"{name}_{what}_{number}" for what in ("weight", "bias", "factor")]
        constants |= dict(
            zip(own, (weight.detach().numpy(), bias.detach().numpy(), factor), strict=True)
        )
        left, right, top, bottom = network.padding if name == "first" else (0, 0, 0, 0)
        yield node(
            "Conv",
            f"{name}_sum",
            *own[:2],
            kernel_shape=list(weight.shape[2:]),
            strides=[layer.stride] * 2,
            pads=[top, left, bottom, right],
        )
        yield node("Mul", f"{name}_scaled", own[2])
        yield node("Add", f"{name}_raised", "half")
        if name == "third":
            yield node("Floor", "expected")
        else:
            yield node("Floor", f"{name}_rounded")
            yield node("Clip", name, "zero", "top")
