"""The interpreter exits cleanly whatever goes on in other threads."""

from __future__ import annotations

import sys

import pytest

import child
from conftest import BACKENDS

START = """
import os, sys, threading, time
import numpy, inferlite, committed
x = numpy.ones((1, 16), numpy.float32)
session = inferlite.InferenceSession(committed.path("mlp"))
endless = inferlite.InferenceSession(committed.path("endless"))
one = numpy.ones(1, numpy.float32)
begun = threading.Barrier(5, timeout=30)

def daemon(work):
    def loop():
        begun.wait()
        while True:
            work()
    threading.Thread(target=loop, daemon=True).start()
"""

WORK = {
    "short runs": "lambda: session.run(None, {'x': x})",
    "endless runs": "lambda: endless.run(None, {'x': one})",
    "bad input": "lambda: contextlib_suppress(session)",
    "bound calls": "session.bind({'x': x.copy()})",
    "models": "lambda: inferlite.load(committed.path('double'))(x[:, :4])",
    "creation": "lambda: inferlite.InferenceSession(committed.path('mlp'))",
}

ENDINGS = {
    "falls off the end": "pass",
    "sys.exit": "sys.exit(0)",
    "deletes everything first": "del session, endless",
    "in an atexit handler": (
        "import atexit\natexit.register(lambda: session.run(None, {'x': x}))\n"
        "atexit.register(lambda: inferlite.InferenceSession(committed.path('mlp')))"
    ),
}

SUPPRESS = """
def contextlib_suppress(session):
    try:
        session.run(None, {"x": x[:, :3]})
    except Exception:
        pass

# The first error of a class imports it, and so does the first model, which is Python code under native frames: a daemon
# thread that the end of the interpreter meets in there takes the process along, before 3.14. Later ones run none.
contextlib_suppress(session)
inferlite.load(committed.path("double"))(x[:, :4])
"""


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize(
    "ending", [pytest.param(name, marks=pytest.mark.slow) if name == "sys.exit" else name for name in ENDINGS]
)
@pytest.mark.parametrize("work", WORK)
def test_exit_with_daemon_threads_at_work(
    work: str, ending: str, child_environment: dict[str, str], request: pytest.FixtureRequest, backend: str
) -> None:
    if backend == "python" and sys.version_info < (3, 14):
        # The interpreter unwinds a thread that comes back from a run while it ends, through C++ that forbids that.
        reason = "onnxruntime's own binding aborts the process when a daemon thread comes back from a run at exit"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))
    code = f"{START}{SUPPRESS}\nfor _ in range(4):\n    daemon({WORK[work]})\nbegun.wait()\n"
    code += f"stopped = threading.Event()\nstopped.wait(0.05)\n{ENDINGS[ending]}\n"
    child.run(code, child_environment, limit=20)


CALLS = {
    "without a cache": ("None", "model(x)"),
    "that are kept": ("'1MB'", "model(x)"),
    "that are not kept": ("'1MB'", "model(numpy.random.default_rng().random((8, 16), numpy.float32))"),
}


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
@pytest.mark.parametrize("calls", CALLS)
def test_exit_with_daemon_threads_that_call_a_model(
    calls: str, child_environment: dict[str, str], backend: str
) -> None:
    assert backend
    cache, call = CALLS[calls]
    # Each run gives the lock of the interpreter away, so that threads come back while it ends.
    code = f"{START}\nmodel = inferlite.load(committed.path('mlp'), hold_gil=False, cache={cache})\n{call}\n"
    code += f"for _ in range(4):\n    daemon(lambda: {call})\nbegun.wait()\nthreading.Event().wait(0.05)\n"
    child.run(code, child_environment, limit=20)


def test_exit_with_a_cycle_through_a_session(child_environment: dict[str, str]) -> None:
    code = f"{START}\nsession.itself = session\nsession.call = session.bind({{'x': x}})\nkeep = [session.run]\n"
    child.run(code, child_environment, limit=20)


def test_exit_with_a_session_in_a_module_and_in_a_thread_local(child_environment: dict[str, str]) -> None:
    code = f"{START}\nsys.session = session\nlocal = threading.local()\nlocal.session = endless\n"
    child.run(code, child_environment, limit=20)


@pytest.mark.parametrize("order", ["session first", "call first", "array first", "output first"])
def test_things_are_dropped_in_any_order(order: str, child_environment: dict[str, str]) -> None:
    names = {"session first": 0, "call first": 1, "array first": 2, "output first": 3}
    code = f"""
        import gc, numpy, inferlite, committed
        inferlite.InferenceSession
        # The collections below look at what is dropped, not at what the imports have made.
        gc.freeze()
        for _ in range(50):
            x = numpy.ones((1000, 4), numpy.float32)
            session = inferlite.InferenceSession(committed.path("double"))
            call = session.bind({{"x": x}})
            things = [session, call, x, call()[0], session.get_inputs(), session.get_modelmeta(), session.run]
            things.append(session.run(None, {{"x": x}})[0])
            del session, call, x
            first = things.pop({names[order]})
            del first
            gc.collect()
            while things:
                del things[len(things) // 2]
                gc.collect()
    """
    child.run(code, child_environment)


def test_ctrl_c_arrives_after_a_run(child_environment: dict[str, str]) -> None:
    code = f"""{START}
import signal
signal.setitimer(signal.ITIMER_REAL, 0.2)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    while True:
        session.run(None, {{"x": x}})
except KeyboardInterrupt:
    print("interrupted")
"""
    assert child.run(code, child_environment, limit=20) == "interrupted\n"
