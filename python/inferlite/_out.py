"""`out=`: answers that are written into arrays of the caller's.

An answer is complete before it is written: a run that fails, or gives another shape than was expected, leaves the
arrays as they were. Shapes that a model declares are no truth, so that they are not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inferlite import _checks as checks
from inferlite._exchange import memory_of
from inferlite.exceptions import InvalidInputError
from inferlite.metadata import tensor_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from inferlite.metadata import NodeArg, TensorSpec

    Refusal = Callable[[str], Exception]


class _Place(NamedTuple):
    """Where an output goes: what was given for it, and the array over its memory."""

    given: Any
    array: NDArray[Any]


def run(session: Any, output_names: Any, input_feed: Any, run_options: Any, out: Any) -> list[Any]:  # noqa: ANN401
    """What `session.run` returns, with the outputs in `out` written there.

    Raises:
        TypeError: `out` is no mapping.
        ValueError: It names what was not asked for, or an array cannot take its output.
        Exception: What `run` raises.
    """
    if not isinstance(out, Mapping):
        message = f"`out` must map names of outputs to arrays, not be a {type(out)}"
        raise TypeError(message)
    arguments: list[NodeArg] = session.get_outputs()
    types = {argument.name: argument.type for argument in arguments}
    specs = {argument.name: tensor_spec(argument.name, argument.type, argument.shape) for argument in arguments}
    is_listed = isinstance(output_names, (list, tuple)) and output_names
    names = list(output_names) if is_listed else list(specs)
    fed = input_feed.values() if isinstance(input_feed, Mapping) else ()
    places = _places(out, names, specs, types, fed, ValueError)
    results: list[Any] = session.run(output_names, input_feed, run_options)
    return _written(names, results, places, ValueError)


def predict(
    model: Any,  # noqa: ANN401 - of either back end
    inputs: Any,  # noqa: ANN401 - what `predict` takes
    outputs: Any,  # noqa: ANN401
    timeout: float | None,
    priority: int | None,
    named: dict[str, Any],
    out: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401 - the model decides
    """What `model.predict` returns, with the outputs in `out` written there.

    Raises:
        InvalidInputError: `out` names what was not asked for, or an array cannot take its output.
        InferliteError: What `predict` raises.
    """
    specs = {spec.name: spec for spec in model.signature.outputs}
    types = {name: spec.dtype for name, spec in specs.items()}
    names = [outputs] if isinstance(outputs, str) and outputs else list(outputs or specs)
    if not isinstance(out, Mapping):
        if len(names) != 1:
            message = f"`out` must map names to arrays: there are several outputs ({checks.names_of(names)})"
            raise InvalidInputError(message)
        out = {names[0]: out}
    fed = [*(inputs.values() if isinstance(inputs, Mapping) else [inputs]), *named.values()]
    places = _places(out, names, specs, types, fed, InvalidInputError)
    answer = model.predict(inputs, outputs=outputs, timeout=timeout, priority=priority, **named)
    if len(names) == 1:
        return _written(names, [answer], places, InvalidInputError)[0]
    written = _written(list(answer), list(answer.values()), places, InvalidInputError)
    return dict(zip(answer, written, strict=True))


def _places(
    out: Mapping[str, Any],
    names: Sequence[str],
    specs: Mapping[str, TensorSpec],
    types: Mapping[str, str],
    fed: Iterable[Any],
    refusal: Refusal,
) -> dict[str, _Place]:
    taken = [value for value in fed if isinstance(value, np.ndarray)]
    places = {}
    for name, given in out.items():
        if name not in names or name not in specs:
            message = f"`out` has an array for `{name}`, but the call is for {checks.names_of(names)}"
            raise refusal(message)
        array = given
        if not isinstance(given, np.ndarray):
            try:
                array = memory_of("output", name, given)
            except ValueError as error:
                raise refusal(str(error)) from error
            array = given if array is None else array
        reason = checks.unwritable(name, specs[name].dtype, types[name], array)
        if reason is not None:
            raise refusal(reason)
        # All are contiguous, so that bounds tell; what is read from may have any strides.
        if any(np.may_share_memory(array, other) for other in taken):
            message = (
                f"output `{name}` cannot be written there: its array shares memory with another array of the call; "
                "pass one of its own"
            )
            raise refusal(message)
        taken.append(array)
        places[name] = _Place(given, array)
    return places


def _written(names: Sequence[str], results: Sequence[Any], places: Mapping[str, _Place], refusal: Refusal) -> list[Any]:
    pairs = [(name, result, places[name]) for name, result in zip(names, results, strict=True) if name in places]
    for name, result, place in pairs:
        if result.shape != place.array.shape:
            message = (
                f"output `{name}` has shape {checks.shape_of(result.shape)}, but the array in `out` has shape "
                f"{checks.shape_of(place.array.shape)}: pass one of that shape"
            )
            raise refusal(message)
    for _, result, place in pairs:
        np.copyto(place.array, result, casting="no")
    return [places[name].given if name in places else result for name, result in zip(names, results, strict=True)]
