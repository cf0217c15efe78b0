"""Compare two answers bit for bit, and summarise one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite.cli.terminal import show_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_VALUES: Final = 6
"""Values of an array that its summary shows."""


def first_difference(names: Sequence[str], ours: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    """Describe the first output that differs in type, dtype, shape or any bit; None if all are equal."""
    for name, first, second in zip(names, ours, theirs, strict=True):
        difference = _difference(first, second)
        if difference is not None:
            return f"output `{name}` {difference}"
    return None


def summarise(value: Any) -> str:  # noqa: ANN401 - any model value
    """Describe a model's value on one line: type, shape, range, first values."""
    if not isinstance(value, np.ndarray):
        return _summarise_object(value)
    kind = "string" if value.dtype.kind == "O" else str(value.dtype)
    text = f"{kind} {show_shape(value.shape)}"
    if value.size == 0:
        return text
    shown = ", ".join(_show(item) for item in value.flat[:SHOWN_VALUES].tolist())
    rest = ", ..." if value.size > SHOWN_VALUES else ""
    if value.dtype.kind in "iuf" and value.size > 1:
        text += f", {_show(value.min().item())} to {_show(value.max().item())}"
    return f"{text}: {shown}{rest}"


def _difference(ours: Any, theirs: Any) -> str | None:  # noqa: ANN401 - recursive over any model value
    if type(ours) is not type(theirs):
        return f"is a {type(ours).__name__}, but onnxruntime's a {type(theirs).__name__}"
    match ours:
        case np.ndarray():
            return _array_difference(ours, theirs)
        case dict():
            # The order of a map's keys is part of the answer.
            return _list_difference([*ours, *ours.values()], [*theirs, *theirs.values()])
        case list():
            return _list_difference(ours, theirs)
        case _:
            return None if _bits(ours) == _bits(theirs) else "differs"


def _list_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    if len(ours) != len(theirs):
        return "differs in length"
    found = (_difference(first, second) for first, second in zip(ours, theirs, strict=True))
    return next((difference for difference in found if difference is not None), None)


def _bits(value: Any) -> Any:  # noqa: ANN401 - a scalar
    # NaN equals itself this way, and 0.0 is not -0.0.
    return struct.pack("d", value) if isinstance(value, float) else value


def _array_difference(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> str | None:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"is {ours.dtype} {show_shape(ours.shape)}, but onnxruntime's {theirs.dtype} {show_shape(theirs.shape)}"
    if ours.dtype.kind == "O":
        differing = sum(a != b for a, b in zip(ours.flat, theirs.flat, strict=True))
    else:
        first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (ours, theirs))
        differing = int((first != second).reshape(-1, max(ours.itemsize, 1)).any(axis=1).sum())
    return f"differs in {differing:,} of {ours.size:,} values" if differing else None


def _summarise_object(value: Any) -> str:  # noqa: ANN401 - any model value
    match value:
        case None:
            return "absent"
        case list():
            inner = f", first {summarise(value[0])}" if value else ""
            return f"list of {len(value)}{inner}"
        case dict():
            pairs = list(value.items())
            shown = ", ".join(f"{_show(key)}: {_show(item)}" for key, item in pairs[:SHOWN_VALUES])
            return f"map of {len(pairs)}: {shown}{', ...' if len(pairs) > SHOWN_VALUES else ''}"
        case _:
            return _show(value)


def _show(item: Any) -> str:  # noqa: ANN401 - an element of a model value
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, np.ndarray):
        return summarise(item)
    return repr(item) if isinstance(item, str) else str(item)
