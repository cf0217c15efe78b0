"""Sparse tensors, as `onnxruntime.SparseTensor`, on the native core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from inferlite import _core
from inferlite._sparse_checks import check_coo, check_csr

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime

# onnxruntime's numbers of the formats.
_COO, _CSR, _BLOCK = 1, 2, 4


class SparseTensor:
    """A tensor of which only some values are there, each with its place.

    The values and places are copied, so that nobody can move a place out of the tensor later.
    """

    def __init__(self, sparse_tensor: Any) -> None:  # noqa: ANN401 - checked here
        """Wrap a value; the class methods make one.

        Raises:
            ValueError: It is no sparse tensor of inferlite's.
        """
        if not isinstance(sparse_tensor, _core.OrtValue) or not sparse_tensor.is_sparse_tensor():
            message = "`Provided object` needs to be a sparse tensor of `inferlite`"
            raise ValueError(message)
        self._value = sparse_tensor

    @classmethod
    def sparse_coo_from_numpy(
        cls,
        dense_shape: Sequence[int] | np.ndarray[Any, Any],
        values: np.ndarray[Any, Any],
        coo_indices: np.ndarray[Any, Any],
        ort_device: onnxruntime.OrtDevice,
    ) -> Self:
        """A tensor in the format COO.

        Args:
            dense_shape: The extent of every axis.
            values: The values, in one dimension.
            coo_indices: Their places, of int64: an index into the tensor in C order each, or a row of one index for
                every axis.
            ort_device: The CPU.

        Raises:
            TypeError: `values` is no array.
            RuntimeError: `values` has more than one dimension, or the device is another one.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: A place lies outside of the tensor.
        """
        _check(values, ort_device)
        places = np.array(coo_indices, np.int64)
        check_coo(dense_shape, values, places)
        return cls(_core.sparse_coo(_extents(dense_shape), values, places.reshape(-1).tolist()))

    @classmethod
    def sparse_csr_from_numpy(
        cls,
        dense_shape: Sequence[int] | np.ndarray[Any, Any],
        values: np.ndarray[Any, Any],
        inner_indices: np.ndarray[Any, Any],
        outer_indices: np.ndarray[Any, Any],
        ort_device: onnxruntime.OrtDevice,
    ) -> Self:
        """A matrix in the format CSR.

        Args:
            dense_shape: Rows and columns.
            values: The values row by row, in one dimension.
            inner_indices: The column of each value, of int64.
            outer_indices: Where each row begins in `values`, and where the last one ends, of int64.
            ort_device: The CPU.

        Raises:
            TypeError: `values` is no array.
            RuntimeError: `values` has more than one dimension, or the device is another one.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: A place lies outside of the matrix.
        """
        _check(values, ort_device)
        inner, outer = np.array(inner_indices, np.int64), np.array(outer_indices, np.int64)
        check_csr(dense_shape, values, inner, outer)
        places = inner.reshape(-1).tolist(), outer.reshape(-1).tolist()
        return cls(_core.sparse_csr(_extents(dense_shape), values, *places))

    def values(self) -> np.ndarray[Any, Any]:
        """The values, read-only."""
        return _core.sparse_values(self._value)

    def as_coo_view(self) -> CooView:
        """The places of a tensor in the format COO.

        Raises:
            RuntimeError: It has another format.
        """
        return CooView(self._of_format(_COO, "COO"))

    def as_csrc_view(self) -> CsrView:
        """The places of a tensor in the format CSR.

        Raises:
            RuntimeError: It has another format.
        """
        return CsrView(self._of_format(_CSR, "CSR(C)"))

    def as_blocksparse_view(self) -> BlockView:
        """The places of a tensor of blocks.

        Raises:
            RuntimeError: It has another format.
        """
        return BlockView(self._of_format(_BLOCK, "BlockSparse"))

    def _of_format(self, number: int, name: str) -> _core.OrtValue:
        if _core.sparse_format(self._value) != number:
            message = f"This sparse tensor does not contain {name} format"
            raise RuntimeError(message)
        return self._value

    def to_cuda(self, ort_device: onnxruntime.OrtDevice) -> SparseTensor:
        """Refuse: inferlite's values lie in the memory of the CPU.

        Raises:
            RuntimeError: Always.
        """
        del ort_device
        message = "Cuda is not available: inferlite's values lie in the memory of the CPU"
        raise RuntimeError(message)

    def format(self) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        """The format, as a member of `onnxruntime.OrtSparseFormat`."""
        from onnxruntime.capi.onnxruntime_pybind11_state import OrtSparseFormat  # noqa: PLC0415 - slow to import

        return OrtSparseFormat(_core.sparse_format(self._value))

    def dense_shape(self) -> list[int]:
        """The extent of every axis."""
        return self._value.shape()

    def data_type(self) -> str:
        """The type, such as `sparse_tensor(float)`."""
        return self._value.data_type()

    def device_name(self) -> str:
        """Where the tensor lies: `cpu`."""
        return self._value.device_name()


class _View:
    def __init__(self, value: _core.OrtValue) -> None:
        """Look into a value."""
        self._value = value


class CooView(_View):
    """The places of a tensor in the format COO."""

    def indices(self) -> np.ndarray[Any, Any]:
        """The places, read-only."""
        return _core.sparse_indices(self._value, "coo")


class CsrView(_View):
    """The places of a tensor in the format CSR."""

    def inner(self) -> np.ndarray[Any, Any]:
        """The column of each value, read-only."""
        return _core.sparse_indices(self._value, "inner")

    def outer(self) -> np.ndarray[Any, Any]:
        """Where each row begins, and the last one ends, read-only."""
        return _core.sparse_indices(self._value, "outer")


class BlockView(_View):
    """The places of a tensor of blocks."""

    def indices(self) -> np.ndarray[Any, Any]:
        """The places, read-only."""
        return _core.sparse_indices(self._value, "block")


def _extents(dense_shape: Sequence[int] | np.ndarray[Any, Any]) -> list[int]:
    return [int(extent) for extent in dense_shape]


def _check(values: object, device: Any) -> None:  # noqa: ANN401 - onnxruntime is untyped
    if not isinstance(values, np.ndarray):
        message = (
            "sparse_coo_from_numpy(): incompatible function arguments. The following argument types are supported:"
        )
        raise TypeError(message)
    if values.ndim != 1:
        message = f"the values of a sparse tensor have one dimension, not {values.ndim}"
        raise RuntimeError(message)
    if device._get_c_device().device_type() != 0:  # noqa: SLF001 - what onnxruntime asks
        message = "Unsupported OrtDevice type: inferlite's values lie in the memory of the CPU"
        raise RuntimeError(message)
