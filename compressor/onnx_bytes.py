"""What the bytes of an ONNX graph say, without the onnx package: its operators and its tensors.

A message is a sequence of numbered fields (Protocol Buffers' wire format); the numbers are those of
onnx.proto, version 3 of the intermediate representation and later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from .errors import ModelError

# Ran in ONNX Runtime (native, node, wasm), OpenVINO, tract, OpenCV dnn, MNN, TVM and the ONNX
# reference evaluator. None has a graph inside, reads a file, or repeats anything.
OPERATORS = frozenset(
    [
        "Abs",
        "Add",
        "ArgMin",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "Div",
        "Elu",
        "Exp",
        "Floor",
        "Gather",
        "Gemm",
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "Log",
        "MatMul",
        "Mul",
        "PRelu",
        "Pow",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softplus",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ]
)
# What classifiers of other makers have besides, as safe to run.
CLASSIFYING = OPERATORS | {
    *("AveragePool", "BatchNormalization", "Dropout", "Erf", "Flatten", "GlobalAveragePool"),
    *("HardSigmoid", "HardSwish", "LRN", "LayerNormalization", "Max", "MaxPool", "Min", "Pad"),
    *("ReduceMax", "Softmax", "Sum"),
}
MAX_NODES = 10_000  # of a graph; those of the largest plugin are a few hundred
MAX_FIELDS = 1 << 20  # of all messages that are looked at: bounds the time
FLOAT, INT64 = 1, 7  # TensorProto.DataType
FLOATS = frozenset([FLOAT, 10, 11, 16])  # float16, double, bfloat16
INTEGER_BYTES = {2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 12: 4, 13: 8}  # by DataType
# Attributes that ONNX Runtime divides by, some of them unchecked.
POSITIVE = frozenset(["blocksize", "dilations", "group", "kernel_shape", "num_outputs", "strides"])
VARINT, BYTES = 0, 2  # how a field is stored


class Field(NamedTuple):
    """A field of a message: its number, how it is stored, and where its content lies.

    Of an integer ``start`` is the value, and ``end`` 0.
    """

    number: int
    kind: int
    start: int
    end: int


def fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``content[start:end]``; ValueError, IndexError if it is none."""
    at = start
    while at < end:
        key, at = _integer(content, at)
        if key >> 32:  # readers cut it to 32 bits, and would see another field
            raise ValueError("not a message")
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _integer(content, at)
            extent = value, 0
        elif kind in (1, 5):
            extent = at, at + (8 if kind == 1 else 4)
            at = extent[1]
        elif kind == BYTES:
            length, at = _integer(content, at)
            extent = at, at + length
            at = extent[1]
        else:
            raise ValueError("not a message")
        if at > end:
            raise ValueError("not a message")
        yield Field(number, kind, *extent)


def _integer(content: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first; and where it ends."""
    value, shift = 0, 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("not a number")


def refuse_foreign(content: bytes, name: str, operators: Collection[str] = OPERATORS) -> None:
    """Raises ModelError unless ``content`` is a graph of ``operators`` alone, its tensors inside.

    Refuses, by name, what a graph of a stranger could read files or run for ever with: tensors in
    other files, graphs inside of nodes (Loop, If, Scan), functions and other operators.
    name: of the file, for the message.
    """
    try:
        _Graph(content, name, operators).check()
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"{name} is not an ONNX graph that can be read; take a good copy of the model"
        ) from error


class _Graph:
    """The walk through one file. ``_types``: the DataType of each value, where it is known."""

    def __init__(self, content: bytes, name: str, operators: Collection[str]) -> None:
        self._content, self._name, self._operators = content, name, operators
        self._left = MAX_FIELDS
        self._types: dict[str, int | None] = {}
        self._constants: set[str] = set()
        self._positive: set[str] = set()  # those that are integers above 0

    def check(self) -> None:
        graphs = self._fields(Field(0, BYTES, 0, len(self._content)))
        if any(field.number == 20 for field in graphs):
            self._refuse("has a training graph")
        if any(field.number == 25 for field in graphs):
            self._refuse("has functions of its own")
        inside = [field for graph in self._of(graphs, 7) for field in self._fields(graph)]
        if not inside:
            raise ValueError("no graph")
        if any(field.number == 15 for field in inside):
            self._refuse("has sparse tensors")
        for value in self._of(inside, 11):
            self._input(self._fields(value))
        for tensor in self._of(inside, 5):
            self._constant(self._fields(tensor))
        nodes = self._of(inside, 1)
        if len(nodes) > MAX_NODES:
            self._refuse(f"has {len(nodes)} operators, more than {MAX_NODES}")
        for node in nodes:
            self._node(self._fields(node))

    def _refuse(self, problem: str) -> None:
        raise ModelError(
            f"{self._name} {problem}, which no graph of a model has: it is not run; "
            "take a good copy of the model"
        )

    def _fields(self, message: Field) -> list[Field]:
        found = []
        for field in fields(self._content, message.start, message.end):
            self._left -= 1
            if self._left < 0:
                self._refuse(f"has more than {MAX_FIELDS} fields")
            found.append(field)
        return found

    def _of(self, message: list[Field], number: int, kind: int = BYTES) -> list[Field]:
        found = [field for field in message if field.number == number]
        if any(field.kind != kind for field in found):
            raise ValueError("a field of another kind")
        return found

    def _text(self, message: list[Field], number: int) -> str:
        """A text field; "" where it is absent."""
        found = [self._content[f.start : f.end].decode() for f in self._of(message, number)]
        if len(found) > 1:
            raise ValueError("a field comes twice")
        return found[0] if found else ""

    def _number(self, message: list[Field], number: int) -> int | None:
        found = self._of(message, number, VARINT)
        if len(found) > 1:
            raise ValueError("a field comes twice")
        return found[0].start if found else None

    def _input(self, value: list[Field]) -> None:
        for kind in self._of(value, 2):
            for tensor in self._of(self._fields(kind), 1):
                self._types[self._text(value, 1)] = self._number(self._fields(tensor), 1)

    def _constant(self, tensor: list[Field], name: str | None = None) -> None:
        """A tensor; ``name``: of the value that it is, if not its own."""
        if any(field.number == 13 or (field.number == 14 and field.start) for field in tensor):
            self._refuse(f"has the tensor {self._text(tensor, 8)!r} in another file")
        name = self._text(tensor, 8) if name is None else name
        if name in self._constants:
            raise ValueError("a tensor comes twice")
        self._constants.add(name)
        kind = self._number(tensor, 2)
        self._types[name] = kind
        stored, size = self._of(tensor, 9), INTEGER_BYTES.get(kind or 0)
        if size and len(stored) == 1 and not any(f.number in (4, 5, 7, 11) for f in tensor):
            raw = self._content[stored[0].start : stored[0].end][: 1 << 16]
            values = (raw[at : at + size] for at in range(0, len(raw), size))
            if raw and all(int.from_bytes(value, "little", signed=True) > 0 for value in values):
                self._positive.add(name)

    def _node(self, node: list[Field]) -> None:
        operator, domain = self._text(node, 4), self._text(node, 7)
        if operator not in self._operators or domain not in ("", "ai.onnx"):
            shown = f"{domain}.{operator}" if domain else operator
            self._refuse(f"has the operator {shown!r}")
        given = [self._content[f.start : f.end].decode() for f in self._of(node, 1)]
        outputs = [self._content[f.start : f.end].decode() for f in self._of(node, 2)]
        if any(name in self._types for name in outputs):
            raise ValueError("a value is computed twice")
        kind = self._types.get(given[0]) if given else None
        if operator in ("ArgMin", "Shape"):
            kind = INT64
        seen: set[str] = set()
        for attribute in map(self._fields, self._of(node, 5)):
            name = self._text(attribute, 1)
            if name in seen or any(field.number in (6, 11, 22, 23) for field in attribute):
                self._refuse(f"has the attribute {name!r} of {operator}")
            seen.add(name)
            if (tensors := self._of(attribute, 5)) and operator == "Constant" and outputs:
                self._constant(self._fields(tensors[0]), outputs[0])
                kind = self._types[outputs[0]]
            if len(tensors) > (operator == "Constant") or self._of(attribute, 10):
                self._refuse(f"has the attribute {name!r} of {operator}")
            if operator == "Constant" and name.startswith("value_float"):
                kind = FLOAT
            elif operator == "Cast" and name == "to":
                kind = self._number(attribute, 3)
            elif name in POSITIVE:
                self._check_positive(attribute, f"{name} of {operator}")
        self._types.update(dict.fromkeys(outputs, kind))
        if operator == "Div" and len(given) == 2:
            divisor = given[1]
            # The smallest integer by -1, and any by 0, ends the process.
            if self._types.get(divisor) not in FLOATS and divisor not in self._positive:
                self._refuse(f"divides integers by {divisor!r} (operator Div)")

    def _check_positive(self, attribute: list[Field], shown: str) -> None:
        values = []
        for field in attribute:
            if field.number in (3, 8) and field.kind == VARINT:
                values.append(field.start)
            elif field.number == 8 and field.kind == BYTES:  # packed
                at = field.start
                while at < field.end:
                    value, at = _integer(self._content, at)
                    values.append(value)
        if not all(0 < value < 1 << 31 for value in values):
            self._refuse(f"has an impossible {shown}")
