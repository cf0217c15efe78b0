"""The friendly model on onnxruntime's session."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from inferlite import _async, _checks as checks, _futures
from inferlite._calls import Reader
from inferlite._checks import NUMPY_DTYPES
from inferlite._fallback.cache import Answers, Claim, copied_value
from inferlite._fallback.latency import CallStats
from inferlite._fallback.session import InferenceSession
from inferlite._fallback.threads import available_threads
from inferlite._fallback.tickets import Threads, Ticket
from inferlite.cache import live
from inferlite.capabilities import refuse
from inferlite.exceptions import InferliteError, InvalidInputError, ModelClosedError, ModelLoadError, ModelRunError
from inferlite.metadata import DTYPES, Signature, TensorSpec, cache_stats, element_type
from inferlite.options import copied

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    import onnxruntime

    from inferlite.cache import PredictionCache
    from inferlite.metadata import Stats

_PREFIX: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")


class Model:
    """A loaded model; `inferlite.load` makes it.

    Many threads may call one model at once.
    """

    def __init__(
        self,
        model: str | bytes,
        *,
        name: str,
        session_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[tuple[str, dict[str, str]]] = (),
        cache: dict[str, Any] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: The path or the content of a file.
            name: What messages call the model; empty to take the graph's name.
            session_options: Options; without a number of threads, the model gets as many as the process may keep busy.
            providers: Execution providers with their options, highest precedence first.
            cache: How many bytes and entries are kept, and for how many seconds; None for no cache.

        Raises:
            ModelLoadError: onnxruntime cannot load it.
        """
        options = copied(session_options)
        if options is None:
            options = session_options
        elif options.intra_op_num_threads == 0:
            options.intra_op_num_threads = available_threads()
        try:
            session = InferenceSession(model, options, list(providers) or None, enable_fallback=0)
        except Exception as error:
            message = f"model `{name or 'model'}` cannot be loaded: {_text(error)}"
            raise ModelLoadError(message) from error
        self._session: InferenceSession | None = session
        self._name = name or session.get_modelmeta().graph_name or "model"
        self._stats = CallStats()
        self._answers = None if cache is None else Answers(**cache)
        self._threads = Threads()
        self._axes: list[tuple[str, int | None]] = []
        outputs = session.get_outputs()
        self._reader = Reader(
            self._name,
            [_described(argument) for argument in session.get_inputs()],
            [_described(argument) for argument in outputs],
            [_described(argument) for argument in session.get_overridable_initializers()],
        )
        self._unreadable = {argument.name: argument.type for argument in outputs if not _is_readable(argument.type)}
        inputs = self._reader.signature.inputs
        self._rows_input = inputs[0].name if inputs and _has_dynamic_rows(inputs[0]) else None

    @property
    def name(self) -> str:
        """What messages call the model."""
        return self._name

    @property
    def engine(self) -> Literal["onnxruntime"]:
        """What runs the model."""
        return "onnxruntime"

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._reader.signature

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._session is None

    def predict(
        self,
        inputs: Any = None,  # noqa: ANN401 - anything that can be an array
        /,
        *,
        outputs: Sequence[str] | str | None = None,
        timeout: float | None = None,
        priority: int | None = None,
        **named: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401 - the model decides
        """Run the model; calling the model does the same.

        Args:
            inputs: A mapping of values by name, or the value itself for a model that has one input. Arrays must have
                the input's dtype; lists, tuples, ranges and Python's own numbers and strings are converted where it
                can hold them.
            outputs: The names of the outputs to compute, or one name; None for all.
            timeout: How many seconds the answer may take; None for as long as it takes. With one, the run is another
                thread's, which copies the inputs.
            priority: An integer, which says nothing where calls are not batched.
            **named: The inputs by name, instead of a mapping.

        Returns:
            The output itself where one was computed, else a dict by name: new arrays, lists or dicts.

        Raises:
            InvalidInputError: An input is missing, unknown or does not fit, or an output is unknown.
            ModelRunError: A node of the model fails.
            DeadlineExceededError: The answer did not come within `timeout`.
            ModelClosedError: `close()` was called before.
            BackendUnavailableError: The model takes or gives tensors that onnxruntime's Python interface has not.

        Example:
            >>> y = model(x)  # doctest: +SKIP
            >>> both = model({"a": a, "b": b})  # doctest: +SKIP
            >>> score = model(a=a, b=b, outputs=["score"])  # doctest: +SKIP
        """
        seconds = checks.timeout(timeout)
        if priority is not None:
            checks.priority(priority)
        call = self._call(inputs, outputs, named)
        if seconds is None:
            return call.answer()
        kept = call.kept()
        if kept is not None:
            return kept[0]
        return self._submit(call, seconds).wait(self._name, timeout)

    def apredict(
        self,
        inputs: Any = None,  # noqa: ANN401 - anything that can be an array
        /,
        *,
        outputs: Sequence[str] | str | None = None,
        timeout: float | None = None,
        priority: int | None = None,
        **named: Any,  # noqa: ANN401
    ) -> Coroutine[Any, Any, Any]:
        """Run the model for an event loop, which goes on meanwhile: `y = await model.apredict(x)`.

        The inputs are read and copied before this returns; runs are those of threads of the model's own.

        Args:
            inputs: As for `predict`.
            outputs: As for `predict`.
            timeout: As for `predict`.
            priority: As for `predict`.
            **named: As for `predict`.

        Returns:
            A coroutine of what `predict` returns, which raises what `predict` raises, and QueueFullError where 10,000
            calls wait for a thread already.
        """
        try:
            seconds = checks.timeout(timeout)
            if priority is not None:
                checks.priority(priority)
            call = self._call(inputs, outputs, named)
            kept = call.kept()
            if kept is not None:
                return _async.answered(kept[0])
            ticket = self._submit(call, seconds)
        except Exception as error:  # noqa: BLE001 - whoever awaits it is told
            return _async.failed(error)
        return _async.answer(ticket, self._name, timeout)

    def submit(
        self,
        inputs: Any = None,  # noqa: ANN401 - anything that can be an array
        /,
        *,
        outputs: Sequence[str] | str | None = None,
        timeout: float | None = None,
        priority: int | None = None,
        **named: Any,  # noqa: ANN401
    ) -> Future[Any]:
        """Run the model on another thread: `future = model.submit(x)`.

        The inputs are read and copied before this returns.

        Args:
            inputs: As for `predict`.
            outputs: As for `predict`.
            timeout: As for `predict`.
            priority: As for `predict`.
            **named: As for `predict`.

        Returns:
            A `concurrent.futures.Future` of what `predict` returns or raises, or QueueFullError. Cancelling it gives
            the answer up.
        """
        try:
            seconds = checks.timeout(timeout)
            if priority is not None:
                checks.priority(priority)
            call = self._call(inputs, outputs, named)
            kept = call.kept()
            if kept is not None:
                return _futures.Submitted.answered(kept[0])
            ticket = self._submit(call, seconds)
        except Exception as error:  # noqa: BLE001 - whoever asks for the result is told
            return _futures.Submitted.failed(error)
        return _futures.Submitted.waiting(ticket, self._name, timeout)

    def map(
        self,
        items: Iterable[Any],
        /,
        *,
        outputs: Sequence[str] | str | None = None,
        timeout: float | None = None,
        priority: int | None = None,
    ) -> Iterator[Any]:
        """Run the model for each of many inputs, up to 256 calls ahead: `for y in model.map(inputs)`.

        Args:
            items: What `predict` takes, one after the other; read as answers are taken.
            outputs: As for `predict`, for every call.
            timeout: As for `predict`, for every call by itself.
            priority: As for `predict`, for every call.

        Returns:
            A generator of what `predict` returns, in the order of the items, which raises what `predict` raises.
        """
        return _futures.map_calls(self, items, {"outputs": outputs, "timeout": timeout, "priority": priority})

    def map_rows(
        self,
        rows: Iterable[Any],
        /,
        *,
        outputs: Sequence[str] | str | None = None,
        timeout: float | None = None,
        priority: int | None = None,
    ) -> Iterator[Any]:
        """Run the model for each of many rows, which have no batch axis: `for y in model.map_rows(table)`.

        Args:
            rows: Arrays or lists for a model that has one input, or mappings by name, each without the batch axis.
            outputs: As for `predict`, for every row.
            timeout: As for `predict`, for every row by itself.
            priority: As for `predict`, for every row.

        Returns:
            A generator as `map` returns it, of answers without the batch axis.
        """
        settings = {"outputs": outputs, "timeout": timeout, "priority": priority}
        return _futures.map_rows(self, rows, settings, self._axes)

    def _declare_axes(self, axes: list[tuple[str, int | None]]) -> None:
        self._axes = axes

    def _submit(self, call: _Call, seconds: float | None) -> Ticket:
        call, claim = call.copied(), Claim()

        def leave() -> None:
            if self._answers is None:
                claim.options.terminate = True
            else:
                self._answers.leave(claim)

        return self._threads.submit(self._name, lambda: call.answer(claim), seconds, leave)

    def _call(self, inputs: Any, outputs: Sequence[str] | str | None, named: dict[str, Any]) -> _Call:  # noqa: ANN401
        # This reference keeps the session alive when another thread closes the model meanwhile.
        session = self._session
        if session is None:
            message = f"model `{self._name}` is closed"
            raise ModelClosedError(message)
        feed = self._reader.feed(inputs, named)
        wanted = self._reader.wanted(outputs)
        for name in wanted:
            if name in self._unreadable:
                refuse("types_beyond_numpy", f"output `{name}` of type {_dtype(self._unreadable[name])}")
        return _Call(self, session, feed, wanted)

    __call__ = predict

    def stats(self) -> Stats:
        """What the model has counted since it was loaded."""
        return self._stats.snapshot(cache_stats(self._cache_summary()))

    @property
    def cache(self) -> PredictionCache | None:
        """The answers that are kept; None where the model was loaded without `cache=`."""
        return live(self)

    def _open_answers(self) -> Answers:
        if self._session is None or self._answers is None:
            message = f"model `{self._name}` is closed"
            raise ModelClosedError(message)
        return self._answers

    def _cache_summary(self) -> tuple[Any, ...] | None:
        return None if self._session is None or self._answers is None else self._answers.summary()

    def _cache_clear(self) -> None:
        self._open_answers().clear()

    def _cache_save(self, _path: str) -> int:
        refuse("cache_beyond_process", "`PredictionCache.save`")

    def _cache_resize(self, max_bytes: int, max_entries: int | None) -> None:
        self._open_answers().resize(max_bytes, max_entries)

    def _cache_invalidate(
        self,
        inputs: Any,  # noqa: ANN401
        outputs: Sequence[str] | str | None,
        named: dict[str, Any],
    ) -> bool:
        answers = self._open_answers()
        return answers.invalidate(self._reader.wanted(outputs), self._reader.feed(inputs, named))

    def _check_example(self, example: Any) -> None:  # noqa: ANN401
        self._reader.feed(example, {})

    def close(self, *, cancel: bool = False) -> None:  # noqa: ARG002 - there are no batches to wait for
        """Give the model's memory back once the calls under way have ended; later calls raise ModelClosedError.

        Args:
            cancel: Whether calls that wait for a batch end with ModelClosedError, instead of being answered still.
        """
        self._session = None
        self._threads.close()

    def __enter__(self) -> Self:
        """The model itself, which the end of the block closes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the model."""
        self.close()

    def __repr__(self) -> str:
        """The name, the engine, and whether the model is closed."""
        state = ", closed" if self.closed else ""
        return f"<inferlite.Model `{self._name}` on onnxruntime{state}>"

    def _rows(self, feed: dict[str, Any]) -> int:
        value = feed.get(self._rows_input) if self._rows_input is not None else None
        return len(value) if isinstance(value, np.ndarray) else 1

    def _failure(self, error: Exception) -> InferliteError:
        text = _text(error)
        # onnxruntime says InvalidArgument of a failing node too, and Fail of a string that is no UTF-8.
        is_node = text.startswith("Non-zero status code")
        is_text = text.startswith("<class 'Unicode")
        is_runtime = type(error).__module__ == InvalidArgument.__module__
        if not is_runtime or is_text or (isinstance(error, InvalidArgument) and not is_node):
            return InvalidInputError(f"model `{self._name}` refuses its inputs: {text}")
        return ModelRunError(f"model `{self._name}` failed: {text}")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was read."""

    model: Model
    session: InferenceSession
    feed: dict[str, Any]
    wanted: list[str]

    def copied(self) -> _Call:
        """The same with inputs of its own."""
        return replace(self, feed={name: copied_value(value) for name, value in self.feed.items()})

    def kept(self) -> tuple[Any] | None:
        """The answer, if it is kept."""
        answers = self.model._answers  # noqa: SLF001 - of this module
        results = None if answers is None else answers.kept(self.wanted, self.feed)
        if results is None:
            return None
        self.model._stats.record_answered(self._rows())  # noqa: SLF001
        return (self._result(results),)

    def answer(self, claim: Claim | None = None) -> Any:  # noqa: ANN401 - the model decides
        """What the call returns."""
        run = self._run if claim is None else partial(self._run, options=claim.options)
        answers, stats = self.model._answers, self.model._stats  # noqa: SLF001
        if answers is None:
            return self._result(run(self.feed))
        results, has_run = answers.answer(self.wanted, self.feed, run, claim)
        if not has_run:
            stats.record_answered(self._rows())
        return self._result(results)

    def _run(self, feed: Mapping[str, Any], options: onnxruntime.RunOptions | None = None) -> list[Any]:
        start = time.perf_counter_ns()
        try:
            results: list[Any] = self.session.run(self.wanted, feed, options)
        except MemoryError:
            raise
        except Exception as error:
            raise self.model._failure(error) from error  # noqa: SLF001
        self.model._stats.record(time.perf_counter_ns() - start, self._rows())  # noqa: SLF001
        return results

    def _rows(self) -> int:
        return self.model._rows(self.feed)  # noqa: SLF001

    def _result(self, results: list[Any]) -> Any:  # noqa: ANN401
        return results[0] if len(self.wanted) == 1 else dict(zip(self.wanted, results, strict=True))


def _described(argument: Any) -> tuple[str, str, list[int | str | None]]:  # noqa: ANN401 - onnxruntime is untyped
    return argument.name, argument.type, argument.shape


def _has_dynamic_rows(spec: TensorSpec) -> bool:
    return spec.shape is not None and not isinstance(spec.shape[0], int)


def _is_readable(type_string: str) -> bool:
    elements = re.findall(r"tensor\((\w+)\)", type_string)
    return all(DTYPES.get(element) in NUMPY_DTYPES or element == "string" for element in elements)


def _dtype(type_string: str) -> str:
    element = element_type(type_string)
    return type_string if element is None else DTYPES.get(element, element)


def _text(error: Exception) -> str:
    return _PREFIX.sub("", str(error), count=1).strip()
