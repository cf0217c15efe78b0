"""Whether the indices of a sparse tensor lie inside it, which onnxruntime does not look at before it uses them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

_MOST: Final = 2**63 - 1


def check_coo(dense_shape: Any, values: Any, indices: Any) -> None:  # noqa: ANN401 - whatever numpy takes
    """Check the places of values: one index each into the tensor in C order, or an index for every axis.

    Raises:
        InvalidArgument: There are too many or too few, or one lies outside.
    """
    shape, places, count = _extents(dense_shape), np.asarray(indices), np.asarray(values).size
    axes = [math.prod(shape)] if places.size == count else shape
    if places.size != count * len(axes):
        _refuse(f"{places.size} indices do not place {count} values in shape {shape}")
    for axis, extent in enumerate(axes):
        along = places.reshape(count, len(axes))[:, axis]
        # An extent may be larger than any index.
        outside = (along < 0) | (along >= min(extent, _MOST))
        if outside.any():
            _refuse(f"index {places.reshape(count, len(axes))[outside][0].tolist()} lies outside of shape {shape}")


def check_csr(dense_shape: Any, values: Any, inner: Any, outer: Any) -> None:  # noqa: ANN401 - whatever numpy takes
    """Check the columns of values, and where each row begins and ends.

    Raises:
        InvalidArgument: There are too many or too few, one lies outside, or a row ends before it begins.
    """
    shape, count = _extents(dense_shape), np.asarray(values).size
    columns, bounds = np.asarray(inner).reshape(-1), np.asarray(outer).reshape(-1)
    if len(shape) != 2:  # noqa: PLR2004 - a matrix
        _refuse(f"shape {shape} is not that of a matrix")
    if len(columns) != count:
        _refuse(f"{len(columns)} columns do not place {count} values")
    if count == 0 and not len(bounds):
        return
    if len(bounds) != shape[0] + 1 or bounds[0] != 0 or bounds[-1] != count or (np.diff(bounds) < 0).any():
        _refuse(f"the bounds of rows do not divide {count} values into {shape[0]} rows")
    if ((columns < 0) | (columns >= min(shape[1], _MOST))).any():
        _refuse(f"a column lies outside of shape {shape}")


def _extents(dense_shape: Any) -> list[int]:  # noqa: ANN401 - whatever numpy takes
    shape = [int(extent) for extent in np.asarray(dense_shape).reshape(-1)]
    if any(extent < 0 for extent in shape):
        _refuse(f"shape {shape} has a negative extent")
    return shape


def _refuse(why: str) -> None:
    message = f"[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : {why}"
    raise InvalidArgument(message)
