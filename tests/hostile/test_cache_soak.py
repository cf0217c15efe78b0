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
import gc, sys, threading, time
import memory, numpy
import inferlite, make_models

BUDGET = 64_000_000
content = make_models.parse("double (float[n,m] x) => (float[n,m] y) {{ y = Add(x, x) }}")
model = inferlite.load(content, cache=inferlite.Cache(max_bytes=BUDGET, policy={policy!r}, by={by!r}, copy={copy}))
plain = inferlite.load(content)
stop = time.monotonic() + {seconds}
calls, problems = [0] * 16, []

def press(number):
    drawn = numpy.random.default_rng(number)
    try:
        while time.monotonic() < stop:
            # Four times as many answers as there is room for, of sizes with a key of bytes and with one of a digest.
            width = int(drawn.choice([1, 16, 1_000, 5_000]))
            first = int(drawn.zipf(1.2)) % 20_000
            x = numpy.full((1 + first % 3, width), first, numpy.float32)
            y = model(x)
            assert y.shape == x.shape and (y == x + x).all(), (first, width)
            assert y.flags.writeable is {copy}
            if y.flags.writeable:
                y[:] = -1
            calls[number] += 1
    except BaseException as error:
        problems.append(repr(error))
        raise

plain(numpy.ones((3, 5_000), numpy.float32))
gc.collect()
before = memory.resident()
threads = [threading.Thread(target=press, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not problems, problems
gc.collect()
stats = model.stats().cache
assert stats.bytes <= BUDGET, stats
grown = memory.resident() - before
print(sum(calls), stats, grown, file=sys.stderr)
assert stats.hits > 0
if stats.evictions:
    # Full: what it takes is what it was allowed.
    assert stats.bytes > 0.9 * BUDGET, stats
assert grown <= 1.1 * BUDGET, grown
print(stats.evictions)
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
    code = PRESSURE.format(policy=policy, by=by, copy=copy, seconds=SECONDS)
    child.run(code, child_environment, limit=SECONDS + 60)
