"""Arrays of other libraries as inputs: Arrow, DLPack, `__array_interface__` and the buffer protocol, in this order.

Whoever calls this has found that a value is neither an array of numpy's nor anything else that onnxruntime reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from inferlite.metadata import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CASTINGS: Final = ("no", "safe", "same_kind")
"""What `casting=` may be."""

_ARROW: Final = ("__arrow_c_array__", "__arrow_c_stream__")

# numpy's kinds of truth values and real numbers, and that of the dtypes of ml_dtypes.
_NUMBERS: Final = "biufV"


class Exchanged(NamedTuple):
    """An array that was read.

    Attributes:
        array: It keeps the memory that it looks at alive.
        is_copy: Whether later writes to what it was read from do not reach it.
    """

    array: NDArray[Any]
    is_copy: bool


def array_of(subject: str, value: object, refusal: Callable[[str], Exception]) -> Exchanged | None:
    """The array in a value of another library; None where it follows no protocol for arrays.

    Memory in order is not copied: only what Arrow keeps packed (truth values, strings), in several chunks, or as the
    columns of a table.

    Args:
        subject: What texts call the value, such as ``input `x` ``.
        value: Anything.
        refusal: Makes the exception from its text.

    Raises:
        Exception: What `refusal` makes: the value follows a protocol, and cannot be read all the same.
    """
    kind = type(value)
    if issubclass(kind, type):
        return None
    try:
        if any(hasattr(kind, method) for method in _ARROW):
            return _from_arrow(value)
        if hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__"):
            return _from_dlpack(value)
        if hasattr(value, "__array_interface__"):
            return _from_interface(value)
        return _from_buffer(value)
    except Exception as error:
        message = f"{subject} cannot be read as an array ({_shown(kind)}): {_text(error)}"
        raise refusal(message) from error


def session_tensor(
    name: str, dtype: str, shape: Sequence[int | str | None] | None, casting: str, value: object
) -> NDArray[Any] | None:
    """The same for a tensor of a session, which must have its dtype and shape.

    Args:
        name: The input.
        dtype: numpy's name of the dtype that it declares, or `string`.
        shape: The axes that it declares, if any: a number, a symbolic name, or None for each.
        casting: As for `cast`.
        value: Anything.

    Raises:
        RuntimeError: It cannot be read, or does not fit; what onnxruntime raises for values that it cannot read.
    """
    exchanged = array_of(f"input `{name}`", value, RuntimeError)
    if exchanged is None:
        return None
    array = cast(dtype, casting, exchanged.array)
    from inferlite import _checks as checks  # noqa: PLC0415 - it reads values with this module

    spec = TensorSpec(name, dtype, tuple(shape) if shape else None)
    reason = checks.misfit("the model", spec, array, value)
    if reason is not None:
        raise RuntimeError(reason)
    return array


def memory_of(role: str, name: str, value: object) -> NDArray[Any] | None:
    """The array over the very memory of a value, for calls that are bound to it; None where it follows no protocol.

    Args:
        role: `input` or `output`.
        name: Its name.
        value: Anything.

    Raises:
        ValueError: It cannot be read, or only through a copy.
    """
    if isinstance(value, np.generic):
        # It has no memory that anybody could write to.
        return None
    exchanged = array_of(f"{role} `{name}`", value, ValueError)
    if exchanged is None:
        return None
    if exchanged.is_copy:
        message = (
            f"{role} `{name}` cannot be bound: {type(value)} can only be read through a copy, which later writes would "
            "not reach; pass an array of numpy's"
        )
        raise ValueError(message)
    return exchanged.array


def cast(dtype: str, casting: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array in the dtype of an input where `casting` allows it, else as it is.

    Args:
        dtype: numpy's name of the dtype that the input declares, or `string`.
        casting: `no`, `safe` or `same_kind`, with numpy's meanings; only between numbers and truth values.
        array: Of any dtype.
    """
    if casting == "no" or array.dtype.name == dtype or array.dtype.kind not in _NUMBERS:
        return array
    from inferlite import _checks as checks  # noqa: PLC0415 - it reads values with this module

    if dtype not in checks.NUMPY_DTYPES | checks.EXTENDED_DTYPES:
        return array
    wanted, _ = checks.described_dtype(dtype)
    return array.astype(wanted) if np.can_cast(array.dtype, wanted, casting) else array  # type: ignore[arg-type]


def read_casting(casting: object) -> str:
    """Check what was given as `casting=`.

    Raises:
        ValueError: It is none of the three.
    """
    if casting not in CASTINGS:
        message = f'`casting` must be "no", "safe" or "same_kind", not {casting!r}'
        raise ValueError(message)
    return str(casting)


def _from_arrow(value: object) -> Exchanged:
    from inferlite import _arrow  # noqa: PLC0415 - ctypes, which most programs need not load

    if type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "columns"):
        # Through Arrow, an index is one column more.
        message = "pass its `to_numpy()`"
        raise _arrow.ArrowError(message)
    return Exchanged(*_arrow.read(value))


def _from_dlpack(value: Any) -> Exchanged:  # noqa: ANN401
    from inferlite import _dlpack  # noqa: PLC0415 - as above

    try:
        return Exchanged(*_dlpack.read(value))
    except _dlpack.UnknownDtypeError:
        extended = _extended(value)
        if extended is not None:
            return extended
        if not hasattr(type(value), "__array__"):
            raise
        # Such as jax gives its bfloat16 in the dtypes of ml_dtypes.
        return Exchanged(np.asarray(value), is_copy=True)


def _extended(value: Any) -> Exchanged | None:  # noqa: ANN401
    """A tensor of a type that numpy has from ml_dtypes, which the native part reads; None where it cannot."""
    from inferlite import _backend  # noqa: PLC0415 - few tensors are of these types

    if _backend.active().name != "native":
        return None
    from inferlite import _core  # noqa: PLC0415 - the native part is there

    try:
        array = _core.OrtValue.from_dlpack(value).numpy()
    except (BufferError, RuntimeError, TypeError):
        return None
    # Elements that share bytes have been given one each.
    return Exchanged(array, is_copy=array.flags.owndata)


def _from_interface(value: Any) -> Exchanged:  # noqa: ANN401
    array = np.asarray(value)
    _refuse_objects(array)
    data = value.__array_interface__.get("data")
    if data is not None and not isinstance(data, tuple):
        # numpy does not hold the shape against the buffer.
        low, high = np.lib.array_utils.byte_bounds(array)
        buffer = np.frombuffer(data, np.uint8)
        if array.size and not buffer.ctypes.data <= low <= high <= buffer.ctypes.data + buffer.nbytes:
            message = "its producer is wrong about it: it reaches beyond its buffer"
            raise ValueError(message)
    return Exchanged(array, is_copy=False)


def _from_buffer(value: Any) -> Exchanged | None:  # noqa: ANN401
    try:
        view = memoryview(value)
    except TypeError:
        return None
    array = np.asarray(view)
    _refuse_objects(array)
    return Exchanged(array, is_copy=False)


def _refuse_objects(array: NDArray[Any]) -> None:
    if array.dtype.hasobject:
        message = "its elements are said to be Python objects: pass an array of numpy's"
        raise TypeError(message)


def _shown(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
