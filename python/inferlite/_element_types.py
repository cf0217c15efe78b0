"""The numbers that ONNX files give to element types, and the types of arrays that stand for them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

STRING: Final = 8

NUMBERS: Final = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
    "uint4": 21,
    "int4": 22,
    "float4_e2m1fn": 23,
    "float8_e8m0fnu": 24,
    "uint2": 25,
    "int2": 26,
}
"""ONNX's number of an element type, by the name that numpy or ml_dtypes gives it."""


def number_of(element_type: Any) -> int:  # noqa: ANN401 - whatever numpy takes for a type
    """ONNX's number of an element type.

    Args:
        element_type: That number, or anything that numpy takes for a dtype.

    Raises:
        TypeError: numpy does not take it.
        RuntimeError: ONNX Runtime has no tensors of this type.
    """
    if isinstance(element_type, int):
        return element_type
    dtype = np.dtype(element_type)
    if dtype.kind in "OSU" and dtype.names is None:
        return STRING
    number = NUMBERS.get(dtype.name)
    if number is None:
        message = f"Numpy_type {dtype.num} can't be converted to MLDataType."
        raise RuntimeError(message)
    return number
