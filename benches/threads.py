"""How many calls per second do many Python threads get out of one session?"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from threading import Barrier
from typing import TYPE_CHECKING, Final, Self, TypeVar

import numpy as np

from benches.harness import Case, Effort, alternate, require_same
from benches.models import model
from benches.subject import peer_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benches.subject import Session, Subject
    from inferlite._measure import Comparison

T = TypeVar("T")

MODEL: Final = "mlp-16-32-16-4"
THREADS: Final = 16
ROUNDS: Final = 40
SECONDS: Final = 0.5
"""Length of a round. A hundred of the interpreter's switch intervals: a round of few calls would end
before a thread that keeps the GIL is made to hand it over, and flatter it."""

CALLS_BETWEEN_LOOKS: Final = 16
CHECKED_CALLS: Final = 200


class Crew:
    """Threads that start together; a context manager that ends them."""

    def __init__(self, size: int) -> None:
        """Start nothing yet; `size` threads come with the first job."""
        self._size = size
        self._pool = ThreadPoolExecutor(size)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait for the threads to end."""
        self._pool.shutdown()

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run one job on each thread, all from the same moment, and return their results."""
        gate = Barrier(self._size)

        def start(job: Callable[[], T]) -> T:
            gate.wait()
            return job()

        return [done.result() for done in [self._pool.submit(start, job) for job in jobs]]


def seconds_per_call(crew: Crew, calls: Sequence[Callable[[], object]], seconds: float) -> float:
    """Let every thread repeat its call for `seconds`; return wall time over all threads' calls.

    Each thread reads the clock itself: a main thread that waits for the GIL would start late.
    """
    counted = crew.together([partial(_repeat_until, call, seconds) for call in calls])
    first = min(start for start, _, _ in counted)
    last = max(end for _, end, _ in counted)
    return (last - first) / 1e9 / sum(count for _, _, count in counted)


def _repeat_until(call: Callable[[], object], seconds: float) -> tuple[int, int, int]:
    start = now = time.perf_counter_ns()
    deadline = start + int(seconds * 1e9)
    count = 0
    while now < deadline:
        for _ in repeat(None, CALLS_BETWEEN_LOOKS):
            call()
        count += CALLS_BETWEEN_LOOKS
        now = time.perf_counter_ns()
    return start, now, count


def feeds(name: str) -> list[dict[str, NDArray[np.float32]]]:
    """Return one feed for each thread, no two alike."""
    return [{key: array + np.float32(number) for key, array in model(name).feed.items()} for number in range(THREADS)]


def check(crew: Crew, ours: Session, theirs: Session, name: str) -> None:
    """Compare every answer of all threads at once with the peer's, taken one by one."""

    def many(feed: dict[str, NDArray[np.float32]], expected: list[NDArray[np.generic]]) -> None:
        for _ in repeat(None, CHECKED_CALLS):
            require_same(ours.run(None, feed), expected, f"run of {name} on {THREADS} threads")

    crew.together([partial(many, feed, theirs.run(None, feed)) for feed in feeds(name)])


def measure(subject: Subject, effort: Effort) -> Comparison:
    """Time both sides in rounds of equal length."""
    content = model(MODEL).content
    ours, theirs = subject.session(content), peer_session(content)
    seconds = effort.seconds(SECONDS)
    with Crew(THREADS) as crew:
        check(crew, ours, theirs, MODEL)
        one = [partial(ours.run, None, feed) for feed in feeds(MODEL)]
        other = [partial(theirs.run, None, feed) for feed in feeds(MODEL)]
        return alternate(
            partial(seconds_per_call, crew, one, seconds),
            partial(seconds_per_call, crew, other, seconds),
            rounds=effort.rounds(ROUNDS),
        )


CASES: Final = (Case("threads", f"{MODEL}, {THREADS} threads", "onnxruntime run", measure),)
