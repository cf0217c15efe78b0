"""Outputs of `ZipMap`, a list of one dict for each row, as a dict of one array for each key.

The native back end never has the dicts; this is for the Python back end, and for sessions whose graph must stay as it
is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite._model_file import fields, varints

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Key = int | str

# The numbers of fields in `onnx.proto3`: of a model, a graph, a node, an attribute.
_GRAPH: Final = 7
_NODE: Final = 1
_NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 2, 4, 5
_ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 8, 9


def columns_of(rows: Sequence[dict[Any, float]], keys: Sequence[Key]) -> dict[Any, NDArray[np.float32]]:
    """An array for each key, with the number of every row.

    Args:
        rows: Dicts that have these keys.
        keys: The keys, in the order that is wanted.
    """
    return {key: np.array([row[key] for row in rows], np.float32) for key in keys}


def zipped_keys(model: str | bytes) -> dict[str, list[Key]]:
    """The keys of every output of a `ZipMap` node, ascending as onnxruntime has them; empty for what is no ONNX file.

    Args:
        model: The path or the content of a file.
    """
    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        return dict(_zipmaps(memoryview(content)))
    except (OSError, ValueError):
        return {}


def _zipmaps(model: memoryview) -> Iterator[tuple[str, list[Key]]]:
    for graph in _parts(model, _GRAPH):
        for node in _parts(graph, _NODE):
            if any(bytes(operator) == b"ZipMap" for operator in _parts(node, _NODE_OPERATOR)):
                outputs = [bytes(output).decode() for output in _parts(node, _NODE_OUTPUT)]
                keys = _keys(node)
                if len(outputs) == 1 and keys:
                    yield outputs[0], keys


def _keys(node: memoryview) -> list[Key]:
    numbers: set[int] = set()
    texts: set[bytes] = set()
    for attribute in _parts(node, _NODE_ATTRIBUTE):
        for number, value in fields(attribute):
            if number == _ATTRIBUTE_STRINGS and isinstance(value, memoryview):
                texts.add(bytes(value))
            elif number == _ATTRIBUTE_INTS:
                numbers.update(varints(value) if isinstance(value, memoryview) else [value])
    if numbers and texts:
        return []
    signed = sorted(number - 2**64 if number >= 2**63 else number for number in numbers)
    return [*signed, *(text.decode() for text in sorted(texts))]


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value
