"""Where and on what the figures were taken."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).parent.parent
PROCESSORS: Final = Path("/proc/cpuinfo")
GENERATED: Final = "docs/benchmarks.md"


def describe(ours: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return facts about this run, in the order in which they are printed.

    Args:
        ours: the subject's name.
        arguments: what followed `python -m benches`.
    """
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{package: installed(package) for package in ("inferlite", "onnxruntime", "numpy")},
        "our side": ours,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "benches", *arguments]),
        "load average at the start": load_average(),
    }


def processor() -> str:
    """Return the processor's name as its maker writes it, or the architecture where that is hidden."""
    try:
        lines = PROCESSORS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, name = line.partition(":")
        if key.strip() == "model name":
            return name.strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str:
    """Return the version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed, run from the checkout"


def load_average() -> str:
    """Return the number of running tasks over the last minute, where the system counts them."""
    reader: Callable[[], tuple[float, float, float]] | None = getattr(os, "getloadavg", None)
    return "unknown" if reader is None else f"{reader()[0]:.2f}"


def commit() -> str:
    """Return the commit that is checked out, and whether files were changed since."""
    name = _git("rev-parse", "HEAD")
    if not name:
        return "unknown"
    changed = _git("status", "--porcelain", "--", ".", f":(exclude){GENERATED}")
    return f"{name[:12]}, with uncommitted changes" if changed else name[:12]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],  # noqa: S607 - whichever git the caller uses
            cwd=ROOT,
            capture_output=True,
            check=False,
            text=True,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
