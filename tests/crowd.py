"""Callers of one model from threads and event loops at once, with every answer held against what it has to be."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import make_models
import numpy as np

from inferlite.exceptions import DeadlineExceededError, ModelClosedError, ModelRunError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

DTYPES: Final = {"float": np.float32, "double": np.float64, "int32": np.int32, "int64": np.int64}
TABLE: Final = (1.0, 2.0, 3.0)
BEYOND: Final = 9
"""An index that is not in the table: the call fails."""

Outcome = Literal["answered", "failed", "late", "cancelled", "full", "closed"]


def content(dtype: str) -> bytes:
    """A model that doubles the rows of `x`, and picks a number for each row."""
    return make_models.parse(
        f"crowd ({dtype}[n,t] x, int64[n] index) => ({dtype}[n,u] doubled, float[n] picked) "
        f"<float[3] table = {{1, 2, 3}}> {{ doubled = Add(x, x) [pick] picked = Gather(table, index) }}"
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One call, and what may become of it.

    Attributes:
        number: What its rows begin with, so that no other one has its answer.
        rows: How many rows it has.
        length: How long they are.
        index: What is picked; `BEYOND` fails.
        outputs: The outputs that are asked for.
        priority: Of its turn.
        timeout: In seconds.
        cancel: After how many turns of an event loop it is cancelled; None for never.
        is_future: Whether a thread asks by `submit`.
    """

    number: int
    rows: int = 1
    length: int = 2
    index: int = 0
    outputs: str | None = None
    priority: int = 0
    timeout: float | None = None
    cancel: int | None = None
    is_future: bool = False

    def arguments(self, dtype: npt.DTypeLike) -> dict[str, Any]:
        """What a model is called with."""
        x = np.arange(self.number, self.number + self.rows * self.length).reshape(self.rows, self.length)
        return {
            "x": x.astype(dtype),
            "index": np.full(self.rows, self.index),
            "outputs": self.outputs,
            "timeout": self.timeout,
            "priority": self.priority,
        }

    def check(self, answer: Any, dtype: npt.DTypeLike) -> None:
        """Hold an answer against what it has to be, to the bit."""
        given = {self.outputs: answer} if self.outputs else answer
        assert self.outputs or list(given) == ["doubled", "picked"], given
        if "doubled" in given:
            doubled = 2 * self.arguments(dtype)["x"]
            assert given["doubled"].dtype == doubled.dtype
            assert given["doubled"].shape == doubled.shape
            assert (given["doubled"] == doubled).all(), (self, given)
        if "picked" in given:
            assert given["picked"].tolist() == [TABLE[self.index]] * self.rows, (self, given)


class Crowd:
    """Callers of a model, and what has become of their requests."""

    def __init__(self, model: Any, dtype: str, *, may_be: Iterable[Outcome] = ()) -> None:
        """Callers to whom also these things may happen."""
        self.model = model
        self.dtype = DTYPES[dtype]
        self.may_be: set[Outcome] = set(may_be)
        self.outcomes: Counter[Outcome] = Counter()
        self._lock = threading.Lock()

    def _note(self, request: Request, outcome: Outcome) -> None:
        allowed = {"failed" if request.index == BEYOND and request.outputs != "doubled" else "answered", *self.may_be}
        if request.index == BEYOND and request.outputs == "doubled":
            # Whether a node runs whose output nobody wants is the runtime's own affair.
            allowed.add("failed")
        if request.timeout is not None:
            allowed.add("late")
        if request.cancel is not None:
            allowed.add("cancelled")
        assert outcome in allowed, (request, outcome)
        with self._lock:
            self.outcomes[outcome] += 1

    @staticmethod
    def _outcome(error: BaseException) -> Outcome:
        kinds: list[tuple[type[BaseException], Outcome]] = [
            (asyncio.CancelledError, "cancelled"),
            (concurrent.futures.CancelledError, "cancelled"),
            (ModelRunError, "failed"),
            (DeadlineExceededError, "late"),
            (QueueFullError, "full"),
            (ModelClosedError, "closed"),
        ]
        for kind, outcome in kinds:
            if isinstance(error, kind):
                assert outcome != "failed" or "pick" in str(error), error
                return outcome
        raise error

    def call(self, request: Request) -> None:
        """Ask from this thread."""
        try:
            if request.is_future:
                future = self.model.submit(**request.arguments(self.dtype))
                if request.cancel is not None:
                    future.cancel()
                answer = future.result()
            else:
                answer = self.model(**request.arguments(self.dtype))
        except BaseException as error:  # noqa: BLE001 - what is not expected is raised again
            self._note(request, self._outcome(error))
            return
        request.check(answer, self.dtype)
        self._note(request, "answered")

    async def await_one(self, request: Request) -> None:
        """Ask from the event loop that runs."""
        try:
            task = asyncio.ensure_future(self.model.apredict(**request.arguments(self.dtype)))
            if request.cancel is not None:
                for _ in range(request.cancel):
                    await asyncio.sleep(0)
                task.cancel()
            answer = await task
        except BaseException as error:  # noqa: BLE001 - as above
            self._note(request, self._outcome(error))
            return
        request.check(answer, self.dtype)
        self._note(request, "answered")

    async def await_all(self, requests: Iterable[Request], tasks: int) -> None:
        """Ask from so many tasks of the event loop that runs, each one after the other."""
        left = iter(requests)

        async def ask() -> None:
            for request in left:
                await self.await_one(request)

        await asyncio.gather(*(ask() for _ in range(tasks)))

    def call_all(self, requests: Iterable[Request]) -> None:
        """Ask from this thread, one after the other."""
        for request in requests:
            self.call(request)

    def run_loop(self, requests: Iterable[Request], tasks: int) -> None:
        """Ask from so many tasks of an event loop of this thread's."""
        asyncio.run(self.await_all(requests, tasks))

    def rest(self) -> None:
        """Wait until nothing runs and nobody waits, which must come to pass."""
        _until(lambda: self.model.closed or self._is_at_rest())

    def _is_at_rest(self) -> bool:
        batching = self.model.stats().batching
        return batching is None or not (batching.running or batching.queued_calls or batching.queued_rows)


def run(work: Sequence[Any]) -> None:
    """Do all of this at once, each on a thread of its own; the first problem is raised."""
    barrier = threading.Barrier(len(work))

    def begin(one: Any) -> None:
        barrier.wait()
        one()

    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        for end in [pool.submit(begin, one) for one in work]:
            end.result()


def workers() -> int:
    """How many threads of models there are in this process; 0 where that cannot be told."""
    tasks = Path("/proc/self/task")
    names = []
    for task in tasks.iterdir() if tasks.exists() else ():
        try:
            names.append((task / "comm").read_text())
        except OSError:
            continue  # it has ended meanwhile
    return sum(name.startswith("inferlite-worke") for name in names)


def no_worker_is_left(before: int) -> None:
    """Wait until there are no more threads of models than before, which must come to pass."""
    _until(lambda: workers() <= before)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.001)
