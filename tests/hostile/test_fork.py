"""Forking a process whose threads are running: the children use sessions made before and after."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import child
import oracle

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# Each child has five seconds to use an old and a new session; a child that hangs is killed by its alarm.
FORKS = """
import collections, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy, inferlite, committed
options = inferlite.SessionOptions()
options.intra_op_num_threads = {threads}
old = inferlite.InferenceSession(committed.path("mlp"), options)
x = numpy.ones(({rows}, 16), numpy.float32)
(wanted,) = old.run(None, {{"x": x}})
stop = threading.Event()

def work():
    while not stop.is_set():
        old.run(None, {{"x": x}})

threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
failed = []
children = collections.deque()

def wait_for_the_oldest():
    number, child = children.popleft()
    _, status = os.waitpid(child, 0)
    if status:
        failed.append((number, status))

# Some at a time: while the parent waits for one alone, its threads have the machine nearly to themselves.
for number in range({forks}):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        status = 1
        try:
            (given,) = old.run(None, {{"x": x}})
            assert given.tobytes() == wanted.tobytes()
            new = inferlite.InferenceSession(committed.path("mlp"), options)
            (given,) = new.run(None, {{"x": x}})
            assert given.tobytes() == wanted.tobytes()
            call = new.bind({{"x": x}})
            assert call()[0].tobytes() == wanted.tobytes()
            status = 0
        except BaseException as error:
            print(type(error), error, file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    children.append((number, child))
    if len(children) == 4:
        wait_for_the_oldest()
    if len(failed) == 3:
        break
while children:
    wait_for_the_oldest()
stop.set()
[thread.join() for thread in threads]
(given,) = old.run(None, {{"x": x}})
assert given.tobytes() == wanted.tobytes()
assert not failed, failed
"""


@pytest.mark.parametrize(
    ("threads", "rows", "forks"),
    [
        pytest.param(1, 1, 50, id="one thread"),
        pytest.param(1, 1, 200, id="one thread and many children", marks=pytest.mark.slow),
        pytest.param(2, 4096, 50, id="a pool of threads at work"),
        pytest.param(0, 1, 50, id="the default threads"),
    ],
)
def test_children_use_old_and_new_sessions(
    threads: int,
    rows: int,
    forks: int,
    child_environment: dict[str, str],
) -> None:
    child.run(FORKS.format(threads=threads, rows=rows, forks=forks), child_environment, limit=100)


def test_bound_calls_and_models_survive_a_fork(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, numpy, inferlite, committed
        x = numpy.ones((1, 4), numpy.float32)
        session = inferlite.InferenceSession(committed.path("double"))
        call = session.bind({"x": x})
        model = inferlite.load(committed.path("double"))
        call(), model(x)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            status = 1
            try:
                assert call()[0].tolist() == [[2.0] * 4]
                assert model(x).tolist() == [[2.0] * 4]
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert call()[0].tolist() == model(x).tolist()
    """
    child.run(code, child_environment)


def test_a_forked_child_exits_through_the_interpreter(child_environment: dict[str, str]) -> None:
    code = """
        import faulthandler, os, signal, sys, warnings, numpy, inferlite, committed
        # Its watchdog is a thread that the child would wait for at its end.
        faulthandler.cancel_dump_traceback_later()
        warnings.simplefilter("ignore", DeprecationWarning)
        x = numpy.ones((1, 16), numpy.float32)
        options = inferlite.SessionOptions()
        options.intra_op_num_threads = 2
        session = inferlite.InferenceSession(committed.path("mlp"), options)
        session.run(None, {"x": x})
        # onnxruntime's own sessions do not survive a fork: the other back end can only leave them alone.
        for use in (False, True) if inferlite.backend == "native" else (False,):
            child = os.fork()
            if child == 0:
                signal.alarm(5)
                if use:
                    session.run(None, {"x": x})
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0, use
    """
    child.run(code, child_environment)


def test_multiprocessing_with_fork_runs_a_global_session(child_environment: dict[str, str]) -> None:
    code = """
        import multiprocessing, warnings, numpy, inferlite, committed
        warnings.simplefilter("ignore", DeprecationWarning)
        session = inferlite.InferenceSession(committed.path("double"))
        x = numpy.ones((1, 4), numpy.float32)
        session.run(None, {"x": x})

        def work(number):
            return session.run(None, {"x": x * number})[0].tolist()

        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(work, range(20)) == [[[2.0 * number] * 4] for number in range(20)]
    """
    child.run(code, child_environment)


# A child whose parent's model file is no longer what it was, or where it was.
MOVED = """
import os, shutil, signal, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy, inferlite, committed
os.chdir({folder!r})
shutil.copy(committed.path("double"), "model.onnx")
x = numpy.ones((1, 4), numpy.float32)
session = inferlite.InferenceSession("model.onnx")
assert session.run(None, {{"x": x}})[0].tolist() == [[2.0] * 4]
child = os.fork()
if child == 0:
    signal.alarm(10)
    status = 1
    try:
        {happening}
        try:
            given = session.run(None, {{"x": x}})[0].tolist()
        except Exception as error:
            given = type(error).__name__, str(error)
        {check}
        status = 0
    except BaseException as error:
        print(type(error), error, file=sys.stderr, flush=True)
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
# The parent has what it loaded.
assert session.run(None, {{"x": x}})[0].tolist() == [[2.0] * 4]
"""

REPLACED = "shutil.copy(committed.path({name!r}), 'new.onnx'); os.replace('new.onnx', 'model.onnx')"
CHANGED = (
    "assert given[0] == 'Fail' and 'model.onnx again, which has changed since: make a new session' in given[1], given"
)
HAPPENINGS = {
    "another folder": ("os.chdir('/')", "assert given == [[2.0] * 4], given"),
    "another model": (REPLACED.format(name="mlp"), CHANGED),
    "other weights": (REPLACED.format(name="double"), CHANGED),
    "deleted": ("os.remove('model.onnx')", "assert given[0] == 'NoSuchFile', given"),
}


@oracle.proves("a session made before `fork()`, in the child")
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_a_child_never_runs_another_model_than_its_parent(
    happening: str, child_environment: dict[str, str], tmp_path: Path
) -> None:
    happens, check = HAPPENINGS[happening]
    child.run(MOVED.format(folder=str(tmp_path), happening=happens, check=check), child_environment)


def test_a_child_may_drop_what_its_parents_runs_made(child_environment: dict[str, str], backend: str) -> None:
    if backend == "python":
        pytest.skip("large arrays of onnxruntime's package release into its allocator, which the fork may have locked")
    code = """
        import os, signal, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy, inferlite, committed
        session = inferlite.InferenceSession(committed.path("double"))
        x = numpy.ones((4096, 4), numpy.float32)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                session.run(None, {"x": x})

        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        for number in range(60):
            (large,) = session.run(None, {"x": x})
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)
                assert large.max() == 2
                del large
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, number
        stop.set()
        [thread.join() for thread in threads]
    """
    child.run(code, child_environment)


def test_a_child_makes_empty_sequences_while_its_parent_does(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy, inferlite, committed
        session = inferlite.InferenceSession(committed.path("sequence"))
        name = session.get_inputs()[0].name
        stop = threading.Event()

        def work():
            while not stop.is_set():
                session.run(None, {name: []})

        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        for number in range(60):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)
                assert session.run(None, {name: []})[0] == []
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, number
        stop.set()
        [thread.join() for thread in threads]
    """
    child.run(code, child_environment)


@pytest.mark.parametrize("ending", ["exits", "drops it"])
def test_a_child_may_leave_its_parents_session_unused(ending: str, child_environment: dict[str, str]) -> None:
    code = f"""
        import faulthandler, gc, os, signal, sys, warnings, numpy, inferlite, committed
        faulthandler.cancel_dump_traceback_later()
        warnings.simplefilter("ignore", DeprecationWarning)
        options = inferlite.SessionOptions()
        options.intra_op_num_threads = 4
        session = inferlite.InferenceSession(committed.path("mlp"), options)
        session.run(None, {{"x": numpy.ones((4096, 16), numpy.float32)}})
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            if {ending == "drops it"}:
                session = None
                gc.collect()
                os._exit(0)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    child.run(code, child_environment)


def test_a_refusal_in_a_child_costs_no_memory(child_environment: dict[str, str], tmp_path: Path) -> None:
    code = f"""
        import os, shutil, signal, sys, warnings, numpy, inferlite, committed, memory
        warnings.simplefilter("ignore", DeprecationWarning)
        path = {str(tmp_path / "model.onnx")!r}
        shutil.copy(committed.path("mlp"), path)
        session = inferlite.InferenceSession(path)
        x = numpy.ones((1, 16), numpy.float32)
        session.run(None, {{"x": x}})
        os.utime(path, (1, 1))
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            status = 1
            try:
                for number in range(400):
                    if number == 100:
                        before = memory.resident()
                    try:
                        session.run(None, {{"x": x}})
                    except Exception as error:
                        assert "has changed since" in str(error)
                    else:
                        raise AssertionError("it answers with another file")
                assert memory.resident() - before < 4_000_000, memory.resident() - before
                status = 0
            except BaseException as error:
                print(type(error), error, file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    """
    child.run(code, child_environment)


def test_calls_of_a_model_import_nothing_that_a_child_could_wait_for(child_environment: dict[str, str]) -> None:
    code = """
        import asyncio, sys, numpy, inferlite, committed
        settings = {"cache": "1MB", "batching": True, "rows_independent": True}
        model = inferlite.load(committed.path("double"), **settings)
        x = numpy.ones((1, 4), numpy.float32)
        before = set(sys.modules)
        for given in (x, x.tolist(), memoryview(x)):
            model(given), model(given, timeout=60), model(x=given, out={"y": x.copy()})
            model.submit(given).result(), list(model.map([given])), list(model.map_rows([x[0]]))
            asyncio.run(model.apredict(given))
        model.stats(), model.cache.stats(), model.close()
        assert not {name for name in set(sys.modules) - before if name.startswith("inferlite")}
    """
    child.run(code, child_environment)


# Every way to call, each from threads, while children use the same sessions and models.
IN_FLIGHT = """
import asyncio, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
import inferlite, make_models
from inferlite import Batching
ROUNDS = make_models.parse(
    "rounds (float[n] x, int64 rounds) => (float[n] y) <bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[m] v) => (bool go_on, float[m] w) "
    "{ go_on = Identity(go) w = Identity(v) }>(rounds, yes, x) }"
)
x, many = np.arange(4, dtype=np.float32), np.array(3000)
once = {"x": x, "rounds": np.array(1)}
options = inferlite.SessionOptions()
options.intra_op_num_threads = 2
plain = inferlite.InferenceSession(ROUNDS, options)
kept = inferlite.InferenceSession(ROUNDS, options, cache="1MB")
model = inferlite.load(ROUNDS, batching=Batching(max_rows=8), rows_independent=True, cache="1MB")
stop = threading.Event()

async def ask(feed):
    given, *answers = await asyncio.gather(model.apredict(feed), plain.arun(None, feed), kept.arun(None, feed))
    return np.concatenate([given, *(answer for (answer,) in answers)])

ways = [
    lambda feed: plain.run(None, feed),
    lambda feed: kept.run(None, feed),
    lambda feed: model(feed),
    lambda feed: model(feed, timeout=60),
    lambda feed: model.submit(feed).result(),
    lambda feed: asyncio.run(ask(feed)),
]

def work(way):
    number = 0
    while not stop.is_set():
        number += 1
        way({"x": x + number, "rounds": many})

threads = [threading.Thread(target=work, args=(way,)) for way in ways]
[thread.start() for thread in threads]
statuses = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        status = 1
        try:
            for way in ways:
                given = np.reshape(way(once), (-1, 4)).tolist()
                assert given == [x.tolist()] * len(given), given
            model.close()
            status = 0
        except BaseException as error:
            print(type(error), error, file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    statuses.append(os.waitpid(child, 0)[1])
stop.set()
[thread.join() for thread in threads]
assert not any(statuses), statuses
"""


def test_children_call_in_every_way_while_their_parent_does(child_environment: dict[str, str]) -> None:
    child.run(IN_FLIGHT, child_environment, limit=200)
