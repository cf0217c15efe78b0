"""Inputs and outputs that stay bound to a session, as `onnxruntime.IOBinding`, on the native core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferlite import _core
from inferlite._element_types import STRING, number_of
from inferlite.values import OrtValue, OrtValueVector, native, require_cpu, require_device

if TYPE_CHECKING:
    from collections.abc import Sequence


class IOBinding:
    """Values bound to the inputs and outputs of a session, for `session.run_with_iobinding(binding)`.

    An output that the first run makes keeps its memory: later runs overwrite it, and need an output of the same shape
    until it is bound anew. Strings and sequences are new with every run. One thread at a time may use a binding.

    Example:
        >>> binding = session.io_binding()  # doctest: +SKIP
        >>> binding.bind_cpu_input("x", x)  # doctest: +SKIP
        >>> binding.bind_output("y")  # doctest: +SKIP
        >>> session.run_with_iobinding(binding)  # doctest: +SKIP
        >>> (y,) = binding.copy_outputs_to_cpu()  # doctest: +SKIP
    """

    def __new__(cls, session: Any) -> Any:  # noqa: ANN401 - checked below
        """Make a binding of the kind that the session takes: one that the onnxruntime package runs has its own."""
        return session.io_binding() if getattr(session, "_is_handed_over", False) else super().__new__(cls)

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - checked here
        """Bind nothing yet.

        Raises:
            TypeError: The session is not one of inferlite's native back end.
        """
        if not isinstance(session, _core.Session):
            message = f"an IOBinding needs a session of `inferlite.InferenceSession`, not {type(session)}"
            raise TypeError(message)
        self._session = session
        self._iobinding = session._io_binding()  # noqa: SLF001 - of this package

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:  # noqa: ANN401 - whatever `run` takes
        """Bind an input to an array, whose memory runs read if it is in C order, or to anything else that `run` takes.

        Raises:
            RuntimeError: There is no such input, or it cannot take the value.
        """
        self._iobinding.bind_cpu_input(name, arr_on_cpu)

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,  # noqa: ANN401 - a number, or what numpy takes for a dtype
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Bind an input to memory at an address, which must stay valid while it is bound.

        Args:
            name: The input.
            device_type: `cpu`.
            device_id: Ignored.
            element_type: A dtype, or ONNX's number of the type.
            shape: The extent of every axis.
            buffer_ptr: The address.

        Raises:
            RuntimeError: There is no such input, type, shape or device.
        """
        del device_id
        require_cpu(device_type)
        self._iobinding.bind_value_input(name, _at_address(buffer_ptr, shape, element_type))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Bind an input to a value.

        Raises:
            RuntimeError: There is no such input.
            ValueError: The value belongs to another session.
        """
        refuse_other_session(ortvalue._session, self._session, "bound to")  # noqa: SLF001 - what onnxruntime looks at
        self._iobinding.bind_value_input(name, native(ortvalue))

    def synchronize_inputs(self) -> None:
        """Do nothing: inputs in the memory of the CPU are there at once."""

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,  # noqa: ANN401 - a number, or what numpy takes for a dtype
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Ask for an output, which the next run makes, or have it written to an address that stays valid.

        Args:
            name: The output; whether there is one is seen at the run.
            device_type: `cpu`. Another device that onnxruntime knows is taken where the run makes the output, which
                then lies in the memory of the CPU, as in onnxruntime without that device.
            device_id: Ignored.
            element_type: A dtype, or ONNX's number of the type, of what lies at the address.
            shape: Its shape.
            buffer_ptr: The address, if it is not the run that makes the output.

        Raises:
            ValueError: There is an address, but no type or no shape.
            RuntimeError: There is no such type or shape, or the address is another device's.
            Exception: There is no such device, as in onnxruntime.
        """
        del device_id
        if buffer_ptr is None:
            require_device(device_type)
            self._iobinding.bind_output(name)
            return
        require_cpu(device_type)
        if element_type is None or shape is None:
            message = "`element_type` and `shape` are to be provided if pre-allocated memory is provided"
            raise ValueError(message)
        self._iobinding.bind_output(name, _at_address(buffer_ptr, shape, element_type))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Have an output written into a tensor of numbers.

        Raises:
            BufferError: The tensor is read-only.
            RuntimeError: It is no tensor of numbers.
            ValueError: The value belongs to another session.
        """
        refuse_other_session(ortvalue._session, self._session, "bound to")  # noqa: SLF001 - what onnxruntime looks at
        self._iobinding.bind_output(name, native(ortvalue))

    def synchronize_outputs(self) -> None:
        """Do nothing: outputs in the memory of the CPU are there at once."""

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order in which they were bound; the next run overwrites them.

        Raises:
            RuntimeError: There was no run yet.
        """
        return [OrtValue(value) for value in self._iobinding.outputs()]

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        """The same as a list of what `run_with_ortvaluevector` takes."""
        return OrtValueVector(self._iobinding.outputs())

    def copy_outputs_to_cpu(self) -> list[Any]:
        """Copies of the outputs of the last run, as `run` gives them.

        Raises:
            RuntimeError: There was no run yet.
        """
        return self._iobinding.copies()

    def clear_binding_inputs(self) -> None:
        """Bind no input any more."""
        self._iobinding.clear_inputs()

    def clear_binding_outputs(self) -> None:
        """Bind no output any more."""
        self._iobinding.clear_outputs()


def _at_address(address: int, shape: Sequence[int], element_type: Any) -> _core.OrtValue:  # noqa: ANN401
    number = number_of(element_type)
    if number == STRING:
        message = "Only binding non-string Tensors is currently supported"
        raise RuntimeError(message)
    return _core.OrtValue.at_address(address, list(shape), number, None)


def refuse_other_session(owner: object, session: object, action: str) -> None:
    """Refuse a value that was made by another session.

    Raises:
        ValueError: It was.
    """
    if owner is not None and owner is not session:
        message = f"Session-scoped OrtValue must be {action} the session that created it."
        raise ValueError(message)
