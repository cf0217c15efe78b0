"""Arrays through DLPack, which numpy reads once the header has been looked at.

numpy trusts the header; a null pointer in it crashes the interpreter. The structures are those of DLPack 0.8 and 1:
https://dmlc.github.io/dlpack/latest/c_api.html.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU: Final = 1

# Memory that the CPU can read: its own, and what CUDA and ROCm have pinned or manage for it.
_READABLE: Final = (CPU, 3, 11, 13)

_DEVICES: Final = {2: "a CUDA device", 4: "an OpenCL device", 7: "Vulkan", 8: "Metal", 10: "a ROCm device"}

_MOST_AXES: Final = 64

_COPIED: Final = 2

_MOST_BYTES: Final = 2**63 - 1

# From there on numpy reads capsules with a version, and whether they are read-only.
_HAS_VERSIONS: Final = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    )


_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.argtypes = [ctypes.py_object, c_char_p]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = c_void_p
_pointer_of.argtypes = [ctypes.py_object, c_char_p]


class DLPackError(ValueError):
    """What came through DLPack is no tensor that can be read; the text says what to do."""


class UnknownDtypeError(DLPackError):
    """numpy has no such dtype."""


class _Given:
    """What numpy asks for the capsule that was looked at."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_options: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0


def read(value: Any) -> tuple[NDArray[Any], bool]:  # noqa: ANN401 - whatever has the two methods
    """The array over a producer's memory, and whether the producer says that it is a copy.

    Raises:
        DLPackError: It is on another device, or its header is wrong.
        Exception: Whatever the object's methods raise.
    """
    device = int(value.__dlpack_device__()[0])
    if device not in _READABLE:
        _refuse_device(device)
    capsule = _capsule(value)
    is_copy = _check(capsule)
    try:
        given: Any = _Given(capsule)
        return np.from_dlpack(given), is_copy
    except RuntimeError as error:
        if "dtype" in str(error):
            raise UnknownDtypeError(str(error)) from error
        raise


def _capsule(value: Any) -> object:  # noqa: ANN401
    if _HAS_VERSIONS:
        try:
            return value.__dlpack__(max_version=(1, 0))
        except TypeError:
            # It is older than versions.
            pass
    return value.__dlpack__()


def _check(capsule: object) -> bool:
    """Refuse a header that cannot be right; whether the producer has copied.

    Raises:
        DLPackError: It is on another device, or describes no memory that there can be.
    """
    is_copy = False
    if _is_capsule(capsule, b"dltensor_versioned"):
        if not _HAS_VERSIONS:
            _refuse("its capsule has a version, which numpy reads from 2.1 on: install that")
        whole = _Versioned.from_address(_pointer_of(capsule, b"dltensor_versioned"))
        if whole.major != 1:
            _refuse(f"it is of version {whole.major} of DLPack, and 1 can be read")
        tensor, is_copy = whole.tensor, bool(whole.flags & _COPIED)
    elif _is_capsule(capsule, b"dltensor"):
        tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    else:
        _refuse("what it gives is no capsule of DLPack, or one that was used before: export it anew")
    if tensor.device_type not in _READABLE:
        _refuse_device(tensor.device_type)
    if tensor.lanes != 1:
        message = "its elements are vectors"
        raise UnknownDtypeError(message)
    shape = _shape(tensor)
    if 0 not in shape:
        _check_memory(tensor, shape)
    return is_copy


def _shape(tensor: _Tensor) -> list[int]:
    rank = tensor.ndim
    if not 0 <= rank <= _MOST_AXES or (rank and not tensor.shape):
        _refuse_lie(f"{rank} axes")
    shape: list[int] = tensor.shape[:rank]
    if any(extent < 0 for extent in shape):
        _refuse_lie(f"shape {shape}")
    return shape


def _check_memory(tensor: _Tensor, shape: list[int]) -> None:
    if not tensor.data:
        _refuse_lie("no memory")
    width = (tensor.bits + 7) // 8
    if math.prod(shape) * width > _MOST_BYTES:
        _refuse_lie(f"shape {shape}")
    if tensor.strides:
        strides = tensor.strides[: len(shape)]
        reach = 1 + sum(abs(stride) * (extent - 1) for stride, extent in zip(strides, shape, strict=True))
        if reach * width > _MOST_BYTES:
            _refuse_lie(f"strides {strides}")


def _refuse(text: str) -> NoReturn:
    raise DLPackError(text)


def _refuse_device(device: int) -> NoReturn:
    where = _DEVICES.get(device, f"device {device} of DLPack")
    _refuse(f"it lies on {where}: copy it to the CPU first, such as by `.cpu()` or `jax.device_get(...)`")


def _refuse_lie(what: str) -> NoReturn:
    _refuse(f"its producer is wrong about it: it has {what}")
