"""A histogram of durations."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from inferlite._fallback import forks
from inferlite.metadata import Latency, Stats

if TYPE_CHECKING:
    from inferlite.metadata import BatchingStats, CacheStats

_SUB_BITS: Final = 3
_SUBS: Final = 1 << _SUB_BITS
_BUCKETS: Final = 64 * _SUBS
_SECOND: Final = 1e9


def bucket_of(nanoseconds: int) -> int:
    """The bucket that holds a duration: eight to each power of two, so that its bounds are an eighth apart."""
    if nanoseconds < _SUBS:
        return nanoseconds
    shift = nanoseconds.bit_length() - 1 - _SUB_BITS
    return min((shift + 1) * _SUBS + ((nanoseconds >> shift) & (_SUBS - 1)), _BUCKETS - 1)


def upper_bound_of(bucket: int) -> int:
    """The longest duration of a bucket, in nanoseconds."""
    octave, sub = divmod(bucket, _SUBS)
    return sub if octave == 0 else ((_SUBS + sub + 1) << (octave - 1)) - 1


class Durations:
    """A histogram; whoever adds holds a lock."""

    def __init__(self) -> None:
        """Start at zero."""
        self._buckets = [0] * _BUCKETS
        self._count = 0
        self._total = 0
        self._max = 0

    def add(self, nanoseconds: int) -> None:
        """Add one duration."""
        self._buckets[bucket_of(nanoseconds)] += 1
        self._count += 1
        self._total += nanoseconds
        self._max = max(self._max, nanoseconds)

    def summary(self) -> Latency:
        """What has been added so far."""
        if self._count == 0:
            return Latency()
        return Latency(
            count=self._count,
            mean=self._total / self._count / _SECOND,
            p50=self._percentile(50),
            p95=self._percentile(95),
            p99=self._percentile(99),
            max=self._max / _SECOND,
        )

    def _percentile(self, percent: int) -> float:
        rank = -(-self._count * percent // 100)
        seen = 0
        for bucket, held in enumerate(self._buckets):
            seen += held
            if seen >= rank:
                return min(upper_bound_of(bucket), self._max) / _SECOND
        return self._max / _SECOND


class CallStats:
    """What a model counts; any number of threads may record."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock, self._process = threading.Lock(), forks.generation()
        self._runs = Durations()
        self._answered = 0
        self._rows = 0

    def _own_lock(self) -> threading.Lock:
        # A thread of the parent may have held the lock when this process forked off.
        if self._process != forks.generation():
            with forks.rebuilding():
                if self._process != forks.generation():
                    # The lock first: whoever sees that this process has one takes it.
                    self._lock = threading.Lock()
                    self._process = forks.generation()
        return self._lock

    def record(self, nanoseconds: int, rows: int) -> None:
        """Add a call that succeeded."""
        with self._own_lock():
            self._runs.add(nanoseconds)
            self._rows += rows

    def record_answered(self, rows: int) -> None:
        """Add a call that was answered without a run of its own."""
        with self._own_lock():
            self._answered += 1
            self._rows += rows

    def snapshot(self, cache: CacheStats | None = None, batching: BatchingStats | None = None) -> Stats:
        """What has been recorded so far."""
        with self._own_lock():
            latency, rows, answered = self._runs.summary(), self._rows, self._answered
        return Stats(latency.count + answered, rows, latency, cache, batching)
