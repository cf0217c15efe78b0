"""Event loops: calls of one turn leave together, and awaiting them is as asyncio's users expect, on both back ends."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import warnings
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import inferlite
from cases import f32
from inferlite import Batching
from inferlite.exceptions import DeadlineExceededError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
# Goes on for as many rounds as the caller says.
ROUNDS = make_models.parse(
    "rounds (float[n] x, int64 rounds) => (float[n] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[m] v) => (bool go_on, float[m] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)
ENDLESS = np.array(2**60, np.int64)


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


class _Unwatching(asyncio.SelectorEventLoop):
    """A loop that watches no files for others, as the one that Windows has."""

    def add_reader(self, *_: Any) -> Any:
        raise NotImplementedError


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": _uvloop,
    "unwatching": _Unwatching,
}
on_every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=list(LOOPS))


def _run(loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def _batched(content: Any = DOUBLE, **settings: Any) -> Any:
    # With one thread, runs prove brief.
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    batching = Batching(**{"max_rows": 64, **settings})
    return inferlite.load(content, session_options=options, batching=batching, rows_independent=True)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        await asyncio.sleep(0)


@on_every_loop
def test_every_task_gets_its_own_answer(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched()

    async def many(number: int) -> None:
        for turn in range(50):
            x = f32(number, turn)
            assert (await model.apredict(x)).tolist() == (2 * x).tolist()

    async def ask() -> None:
        await asyncio.gather(*(many(number) for number in range(40)))

    _run(loop, ask())
    assert model.stats().calls == 2000
    assert max(model.stats().batching.sizes) > 40


@on_every_loop
def test_what_one_turn_collects_leaves_together(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched()

    async def ask() -> None:
        given = await asyncio.gather(*(model.apredict(f32(number)) for number in range(30)))
        assert [answer.tolist() for answer in given] == [[2.0 * number] for number in range(30)]

    _run(loop, ask())
    assert model.stats().batching.sizes == {30: 1}


def test_a_loop_is_woken_once_for_a_batch() -> None:
    model = _batched(make_models.path("mlp"), max_rows=64)
    width = model.signature.inputs[0].shape[1]
    woken = 0

    class Counting(_Unwatching):
        def call_soon_threadsafe(self, *given: Any, **named: Any) -> Any:
            nonlocal woken
            woken += 1
            return super().call_soon_threadsafe(*given, **named)

    async def ask() -> None:
        # Rows enough to take long, so that a worker leads.
        x = np.ones((2_000, width), np.float32)
        await asyncio.gather(*(model.apredict(x[number:]) for number in range(1)))
        await asyncio.gather(*(model.apredict(x[:1]) for _ in range(50)))

    _run(Counting, ask())
    assert woken <= 3


@on_every_loop
def test_a_lone_task_is_answered_in_few_turns(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched()

    async def ask() -> None:
        for number in range(1_000):
            assert (await model.apredict(f32(number))).tolist() == [2.0 * number]

    _run(loop, ask())
    if inferlite.backend == "native":
        # The Python back end has a worker lead every call of a loop.
        assert model.stats().batching.lone > 100


@on_every_loop
def test_what_asyncio_does_with_coroutines_works(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched()

    async def ask() -> list[Any]:
        given = [await model.apredict(f32(1.0))]
        given += await asyncio.gather(model.apredict(f32(2.0)), model.apredict(f32(3.0)))
        given.append(await asyncio.create_task(model.apredict(f32(4.0))))
        given.append(await asyncio.wait_for(model.apredict(f32(5.0)), 30))
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            task = group.create_task(model.apredict(f32(6.0)))
        given.append(task.result())
        given.append(await asyncio.shield(model.apredict(f32(7.0))))
        return given

    assert [answer.tolist() for answer in _run(loop, ask())] == [[2.0 * number] for number in range(1, 8)]
    prediction = model.apredict(f32(8.0))
    assert isinstance(prediction, Coroutine)
    assert asyncio.iscoroutine(prediction)
    assert not asyncio.isfuture(prediction)
    assert _run(loop, prediction).tolist() == [16.0]


def test_a_call_may_be_made_before_its_loop_runs_and_on_another_one() -> None:
    model = _batched()
    before = model.apredict(f32(1.0))

    async def make() -> Any:
        return model.apredict(f32(2.0))

    async def wait(prediction: Any) -> Any:
        return await prediction

    assert asyncio.run(wait(before)).tolist() == [2.0]
    assert asyncio.run(wait(asyncio.run(make()))).tolist() == [4.0]


def test_an_answer_is_awaited_once() -> None:
    model = _batched()

    async def ask() -> None:
        prediction = model.apredict(f32(1.0))
        await prediction
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await prediction

    asyncio.run(ask())


def test_errors_reach_the_task_that_asked_alone() -> None:
    model = _batched()

    async def ask() -> list[Any]:
        asked = [model.apredict(f32(1.0)), model.apredict("no"), model.apredict(f32(2.0))]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert (first.tolist(), third.tolist()) == ([2.0], [4.0])
    assert isinstance(second, InvalidInputError)


@on_every_loop
def test_a_task_cancelled_at_any_time_ends_its_run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched(ROUNDS)

    async def ask() -> None:
        for turns in range(4):
            # One worker or two: each run has made room for the next.
            for _ in range(6):
                task = asyncio.ensure_future(model.apredict(x=f32(1.0), rounds=ENDLESS))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel("enough")
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.args == ("enough",)
                await _until(lambda: model.stats().batching.running == 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.apredict(x=f32(1.0), rounds=ENDLESS), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await model.apredict(x=f32(1.0), rounds=ENDLESS)
        with pytest.raises(DeadlineExceededError, match=r"^model `rounds` did not answer within 0\.01 s$"):
            await model.apredict(x=f32(1.0), rounds=ENDLESS, timeout=0.01)
        await _until(lambda: model.stats().batching.running == 0)

    _run(loop, ask())


def test_what_is_closed_or_never_awaited_gives_its_claim_up() -> None:
    model = _batched(ROUNDS)

    async def ask() -> None:
        for _ in range(4):
            prediction = model.apredict(x=f32(1.0), rounds=ENDLESS)
            await asyncio.sleep(0)
            prediction.close()
            with pytest.warns(RuntimeWarning, match="never awaited"):
                model.apredict(x=f32(2.0), rounds=ENDLESS)
            prediction = model.apredict(x=f32(1.0), rounds=ENDLESS)
            with pytest.raises(KeyError):
                prediction.throw(KeyError("thrown"))
        await _until(lambda: model.stats().batching.running + model.stats().batching.queued_calls == 0)

    asyncio.run(ask())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.apredict(x=f32(1.0), rounds=ENDLESS).close()


def test_each_task_keeps_its_context() -> None:
    model = _batched()
    who: contextvars.ContextVar[int] = contextvars.ContextVar("who")

    async def ask(number: int) -> None:
        who.set(number)
        for _ in range(20):
            await model.apredict(f32(number))
            assert who.get() == number
            assert asyncio.current_task() in tasks

    tasks: list[Any] = []

    async def all_of_them() -> None:
        tasks.extend(asyncio.ensure_future(ask(number)) for number in range(20))
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())


def test_loops_in_several_threads_get_their_own_answers() -> None:
    model = _batched()

    async def ask(number: int) -> None:
        async def one(more: int) -> None:
            for _ in range(30):
                assert (await model.apredict(f32(number, more))).tolist() == [2.0 * number, 2.0 * more]

        await asyncio.gather(*(one(more) for more in range(10)))

    def in_thread(number: int) -> None:
        for _ in range(3):
            asyncio.run(ask(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(in_thread, range(6)))
    assert model.stats().calls == 6 * 3 * 10 * 30


@on_every_loop
def test_a_loop_closed_with_calls_under_way_harms_nobody(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    model = _batched()
    closed = loop()
    tasks = []

    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(model.apredict(f32(number))) for number in range(4))

    closed.run_until_complete(begin())
    closed.close()

    async def ask() -> None:
        for number in range(20):
            assert (await model.apredict(f32(number))).tolist() == [2.0 * number]

    _run(loop, ask())
    for task in tasks:
        task._log_destroy_pending = False


def test_an_interrupt_in_one_task_loses_no_other() -> None:
    model = _batched()
    answered = []

    async def interrupted() -> None:
        await model.apredict(f32(0.0))
        raise KeyboardInterrupt

    async def other(number: int) -> None:
        answered.append((await model.apredict(f32(number))).tolist())

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        first = loop.create_task(interrupted())
        others = [loop.create_task(other(number)) for number in range(8)]
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait([first, *others]))
        loop.run_until_complete(asyncio.wait(others))
        assert isinstance(first.exception(), KeyboardInterrupt)
    assert sorted(answered) == [[2.0 * number] for number in range(8)]


def test_the_loop_beats_on_while_a_long_run_is_awaited() -> None:
    model = _batched(ROUNDS)

    async def ask() -> int:
        task = asyncio.ensure_future(model.apredict(x=f32(1.0), rounds=ENDLESS))
        beats = 0
        while beats < 1_000 and not task.done():
            await asyncio.sleep(0)
            beats += 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return beats

    assert asyncio.run(ask()) == 1_000
    assert threading.active_count() < 50
