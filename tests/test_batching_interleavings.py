"""Micro-batching under made-up crowds: no answer is wrong or lost, whoever is late, cancelled, refused or in error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from functools import partial
from typing import Any

import pytest
from hypothesis import given, strategies as st

import crowd
import inferlite
from conftest import BACKENDS
from crowd import BEYOND, DTYPES, Crowd, Request
from inferlite import Batching, Pad

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)

PAD = Pad({"x": 1}, sizes=(3, 5), outputs={"doubled": 1})

REQUESTS = st.builds(
    Request,
    number=st.integers(0, 1000),
    rows=st.sampled_from([1, 1, 1, 2, 3, 7]),
    length=st.integers(0, 6),
    index=st.sampled_from([0, 0, 1, 1, 2, 2, BEYOND]),
    outputs=st.sampled_from([None, None, "doubled", "picked"]),
    priority=st.integers(-3, 3),
    timeout=st.sampled_from([None, None, None, 0.0, 1e-5, 30.0]),
    cancel=st.sampled_from([None, None, None, 0, 1, 2, 5]),
    is_future=st.booleans(),
)
CALLERS = st.lists(st.lists(REQUESTS, min_size=1, max_size=12), min_size=1, max_size=4)
SETTINGS = st.fixed_dictionaries(
    {
        "max_rows": st.sampled_from([None, 1, 2, 4, 64]),
        "max_delay": st.sampled_from([0.0, 0.0, 0.0005]),
        "max_queue": st.sampled_from([1, 4, 10_000]),
        "instances": st.sampled_from([1, 1, 2, 3]),
        "target_latency": st.sampled_from([None, None, 0.001]),
        "pad": st.sampled_from([(), PAD]),
    }
)


@native
@pytest.mark.timeout(3600)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    settings=SETTINGS,
    cache=st.sampled_from([None, None, "request", "row"]),
    threads=CALLERS,
    loops=CALLERS,
    tasks=st.integers(1, 12),
    closing=st.sampled_from([None, None, None, False, True]),
)
def test_every_call_gets_its_own_answer_or_its_own_error(
    dtype: str,
    settings: dict[str, Any],
    cache: Any,
    threads: list[list[Request]],
    loops: list[list[Request]],
    tasks: int,
    closing: bool | None,
) -> None:
    before = crowd.workers()
    model = inferlite.load(
        crowd.content(dtype),
        batching=Batching(**settings),
        cache=None if cache is None else inferlite.Cache(max_bytes=20_000, by=cache),
    )
    # A pool of threads without batches has room as well.
    may_be = ["full"] + ["closed"] * (closing is not None)
    callers = Crowd(model, dtype, may_be=may_be)  # type: ignore[arg-type] - these are outcomes

    work = [partial(callers.call_all, requests) for requests in threads]
    work += [partial(callers.run_loop, requests, tasks) for requests in loops]
    if closing is not None:
        work.append(partial(model.close, cancel=closing))
    crowd.run(work)
    asked = sum(map(len, threads)) + sum(map(len, loops))
    assert callers.outcomes.total() == asked
    callers.rest()
    if closing is None:
        # It is as it was: nobody is in the way of the next one.
        last = Request(7)
        last.check(model(**last.arguments(callers.dtype)), callers.dtype)
    model.close()
    del model, callers, work
    gc.collect()
    crowd.no_worker_is_left(before)


@native
def test_loops_may_begin_and_end_at_once() -> None:
    model = inferlite.load(crowd.content("float"), batching=Batching(max_rows=8))
    callers = Crowd(model, "float")

    # Those of others that are open are looked at by each that begins.
    def begin(first: int) -> None:
        with contextlib.ExitStack() as stack:
            for number in range(first, first + 15):
                loop = stack.enter_context(contextlib.closing(asyncio.new_event_loop()))
                loop.run_until_complete(callers.await_all([Request(number), Request(number + 1, index=1)], 2))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crowd.run([partial(begin, 100 * thread) for thread in range(8)])
    finally:
        sys.setswitchinterval(interval)
    assert callers.outcomes == {"answered": 240}
