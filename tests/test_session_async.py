"""`InferenceSession.arun` and `run_async`: every way in which a call may end, on both back ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

import child
import inferlite
import oracle
from cases import f32, ones
from inferlite._fallback.threads import available_threads

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TWO = make_models.parse("two (float[n] x) => (float[n] a, float[n] b) { a = Neg(x) b = Exp(x) }")
PICK = make_models.parse(
    "pick (int64[n] x) => (float[n] y) <float[3] table = {1, 2, 3}> { [pick] y = Gather(table, x) }"
)
ENDLESS = make_models.path("endless")
ENDLESS_FEED = {"x": f32(1.0)}
THREADS = [1, 2, 0]


def _session(model: Any = DOUBLE, *, threads: int = 1, **settings: Any) -> inferlite.InferenceSession:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = threads
    return inferlite.InferenceSession(model, options, **settings)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        await asyncio.sleep(0)


@oracle.proves("`await session.arun(...)`")
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("settings", [{}, {"cache": "1MB"}], ids=["plain", "cached"])
def test_answers_are_those_of_run(threads: int, settings: dict[str, Any]) -> None:
    session = _session(TWO, threads=threads, **settings)

    async def ask() -> None:
        for number in range(300):  # enough for runs to prove brief
            x = f32(number, -1.0)
            a, b = await session.arun(None, {"x": x})
            assert a.tobytes() == (-x).tobytes()
            assert b.flags.writeable
            (b,) = await session.arun(["b"], {"x": x})
            assert b.tobytes() == session.run(["b"], {"x": x})[0].tobytes()
        many = await asyncio.gather(*(session.arun(["a"], {"x": f32(number)}) for number in range(100)))
        assert [a[0] for (a,) in many] == [-number for number in range(100)]

    asyncio.run(ask())


def test_a_loop_of_uvloop_is_as_good() -> None:
    uvloop = pytest.importorskip("uvloop")
    session, endless = _session(), _session(ENDLESS)

    async def ask() -> None:
        (y,) = await session.arun(None, {"x": f32(2.0)})
        assert y.tolist() == [4.0]
        for _ in range(2 * available_threads()):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await endless.arun(None, ENDLESS_FEED)

    uvloop.run(ask())


def test_a_timeout_ends_the_run_and_no_other() -> None:
    session = _session(ENDLESS)

    async def ask() -> None:
        lasting = asyncio.ensure_future(session.arun(None, ENDLESS_FEED))
        # More calls than there are threads: each run has made room for the next.
        for _ in range(3 * available_threads()):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await session.arun(None, ENDLESS_FEED)
        assert not lasting.done()
        lasting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lasting

    if available_threads() > 1:
        asyncio.run(ask())


def test_run_options_are_the_callers_and_terminate_reaches_the_run() -> None:
    session = _session(ENDLESS)
    options = inferlite.RunOptions()

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await session.arun(None, ENDLESS_FEED, options)
        # The run was ended by options of its own.
        assert options.terminate is False
        task = asyncio.ensure_future(session.arun(None, ENDLESS_FEED, options))
        await asyncio.sleep(0)
        options.terminate = True
        with pytest.raises(Fail, match="terminate flag"):
            await task
        # They still say so.
        with pytest.raises(Fail, match="terminate flag"):
            await session.arun(None, ENDLESS_FEED, options)

    asyncio.run(ask())


@pytest.mark.parametrize("make", [inferlite.RunOptions, onnxruntime.RunOptions])
def test_options_of_either_class_are_taken(make: Callable[[], Any]) -> None:
    session, options = _session(cache="1MB"), make()
    options.logid = "a"

    async def ask() -> None:
        for _ in range(3):
            (y,) = await session.arun(["y"], {"x": f32(1.0)}, options)
            assert y.tolist() == [2.0]
        options.terminate = True
        with pytest.raises(Fail, match="terminate flag"):
            await session.arun(["y"], {"x": f32(1.0)}, options)

    asyncio.run(ask())


# What is wrong, and the class of what `run` raises, with which both others are compared.
WRONG: list[tuple[Any, ...]] = [
    (["zzz"], {"x": f32(1.0)}),
    (None, {}),
    (None, {"x": f32(1.0), "q": f32(1.0)}),
    (None, {"x": np.ones(1)}),
    (None, {"x": ones(2, 2)}),
    ("y", {"x": f32(1.0)}),
    (None, [1]),
    (None, {"x": f32(1.0)}, 7),
]


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_told_to_whoever_awaits(given: tuple[Any, ...]) -> None:
    session = _session()
    with pytest.raises(Exception) as wanted:  # noqa: PT011 - whatever `run` raises
        session.run(*given)
    coroutine = session.arun(*given)

    async def ask() -> None:
        with pytest.raises(type(wanted.value)) as caught:
            await coroutine
        assert type(caught.value) is type(wanted.value)
        if not isinstance(caught.value, TypeError):  # which names the function
            # Without the advice that `run` adds, which looks at arrays that may be gone.
            assert str(wanted.value).startswith(str(caught.value))

    asyncio.run(ask())


def test_a_failing_node_fails_its_call() -> None:
    session = _session(PICK)

    async def ask() -> None:
        bad = session.arun(None, {"x": np.array([7], np.int64)})
        good = session.arun(None, {"x": np.array([2], np.int64)})
        with pytest.raises(InvalidArgument, match="Gather"):
            await bad
        assert (await good)[0].tolist() == [3.0]

    asyncio.run(ask())


def test_inputs_may_change_once_the_call_has_returned() -> None:
    session = _session()
    x = np.ones(100_000, np.float32)

    async def ask() -> None:
        for _ in range(10):
            x[:] = 1
            asked = session.arun(None, {"x": x})
            x[:] = 2
            (y,) = await asked
            assert (y == 2).all()

    asyncio.run(ask())


def test_the_session_is_gone_with_its_last_call() -> None:
    session = _session(ENDLESS)
    gone = weakref.ref(session)

    async def ask(session: Any) -> None:
        task = asyncio.ensure_future(session.arun(None, ENDLESS_FEED))
        del session
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    coroutine = ask(session)
    del session
    asyncio.run(coroutine)

    async def wait() -> None:
        await _until(lambda: bool(gc.collect() is not None and gone() is None))

    asyncio.run(wait())


def _heard(session: Any, *given: Any, options: Any = None) -> tuple[Any, ...]:
    told: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def callback(results: list[Any], user_data: Any, error: str) -> None:
        told.append((results, user_data, error, threading.get_ident()))
        ended.set()

    assert session.run_async(*given, callback, "mine", options) is None
    assert ended.wait(30)
    results, user_data, error, thread = told[0]
    assert user_data == "mine"
    assert thread != threading.get_ident()
    assert len(told) == 1
    return results, error


@oracle.proves("`run_async` of a session with one thread")
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("settings", [{}, {"cache": "1MB"}], ids=["plain", "cached"])
def test_a_callback_is_given_what_run_gives(threads: int, settings: dict[str, Any]) -> None:
    session = _session(TWO, threads=threads, **settings)
    x = f32(1.0, 2.0)
    for names in (None, [], ["b"], ("b", "a")):
        results, error = _heard(session, names, {"x": x})
        assert error == ""
        assert isinstance(results, list)
        for given, wanted in zip(results, session.run(names, {"x": x}), strict=True):
            assert given.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("given", WRONG[:1] + WRONG[2:5], ids=range(4))
def test_a_callback_is_told_what_onnxruntime_tells_it(given: tuple[Any, ...]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    wanted = _heard(onnxruntime.InferenceSession(DOUBLE, options), *given)
    results, error = _heard(_session(), *given)
    assert results == wanted[0] == []
    assert error == wanted[1] != ""


def test_a_callback_is_told_of_a_run_that_was_ended() -> None:
    options = inferlite.RunOptions()
    options.terminate = True
    assert _heard(_session(), None, {"x": f32(1.0)}, options=options) == (
        [],
        "Exiting due to terminate flag being set to true.",
    )


@oracle.proves("`run_async` with a callback that cannot be called")
def test_what_cannot_be_called_is_refused_at_once() -> None:
    session = _session()
    for callback in (None, 5):
        with pytest.raises(TypeError, match=r"^run_async\(\): incompatible function arguments"):
            session.run_async(None, {"x": f32(1.0)}, callback, None)
    with pytest.raises(ValueError, match="Required inputs"):
        session.run_async(None, {}, print, None)


def test_what_a_callback_raises_goes_to_the_hook_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session()
    raised: list[Any] = []
    ended = threading.Event()

    def hook(unraisable: Any) -> None:
        raised.append(unraisable.exc_value)
        ended.set()

    monkeypatch.setattr(sys, "unraisablehook", hook)
    for error in (ValueError("a"), SystemExit(3), KeyboardInterrupt()):

        def callback(*_: Any, error: BaseException = error) -> None:
            raise error

        ended.clear()
        session.run_async(None, {"x": f32(1.0)}, callback, None)
        assert ended.wait(30)
        assert raised.pop() is error


def test_a_call_keeps_alive_what_it_needs() -> None:
    heard: list[Any] = []
    ended = threading.Event()

    def callback(results: list[Any], _: Any, error: str) -> None:
        heard.append((results[0].tolist(), error))
        ended.set()

    session = _session()
    gone = weakref.ref(session)
    options = inferlite.RunOptions()
    session.run_async(None, {"x": f32(4.0)}, callback, object(), options)
    del session, options
    assert ended.wait(30)
    assert heard == [([8.0], "")]

    async def wait() -> None:
        await _until(lambda: gone() is None)

    asyncio.run(wait())


END_WHILE_RUNNING = """
import sys, threading, asyncio
import inferlite, make_models
from cases import f32
session = inferlite.InferenceSession(make_models.path("endless"))
options = inferlite.RunOptions()
way = {way!r}
if way == "task":
    async def main():
        task = asyncio.ensure_future(session.arun(None, {{"x": f32(1.0)}}, options))
        await asyncio.sleep(0.05)
    asyncio.run(main())
elif way == "coroutine":
    import warnings
    warnings.simplefilter("ignore")
    coroutine = session.arun(None, {{"x": f32(1.0)}})
    if inferlite.backend == "python":
        coroutine.close()  # the interpreter waits for calls under way
else:
    session.run_async(None, {{"x": f32(1.0)}}, print, None, options)
    if inferlite.backend == "python":
        options.terminate = True  # which waits for calls under way
print("end")
"""


@pytest.mark.parametrize("way", ["task", "coroutine", "callback"])
def test_a_process_may_end_while_a_session_runs(way: str, child_environment: dict[str, str]) -> None:
    printed = child.run(END_WHILE_RUNNING.format(way=way), child_environment)
    assert "end" in printed  # among what a callback prints


END_IN_A_CALLBACK = """
import threading, time
import inferlite, make_models
from cases import f32
session = inferlite.InferenceSession(make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }"))
begun = threading.Event()
def callback(results, data, error):
    begun.set()
    time.sleep(0.2)
    print("told")
session.run_async(None, {"x": f32(1.0)}, callback, None)
assert begun.wait(30)
"""


def test_a_callback_under_way_ends_before_the_process_does(child_environment: dict[str, str]) -> None:
    assert child.run(END_IN_A_CALLBACK, child_environment) == "told\n"


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


# Goes on for as many rounds as the caller says.
ROUNDS = make_models.parse(
    "rounds (float[n] x, int64 rounds) => (float[n] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[m] v) => (bool go_on, float[m] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)


@pytest.mark.parametrize("make", [asyncio.new_event_loop, _uvloop], ids=["asyncio", "uvloop"])
def test_runs_of_a_closed_loop_end_once_another_one_waits(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    session = inferlite.InferenceSession(ROUNDS)
    closed = make()
    # As many as there are threads for them, and more.
    tasks = [closed.create_task(session.arun(None, {"x": f32(1.0), "rounds": np.array(2**60)})) for _ in range(40)]
    for _ in range(3):
        closed.run_until_complete(asyncio.sleep(0))
    closed.close()

    async def ask() -> list[Any]:
        return await session.arun(None, {"x": f32(2.0), "rounds": np.array(1)})

    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(asyncio.wait_for(ask(), 30))[0].tolist() == [2.0]
    for task in tasks:
        assert not task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
