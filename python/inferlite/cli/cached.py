"""What a prediction cache makes of the cost of a call: `inferlite bench --cache`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferlite._measure import Comparison, compare, paired_rounds
from inferlite.cache import MOST_BYTES
from inferlite.cli.failures import RefusedError
from inferlite.cli.sides import check_answers
from inferlite.metadata import CacheStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import onnxruntime

    import inferlite

BUDGET: Final = MOST_BYTES
"""Only the answer to one call is kept, and it must be kept however large it is, or no hit would be timed."""

ROUND_SECONDS: Final = 0.01
MAX_CALLS: Final = 1_000


@dataclass(frozen=True, slots=True)
class CacheCosts:
    """Both ways that a call with a cache can go, each beside a run of onnxruntime."""

    hit: Comparison
    miss: Comparison


def measure_cache(
    cached: inferlite.InferenceSession,
    theirs: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    *,
    rounds: int,
    track: Callable[[Iterable[int]], Iterable[int]],
) -> CacheCosts:
    """Check what `cached` answers, then time its hits and its misses.

    Args:
        cached: A session with a cache.
        theirs: onnxruntime's, with the same options.
        feed: The inputs, the same for every call.
        rounds: Pairs of rounds for each of the two.
        track: Wraps the iteration over rounds.

    Raises:
        DifferentAnswersError: A kept answer is not the one that was computed.
        RefusedError: Something else than hits and misses would be timed, since the answer is not kept.
    """
    for _ in range(2):  # computed, then found
        check_answers(cached, theirs, feed)
    _require_counts(cached, hits=1, misses=1)
    hit = paired_rounds(
        lambda: cached.run(None, feed),
        lambda: theirs.run(None, feed),
        rounds=rounds,
        track=track,
    )
    return CacheCosts(hit, _misses(cached, theirs, feed, rounds, track))


def _require_counts(cached: inferlite.InferenceSession, *, hits: int, misses: int) -> None:
    stats = cached.cache.stats() if cached.cache is not None else CacheStats()
    if (stats.hits, stats.misses) != (hits, misses):
        message = f"the answer is not kept: {hits} hits and {misses} misses were to be, and there are {stats}"
        raise RefusedError(message)


def _misses(
    cached: inferlite.InferenceSession,
    theirs: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    rounds: int,
    track: Callable[[Iterable[int]], Iterable[int]],
) -> Comparison:
    cache = cached.cache
    assert cache is not None, "the session was opened with one"  # noqa: S101 - ours to know
    before = cache.stats()

    def miss() -> int:
        # A hit for every miss, or the cache would turn itself down.
        cached.run(None, feed)
        cache.invalidate(None, feed)
        return _time(lambda: cached.run(None, feed))

    def run() -> int:
        return _time(lambda: theirs.run(None, feed))

    calls = max(1, min(MAX_CALLS, int(ROUND_SECONDS * 1e9 / max(run(), miss(), 1))))
    ours: list[float] = []
    others: list[float] = []
    for pair in track(range(rounds)):
        sides = [(miss, ours), (run, others)]
        for side, seconds in sides if pair % 2 == 0 else reversed(sides):
            seconds.append(sum(side() for _ in range(calls)) / calls / 1e9)
    missed = calls * rounds + 1
    _require_counts(cached, hits=before.hits + missed, misses=before.misses + missed)
    return compare(ours, others, calls_per_round=calls)


def _time(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start
