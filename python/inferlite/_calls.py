"""Reading the call of a model: what goes to which input, and which outputs are wanted.

Both back ends read calls with this; the native one only those that are not plain arrays that fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inferlite import _checks as checks
from inferlite.capabilities import refuse
from inferlite.metadata import Signature, element_type, tensor_spec, unwrapped

if TYPE_CHECKING:
    Description = tuple[str, str, list[int | str | None]]


class Reader:
    """Reads the calls of one model."""

    def __init__(
        self,
        name: str,
        inputs: Sequence[Description],
        outputs: Sequence[Description],
        overridable: Sequence[Description],
        casting: str = "no",
        *,
        takes_extended: bool = True,
    ) -> None:
        """Remember what the model takes and gives.

        Args:
            name: What messages call the model.
            inputs: Name, onnxruntime's type string and axes of every input.
            outputs: The same of every output.
            overridable: The same of every initializer that a call may override.
            casting: Which arrays of another dtype are cast: `no`, `safe` or `same_kind`, with numpy's meanings.
            takes_extended: Whether the back end takes the element types of ml_dtypes.
        """
        self._name = name
        self._takes_extended = takes_extended
        self._casting = casting
        self.signature = Signature(
            tuple(tensor_spec(*description) for description in inputs),
            tuple(tensor_spec(*description) for description in outputs),
        )
        declared = (*inputs, *overridable)
        self._names = dict.fromkeys(name for name, _, _ in declared)
        self._optional = {name for name, type_string, _ in declared if type_string.startswith("optional")}
        # An optional tensor that is given is read as any other.
        present = [(name, unwrapped(type_string), axes) for name, type_string, axes in declared]
        self._tensors = {spec[0]: tensor_spec(*spec) for spec in present if element_type(spec[1]) is not None}
        self._outputs = [spec.name for spec in self.signature.outputs]

    def feed(self, inputs: Any, named: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - anything may come
        """The values by input, in the model's order; tensors as arrays that fit.

        Raises:
            InvalidInputError: An input is missing, unknown or does not fit.
            BackendUnavailableError: The back end does not take the element type of an input.
        """
        given = self._given(inputs, named)
        feed = {}
        for name in self._names:
            if name not in given:
                continue
            value = given[name]
            # None is as good as leaving an optional input out.
            if value is not None or name not in self._optional:
                spec = self._tensors.get(name)
                if spec is not None and spec.dtype in checks.EXTENDED_DTYPES and not self._takes_extended:
                    refuse("types_beyond_numpy", f"input `{name}` of type {spec.dtype}")
                feed[name] = value if spec is None else checks.tensor(self._name, spec, value, self._casting)
        return feed

    def wanted(self, outputs: Sequence[str] | str | None) -> list[str]:
        """The names of the outputs to compute; all of them for None and anything empty.

        Raises:
            InvalidInputError: There is no such output, or it is not a name or a sequence of names.
        """
        if outputs is None:
            return self._outputs
        # The answer has the order of the names, which a set has not.
        if not isinstance(outputs, Sequence):
            raise checks.no_names(self._name, outputs)
        if not outputs:
            return self._outputs
        wanted = [outputs] if isinstance(outputs, str) else list(outputs)
        for name in wanted:
            if name not in self._outputs:
                raise checks.unknown_output(self._name, name, self.signature.outputs)
        return wanted

    def _given(self, inputs: Any, named: dict[str, Any]) -> Mapping[str, Any]:  # noqa: ANN401
        if inputs is None:
            given: Mapping[str, Any] = named
        elif named:
            raise checks.both_ways(self._name)
        elif isinstance(inputs, Mapping):
            given = inputs
        elif len(self.signature.inputs) == 1:
            given = {self.signature.inputs[0].name: inputs}
        else:
            raise checks.several_inputs(self._name, self.signature.inputs)
        for name in given:
            if name not in self._names:
                raise checks.unknown_input(self._name, name, self.signature.inputs)
        for spec in self.signature.inputs:
            if spec.name not in given and spec.name not in self._optional:
                raise checks.missing_input(self._name, spec.name, self.signature.inputs)
        return given
