"""Picks the back end: the native core where it works, onnxruntime's Python package where it does not."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from inferlite._library import LIBRARY_VARIABLE, find_library
from inferlite.exceptions import BackendUnavailableError

if TYPE_CHECKING:
    from types import ModuleType

BACKEND_VARIABLE: Final = "INFERLITE_BACKEND"

# What nobody has asked for is not printed.
logging.getLogger("inferlite").addHandler(logging.NullHandler())

BackendName = Literal["native", "python"]

_NAMES: Final = ("native", "python")

# The frames between `inferlite.InferenceSession` in the caller's code and the warning.
_STACK_LEVEL: Final = 4


@dataclass(frozen=True, slots=True)
class Backend:
    """The classes of one back end.

    Attributes:
        name: `native` or `python`.
        InferenceSession: The drop-in for onnxruntime's session.
        Model: What `load` returns.
    """

    name: BackendName
    InferenceSession: type[Any]
    Model: type[Any]


@dataclass(slots=True)
class _Choice:
    backend: Backend | None = None
    reason: str | None = None


_choice = _Choice()
# Reentrant: building a back end imports modules that ask for the active one.
_lock = threading.RLock()


def active() -> Backend:
    """The back end in use; the first call picks it.

    Raises:
        BackendUnavailableError: The environment asks for a back end or a library that cannot be used.
    """
    if _choice.backend is None:
        with _lock:
            if _choice.backend is None:
                _choice.reason, _choice.backend = _pick()
    return _choice.backend


def reason() -> str | None:
    """Why the Python back end is in use; None when the native one is."""
    active()
    return _choice.reason


def select(name: str | None) -> None:
    """Use this back end from now on; objects that exist keep theirs.

    Args:
        name: `native`, `python`, or None to let the next use pick as the first one did.

    Raises:
        BackendUnavailableError: The native back end cannot be used here.
        ValueError: There is no such back end.
    """
    with _lock:
        if name is None:
            _choice.backend = _choice.reason = None
            return
        _check(name, "the back end")
        _choice.backend = _native() if name == "native" else _python()
        _choice.reason = None if name == "native" else "the Python back end was selected"


def load_native() -> None:
    """Have the native part ready, whichever back end is active: a session of its class comes from another process.

    Raises:
        BackendUnavailableError: It cannot be used here.
    """
    with _lock:
        _native()


def native_core() -> ModuleType | None:
    """The native part, ready for use; None where the Python back end is active.

    Whoever needs nothing but the native part does not wait for the classes of a back end, which nobody may have asked
    for yet.

    Raises:
        BackendUnavailableError: It cannot be used here, and nothing has chosen the Python back end.
        ValueError: The environment asks for a back end that there is not.
    """
    with _lock:
        if _choice.backend is not None:
            return _load_core() if _choice.backend.name == "native" else None
        wanted = os.environ.get(BACKEND_VARIABLE)
        if wanted:
            _check(wanted, BACKEND_VARIABLE)
        return None if wanted == "python" else _load_core()


def _check(name: str, what: str) -> None:
    if name not in _NAMES:
        message = f"{what} must be `native` or `python`, not `{name}`"
        raise ValueError(message)


def _pick() -> tuple[str | None, Backend]:
    wanted = os.environ.get(BACKEND_VARIABLE)
    if wanted:
        _check(wanted, BACKEND_VARIABLE)
    if wanted == "python":
        return f"{BACKEND_VARIABLE}=python is set", _python()
    try:
        return None, _native()
    except BackendUnavailableError as error:
        # Who asks for the native back end, or for a library that only it can load, must not get something else.
        if wanted == "native" or os.environ.get(LIBRARY_VARIABLE):
            raise
        text = str(error)
    warnings.warn(
        f"inferlite runs on its Python back end, which is slower: {text}",
        RuntimeWarning,
        stacklevel=_STACK_LEVEL,
    )
    return text, _python()


def _native() -> Backend:
    core = _load_core()
    from inferlite.session import InferenceSession  # noqa: PLC0415 - needs the native part

    return Backend("native", InferenceSession, core.Model)


def _load_core() -> ModuleType:
    try:
        from inferlite import _core  # noqa: PLC0415 - it may be missing, which is what is found out here
    except ImportError as error:
        message = f"the native part of inferlite cannot be imported: {error}"
        raise BackendUnavailableError(message) from error
    _core.load_runtime(str(find_library()))
    # Threads of the native part tell event loops of answers, until the interpreter ends; then what is left of the
    # runtime's messages is logged.
    atexit.unregister(_core._shut_gate)  # noqa: SLF001 - of this package
    atexit.register(_core._shut_gate)  # noqa: SLF001
    return _core


def _python() -> Backend:
    try:
        from inferlite._fallback import InferenceSession, Model  # noqa: PLC0415 - imports onnxruntime
    except ImportError as error:
        message = f"the package onnxruntime cannot be imported: {error}"
        raise BackendUnavailableError(message) from error
    return Backend("python", InferenceSession, Model)
