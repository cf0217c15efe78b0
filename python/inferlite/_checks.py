"""Checks of what is passed to a model, and the texts of their exceptions, in one place for both back ends."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite import _exchange as exchange
from inferlite.capabilities import refuse
from inferlite.exceptions import DeadlineExceededError, InvalidInputError, ModelClosedError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferlite.metadata import TensorSpec

NUMPY_DTYPES: Final = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64"}
)
"""The element types of numeric tensors that numpy and onnxruntime's Python interface share."""

EXTENDED_DTYPES: Final = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"}
    | {"float4_e2m1fn", "int4", "uint4", "int2", "uint2"}
)
"""The element types that numpy has from the package ml_dtypes."""

# Strings come as str, bytes, objects, and bytes of a fixed width that may hold NULs.
_TEXT_KINDS: Final = "USOV"

_CONVERTED: Final = (list, tuple, range, bool, int, float, complex, str, bytes)

# What arrays of a kind can hold: numpy's kinds, and the classes of single items. A rounded number counts as held.
_HELD_KINDS: Final = {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}
_HELD_CLASSES: Final = {"b": bool, "i": Integral, "u": Integral, "f": Real}

# Seconds, beyond which clocks of some platforms cannot count.
_FOR_EVER: Final = 1e9

# As far from 0 as the native part counts.
_MOST_PRIORITY: Final = 2**31 - 1

# numpy 1 has no `numpy.bool`.
_ATTRIBUTES: Final = {"bool": "bool_"}


def several_inputs(model: str, inputs: Sequence[TensorSpec]) -> InvalidInputError:
    """One value without a name came for a model that does not have exactly one input."""
    if not inputs:
        return InvalidInputError(f"model `{model}` takes no inputs")
    return InvalidInputError(
        f"model `{model}` takes {len(inputs)} inputs ({_names(inputs)}): pass a mapping or keyword arguments"
    )


def both_ways(model: str) -> InvalidInputError:
    """Inputs came by position and as keyword arguments."""
    return InvalidInputError(f"model `{model}` takes a mapping or keyword arguments, not both")


def unknown_input(model: str, name: object, inputs: Sequence[TensorSpec]) -> InvalidInputError:
    """An input came that the model does not have."""
    return InvalidInputError(f"model `{model}` has no input `{name}`: it takes {_names(inputs)}")


def missing_input(model: str, name: str, inputs: Sequence[TensorSpec]) -> InvalidInputError:
    """An input did not come."""
    return InvalidInputError(f"input `{name}` is missing: model `{model}` takes {_names(inputs)}")


def unknown_output(model: str, name: object, outputs: Sequence[TensorSpec]) -> InvalidInputError:
    """An output was asked for that the model does not have."""
    return InvalidInputError(f"model `{model}` has no output `{name}`: it gives {_names(outputs)}")


def no_names(model: str, outputs: object) -> InvalidInputError:
    """The outputs that were asked for are not names in an order."""
    return InvalidInputError(
        f"`outputs` of model `{model}` must be a name or a list of names, not {type(outputs).__name__}"
    )


def timeout(seconds: object) -> float | None:
    """The seconds that an answer may take; None for ever.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, or no number at all.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        message = f"`timeout` must be seconds or None, not {seconds!r}"
        raise TypeError(message)
    if not float(seconds) >= 0:
        message = f"`timeout` must be at least 0 seconds, not {seconds}: pass None to wait for as long as it takes"
        raise ValueError(message)
    return float(seconds) if seconds < _FOR_EVER else None


def priority(given: object) -> int:
    """The priority of a call.

    Raises:
        TypeError: It is no integer.
        ValueError: It is one that says nothing more than a smaller one would.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        message = f"`priority` must be an integer, not {given!r}"
        raise TypeError(message)
    if abs(given) > _MOST_PRIORITY:
        message = f"`priority` must be from {-_MOST_PRIORITY} to {_MOST_PRIORITY}, not {given}"
        raise ValueError(message)
    return given


def deadline_exceeded(model: str, seconds: float | None) -> DeadlineExceededError:
    """An answer did not come in time."""
    return DeadlineExceededError(f"model `{model}` did not answer within {seconds} s")


def queue_full(model: str, waiting: int) -> QueueFullError:
    """Too many calls wait for a thread."""
    return QueueFullError(f"model `{model}`: {waiting} calls are waiting for a thread already")


def line_full(model: str, waiting: int) -> QueueFullError:
    """Too many rows wait for a batch."""
    return QueueFullError(f"model `{model}`: {waiting} rows are waiting for a batch already")


def closed(model: str) -> ModelClosedError:
    """The model was closed before."""
    return ModelClosedError(f"model `{model}` is closed")


def tensor(model: str, spec: TensorSpec, value: object, casting: str = "no") -> np.ndarray[Any, Any]:
    """The value as an array that fits the input.

    Lists, tuples, ranges and Python's own numbers and strings are converted to the input's dtype if it can hold them,
    everything else must have it, or be cast to it where `casting` allows that. Arrays of other libraries are read where
    they lie.

    Raises:
        InvalidInputError: The value cannot be an array, or has another dtype or shape, or numbers out of range.
        BackendUnavailableError: There are no arrays of this element type.
    """
    if spec.dtype not in NUMPY_DTYPES and spec.dtype not in EXTENDED_DTYPES and spec.dtype != "string":
        refuse("complex_tensors", f"input `{spec.name}` of type {spec.dtype}")
    array = value if isinstance(value, np.ndarray) else _array(model, spec, value)
    array = exchange.cast(spec.dtype, casting, array)
    reason = misfit(f"model `{model}`", spec, array, value)
    if reason is not None:
        raise InvalidInputError(reason)
    return array


def misfit(model: str, spec: TensorSpec, array: np.ndarray[Any, Any], value: object) -> str | None:
    """Why an array is not what an input takes, with the remedy; None where it is.

    Args:
        model: What the text calls the model.
        spec: The input.
        array: The array.
        value: What it was made from.
    """
    if spec.dtype == "string":
        fits = array.dtype.kind in _TEXT_KINDS and array.dtype.names is None
    else:
        # The name leaves the byte order out, which is brought right later.
        fits = array.dtype.name == spec.dtype
    if not fits:
        return f"input `{spec.name}` {dtype_misfit(model, spec, array.dtype.name, value)}"
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        return f"input `{spec.name}` has shape {shape_of(array.shape)}, but {model} expects {shape_of(spec.shape)}"
    return None


def without_shape(spec: TensorSpec) -> TensorSpec:
    """The input with any shape."""
    return replace(spec, shape=None)


def conversion(spec: TensorSpec) -> str:
    """The expression that makes an array for an input."""
    dtype = "object" if spec.dtype == "string" else _expression(spec.dtype)
    return f"`numpy.asarray({spec.name}, {dtype})`"


def dtype_misfit(model: str, spec: TensorSpec, dtype: str, value: object) -> str:
    """What is wrong with a value of this dtype, with the remedy."""
    source = spec.name if hasattr(value, "astype") else f"numpy.asarray({spec.name})"
    return f"has dtype {dtype}, but {model} expects {spec.dtype}: pass `{source}.astype({_expression(spec.dtype)})`"


def unbindable(role: str, name: str, dtype: str, type_string: str, array: object) -> ValueError | None:
    """Why an array cannot be bound, with the remedy; None where it can.

    onnxruntime's Python package, which is asked to bind it, knows none of the dtypes of ml_dtypes.

    Args:
        role: `input` or `output`; an output must be writable as well.
        name: Its name.
        dtype: numpy's name of the dtype that the model declares.
        type_string: onnxruntime's name of the type that the model declares.
        array: What came for it.
    """
    subject = f"{role} `{name}` cannot be bound"
    if dtype not in NUMPY_DTYPES:
        return ValueError(f"{subject}: it is a {type_string}, and only tensors of numbers can; use `run`")
    reason = _unusable(subject, dtype, array)
    if reason is None and role == "output" and isinstance(array, np.ndarray) and not array.flags.writeable:
        reason = f"{role} `{name}` cannot be overwritten: its array is read-only; pass a writable one"
    return None if reason is None else ValueError(reason)


def unwritable(name: str, dtype: str, type_string: str, array: object) -> str | None:
    """Why an output cannot be written into an array, with the remedy; None where it can.

    Args:
        name: The output.
        dtype: numpy's name of the dtype that the model declares.
        type_string: What texts call the type that the model declares.
        array: What came for it.
    """
    subject = f"output `{name}` cannot be written there"
    if dtype not in NUMPY_DTYPES | EXTENDED_DTYPES:
        return f"{subject}: it is a {type_string}, and only tensors of numbers can; leave it out of `out`"
    reason = _unusable(subject, dtype, array)
    if reason is None and isinstance(array, np.ndarray) and not array.flags.writeable:
        reason = f"{subject}: its array is read-only; pass a writable one"
    return reason


def _unusable(subject: str, dtype: str, array: object) -> str | None:
    """Why the memory of an array cannot be used as it lies, with the remedy; None where it can.

    Args:
        subject: How the text begins.
        dtype: numpy's name of the dtype that is wanted.
        array: What came.
    """
    if not isinstance(array, np.ndarray):
        return f"{subject}: it is {type(array)}, not an array"
    if array.dtype.name != dtype:
        return f"{subject}: its dtype is {array.dtype}, but the model expects {dtype}; pass an array of that dtype"
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        return (
            f"{subject}: its array is not in C order, aligned and in native byte order; "
            "pass `numpy.ascontiguousarray(...)` of it in native byte order"
        )
    return None


def _array(model: str, spec: TensorSpec, value: object) -> np.ndarray[Any, Any]:
    is_converted = isinstance(value, _CONVERTED) and not isinstance(value, np.generic)
    is_text = spec.dtype == "string"
    if not is_converted or (isinstance(value, bytes) and not is_text):
        exchanged = exchange.array_of(f"input `{spec.name}`", value, InvalidInputError)
        if exchanged is not None:
            return exchanged.array
    try:
        array = np.asarray(value, dtype=object if is_converted and is_text else None)
        if is_text or not is_converted:
            return array
        held = _held(array, value, _kind(spec.dtype))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"input `{spec.name}` cannot be made an array of {spec.dtype}: {error}"
        raise InvalidInputError(message) from error
    return array if held is None else _cast(model, spec, held)


def _held(array: np.ndarray[Any, Any], value: object, kind: str) -> np.ndarray[Any, Any] | None:
    """The numbers of a value, of which numpy made this array, if their classes lose nothing in that kind."""
    if array.size == 0 or array.dtype.kind in _HELD_KINDS[kind]:
        return array
    # numpy makes floats, or objects, of integers beyond int64.
    if array.dtype.kind in "fO":
        items = np.asarray(value, dtype=object)
        if all(isinstance(item, _HELD_CLASSES[kind]) for item in items.flat):
            return items
    return None


def _kind(dtype: str) -> str:
    if dtype not in EXTENDED_DTYPES:
        return np.dtype(dtype).kind
    # numpy takes most of these for raw memory.
    return "f" if "float" in dtype else dtype[0]


def _cast(model: str, spec: TensorSpec, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    dtype, low, high = _limits(spec.dtype)
    if array.size == 0:
        return np.empty(array.shape, dtype)
    if isinstance(low, int):
        if not low <= int(array.min()) <= int(array.max()) <= high:
            raise _out_of_range(model, spec, f"{low}", f"{high}")
        return array.astype(dtype)
    out_of_range = _out_of_range(model, spec, f"{low:g}", f"{high:g}")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            floats = array.astype(dtype)
            given, taken = array.astype(np.float64), floats.astype(np.float64)
    except OverflowError:
        raise out_of_range from None
    # An infinity, or what is no number, may only be one that was given; a type without them takes neither.
    is_held = (np.isinf(given) == np.isinf(taken)) & (np.isnan(given) == np.isnan(taken))
    if spec.dtype in EXTENDED_DTYPES:
        # Some of these types cut what is too large.
        is_held &= np.isinf(given) | ~(np.abs(given) > high)
    if not is_held.all():
        raise out_of_range
    return floats


def described_dtype(dtype: str) -> tuple[np.dtype[Any], Any]:
    """The dtype of this name, one of NUMPY_DTYPES or EXTENDED_DTYPES, and the package that it is from."""
    package: Any = np
    if dtype in EXTENDED_DTYPES:
        import ml_dtypes as package  # noqa: PLC0415 - few models have such an input

    return np.dtype(getattr(package, dtype)), package


def _limits(dtype: str) -> tuple[np.dtype[Any], int, int] | tuple[np.dtype[Any], float, float]:
    """A type of numbers, and the least and the largest; integers for a type of integers."""
    described, package = described_dtype(dtype)
    kind = _kind(dtype)
    if kind == "b":
        return described, 0, 1
    limits = package.iinfo(described) if kind in "iu" else package.finfo(described)
    number = int if kind in "iu" else float
    return described, number(limits.min), number(limits.max)


def _out_of_range(model: str, spec: TensorSpec, low: str, high: str) -> InvalidInputError:
    return InvalidInputError(
        f"input `{spec.name}` has numbers out of range, but model `{model}` expects {spec.dtype}: "
        f"pass numbers from {low} to {high}"
    )


def _expression(dtype: str) -> str:
    if dtype in EXTENDED_DTYPES:
        return f"ml_dtypes.{dtype}"
    return "str" if dtype == "string" else f"numpy.{_ATTRIBUTES.get(dtype, dtype)}"


def _fits(given: tuple[int, ...], expected: tuple[int | str | None, ...]) -> bool:
    return len(given) == len(expected) and all(
        not isinstance(wanted, int) or wanted == have for have, wanted in zip(given, expected, strict=True)
    )


def shape_of(shape: Iterable[int | str | None]) -> str:
    """A shape as texts show it."""
    # An axis without a name has None, or an empty name.
    return "[" + ", ".join("?" if dim is None or dim == "" else str(dim) for dim in shape) + "]"


def names_of(names: Iterable[str]) -> str:
    """Names as texts show them."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def _names(specs: Sequence[TensorSpec]) -> str:
    return names_of(spec.name for spec in specs)
