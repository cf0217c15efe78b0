"""The friendly model on onnxruntime's session."""

from __future__ import annotations

import re
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from inferlite import _async, _checks as checks, _futures
from inferlite._calls import Reader
from inferlite._checks import NUMPY_DTYPES
from inferlite._columns import columns_of, zipped_keys
from inferlite._fallback.batching import Batcher
from inferlite._fallback.cache import Answers, Claim, copied_value
from inferlite._fallback.extended import bytes_type
from inferlite._fallback.line import Member
from inferlite._fallback.rows import BatchAxes
from inferlite._fallback.runs import Runs, text_of
from inferlite._fallback.session import InferenceSession
from inferlite._fallback.threads import available_threads
from inferlite._fallback.tickets import Threads, Ticket
from inferlite._out import predict as predict_into
from inferlite.cache import live
from inferlite.capabilities import refuse
from inferlite.exceptions import ModelLoadError
from inferlite.metadata import DTYPES, Signature, TensorSpec, cache_stats, element_type
from inferlite.options import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import onnxruntime

    from inferlite._fallback.cache import Ended
    from inferlite.cache import PredictionCache
    from inferlite.metadata import Stats


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
        instances: int = 1,
        casting: str = "no",
    ) -> None:
        """Load a model.

        Args:
            model: The path or the content of a file.
            name: What messages call the model; empty to take the graph's name.
            session_options: Options; without a number of threads, the model gets as many as the process may keep busy.
            providers: Execution providers with their options, highest precedence first.
            cache: How many bytes and entries are kept, and for how many seconds; None for no cache.
            instances: How many runs share these threads.
            casting: Which arrays of another dtype are cast, with numpy's meanings.

        Raises:
            ModelLoadError: onnxruntime cannot load it.
        """
        options = copied(session_options)
        if options is None:
            options = session_options
        elif options.intra_op_num_threads == 0:
            options.intra_op_num_threads = max(1, available_threads() // instances)
        try:
            session = InferenceSession(model, options, list(providers) or None, enable_fallback=0)
        except Exception as error:
            message = f"model `{name or 'model'}` cannot be loaded: {text_of(error)}"
            raise ModelLoadError(message) from error
        self._session: InferenceSession | None = session
        self._name = name or session.get_modelmeta().graph_name or "model"
        self._answers = None if cache is None else Answers(**cache)
        self._threads = Threads()
        self._axes: list[tuple[str, int | None]] = []
        self._batcher: Batcher | None = None
        self._timeout: float | None = None
        outputs = session.get_outputs()
        self._reader = Reader(
            self._name,
            [_described(argument) for argument in session.get_inputs()],
            [_described(argument) for argument in outputs],
            [_described(argument) for argument in session.get_overridable_initializers()],
            casting,
            takes_extended=False,
        )
        has_maps = any(argument.type.startswith("seq(map(") for argument in outputs)
        self._zipped = zipped_keys(model) if has_maps else {}
        self._unreadable = {argument.name: argument.type for argument in outputs if not _is_readable(argument.type)}
        inputs = self._reader.signature.inputs
        self._runs = Runs(self._name, inputs[0].name if inputs and _has_dynamic_rows(inputs[0]) else None)

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
        out: Any = None,  # noqa: ANN401 - an array, or several by name
        **named: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401 - the model decides
        """Run the model; calling the model does the same.

        Args:
            inputs: A mapping of values by name, or the value itself for a model that has one input. Arrays, and what
                lends one (DLPack, Arrow, the buffer protocol), must have the input's dtype, unless `casting=` of
                `load` lets them be cast; lists, tuples, ranges and Python's own numbers and strings are converted
                where the dtype can hold them.
            outputs: The names of the outputs to compute, or one name; None for all.
            timeout: How many seconds the answer may take; None for as long as it takes. With one, the run is another
                thread's, which copies the inputs.
            priority: An integer; where calls are batched, those with higher ones leave first.
            out: An array to write the output into, or a mapping of arrays by name: writable, C-contiguous, of the
                output's dtype and shape, and none that shares memory with another of the call.
            **named: The inputs by name, instead of a mapping.

        Returns:
            The output itself where one was computed, else a dict by name: new arrays, lists or dicts. The rows of a
            `ZipMap` are a dict of one array for each key.

        Raises:
            InvalidInputError: An input is missing, unknown or does not fit, an output is unknown, or an array in `out`
                cannot take its output.
            ModelRunError: A node of the model fails.
            DeadlineExceededError: The answer did not come within `timeout`.
            QueueFullError: Too many rows wait for a batch.
            ModelClosedError: `close()` was called before.
            BackendUnavailableError: The model takes or gives tensors that onnxruntime's Python interface has not.

        Example:
            >>> y = model(x)  # doctest: +SKIP
            >>> both = model({"a": a, "b": b})  # doctest: +SKIP
            >>> score = model(a=a, b=b, outputs=["score"])  # doctest: +SKIP
        """
        if out is not None:
            return predict_into(self, inputs, outputs, timeout, priority, named, out)
        timeout = self._timeout if timeout is None else timeout
        seconds, rank = checks.timeout(timeout), _rank(priority)
        call = self._call(inputs, outputs, named)
        if seconds is None:
            return call.answer(rank=rank)
        kept = call.kept()
        if kept is not None:
            return kept[0]
        return self._submit(call, seconds, rank).wait(self._name, timeout)

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

        The inputs are read and copied before this returns; runs are those of threads of the model's own. Where calls
        are batched, those of one turn of the event loop leave together.

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
        timeout = self._timeout if timeout is None else timeout
        try:
            seconds, rank = checks.timeout(timeout), _rank(priority)
            call = self._call(inputs, outputs, named)
            kept = call.kept()
            if kept is not None:
                return _async.answered(kept[0])
            ticket = self._submit(call, seconds, rank, is_of_turn=True)
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
        timeout = self._timeout if timeout is None else timeout
        try:
            seconds, rank = checks.timeout(timeout), _rank(priority)
            call = self._call(inputs, outputs, named)
            kept = call.kept()
            if kept is not None:
                return _futures.Submitted.answered(kept[0])
            ticket = self._submit(call, seconds, rank)
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

    def _use_rows(
        self,
        declared: list[tuple[str, int | None]],
        example: Any,  # noqa: ANN401 - whatever the model takes
        is_independent: bool | None,  # noqa: FBT001 - as the native back end has it
        _are_kept: bool,  # noqa: FBT001
        batching: dict[str, Any],
    ) -> None:
        if example is not None:
            self._check_example(example)
        session = self._open_session()
        try:
            axes = BatchAxes(
                [_described(argument) for argument in session.get_inputs()],
                [_described(argument) for argument in session.get_outputs()],
                [_described(argument) for argument in session.get_overridable_initializers()],
                declared,
            )
            _check_independent(is_independent)
        except ValueError as error:
            message = f"model `{self._name}` cannot be batched: {error}"
            raise ModelLoadError(message) from None
        self._timeout = batching["timeout"]
        self._batcher = Batcher(self._name, axes, partial(self._runs.run, session), batching)
        if self._answers is not None:
            self._answers.hasten = self._batcher.flush_stopped

    def _submit(self, call: _Call, seconds: float | None, rank: int, *, is_of_turn: bool = False) -> Ticket:
        call, claim, batcher = call.copied(), Claim(), call.batcher

        def leave() -> None:
            if self._answers is None:
                claim.options.terminate = True
            else:
                self._answers.leave(claim)
            if batcher is not None:
                batcher.end_deserted()

        if batcher is None:
            return self._threads.submit(self._name, lambda: call.answer(claim), seconds, leave)
        deadline = None if seconds is None else time.monotonic() + seconds
        submit = batcher.submit_with_turn if is_of_turn else batcher.submit
        future = call.ask(batcher, claim, submit, rank, batcher.leave_by(seconds))
        return Ticket(future, deadline, leave, batcher.flush_stopped)

    def _open_session(self) -> InferenceSession:
        session = self._session
        if session is None:
            raise checks.closed(self._name)
        return session

    def _call(self, inputs: Any, outputs: Sequence[str] | str | None, named: dict[str, Any]) -> _Call:  # noqa: ANN401
        batcher = self._batcher
        # This reference keeps the session alive when another thread closes the model meanwhile.
        session = self._open_session()
        feed = self._reader.feed(inputs, named)
        wanted = self._reader.wanted(outputs)
        for name in wanted:
            if name in self._unreadable:
                refuse("types_beyond_numpy", f"output `{name}` of type {_dtype(self._unreadable[name])}")
        return _Call(self, session, batcher, feed, wanted)

    __call__ = predict

    def stats(self) -> Stats:
        """What the model has counted since it was loaded."""
        batcher = self._batcher
        return self._runs.stats.snapshot(
            cache_stats(self._cache_summary()), None if batcher is None else batcher.stats()
        )

    @property
    def cache(self) -> PredictionCache | None:
        """The answers that are kept; None where the model was loaded without `cache=`."""
        return live(self)

    def _open_answers(self) -> Answers:
        if self._session is None or self._answers is None:
            raise checks.closed(self._name)
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

    def close(self, *, cancel: bool = False) -> None:
        """Give the model's memory back once the calls under way have ended; later calls raise ModelClosedError.

        Args:
            cancel: Whether calls that wait for a batch end with ModelClosedError, instead of being answered still.
        """
        self._session = None
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher.close(cancel=cancel)
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


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was read."""

    model: Model
    session: InferenceSession
    batcher: Batcher | None
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
        self.model._runs.stats.record_answered(self._rows())  # noqa: SLF001
        return (self._result(results),)

    def answer(self, claim: Claim | None = None, *, rank: int = 0) -> Any:  # noqa: ANN401 - the model decides
        """What the call returns."""
        run = partial(self._run, None if claim is None else claim.options, rank)
        answers, stats = self.model._answers, self.model._runs.stats  # noqa: SLF001
        if answers is None:
            return self._result(run(self.feed))
        results, has_run = answers.answer(self.wanted, self.feed, run, claim)
        if not has_run:
            stats.record_answered(self._rows())
        return self._result(results)

    def ask(
        self, batcher: Batcher, claim: Claim, submit: Callable[[Member], None], rank: int, leave_by: float
    ) -> Future[Any]:
        """What the call returns, for a caller who does not wait; the call has inputs of its own."""
        answers, stats = self.model._answers, self.model._runs.stats  # noqa: SLF001
        future: Future[Any] = Future()
        # It cannot be cancelled: claims are given up another way.
        future.set_running_or_notify_cancel()

        def tell(results: list[Any] | None, error: BaseException | None, *, has_run: bool) -> None:
            with suppress(InvalidStateError):
                if results is None or error is not None:
                    future.set_exception(error or CancelledError())
                    return
                if not has_run:
                    stats.record_answered(self._rows())
                future.set_result(self._result(results))

        def run(feed: Mapping[str, Any], ended: Ended) -> None:
            submit(Member(self.wanted, feed, rank, batcher.clock(), leave_by, claim.options, ended))

        if answers is None:
            run(self.feed, partial(tell, has_run=True))
        else:
            answers.ask(self.wanted, self.feed, run, claim, tell)
        return future

    def _run(self, options: onnxruntime.RunOptions | None, rank: int, feed: Mapping[str, Any]) -> list[Any]:
        if self.batcher is not None and options is None:
            return self.batcher.run(self.wanted, feed, rank)
        return self.model._runs.run(self.session, self.wanted, feed, options, None)  # noqa: SLF001

    def _rows(self) -> int:
        return self.model._runs.rows(self.feed)  # noqa: SLF001

    def _result(self, results: list[Any]) -> Any:  # noqa: ANN401
        zipped = self.model._zipped  # noqa: SLF001
        if zipped:
            results = [
                columns_of(result, zipped[name]) if name in zipped else result
                for name, result in zip(self.wanted, results, strict=True)
            ]
        return results[0] if len(self.wanted) == 1 else dict(zip(self.wanted, results, strict=True))


def _rank(priority: int | None) -> int:
    return 0 if priority is None else checks.priority(priority)


def _check_independent(is_independent: bool | None) -> None:  # noqa: FBT001 - what the caller said
    if is_independent is None:
        refuse("row_independence", "`batching` without `rows_independent=True`")
    if not is_independent:
        message = "`rows_independent=False` says that rows influence each other"
        raise ValueError(message)


def _described(argument: Any) -> tuple[str, str, list[int | str | None]]:  # noqa: ANN401 - onnxruntime is untyped
    return argument.name, argument.type, argument.shape


def _has_dynamic_rows(spec: TensorSpec) -> bool:
    return spec.shape is not None and not isinstance(spec.shape[0], int)


def _is_readable(type_string: str) -> bool:
    elements = re.findall(r"tensor\((\w+)\)", type_string)
    readable = NUMPY_DTYPES | {"string"}
    return all(DTYPES.get(element) in readable or bytes_type(f"tensor({element})") for element in elements)


def _dtype(type_string: str) -> str:
    element = element_type(type_string)
    return type_string if element is None else DTYPES.get(element, element)
