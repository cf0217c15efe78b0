"""Calls that wait for a while at most, and calls on an event loop: on both back ends, with a cache and without."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import child
import inferlite
from cases import f32, ones
from inferlite._fallback.threads import available_threads
from inferlite.exceptions import DeadlineExceededError, InvalidInputError, ModelClosedError, ModelRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TWO = make_models.parse("two (float[n] x) => (float[n] a, float[n] b) { a = Neg(x) b = Exp(x) }")
# As many rounds as the caller says.
ROUNDS = make_models.parse(
    "rounds (float[1] x, int64 rounds) => (float[1] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[1] v) => (bool go_on, float[1] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)
LONG = np.array(20_000, np.int64)
ENDLESS = make_models.path("endless")
CACHES: tuple[dict[str, Any], ...] = ({}, {"cache": "1MB"})
with_and_without_a_cache = pytest.mark.parametrize("settings", CACHES, ids=["plain", "cached"])


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        await asyncio.sleep(0)


def _misses(model: Any) -> int:
    return int(model.stats().cache.misses)


@with_and_without_a_cache
def test_answers_are_those_of_a_plain_call(settings: dict[str, Any]) -> None:
    model = inferlite.load(TWO, **settings)

    async def ask() -> None:
        for number in range(400):  # enough for runs to prove brief
            x = f32(number, -1.0)
            given = await model.apredict(x)
            assert list(given) == ["a", "b"]
            assert given["a"].tobytes() == (-x).tobytes()
            assert (await model.apredict({"x": x}, outputs="a", timeout=30)).tobytes() == (-x).tobytes()
            assert (await model.apredict(x=x, outputs=["b"])).flags.writeable

    asyncio.run(ask())
    assert model.stats().calls == 1200
    assert model.stats().rows == 2400


@with_and_without_a_cache
def test_a_timeout_that_is_long_enough_changes_nothing(settings: dict[str, Any]) -> None:
    model = inferlite.load(ROUNDS, **settings)
    for timeout in (None, 30, 30.0, float("inf"), 1e300, np.float32(30)):
        assert model(x=f32(3.0), rounds=np.array(5, np.int64), timeout=timeout).tolist() == [3.0]
        assert model.predict({"x": f32(4.0), "rounds": LONG}, timeout=timeout).tolist() == [4.0]


@with_and_without_a_cache
def test_a_call_ends_at_its_deadline_and_so_does_its_run(settings: dict[str, Any]) -> None:
    model = inferlite.load(ENDLESS, **settings)
    # More calls than there are threads: each run has made room for the next.
    for number in range(3 * available_threads()):
        with pytest.raises(DeadlineExceededError, match=r"^model `endless` did not answer within 0\.02 s$"):
            model(f32(number), timeout=0.02)
    assert issubclass(DeadlineExceededError, TimeoutError)

    async def ask() -> None:
        for number in range(3 * available_threads()):
            with pytest.raises(DeadlineExceededError, match=r"^model `endless` did not answer within 0\.02 s$"):
                await model.apredict(f32(number), timeout=0.02)

    asyncio.run(ask())
    if settings:
        asyncio.run(_until(lambda: _misses(model) > 0))


def test_what_is_kept_meets_any_deadline() -> None:
    model = inferlite.load(ROUNDS, cache="1MB")
    feed = {"x": f32(1.0), "rounds": LONG}
    assert model(feed).tolist() == model(feed, timeout=0).tolist() == [1.0]
    with pytest.raises(DeadlineExceededError):
        model({"x": f32(2.0), "rounds": np.array(2**60)}, timeout=0)

    async def ask() -> None:
        assert (await model.apredict(feed, timeout=0)).tolist() == [1.0]

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError("`timeout` must be at least 0 seconds, not -1: pass None to wait for as long as it takes")),
        (
            float("nan"),
            ValueError("`timeout` must be at least 0 seconds, not nan: pass None to wait for as long as it takes"),
        ),
        ("1", TypeError("`timeout` must be seconds or None, not '1'")),
        (True, TypeError("`timeout` must be seconds or None, not True")),
    ],
)
def test_a_timeout_is_seconds(timeout: Any, error: Exception) -> None:
    model = inferlite.load(DOUBLE)
    for call in (model, model.predict, lambda x, timeout: asyncio.run(_awaited(model.apredict(x, timeout=timeout)))):
        with pytest.raises(type(error)) as caught:
            call(f32(1.0), timeout=timeout)
        assert str(caught.value) == str(error)


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def test_what_is_wrong_is_told_to_whoever_awaits() -> None:
    model = inferlite.load(DOUBLE)
    asked = [model.apredict("no"), model.apredict(ones(2, 2)), model.apredict(f32(1.0), outputs="no"), model.apredict()]
    closed = inferlite.load(DOUBLE)
    closed.close()
    asked.append(closed.apredict(f32(1.0)))

    async def ask() -> list[Any]:
        return await asyncio.gather(*asked, return_exceptions=True)

    given = asyncio.run(ask())
    assert [type(error) for error in given] == [InvalidInputError] * 4 + [ModelClosedError]


@with_and_without_a_cache
def test_a_failing_node_reaches_all_who_wait(settings: dict[str, Any]) -> None:
    model = inferlite.load(make_models.path("failing"), **settings)

    async def ask() -> list[Any]:
        asked = [model.apredict(a=ones(2, 3), b=ones(2, 3)) for _ in range(8)]
        return await asyncio.gather(*asked, return_exceptions=True)

    given = asyncio.run(ask())
    assert [type(error) for error in given] == [ModelRunError] * 8
    assert "MatMul" in str(given[0])
    if settings:
        assert len(model.cache) == 0


def test_tasks_and_threads_share_one_run() -> None:
    model = inferlite.load(ROUNDS, cache="1MB")
    feed = {"x": f32(1.0), "rounds": LONG}

    async def ask() -> list[Any]:
        return await asyncio.gather(*(model.apredict(feed) for _ in range(10)))

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(model, feed) for _ in range(2)]
        threads += [pool.submit(model, feed, timeout=30) for _ in range(2)]
        given = [*asyncio.run(ask()), *(future.result() for future in threads)]
    assert [answer.tolist() for answer in given] == [[1.0]] * 14
    stats = model.stats().cache
    assert stats.misses == 1
    assert stats.hits + stats.coalesced == 13
    given[0][0] = 7.0
    assert [answer.tolist() for answer in given[1:]] == [[1.0]] * 13


def test_a_task_that_is_cancelled_takes_nobody_with_it() -> None:
    model = inferlite.load(ROUNDS, cache="1MB")
    feed = {"x": f32(1.0), "rounds": np.array(300_000, np.int64)}

    async def ask() -> None:
        first = asyncio.ensure_future(model.apredict(feed))
        others = [asyncio.ensure_future(model.apredict(feed)) for _ in range(3)]
        await _until(lambda: _misses(model) == 1)
        for task in (first, others[0]):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [(await task).tolist() for task in others[1:]] == [[1.0]] * 2

    asyncio.run(ask())
    if inferlite.backend == "native":  # on the other one, a call joins once it has a thread
        assert _misses(model) == 1


def test_a_run_ends_once_nobody_waits_for_it() -> None:
    model = inferlite.load(ENDLESS, cache="1MB")

    async def ask() -> None:
        for number in range(8):
            before = _misses(model)
            tasks = [asyncio.ensure_future(model.apredict(f32(number))) for _ in range(2)]
            # Begun, which needs a thread that the runs before have given back. The one that leaves last may have to
            # begin anew first, which is a miss of its own.
            await _until(lambda before=before: _misses(model) > before)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
            )

    asyncio.run(ask())
    assert len(model.cache) == 0


def test_a_run_ends_with_a_task_that_is_cancelled_before_it_has_begun() -> None:
    model = inferlite.load(ENDLESS, cache="1MB")
    errors = []

    async def ask() -> None:
        # One more than there are threads, each of which has to be free again.
        for number in range(available_threads() + 1):
            task = asyncio.ensure_future(model.apredict(f32(number)))
            deadline = time.monotonic() + 30
            while _misses(model) == number:
                assert time.monotonic() < deadline, "no thread is left for it"
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            errors.append(caught)  # and all that its traceback holds

    asyncio.run(ask())


def test_a_claim_is_given_up_once(backend: str) -> None:
    if backend == "native":
        pytest.skip("there a seat is given up by dropping it")
    model = inferlite.load(ROUNDS, cache="1MB")
    feed = {"x": f32(1.0), "rounds": np.array(300_000, np.int64)}

    async def ask() -> None:
        others = [asyncio.ensure_future(model.apredict(feed)) for _ in range(2)]
        # Both have joined: one leads, and one waits.
        await _until(lambda: [flight.waiting for flight in list(model._answers._flights.values())] == [2])
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await others[0]
        del others[0]
        gc.collect()
        assert (await others[0]).tolist() == [1.0]

    asyncio.run(ask())


def test_a_coroutine_that_nobody_awaits_gives_its_claim_up() -> None:
    model = inferlite.load(ENDLESS, cache="1MB")
    for number in range(8):
        coroutine = model.apredict(f32(number))
        asyncio.run(_until(lambda number=number: _misses(model) == number + 1))
        coroutine.close()
        del coroutine
        gc.collect()


def test_a_loop_that_is_closed_takes_nobody_with_it() -> None:
    model = inferlite.load(ROUNDS, cache="1MB")
    feed = {"x": f32(1.0), "rounds": np.array(300_000, np.int64)}
    loop = asyncio.new_event_loop()
    task = loop.create_task(model.apredict(feed))
    loop.run_until_complete(_until(lambda: _misses(model) == 1))
    loop.close()
    assert model(feed).tolist() == [1.0]
    assert _misses(model) == 1
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@with_and_without_a_cache
def test_inputs_may_change_once_the_call_has_returned(settings: dict[str, Any]) -> None:
    model = inferlite.load(ROUNDS, **settings)
    large = inferlite.load(DOUBLE, **settings)

    async def ask() -> None:
        x, many = f32(1.0), np.ones(100_000, np.float32)
        asked, asked_too = model.apredict(x=x, rounds=LONG), large.apredict(many)
        x[:] = 7
        many[:] = 7
        assert (await asked).tolist() == [1.0]
        assert set((await asked_too).tolist()) == {2.0}

    asyncio.run(ask())


def test_the_loop_goes_on_meanwhile() -> None:
    model = inferlite.load(ROUNDS)
    turns = 0

    async def ask() -> int:
        nonlocal turns
        task = asyncio.ensure_future(model.apredict(x=f32(1.0), rounds=np.array(200_000, np.int64)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(ask()) > 100


def test_many_more_calls_than_threads_are_all_answered() -> None:
    model = inferlite.load(DOUBLE, cache="1MB")

    async def ask() -> list[float]:
        given = await asyncio.gather(*(model.apredict(f32(number % 500)) for number in range(3_000)))
        return [float(answer[0]) for answer in given]

    assert asyncio.run(ask()) == [2.0 * (number % 500) for number in range(3_000)]


def _comm(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # it has just ended
        return ""


def test_threads_end_with_their_model() -> None:
    def workers() -> int:
        tasks = Path("/proc/self/task")
        if not tasks.is_dir():
            return sum(thread.name.startswith("inferlite") for thread in threading.enumerate())
        return sum(_comm(task).startswith("inferlite-work") for task in tasks.iterdir())

    before = workers()
    model = inferlite.load(ROUNDS)
    asyncio.run(_awaited(model.apredict(x=f32(1.0), rounds=LONG)))
    if inferlite.backend == "native":
        assert workers() > before
    model.close()
    deadline = time.monotonic() + 10
    while workers() > before:
        assert time.monotonic() < deadline, "threads are left"


def test_calls_under_way_end_after_close() -> None:
    model = inferlite.load(ROUNDS, cache="1MB")

    async def ask() -> None:
        task = asyncio.ensure_future(model.apredict(x=f32(1.0), rounds=np.array(100_000, np.int64)))
        await asyncio.sleep(0)
        model.close()
        assert (await task).tolist() == [1.0]

    asyncio.run(ask())


@pytest.mark.parametrize("ending", ["falls off the end", "os._exit", "in an atexit handler"])
def test_a_process_may_end_while_tasks_wait(ending: str, child_environment: dict[str, str]) -> None:
    code = f"""
        import asyncio, atexit, os, threading, numpy, inferlite, committed
        model = inferlite.load(committed.path("endless"), cache="1MB")
        short = inferlite.load(committed.path("double"))
        ending = {ending!r}

        async def ask():
            if ending != "in an atexit handler":
                task = asyncio.ensure_future(model.apredict(numpy.ones(1, numpy.float32)))
                while not model.stats().cache.misses:
                    await asyncio.sleep(0)
            for number in range(50):
                await short.apredict(numpy.ones((1, 4), numpy.float32))
            if ending == "os._exit":
                os._exit(0)

        if ending == "in an atexit handler":
            atexit.register(lambda: asyncio.run(ask()))
        else:
            asyncio.run(ask())
    """
    child.run(code, child_environment)


def test_ctrl_c_ends_a_timed_wait(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, threading, numpy, inferlite, committed
        model = inferlite.load(committed.path("endless"), cache="1MB")

        def interrupt():
            while not model.stats().cache.misses:
                pass
            # To the process, as a terminal does: only that wakes the main thread from a lock that has a time limit.
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            model(numpy.ones(1, numpy.float32), timeout=50)
        except KeyboardInterrupt:
            os._exit(0)
        os._exit(1)
    """
    child.run(code, child_environment, limit=30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_threads_of_its_own(child_environment: dict[str, str]) -> None:
    code = """
        import asyncio, os, warnings, numpy, inferlite, committed
        warnings.simplefilter("ignore", DeprecationWarning)
        model = inferlite.load(committed.path("double"), cache="1MB")

        async def ask(number):
            x = numpy.full((1, 4), number, numpy.float32)
            assert (await model.apredict(x)).tolist() == (2 * x).tolist()

        for number in range(20):
            asyncio.run(ask(number))
            pid = os.fork()
            if pid == 0:
                asyncio.run(ask(number + 100))
                asyncio.run(ask(number))
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    """
    child.run(code, child_environment)
