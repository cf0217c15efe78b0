"""What many callers at once get out of a model: `inferlite bench --concurrency`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite._measure import Comparison, compare
from inferlite.cli.failures import DifferentAnswersError, WrongUsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from inferlite import Model

    Call = Callable[[], object]

MOST_CALLERS: Final = 1024
SLICES: Final = 6
"""So often each side is measured at each number of callers, in turns."""

SLICE_SECONDS: Final = 0.5
TOLERANCE: Final = 1e-3
"""How far a batched answer may be from a lone one, as a part of its largest number."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one side made of one load.

    Attributes:
        side: Who answered.
        callers: How many threads called.
        rate: Calls per second that were due in sum; None where every caller called again as soon as it had its answer.
        seconds: How long each slice took.
        latencies: Seconds per call, over all slices; from when a call was due, if there was a rate.
        slices: Calls of each slice.
    """

    side: str
    callers: int
    rate: float | None
    seconds: tuple[float, ...]
    latencies: NDArray[np.float64]
    slices: tuple[int, ...]

    @property
    def per_second(self) -> float:
        """Calls answered per second."""
        return sum(self.slices) / sum(self.seconds)

    def percentile(self, percent: float) -> float:
        """Seconds that so many of a hundred calls took at most."""
        return float(np.percentile(self.latencies, percent))

    def against(self, other: Load) -> Comparison:
        """Compare the seconds per call in sum, slice by slice."""
        mine, theirs = (
            [seconds / max(calls, 1) for seconds, calls in zip(load.seconds, load.slices, strict=True)]
            for load in (self, other)
        )
        return compare(mine, theirs, calls_per_round=1)


def parse_callers(text: str) -> list[int]:
    """Read numbers of callers: `1,4,16`.

    Raises:
        WrongUsageError: It is something else.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= MOST_CALLERS for number in numbers):
        message = f"`--concurrency` takes numbers from 1 to {MOST_CALLERS}, as in `1,4,16,64`, not `{text}`"
        raise WrongUsageError(message)
    return numbers


def check_batched(plain: Model, batched: Model, feed: Mapping[str, Any], callers: int) -> None:
    """Have so many threads ask a model with batching, and hold every answer against that of one without.

    Raises:
        DifferentAnswersError: One is another answer, and not by rounding alone.
    """
    expected = _by_name(plain.predict(feed))
    answers: list[dict[str, Any]] = []
    _together(callers, lambda _: answers.append(_by_name(batched.predict(feed))))
    for answer in answers:
        for name, wanted in expected.items():
            if not _is_close(answer[name], wanted):
                message = f"output `{name}` of a call that was batched is not the one of a call by itself"
                raise DifferentAnswersError(message)


def measure_callers(
    sides: Mapping[str, Call],
    callers: Sequence[int],
    *,
    rate: float | None,
    seconds: float,
    track: Callable[[Iterable[int]], Iterable[int]],
) -> Iterator[list[Load]]:
    """Measure every side under the load of so many callers at a time, the sides in turns.

    Args:
        sides: What one call is, by who answers.
        callers: Numbers of threads, one after the other.
        rate: Calls per second that are due in sum, at random times; None for callers that call again at once.
        seconds: How long a slice is.
        track: Wraps the iteration over slices.

    Yields:
        For each number of callers, one load of each side.
    """
    for number in callers:
        taken: dict[str, list[tuple[float, NDArray[np.float64]]]] = {side: [] for side in sides}
        for turn in track(range(SLICES)):
            for side in sides if turn % 2 == 0 else reversed(list(sides)):
                taken[side].append(measure_slice(sides[side], number, rate, seconds, seed=turn))
        yield [
            Load(
                side=side,
                callers=number,
                rate=rate,
                seconds=tuple(took for took, _ in slices),
                latencies=np.concatenate([latencies for _, latencies in slices]),
                slices=tuple(latencies.size for _, latencies in slices),
            )
            for side, slices in taken.items()
        ]


def measure_slice(
    call: Call, callers: int, rate: float | None, seconds: float, *, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Have so many threads make a call again and again.

    Args:
        call: What they call.
        callers: How many threads call.
        rate: Calls per second that are due in sum, at random times; None for callers that call again at once.
        seconds: How long.
        seed: Which random times; the same gives the same.

    Returns:
        Seconds that it took, and those of each call: from when it was due, if there is a rate.
    """
    latencies: list[list[int]] = [[] for _ in range(callers)]
    start = time.perf_counter_ns()
    if rate is None:
        end = start + int(seconds * 1e9)

        def work(caller: int) -> None:
            mine = latencies[caller]
            while (begun := time.perf_counter_ns()) < end:
                call()
                mine.append(time.perf_counter_ns() - begun)

    else:
        due = start + _arrivals(rate, seconds, seed)
        numbers = count()

        def work(caller: int) -> None:
            mine = latencies[caller]
            # Each call is somebody's: whoever is free takes the next one, and a late one has waited since it was due.
            while (number := next(numbers)) < due.size:
                arrival = int(due[number])
                if (early := arrival - time.perf_counter_ns()) > 0:
                    time.sleep(early / 1e9)
                call()
                mine.append(time.perf_counter_ns() - arrival)

    _together(callers, work)
    took = (time.perf_counter_ns() - start) / 1e9
    return took, np.array([latency for mine in latencies for latency in mine], np.float64) / 1e9


def _arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.int64]:
    """Nanoseconds at which calls are due: a Poisson process, the same for every side."""
    number = max(1, round(rate * seconds))
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, number)
    return np.cumsum(gaps).astype(np.int64)


def _together(callers: int, work: Callable[[int], object]) -> None:
    """Do `work` in so many threads; raises what one of them has raised."""
    problems: list[BaseException] = []

    def guarded(caller: int) -> None:
        try:
            work(caller)
        except BaseException as problem:  # noqa: BLE001 - raised again below
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(caller,), daemon=True) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def _by_name(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a model gives
    return answer if isinstance(answer, dict) else {"": answer}


def _is_close(answer: Any, wanted: Any) -> bool:  # noqa: ANN401 - as above
    if not isinstance(wanted, np.ndarray) or wanted.dtype.kind != "f":
        return bool(np.array_equal(answer, wanted))
    if answer.dtype != wanted.dtype or answer.shape != wanted.shape:
        return False
    size = float(np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted)))
    return bool(np.allclose(answer, wanted, rtol=0.0, atol=TOLERANCE * size, equal_nan=True))
