"""Micro-batching under a crowd that asks as often as it is told: every answer is right, and none is lost."""

from __future__ import annotations

import os
import sys
from typing import Final

import pytest

import child

REQUESTS: Final = int(os.environ.get("INFERLITE_SOAK_REQUESTS", "1000000"))
"""How often all callers of a test ask together; CI takes fewer."""

CROWD = """
import gc, itertools, random
from functools import partial
import crowd, inferlite, memory
from crowd import BEYOND, Crowd, Request
from inferlite import Batching, Pad

THREADS, LOOPS, TASKS = 8, 4, 64
model = inferlite.load(
    crowd.content("float"),
    batching=Batching(max_rows=64, pad=Pad({{"x": 1}}, sizes=(4, 8), outputs={{"doubled": 1}})),
    hold_gil=False,
)
callers = Crowd(model, "float")
numbers = itertools.count()

def requests(seed, share):
    drawn = random.Random(seed)
    for _ in range(share):
        # Of every thousand some are out of the ordinary.
        odd = drawn.randrange(1000)
        yield Request(
            number=next(numbers) % 1_000_000,
            rows=1 if odd < 900 else drawn.randrange(1, 100),
            length=drawn.randrange(1, 10),
            index=BEYOND if odd == 1 else drawn.randrange(3),
            priority=drawn.randrange(-2, 3) if odd < 50 else 0,
            timeout=0.0 if odd == 2 else 60.0 if odd < 10 else None,
            cancel=drawn.randrange(4) if odd in (10, 11) else None,
            is_future=odd < 30,
        )

def press(total):
    # What threads ask takes a switch of threads each, what tasks ask comes by the batch.
    thread, loop = total // 5 // THREADS, total * 4 // 5 // LOOPS
    work = [partial(callers.call_all, requests(total + seed, thread)) for seed in range(THREADS)]
    work += [partial(callers.run_loop, requests(total - seed, loop), TASKS) for seed in range(LOOPS)]
    before = callers.outcomes.total()
    crowd.run(work)
    assert callers.outcomes.total() == before + thread * THREADS + loop * LOOPS
    callers.rest()

press({requests} // 10)
gc.collect()
before = memory.resident()
press({requests} - {requests} // 10)
gc.collect()
grown = memory.resident() - before
batching = model.stats().batching
print(dict(callers.outcomes), grown, "bytes grown", batching, flush=True)
assert callers.outcomes["answered"] > 0.98 * callers.outcomes.total()
assert callers.outcomes["failed"] > 0
assert sum(rows * count for rows, count in batching.sizes.items()) > 0
assert grown < 100_000_000, grown
model.close()
del model, callers
gc.collect()
crowd.no_worker_is_left(0)
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory and threads from /proc")
@pytest.mark.parametrize("backend", ["native"], indirect=True)
def test_threads_and_tasks_press_together(backend: str, child_environment: dict[str, str]) -> None:
    assert backend
    child.run(CROWD.format(requests=REQUESTS), child_environment, limit=3000)
