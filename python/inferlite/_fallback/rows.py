"""Where the rows of a batch are, which calls may share one, and how they are put together and taken apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite.metadata import element_type, tensor_spec

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from inferlite._calls import Description

COMPARED_BYTES: Final = 256
"""Bytes that calls must have in common are compared up to here; more of them by a digest."""

_PARTS_OF_BYTES: Final = frozenset({"int4", "uint4", "float4e2m1", "int2", "uint2"})


class BatchAxes:
    """The axis of the rows of every input and output; None for an input that belongs to all rows alike."""

    def __init__(
        self,
        inputs: Sequence[Description],
        outputs: Sequence[Description],
        overridable: Sequence[Description],
        declared: Iterable[tuple[str, int | None]],
    ) -> None:
        """Take axis 0 where it is dynamic, unless something else is declared.

        A weight that calls may override has no rows, or else one that is left out would be taken row by row.

        Raises:
            ValueError: No rows can be told apart.
        """
        given = dict(declared)
        self._inputs = {name: given.get(name, _dynamic(kind, shape)) for name, kind, shape in inputs}
        self._inputs |= dict.fromkeys((name for name, _, _ in overridable), None)
        self._outputs = {name: given.get(name, _dynamic(kind, shape)) for name, kind, shape in outputs}
        self._ranks = {name: len(shape) for name, _, shape in (*inputs, *overridable)}
        if all(axis is None for axis in self._inputs.values()):
            message = "no input has a batch axis: declare one with `load(..., batch_axes={name: axis})`"
            raise ValueError(message)
        for name, kind, _ in inputs:
            if self._inputs[name] is not None:
                _check_divisible("input", name, kind)
        for name, kind, _ in outputs:
            _check_divisible("output", name, kind)
            if self._outputs[name] is None:
                message = (
                    f'output `{name}` has no batch axis: declare one with `load(..., batch_axes={{"{name}": axis}})`'
                )
                raise ValueError(message)

    def kind(self, names: Sequence[str], feed: Mapping[str, Any]) -> tuple[Hashable, int] | None:
        """What calls have to have in common to share a batch with this one, and how many rows it brings.

        None where it cannot be put together with others: its inputs disagree about the rows, there are none, or
        something is fed that cannot be taken apart. The arrays must be the call's own: what a caller may still write to
        is no ground for a decision.
        """
        parts: list[Hashable] = []
        rows: set[int] = set()
        for name, value in feed.items():
            if not isinstance(value, np.ndarray):
                return None
            axis, shape = self._inputs[name], value.shape
            # How wide texts are says nothing about them.
            dtype = "U" if value.dtype.kind == "U" else value.dtype.str
            if axis is None:
                # onnxruntime does not hold a value against a scalar, which no declared axes may also stand for.
                if value.ndim != self._ranks[name]:
                    return None
                parts.append((name, dtype, shape, _content(value)))
                continue
            if axis >= value.ndim:
                return None
            rows.add(shape[axis])
            parts.append((name, dtype, (*shape[:axis], None, *shape[axis + 1 :])))
        is_whole = all(name in feed for name, axis in self._inputs.items() if axis is not None)
        if not is_whole or len(rows) != 1 or 0 in rows:
            return None
        return (tuple(names), *parts), rows.pop()

    def join(self, feeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The inputs of one run for calls of one kind: their rows, one after the other."""
        return {
            name: value if axis is None else np.concatenate([feed[name] for feed in feeds], axis)
            for name, value in feeds[0].items()
            for axis in (self._inputs[name],)
        }

    def split(self, names: Sequence[str], results: Sequence[Any], rows: Sequence[int]) -> list[list[Any]] | None:
        """The outputs of each call, of which so many rows are its own; None if they do not have the rows."""
        axes = [self._outputs[name] or 0 for name in names]
        total = sum(rows)
        for value, axis in zip(results, axes, strict=True):
            if not isinstance(value, np.ndarray) or axis >= value.ndim or value.shape[axis] != total:
                return None
        ends = np.cumsum(rows).tolist()
        return [
            [_part(value, axis, end - count, end) for value, axis in zip(results, axes, strict=True)]
            for count, end in zip(rows, ends, strict=True)
        ]


def _part(value: np.ndarray[Any, Any], axis: int, start: int, end: int) -> np.ndarray[Any, Any]:
    """A copy, which does not keep the whole batch."""
    part: np.ndarray[Any, Any] = value[(slice(None),) * axis + (slice(start, end),)].copy()
    return part


def _dynamic(type_string: str, shape: list[int | str | None]) -> int | None:
    axes = tensor_spec("", type_string, shape).shape
    return 0 if axes and not isinstance(axes[0], int) else None


def _check_divisible(role: str, name: str, type_string: str) -> None:
    """Refuse what has no rows of whole bytes, or whole strings."""
    element = element_type(type_string)
    if element is None or element in _PARTS_OF_BYTES:
        message = f"{role} `{name}` of type {type_string} cannot be split into rows"
        raise ValueError(message)


def _content(value: np.ndarray[Any, Any]) -> Hashable:
    """What tells the values of an array from others of its type and shape."""
    if value.dtype.hasobject:
        return tuple(str(item) for item in value.ravel().tolist())
    content = value.tobytes()
    return content if len(content) <= COMPARED_BYTES else hashlib.blake2b(content, digest_size=32).digest()
