"""`OrtValue`, `IOBinding` and `SparseTensor` of onnxruntime, right where onnxruntime is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as package

from inferlite._element_types import NUMBERS
from inferlite._fallback import extended
from inferlite._fallback.feeds import readable_array
from inferlite.capabilities import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_NUMBERS: Final = (
    "Only binding Tensors is currently supported",
    "Only binding non-string Tensors is currently supported",
)

OrtValueVector = package.OrtValueVector
copy_tensors = onnxruntime.copy_tensors


class OrtValue(onnxruntime.OrtValue):
    """`onnxruntime.OrtValue`; what it takes for a value of another dtype, byte order or layout is refused or copied."""

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: Any,  # noqa: ANN401 - onnxruntime checks it
        /,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> Self:
        """A tensor of an array of numbers; see onnxruntime.

        Raises:
            BackendUnavailableError: The array is of strings, or of a type of ml_dtypes.
        """
        if isinstance(numpy_obj, np.ndarray):
            if numpy_obj.dtype.kind in "OSU":
                refuse("strings_in_values", "`OrtValue.ortvalue_from_numpy` of strings")
            numpy_obj = readable_array(numpy_obj)
        made: Self = super().ortvalue_from_numpy(numpy_obj, device_type, device_id, vendor_id)
        return made

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: object, /, onnx_element_type: int) -> Self:
        """A tensor of an ONNX type over the bytes of an array; one that is not in C order is copied."""
        if isinstance(data, np.ndarray) and not data.flags.c_contiguous:
            data = np.ascontiguousarray(data)
        made: Self = super().ortvalue_from_numpy_with_onnx_type(data, onnx_element_type)
        return made

    @classmethod
    def ortvalue_from_sequence(cls, values: Any, /, element_type: Any = None) -> Self:  # noqa: ANN401
        """Refuse: onnxruntime's package makes no such value.

        Raises:
            BackendUnavailableError: Always.
        """
        del values, element_type
        refuse("strings_in_values", "`OrtValue.ortvalue_from_sequence`")

    def update_inplace(self, data: Any) -> None:  # noqa: ANN401 - onnxruntime checks it
        """Overwrite the elements.

        Raises:
            InvalidArgument: An array has another dtype.
        """
        if isinstance(data, np.ndarray):
            data = readable_array(data)
            given = NUMBERS.get(data.dtype.name)
            if given is not None and self.is_tensor() and given != self.element_type():
                actual = OrtValue.ortvalue_from_shape_and_type([0], given).data_type()
                message = (
                    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Unexpected input data type. "
                    f"Actual: ({actual}) , expected: ({self.data_type()})"
                )
                raise package.InvalidArgument(message)
        super().update_inplace(data)

    def value(self) -> Any:  # noqa: ANN401 - whatever the value is
        """A copy as `run` would give it, of a tensor.

        Raises:
            BackendUnavailableError: It is no tensor, or of a type of ml_dtypes.
        """
        if not self.has_value():
            return None
        if not self.is_tensor():
            refuse("strings_in_values", f"`OrtValue.value` of a {self.data_type()}")
        return self.numpy().copy()

    def elements(self) -> list[OrtValue]:
        """Refuse: onnxruntime's package does not look into sequences.

        Raises:
            BackendUnavailableError: Always.
        """
        refuse("strings_in_values", "`OrtValue.elements`")

    def numpy(self) -> np.ndarray[Any, Any]:
        """A tensor as an array.

        Raises:
            BackendUnavailableError: It is of a type of ml_dtypes.
        """
        try:
            array: np.ndarray[Any, Any] = super().numpy()
        except RuntimeError as error:
            extended.unreadable(error)
            raise
        element = extended.bytes_type(self.data_type())
        return array if element is None else extended.restored([array], ["y"], {"y": element})[0]


def wrapped(values: Sequence[onnxruntime.OrtValue]) -> list[OrtValue]:
    """The same values, of the class above."""
    return [_wrapped(value) for value in values]


def _wrapped(value: onnxruntime.OrtValue) -> OrtValue:
    made = OrtValue(value._get_c_value())  # noqa: SLF001 - what onnxruntime asks for
    # Older releases have no values of one session.
    made._session = getattr(value, "_session", None)  # noqa: SLF001 - as above
    return made


class IOBinding(onnxruntime.IOBinding):
    """`onnxruntime.IOBinding`, which raises where onnxruntime crashes for want of a run."""

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:  # noqa: ANN401 - onnxruntime checks it
        """Bind an input to an array.

        Raises:
            BackendUnavailableError: The array is of a type of ml_dtypes, or the input no tensor of numbers.
        """
        if isinstance(arr_on_cpu, np.ndarray):
            arr_on_cpu = readable_array(arr_on_cpu)
        try:
            super().bind_cpu_input(name, arr_on_cpu)
        except RuntimeError as error:
            if str(error) in _NO_NUMBERS:
                refuse("strings_in_values", f"`IOBinding.bind_cpu_input` of `{name}`")
            raise
        self._bound_names = {*self._bound(), name}

    def bind_input(self, name: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - onnxruntime's own
        """Bind an input to an address."""
        super().bind_input(name, *args, **kwargs)
        self._bound_names = {*self._bound(), name}

    def bind_ortvalue_input(self, name: str, ortvalue: onnxruntime.OrtValue) -> None:
        """Bind an input to a value."""
        super().bind_ortvalue_input(name, ortvalue)
        self._bound_names = {*self._bound(), name}

    def clear_binding_inputs(self) -> None:
        """Bind no input any more."""
        super().clear_binding_inputs()
        self._bound_names = set()

    def _bound(self) -> set[str]:
        return getattr(self, "_bound_names", set())

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run.

        Raises:
            RuntimeError: There was no run yet.
        """
        self._refuse_unrun()
        return wrapped(super().get_outputs())

    def get_outputs_as_ortvaluevector(self) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        """The same as a vector of onnxruntime's.

        Raises:
            RuntimeError: There was no run yet.
        """
        self._refuse_unrun()
        return super().get_outputs_as_ortvaluevector()

    def copy_outputs_to_cpu(self) -> list[Any]:
        """Copies of the outputs of the last run.

        Raises:
            RuntimeError: There was no run yet.
            BackendUnavailableError: An output is of a type of ml_dtypes.
        """
        self._refuse_unrun()
        try:
            copies: list[Any] = super().copy_outputs_to_cpu()
        except RuntimeError as error:
            extended.unreadable(error)
            raise
        return copies

    def bind_output(self, name: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - onnxruntime's own
        """Ask for an output."""
        super().bind_output(name, *args, **kwargs)
        self._unrun = {*self._unrun_names(), name}

    def bind_ortvalue_output(self, name: str, ortvalue: onnxruntime.OrtValue) -> None:
        """Have an output written into a value."""
        super().bind_ortvalue_output(name, ortvalue)
        self._unrun = self._unrun_names() - {name}

    def clear_binding_outputs(self) -> None:
        """Bind no output any more."""
        super().clear_binding_outputs()
        self._unrun = set()

    def _unrun_names(self) -> set[str]:
        return getattr(self, "_unrun", set())

    def _has_run(self) -> None:
        self._unrun = set()

    def _refuse_unbound(self, session: onnxruntime.InferenceSession) -> None:
        """Refuse a run for which an input is missing: a kernel may crash for want of it."""
        for argument in session.get_inputs():
            if argument.name not in self._bound() and not argument.type.startswith("optional"):
                message = f"Error in execution: input `{argument.name}` is not bound: call `bind_input` or the like"
                raise RuntimeError(message)

    def _refuse_unrun(self) -> None:
        for name in self._unrun_names():
            message = f"output `{name}` has no value yet: call `session.run_with_iobinding(binding)` first"
            raise RuntimeError(message)


class SparseTensor(onnxruntime.SparseTensor):
    """`onnxruntime.SparseTensor`, which refuses indices that lie outside the tensor."""

    @classmethod
    def sparse_coo_from_numpy(cls, dense_shape: Any, values: Any, coo_indices: Any, ort_device: Any) -> Self:  # noqa: ANN401
        """A tensor of values at these places.

        Raises:
            InvalidArgument: An index lies outside.
        """
        from inferlite._sparse_checks import check_coo  # noqa: PLC0415 - few tensors are sparse

        check_coo(dense_shape, values, coo_indices)
        made: Self = super().sparse_coo_from_numpy(dense_shape, values, coo_indices, ort_device)
        return made

    @classmethod
    def sparse_csr_from_numpy(
        cls,
        dense_shape: Any,  # noqa: ANN401
        values: Any,  # noqa: ANN401
        inner_indices: Any,  # noqa: ANN401
        outer_indices: Any,  # noqa: ANN401
        ort_device: Any,  # noqa: ANN401
    ) -> Self:
        """A matrix of values in these columns, row by row.

        Raises:
            InvalidArgument: An index lies outside.
        """
        from inferlite._sparse_checks import check_csr  # noqa: PLC0415 - few tensors are sparse

        check_csr(dense_shape, values, inner_indices, outer_indices)
        made: Self = super().sparse_csr_from_numpy(dense_shape, values, inner_indices, outer_indices, ort_device)
        return made
