"""What a model's file says about itself: versions, producer, operators.

The native back end reads the file in Rust. The decoder here is for the Python back end: it walks over the
few fields of `onnx.proto3` that `inferlite info` shows and skips everything else, the weights above all.
"""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import inferlite
from inferlite.exceptions import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEEPEST_GRAPH: Final = 30
"""Levels of graphs in graphs; protobuf's own decoders give up at a similar depth."""

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


def decode(path: Path) -> Mapping[str, Any]:
    """Read the file as `_core.model_info` does, without the native part.

    Raises:
        ValueError: it is no ONNX protobuf with a graph in it.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed here: an exception's traceback may still hold a part of it, and closing would then fail.
    return _decode_model(memoryview(mapped))


def _read_natively(path: Path) -> Mapping[str, Any]:
    from inferlite import _core  # noqa: PLC0415 - the Python back end works without it

    facts: Mapping[str, Any] = _core.model_info(str(path))
    return facts


def _decode_model(data: memoryview) -> Mapping[str, Any]:
    facts: dict[str, Any] = {"ir_version": 0, "producer_name": "", "producer_version": "", "opsets": {}}
    operators: Counter[str] = Counter()
    for field, value in _fields(data):
        match field, value:
            case 1, int():
                facts["ir_version"] = value
            case 2, memoryview():
                facts["producer_name"] = _text(value)
            case 3, memoryview():
                facts["producer_version"] = _text(value)
            case 7, memoryview():
                facts["graph_name"] = _count_operators(value, operators, node_field=1, depth=0)
            case 8, memoryview():
                opset = dict(_fields(value))
                version = opset.get(2)
                facts["opsets"][_text(opset.get(1))] = version if isinstance(version, int) else 0
            case 25, memoryview():
                _count_operators(value, operators, node_field=7, depth=0)
    if "graph_name" not in facts:
        message = "not an ONNX model: there is no graph in it"
        raise ValueError(message)
    return {**facts, "operators": operators}


def _count_operators(data: memoryview, operators: Counter[str], *, node_field: int, depth: int) -> str:
    """Count the operators of a graph (nodes in field 1) or a function (7); returns the graph's name."""
    if depth > DEEPEST_GRAPH:
        message = "not an ONNX model: nested too deep"
        raise ValueError(message)
    name = ""
    for field, value in _fields(data):
        if isinstance(value, int):
            continue
        if field == node_field:
            _count_node(value, operators, depth)
        elif field == 2:  # noqa: PLR2004 - GraphProto.name
            name = _text(value)
    return name


def _count_node(data: memoryview, operators: Counter[str], depth: int) -> None:
    op_type = domain = ""
    for field, value in _fields(data):
        match field, value:
            case 4, memoryview():
                op_type = _text(value)
            case 7, memoryview():
                domain = _text(value)
            case 5, memoryview():
                # AttributeProto: one graph, or several.
                for inner, graph in _fields(value):
                    if inner in {6, 11} and isinstance(graph, memoryview):
                        _count_operators(graph, operators, node_field=1, depth=depth + 1)
    operators[f"{domain}::{op_type}" if domain else op_type] += 1


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
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
