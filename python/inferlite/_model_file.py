"""What a model's file says about itself: versions, producer, operators.

The native back end reads the file in Rust. The decoder here is for the Python back end: it walks over the few fields of
`onnx.proto3` that `inferlite info` shows, or that tell whether a model may be random, and skips everything else, the
weights above all.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import inferlite
from inferlite.exceptions import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEEPEST_GRAPH: Final = 30
"""Levels of graphs in graphs; protobuf's own decoders give up at a similar depth."""

KNOWN_DOMAINS: Final = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview"}
)
"""The domains of ONNX and onnxruntime, whose random operators are known; as in the core's `graph.rs`."""

RANDOM: Final = frozenset(
    {
        "Bernoulli",
        "BiasDropout",
        "BitmaskBiasDropout",
        "BitmaskDropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Sampling",
    }
)
"""Operators that draw random numbers; as in the core's `graph.rs`."""

BOOL: Final = 9
"""ONNX's number for truth values."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The facts in an ONNX file.

    Attributes:
        ir_version: version of the file format.
        opsets: version of each operator set by domain; ONNX's own is `ai.onnx`.
        producer: name and version of the tool that wrote the file; empty if it does not say.
        graph_name: the graph's name.
        operators: how often each operator is used, in graphs, their bodies and functions.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    graph_name: str
    operators: dict[str, int]

    @property
    def nodes(self) -> int:
        """Number of nodes, bodies and functions included."""
        return sum(self.operators.values())


def read_model_file(path: Path) -> ModelFile | None:
    """Read the facts in the file at `path`; None if it is no ONNX protobuf (an .ort file, say)."""
    try:
        facts = _read_natively(path) if inferlite.backend == "native" else decode(path)
    except (ModelLoadError, ValueError):
        return None
    producer = " ".join(part for part in (facts["producer_name"], facts["producer_version"]) if part)
    opsets = {domain or "ai.onnx": version for domain, version in facts["opsets"].items()}
    return ModelFile(facts["ir_version"], opsets, producer, facts["graph_name"], dict(facts["operators"]))


def random_node(model: str | bytes, *, native: bool) -> str | None:
    """The first node that may answer the same question in another way, as text; None if there is none.

    A model that cannot be read as an ONNX file (an .ort file, say) counts as one. A file that is not there is left to
    whoever loads it.
    """
    try:
        if native:
            from inferlite import _core  # noqa: PLC0415 - the Python back end works without it

            facts: Mapping[str, Any] = _core.model_info(model)
        else:
            facts = _decode_model(memoryview(model)) if isinstance(model, bytes) else decode(Path(model))
    except (ModelLoadError, ValueError):
        exists = isinstance(model, bytes) or Path(model).is_file()
        return "what it does cannot be read from its file, so that it" if exists else None
    except OSError:
        return None
    found: str | None = facts["random_node"]
    return found


def decode(path: Path) -> Mapping[str, Any]:
    """Read the file as `_core.model_info` does, without the native part.

    Raises:
        ValueError: it is no ONNX protobuf with a graph in it.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed here: an exception's traceback may still hold a part of it, and closing would then fail.
    return _decode_model(memoryview(mapped))


# Where a message of ONNX holds others, by the number of the field; an entry of a tensor may name a file.
_PARTS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def data_files(model: memoryview) -> list[str]:
    """The files that hold data of a model, as it names them, each once; none for what is no ONNX protobuf."""
    found: dict[str, None] = {}
    try:
        _gather(model, "model", found, DEEPEST_GRAPH)
    except ValueError:
        return []
    return sorted(found)


def _gather(message: memoryview, kind: str, found: dict[str, None], depth: int) -> None:
    if depth < 0:
        message_text = "graphs lie too deep in each other"
        raise ValueError(message_text)
    if kind == "entry":
        entry = dict(fields(message))
        if _text(entry.get(1, b"")) == "location":
            found[_text(entry.get(2, b""))] = None
        return
    for number, value in fields(message):
        part = _PARTS[kind].get(number)
        if part is not None and isinstance(value, memoryview):
            _gather(value, part, found, depth - (part == "graph"))


def _read_natively(path: Path) -> Mapping[str, Any]:
    from inferlite import _core  # noqa: PLC0415 - the Python back end works without it

    facts: Mapping[str, Any] = _core.model_info(str(path))
    return facts


def _decode_model(data: memoryview) -> Mapping[str, Any]:
    facts: dict[str, Any] = {"ir_version": 0, "producer_name": "", "producer_version": "", "opsets": {}}
    operators: Counter[str] = Counter()
    found = _Found()
    functions: set[tuple[str, str]] = set()
    for number, value in fields(data):
        match number, value:
            case 1, int():
                facts["ir_version"] = value
            case 2, memoryview():
                facts["producer_name"] = _text(value)
            case 3, memoryview():
                facts["producer_version"] = _text(value)
            case 7, memoryview():
                facts["graph_name"] = _visit(value, found, depth=0)
            case 8, memoryview():
                opset = dict(fields(value))
                version = opset.get(2)
                facts["opsets"][_text(opset.get(1))] = version if isinstance(version, int) else 0
            case 25, memoryview():
                _visit_function(value, found)
                function = dict(fields(value))
                functions.add((_text(function.get(10)), _text(function.get(1))))
    if "graph_name" not in facts:
        message = "not an ONNX model: there is no graph in it"
        raise ValueError(message)
    operators.update(node.operator for node in found.nodes)
    falsehoods = found.false_names - found.other_names
    random = next((node for node in found.nodes if node.may_be_random(functions, falsehoods)), None)
    text = None if random is None else f"node `{random.name}` ({random.operator})"
    return {**facts, "operators": operators, "random_node": text}


@dataclass(slots=True)
class _Found:
    """What the graphs and functions of a file hold."""

    nodes: list[_Node] = field(default_factory=list)
    false_names: set[str] = field(default_factory=set)
    """Names that are a constant false somewhere."""
    other_names: set[str] = field(default_factory=set)
    """Names that are something else somewhere."""

    def define(self, name: str, *, is_false: bool) -> None:
        (self.false_names if is_false else self.other_names).add(name)


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    domain: str
    op_type: str
    inputs: tuple[str, ...]

    @property
    def operator(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    def may_be_random(self, functions: set[tuple[str, str]], falsehoods: set[str]) -> bool:
        if (self.domain, self.op_type) in functions:
            return False
        can_train = self.op_type == "Dropout" and any(name and name not in falsehoods for name in self.inputs[2:3])
        return self.domain not in KNOWN_DOMAINS or self.op_type in RANDOM or can_train


def _visit(data: memoryview, found: _Found, *, depth: int) -> str:
    """Gather what a graph holds; returns its name."""
    if depth > DEEPEST_GRAPH:
        message = "not an ONNX model: nested too deep"
        raise ValueError(message)
    name = ""
    for number, value in fields(data):
        match number, value:
            case 1, memoryview():
                _visit_node(value, found, depth)
            case 2, memoryview():
                name = _text(value)
            case 5, memoryview():
                found.define(_tensor_name(value), is_false=_is_false(value))
            case 11, memoryview():
                found.define(_text(dict(fields(value)).get(1)), is_false=False)
    return name


def _visit_function(data: memoryview, found: _Found) -> None:
    for number, value in fields(data):
        match number, value:
            case 4, memoryview():
                found.define(_text(value), is_false=False)
            case 7, memoryview():
                _visit_node(value, found, 0)


def _visit_node(data: memoryview, found: _Found, depth: int) -> None:
    texts = {3: "", 4: "", 7: ""}
    inputs: list[str] = []
    outputs: list[str] = []
    bodies: list[memoryview] = []
    holds_false = False
    for number, value in fields(data):
        match number, value:
            case 1, memoryview():
                inputs.append(_text(value))
            case 2, memoryview():
                outputs.append(_text(value))
            case 3 | 4 | 7, memoryview():
                texts[number] = _text(value)
            case 5, memoryview():
                # AttributeProto: one graph, or several.
                bodies += [
                    graph for inner, graph in fields(value) if inner in {6, 11} and isinstance(graph, memoryview)
                ]
                attribute = dict(fields(value))
                holds_false |= _text(attribute.get(1)) == "value" and _is_false(attribute.get(5))
    node = _Node(texts[3], texts[7], texts[4], tuple(inputs))
    found.nodes.append(node)
    for output in outputs:
        found.define(output, is_false=node.operator == "Constant" and holds_false)
    for body in bodies:
        _visit(body, found, depth=depth + 1)


def _tensor_name(data: memoryview) -> str:
    return next((_text(value) for number, value in fields(data) if number == 8), "")  # noqa: PLR2004 - TensorProto


def _is_false(data: object) -> bool:
    """Whether a tensor is one truth value, and false."""
    if not isinstance(data, memoryview):
        return False
    count, dtype = 1, 0
    content: list[int] = []
    for number, value in fields(data):
        match number, value:
            case 1, int():
                count *= value
            case 1, memoryview():
                count *= math.prod(varints(value))
            case 2, int():
                dtype = value
            case 5, int():
                content.append(value)
            case 5 | 9, memoryview():
                # Integers or raw bytes: a zero is one byte in both.
                content += value[:2]
    return dtype == BOOL and count == 1 and content == [0]


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a protobuf message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == _LENGTH:
            size, at = _varint(data, at)
        elif kind in {_FIXED32, _FIXED64}:
            size = 4 if kind == _FIXED32 else 8
        else:
            message = f"not an ONNX model: wire type {kind}"
            raise ValueError(message)
        if field == 0 or at + size > len(data):
            message = "not an ONNX model: truncated"
            raise ValueError(message)
        yield field, data[at : at + size]
        at += size


def varints(data: memoryview) -> list[int]:
    numbers = []
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return number, at
    message = "not an ONNX model: a number without an end"
    raise ValueError(message)


def _text(value: object) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
