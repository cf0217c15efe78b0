"""Feeds that onnxruntime's Python package would misread, turned into ones that it reads right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnxruntime

from inferlite import _exchange as exchange
from inferlite._fallback import extended
from inferlite.metadata import DTYPES, element_type, unwrapped

# What is not asked for a protocol, because onnxruntime reads it.
_READ_BY_ONNXRUNTIME: Final = (list, dict, onnxruntime.OrtValue, type(None))

# Types whose str() cannot raise; onnxruntime crashes when the str() of an object does.
_PLAIN: Final = frozenset({str, bytes, int, float, bool, complex, type(None)})


def readable_feed(feed: Any, declared: Mapping[str, Any], casting: str = "no") -> Any:  # noqa: ANN401 - checked later
    """The feed, or a copy in which what onnxruntime misreads, or cannot read, is replaced by arrays.

    Args:
        feed: Whatever was passed as `input_feed`.
        declared: onnxruntime's description of every input.
        casting: Which arrays of another dtype are cast, with numpy's meanings.

    Raises:
        UnicodeDecodeError: An item of an `S` array is not UTF-8.
        BackendUnavailableError: The element type of an array is one of ml_dtypes.
        RuntimeError: Something is no array and looks like one to onnxruntime, which would crash; or it is one of
            another library's that does not fit.
        Exception: Whatever the `str()` of an object among the strings raises.
    """
    if not isinstance(feed, Mapping):
        return feed
    replaced = {}
    for name, value in feed.items():
        if (
            casting == "no"
            and type(value) is np.ndarray
            and value.dtype.kind not in "SO"
            and value.dtype.isnative
            and not extended.is_registered(value.dtype)
        ):
            continue
        argument = declared.get(name)
        other = value if argument is None else _as_tensor(argument, casting, value)
        other = _readable(other, "" if argument is None else argument.type)
        if other is not value:
            replaced[name] = other
    return {**feed, **replaced} if replaced else feed


def readable_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array, or a copy that onnxruntime reads right: bytes decoded as UTF-8, the machine's byte order.

    Raises:
        UnicodeDecodeError: An item of an `S` array is not UTF-8.
        BackendUnavailableError: The element type is one of ml_dtypes.
    """
    if extended.is_registered(array.dtype):
        extended.refuse_input(array.dtype)
    if array.dtype.kind == "S":
        # numpy hands out each item without the NULs that pad it.
        texts = np.empty(array.shape, dtype=object)
        texts.reshape(-1)[:] = [item.decode() for item in array.ravel().tolist()]
        return texts
    if not array.dtype.isnative and array.dtype.names is None:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def _as_tensor(argument: Any, casting: str, value: Any) -> Any:  # noqa: ANN401 - anything may be fed
    """The array in a value of another library, and any array in the input's dtype; other values as they are."""
    element = element_type(unwrapped(argument.type))
    if element is None:
        return value
    dtype = DTYPES.get(element, element)
    if isinstance(value, np.ndarray):
        return exchange.cast(dtype, casting, value)
    if isinstance(value, _READ_BY_ONNXRUNTIME):
        return value
    array = exchange.session_tensor(argument.name, dtype, argument.shape, casting, value)
    return value if array is None else array


def _readable(value: Any, declared: str) -> Any:  # noqa: ANN401 - anything may be fed
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            # Whatever the input is declared to be.
            _try_str(value)
        return readable_array(value)
    if _looks_like_array(value):
        message = f"Unable to handle object of type {type(value)}"
        raise RuntimeError(message)
    if not isinstance(value, list):
        return value
    if "seq(" in declared:
        return _readable_sequence(value, declared)
    if "string" in declared:
        _try_str_of_list(value)
    return value


def _readable_sequence(value: list[Any], declared: str) -> list[Any]:
    items = [_readable_item(item, declared) for item in value]
    same = all(item is other for item, other in zip(items, value, strict=True))
    return value if same else items


def _readable_item(item: Any, declared: str) -> Any:  # noqa: ANN401 - as above
    if _looks_like_array(item):
        message = "CreateSequenceOfTensors: Input is not a tensor"
        raise RuntimeError(message)
    if not isinstance(item, np.ndarray):
        exchanged = exchange.array_of("an item of the sequence", item, RuntimeError)
        if exchanged is None:
            return item
        item = exchanged.array
    return _readable(item, declared)


def _looks_like_array(value: object) -> bool:
    # onnxruntime takes whatever has this attribute for an array, the class of arrays included.
    return hasattr(value, "__array_finalize__") and not isinstance(value, np.ndarray)


def _try_str_of_list(value: list[Any]) -> None:
    try:
        items = np.asarray(value, dtype=object)
    except Exception:  # noqa: BLE001 - onnxruntime makes the same array, and says in its own words that it cannot
        return
    _try_str(items)


def _try_str(items: np.ndarray[Any, Any]) -> None:
    for item in items.ravel().tolist():
        # A list may be an item, too: of rows of odd lengths, or nested deeper than arrays have axes.
        if type(item) not in _PLAIN:
            str(item)
