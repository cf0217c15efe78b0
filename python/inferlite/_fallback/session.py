"""The drop-in session on onnxruntime's own."""

from __future__ import annotations

import logging
import pickle
import weakref
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, InvalidArgument

from inferlite import _pickling
from inferlite._content import content_of
from inferlite._exchange import read_casting
from inferlite._fallback import asking, extended, forks
from inferlite._fallback.bound import BoundCall
from inferlite._fallback.cache import Answers, Claim
from inferlite._fallback.feeds import readable_feed
from inferlite._fallback.tickets import Threads
from inferlite._fallback.values import IOBinding, OrtValue, wrapped
from inferlite._hints import explained
from inferlite._model_file import random_node
from inferlite._out import run as run_into
from inferlite.batching import Batching
from inferlite.cache import Cache, live, refuse_random
from inferlite.capabilities import refusal, refuse
from inferlite.exceptions import InferliteError
from inferlite.options import RunOptions, SessionOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from inferlite.cache import PredictionCache

_logger = logging.getLogger("inferlite")


class InferenceSession(onnxruntime.InferenceSession):
    """`onnxruntime.InferenceSession`, with `bind`, and right where onnxruntime is wrong.

    Arrays of bytes and of another byte order are read as what they hold, and what onnxruntime prints about execution
    providers goes to the logger `inferlite`.
    """

    _is_creating = False
    _releases_model = False
    _model_bytes: Any
    # Where the providers are refused before onnxruntime has looked for substitutes.
    _fallback_providers: Sequence[str] = ("CPUExecutionProvider",)

    def __init__(  # noqa: PLR0913 - onnxruntime's arguments, and settings by name
        self,
        path_or_bytes: str | bytes | os.PathLike[str] | bytearray | memoryview | BinaryIO,
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        hold_gil: bool = True,
        cache: Cache | str | int | None = None,
        casting: Literal["no", "safe", "same_kind"] = "no",
        batching: Batching | bool | None = None,
        optimized_cache: str | os.PathLike[str] | None = None,
        release_model: bool = False,
        **kwargs: Any,  # noqa: ANN401 - onnxruntime ignores what it does not know
    ) -> None:
        """Load a model.

        Args:
            path_or_bytes: The path of an ONNX or ORT file, the content of one, which is copied unless it is `bytes`, or
                a binary file, which is read to its end.
            sess_options: Options, of inferlite's or of onnxruntime's class.
            providers: Names of execution providers or (name, options) tuples, highest precedence first.
            provider_options: One dict of options for each of `providers`, which are all names then.
            hold_gil: Accepted for the native back end's sake and ignored.
            cache: Whether answers are kept and given again for equal inputs, as in `inferlite.load`; None for no cache.
            casting: Which arrays of numbers are cast to the dtype of their input, with numpy's meanings
                (`numpy.can_cast`); `bind` casts none.
            batching: None and False for no batches, which are all that this back end has for sessions.
            optimized_cache: Accepted for the native back end's sake and ignored.
            release_model: Whether a session made from bytes gives them up. It cannot be pickled, used after a fork, or
                given other providers then.
            **kwargs: onnxruntime's `enable_fallback`, `disabled_optimizers` and `read_config_from_model`.

        Raises:
            TypeError: `path_or_bytes` or `sess_options` is of another type.
            BackendUnavailableError: `batching` is given, or a setting of `cache` that this back end has not.
            ModelLoadError: `cache` is given for a model that may be random.
            ValueError: `casting` is something else, or `batching` has a `timeout`.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The model cannot be loaded; and the other classes of
                onnxruntime, as there.
        """
        before = frozenset(self.__dict__)
        self._extras = {
            "hold_gil": hold_gil,
            "cache": cache,
            "casting": casting,
            "optimized_cache": optimized_cache,
        }
        self._options_given = _copy_of(sess_options)
        content = content_of(path_or_bytes)
        path_or_bytes = path_or_bytes if content is None else content
        self._answers: Answers | None = None
        try:
            self._answers = _answers(path_or_bytes, cache)
        except InferliteError as error:
            self._refused("cache", error)
        if Batching.read_for_session(batching) is not None:
            self._refused("batching", refusal("row_independence", "`batching` of a session"))
        self._threads = Threads()
        self._casting = read_casting(casting)
        self._may_fall_back = int(kwargs.get("enable_fallback", 1)) == 1
        self._is_creating = True
        self._generation = forks.generation()
        self._file = forks.ModelFile.of(path_or_bytes)
        self._disabled_optimizers = kwargs.get("disabled_optimizers")
        try:
            # onnxruntime's own way to fall back prints to standard output; `_create_inference_session` does it here.
            super().__init__(
                path_or_bytes, sess_options, providers, provider_options, **{**kwargs, "enable_fallback": 0}
            )
        finally:
            self._is_creating = False
        forks.watch(self)
        declared = (*self.get_inputs(), *self.get_overridable_initializers())
        self._declared = {argument.name: argument for argument in declared}
        self._output_names = [argument.name for argument in self.get_outputs()]
        bytes_types = {argument.name: extended.bytes_type(argument.type) for argument in self.get_outputs()}
        self._bytes_types = {name: element for name, element in bytes_types.items() if element is not None}
        self._passed_through = self._declared.keys() & set(self._output_names)
        self._releases_model = release_model and self._model_bytes is not None
        if self._releases_model:
            self._model_bytes = None
        self._own = frozenset(self.__dict__) - before | {"_own"}

    def __reduce__(self) -> tuple[Any, ...]:
        """How `pickle` and `copy` make the session again: from its path or bytes, and its settings.

        Raises:
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The session was made with `release_model=True`, or its
                file has changed since.
            PicklingError: It was made with options of onnxruntime's class, which do not tell all they hold.
        """
        if self._releases_model:
            raise _pickling.fail(_pickling.RELEASED)
        if not isinstance(self._options_given, SessionOptions | None):
            message = (
                "onnxruntime's `SessionOptions` do not tell all they hold: make them by `inferlite.SessionOptions`"
            )
            raise pickle.PicklingError(message)
        model: str | bytes = self._model_bytes
        is_unchanged = True
        if self._file is not None:
            model, is_unchanged = self._file.path, self._file.is_unchanged()
        recipe = {
            "sess_options": self._options_given,
            "providers": list(self._providers),
            "provider_options": [self._provider_options.get(name, {}) for name in self._providers],
            "disabled_optimizers": self._disabled_optimizers,
            "enable_fallback": int(self._may_fall_back),
            **self._extras,
        }
        source = _pickling.packed(model, is_unchanged=is_unchanged)
        return _pickling.made, (_made, _pickling.kind_of(self), source, recipe), self.__getstate__()

    def __getstate__(self) -> Any:  # noqa: ANN401 - as `object` has it
        """The attributes that a subclass or a user has added."""
        return _pickling.without(self._own, super().__getstate__())

    def _create_inference_session(
        self,
        providers: Any,  # noqa: ANN401 - onnxruntime checks it
        provider_options: Any,  # noqa: ANN401
        disabled_optimizers: Any = None,  # noqa: ANN401
    ) -> None:
        create = super()._create_inference_session
        if not (self._is_creating and self._may_fall_back):
            create(providers, provider_options, disabled_optimizers)
            return
        try:
            create(providers, provider_options, disabled_optimizers)
        except (ValueError, RuntimeError) as error:
            substitutes = list(self._fallback_providers)
            _logger.warning("providers %s cannot be used (%s): falling back to %s", providers, error, substitutes)
            try:
                create(substitutes, None)
            except Exception as fallback_error:
                raise fallback_error from error
            self._may_fall_back = False

    def _refused(self, _feature: Literal["cache", "batching"], error: InferliteError) -> None:
        """Decide what becomes of a session that is refused a cache or batches: there is none."""
        raise error

    @property
    def engine(self) -> Literal["onnxruntime"]:
        """What runs the model."""
        return "onnxruntime"

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
        *,
        out: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Run the model.

        Args:
            output_names: The outputs to compute, in this order; None or empty for all.
            input_feed: A value for every input, by name.
            run_options: Options of this run.
            out: Arrays to write outputs into, by name: writable, C-contiguous, of the output's dtype and shape, and
                none that shares memory with another of the call. The others are new.

        Returns:
            One entry for each output: an array, a list, a dict or None.

        Raises:
            ValueError: An input is missing, or an array in `out` cannot take its output.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: An input does not fit; and the other classes
                of onnxruntime, as there.
        """
        if isinstance(run_options, RunOptions) and not hasattr(run_options, "_handle"):
            # onnxruntime's half has not been made either, and crashes.
            message = "the run options are empty: `__init__` has not run"
            raise RuntimeError(message)
        if out is not None:
            return run_into(self, output_names, input_feed, run_options, out)
        try:
            return self._run(output_names, input_feed, run_options)
        except (InvalidArgument, RuntimeError, TypeError, AttributeError, Fail) as error:
            outputs = [(argument.name, argument.type, argument.shape) for argument in self.get_outputs()]
            inputs = [(argument.name, argument.type, argument.shape) for argument in self._declared.values()]
            other = explained(error, output_names, input_feed, inputs, outputs)
            if other is error:
                raise
            raise other from error.__cause__

    def _run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any,  # noqa: ANN401
    ) -> list[Any]:
        self._survive_fork()
        feed = readable_feed(input_feed, self._declared, self._casting)
        names = output_names or self._output_names
        if self._answers is None:
            return self._run_uncached(output_names, feed, run_options)
        # Options may change the answer.
        if run_options is not None or not _is_plain(feed, names):
            return self._answers.handed_over(self._run_uncached(output_names, feed, run_options))
        answer, _ = self._answers.answer(names, feed, lambda feed: self._run_uncached(output_names, feed, None))
        return answer

    def arun(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run the model for an event loop, which goes on meanwhile: `y, = await session.arun(None, feed)`.

        The inputs are read and copied before this returns, on any setting of threads. A task that is cancelled, or
        whose `asyncio.timeout` is over, goes on at once, and its run ends between two nodes, with no other one ended;
        one under onnxruntime's own `RunOptions` ends by itself.

        Args:
            output_names: As for `run`.
            input_feed: As for `run`.
            run_options: As for `run`; setting `terminate` ends the run.

        Returns:
            A coroutine of what `run` returns, which raises what `run` raises, and QueueFullError where 10,000 calls
            wait for a thread already.
        """
        return asking.arun(self, output_names, input_feed, run_options)

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], object],
        user_data: Any,  # noqa: ANN401 - anything
        run_options: onnxruntime.RunOptions | None = None,
    ) -> None:
        """Run the model on another thread, which then calls `callback(results, user_data, error)`.

        The inputs are read and copied before this returns, on any setting of threads. What `callback` raises goes to
        `sys.unraisablehook`. The interpreter waits for calls under way before it ends.

        Args:
            output_names: As for `run`.
            input_feed: As for `run`.
            callback: Takes the list of results, `user_data`, and a string: empty, or what went wrong, with no results.
            user_data: Anything.
            run_options: As for `run`.

        Raises:
            TypeError: `callback` cannot be called.
            ValueError: An input is missing.
            QueueFullError: 10,000 calls wait for a thread already.
        """
        asking.run_async(self, output_names, input_feed, callback, user_data, run_options)

    def _kept(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any] | None:
        feed, names = readable_feed(input_feed, self._declared, self._casting), output_names or self._output_names
        if self._answers is None or not _is_plain(feed, names):
            return None
        return self._answers.kept(names, feed)

    def _run_claimed(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], claim: Claim
    ) -> list[Any]:
        """The answer for somebody who may give it up."""
        self._survive_fork()
        feed, names = readable_feed(input_feed, self._declared, self._casting), output_names or self._output_names
        if self._answers is None or not _is_plain(feed, names):
            return self._run_uncached(output_names, feed, claim.options)
        run = partial(self._run_under, output_names, claim.options)
        answer, _ = self._answers.answer(names, feed, run, claim)
        return answer

    def _run_under(self, output_names: Sequence[str] | None, options: RunOptions, feed: Mapping[str, Any]) -> list[Any]:
        return self._run_uncached(output_names, feed, options)

    def _leave(self, claim: Claim) -> None:
        if self._answers is None:
            claim.options.terminate = True
        else:
            self._answers.leave(claim)

    def _run_uncached(
        self, output_names: Sequence[str] | None, feed: Mapping[str, Any], run_options: onnxruntime.RunOptions | None
    ) -> list[Any]:
        pins = _pinned(feed)
        results: list[Any]
        try:
            results = super().run(output_names, feed, run_options)
        except EPFail as error:
            if not self._may_fall_back:
                raise
            substitutes = self._fallback_providers
            _logger.warning("providers %s failed (%s): falling back to %s", self._providers, error, substitutes)
            self.set_providers(substitutes)
            self._may_fall_back = False
            results = super().run(output_names, feed, run_options)
        except RuntimeError as error:
            extended.unreadable(error)
            raise
        finally:
            del pins
        names = output_names or self._output_names
        if self._bytes_types:
            results = extended.restored(results, names, self._bytes_types)
        if not self._passed_through:
            return results
        return [
            _own(value) if name in self._passed_through else value for name, value in zip(names, results, strict=True)
        ]

    @property
    def cache(self) -> PredictionCache | None:
        """The answers that are kept; None where the session was made without `cache=`."""
        return live(self)

    def _cache_summary(self) -> tuple[Any, ...] | None:
        return None if self._answers is None else self._answers.summary()

    def _cache_clear(self) -> None:
        if self._answers is not None:
            self._answers.clear()

    def _cache_save(self, _path: str) -> int:
        refuse("cache_beyond_process", "`PredictionCache.save`")

    def _cache_resize(self, max_bytes: int, max_entries: int | None) -> None:
        if self._answers is not None:
            self._answers.resize(max_bytes, max_entries)

    def _cache_invalidate(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> bool:
        feed = readable_feed(input_feed, self._declared, self._casting)
        return self._answers is not None and self._answers.invalidate(output_names or self._output_names, feed)

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, onnxruntime.OrtValue],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[OrtValue]:
        """Run values as they are, and give values; see onnxruntime."""
        self._survive_fork()
        return wrapped(super().run_with_ort_values(output_names, input_dict_ort_values, run_options))

    def io_binding(self) -> IOBinding:
        """Values to be bound to the inputs and outputs, one by one."""
        return IOBinding(self)

    def run_with_iobinding(
        self, iobinding: onnxruntime.IOBinding, run_options: onnxruntime.RunOptions | None = None
    ) -> None:
        """Run what is bound.

        Raises:
            RuntimeError: An input is not bound; and what onnxruntime raises.
        """
        if isinstance(iobinding, IOBinding):
            iobinding._refuse_unbound(self)  # noqa: SLF001 - of this package
        super().run_with_iobinding(iobinding, run_options)
        if isinstance(iobinding, IOBinding):
            iobinding._has_run()  # noqa: SLF001 - of this package

    def create_ortvalue_from_shape_and_type(self, *args: Any, **kwargs: Any) -> OrtValue:  # noqa: ANN401
        """A tensor that belongs to this session; see onnxruntime."""
        return wrapped([super().create_ortvalue_from_shape_and_type(*args, **kwargs)])[0]

    def bind(self, inputs: Mapping[str, Any], outputs: Sequence[str] | Mapping[str, Any] | None = None) -> BoundCall:
        """Bind arrays to the inputs, and to outputs, for many calls.

        Args:
            inputs: An array for every input, by name: C-contiguous, aligned, of numbers or bool in the machine's byte
                order, and of the input's dtype. Every call reads them again.
            outputs: None for all outputs in new arrays, names for these in new arrays, or writable C-contiguous arrays
                by name, which every call overwrites and returns.

        Returns:
            The call; it takes no arguments and returns a list.

        Raises:
            ValueError: An input is missing, or an array cannot be bound.
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument: There is no such input or output.

        Example:
            >>> call = session.bind({"x": x})  # doctest: +SKIP
            >>> (y,) = call()  # doctest: +SKIP
        """
        return BoundCall(self, inputs, outputs)

    def _survive_fork(self) -> None:
        """Make the session anew in a forked child; the parent's waits for threads that stayed there."""
        if self._generation == forks.generation():
            return
        with forks.rebuilding():
            if self._generation == forks.generation():
                return
            if self._releases_model:
                raise _pickling.fail(_pickling.RELEASED)
            if self._file is not None:
                self._file.refuse_changed()
                self._model_path = self._file.path
            self._sess_options = self._sess_options_initial
            # A list: `get_provider_options` is keyed in another order.
            options = [self._provider_options.get(name, {}) for name in self._providers]
            with _writing_nothing(self._sess_options):
                super()._create_inference_session(list(self._providers), options, self._disabled_optimizers)
            if self._file is not None:
                # Once more: it may have changed while it was read.
                self._file.refuse_changed()
            self._generation = forks.generation()

    def set_providers(
        self,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
    ) -> None:
        """Make the session anew on these execution providers, and forget every answer that is kept.

        Raises:
            RuntimeError: A provider is unknown.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The session was made with `release_model=True`.
        """
        if self._releases_model:
            raise _pickling.fail(_pickling.RELEASED)
        super().set_providers(providers, provider_options)
        self._cache_clear()

    def set_ep_dynamic_options(self, options: dict[str, str]) -> None:
        """Tell the execution providers something to heed from now on, and forget every answer that is kept."""
        super().set_ep_dynamic_options(options)
        self._cache_clear()

    def disable_fallback(self) -> None:
        """Let a failing execution provider fail the run."""
        self._may_fall_back = False

    def enable_fallback(self) -> None:
        """Let a run whose execution provider fails be repeated on the providers to fall back to."""
        super().enable_fallback()
        # onnxruntime's own flag stays down: it prints.
        self._enable_fallback = False
        self._may_fall_back = True


def _made(kind: type[InferenceSession], model: str | bytes, recipe: dict[str, Any]) -> InferenceSession:
    # The arguments of a subclass's `__init__` are its own affair.
    session = kind.__new__(kind)
    InferenceSession.__init__(session, model, **recipe)
    return session


def _copy_of(options: onnxruntime.SessionOptions | None) -> onnxruntime.SessionOptions | None:
    """The options as they are now, as far as they tell."""
    return options._copy() if isinstance(options, SessionOptions) else options  # noqa: SLF001 - of this package


@contextmanager
def _writing_nothing(options: onnxruntime.SessionOptions | None) -> Iterator[None]:
    """Keep a session that is made meanwhile from writing the parent's profile and optimised model once more."""
    if options is None:
        yield
        return
    kept = options.enable_profiling, options.optimized_model_filepath
    options.enable_profiling, options.optimized_model_filepath = False, ""
    try:
        yield
    finally:
        options.enable_profiling, options.optimized_model_filepath = kept


def _is_plain(feed: object, names: object) -> bool:
    """Whether these are what every caller passes: anything else is onnxruntime's to refuse."""
    if type(feed) is not dict or not isinstance(names, (list, tuple)):
        return False
    return all(type(name) is str for name in (*feed, *names))


def _answers(model: object, given: Cache | str | int | None) -> Answers | None:
    settings = Cache.read(given)
    if settings is None:
        return None
    settings._check_backend("python")  # noqa: SLF001 - a class of this package
    if not settings.allow_random:
        source = model if isinstance(model, bytes) else str(model)
        refuse_random("", random_node(source, native=False))
    return Answers(**settings._given_alone())  # noqa: SLF001 - a class of this package


def _own(value: Any) -> Any:  # noqa: ANN401 - whatever the model gives
    """The value in memory that no one else has; some releases of onnxruntime hand an input's own memory back."""
    if isinstance(value, list):
        return [_own(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def _pinned(feed: Any) -> list[weakref.ref[np.ndarray[Any, Any]]]:  # noqa: ANN401 - onnxruntime checks the feed
    """Weak references to the arrays: numpy moves none that has one, not even by `resize(refcheck=False)`."""
    if type(feed) is not dict:
        return []
    # A list: another thread may change the feed.
    return [weakref.ref(value) for value in list(feed.values()) if isinstance(value, np.ndarray)]
