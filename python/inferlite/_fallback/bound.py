"""Calls with their arrays bound."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnxruntime.capi import _pybind_state as state

from inferlite._checks import unbindable
from inferlite._exchange import memory_of
from inferlite._fallback import forks
from inferlite.metadata import tensor_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferlite._fallback.session import InferenceSession


class BoundCall:
    """A call of a session on the same arrays each time; `InferenceSession.bind` makes it.

    Every call reads the bound inputs again. Outputs that were given are overwritten and returned; others are new
    arrays. One call runs at a time.
    """

    def __init__(self, session: InferenceSession, inputs: Any, outputs: Any) -> None:  # noqa: ANN401
        """Check the arrays and bind them.

        Raises:
            TypeError: `inputs` is not a mapping, or `outputs` is neither a mapping nor a sequence of names.
            ValueError: An input is missing, or an array cannot be bound.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: There is no such input or output.
        """
        self._lock = threading.Lock()
        self._generation = forks.generation()
        feed = _checked_inputs(session, inputs)
        given = _checked_outputs(session, outputs) if isinstance(outputs, Mapping) else {}
        _refuse_shared(feed, given)
        bound = [owner for array in (*feed.values(), *given.values()) for owner in _with_owner(array)]
        # numpy moves no array that a weak reference looks at, not even by `resize(refcheck=False)`.
        self._pins = [weakref.ref(array) for array in bound]
        self._places = [(array, _place(array)) for array in bound]
        if isinstance(outputs, Mapping):
            self._run = _onto(session, feed, given, list(outputs.values()))
            return
        names = _output_names(session, outputs)

        def run() -> list[Any]:
            results: list[Any] = session.run(names, feed)
            return results

        self._run = run

    def __call__(self) -> list[Any]:
        """Run the model and return its outputs, in order.

        Raises:
            RuntimeError: Another thread is in this call.
            ValueError: The memory of a bound array has been exchanged, or one to overwrite has become read-only.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The run fails; and the other classes of onnxruntime.
        """
        if self._generation != forks.generation():
            # A thread of the parent may have held the lock, and nobody is left to release it.
            self._lock, self._generation = threading.Lock(), forks.generation()
        if not self._lock.acquire(blocking=False):
            message = "a bound call runs once at a time; bind once per thread"
            raise RuntimeError(message)
        try:
            if any(_place(array) != place for array, place in self._places):
                message = "the memory of a bound array has been exchanged: bind it anew"
                raise ValueError(message)
            return self._run()
        finally:
            self._lock.release()


def _with_owner(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The array, and the one whose memory it looks into."""
    owner = array
    while not owner.flags.owndata and isinstance(owner.base, np.ndarray):
        owner = owner.base
    return [array] if owner is array else [array, owner]


def _place(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The address and the size of an array's memory; `__setstate__` exchanges both."""
    return array.ctypes.data, array.nbytes


def _onto(
    session: InferenceSession,
    feed: dict[str, np.ndarray[Any, Any]],
    outputs: dict[str, np.ndarray[Any, Any]],
    given: list[Any],
) -> Callable[[], list[Any]]:
    """A run that writes into these outputs, and returns what they were given as."""
    # The values share the arrays' memory and do not own it, so the closure keeps the arrays.
    feeds, results = _values(feed), _values(outputs)
    options = onnxruntime.RunOptions()
    devices = [onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()] * len(outputs)  # noqa: SLF001 - no public way

    def run() -> list[Any]:
        session._survive_fork()  # noqa: SLF001 - a class of this package
        if not all(array.flags.writeable for array in outputs.values()):
            message = "the array of a bound output has become read-only: bind it anew"
            raise ValueError(message)
        session.run_with_ortvaluevector(options, list(feed), feeds, list(outputs), results, devices)
        return list(given)

    return run


def _values(arrays: dict[str, np.ndarray[Any, Any]]) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    vector = state.OrtValueVector()
    for array in arrays.values():
        vector.push_back(onnxruntime.OrtValue.ortvalue_from_numpy(array)._ortvalue)  # noqa: SLF001 - no public way
    return vector


def _checked_inputs(session: InferenceSession, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401
    if not isinstance(inputs, Mapping):
        message = f"`inputs` must map names to arrays, not be a {type(inputs)}"
        raise TypeError(message)
    arrays = _checked("input", [*session.get_inputs(), *session.get_overridable_initializers()], inputs)
    for argument in session.get_inputs():
        if argument.name not in arrays and not argument.type.startswith("optional"):
            message = f"input `{argument.name}` is missing: bind an array to it"
            raise ValueError(message)
    return arrays


def _refuse_shared(feed: dict[str, np.ndarray[Any, Any]], outputs: dict[str, np.ndarray[Any, Any]]) -> None:
    bound = list(feed.values())
    for name, array in outputs.items():
        # All are contiguous, so that bounds tell.
        if any(np.may_share_memory(array, other) for other in bound):
            message = (
                f"output `{name}` cannot be overwritten: its array shares memory with another bound array; "
                "pass one of its own"
            )
            raise ValueError(message)
        bound.append(array)


def _checked_outputs(session: InferenceSession, outputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    fed = {argument.name for argument in (*session.get_inputs(), *session.get_overridable_initializers())}
    for name in outputs:
        if name in fed:
            message = (
                f"output `{name}` cannot be overwritten: the model hands its input of that name through; ask for it by "
                "name"
            )
            raise ValueError(message)
    return _checked("output", session.get_outputs(), outputs)


def _checked(role: str, declared: Sequence[Any], arrays: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    arguments = {argument.name: argument for argument in declared}
    checked = {}
    for name, given in arrays.items():
        if name not in arguments:
            raise _invalid_name(name, role)
        argument = arguments[name]
        spec = tensor_spec(name, argument.type, argument.shape)
        memory = None if isinstance(given, np.ndarray) else memory_of(role, name, given)
        array = given if memory is None else memory
        reason = unbindable(role, name, spec.dtype, argument.type, array)
        if reason is not None:
            raise reason
        checked[name] = array
    return checked


def _output_names(session: InferenceSession, outputs: Any) -> list[str] | None:  # noqa: ANN401
    if outputs is None:
        return None
    names = [] if isinstance(outputs, (str, bytes)) or not isinstance(outputs, Iterable) else list(outputs)
    if not all(isinstance(name, str) for name in names) or (outputs and not names):
        message = f"`outputs` must be a sequence of names or a mapping of names to arrays, not {type(outputs)}"
        raise TypeError(message)
    declared = {argument.name for argument in session.get_outputs()}
    for name in names:
        if name not in declared:
            raise _invalid_name(name, "output")
    return names


def _invalid_name(name: object, role: str) -> Exception:
    # onnxruntime writes no blank after the colon here, and one for inputs.
    colon = ": " if role == "input" else ":"
    message = f"[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid {role} name{colon}{name}"
    error: Exception = state.InvalidArgument(message)
    return error
