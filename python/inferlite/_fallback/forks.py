"""Counts forks, so that sessions can tell that they belong to a parent process, and finds their models again."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from onnxruntime.capi.onnxruntime_pybind11_state import Fail

_numbers: Final = count(1)
_sessions: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


class _Process:
    generation = 0
    rebuilding = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The file of a session that a child may have to load again: in another folder, and at a later time."""

    path: str
    identity: tuple[int, ...]

    @classmethod
    def of(cls, model: object) -> ModelFile | None:
        """The file that a session is made from; None where it is made from bytes, or where there is none."""
        if not isinstance(model, (str, os.PathLike)):
            return None
        try:
            path = os.path.abspath(os.fspath(model))  # noqa: PTH100 - resolves no links, which may be exchanged
            return cls(path, _identity(path))
        except (OSError, TypeError, ValueError):
            return None

    def is_unchanged(self) -> bool:
        """Whether the path leads to the content that it led to."""
        try:
            return _identity(self.path) == self.identity
        except OSError:
            return False

    def refuse_changed(self) -> None:
        """Raise what onnxruntime raises for a failure if the path leads to another content by now."""
        try:
            is_same = _identity(self.path) == self.identity
        except OSError:
            # Loading it says so.
            return
        if not is_same:
            message = (
                "[ONNXRuntimeError] : 1 : FAIL : the session was made before this process forked, and has to load "
                f"{self.path} again, which has changed since: make a new session"
            )
            raise Fail(message)


def _identity(path: str) -> tuple[int, ...]:
    status = os.stat(path)  # noqa: PTH116 - as above
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def generation() -> int:
    """How many forks lie between this process and the one that imported inferlite."""
    return _Process.generation


def rebuilding() -> threading.Lock:
    """Held by the one thread that makes a session anew; a child has its own."""
    return _Process.rebuilding


def watch(session: object) -> None:
    """Leave what this session holds behind in every child."""
    _sessions.add(session)


def _in_child() -> None:
    _Process.generation = next(_numbers)
    _Process.rebuilding = threading.Lock()
    for session in list(_sessions):
        # Never destroyed, not even when the interpreter ends: the threads that its end would wait for are gone.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._sess))  # noqa: SLF001 - of this package


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
