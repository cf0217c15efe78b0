"""Between JSON and the values that models take and give.

JSON knows no dtypes, so the model's signature decides: a number is refused where the declared type cannot
hold it, and a fraction never silently becomes an integer.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from inferlite.cli.failures import RefusedError

if TYPE_CHECKING:
    import inferlite

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_CONTAINER = re.compile(r"(tensor|seq|optional|map)\((.*)\)")
_RAGGED = "is ragged: its lists differ in length or depth"
_ELEMENT_TYPES = {"float": "float32", "double": "float64"}


class _MisfitError(ValueError):
    """A value cannot become what is wanted; the message continues "input `x` "."""


def from_json(document: Any, spec: inferlite.TensorSpec) -> Any:  # noqa: ANN401 - JSON in, any model value out
    """Convert what `json.loads` gave to a value of `spec`'s type: an array, or lists, dicts and None of them.

    Raises:
        RefusedError: it cannot be, naming the input and the reason.
    """
    try:
        return _convert(document, spec.dtype)
    except _MisfitError as error:
        message = f"input `{spec.name}` {error}"
        raise RefusedError(message) from error
    except RecursionError as error:
        message = f"input `{spec.name}` is nested too deep"
        raise RefusedError(message) from error


def to_json(value: Any) -> Any:  # noqa: ANN401 - any model value in, JSON out
    """Convert a model's value to JSON; complex numbers become pairs, map keys and what is not finite strings."""
    match value:
        case np.ndarray() | np.generic():
            pairs = np.stack([value.real, value.imag], axis=-1) if value.dtype.kind == "c" else value
            return to_json(pairs.tolist())
        case dict():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case float() if not math.isfinite(value):
            # JSON has no numbers for these.
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case _:
            return value


def _convert(document: Any, declared: str) -> Any:  # noqa: ANN401 - recursive over JSON
    match _CONTAINER.fullmatch(declared):
        case None:
            return _to_array(document, declared)
        case found:
            kind, inner = found.groups()
    if kind == "tensor":
        return _to_array(document, _ELEMENT_TYPES.get(inner, inner))
    if kind == "optional":
        return None if document is None else _convert(document, inner)
    if kind == "seq":
        if not isinstance(document, list):
            message = f"is {declared}, which is a list in JSON"
            raise _MisfitError(message)
        return [_convert(item, inner) for item in document]
    if not isinstance(document, dict):
        message = f"is {declared}, which is an object in JSON"
        raise _MisfitError(message)
    return _convert_map(document, inner)


def _convert_map(document: dict[str, Any], inner: str) -> dict[Any, Any]:
    key_type, _, value_type = inner.partition(",")
    try:
        keys = [key if key_type == "string" else int(key) for key in document]
    except ValueError:
        message = f"has keys that {key_type} cannot hold"
        raise _MisfitError(message) from None
    values = [_convert(value, value_type) for value in document.values()]
    # A map's values are scalars, which onnxruntime takes as Python's own.
    scalars = [value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value for value in values]
    return dict(zip(keys, scalars, strict=True))


def _to_array(document: Any, declared: str) -> Array:  # noqa: ANN401 - JSON
    if declared == "string":
        return _to_strings(document)
    try:
        dtype = np.dtype(declared)
    except TypeError:
        message = f"is {declared}, which JSON cannot hold"
        raise _MisfitError(message) from None
    try:
        raw = np.array(document)
    except (ValueError, OverflowError):
        raise _MisfitError(_RAGGED) from None
    if raw.size == 0:
        return raw.astype(dtype)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}.get(dtype.kind, "")
    if raw.dtype.kind not in allowed:
        message = f"has values that {declared} cannot hold"
        raise _MisfitError(message)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(raw.min()) < limits.min or int(raw.max()) > limits.max:
            message = f"has values that {declared} cannot hold: they go from {limits.min} to {limits.max}"
            raise _MisfitError(message)
    with np.errstate(over="ignore"):
        converted = raw.astype(dtype)
    if dtype.kind == "f" and np.isinf(converted).sum() != np.isinf(raw).sum():
        message = f"has values that {declared} cannot hold: they end at {np.finfo(dtype).max:g}"
        raise _MisfitError(message)
    return converted


def _to_strings(document: Any) -> Array:  # noqa: ANN401 - JSON
    # numpy's own text type would drop trailing NULs, so the shape is found by hand.
    shape = []
    level = document
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    leaves = list(_leaves(document, len(shape), shape))
    array = np.empty(shape, dtype=object)
    array.flat[:] = leaves
    return array


def _leaves(document: Any, depth: int, shape: list[int]) -> list[str]:  # noqa: ANN401 - recursive over JSON
    if depth == 0:
        if not isinstance(document, str):
            message = _RAGGED if isinstance(document, list) else "has values that are not strings"
            raise _MisfitError(message)
        return [document]
    if not isinstance(document, list) or len(document) != shape[-depth]:
        raise _MisfitError(_RAGGED)
    return [leaf for item in document for leaf in _leaves(item, depth - 1, shape)]
