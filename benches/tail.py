"""How long do the slowest calls of `run` take, alone and with sixteen threads on the session?

A run that keeps the GIL makes the others wait for it: the price of its throughput shows here.
"""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from benches.harness import Case, Effort, alternate
from benches.models import model
from benches.subject import peer_session
from benches.threads import THREADS, Crew, check, feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benches.subject import Subject
    from inferlite._measure import Comparison

MODELS: Final = ("identity-1x4", "mlp-16-32-16-4")
PERCENTILE: Final = 99.9
ROUNDS: Final = 20
SECONDS: Final = 0.5
"""Length of a round; at 10 us per call its 99.9th percentile has 50 slower calls above it."""


def measure(name: str, threads: int, subject: Subject, effort: Effort) -> Comparison:
    """Compare the percentile of single calls, one figure per side and round."""
    content = model(name).content
    ours, theirs = subject.session(content), peer_session(content)
    seconds = effort.seconds(SECONDS)
    with Crew(THREADS) as crew:
        check(crew, ours, theirs, name)
    with Crew(threads) as crew:
        one = [partial(ours.run, None, feed) for feed in feeds(name)[:threads]]
        other = [partial(theirs.run, None, feed) for feed in feeds(name)[:threads]]
        return alternate(
            partial(slowest, crew, one, seconds),
            partial(slowest, crew, other, seconds),
            rounds=effort.rounds(ROUNDS),
        )


def slowest(crew: Crew, calls: Sequence[Callable[[], object]], seconds: float) -> float:
    """Return the percentile, in seconds, of every call that all threads made in `seconds`."""
    gc.collect()
    gc.disable()
    try:
        parts = crew.together([partial(_time_each, call, seconds) for call in calls])
    finally:
        gc.enable()
    taken = np.concatenate([np.diff(part) for part in parts])
    return float(np.percentile(taken, PERCENTILE)) / 1e9


def _time_each(call: Callable[[], object], seconds: float) -> list[int]:
    # One reading ends a call and starts the next, so that no wait for the GIL falls between two.
    clock = time.perf_counter_ns
    readings = [clock()]
    deadline = readings[0] + int(seconds * 1e9)
    while readings[-1] < deadline:
        call()
        readings.append(clock())
    return readings


CASES: Final = tuple(
    Case(
        "tail",
        f"{name}, {'alone' if threads == 1 else f'{threads} threads'}",
        "onnxruntime run, 99.9th percentile",
        partial(measure, name, threads),
    )
    for threads in (1, THREADS)
    for name in MODELS
)
