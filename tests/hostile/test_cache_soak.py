"""The prediction cache under pressure for as long as it is told: right answers, and no more memory than its budget."""

from __future__ import annotations

import os
import sys
from typing import Final

import pytest

import child
from inferlite.cache import POLICIES

SECONDS: Final = float(os.environ.get("INFERLITE_SOAK_SECONDS", "60"))
"""How long each test presses; CI takes less."""

PRESSURE = """
import gc, itertools, sys, threading, time
import memory, numpy
import inferlite, make_models

def load(budget):
    settings = inferlite.Cache(max_bytes=budget, policy={policy!r}, by={by!r}, copy={copy})
    content = make_models.parse("double (float[n,m] x) => (float[n,m] y) {{ y = Add(x, x) }}")
    return inferlite.load(content, cache=settings)

BUDGET = {budget}
calls, problems, full = [0] * 16, [], threading.Event()

def ask(model, drawn, first):
    # Sizes with a key of bytes and with one of a digest.
    width = int(drawn.choice([1, 16, 1_000, 5_000]))
    x = numpy.full((1 + first % 3, width), first, numpy.float32)
    x += numpy.arange(len(x), dtype=numpy.float32)[:, None] / 4
    for _ in range(2):  # found the second time, or the cache would turn itself down
        y = model(x)
        assert y.shape == x.shape and (y == x + x).all(), (first, width)
        assert y.flags.writeable is {copy}
        if y.flags.writeable:
            y[:] = -1

def warm_up(number):
    drawn = numpy.random.default_rng(number)
    together.wait()
    for first in range(number, 3_200, 16):
        ask(small, drawn, first)
    together.wait()

def press(number):
    drawn = numpy.random.default_rng(number)
    news = itertools.count(1_000_000 + number, 16)
    try:
        while time.monotonic() < stop:
            # More than there is room for; nothing but new ones until it is full.
            is_full = full.is_set() or calls[number] % 50 == 0 and model.cache.stats().bytes > 0.95 * BUDGET
            if is_full:
                full.set()
            ask(model, drawn, int(drawn.zipf(1.2)) % 100_000 if is_full else next(news))
            calls[number] += 1
    except BaseException as error:
        problems.append(repr(error))
        raise

def in_16_threads(work):
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

# What 16 threads need for the same work with a cache of next to nothing is not the cache's.
small, model = load(1_000_000), load(BUDGET)
together = threading.Barrier(16, timeout=60)
in_16_threads(warm_up)
gc.collect()
before = memory.resident()
stop = time.monotonic() + {seconds}
in_16_threads(press)
assert not problems, problems
gc.collect()
stats = model.stats().cache
assert stats.bytes <= BUDGET, stats
grown = memory.resident() - before
print(sum(calls), 'calls', stats, grown, 'bytes grown', flush=True)
assert stats.hits > 0
assert stats.evictions > 0
assert stats.bytes > 0.9 * BUDGET, stats
assert grown <= {most} * BUDGET, grown
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("by", ["request", "row"])
@pytest.mark.parametrize("policy", POLICIES)
def test_16_threads_press_for_room(
    policy: str, by: str, copy: bool, backend: str, child_environment: dict[str, str]
) -> None:
    if backend == "python" and by == "row":
        pytest.skip("the Python back end has no cache by row")
    # Objects of Python lie where its allocators put them, and are counted by estimate; they are slower to make, too.
    budget, most = (256_000_000, 1.1) if backend == "native" else (32_000_000, 2.0)
    code = PRESSURE.format(policy=policy, by=by, copy=copy, seconds=SECONDS, budget=budget, most=most)
    child.run(code, child_environment, limit=SECONDS + 60)
