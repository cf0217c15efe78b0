"""How many threads the process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


def available_threads() -> int:
    """The smaller of the affinity mask and the cgroup's CPU quota, and at least 1.

    A quota of two and a half processors counts as 2, as in the native core.
    """
    count = affinity()
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def affinity() -> int:
    """How many processors the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(membership: Path = _MEMBERSHIP, root: Path = _CGROUP_ROOT) -> float | None:
    """The lowest quota of the process's cgroup and of those around it, in processors; None without one.

    Args:
        membership: The file that names the process's cgroups, one `number:controllers:path` a line.
        root: The folder under which the cgroups are mounted.
    """
    quotas = []
    for line in _read(membership).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            quotas += [quota_v2(_read(folder / "cpu.max")) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            mount = root / "cpu"
            quotas += [
                quota_v1(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
                for folder in _upwards(mount, path)
            ]
    return min((quota for quota in quotas if quota is not None), default=None)


def quota_v2(cpu_max: str) -> float | None:
    """The quota in the text of a `cpu.max` file, in processors; None for `max` and for anything unreadable.

    Example:
        >>> quota_v2("150000 100000")
        1.5
    """
    quota, _, period = cpu_max.strip().partition(" ")
    return quota_v1(quota, period or "100000")


def quota_v1(quota: str, period: str) -> float | None:
    """The quota from the texts of `cpu.cfs_quota_us` and `cpu.cfs_period_us`; None for -1 and for anything unreadable.

    Example:
        >>> quota_v1("50000", "100000")
        0.5
    """
    try:
        microseconds, of = int(quota), int(period)
    except ValueError:
        return None
    return microseconds / of if microseconds > 0 and of > 0 else None


def _upwards(root: Path, path: str) -> Iterator[Path]:
    inside = PurePosixPath(path.lstrip("/"))
    # Inside a container the path may be the host's, of which only the root is mounted: a folder that is missing
    # reads as no quota.
    for part in (inside, *inside.parents):
        yield root / part


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
