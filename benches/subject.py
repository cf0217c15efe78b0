"""Who is timed: inferlite on one of its back ends, or onnxruntime against itself.

onnxruntime on both sides should give ratios of 1; how far they stray shows what the harness and the
machine add to every other figure.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

import onnxruntime

from benches.harness import NotMeasurableError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Feed = Mapping[str, NDArray[np.float32]]
    Arrays = dict[str, NDArray[np.generic]]

PROVIDERS: Final = ("CPUExecutionProvider",)

NO_CACHE: Final = "onnxruntime has no cache"
NO_BATCHES: Final = "onnxruntime has no batches"


class Session(Protocol):
    """The part of a session that the benchmarks call."""

    def run(self, output_names: list[str] | None, input_feed: Feed) -> list[NDArray[np.generic]]:
        """Run the model once."""
        ...


class Bound(Protocol):
    """A call whose inputs, and perhaps outputs, were bound before."""

    def __call__(self) -> object:
        """Run once."""
        ...


class Predictor(Protocol):
    """The part of a loaded model of one output that the benchmarks call."""

    def __call__(self, x: NDArray[Any], /) -> NDArray[np.generic]:
        """Answer."""
        ...

    def apredict(self, x: NDArray[Any], /) -> Awaitable[NDArray[np.generic]]:
        """Answer later."""
        ...


class Subject(Protocol):
    """What stands on our side of the ratio."""

    @property
    def name(self) -> str:
        """Which of `SUBJECTS` it is."""
        ...

    @property
    def module(self) -> str:
        """The module that holds `InferenceSession`."""
        ...

    def session(self, model: bytes | str, cache: object = None) -> Session:
        """Make a session on one intra-op thread.

        Raises:
            NotMeasurableError: this subject has no cache, but one is wanted.
        """
        ...

    def model(self, model: bytes | str, cache: object) -> Callable[[NDArray[np.float32]], NDArray[np.generic]]:
        """Load a model of one input and output, on one intra-op thread, with a cache.

        Raises:
            NotMeasurableError: this subject has no cache.
        """
        ...

    def predictor(self, model: bytes | str, *, batching: bool) -> Predictor:
        """Load a model of one output, on one intra-op thread, with or without micro-batching.

        Raises:
            NotMeasurableError: this subject has no batches.
        """
        ...

    def bind(self, session: Session, feed: Feed, outputs: Arrays | None) -> Bound:
        """Bind inputs, and outputs unless they are to be fresh in every call."""
        ...

    def runtime_loop(self, bound: Bound) -> Callable[[int], object]:
        """Return what makes a number of bare C API calls with the same things bound.

        Raises:
            NotMeasurableError: this subject cannot reach the C API.
        """
        ...


def one_thread() -> onnxruntime.SessionOptions:
    """Return session options with one intra-op thread and every other default kept, which both sides can use."""
    options = import_module("inferlite").SessionOptions()
    options.intra_op_num_threads = 1
    return options


def peer_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """Make onnxruntime's session, configured as the subject's."""
    return onnxruntime.InferenceSession(model, one_thread(), list(PROVIDERS))


def io_binding(session: onnxruntime.InferenceSession, feed: Feed, outputs: Arrays | None) -> Callable[[], object]:
    """Return a call of onnxruntime's io-binding that answers as `bind` does.

    With `outputs` it writes into them. Without, it returns private copies: its own output values are
    overwritten by the next call, which a caller who keeps an answer cannot use.
    """
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    if outputs is None:
        for node in session.get_outputs():
            binding.bind_output(node.name)

        def run_and_copy() -> object:
            session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()

        return run_and_copy
    for name, output in outputs.items():
        binding.bind_output(name, "cpu", 0, output.dtype.type, output.shape, output.ctypes.data)

    def run_in_place() -> object:
        return session.run_with_iobinding(binding)

    return run_in_place


class _Inferlite:
    """inferlite on the back end that is active."""

    module = "inferlite"

    def __init__(self, name: str) -> None:
        self.name = name
        package = import_module("inferlite")
        self._load, self._session_class, self._options_class = (
            package.load,
            package.InferenceSession,
            package.SessionOptions,
        )
        self._unavailable = package.BackendUnavailableError

    def session(self, model: bytes | str, cache: object = None) -> Session:
        made: Session = self._session_class(model, self._one_thread(), list(PROVIDERS), cache=cache)
        return made

    def model(self, model: bytes | str, cache: object) -> Callable[[NDArray[np.float32]], NDArray[np.generic]]:
        made: Callable[[NDArray[np.float32]], NDArray[np.generic]] = self._load(
            model, session_options=self._one_thread(), providers=list(PROVIDERS), cache=cache
        )
        return made

    def predictor(self, model: bytes | str, *, batching: bool) -> Predictor:
        options = {"session_options": self._one_thread(), "providers": list(PROVIDERS), "batching": batching}
        try:
            made: Predictor = self._load(model, **options)
        except self._unavailable as error:
            raise NotMeasurableError(str(error)) from error
        return made

    def _one_thread(self) -> object:
        options = self._options_class()
        options.intra_op_num_threads = 1
        return options

    def bind(self, session: Session, feed: Feed, outputs: Arrays | None) -> Bound:
        bound: Bound = session.bind(inputs=feed, outputs=outputs)  # type: ignore[attr-defined]
        return bound

    def runtime_loop(self, bound: Bound) -> Callable[[int], object]:
        loop: Callable[[int], object] | None = getattr(bound, "_time_runtime", None)
        if loop is None:
            message = "the C API can be timed on the native back end alone"
            raise NotMeasurableError(message)
        return loop


class _Onnxruntime:
    """onnxruntime in our place."""

    name = "onnxruntime"
    module = "onnxruntime"

    def session(self, model: bytes | str, cache: object = None) -> Session:
        if cache is not None:
            raise NotMeasurableError(NO_CACHE)
        made: Session = peer_session(model)
        return made

    def model(self, model: bytes | str, cache: object) -> Callable[[NDArray[np.float32]], NDArray[np.generic]]:
        del model, cache
        raise NotMeasurableError(NO_CACHE)

    def predictor(self, model: bytes | str, *, batching: bool) -> Predictor:
        del model, batching
        raise NotMeasurableError(NO_BATCHES)

    def bind(self, session: Session, feed: Feed, outputs: Arrays | None) -> Bound:
        return io_binding(session, feed, outputs)

    def runtime_loop(self, bound: Bound) -> Callable[[int], object]:
        del bound
        message = "onnxruntime's Python package does not lead to the C API"
        raise NotMeasurableError(message)


SUBJECTS: Final = ("native", "python", "onnxruntime")


def choose(name: str) -> Subject:
    """Return the subject called `name`, one of `SUBJECTS`.

    Raises:
        RefusedError: the native back end cannot be used, or was built without optimisation.
    """
    if name == "onnxruntime":
        return _Onnxruntime()
    backend = import_module("inferlite._backend")
    try:
        backend.select(name)
    except Exception as error:
        message = (
            f"the {name} back end cannot be used: {error}; install the package from the checkout with `pip install .`, "
            "or pass `--ours python` to time the fallback"
        )
        raise RefusedError(message) from error
    if name == "native":
        refuse_debug(import_module("inferlite._core").build_profile())
    return _Inferlite(name)


def refuse_debug(profile: str) -> None:
    """Let release builds pass.

    Raises:
        RefusedError: `profile` is another one; its times say nothing about what users run.
    """
    if profile != "release":
        message = f"the native back end is a {profile} build, but only release builds are timed"
        raise RefusedError(message)
