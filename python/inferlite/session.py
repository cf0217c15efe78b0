"""The drop-in session on the native core."""

from __future__ import annotations

import logging
import os
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

from inferlite import _arguments as arguments, _backend, _core, providers as provider_rules
from inferlite._value_runs import ValueRuns
from inferlite.capabilities import refusal
from inferlite.exceptions import InferliteError
from inferlite.metadata import ModelMetadata, NodeArg
from inferlite.process_settings import may_be_seeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnxruntime

    from inferlite.batching import Batching
    from inferlite.cache import Cache, PredictionCache
    from inferlite.options import SessionOptions

    Providers = Sequence[str | tuple[str, dict[Any, Any]]]

_logger = logging.getLogger("inferlite")

_CPU_ALONE: Final = [provider_rules.CPU]

MODEL_CONFIG_KEY: Final = "ort_config"
"""Where the metadata of a model holds options for its sessions."""


class InferenceSession(ValueRuns):
    """A model that runs as in `onnxruntime.InferenceSession`: the same calls, answers and exceptions, at less cost.

    Many threads may call `run` on one session at once. Creating a session releases the GIL.

    Example:
        >>> import inferlite
        >>> session = inferlite.InferenceSession("model.onnx")  # doctest: +SKIP
        >>> outputs = session.run(None, {"x": x})  # doctest: +SKIP
        >>> call = session.bind({"x": x})  # doctest: +SKIP
        >>> outputs = call()  # doctest: +SKIP
    """

    # What most sessions never change stays with the class: after a model was made, the caches hold its code, and each
    # line here costs several times what it does in a loop of its own.
    _cache_settings: dict[str, Any] | None = None
    _batching_settings: dict[str, Any] | None = None
    _enable_fallback = True
    _hold_gil = True
    _keeps_rows = False
    _usable: Sequence[tuple[str, dict[str, str]]] = ()
    _fallback_providers: Sequence[str] = _CPU_ALONE
    _model_path: str | None = None
    _optimized_cache: str | None = None
    _options: SessionOptions | None = None

    def __init__(  # noqa: C901, PLR0912, PLR0913 - onnxruntime's arguments, and settings by name
        self,
        path_or_bytes: str | bytes | os.PathLike[str] | bytearray | memoryview | BinaryIO,
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Providers | None = None,
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

        What the native part cannot be told makes the session run on the onnxruntime package itself, which `engine`
        names then: values and callables in `sess_options`, any options of onnxruntime's own class (they do not tell all
        that they hold), random operators after `set_seed`, and options that are read from the model.

        Args:
            path_or_bytes: The path of an ONNX or ORT file, the content of one, which is copied unless it is `bytes`, or
                a binary file, which is read to its end.
            sess_options: Options, of inferlite's or of onnxruntime's class; a later change does not reach the session.
            providers: Names of execution providers or (name, options) tuples, highest precedence first.
            provider_options: One dict of options for each of `providers`, which are all names then.
            hold_gil: Whether a run that is expected to take a few microseconds may keep the GIL. The environment
                variable `INFERLITE_HOLD_GIL=0` turns it off as well.
            cache: Whether answers are kept and given again for equal inputs, as in `inferlite.load`; None for no cache.
            casting: Which arrays of numbers are cast to the dtype of their input, with numpy's meanings
                (`numpy.can_cast`): none, those whose values all stay, or those that stay of their kind; `bind` casts
                none.
            batching: Whether concurrent calls of `run` are combined to batches, as in `inferlite.load`: True, or an
                `inferlite.Batching`; None and False for no. Trial runs find out whether the rows of the model are
                independent. `run` then raises QueueFullError where too many wait.
            optimized_cache: A folder where optimized graphs are kept, which make the next session of the same model,
                settings, runtime and processor in a part of the time. Whoever may write to it decides what sessions
                compute. It grows with every model and setting, and what is in it may be deleted at any time. What
                cannot be kept, or read, is no error.
            release_model: Whether a session made from bytes gives them up. It cannot be pickled, used in a child after
                a fork, or given other providers then.
            **kwargs: onnxruntime's `enable_fallback` (default 1: when providers cannot be used, log a warning and take
                the CPU), `disabled_optimizers` and `read_config_from_model`; others are ignored, as there.

        Raises:
            TypeError: `path_or_bytes` or `sess_options` is of another type.
            BackendUnavailableError: A setting of `cache` or `batching` is not there where the session runs.
            ModelLoadError: `cache` is given for a model that may be random, or `Cache(by="row")` or `batching` for one
                whose rows are not independent.
            ValueError: `casting` is something else, or `batching` has a `timeout`, which no call of `run` has.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The model cannot be loaded; and the other classes of
                onnxruntime, as there.
        """
        self._casting = arguments.casting_of(casting)
        if kwargs:
            self._enable_fallback = int(kwargs.get("enable_fallback", 1)) == 1
        model = path_or_bytes if type(path_or_bytes) is bytes else arguments.model_argument(path_or_bytes)
        if isinstance(model, str):
            self._model_path = model
        else:
            self._model_bytes = model
        if batching is not None:
            from inferlite.batching import Batching  # noqa: PLC0415 - most sessions have none

            batching = Batching.read_for_session(batching)
        given = (sess_options, providers, provider_options)
        if release_model:
            kwargs["release_model"] = True
        if sess_options or may_be_seeded():
            reason = _reason_for_package(model, sess_options, is_told_providers=bool(providers))
            if reason is not None:
                self._hand_over(reason, given, kwargs, cache=cache, batching=batching)
                return
        if cache is not None:
            self._cache_settings = self._allowed_cache(model, cache)
        if optimized_cache is not None:
            self._optimized_cache = os.path.abspath(optimized_cache)  # noqa: PTH100 - resolves no links
        try:
            self._create(model, sess_options, providers, provider_options, kwargs.get("disabled_optimizers"), hold_gil)
        except (ValueError, RuntimeError) as error:
            self._create_on_substitutes(error, model, sess_options, providers, hold_gil)
        if self._cache_settings is not None or batching is not None:
            self._use_independent_rows(getattr(cache, "by", None) == "row", batching, sess_options, providers)
        if kwargs and arguments.must_read_config(kwargs) and MODEL_CONFIG_KEY in self._model_meta.custom_metadata_map:
            self._hand_over("its options are in the model", given, kwargs, cache=cache, batching=batching)
        elif release_model:
            self._release()

    def _release(self) -> None:
        self._release_model()
        self._model_bytes = None
        self._releases_model = True

    def _create_on_substitutes(
        self,
        error: ValueError | RuntimeError,
        model: str | bytes,
        options: onnxruntime.SessionOptions | None,
        providers: Providers | None,
        hold_gil: bool,  # noqa: FBT001
    ) -> None:
        if isinstance(error, InferliteError) or not self._enable_fallback:
            raise error
        substitutes = self._fallback_providers
        _logger.warning("providers %s cannot be used (%s): falling back to %s", providers, error, substitutes)
        try:
            self._create(model, options, substitutes, None, None, hold_gil)
        except Exception as fallback_error:
            raise fallback_error from error
        self.disable_fallback()

    def _allowed_cache(self, model: str | bytes, cache: Cache | str | int) -> dict[str, Any] | None:
        try:
            return arguments.cache_settings(model, cache)
        except InferliteError as error:
            self._refused("cache", error)
        return None

    def _use_independent_rows(
        self,
        by_row: bool,  # noqa: FBT001
        batching: Batching | None,
        options: onnxruntime.SessionOptions | None,
        providers: Providers | None,
    ) -> None:
        if by_row and self._cache_settings is not None:
            try:
                self._use_rows(are_kept=True, batching=None)
                self._keeps_rows = True
            except InferliteError as error:
                self._refused("cache", error)
                # It is there, and keeps nothing from now on.
                self._cache_settings = None
                self._cache_resize(0, None)
        if batching is not None:
            try:
                from inferlite.model import instances  # noqa: PLC0415 - most sessions have no batches

                settings = batching._given(instances("native", options, providers))  # noqa: SLF001 - of this package
                self._use_rows(are_kept=False, batching=settings)
                self._batching_settings = settings
            except InferliteError as error:
                self._refused("batching", error)

    def _refused(self, _feature: Literal["cache", "batching"], error: InferliteError) -> None:
        """Decide what becomes of a session that is refused a cache or batches: there is none."""
        raise error

    def _hand_over(
        self,
        reason: str,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        *,
        cache: Cache | str | int | None,
        batching: Batching | bool | None,
    ) -> None:
        """Let the onnxruntime package run the model, from now on."""
        from inferlite._fallback import InferenceSession as RunningSession  # noqa: PLC0415 - imports onnxruntime
        from inferlite.package_session import class_for  # noqa: PLC0415 - as above

        _logger.info("the session runs on the onnxruntime package: %s", reason)
        model = self._model_bytes or self._model_path or b""
        settings = {"casting": self._casting, **named}
        if batching is not None:
            self._refused("batching", refusal("row_independence", "`batching` on the onnxruntime package"))
        try:
            self._twin = RunningSession(model, *arguments, cache=cache, **settings)
        except InferliteError as error:
            self._refused("cache", error)
            self._twin = RunningSession(model, *arguments, **settings)
        self.__class__ = class_for(type(self))

    def _create(
        self,
        model: str | bytes,
        options: onnxruntime.SessionOptions | None,
        providers: Providers | None,
        provider_options: Sequence[dict[Any, Any]] | None,
        disabled_optimizers: Iterable[str] | None,
        hold_gil: bool,  # noqa: FBT001
    ) -> None:
        names: Sequence[str] = ()
        usable: list[tuple[str, dict[str, str]]] = []
        if provider_options is None and (providers is None or providers == _CPU_ALONE):
            # The usual case, for which the rules below have nothing to say.
            if providers is not None:
                names, usable = _CPU_ALONE, [(provider_rules.CPU, {})]
        else:
            available = _core.available_providers()
            self._fallback_providers = provider_rules.fallback_providers(arguments.provider_names(providers), available)
            provider_rules.check_pair(arguments.provider_names(providers))
            names, dicts = provider_rules.normalize(providers, provider_options, available)
            usable = provider_rules.usable(names, dicts, available)
            self._provider_dicts = dict(zip(names, dicts, strict=True))
        if options and names and options.has_providers():
            warnings.warn(
                "Specified 'providers'/'provider_options' when creating InferenceSession but SessionOptions has "
                "already been configured with providers. InferenceSession will only use the providers "
                "passed to InferenceSession().",
                stacklevel=3,
            )
        if model == "":
            # onnxruntime takes an empty path for no path, and then has no bytes either.
            raise TypeError(arguments.constructor_refusal(model))
        settings = arguments.settings_for(options, disabled_optimizers, providers_given=bool(names))
        if self._optimized_cache is not None:
            settings["optimized_cache"] = self._optimized_cache
        self._open(model, settings, usable, hold_gil, self._cache_settings, self._casting)
        self._settings = settings
        if usable:
            self._usable = usable
        if not hold_gil:
            self._hold_gil = hold_gil

    def __reduce__(self) -> tuple[Any, ...]:
        """How `pickle` and `copy` make the session again: from its path or bytes, and its settings.

        Raises:
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The session was made with `release_model=True`, or its
                file has changed since.
        """
        from inferlite import _pickling  # noqa: PLC0415 - most sessions stay where they are

        model, is_unchanged = self._source()
        recipe = {name: value for name, value in self.__dict__.items() if name in _RECIPE}
        source = _pickling.packed(model, is_unchanged=is_unchanged)
        return _pickling.made, (_made, _pickling.kind_of(self), source, recipe), self.__getstate__()

    def __getstate__(self) -> Any:  # noqa: ANN401 - as `object` has it
        """The attributes that a subclass or a user has added."""
        from inferlite import _pickling  # noqa: PLC0415 - as above

        return _pickling.without(_RECIPE | _DERIVED, super().__getstate__())

    def _make_again(self, model: str | bytes, recipe: dict[str, Any]) -> None:
        self.__dict__.update(recipe)
        if isinstance(model, bytes):
            self._model_bytes = model
        self._open(model, self._settings, self._usable, self._hold_gil, self._cache_settings, self._casting)
        if self._keeps_rows:
            self._use_rows(are_kept=True, batching=None)
        if self._batching_settings is not None:
            self._use_rows(are_kept=False, batching=self._batching_settings)

    @property
    def engine(self) -> Literal["onnxruntime", "onnxruntime (python)"]:
        """What runs the model: ONNX Runtime, by way of the native part or of the onnxruntime package."""
        return "onnxruntime"

    @property
    def cache(self) -> PredictionCache | None:
        """The answers that are kept; None where the session was made without `cache=`."""
        if self._cache_settings is None:
            return None
        from inferlite.cache import live  # noqa: PLC0415 - most sessions have none

        return live(self)

    # Made when they are asked for: a service that makes many sessions seldom looks at them.

    # What code outside onnxruntime reads of its sessions.

    @property
    def _providers(self) -> list[str]:
        return self._provider_names()

    @property
    def _provider_options(self) -> dict[str, dict[str, str]]:
        return self.get_provider_options()

    @property
    def _sess_options(self) -> SessionOptions:
        return self.get_session_options()

    @cached_property
    def _inputs_meta(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._inputs()]

    @cached_property
    def _outputs_meta(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._outputs()]

    @cached_property
    def _overridable_initializers(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._initializers()]

    @cached_property
    def _model_meta(self) -> ModelMetadata:
        return ModelMetadata(self._model_metadata())

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that a call passes; the same list each time."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        """The outputs; the same list each time."""
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The initializers that a call may override; the same list each time."""
        return self._overridable_initializers

    def get_modelmeta(self) -> ModelMetadata:
        """What the model says about itself; the same object each time."""
        return self._model_meta

    def get_providers(self) -> list[str]:
        """The names of the registered execution providers, highest precedence first."""
        return self._provider_names()

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options that were given to each registered provider; the CPU provider has none."""
        names = self._provider_names()
        given = {**self._provider_dicts, provider_rules.CPU: {}}
        return {name: dict(given.get(name, {})) for name in names}

    def set_providers(
        self, providers: Providers | None = None, provider_options: Sequence[dict[Any, Any]] | None = None
    ) -> None:
        """Make the session anew on these execution providers, and forget every answer that is kept.

        Runs that are under way end on the old ones, whose memory is given back with the session.

        Args:
            providers: Names of execution providers or (name, options) tuples, highest precedence first.
            provider_options: One dict of options for each of `providers`, which are all names then.

        Raises:
            RuntimeError: No build of onnxruntime knows one of the names.
            ValueError: An argument has another form.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The model's file has changed; and the other classes.
        """
        self._reset_session(providers, provider_options)

    def _reset_session(self, providers: Providers | None, provider_options: Sequence[dict[Any, Any]] | None) -> None:
        available = _core.available_providers()
        provider_rules.check_pair(arguments.provider_names(providers))
        names, dicts = provider_rules.normalize(providers, provider_options, available)
        usable = provider_rules.usable(names, dicts, available)
        self._set_providers(usable)
        self._usable = usable
        self._fallback_providers = provider_rules.fallback_providers(names, available)
        self._provider_dicts = dict(zip(names, dicts, strict=True))
        # As in onnxruntime, which disables them for the first session alone.
        self._settings = {key: value for key, value in self._settings.items() if key != "disabled_optimizers"}
        self._twin = None

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Tell the execution providers something that they may heed from now on, and forget every answer that is kept.

        Args:
            options: Values by key, such as `{"ep.dynamic.workload_type": "Efficient"}`.

        Raises:
            TypeError: `options` is not a dict.
            RuntimeError: There are none.
        """
        if not isinstance(options, dict):
            message = (
                "set_ep_dynamic_options(): incompatible function arguments. The following argument types are "
                f"supported:\n    1. options: dict\n\nInvoked with: {options!r}"
            )
            raise TypeError(message)
        if not options:
            message = "no options were given: pass a dict with at least one"
            raise RuntimeError(message)
        self._set_dynamic_options([(str(key), str(value)) for key, value in options.items()])
        if self._twin is not None:
            self._twin.set_ep_dynamic_options(options)

    def get_input_memory_infos(self) -> list[onnxruntime.OrtMemoryInfo]:
        """Where the runtime wants each input that a call passes."""
        return _memory_infos(self._memory_infos(is_for_inputs=True))

    def get_output_memory_infos(self) -> list[onnxruntime.OrtMemoryInfo]:
        """Where the runtime puts each output."""
        return _memory_infos(self._memory_infos(is_for_inputs=False))

    def get_session_options(self) -> SessionOptions:
        """A copy of the options that the session was made with; the same object each time."""
        if self._options is None:
            # Refuses a session that has no model yet.
            self._provider_names()
            from inferlite.options import options_from_settings  # noqa: PLC0415 - imports onnxruntime

            self._options = options_from_settings(self._settings)
        return self._options

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, on the clock of `time.monotonic_ns`; 0 without profiling."""
        return self._profiling_start_time_ns()

    def disable_fallback(self) -> None:
        """Let a failing execution provider fail the run."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Let a run whose execution provider fails be repeated on the providers to fall back to."""
        self._enable_fallback = True


def _memory_infos(rows: Iterable[tuple[str, int, int, int]]) -> list[onnxruntime.OrtMemoryInfo]:
    import onnxruntime  # noqa: PLC0415 - only for those who ask

    return [
        onnxruntime.OrtMemoryInfo(name, onnxruntime.OrtAllocatorType(allocator), device, onnxruntime.OrtMemType(memory))
        for name, allocator, device, memory in rows
    ]


def _reason_for_package(
    model: str | bytes, options: onnxruntime.SessionOptions | None, *, is_told_providers: bool
) -> str | None:
    """Why the session has to run on the onnxruntime package, if it has to.

    Raises:
        TypeError: `options` are not onnxruntime's.
    """
    if options:
        import onnxruntime  # noqa: PLC0415 - imported already, by whoever made the options

        from inferlite.options import unreadable  # noqa: PLC0415 - imports onnxruntime

        if not isinstance(options, onnxruntime.SessionOptions):
            raise TypeError(arguments.constructor_refusal(options))
        reason = unreadable(options, providers_given=is_told_providers)
        if reason is not None:
            return reason
    if may_be_seeded():
        from inferlite._model_file import random_node  # noqa: PLC0415 - only after `set_seed`

        node = random_node(model, native=True)
        if node is not None:
            return f"`set_seed` was called, and the model may be random ({node})"
    return None


# What a session is made of, beside its model.
_RECIPE: Final = frozenset(
    {
        "_batching_settings",
        "_cache_settings",
        "_casting",
        "_enable_fallback",
        "_fallback_providers",
        "_hold_gil",
        "_keeps_rows",
        "_model_path",
        "_optimized_cache",
        "_provider_dicts",
        "_settings",
        "_usable",
    }
)
# What it finds out by itself.
_DERIVED: Final = frozenset(
    {
        "_all_outputs",
        "_inputs_meta",
        "_model_bytes",
        "_model_meta",
        "_options",
        "_outputs_meta",
        "_overridable_initializers",
        "_releases_model",
        "_required",
        "_twin",
    }
)


def _made(kind: type[InferenceSession], model: str | bytes, recipe: dict[str, Any]) -> InferenceSession:
    _backend.load_native()
    # Without `__init__`, whose arguments are a subclass's own affair.
    session: InferenceSession = _core.Session.__new__(kind)
    session._make_again(model, recipe)  # noqa: SLF001 - of this module
    return session
