"""Values that live between runs, as `onnxruntime.OrtValue`, on the native core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, SupportsIndex

import numpy as np

from inferlite import _core
from inferlite._element_types import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import onnxruntime

    from inferlite.session import InferenceSession
    from inferlite.sparse import SparseTensor

_ONNXRUNTIME: Final = "onnxruntime.capi.onnxruntime_pybind11_state"

_OTHER_DEVICES: Final = frozenset({"cann", "cuda", "dml", "gpu", "npu", "webgpu"})

CPU_DEVICE: Final = (1, 0)
"""The memory of the processor, as DLPack names devices."""


def require_cpu(device_type: str) -> None:
    """Refuse to place something on a device other than the CPU.

    Raises:
        RuntimeError: The device is one of onnxruntime's.
        Exception: There is no such device, as in onnxruntime.
    """
    require_device(device_type)
    if device_type != "cpu":
        message = (
            f"Can't allocate memory on the device `{device_type}`: inferlite's values lie in the memory of the CPU; "
            "use onnxruntime's own classes for other devices"
        )
        raise RuntimeError(message)


def require_device(device_type: str) -> None:
    """Refuse what is no name of a device.

    Raises:
        Exception: There is no such device, as in onnxruntime.
    """
    if device_type != "cpu" and device_type not in _OTHER_DEVICES:
        message = "Unsupported device type: " + device_type
        raise Exception(message)  # noqa: TRY002 - the class that onnxruntime raises


def incompatible(function: str) -> TypeError:
    """What onnxruntime says of arguments that a function does not take; callers look at this first line alone."""
    return TypeError(f"{function}(): incompatible function arguments. The following argument types are supported:")


def native(value: Any) -> _core.OrtValue:  # noqa: ANN401 - ours, or one of onnxruntime's
    """What a value is to the native core.

    A tensor of onnxruntime's own copy of the runtime stays where it is, and is kept alive; its strings are copied.

    Raises:
        AttributeError: It is no OrtValue.
        RuntimeError: It is one of onnxruntime's that cannot be handed over.
    """
    if isinstance(value, OrtValue):
        return value._value  # noqa: SLF001 - of this module
    if isinstance(value, _core.OrtValue):
        return value
    foreign = value if is_foreign(value) else value._get_c_value()  # noqa: SLF001 - what onnxruntime asks for
    return foreign if isinstance(foreign, _core.OrtValue) else _adopted(foreign)


def is_foreign(value: object) -> bool:
    """Whether a value belongs to the copy of the runtime in onnxruntime's package, as that package holds it."""
    return type(value).__name__ == "OrtValue" and type(value).__module__ == _ONNXRUNTIME


def _adopted(foreign: Any) -> _core.OrtValue:  # noqa: ANN401 - onnxruntime is untyped
    if not foreign.is_tensor() or not foreign.has_value():
        message = (
            "an OrtValue of onnxruntime's package that is no tensor cannot be handed to inferlite, which runs another "
            "copy of the runtime: make it by `inferlite.OrtValue`"
        )
        raise RuntimeError(message)
    if foreign.device_name().lower() != "cpu":
        message = f"an OrtValue on the device `{foreign.device_name().lower()}` cannot be handed to inferlite"
        raise RuntimeError(message)
    if foreign.element_type() == number_of(str):
        return _core.OrtValue.of(foreign.numpy())
    return _core.OrtValue.at_address(foreign.data_ptr(), foreign.shape(), foreign.element_type(), foreign)


class OrtValue:
    """A tensor, sequence, map or optional that stays with the runtime between runs.

    Made of an array in C order it shares the array's memory, which runs read and, bound as an output, overwrite. It
    also lends its memory to others: as an array, or by DLPack.

    Example:
        >>> import numpy as np, inferlite
        >>> value = inferlite.OrtValue.ortvalue_from_numpy(np.ones(3, np.float32))
        >>> value.data_type(), value.shape()
        ('tensor(float)', [3])
    """

    _is_webgpu_buffer = False

    def __init__(
        self,
        ortvalue: Any,  # noqa: ANN401 - ours, or onnxruntime's own
        numpy_obj: np.ndarray[Any, Any] | None = None,
        session: InferenceSession | None = None,
    ) -> None:
        """Wrap a value; the class methods make one.

        Raises:
            ValueError: `ortvalue` is none.
        """
        if not isinstance(ortvalue, _core.OrtValue):
            if not is_foreign(ortvalue):
                message = f"`Provided ortvalue` needs to be of type `{_ONNXRUNTIME}.OrtValue`"
                raise ValueError(message)
            ortvalue = native(ortvalue)
        self._value: _core.OrtValue = ortvalue
        self._numpy_obj = numpy_obj
        self._session = session

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: object,
        /,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> Self:
        """A tensor of an array: of numbers, of the types of ml_dtypes, or of strings.

        Args:
            numpy_obj: The array. Its memory is shared if it is in C order, aligned and in native byte order, and its
                elements have bytes of their own; a write to it shows in the value.
            device_type: `cpu`.
            device_id: Ignored.
            vendor_id: Ignored.

        Raises:
            RuntimeError: It is no array, of a type that ONNX does not have, or the device is another one.
        """
        require_cpu(device_type)
        del device_id, vendor_id
        if not isinstance(numpy_obj, np.ndarray):
            message = "Creation of OrtValues is currently only supported from non-string numpy arrays"
            raise RuntimeError(message)  # noqa: TRY004 - the class that onnxruntime raises
        return cls(_core.OrtValue.of(numpy_obj), numpy_obj)

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: object, /, onnx_element_type: SupportsIndex) -> Self:
        """A tensor of an ONNX type over the bytes of an array, whose items have the same size.

        Elements of 4 and 2 bits share the first bytes of the array, unless the array's type is the very one of
        ml_dtypes. What is not in C order is copied.

        Raises:
            TypeError: `data` is no array.
            RuntimeError: There is no such type, or its size is another one.
        """
        if not isinstance(data, np.ndarray) or not hasattr(onnx_element_type, "__index__"):
            raise incompatible("ortvalue_from_numpy_with_onnx_type")
        return cls(
            _core.OrtValue.of_type(np.ascontiguousarray(data).reshape(data.shape), onnx_element_type.__index__()), data
        )

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any,  # noqa: ANN401 - a number, or what numpy takes for a dtype
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: onnxruntime.OrtMemoryInfo | None = None,
    ) -> Self:
        """A tensor of zeros, or of empty strings.

        Args:
            shape: The extent of every axis.
            element_type: A dtype, or ONNX's number of the type.
            device_type: `cpu`.
            device_id: Ignored.
            vendor_id: Ignored.
            memory_info: None: other memory belongs to onnxruntime's own classes.

        Raises:
            TypeError: `shape` is no sequence of integers.
            RuntimeError: There is no such type, shape or device.
        """
        del device_id, vendor_id
        if memory_info is not None:
            message = "`memory_info` is not available: inferlite's values lie in the memory of the CPU"
            raise RuntimeError(message)
        require_cpu(device_type)
        return cls(made(shape, element_type))

    @classmethod
    def ortvalue_from_sequence(cls, values: Iterable[Any], /, element_type: Any = None) -> Self:  # noqa: ANN401
        """A sequence of tensors; onnxruntime has no such method.

        Args:
            values: The arrays, all of one type.
            element_type: That type, a dtype or ONNX's number; it may be left out where there is an array.

        Raises:
            RuntimeError: Something is no array, or of another type.
        """
        arrays = list(values)
        if element_type is None and arrays and isinstance(arrays[0], np.ndarray):
            element_type = arrays[0].dtype
        if element_type is None:
            message = "a sequence of nothing needs `element_type`"
            raise RuntimeError(message)
        return cls(_core.OrtValue.of(arrays, number_of(element_type)))

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor: SparseTensor) -> Self:
        """The value of a sparse tensor, which stays usable."""
        return cls(sparse_tensor._value)  # noqa: SLF001 - of this package

    @classmethod
    def from_dlpack(cls, data: Any, /) -> Self:  # noqa: ANN401 - any library's tensor
        """A tensor over the memory that an object lends by `__dlpack__`, of DLPack 0 or 1, or of a DLPack capsule.

        Raises:
            TypeError: There is no capsule, or it has been used.
            RuntimeError: The tensor is not in C order, on another device, or of a type that ONNX does not have.
            BufferError: What the capsule says makes no sense.
        """
        return cls(_core.OrtValue.from_dlpack(data))

    def as_sparse_tensor(self) -> SparseTensor:
        """The sparse tensor in this value.

        Raises:
            RuntimeError: There is none.
        """
        from inferlite.sparse import SparseTensor  # noqa: PLC0415 - few values are sparse

        if not self._value.is_sparse_tensor():
            message = "This OrtValue does not contain SparseTensor. Check data_type() value."
            raise RuntimeError(message)
        return SparseTensor(self._value)

    def data_ptr(self) -> int:
        """The address of the first element of a tensor."""
        return self._value.data_ptr()

    def device_name(self) -> str:
        """Where a tensor lies: `cpu`."""
        return self._value.device_name()

    def shape(self) -> list[int]:
        """The extent of every axis of a tensor."""
        return self._value.shape()

    def data_type(self) -> str:
        """The type, such as `tensor(float)`."""
        return self._value.data_type()

    def element_type(self) -> int:
        """ONNX's number of the type of a tensor's elements."""
        return self._value.element_type()

    def tensor_size_in_bytes(self) -> int:
        """The bytes of a tensor."""
        return self._value.tensor_size_in_bytes()

    def has_value(self) -> bool:
        """Whether there is something, which an optional may be without."""
        return self._value.has_value()

    def is_tensor(self) -> bool:
        """Whether this is a tensor."""
        return self._value.is_tensor()

    def is_sparse_tensor(self) -> bool:
        """Whether this is a sparse tensor."""
        return self._value.is_sparse_tensor()

    def is_tensor_sequence(self) -> bool:
        """Whether this is a sequence of tensors."""
        return self._value.is_tensor_sequence()

    def numpy(self) -> np.ndarray[Any, Any]:
        """A tensor as an array over its memory; strings, and elements of 4 and 2 bits, are copied.

        Raises:
            RuntimeError: This is no tensor.
        """
        return self._value.numpy()

    def value(self) -> Any:  # noqa: ANN401 - whatever the value is
        """A copy as `run` would give it: an array, a list, a dict or None; onnxruntime has no such method."""
        return self._value.value()

    def elements(self) -> list[OrtValue]:
        """The values in a sequence; onnxruntime has no such method."""
        return [OrtValue(element) for element in self._value.elements()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:  # noqa: ANN401, FBT001
        """A tensor as an array, for `numpy.asarray`."""
        array = self.numpy()
        if copy is not None:
            return np.array(array, dtype=dtype, copy=copy)
        return array if dtype is None else np.asarray(array, dtype=dtype)

    def __dlpack__(
        self,
        *,
        stream: Any = None,  # noqa: ANN401 - the consumer's
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:  # noqa: ANN401 - a capsule has no name in Python
        """A capsule that lends the tensor's memory and keeps it alive.

        Args:
            stream: Ignored: there is none on the CPU.
            max_version: The newest version of DLPack that the consumer knows; without it the capsule is of version 0.
            dl_device: The device to lend on; the CPU.
            copy: True for a copy of its own.

        Raises:
            RuntimeError: This is no tensor of numbers.
            BufferError: Another device, or a read-only tensor for a consumer of version 0.
        """
        del stream
        if dl_device is not None and tuple(dl_device) != CPU_DEVICE:
            message = f"the tensor lies on the device {CPU_DEVICE}, not {tuple(dl_device)}"
            raise BufferError(message)
        return self._value.dlpack(max_version=max_version, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The device of the tensor, as DLPack names it: `(1, 0)`, the CPU."""
        return self._value.dlpack_device()

    def update_inplace(self, data: Any) -> None:  # noqa: ANN401 - an array or a value, which is checked
        """Overwrite the elements of a tensor, which stays where it is.

        Raises:
            TypeError: `data` is neither an array nor a value.
            RuntimeError: It has more or fewer elements, or this is no tensor of numbers.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: It has another dtype, or the memory is
                read-only.
        """
        if isinstance(data, np.ndarray):
            self._value.update_inplace(data)
        elif isinstance(data, OrtValue) or hasattr(data, "_get_c_value"):
            self._value.update_inplace(native(data))
        else:
            message = "data must be a numpy.ndarray or an OrtValue."
            raise TypeError(message)

    def _get_c_value(self) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        """The value for onnxruntime's own sessions: over the same memory, which it keeps alive.

        Raises:
            RuntimeError: It is no tensor of numbers, which the two copies of the runtime cannot share.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as package  # noqa: PLC0415 - slow to import

        return package.OrtValue.from_dlpack(self._value.dlpack())

    @property
    def _ortvalue(self) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        return self._get_c_value()


def made(shape: Sequence[int], element_type: Any) -> _core.OrtValue:  # noqa: ANN401 - a number, or what numpy takes
    """A tensor of zeros, or of empty strings.

    Raises:
        TypeError: `shape` is no sequence of integers.
        RuntimeError: There is no such type or shape.
        MemoryError: There is not so much memory.
    """
    number = number_of(element_type)
    try:
        extents = [extent.__index__() for extent in shape]
    except (AttributeError, TypeError):
        raise incompatible("ortvalue_from_shape_and_type") from None
    return _core.OrtValue.zeros(extents, number)


def copy_tensors(src: Sequence[Any], dst: Sequence[Any], stream: object = None) -> None:
    """Overwrite tensors with others.

    Args:
        src: The values to read.
        dst: As many values, each of the dtype and number of elements of its source.
        stream: None: there is none on the CPU.

    Raises:
        RuntimeError: There are more of one than of the other, or two do not fit; none is overwritten before.
    """
    del stream
    if len(src) != len(dst):
        message = f"{len(src)} tensors cannot overwrite {len(dst)}"
        raise RuntimeError(message)
    for source, target in [(native(source), native(target)) for source, target in zip(src, dst, strict=True)]:
        target.update_inplace(source)


class OrtValueVector(list[_core.OrtValue]):
    """A list of values as runs take and give them, for `run_with_ortvaluevector`."""

    def push_back(self, value: Any) -> None:  # noqa: ANN401 - a value, or a DLPack capsule
        """Add a value, or the tensor of a DLPack capsule."""
        is_value = isinstance(value, (OrtValue, _core.OrtValue)) or is_foreign(value)
        self.append(native(value) if is_value else _core.OrtValue.from_dlpack(value))

    def push_back_batch(
        self,
        tensors: Sequence[Any],
        data_ptrs: Sequence[int],
        element_types: Sequence[Any],
        shapes: Sequence[Sequence[int]],
        devices: Sequence[Any],
    ) -> None:
        """Add tensors at these addresses, which `tensors` keep valid.

        Raises:
            RuntimeError: A device is not the CPU.
        """
        parts = zip(tensors, data_ptrs, element_types, shapes, devices, strict=True)
        for tensor, address, element_type, shape, device in parts:
            if device.device_type() != 0:
                message = "inferlite's values lie in the memory of the CPU"
                raise RuntimeError(message)
            self.append(_core.OrtValue.at_address(address, list(shape), number_of(element_type), tensor))

    def reserve(self, count: int) -> None:
        """Do nothing: the list grows by itself."""

    def shrink_to_fit(self) -> None:
        """Do nothing: the list shrinks by itself."""

    def element_type_at(self, index: int) -> int:
        """ONNX's number of the element type of a value."""
        return self[index].element_type()

    def dlpack_at(self, index: int) -> Any:  # noqa: ANN401 - a capsule has no name in Python
        """A capsule that lends the memory of a value."""
        return self[index].dlpack()

    def to_dlpacks(self, to_tensor: Callable[[Any], Any] | None) -> list[Any]:
        """Capsules that lend the memory of all values, or what `to_tensor` makes of them."""
        capsules = [value.dlpack() for value in self]
        return capsules if to_tensor is None else [to_tensor(capsule) for capsule in capsules]
