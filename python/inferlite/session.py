"""The drop-in session on the native core."""

from __future__ import annotations

import logging
import os
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from inferlite import _core, providers as provider_rules
from inferlite.capabilities import refuse
from inferlite.exceptions import InferliteError
from inferlite.metadata import ModelMetadata, NodeArg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnxruntime

    from inferlite.cache import Cache, PredictionCache
    from inferlite.options import SessionOptions

    Providers = Sequence[str | tuple[str, dict[Any, Any]]]

_logger = logging.getLogger("inferlite")

_CPU_ALONE: Final = [provider_rules.CPU]

MODEL_CONFIG_KEY: Final = "ort_config"
"""Where the metadata of a model holds options for its sessions."""


class InferenceSession(_core.Session):
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
    _fall_back = True
    _fallback_providers: Sequence[str] = _CPU_ALONE
    _model_path: str | None = None
    _options: SessionOptions | None = None
    _provider_dicts: Mapping[str, dict[str, str]] = {}

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Providers | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        hold_gil: bool = True,
        cache: Cache | str | int | None = None,
        casting: Literal["no", "safe", "same_kind"] = "no",
        **kwargs: Any,  # noqa: ANN401 - onnxruntime ignores what it does not know
    ) -> None:
        """Load a model.

        Args:
            path_or_bytes: The path of an ONNX or ORT file, or the content of one.
            sess_options: Options, of inferlite's or of onnxruntime's class; a later change does not reach the session.
            providers: Names of execution providers or (name, options) tuples, highest precedence first.
            provider_options: One dict of options for each of `providers`, which are all names then.
            hold_gil: Whether a run that is expected to take a few microseconds may keep the GIL. The environment
                variable `INFERLITE_HOLD_GIL=0` turns it off as well.
            cache: Whether answers are kept and given again for equal inputs, as in `inferlite.load`; None for no cache.
            casting: Which arrays of numbers are cast to the dtype of their input, with numpy's meanings
                (`numpy.can_cast`); `bind` casts none.
            **kwargs: onnxruntime's `enable_fallback` (default 1: when providers cannot be used, log a warning and take
                the CPU), `disabled_optimizers` and `read_config_from_model`; others are ignored, as there.

        Raises:
            TypeError: `path_or_bytes` or `sess_options` is of another type.
            ValueError: `casting` is something else.
            BackendUnavailableError: `sess_options` holds something that only the onnxruntime package can use.
            ModelLoadError: `cache` is given for a model that may be random, or `Cache(by="row")` for one whose rows
                are not independent.
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The model cannot be loaded; and the other classes of
                onnxruntime, as there.
        """
        reads_config = False
        self._casting = _casting(casting)
        if kwargs:
            self._fall_back = int(kwargs.get("enable_fallback", 1)) == 1
            reads_config = "read_config_from_model" in kwargs and int(kwargs["read_config_from_model"]) == 1
        model = path_or_bytes if type(path_or_bytes) is bytes else _model_argument(path_or_bytes)
        if type(model) is str:
            self._model_path = model
        if cache is not None:
            self._cache_settings = _cache_settings(model, cache)
        try:
            self._create(model, sess_options, providers, provider_options, kwargs.get("disabled_optimizers"), hold_gil)
        except InferliteError:
            raise
        except (ValueError, RuntimeError) as error:
            if not self._fall_back:
                raise
            substitutes = self._fallback_providers
            _logger.warning("providers %s cannot be used (%s): falling back to %s", providers, error, substitutes)
            try:
                self._create(model, sess_options, substitutes, None, None, hold_gil)
            except Exception as fallback_error:
                raise fallback_error from error
            self.disable_fallback()
        if getattr(cache, "by", None) == "row":
            self._keep_rows()
        if reads_config and not _config_is_read() and MODEL_CONFIG_KEY in self._metadata.custom_metadata_map:
            refuse("config_from_model", "`read_config_from_model` for a model that holds options")

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
            self._fallback_providers = provider_rules.fallback_providers(_names(providers), available)
            provider_rules.check_pair(_names(providers))
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
            raise TypeError(_constructor_refusal(model))
        settings = settings_for(options, disabled_optimizers, providers_given=bool(names))
        self._open(model, settings, usable, hold_gil, self._cache_settings, self._casting)
        self._settings = settings

    @property
    def engine(self) -> Literal["onnxruntime"]:
        """What runs the model."""
        return "onnxruntime"

    @property
    def cache(self) -> PredictionCache | None:
        """The answers that are kept; None where the session was made without `cache=`."""
        from inferlite.cache import live  # noqa: PLC0415 - most sessions have none

        return live(self)

    # Made when they are asked for: a service that makes many sessions seldom looks at them.

    @cached_property
    def _inputs_meta(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._inputs()]

    @cached_property
    def _outputs_meta(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._outputs()]

    @cached_property
    def _initializers_meta(self) -> list[NodeArg]:
        return [NodeArg(*description) for description in self._overridable_initializers()]

    @cached_property
    def _metadata(self) -> ModelMetadata:
        return ModelMetadata(self._model_metadata())

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that a call passes; the same list each time."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        """The outputs; the same list each time."""
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The initializers that a call may override; the same list each time."""
        return self._initializers_meta

    def get_modelmeta(self) -> ModelMetadata:
        """What the model says about itself; the same object each time."""
        return self._metadata

    def get_providers(self) -> list[str]:
        """The names of the registered execution providers, highest precedence first."""
        return self._providers()

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options that were given to each registered provider; the CPU provider has none."""
        names = self._providers()
        given = {**self._provider_dicts, provider_rules.CPU: {}}
        return {name: dict(given.get(name, {})) for name in names}

    def get_session_options(self) -> SessionOptions:
        """A copy of the options that the session was made with; the same object each time."""
        if self._options is None:
            # Refuses a session that has no model yet.
            self._providers()
            from inferlite.options import options_from_settings  # noqa: PLC0415 - imports onnxruntime

            self._options = options_from_settings(self._settings)
        return self._options

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, on the clock of `time.monotonic_ns`; 0 without profiling."""
        return self._profiling_start_time_ns()

    def disable_fallback(self) -> None:
        """Let a failing execution provider fail the run."""
        self._fall_back = False

    def enable_fallback(self) -> None:
        """Let a run whose execution provider fails be repeated on the providers to fall back to."""
        self._fall_back = True


def settings_for(
    options: onnxruntime.SessionOptions | None,
    disabled_optimizers: Iterable[str] | None = None,
    *,
    providers_given: bool = False,
) -> dict[str, Any]:
    """The settings that the native runtime takes; onnxruntime is imported only for options that exist.

    Raises:
        TypeError: `options` are not onnxruntime's.
        BackendUnavailableError: The options hold something that only the onnxruntime package can use.
    """
    if options is not None and disabled_optimizers is None and hasattr(options, "_settings"):
        # Ours, which knows by itself.
        own: dict[str, Any] = options._settings(providers_given=providers_given)  # noqa: SLF001 - of this package
        return own
    if not options:
        # A falsy value counts as no options, as in onnxruntime.
        return {} if disabled_optimizers is None else {"disabled_optimizers": sorted(set(disabled_optimizers))}
    import onnxruntime  # noqa: PLC0415

    from inferlite.options import session_settings  # noqa: PLC0415 - imports onnxruntime

    if not isinstance(options, onnxruntime.SessionOptions):
        raise TypeError(_constructor_refusal(options))
    return session_settings(options, disabled_optimizers, providers_given=providers_given)


def _cache_settings(model: str | bytes, given: Cache | str | int) -> dict[str, Any] | None:
    from inferlite._model_file import random_node  # noqa: PLC0415 - most sessions have no cache
    from inferlite.cache import Cache, refuse_random  # noqa: PLC0415

    settings = Cache.read(given)
    if settings is None:
        return None
    if not settings.allow_random:
        refuse_random("", random_node(model, native=True))
    return settings._given()  # noqa: SLF001 - a class of this package


def _casting(given: str) -> str:
    if given == "no":
        return given
    from inferlite._exchange import read_casting  # noqa: PLC0415 - most sessions cast nothing

    return read_casting(given)


def _model_argument(path_or_bytes: object) -> str | bytes:
    if isinstance(path_or_bytes, bytes):
        return path_or_bytes
    if not isinstance(path_or_bytes, (str, os.PathLike)):
        message = f"Unable to load from type '{type(path_or_bytes)}'"
        raise TypeError(message)
    path: str | bytes = os.fspath(path_or_bytes)
    try:
        # A PathLike may stand for bytes, and a string may hold what no UTF-8 path can.
        return path.decode() if isinstance(path, bytes) else path.encode().decode()
    except UnicodeError:
        raise TypeError(_constructor_refusal(path)) from None


def _constructor_refusal(given: object) -> str:
    # The first line is onnxruntime's.
    return (
        "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
        "    1. path_or_bytes: str | bytes | os.PathLike, sess_options: SessionOptions | None\n\n"
        f"Invoked with: {given!r}"
    )


def _config_is_read() -> bool:
    # Set, this makes every copy of the runtime read a model's own options.
    return os.environ.get("ORT_LOAD_CONFIG_FROM_MODEL") == "1"


def _names(providers: Any) -> list[Any]:  # noqa: ANN401 - not checked yet
    return [provider[0] if isinstance(provider, tuple) else provider for provider in providers or []]
