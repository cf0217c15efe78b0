"""What inferlite makes of run options of onnxruntime's own class, which tell a part of what they hold."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Final

import onnxruntime

from inferlite import _core
from inferlite.providers import CPU

if TYPE_CHECKING:
    from inferlite.session import InferenceSession

# Those that the CPU provider heeds; the keys of other providers make no difference to it.
_KNOWN_ENTRIES: Final = ("disable_synchronize_execution_providers", "memory.enable_memory_arena_shrinkage")

# Held while options are written to or read as a whole: `terminate` must not get lost in between.
_lock = threading.RLock()


@dataclass(slots=True)
class _Mirror:
    """The native half of options that have none of their own, and what it was told last."""

    options: weakref.ref[Any]
    handle: _core.RunOptions = field(default_factory=_core.RunOptions)
    logging: tuple[Any, ...] = (-1, 0, "")

    def follow(self, options: onnxruntime.RunOptions) -> None:
        """Say what the options say by now; nothing is told twice, since runs under way may be reading the rest."""
        logging = options.log_severity_level, options.log_verbosity_level, options.logid
        if logging != self.logging:
            self.handle.set_log_severity_level(logging[0])
            self.handle.set_log_verbosity_level(logging[1])
            self.handle.set_logid(logging[2])
            self.logging = logging

    def take_entries(self, options: onnxruntime.RunOptions) -> None:
        """Take the configuration entries over; to ask for one that is not there costs ten microseconds."""
        for key in _KNOWN_ENTRIES:
            try:
                value = options.get_run_config_entry(key)
            except RuntimeError:
                continue
            self.handle.add_config_entry(key, value)


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
    _follow_changes()
    with _lock:
        mirror = _mirror_of(options)
        if mirror is None:
            place = id(options)
            mirror = _mirrors[place] = _Mirror(weakref.ref(options, lambda gone: _forget(place, gone)))
            mirror.take_entries(options)
            mirror.handle.set_terminate(options.terminate)
        mirror.follow(options)
        return mirror.handle


def _mirror_of(options: object) -> _Mirror | None:
    mirror = _mirrors.get(id(options))
    # Another object may have had the address.
    return mirror if mirror is not None and mirror.options() is options else None


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
def _follow_changes() -> None:
    """Let what is set on onnxruntime's own class reach the native half, if there is one.

    `terminate` may be set at any moment by another thread, while a run reads it; to look at it again and again would be
    late, and would cost those who never set it.
    """
    base = next(kind for kind in onnxruntime.RunOptions.__mro__ if "terminate" in vars(kind) and _is_of_runtime(kind))
    terminate, add_entry = vars(base)["terminate"], base.add_run_config_entry

    def write(self: onnxruntime.RunOptions, value: object) -> None:
        with _lock:
            terminate.fset(self, value)
            mirror = _mirror_of(self)
            if mirror is not None:
                mirror.handle.set_terminate(terminate.fget(self))

    @wraps(add_entry)
    def add_run_config_entry(self: onnxruntime.RunOptions, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        with _lock:
            add_entry(self, *args, **kwargs)
            mirror = _mirror_of(self)
            if mirror is not None:
                mirror.take_entries(self)

    base.terminate = property(terminate.fget, write, doc=terminate.__doc__)
    base.add_run_config_entry = add_run_config_entry


def _is_of_runtime(kind: type) -> bool:
    return kind.__module__.startswith("onnxruntime.capi")
