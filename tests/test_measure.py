"""Paired rounds, with a clock that the tests hold."""

from __future__ import annotations

import gc
import itertools
from typing import TYPE_CHECKING

import pytest

from inferlite._measure import MAX_CALLS_PER_ROUND, Comparison, Spread, compare, median_interval, paired_rounds

if TYPE_CHECKING:
    from collections.abc import Callable

MILLISECOND = 1_000_000


class HeldClock:
    """A clock that only moves when a callable says that it took time."""

    def __init__(self) -> None:
        """Start at 0."""
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        """Tell the time in nanoseconds."""
        return self.now

    def callable(self, name: str, nanoseconds: int) -> Callable[[], None]:
        """Make a callable that notes its name and takes some time."""

        def call() -> None:
            self.calls.append(name)
            self.now += nanoseconds

        return call


def test_the_order_alternates_from_pair_to_pair() -> None:
    clock = HeldClock()
    ours, theirs = clock.callable("A", 1), clock.callable("B", 2)
    paired_rounds(ours, theirs, rounds=3, calls_per_round=1, clock=clock)
    assert "".join(clock.calls) == "ABBAAB"


def test_times_are_seconds_per_call_and_ratios_ours_over_theirs() -> None:
    clock = HeldClock()
    comparison = paired_rounds(
        clock.callable("A", 1000), clock.callable("B", 4000), rounds=5, calls_per_round=10, clock=clock
    )
    assert comparison.calls_per_round == 10
    assert comparison.rounds == 5
    assert comparison.ours == pytest.approx((1e-6,) * 5)
    assert comparison.theirs == pytest.approx((4e-6,) * 5)
    assert comparison.ratios == pytest.approx((0.25,) * 2)
    assert comparison.ratio_spread == Spread(0.25, 0.25, 0.25)
    assert comparison.ratio_interval == (0.25, 0.25)


@pytest.mark.parametrize("nanoseconds", [100, 3_000, 70_000, 2 * MILLISECOND])
def test_a_chosen_round_takes_5_to_20_ms(nanoseconds: int) -> None:
    clock = HeldClock()
    call = clock.callable("A", nanoseconds)
    comparison = paired_rounds(call, call, rounds=1, clock=clock)
    assert 5 * MILLISECOND <= comparison.calls_per_round * nanoseconds <= 20 * MILLISECOND


def test_a_call_longer_than_a_round_runs_once() -> None:
    clock = HeldClock()
    comparison = paired_rounds(clock.callable("A", 10**9), clock.callable("B", 1), rounds=1, clock=clock)
    assert comparison.calls_per_round == 1


def test_one_interruption_does_not_end_the_search() -> None:
    clock = HeldClock()
    call = clock.callable("A", 1000)

    def interrupted_once() -> None:
        if len(clock.calls) == 50:
            clock.now += 30 * MILLISECOND
        call()

    comparison = paired_rounds(interrupted_once, call, rounds=1, clock=clock)
    assert comparison.calls_per_round == 8192


def test_the_search_ends_for_a_callable_that_takes_no_time() -> None:
    comparison = paired_rounds(int, int, rounds=1, clock=lambda: 0)
    assert comparison.calls_per_round == MAX_CALLS_PER_ROUND
    assert comparison.ratios == (1.0,)


def test_the_collector_is_off_inside_a_round_and_back_on_after_it() -> None:
    seen = []
    paired_rounds(lambda: seen.append(gc.isenabled()), lambda: None, rounds=2, calls_per_round=1)
    assert seen == [False, False]
    assert gc.isenabled()


def test_an_error_in_a_callable_passes_and_leaves_the_collector_on() -> None:
    def fail() -> None:
        message = "no"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=r"^no$"):
        paired_rounds(fail, int, rounds=1, calls_per_round=1)
    assert gc.isenabled()


def test_the_tracker_sees_every_round() -> None:
    seen = []
    paired_rounds(int, int, rounds=4, calls_per_round=1, track=lambda rounds: (seen.append(r) or r for r in rounds))
    assert seen == [0, 1, 2, 3]


def test_the_interval_holds_the_median_and_repeats() -> None:
    ratios = [0.4, 0.5, 0.45, 0.6, 0.48, 0.52, 0.47, 0.9]
    low, high = median_interval(ratios)
    assert low < 0.49 < high
    assert min(ratios) <= low
    assert high <= max(ratios)
    assert median_interval(ratios) == (low, high)


def test_percentiles_are_interpolated() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.p5, spread.p50, spread.p95) == pytest.approx((1.1, 2.0, 2.9))


def test_a_comparison_of_times_that_were_taken_elsewhere() -> None:
    comparison = compare([1.0, 2.0, 5.0], [2.0, 2.0, 5.0], calls_per_round=7)
    assert isinstance(comparison, Comparison)
    assert comparison.ratios == (0.75,)
    assert comparison.rounds == 3


def test_whoever_comes_second_gains_nothing() -> None:
    clock = HeldClock()
    turns = itertools.count()

    def call() -> None:
        # What the first of a pair warms up, the second finds warm.
        clock.callable("", 1000 if next(turns) % 2 == 0 else 800)()

    comparison = paired_rounds(call, call, rounds=6, calls_per_round=1, clock=clock)
    assert set(comparison.ours) == set(comparison.theirs) == {1e-6, 8e-7}
    assert comparison.ratios == pytest.approx((1.0,) * 3)


@pytest.mark.parametrize(
    ("rounds", "calls", "message"),
    [
        (0, 1, "`rounds` is 0, but at least 1 is wanted"),
        (1, 0, "`calls_per_round` is 0, but at least 1 is wanted"),
    ],
)
def test_fewer_than_one_is_refused(rounds: int, calls: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        paired_rounds(int, int, rounds=rounds, calls_per_round=calls)
