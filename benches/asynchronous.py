"""How many calls per second do the tasks of an event loop get out of one model, whose calls are batched?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from benches.harness import Case, Effort, WrongAnswerError, alternate, peer_package
from benches.models import model
from benches.subject import peer_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benches.subject import Subject
    from inferlite._measure import Comparison

MODELS: Final = {"mlp-256-512-512-10": (1, 64, 256), "mlp-16-32-16-4": (1, 64)}
MOST_ROWS: Final = 64
"""How many rows `batched` puts into a batch at most; as many as there are tasks where those are fewer."""

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


class Repeated(NamedTuple):
    """What tasks made of their time.

    Attributes:
        seconds_per_call: wall time over the calls of all tasks.
        slow: seconds that 99 of 100 calls took at most.
    """

    seconds_per_call: float
    slow: float


async def repeat(call: Callable[[Any], Awaitable[Any]], given: Sequence[Any], seconds: float) -> Repeated:
    """Let every task repeat its call for `seconds`."""
    latencies: list[float] = []
    start = time.perf_counter()
    deadline = start + seconds

    async def one(x: Any) -> None:  # noqa: ANN401 - an array
        before = time.perf_counter()
        # Once at least: many tasks take a while to begin.
        while True:
            await call(x)
            after = time.perf_counter()
            latencies.append(after - before)
            if after >= deadline:
                return
            before = after

    await asyncio.gather(*(one(x) for x in given))
    return Repeated((time.perf_counter() - start) / len(latencies), float(np.percentile(latencies, 99)))


def in_tasks(content: bytes, _: int) -> Callable[[NDArray[np.float32]], Awaitable[object]]:
    """Return what a task does that calls onnxruntime itself."""
    session = peer_session(content)

    async def direct(x: NDArray[np.float32]) -> object:
        return session.run(None, {"x": x})[0]

    return direct


def by_batched(content: bytes, tasks: int) -> Callable[[NDArray[np.float32]], Awaitable[object]]:
    """Return what a task does that goes through `batched`, which waits out its window unless a batch is full.

    Raises:
        NotMeasurableError: it is not installed.
    """
    batched = peer_package("batched")
    session = peer_session(content)

    def run(rows: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return list(session.run(None, {"x": np.stack(rows)})[0])

    together = batched.aio.dynamically(run, batch_size=min(tasks, MOST_ROWS))

    async def one(x: NDArray[np.float32]) -> object:
        answer: NDArray[np.float32] = await together(x[0])
        return answer[np.newaxis]

    return one


Make = Callable[[bytes, int], Callable[[Any], Awaitable[object]]]


def measure(
    name: str, tasks: int, peer: Make, loop: str, figure: Callable[[Repeated], float], subject: Subject, effort: Effort
) -> Comparison:
    """Time both sides in rounds of equal length, each on a loop of its own.

    Args:
        name: which model.
        tasks: how many tasks call at once.
        peer: what is done with the model on the other side; made anew on each loop, since `batched` belongs to one.
        loop: the module that the loop comes from.
        figure: what is compared.
        subject: who is timed.
        effort: how much time goes into it.
    """
    content = model(name).content
    theirs = peer_session(content)
    given = rows(name, tasks)
    wanted = [theirs.run(None, {"x": x})[0] for x in given]
    apredict = subject.predictor(content, batching=True).apredict
    make_loop: Callable[[], asyncio.AbstractEventLoop] = import_module(loop).new_event_loop
    seconds = effort.seconds(SECONDS)

    def once(make: Callable[[], Callable[[Any], Awaitable[Any]]], seconds: float) -> float:
        async def checked() -> Repeated:
            call = make()
            await check(call, given, wanted, f"{tasks} tasks on {name}")
            return await repeat(call, given, seconds)

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return figure(runner.run(checked()))

    return alternate(
        lambda: once(lambda: apredict, seconds),
        lambda: once(lambda: peer(content, tasks), seconds),
        rounds=effort.rounds(ROUNDS),
    )


def _case(name: str, tasks: int, peer: str, make: Make, loop: str = "asyncio", *, is_slow: bool = False) -> Case:
    where = "" if loop == "asyncio" else f" on {loop}"
    what = ", 99th percentile" if is_slow else ""
    figure: Callable[[Repeated], float] = (lambda seen: seen.slow) if is_slow else (lambda seen: seen.seconds_per_call)
    title = f"{name}, {tasks} {'task' if tasks == 1 else 'tasks'}{where}{what}"
    return Case("asynchronous", title, peer, partial(measure, name, tasks, make, loop, figure))


DIRECT: Final = "onnxruntime run, in tasks"
BATCHED: Final = "batched, in tasks"

CASES: Final = (
    *(_case(name, tasks, DIRECT, in_tasks) for name, counts in MODELS.items() for tasks in counts),
    *(_case(name, 64, DIRECT, in_tasks, "uvloop") for name in MODELS),
    *(
        _case(name, tasks, BATCHED, by_batched, is_slow=is_slow)
        for name, counts in MODELS.items()
        for tasks in counts
        for is_slow in (False, True)
    ),
)
