"""What makes a graph portable: its opset, its operators, and no trace of this machine in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from ..errors import ExportError
from ..onnx_bytes import OPERATORS

OPSET = 18
IR_VERSION = 10


def clean(graph_model: onnx.ModelProto) -> None:
    """Removes, in place, what the exporter leaves in nodes: stack traces with source paths."""
    graph_model.producer_name, graph_model.producer_version = "compressor", ""
    graph_model.doc_string = ""
    graph_model.ir_version = IR_VERSION
    del graph_model.metadata_props[:]
    del graph_model.functions[:]
    for graph in _graphs(graph_model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        del graph.value_info[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.doc_string = ""
            del value.metadata_props[:]


def refuse_unportable(
    graph_model: onnx.ModelProto, name: str, operators: Collection[str] = OPERATORS
) -> None:
    """Raises ExportError for what other runtimes would not run, and names it."""
    opsets = {entry.domain: entry.version for entry in graph_model.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(f"{name}: the graph imports {opsets}, not only opset {OPSET}")
    used = {node.op_type for graph in _graphs(graph_model.graph) for node in graph.node}
    if foreign := used - set(operators):
        raise ExportError(
            f"{name}: the operators {', '.join(sorted(foreign))} do not run everywhere; "
            f"build the network from {', '.join(sorted(operators))}"
        )
    onnx.checker.check_model(graph_model, full_check=True)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
