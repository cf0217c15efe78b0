"""The runs of a native session over values that stay with the runtime."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from inferlite.twin import Twinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime

    from inferlite.io_binding import IOBinding
    from inferlite.values import OrtValue


class ValueRuns(Twinned):
    """What `InferenceSession` does with `OrtValue` and `IOBinding`: such runs pass the cache by."""

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[OrtValue]:
        """Run values as they are, and give values: nothing is copied.

        Args:
            output_names: The outputs to compute, in this order; None or empty for all.
            input_dict_ort_values: A value for every input, by name.
            run_options: Options of this run.

        Returns:
            One value for each output; one that is an input of the model is that input's value, in the same memory.

        Raises:
            ValueError: An input is missing, or a value belongs to another session.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: A value does not fit; and the other classes of
                onnxruntime, as in `run`.
        """
        from inferlite.io_binding import refuse_other_session  # noqa: PLC0415 - most sessions need none of it
        from inferlite.values import OrtValue, native  # noqa: PLC0415

        names = list(input_dict_ort_values.keys())
        self._refuse_missing(names)
        if not all(isinstance(name, str) for name in names):
            message = f"the names of inputs must be strings: {names}"
            raise RuntimeError(message)
        values = list(input_dict_ort_values.values())
        for value in values:
            refuse_other_session(getattr(value, "_session", None), self, "used with")
        natives = [native(value) for value in values]
        made = self._run_values(names, natives, self._wanted(output_names, "run_with_ort_values"), [], run_options)
        return [OrtValue(value) for value in made]

    def run_with_iobinding(
        self,
        iobinding: Any,  # noqa: ANN401 - ours, or one of onnxruntime's, which is checked
        run_options: onnxruntime.RunOptions | None = None,
    ) -> None:
        """Run what is bound; `iobinding` has the outputs.

        Raises:
            ValueError: The binding belongs to another session.
            RuntimeError: Something is not bound, does not fit, or fails.
        """
        if getattr(iobinding, "_session", None) is not self:
            self._run_foreign(iobinding, run_options)
            return
        iobinding._iobinding.run(self, run_options)  # noqa: SLF001 - of this package

    def _run_foreign(self, iobinding: Any, run_options: onnxruntime.RunOptions | None) -> None:  # noqa: ANN401 - as above
        """Run a binding of onnxruntime's own that was made of `_sess`."""
        from inferlite.io_binding import IOBinding  # noqa: PLC0415 - most sessions need none

        twin = self._twin
        is_foreign = not isinstance(iobinding, IOBinding) and hasattr(iobinding, "_iobinding")
        # Older releases do not note the session.
        if twin is not None and is_foreign and getattr(iobinding, "_session", twin._sess) is twin._sess:  # noqa: SLF001
            twin.run_with_iobinding(iobinding, run_options)
            return
        # An AttributeError for what is no binding.
        iobinding._session  # noqa: B018, SLF001 - what onnxruntime looks at
        message = "IOBinding must be used with the session that created it."
        raise ValueError(message)

    def run_with_ortvaluevector(
        self,
        run_options: onnxruntime.RunOptions | None,
        feed_names: Sequence[str],
        feeds: Sequence[Any],
        fetch_names: Sequence[str],
        fetches: Any,  # noqa: ANN401 - a list of ours, or a vector of onnxruntime's
        fetch_devices: Sequence[Any],
    ) -> None:
        """Run values in order of their names, and add the outputs to `fetches`.

        Args:
            run_options: Options of this run.
            feed_names: The inputs.
            feeds: Their values.
            fetch_names: The outputs.
            fetches: Where the values of the outputs go; those that are there already are overwritten.
            fetch_devices: The devices of the outputs: the CPU.

        Raises:
            TypeError: There are no options, or something is not what it should be.
            ValueError: An input is missing.
            RuntimeError: A device is not the CPU.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: A value does not fit; and the other classes of
                onnxruntime, as in `run`.
        """
        from inferlite.values import incompatible, native  # noqa: PLC0415 - most sessions need none of it

        if run_options is None:
            raise incompatible("run_with_ortvaluevector")
        if any(device.device_type() != 0 for device in fetch_devices):
            message = "inferlite's values lie in the memory of the CPU"
            raise RuntimeError(message)
        self._refuse_missing(feed_names)
        natives = [native(value) for value in feeds]
        given = [native(value) for value in fetches]
        wanted = self._wanted(fetch_names, "run_with_ortvaluevector")
        made = self._run_values(list(feed_names), natives, wanted, list(given), run_options)
        is_ours = isinstance(fetches, list)
        for position, value in enumerate(made):
            if position < len(given):
                # What could not be written in place is new.
                if is_ours:
                    fetches[position] = value
            elif is_ours:
                fetches.append(value)
            else:
                fetches.push_back(value.dlpack())

    def io_binding(self) -> IOBinding:
        """A new binding: inputs and outputs are bound to values one by one, and stay so from run to run."""
        from inferlite.io_binding import IOBinding  # noqa: PLC0415 - most sessions need none

        return IOBinding(self)

    def create_ortvalue_from_shape_and_type(
        self,
        shape: Sequence[int],
        element_type: Any,  # noqa: ANN401 - a number, or what numpy takes for a dtype
        device_type: str,
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> OrtValue:
        """A tensor of zeros that belongs to this session, and can be used with it alone.

        Raises:
            RuntimeError: There is no such type or shape, or the device is another one.
        """
        from inferlite._element_types import STRING, number_of  # noqa: PLC0415 - most sessions need none of it
        from inferlite.values import OrtValue, made, require_cpu  # noqa: PLC0415

        del vendor_id
        require_cpu(device_type)
        if device_id != 0:
            message = f"No session allocator found for the device `cpu` {device_id}"
            raise RuntimeError(message)
        if number_of(element_type) == STRING:
            message = "Creation of OrtValues is currently only supported for numeric tensor types"
            raise RuntimeError(message)
        return OrtValue(made(shape, element_type), session=self)  # type: ignore[arg-type] # as above

    @cached_property
    def _required(self) -> list[str]:
        return [name for name, kind, _ in self._inputs() if not kind.startswith("optional")]

    @cached_property
    def _all_outputs(self) -> list[str]:
        return [name for name, _, _ in self._outputs()]

    def _refuse_missing(self, given: Sequence[str]) -> None:
        missing = [name for name in self._required if name not in given]
        if missing:
            message = f"Required inputs ({missing}) are missing from input feed ({list(given)})."
            raise ValueError(message)

    def _wanted(self, names: Any, function: str) -> list[str]:  # noqa: ANN401 - not checked yet
        if not names:
            return self._all_outputs
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            from inferlite.values import incompatible  # noqa: PLC0415 - most sessions need none of it

            raise incompatible(function)
        return list(names)
