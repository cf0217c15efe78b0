"""Time two callables against each other in paired, alternating rounds.

Two timings taken minutes apart differ by what the machine did in between. Timing both in turns, in
pairs, and looking at the ratio of the two removes that: what slows the machine down slows both. The
order changes from pair to pair (AB, BA, AB, ...), and a ratio is taken over two pairs, one of each
order: whoever comes second finds caches and memory that the first one left, which was worth 20 % for
tensors of 16 MB.
"""

from __future__ import annotations

import gc
import itertools
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PAIR_NANOSECONDS: Final = 20_000_000
"""What a pair of rounds should take when the number of calls is chosen here: 10 ms for each side."""

MAX_CALLS_PER_ROUND: Final = 1 << 20
"""Where the search for the number of calls ends, for a callable that takes next to no time."""

CONFIRMATIONS: Final = 3
"""How often a pair must come out long enough: one that was interrupted looks long once, not thrice."""

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """The 5th, 50th and 95th percentile of a sample, in the sample's unit."""

    p5: float
    p50: float
    p95: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Spread:
        """Summarise `sample` (at least one number), interpolating linearly between its members."""
        p5, p50, p95 = np.percentile(np.asarray(sample, dtype=np.float64), [5, 50, 95]).tolist()
        return cls(p5, p50, p95)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `paired_rounds` measured.

    Attributes:
        calls_per_round: how often each callable was called in one round.
        ours: seconds per call of the first callable, one entry for each round, in order.
        theirs: seconds per call of the second callable, likewise.
        ratios: `ours / theirs` over every two adjacent pairs, one of each order; below 1 the first callable is faster.
            A single pair has its own ratio; a last one without a partner counts in the times alone.
        ours_spread: percentiles of `ours`, in seconds per call.
        theirs_spread: percentiles of `theirs`, in seconds per call.
        ratio_spread: percentiles of `ratios`.
        ratio_interval: 95 % bootstrap confidence interval (low, high) of the median ratio.
    """

    calls_per_round: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    ratios: tuple[float, ...]
    ours_spread: Spread
    theirs_spread: Spread
    ratio_spread: Spread
    ratio_interval: tuple[float, float]

    @property
    def rounds(self) -> int:
        """Number of pairs."""
        return len(self.ours)


def paired_rounds(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int,
    calls_per_round: int | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Comparison:
    """Call `ours` and `theirs` in paired rounds whose order alternates, and compare their times.

    Whoever calls this has checked that both give the same answers. The cyclic garbage collector is
    off while a round runs, as in `timeit`; what piled up is collected between pairs.

    Args:
        ours: first callable, called without arguments; what it returns is dropped.
        theirs: second callable.
        rounds: number of pairs, at least 1.
        calls_per_round: calls of each side in each round; `None` doubles it from 1 until a pair
            takes about 20 ms, which also warms both sides up.
        clock: tells the time in nanoseconds.
        track: wraps the iteration over the rounds, as a progress bar does; it must yield every item.

    Returns:
        Times of every round, their percentiles, and the ratio of the two with its interval.

    Raises:
        ValueError: `rounds` or `calls_per_round` is below 1.

    Example:
        >>> comparison = paired_rounds(lambda: sum(range(10)), lambda: sum(range(1000)), rounds=5)
        >>> comparison.rounds, comparison.ratio_spread.p50 < 1
        (5, True)
    """
    if rounds < 1:
        message = f"`rounds` is {rounds}, but at least 1 is wanted"
        raise ValueError(message)
    if calls_per_round is None:
        calls_per_round = _choose_calls(ours, theirs, clock)
    elif calls_per_round < 1:
        message = f"`calls_per_round` is {calls_per_round}, but at least 1 is wanted"
        raise ValueError(message)
    ours_times: list[float] = []
    theirs_times: list[float] = []
    for pair in track(range(rounds)):
        if pair % 2 == 0:
            ours_ticks = _time(ours, calls_per_round, clock)
            theirs_ticks = _time(theirs, calls_per_round, clock)
        else:
            theirs_ticks = _time(theirs, calls_per_round, clock)
            ours_ticks = _time(ours, calls_per_round, clock)
        ours_times.append(_seconds_per_call(ours_ticks, calls_per_round))
        theirs_times.append(_seconds_per_call(theirs_ticks, calls_per_round))
    return compare(ours_times, theirs_times, calls_per_round=calls_per_round)


def compare(ours: Sequence[float], theirs: Sequence[float], *, calls_per_round: int) -> Comparison:
    """Summarise paired times that were already taken (seconds per call, one for each round)."""
    ratios = tuple(sum(first) / sum(second) for first, second in zip(_balanced(ours), _balanced(theirs), strict=True))
    return Comparison(
        calls_per_round=calls_per_round,
        ours=tuple(ours),
        theirs=tuple(theirs),
        ratios=ratios,
        ours_spread=Spread.of(ours),
        theirs_spread=Spread.of(theirs),
        ratio_spread=Spread.of(ratios),
        ratio_interval=median_interval(ratios),
    )


def _balanced(times: Sequence[float]) -> Sequence[tuple[float, ...]]:
    """The times of every two adjacent pairs, in which each side was first once."""
    return list(zip(times[::2], times[1::2], strict=False)) or [tuple(times)]


def median_interval(sample: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the median of `sample`.

    The resampling is seeded: equal samples give equal intervals.
    """
    values = np.asarray(sample, dtype=np.float64)
    picks = np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(np.median(values[picks], axis=1), [tail, 100.0 - tail]).tolist()
    return low, high


def _choose_calls(ours: Callable[[], object], theirs: Callable[[], object], clock: Callable[[], int]) -> int:
    calls = 1
    # The first call of each side pays for what is made once; it must not end the search.
    ours()
    theirs()
    # Doubling ends between one and two times the bound; three quarters of it centres that.
    bound = PAIR_NANOSECONDS * 3 // 4
    while calls < MAX_CALLS_PER_ROUND:
        for _ in range(CONFIRMATIONS):
            ticks = _time(ours, calls, clock) + _time(theirs, calls, clock)
            if not bound <= ticks < 10 * bound:
                break
        if ticks >= bound:
            break
        calls *= 2
    return calls


def _time(function: Callable[[], object], calls: int, clock: Callable[[], int]) -> int:
    with _collector_off():
        turns = itertools.repeat(None, calls)
        start = clock()
        for _ in turns:
            function()
        return clock() - start


@contextmanager
def _collector_off() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _seconds_per_call(ticks: int, calls: int) -> float:
    # A coarse clock may show no time at all; one tick keeps the ratio finite.
    return max(ticks, 1) / calls / 1e9
