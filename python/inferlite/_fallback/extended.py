"""Element types of ml_dtypes: what onnxruntime's Python package does not take, and what it gives as plain bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite._checks import EXTENDED_DTYPES
from inferlite.capabilities import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

# From here on numpy numbers the types that packages have registered.
_FIRST_REGISTERED: Final = 256

_AS_BYTES: Final = {"float8e4m3fn": "float8_e4m3fn", "float4e2m1": "float4_e2m1fn"}


def is_registered(dtype: np.dtype[Any]) -> bool:
    """Whether a package has registered this type with numpy."""
    return dtype.num >= _FIRST_REGISTERED


def refuse_input(dtype: np.dtype[Any]) -> None:
    """Refuse an array of a type of ml_dtypes; onnxruntime has its own words for those of other packages.

    Raises:
        BackendUnavailableError: It is such a type.
    """
    if dtype.name in EXTENDED_DTYPES:
        refuse("types_beyond_numpy", f"an array of {dtype.name}")


def unreadable(error: RuntimeError) -> None:
    """Say that an output cannot be had, if that is what onnxruntime says.

    Raises:
        BackendUnavailableError: It is.
    """
    text = str(error)
    if text.startswith("No corresponding Numpy type for Tensor Type."):
        refuse("types_beyond_numpy", f"an output of type {text.rpartition(' ')[2]}")


def bytes_type(type_string: str) -> str | None:
    """The name in ml_dtypes of the elements of an output that onnxruntime gives as plain bytes; None for any other."""
    return next((name for element, name in _AS_BYTES.items() if f"tensor({element})" in type_string), None)


def restored(results: Sequence[Any], names: Sequence[str], types: dict[str, str]) -> list[Any]:
    """The results, of which those that came as plain bytes have their own type.

    Args:
        results: What onnxruntime gave.
        names: The outputs that they are of.
        types: The names in ml_dtypes by output, of those that come as plain bytes.
    """
    return [
        _restored(value, types[name]) if name in types else value for name, value in zip(names, results, strict=True)
    ]


def _restored(value: Any, name: str) -> Any:  # noqa: ANN401 - an array, a list of arrays or None
    import ml_dtypes  # noqa: PLC0415 - few models have such an output

    if isinstance(value, list):
        return [_restored(item, name) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    if name != "float4_e2m1fn":
        return value.view(getattr(ml_dtypes, name))
    # Two elements share a byte, so that what comes after the first half is not the tensor's.
    packed = value.ravel()[: (value.size + 1) // 2]
    items = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)[: value.size]
    return items.view(ml_dtypes.float4_e2m1fn).reshape(value.shape)
