"""What inferlite makes of run options of onnxruntime's own class, which tell a part of what they hold."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import onnxruntime

from inferlite import _core
from inferlite.providers import CPU

if TYPE_CHECKING:
    from inferlite.session import InferenceSession

# Those that the CPU provider heeds; the keys of other providers make no difference to it.
_KNOWN_ENTRIES: Final = ("disable_synchronize_execution_providers", "memory.enable_memory_arena_shrinkage")
_NUMBERS: Final = ("log_severity_level", "log_verbosity_level")

# Held while options are written to or read as a whole: `terminate` must not get lost in between.
_lock = threading.RLock()


@dataclass(slots=True)
class _Mirror:
    """The native half of options that have none of their own, and what it was told last."""

    options: weakref.ref[Any]
    handle: _core.RunOptions = field(default_factory=_core.RunOptions)
    logging: tuple[Any, ...] = (-1, 0, "")
    entries: dict[str, str] = field(default_factory=dict)

    def follow(self, options: onnxruntime.RunOptions) -> None:
        """Say what the options say by now; nothing is told twice, since runs under way may be reading the rest."""
        logging = (*(getattr(options, name) for name in _NUMBERS), options.logid)
        if logging != self.logging:
            self.handle.set_log_severity_level(logging[0])
            self.handle.set_log_verbosity_level(logging[1])
            self.handle.set_logid(logging[2])
            self.logging = logging
        for key in _KNOWN_ENTRIES:
            try:
                value = options.get_run_config_entry(key)
            except RuntimeError:
                continue
            if self.entries.get(key) != value:
                self.handle.add_config_entry(key, value)
                self.entries[key] = value
        self.handle.set_terminate(options.terminate)


# By the options' address, which is theirs until the weak reference says that they are gone.
_mirrors: Final[dict[int, _Mirror]] = {}


def native_run_options(session: InferenceSession, options: onnxruntime.RunOptions) -> _core.RunOptions:
    """A native half of options of onnxruntime's own class; `terminate` reaches it as long as the options live.

    What cannot be read are adapters, which only a model with initializers to override can use, and configuration
    entries of unknown keys, which only providers other than the CPU's heed: such a session leaves the call to the
    onnxruntime package. `only_execute_path_to_fetches` changes nothing but in builds for training.
    """
    if session.get_overridable_initializers() or session.get_providers() != [CPU]:
        return _for_package()
    _follow_terminate()
    with _lock:
        mirror = _mirrors.get(id(options))
        if mirror is None or mirror.options() is not options:
            place = id(options)
            mirror = _mirrors[place] = _Mirror(weakref.ref(options, lambda gone: _forget(place, gone)))
        mirror.follow(options)
        return mirror.handle


def _forget(place: int, gone: weakref.ref[Any]) -> None:
    # Another object may have the address by now.
    mirror = _mirrors.get(place)
    if mirror is not None and mirror.options is gone:
        _mirrors.pop(place, None)


@cache
def _for_package() -> _core.RunOptions:
    handle = _core.RunOptions()
    handle.set_need_package()
    return handle


@cache
def _follow_terminate() -> None:
    """Let `terminate` of onnxruntime's own class tell the native half, if there is one.

    The flag may be set at any moment by another thread, while a run reads it; to look at it again and again would be
    late, and would cost those who never set it.
    """
    base = next(kind for kind in onnxruntime.RunOptions.__mro__ if "terminate" in vars(kind) and _is_of_runtime(kind))
    original = vars(base)["terminate"]

    def write(self: onnxruntime.RunOptions, value: object) -> None:
        with _lock:
            original.fset(self, value)
            mirror = _mirrors.get(id(self))
            if mirror is not None and mirror.options() is self:
                mirror.handle.set_terminate(original.fget(self))

    base.terminate = property(original.fget, write, doc=original.__doc__)


def _is_of_runtime(kind: type) -> bool:
    return kind.__module__.startswith("onnxruntime.capi")
