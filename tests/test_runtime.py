"""What all sessions of a process share: the pool of threads, what the runtime logs, and the heap."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import make_models
import onnx
import pytest

import child
import inferlite
import oracle
from cases import ones
from inferlite.exceptions import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILING = make_models.path("failing")
BAD = {"a": ones(2, 3), "b": ones(2, 3)}
LOGGER = "inferlite.onnxruntime"


def _fail(session: Any, *options: Any) -> None:
    assert oracle.outcome(lambda: session.run(None, BAD, *options)).error is not None


@pytest.fixture
def only_native(backend: str) -> None:
    """Skip the back end whose runtime writes to standard error by itself."""
    if backend == "python":
        pytest.skip("onnxruntime's package prints what it logs")


@pytest.fixture
def severity() -> Iterator[None]:
    """Give the default severity back at the end."""
    yield
    inferlite.set_default_logger_severity(2)


@oracle.proves("what the runtime logs")
@pytest.mark.usefixtures("only_native")
def test_messages_say_which_model_they_are_about(caplog: pytest.LogCaptureFixture) -> None:
    named = inferlite.SessionOptions()
    named.logid = "mine"
    content = make_models.build("failing")
    tagged = inferlite.RunOptions()
    tagged.logid = "this run"
    sessions: list[tuple[Any, str, list[Any]]] = [
        (inferlite.InferenceSession(FAILING), "failing", []),
        (inferlite.InferenceSession(content), onnx.load_from_string(content).graph.name, []),
        (inferlite.InferenceSession(FAILING, named), "mine", []),
        (inferlite.InferenceSession(FAILING, named), "mine", [tagged]),
    ]
    for session, name, options in sessions:
        caplog.clear()
        with caplog.at_level(logging.WARNING, LOGGER):
            _fail(session, *options)
        (record,) = caplog.records
        assert record.name == LOGGER
        assert record.levelno == logging.ERROR
        assert record.model.startswith(name)
        assert record.getMessage().startswith(record.model + ": ")
        if options:
            assert "this run" in record.model
    assert inferlite.InferenceSession(FAILING).get_session_options().logid == ""
    model = inferlite.load(FAILING, name="called so")
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        assert oracle.outcome(lambda: model(BAD)).error is not None
    assert [record.model for record in caplog.records] == ["called so"]


@pytest.mark.usefixtures("only_native", "severity")
def test_severities_are_those_of_onnxruntime(caplog: pytest.LogCaptureFixture) -> None:
    def records(level: int | None) -> set[str]:
        options = inferlite.SessionOptions()
        if level is not None:
            options.log_severity_level = level
        caplog.clear()
        with caplog.at_level(1, LOGGER):
            _fail(inferlite.InferenceSession(FAILING, options))
        return {record.levelname for record in caplog.records}

    assert records(None) == records(2) == records(3) == {"ERROR"}
    assert records(1) == {"INFO", "ERROR"}
    assert records(0) == {"DEBUG", "INFO", "ERROR"}
    assert records(4) == set()
    inferlite.set_default_logger_severity(1)
    assert records(None) == {"INFO", "ERROR"}
    # What comes before there is a session goes by the default.
    assert records(4) <= {"INFO"}
    inferlite.set_default_logger_severity(4)
    assert records(None) == set()
    assert records(3) == {"ERROR"}


@pytest.mark.parametrize("severity", [-1, 5, "a", None])
def test_a_severity_that_is_none_is_refused_as_there(severity: Any, backend: str) -> None:
    import onnxruntime  # noqa: PLC0415 - what is compared with

    del backend
    oracle.compare_calls(
        lambda: inferlite.set_default_logger_severity(severity),
        lambda: onnxruntime.set_default_logger_severity(severity),
    )


@pytest.mark.usefixtures("only_native")
def test_what_nobody_hears_in_time_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    options = inferlite.SessionOptions()
    options.log_severity_level = 0
    # Every branch is optimized by itself, and each says more than ten times so.
    branches = " ".join(
        f"v{i + 1} = If(b)<then_branch = t{i} () => (float[n] p{i}) {{ p{i} = Sin(v{i}) }}, "
        f"else_branch = e{i} () => (float[n] q{i}) {{ q{i} = Cos(v{i}) }}>"
        for i in range(100)
    )
    model = make_models.parse(f"many (bool b, float[n] v0) => (float[n] v100) {{ {branches} }}")
    with caplog.at_level(1, LOGGER):
        inferlite.InferenceSession(model, options)
    dropped = [record for record in caplog.records if "were dropped" in record.getMessage()]
    assert [record.levelname for record in dropped] == ["WARNING"]
    assert int(dropped[0].getMessage().split()[0]) > 0
    assert len(caplog.records) == 1024 + 1


QUIET = """
    import inferlite, make_models
    from cases import ones
    session = inferlite.InferenceSession(make_models.path("failing"))
    try:
        session.run(None, {{"a": ones(2, 3), "b": ones(2, 3)}})
    except Exception:
        pass
    try:
        inferlite.InferenceSession(make_models.path("failing"), providers=["No"])
    except Exception:
        pass
    {more}
"""


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERLITE_")}
    path = os.pathsep.join([os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "models")])  # noqa: PTH118, PTH120
    environment |= {"INFERLITE_BACKEND": "native", "PYTHONPATH": path}
    assert child.run(QUIET.format(more=""), environment, warnings=True) == ""
    assert capfd.readouterr() == ("", "")


AT_EXIT = """
    import logging, os, sys, inferlite, make_models, numpy
    from cases import f32
    class Printing(logging.Handler):
        def emit(self, record):
            print("told:", record.getMessage()[:7], flush=True)
    logging.getLogger("inferlite.onnxruntime").addHandler(Printing())
    model = make_models.parse(
        "pick (int64[n] x) => (float[n] y) <float[3] table = {1, 2, 3}> { [pick] y = Gather(table, x) }"
    )
    session = inferlite.InferenceSession(model)
    # Said on another thread, after the last call.
    import threading
    ended = threading.Event()
    session.run_async(None, {"x": numpy.array([7])}, lambda *_: ended.set(), None)
    assert ended.wait(30)
"""


def test_the_last_messages_are_told_when_the_interpreter_ends(
    only_native: None, child_environment: dict[str, str]
) -> None:
    del only_native
    assert child.run(AT_EXIT, child_environment) == "told: pick: N\n"


IN_A_CHILD = """
    import logging, os, signal, threading, inferlite, make_models
    from cases import ones
    heard, failed = [], []
    class Hearing(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())
    logging.getLogger("inferlite.onnxruntime").addHandler(Hearing())
    session = inferlite.InferenceSession(make_models.path("failing"))
    def fail():
        try:
            session.run(None, {"a": ones(2, 3), "b": ones(2, 3)})
        except Exception:
            pass
    # No import is under way when the process forks: a child would wait for its lock for ever, as in any program.
    fail()
    stop = threading.Event()
    def work():
        while not stop.is_set():
            fail()
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            status = 1
            try:
                heard.clear()
                fail()
                status = 0 if len(heard) == 1 and "MatMul" in heard[0] else 2
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            failed.append(child)
    stop.set()
    [thread.join() for thread in threads]
    assert not failed
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_hears_its_own_messages(only_native: None, child_environment: dict[str, str]) -> None:
    del only_native
    child.run(IN_A_CHILD, child_environment)


POOL = """
    import os, signal, threading, numpy, inferlite, make_models
    def threads():
        return len(os.listdir("/proc/self/task"))
    inferlite.set_global_thread_pool(intra_op=3, inter_op=2, allow_spinning=False)
    inferlite.set_global_thread_pool(intra_op=4)  # the last word counts
    shared = inferlite.SessionOptions()
    shared.use_per_session_threads = False
    x = numpy.random.default_rng(0).standard_normal((64, 4), dtype=numpy.float32)
    model = make_models.dense(4, 512, 512, 2)
    sessions = [inferlite.InferenceSession(model, shared) for _ in range(10)]
    with_pool = threads()
    sessions += [inferlite.InferenceSession(model, shared) for _ in range(10)]
    assert threads() == with_pool
    own = inferlite.SessionOptions()
    own.intra_op_num_threads = 3
    mine = inferlite.InferenceSession(model, own)
    assert threads() == with_pool + 2
    default = inferlite.InferenceSession(model)
    wanted = [y.tobytes() for y in mine.run(None, {"x": x})]
    for session in (*sessions, default):
        assert [y.tobytes() for y in session.run(None, {"x": x})] == wanted
    assert inferlite.load(model)(x).tobytes() == wanted[0]
    try:
        inferlite.set_global_thread_pool(intra_op=1)
    except RuntimeError as error:
        assert "before the first session" in str(error)
    else:
        raise AssertionError("it was not refused")
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        status = 1
        try:
            for session in (*sessions[:3], default, inferlite.InferenceSession(model, shared)):
                assert [y.tobytes() for y in session.run(None, {"x": x})] == wanted
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
"""


@oracle.proves("one pool of threads for many sessions")
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of Linux")  # noqa: PTH112
def test_sessions_that_ask_share_one_pool_and_others_have_their_own(
    only_native: None, child_environment: dict[str, str]
) -> None:
    del only_native
    child.run(POOL, child_environment)


def test_the_pool_takes_numbers_of_threads(backend: str) -> None:
    for name in ("intra_op", "inter_op"):
        for count in (-1, 2**31):
            with pytest.raises(ValueError, match=rf"^`{name}` must be a number of threads"):
                inferlite.set_global_thread_pool(**{name: count})
        with pytest.raises(TypeError):
            inferlite.set_global_thread_pool(**{name: 1.5})
    # This process has made sessions already, or is on the Python back end.
    inferlite.InferenceSession(FAILING)
    with pytest.raises(RuntimeError if backend == "native" else BackendUnavailableError):
        inferlite.set_global_thread_pool(intra_op=2)


FAULTS = """
    import resource, inferlite, make_models
    from concurrent.futures import ThreadPoolExecutor
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    # 8 MB of weights: two thousand pages.
    model = make_models.dense(1000, 1000, 1000)
    def faults(make):
        for _ in range(5):
            make()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            make()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10
    print(faults(lambda: inferlite.InferenceSession(model, options)))
    pool = ThreadPoolExecutor(2)
    print(faults(lambda: list(pool.map(lambda _: inferlite.InferenceSession(model, options), range(2)))))
"""


def test_sessions_are_made_in_memory_that_is_there_already(
    only_native: None, child_environment: dict[str, str]
) -> None:
    del only_native
    alone, together = map(int, child.run(FAULTS, child_environment).split())
    assert alone < 500
    assert together < 1000
    # Whoever has an opinion on the heap has his way.
    said = {**child_environment, "MALLOC_TRIM_THRESHOLD_": "131072"}
    assert int(child.run(FAULTS, said).split()[0]) > 1000
