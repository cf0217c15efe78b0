"""Options of sessions and runs: onnxruntime's own classes, which remember what was put into them.

onnxruntime's options cannot be read back in full, and the native back end has to: its runtime is another copy of
ONNX Runtime than the one these objects live in.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

import onnxruntime

from inferlite._config_keys import KNOWN_CONFIG_KEYS
from inferlite._pickling import kind_of
from inferlite.capabilities import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferlite import _core

_logger = logging.getLogger("inferlite")

DEFAULT_ATTRIBUTES: Final = {
    "enable_cpu_mem_arena": True,
    "enable_mem_pattern": True,
    "enable_profiling": False,
    "execution_mode": 0,
    "graph_optimization_level": 99,
    "inter_op_num_threads": 0,
    "intra_op_num_threads": 0,
    "log_severity_level": -1,
    "log_verbosity_level": 0,
    "logid": "",
    "optimized_model_filepath": "",
    "profile_file_prefix": "onnxruntime_profile_",
    "use_deterministic_compute": False,
    "use_per_session_threads": True,
}
"""The attributes that the native runtime can be given, and onnxruntime's defaults; enumerations as numbers."""

# The C interface has no setter for these, and no answer depends on them.
_WITHOUT_SETTER: Final = {"enable_mem_reuse": True, "execution_order": onnxruntime.ExecutionOrder.DEFAULT}

_DEFAULTS: Final = {**DEFAULT_ATTRIBUTES, **_WITHOUT_SETTER}

_ENUMERATIONS: Final = {
    "execution_mode": onnxruntime.ExecutionMode,
    "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
}


class SessionOptions(onnxruntime.SessionOptions):
    """Options of a session: `onnxruntime.SessionOptions`, with its attributes, defaults and exceptions.

    It also remembers what onnxruntime's object does not give back, and keeps the values of `add_initializer` alive,
    which onnxruntime reads without owning them.

    Example:
        >>> import inferlite
        >>> options = inferlite.SessionOptions()
        >>> options.intra_op_num_threads = 1
        >>> options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    """

    # Without slots, a misspelt attribute would be taken.
    __slots__ = ("_assigned", "_calls")

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Make options that hold onnxruntime's defaults; takes no arguments."""
        super().__init__(*args, **kwargs)
        # Every call that succeeded, in order; the arguments stay alive with it.
        self._calls: tuple[tuple[str, tuple[Any, ...]], ...] = ()
        # The attributes that were set: all others hold onnxruntime's defaults.
        self._assigned: frozenset[str] = frozenset()

    def _call(self, method: str, *args: Any) -> None:  # noqa: ANN401 - onnxruntime checks the types
        getattr(super(), method)(*args)
        self._calls = (*self._calls, (method, args))

    def _forget(self, method: str) -> None:
        self._calls = tuple(call for call in self._calls if call[0] != method)

    def _recorded(self, method: str) -> list[tuple[Any, ...]]:
        return [args for name, args in self._calls if name == method]

    def add_session_config_entry(self, key: str, value: str, /) -> None:
        """Set a configuration entry.

        Raises:
            RuntimeError: The key is empty or longer than onnxruntime allows.
        """
        self._call("add_session_config_entry", key, value)

    def add_free_dimension_override_by_name(self, name: str, value: int, /) -> None:
        """Give a number to the axes that the model's inputs call `name`."""
        self._call("add_free_dimension_override_by_name", name, value)

    def add_free_dimension_override_by_denotation(self, denotation: str, value: int, /) -> None:
        """Give a number to the axes of this denotation, such as `DATA_BATCH`."""
        self._call("add_free_dimension_override_by_denotation", denotation, value)

    def register_custom_ops_library(self, path: str, /) -> None:
        """Load a shared library with the kernels of custom operators.

        Raises:
            onnxruntime.capi.onnxruntime_pybind11_state.Fail: The library cannot be loaded.
        """
        self._call("register_custom_ops_library", path)

    def add_initializer(self, name: str, value: onnxruntime.OrtValue, /) -> None:
        """Give a value to an initializer; the options keep it alive."""
        self._call("add_initializer", name, value)

    def add_external_initializers(self, names: list[str], values: list[onnxruntime.OrtValue], /) -> None:
        """Give values to initializers that the model keeps in external files; the options keep them alive."""
        self._call("add_external_initializers", names, values)

    def add_external_initializers_from_files_in_memory(self, *args: Any) -> None:  # noqa: ANN401
        """Give the contents of the external files of a model: names, buffers and lengths in bytes."""
        self._call("add_external_initializers_from_files_in_memory", *args)

    def add_provider(self, *args: Any) -> None:  # noqa: ANN401
        """Add an execution provider: its name and a dict of options."""
        self._call("add_provider", *args)

    def add_provider_for_devices(self, *args: Any) -> None:  # noqa: ANN401
        """Add an execution provider for a list of devices, with a dict of options."""
        self._call("add_provider_for_devices", *args)

    def set_provider_selection_policy(self, *args: Any) -> None:  # noqa: ANN401
        """Let the runtime choose providers by a policy."""
        self._call("set_provider_selection_policy", *args)

    def set_provider_selection_policy_delegate(self, *args: Any) -> None:  # noqa: ANN401
        """Let a callable choose providers."""
        self._call("set_provider_selection_policy_delegate", *args)

    def set_load_cancellation_flag(self, *args: Any) -> None:  # noqa: ANN401
        """Cancel the loading of a model, from another thread."""
        self._forget("set_load_cancellation_flag")
        self._call("set_load_cancellation_flag", *args)

    def set_ep_context_data_read_func(self, *args: Any) -> None:  # noqa: ANN401
        """Let a callable read the data of compiled models."""
        self._call("set_ep_context_data_read_func", *args)

    def clear_ep_context_data_read_func(self, *args: Any) -> None:  # noqa: ANN401
        """Take back `set_ep_context_data_read_func`."""
        super().clear_ep_context_data_read_func(*args)
        self._forget("set_ep_context_data_read_func")

    def _settings(self, *, providers_given: bool) -> dict[str, Any]:
        """What `session_settings` says of these options, without a detour for those that hold little."""
        if self._calls:
            return session_settings(self, providers_given=providers_given)
        return _attributes(self)

    def _unreadable(self, *, providers_given: bool) -> str | None:
        """The method that was given what only the onnxruntime package can use, if any was."""
        if not providers_given and self.has_providers():
            return "`SessionOptions.add_provider`"
        for method, args in self._calls:
            if method in _REFUSED and args != _REFUSED[method]:
                return f"`SessionOptions.{method}`"
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        """How `pickle` and `copy` make the options again."""
        assigned = {name: getattr(self, name) for name in sorted(self._assigned)}
        return _options_again, (kind_of(self), assigned, self._calls)

    def _copy(self) -> SessionOptions:
        """Options that are equal now and change on their own from here."""
        copy = type(self)()
        for name in self._assigned:
            setattr(copy, name, getattr(self, name))
        for method, args in self._calls:
            copy._call(method, *args)  # noqa: SLF001 - another instance of this class
        return copy


def _options_again(
    kind: type[SessionOptions], assigned: dict[str, Any], calls: tuple[tuple[str, tuple[Any, ...]], ...]
) -> SessionOptions:
    options = kind()
    for name, value in assigned.items():
        setattr(options, name, value)
    for method, args in calls:
        options._call(method, *args)  # noqa: SLF001 - the class of this module
    return options


def _noted(name: str) -> property:
    """onnxruntime's property, whose setter also notes that it was used."""
    base = getattr(onnxruntime.SessionOptions, name)

    def write(self: SessionOptions, value: object) -> None:
        base.fset(self, value)
        if name not in self._assigned:
            self._assigned |= {name}

    return property(base.fget, write, doc=base.__doc__)


for _name in (*DEFAULT_ATTRIBUTES, *_WITHOUT_SETTER):
    setattr(SessionOptions, _name, _noted(_name))


class RunOptions(onnxruntime.RunOptions):
    """Options of one run: `onnxruntime.RunOptions`, with its attributes, defaults and exceptions.

    Setting `terminate` from another thread ends the runs that use these options, on both back ends.

    Example:
        >>> import inferlite
        >>> options = inferlite.RunOptions()
        >>> options.terminate = True
    """

    __slots__ = ("_calls", "_followers", "_handle")

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Make options that hold onnxruntime's defaults; takes no arguments."""
        super().__init__(*args, **kwargs)
        # Every call that succeeded, in order; the arguments stay alive with it.
        self._calls: tuple[tuple[str, tuple[Any, ...]], ...] = ()
        # Options of single runs, which `terminate` reaches as well.
        self._followers: weakref.WeakSet[RunOptions] = weakref.WeakSet()
        # What the native runtime reads; None while the Python back end is active.
        self._handle: _core.RunOptions | None = _native_run_options()

    def add_run_config_entry(self, key: str, value: str, /) -> None:
        """Set a configuration entry.

        Raises:
            RuntimeError: The key is empty or longer than onnxruntime allows.
        """
        super().add_run_config_entry(key, value)
        self._calls = (*self._calls, ("add_run_config_entry", (key, value)))
        if self._handle is not None:
            self._handle.add_config_entry(key, value)

    def add_active_adapter(self, adapter: onnxruntime.LoraAdapter, /) -> None:
        """Use an adapter for this run, which the onnxruntime package makes: it alone can read the adapter."""
        super().add_active_adapter(adapter)
        self._calls = (*self._calls, ("add_active_adapter", (adapter,)))
        if self._handle is not None:
            self._handle.set_need_package()

    def _for_one(self) -> RunOptions:
        """Options of one run that say the same; setting `terminate` of these ends it."""
        copy = RunOptions()
        self._followers.add(copy)
        for name in _MIRRORED:
            setattr(copy, name, getattr(self, name))
        for method, args in self._calls:
            getattr(copy, method)(*args)
        return copy


_MIRRORED: Final = ("terminate", "log_severity_level", "log_verbosity_level", "logid")


def _mirrored(name: str) -> property:
    """onnxruntime's property, whose setter also tells the native runtime."""
    base = getattr(onnxruntime.RunOptions, name)

    def write(self: RunOptions, value: object) -> None:
        base.fset(self, value)
        if self._handle is not None:
            # Read back: onnxruntime has checked and converted the value.
            getattr(self._handle, f"set_{name}")(base.fget(self))
        if name == "terminate":
            for follower in list(self._followers):
                follower.terminate = value

    return property(base.fget, write, doc=base.__doc__)


for _name in _MIRRORED:
    setattr(RunOptions, _name, _mirrored(_name))


def _native_run_options() -> _core.RunOptions | None:
    from inferlite import _backend  # noqa: PLC0415 - the back ends import this module

    if _backend.active().name != "native":
        return None
    from inferlite import _core  # noqa: PLC0415 - there only with the native back end

    return _core.RunOptions()


def session_settings(
    options: onnxruntime.SessionOptions | None,
    disabled_optimizers: Iterable[str] | None = None,
    *,
    providers_given: bool = False,
) -> dict[str, Any]:
    """The settings that the native runtime takes; what holds onnxruntime's default is left out.

    `enable_mem_reuse` and `execution_order` are among them too, for `options_from_settings`; the runtime ignores them.

    Options made by onnxruntime's own class tell their attributes and the configuration entries of known keys. Free
    dimensions, initializers and libraries of custom operators cannot be read back from them: make such options with
    `inferlite.SessionOptions`.

    Args:
        options: The options; None for onnxruntime's defaults.
        disabled_optimizers: Names of graph optimizers to leave out.
        providers_given: Whether the session is told its providers, which overrule those in the options.

    Raises:
        BackendUnavailableError: The options hold something that only the onnxruntime package can use.
    """
    settings: dict[str, Any] = {}
    if options is not None:
        if isinstance(options, SessionOptions):
            reason = options._unreadable(providers_given=providers_given)  # noqa: SLF001 - the class of this module
        else:
            reason = "`SessionOptions.add_provider`" if options.has_providers() and not providers_given else None
        if reason is not None:
            refuse("session_objects", reason)
        settings.update(_attributes(options))
        settings.update(_records(options) if isinstance(options, SessionOptions) else _known_entries(options))
    if disabled_optimizers is not None:
        # The order of a set changes from run to run.
        settings["disabled_optimizers"] = sorted(set(disabled_optimizers))
    return settings


def unreadable(options: onnxruntime.SessionOptions, *, providers_given: bool) -> str | None:
    """What the native runtime cannot be told of these options; None if it can be told all.

    Options made by onnxruntime's own class do not tell whether they hold initializers, free dimensions, libraries of
    operators or callbacks, so that the answers of a session without these could be others.
    """
    if isinstance(options, SessionOptions):
        return options._unreadable(providers_given=providers_given)  # noqa: SLF001 - the class of this module
    if not _Told.of_plain_options:
        _Told.of_plain_options = True
        _logger.warning(
            "a session with options of onnxruntime's own class runs on the onnxruntime package, since they do not tell "
            "all that they hold: make them with `inferlite.SessionOptions`, or call `inferlite.patch()` before"
        )
    return "options of onnxruntime's own class"


class _Told:
    """What has been said once, which is enough."""

    of_plain_options = False


def options_from_settings(settings: dict[str, Any]) -> SessionOptions:
    """New options that hold these settings."""
    options = SessionOptions()
    for name, default in DEFAULT_ATTRIBUTES.items():
        value = settings.get(name, default)
        setattr(options, name, _ENUMERATIONS[name](value) if name in _ENUMERATIONS else value)
    for name in _WITHOUT_SETTER.keys() & settings.keys():
        setattr(options, name, settings[name])
    for key, value in settings.get("config_entries", {}).items():
        options.add_session_config_entry(key, value)
    for name, value in settings.get("free_dimensions_by_name", {}).items():
        options.add_free_dimension_override_by_name(name, value)
    for denotation, value in settings.get("free_dimensions_by_denotation", {}).items():
        options.add_free_dimension_override_by_denotation(denotation, value)
    for path in settings.get("custom_op_libraries", []):
        options.register_custom_ops_library(path)
    return options


def copied(options: onnxruntime.SessionOptions | None) -> SessionOptions | None:
    """A copy that may be changed; None for options made by onnxruntime's own class, which do not tell all they hold."""
    if options is None:
        return SessionOptions()
    return options._copy() if isinstance(options, SessionOptions) else None  # noqa: SLF001 - the class of this module


def _attributes(options: onnxruntime.SessionOptions) -> dict[str, Any]:
    names = options._assigned if isinstance(options, SessionOptions) else _DEFAULTS  # noqa: SLF001 - of this module
    attributes = {}
    for name in names:
        value = getattr(options, name)
        value = int(value) if name in _ENUMERATIONS else value
        if value != _DEFAULTS[name]:
            attributes[name] = value
    # What cannot be set is kept all the same, for the copy that the session gives back.
    for name in _WITHOUT_SETTER:
        if name not in attributes:
            continue
        value = attributes[name]
        _logger.warning("`SessionOptions.%s` is %s, which the native back end cannot set: ignored", name, value)
    return attributes


# What only the onnxruntime package can use, with the arguments under which a call changes nothing. Providers in the
# options are looked for through `has_providers`.
_REFUSED: Final[dict[str, tuple[Any, ...] | None]] = {
    "add_initializer": None,
    "add_external_initializers": ([], []),
    "add_external_initializers_from_files_in_memory": ([], [], []),
    "set_provider_selection_policy": None,
    "set_provider_selection_policy_delegate": None,
    "set_load_cancellation_flag": (False,),
    "set_ep_context_data_read_func": None,
}


def _records(options: SessionOptions) -> dict[str, Any]:
    recorded = options._recorded  # noqa: SLF001 - the class of this module
    entries = recorded("add_session_config_entry")
    by_name = recorded("add_free_dimension_override_by_name")
    by_denotation = recorded("add_free_dimension_override_by_denotation")
    found = {
        "config_entries": {_text(key): _text(value) for key, value in entries},
        "free_dimensions_by_name": {_text(name): int(value) for name, value in by_name},
        "free_dimensions_by_denotation": {_text(name): int(value) for name, value in by_denotation},
        "custom_op_libraries": [_text(path) for (path,) in recorded("register_custom_ops_library")],
    }
    return {name: value for name, value in found.items() if value}


def _text(value: str | bytes) -> str:
    # onnxruntime takes bytes where it takes a string.
    return value.decode() if isinstance(value, bytes) else value


def _known_entries(options: onnxruntime.SessionOptions) -> dict[str, Any]:
    entries = {}
    for key in KNOWN_CONFIG_KEYS:
        try:
            entries[key] = options.get_session_config_entry(key)
        except RuntimeError:
            continue
    return {"config_entries": entries} if entries else {}
