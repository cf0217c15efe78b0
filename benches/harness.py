"""What every question shares: the case, the effort spent on it, the check of answers, self-timed pairs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from typing import TYPE_CHECKING

from inferlite._measure import Comparison, compare, paired_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from benches.subject import Subject

SMOKE_ROUNDS = 2
SMOKE_SECONDS = 0.02


class RefusedError(Exception):
    """The benchmarks will not run in this set-up; the text says why and what to do."""


class NotMeasurableError(Exception):
    """A case needs what this subject lacks; the text says what."""


class WrongAnswerError(Exception):
    """Both sides were asked the same and did not answer with the same bits."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time goes into a measurement.

    Attributes:
        smoke: a few rounds only, enough to see that a bench works.
    """

    smoke: bool = False

    def rounds(self, full: int) -> int:
        """Return the number of pairs where a real measurement takes `full`."""
        return min(full, SMOKE_ROUNDS) if self.smoke else full

    def seconds(self, full: float) -> float:
        """Return the length of a round in seconds where a real one takes `full`."""
        return min(full, SMOKE_SECONDS) if self.smoke else full


@dataclass(frozen=True, slots=True)
class Case:
    """One ratio that a question asks for; `targets.toml` holds a line for each.

    Attributes:
        question: the file under benches/ that it belongs to.
        name: which model, and in which way.
        peer: what it is compared with, as in targets.toml.
        measure: compares the answers, then times. Raises `WrongAnswerError` where they differ and
            `NotMeasurableError` where the subject lacks what the case needs; then nothing was timed.
    """

    question: str
    name: str
    peer: str
    measure: Callable[[Subject, Effort], Comparison]

    @property
    def key(self) -> tuple[str, str, str]:
        """What ties it to its target: question, case and peer."""
        return (self.question, self.name, self.peer)


def require_same(ours: Sequence[NDArray[np.generic]], theirs: Sequence[NDArray[np.generic]], what: str) -> None:
    """Compare two lists of answers by dtype, shape and bytes.

    Raises:
        WrongAnswerError: they differ; `what` names the measurement that was about to start.
    """
    if len(ours) != len(theirs):
        message = f"{what}: {len(ours)} outputs, but the peer gives {len(theirs)}"
        raise WrongAnswerError(message)
    for position, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if (mine.dtype, mine.shape) != (other.dtype, other.shape):
            message = (
                f"{what}: output {position} is {mine.dtype}{list(mine.shape)}, "
                f"but the peer gives {other.dtype}{list(other.shape)}"
            )
            raise WrongAnswerError(message)
        if mine.tobytes() != other.tobytes():
            message = f"{what}: output {position} differs from the peer's in its bits"
            raise WrongAnswerError(message)


def alternate(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    rounds: int,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Comparison:
    """Pair what two callables say of themselves: each takes its own time and returns seconds per call.

    For what `paired_rounds` cannot time from the outside, as the throughput of many threads. The
    order alternates from pair to pair in the same way.
    """
    ours_times: list[float] = []
    theirs_times: list[float] = []
    for pair in track(range(rounds)):
        if pair % 2 == 0:
            ours_times.append(ours())
            theirs_times.append(theirs())
        else:
            theirs_times.append(theirs())
            ours_times.append(ours())
    return compare(ours_times, theirs_times, calls_per_round=1)


def paired_loops(
    call: Callable[[], object],
    loop: Callable[[int], object],
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], int] | None = None,
) -> Comparison:
    """Compare a callable with a loop that makes its calls by itself, outside Python.

    Args:
        call: called `calls` times a round from a Python loop; the loop counts against it.
        loop: told once a round to make `calls` calls.
        rounds: number of pairs.
        calls: calls of each side in each round.
        clock: tells the time in nanoseconds; `paired_rounds`' own by default.

    Returns:
        Times per call.
    """

    def ours() -> None:
        for _ in repeat(None, calls):
            call()

    def theirs() -> None:
        loop(calls)

    if clock is None:
        whole = paired_rounds(ours, theirs, rounds=rounds, calls_per_round=1)
    else:
        whole = paired_rounds(ours, theirs, rounds=rounds, calls_per_round=1, clock=clock)
    return compare(
        [seconds / calls for seconds in whole.ours],
        [seconds / calls for seconds in whole.theirs],
        calls_per_round=calls,
    )


def peer_package(name: str) -> ModuleType:
    """Import what `make bench` installs to compare with.

    Raises:
        NotMeasurableError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        message = f"{name} is not installed: `make bench` does that"
        raise NotMeasurableError(message) from error


def copies(feed: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Copy a feed, so that no two sides read the same memory."""
    return {name: array.copy() for name, array in feed.items()}
