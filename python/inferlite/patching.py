"""`patch`: libraries that use onnxruntime get inferlite, without a change to them."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from inferlite import _backend
from inferlite.batching import Batching
from inferlite.cache import Cache

if TYPE_CHECKING:
    from types import TracebackType

    from inferlite.exceptions import InferliteError

_logger = logging.getLogger("inferlite")

# The classes, and the settings that the native part has for itself.
_CLASSES: Final = ("InferenceSession", "SessionOptions", "RunOptions")
_FUNCTIONS: Final = ("set_seed", "set_default_logger_severity", "enable_telemetry_events", "disable_telemetry_events")

# Whoever passes more passes it to onnxruntime, which ignores it.
_KNOWN_ARGUMENTS: Final = ("disabled_optimizers", "enable_fallback", "read_config_from_model")

# They define the names, or hand the definitions on to each other: what they do with them is onnxruntime's own affair.
_LEFT_ALONE: Final = ("onnxruntime.capi", "inferlite")


@dataclass(eq=False, slots=True)
class Patch:
    """One call of `patch`, which `unpatch`, or leaving a `with` block, takes back."""

    cache: Cache | None
    batching: Batching | None

    def __enter__(self) -> Self:
        """Do nothing more: the call of `patch` has done it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Take this call of `patch` back, if `unpatch` has not."""
        _withdraw(self)


class _State:
    """What is patched."""

    # Reentrant: making a class may run a metaclass of somebody's.
    lock = threading.RLock()
    calls: tuple[Patch, ...] = ()
    # What was found, and what was put in its place.
    exchanged: tuple[tuple[Any, Any], ...] = ()
    # Those of earlier patches too: sessions that were made then stay instances of what is made now.
    made: tuple[tuple[type, type, type], ...] = ()


def _renew_lock() -> None:
    # A thread that stayed in the parent may have held it.
    _State.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def patch(
    cache: Cache | str | int | None = None,
    batching: Batching | bool | None = None,  # noqa: FBT001 - as the settings of sessions
) -> Patch:
    """Let everything in this process that uses onnxruntime get inferlite, until `unpatch`.

    `onnxruntime.InferenceSession`, `SessionOptions` and `RunOptions` become inferlite's, on the module `onnxruntime`
    and in the globals of every loaded module that has imported them by name; so do the functions for the seed, the
    severity of the log, and telemetry, of which each copy of the runtime has its own. Sessions that are made from then
    on run on the active back end with onnxruntime's defaults and answers, and are instances of the classes of both
    packages, also where these were imported earlier. What was made before stays as it is, and so do classes derived
    before. Names in closures, default arguments and attributes of classes cannot be exchanged.

    It may be called again, from any thread: each call is taken back by one `unpatch`, and the last one restores
    everything, in modules imported meanwhile too.

    Args:
        cache: Whether every session that is made keeps answers, as in `InferenceSession`; one that is refused it works
            without, and a warning is logged. None for what the call of `patch` around this one says.
        batching: The same for batches of concurrent calls.

    Returns:
        What a `with` block takes, to take the call back at its end.

    Raises:
        TypeError: `cache` or `batching` is of another type.
        ValueError: A setting is out of range, or `batching` has a `timeout`, which sessions cannot keep.
        BackendUnavailableError: No back end can be used.

    Example:
        >>> import inferlite
        >>> with inferlite.patch():
        ...     import onnxruntime
        ...
        ...     issubclass(onnxruntime.SessionOptions, inferlite.SessionOptions)
        True
        >>> issubclass(onnxruntime.SessionOptions, inferlite.SessionOptions)
        False
    """
    call = Patch(Cache.read(cache), Batching.read_for_session(batching))
    # They derive from onnxruntime's classes, and must not find ours in their place.
    backend = _backend.active()
    import inferlite._fallback  # noqa: PLC0415
    import inferlite.options  # noqa: PLC0415, F401

    with _State.lock:
        pairs = _stand_ins(backend)
        _State.exchanged = (*_State.exchanged, *(pair for pair in pairs if pair not in _State.exchanged))
        _State.calls = (*_State.calls, call)
        _exchange({id(found): ours for found, ours in _State.exchanged})
    return call


def unpatch() -> None:
    """Take the last call of `patch` back; nothing where there is none.

    Sessions made meanwhile go on as they are.
    """
    with _State.lock:
        if _State.calls:
            _withdraw(_State.calls[-1])


def _withdraw(call: Patch) -> None:
    with _State.lock:
        if call not in _State.calls:
            return
        _State.calls = tuple(other for other in _State.calls if other is not call)
        if not _State.calls:
            _exchange({id(ours): found for found, ours in _State.exchanged})
            _State.exchanged = ()


def _exchange(by_id: dict[int, Any]) -> None:
    for module in list(sys.modules.values()):
        # Anything may lie there. A module that is loaded when it is first used must not notice that it was looked at.
        if not issubclass(type(module), ModuleType):
            continue
        namespace = ModuleType.__getattribute__(module, "__dict__")
        name = namespace.get("__name__")
        if isinstance(name, str) and name.startswith(_LEFT_ALONE) and _is_left_alone(name):
            continue
        for key, value in list(namespace.items()):
            if id(value) in by_id:
                namespace[key] = by_id[id(value)]


def _is_left_alone(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in _LEFT_ALONE)


def _stand_ins(backend: _backend.Backend) -> list[tuple[Any, Any]]:
    """What is to be exchanged now, and against what."""
    import onnxruntime  # noqa: PLC0415 - `import inferlite` must not

    from inferlite import options, process_settings  # noqa: PLC0415 - as above

    ours = {ours for _, ours in _State.exchanged}
    bases = {
        "InferenceSession": backend.InferenceSession,
        "SessionOptions": options.SessionOptions,
        "RunOptions": options.RunOptions,
    }
    pairs = []
    for name in _CLASSES:
        found = getattr(onnxruntime, name)
        if found not in ours:
            pairs.append((found, _stand_in(name, found, bases[name])))
    for name in _FUNCTIONS:
        found = getattr(onnxruntime, name)
        replacement = getattr(process_settings, name)
        if found is not replacement:
            pairs.append((found, replacement))
    return pairs


def _stand_in(name: str, found: type, base: type) -> type:
    """A class that derives from both, and of which the instances of either are instances."""
    for other, other_base, made in _State.made:
        if other is found and other_base is base:
            return made
    bases = (base,) if issubclass(base, found) else (base, found)
    body: dict[str, Any] = {"__module__": "onnxruntime", "__qualname__": name, "__doc__": found.__doc__}
    body["_stands_for"] = (found, base)
    if name == "InferenceSession":
        bases = (_PatchedSession, *bases)
        from_package = getattr(found, "_from_initialized_c_session", None)
        if from_package is not None:
            # Its session is there already, and stays onnxruntime's.
            body["_from_initialized_c_session"] = staticmethod(from_package)
    else:
        body["__slots__"] = ()
    stand_in: type = _metaclass(type(base))(name, bases, body)
    _State.made = (*_State.made, (found, base, stand_in))
    return stand_in


@functools.cache
def _metaclass(base: type[type]) -> type[type]:
    """The class of classes that stand in for others; what derives from those is judged as any other class."""

    def has_instance(cls: type, instance: object) -> bool:
        stands_for = vars(cls).get("_stands_for")
        return base.__instancecheck__(cls, instance) if stands_for is None else isinstance(instance, stands_for)

    def has_subclass(cls: type, subclass: type) -> bool:
        stands_for = vars(cls).get("_stands_for")
        return base.__subclasscheck__(cls, subclass) if stands_for is None else issubclass(subclass, stands_for)

    return type("StandIn", (base,), {"__instancecheck__": has_instance, "__subclasscheck__": has_subclass})


class _PatchedSession:
    """What a session does otherwise where it was made as one of onnxruntime's."""

    def __init__(
        self,
        path_or_bytes: Any,  # noqa: ANN401 - the session checks them all
        sess_options: Any = None,  # noqa: ANN401
        providers: Any = None,  # noqa: ANN401
        provider_options: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        known = {name: kwargs[name] for name in _KNOWN_ARGUMENTS if name in kwargs}
        features = {"cache": _wanted("cache"), "batching": _wanted("batching")}
        super().__init__(path_or_bytes, sess_options, providers, provider_options, **features, **known)  # type: ignore[call-arg]

    def _refused(self, feature: Literal["cache", "batching"], error: InferliteError) -> None:
        _logger.warning("a session works without `%s` of `inferlite.patch`: %s", feature, error)


def _wanted(feature: Literal["cache", "batching"]) -> Any:  # noqa: ANN401 - settings of either
    """What the innermost call of `patch` that says anything says."""
    given = (getattr(call, feature) for call in reversed(_State.calls))
    return next((settings for settings in given if settings is not None), None)
