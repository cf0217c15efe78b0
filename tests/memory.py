"""Resident memory of this process, read from /proc: what it is, and its highest point while something runs."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def resident() -> int:
    """The bytes of this process that are in memory now."""
    return _field("VmRSS")


def _reset_peak() -> None:
    _RESET.write_text("5")


def _is_available() -> bool:
    try:
        _reset_peak()
    except OSError:
        return False
    return True


AVAILABLE = _is_available()


class Peak:
    """Measures in `growth` how far resident memory rose, at its highest, above what it was on entry."""

    growth = 0

    def __enter__(self) -> Self:
        """Forget the old peak."""
        gc.collect()
        _reset_peak()
        self._before = resident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read the new one."""
        self.growth = _field("VmHWM") - self._before
