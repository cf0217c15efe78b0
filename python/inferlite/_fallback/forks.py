"""Counts forks, so that sessions can tell that they belong to a parent process."""

from __future__ import annotations

import os
from itertools import count
from typing import Any, Final

_numbers: Final = count(1)
_left_behind: Final[list[Any]] = []


class _Process:
    generation = 0


def generation() -> int:
    """How many forks lie between this process and the one that imported inferlite."""
    return _Process.generation


def leave_behind(session: object) -> None:
    """Keep a parent's session from being destroyed: its threads are gone, and its end would wait for them."""
    _left_behind.append(session)


def _in_child() -> None:
    _Process.generation = next(_numbers)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
