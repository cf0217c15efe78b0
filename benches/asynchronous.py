"""How many calls per second do the tasks of an event loop get out of one model, whose calls are batched?"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benches.harness import Case, Effort, WrongAnswerError, alternate
from benches.models import model
from benches.subject import peer_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from benches.subject import Subject
    from inferlite._measure import Comparison

MODELS: Final = {"mlp-256-512-512-10": (1, 64, 256), "mlp-16-32-16-4": (1, 64)}
ROUNDS: Final = 30
SECONDS: Final = 0.4
CHECKED_CALLS: Final = 20
TOLERANCE: Final = 1e-4
"""Rows in a batch are rounded otherwise than rows by themselves."""


def rows(name: str, tasks: int) -> list[NDArray[np.float32]]:
    """Return one input for each task, no two alike."""
    return [model(name).feed["x"] + np.float32(number / tasks) for number in range(tasks)]


async def check(call: Callable[[Any], Awaitable[Any]], given: Sequence[Any], wanted: Sequence[Any], what: str) -> None:
    """Compare the answers to all tasks at once with the peer's, taken one by one."""

    async def many(x: Any, expected: Any) -> None:  # noqa: ANN401 - an array
        for _ in range(CHECKED_CALLS):
            answer = await call(x)
            if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=TOLERANCE, atol=TOLERANCE):
                message = f"{what}: an answer differs from the peer's by more than rounding"
                raise WrongAnswerError(message)

    await asyncio.gather(*(many(*pair) for pair in zip(given, wanted, strict=True)))


async def seconds_per_call(call: Callable[[Any], Awaitable[Any]], given: Sequence[Any], seconds: float) -> float:
    """Let every task repeat its call for `seconds`; return wall time over all tasks' calls."""
    count = 0
    start = time.perf_counter()
    deadline = start + seconds

    async def repeat(x: Any) -> None:  # noqa: ANN401 - an array
        nonlocal count
        while time.perf_counter() < deadline:
            await call(x)
            count += 1

    await asyncio.gather(*(repeat(x) for x in given))
    return (time.perf_counter() - start) / count


def measure(name: str, tasks: int, subject: Subject, effort: Effort) -> Comparison:
    """Time both sides in rounds of equal length, each on a loop of its own."""
    content = model(name).content
    theirs = peer_session(content)
    given = rows(name, tasks)
    wanted = [theirs.run(None, {"x": x})[0] for x in given]
    apredict = subject.apredict(content)

    async def direct(x: NDArray[np.float32]) -> object:
        return theirs.run(None, {"x": x})[0]

    asyncio.run(check(apredict, given, wanted, f"{tasks} tasks on {name}"))
    seconds = effort.seconds(SECONDS)
    return alternate(
        lambda: asyncio.run(seconds_per_call(apredict, given, seconds)),
        lambda: asyncio.run(seconds_per_call(direct, given, seconds)),
        rounds=effort.rounds(ROUNDS),
    )


CASES: Final = tuple(
    Case(
        "asynchronous",
        f"{name}, {tasks} {'task' if tasks == 1 else 'tasks'}",
        "onnxruntime run, in tasks",
        partial(measure, name, tasks),
    )
    for name, counts in MODELS.items()
    for tasks in counts
)
