"""A batched model that a test keeps busy for as long as it likes, so that calls stand in line in a certain order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import make_models
import numpy as np

import inferlite
from inferlite import Batching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future, ThreadPoolExecutor

# Goes on for as many rounds as the caller says, and picks from a table at the end: what is not in it fails.
ROUNDS: Final = make_models.parse(
    "rounds (int64[n] x, int64 rounds) => (float[n] y) <bool yes = {1}, float[3] table = {1, 2, 3}> "
    "{ z = Loop<body = body (int64 i, bool go, int64[m] v) => (bool go_on, int64[m] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) [pick] y = Gather(table, z) }"
)
ENDLESS: Final = np.array(2**60, np.int64)
ONCE: Final = np.array(1, np.int64)


def load(cache: inferlite.Cache | None = None, **settings: Any) -> Any:
    """The model, with these settings of batching."""
    return inferlite.load(ROUNDS, batching=Batching(**settings), rows_independent=True, cache=cache)


def i64(*values: int) -> np.ndarray:
    """A row for each value."""
    return np.array(values, np.int64)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to come to pass."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def busy(model: Any) -> AsyncIterator[None]:
    """A run is under way, which ends with the block."""
    # Of rounds of its own, so that nobody joins it before its leader has come.
    endless = asyncio.ensure_future(model.apredict(x=i64(0), rounds=ENDLESS - 1))
    # A task that never began keeps its place until it is collected.
    await asyncio.sleep(0)
    try:
        await until(lambda: bool(model.stats().batching.running))
        yield
    finally:
        endless.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await endless


async def in_line(model: Any, calls: int) -> None:
    """Wait until so many calls stand in line."""
    await until(lambda: bool(model.stats().batching.queued_calls == calls))


async def stand(model: Any, pool: ThreadPoolExecutor, *given: np.ndarray, **arguments: Any) -> list[Future[Any]]:
    """Calls from threads, which stand in line in this order."""
    futures = []
    before = model.stats().batching.queued_calls
    for count, x in enumerate(given, 1):
        futures.append(pool.submit(model, {"x": x, "rounds": ONCE}, **arguments))
        await in_line(model, before + count)
    return futures


async def runs(model: Any, rows: int) -> None:
    """Wait until a batch of so many rows has left, and runs."""

    def does() -> bool:
        batching = model.stats().batching
        return bool(batching.sizes.get(rows, 0) == 1 and batching.running)

    await until(does)


async def rests(model: Any) -> None:
    """Wait until nothing runs."""
    await until(lambda: not model.stats().batching.running)
