"""`patch`: code that knows onnxruntime alone gets inferlite, and onnxruntime back again."""

from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import make_models
import onnxruntime
import pytest

import child
import inferlite
import oracle
from cases import f32, ones
from inferlite import _backend
from inferlite.exceptions import InferliteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend", "restored")

CPU = ["CPUExecutionProvider"]
DOUBLE = make_models.build("double")
RANDOM = make_models.parse("g (float[n] x) => (float[n] y) { y = RandomUniformLike(x) }")
# The rows influence each other.
MIXING = make_models.parse("g (float[n,4] x) => (float[n,4] y) { y = Softmax<axis = 0>(x) }")


class Plain:
    """onnxruntime's own classes, where no patch looks."""

    InferenceSession = onnxruntime.InferenceSession
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions


ORIGINALS: dict[str, Any] = {name: vars(Plain)[name] for name in ("InferenceSession", "SessionOptions", "RunOptions")}


@pytest.fixture
def restored() -> Iterator[None]:
    """Whatever a test leaves behind, the next one finds onnxruntime as it is."""
    yield
    while onnxruntime.InferenceSession is not Plain.InferenceSession:
        inferlite.unpatch()


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A loaded module of somebody's that has imported names of onnxruntime."""
    made = ModuleType("somebodys")
    exec("from onnxruntime import InferenceSession as Session, RunOptions, SessionOptions, set_seed", made.__dict__)  # noqa: S102
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def _answer(session: Any) -> list[Any]:
    return session.run(None, {"x": ones(1, 4)})[0].tolist()


def test_names_are_exchanged_on_the_module_and_where_they_were_imported(module: ModuleType) -> None:
    with inferlite.patch():
        for name, original in ORIGINALS.items():
            assert getattr(onnxruntime, name) is not original
            assert issubclass(getattr(onnxruntime, name), getattr(inferlite, name))
        assert module.Session is onnxruntime.InferenceSession
        assert module.SessionOptions is onnxruntime.SessionOptions
        assert module.RunOptions is onnxruntime.RunOptions
        assert module.set_seed is onnxruntime.set_seed is inferlite.set_seed
    assert {name: getattr(onnxruntime, name) for name in ORIGINALS} == ORIGINALS
    assert (module.Session, module.SessionOptions, module.RunOptions) == tuple(
        ORIGINALS[name] for name in ("InferenceSession", "SessionOptions", "RunOptions")
    )
    assert module.set_seed is onnxruntime.set_seed is not inferlite.set_seed


def test_modules_imported_meanwhile_are_restored_as_well() -> None:
    late = ModuleType("late")
    sys.modules["late"] = late
    try:
        with inferlite.patch():
            exec("from onnxruntime import *; from onnxruntime import InferenceSession as S", late.__dict__)  # noqa: S102
            assert late.S is onnxruntime.InferenceSession is not Plain.InferenceSession
        assert late.S is late.InferenceSession is Plain.InferenceSession
        assert late.SessionOptions is Plain.SessionOptions
    finally:
        del sys.modules["late"]


def test_a_patched_session_is_inferlites_and_of_both_classes(backend: str) -> None:
    before = Plain.InferenceSession(DOUBLE)
    with inferlite.patch():
        session = onnxruntime.InferenceSession(DOUBLE, onnxruntime.SessionOptions(), CPU)
        assert type(session) is onnxruntime.InferenceSession
        assert session.engine == "onnxruntime"
        for kind in (Plain.InferenceSession, onnxruntime.InferenceSession, inferlite.InferenceSession):
            assert isinstance(session, kind)
            assert issubclass(type(session), kind)
        assert isinstance(before, onnxruntime.InferenceSession)
        assert isinstance(inferlite.InferenceSession(DOUBLE), onnxruntime.InferenceSession)
        assert not isinstance(5, onnxruntime.InferenceSession)
        assert not issubclass(int, onnxruntime.InferenceSession)
        assert hasattr(session, "_open") is (backend == "native")
        oracle.compare(session, before, {"x": ones(3, 4)})
    assert isinstance(session, Plain.InferenceSession)
    assert isinstance(session, inferlite.InferenceSession)
    oracle.compare(session, before, {"x": ones(2, 4)})


def test_options_made_before_and_meanwhile_are_of_both_classes() -> None:
    for name, original in list(ORIGINALS.items())[1:]:
        before = original()
        with inferlite.patch():
            made = getattr(onnxruntime, name)()
            assert isinstance(before, getattr(onnxruntime, name))
            assert isinstance(made, original)
            assert isinstance(made, getattr(inferlite, name))
            with pytest.raises(AttributeError):
                made.nonsense = 1
        assert not isinstance(before, getattr(inferlite, name))


def test_options_of_every_kind_work_under_a_patch(backend: str) -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    plain = Plain.SessionOptions()
    plain.add_initializer("w", value := onnxruntime.OrtValue.ortvalue_from_numpy(f32(5, 6)))
    with inferlite.patch():
        readable = onnxruntime.SessionOptions()
        readable.intra_op_num_threads = 1
        readable.add_free_dimension_override_by_name("batch", 3)
        given = onnxruntime.SessionOptions()
        given.add_initializer("w", value)
        sessions = [onnxruntime.InferenceSession(make_models.parse(text), options) for options in (plain, given)]
        assert [session.run(None, {"x": f32(1, 1)})[0].tolist() for session in sessions] == [[5.0, 6.0]] * 2
        assert {session.engine for session in sessions} == {
            "onnxruntime (python)" if backend == "native" else "onnxruntime"
        }
        assert all(isinstance(session, onnxruntime.InferenceSession) for session in sessions)
        session = onnxruntime.InferenceSession(DOUBLE, readable)
        assert session.engine == "onnxruntime"
        assert session.get_inputs()[0].shape == [3, 4]


def test_run_options_of_every_kind_work_under_a_patch() -> None:
    with inferlite.patch():
        session = onnxruntime.InferenceSession(DOUBLE)
        for kind in (Plain.RunOptions, onnxruntime.RunOptions, inferlite.RunOptions):
            options = kind()
            assert session.run(None, {"x": ones(1, 4)}, options)[0].tolist() == [[2.0] * 4]
            options.terminate = True
            with pytest.raises(Exception, match="terminate flag"):
                session.run(None, {"x": ones(1, 4)}, options)


def test_arguments_that_onnxruntime_ignores_are_ignored() -> None:
    with inferlite.patch():
        session = onnxruntime.InferenceSession(DOUBLE, cache="1MB", batching=5, nonsense=1, enable_fallback=0)
        assert session.cache is None
        assert _answer(session) == [[2.0] * 4]


def test_calls_are_counted() -> None:
    first, second = inferlite.patch(), inferlite.patch()
    patched = onnxruntime.InferenceSession
    inferlite.unpatch()
    assert onnxruntime.InferenceSession is patched
    with inferlite.patch():
        assert onnxruntime.InferenceSession is patched
    assert onnxruntime.InferenceSession is patched
    inferlite.unpatch()
    assert onnxruntime.InferenceSession is Plain.InferenceSession
    inferlite.unpatch()
    for call in (first, second):
        with call:
            assert onnxruntime.InferenceSession is Plain.InferenceSession
    with inferlite.patch():
        assert onnxruntime.InferenceSession is patched


def test_a_block_that_raises_restores_everything() -> None:
    with pytest.raises(LookupError), inferlite.patch():
        raise LookupError
    assert onnxruntime.InferenceSession is Plain.InferenceSession


def test_blocks_of_threads_may_end_in_any_order() -> None:
    first, second = inferlite.patch(cache="1MB"), inferlite.patch(cache="2MB")
    first.__exit__(None, None, None)
    assert onnxruntime.InferenceSession(DOUBLE).cache.max_bytes == 2_000_000
    second.__exit__(None, None, None)
    assert onnxruntime.InferenceSession is Plain.InferenceSession


def test_threads_may_patch_and_unpatch_at_once(module: ModuleType) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def work() -> None:
        try:
            start.wait()
            for _ in range(4):
                with inferlite.patch():
                    session = onnxruntime.InferenceSession(DOUBLE)
                    assert isinstance(session, inferlite.InferenceSession)
                    assert isinstance(module.Session(DOUBLE), inferlite.InferenceSession)
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert onnxruntime.InferenceSession is module.Session is Plain.InferenceSession


def test_settings_are_those_of_the_innermost_call_that_says_anything() -> None:
    def limit() -> int | None:
        cache = onnxruntime.InferenceSession(DOUBLE).cache
        return None if cache is None else cache.max_bytes

    with inferlite.patch():
        assert limit() is None
        with inferlite.patch(cache="1MB"):
            assert limit() == 1_000_000
            with inferlite.patch():
                assert limit() == 1_000_000
            with inferlite.patch(cache="2MB"):
                assert limit() == 2_000_000
        assert limit() is None


def test_a_session_keeps_answers_where_the_patch_says_so() -> None:
    with inferlite.patch(cache="1MB"):
        session = onnxruntime.InferenceSession(DOUBLE)
        assert [_answer(session) for _ in range(3)] == [[[2.0] * 4]] * 3
        assert session.cache.stats().hits == 2


@pytest.mark.parametrize(
    ("given", "model", "feature"),
    [
        ({"cache": "1MB"}, RANDOM, "cache"),
        ({"cache": inferlite.Cache(by="row")}, MIXING, "cache"),
        ({"batching": True}, MIXING, "batching"),
    ],
)
def test_a_refusal_turns_the_feature_off_with_one_warning(
    given: dict[str, Any], model: bytes, feature: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InferliteError):
        inferlite.InferenceSession(model, **given)
    with inferlite.patch(**given), caplog.at_level(logging.WARNING, "inferlite"):
        session = onnxruntime.InferenceSession(model)
        session.run(None, {"x": ones(4) if model is RANDOM else ones(2, 4)})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith(f"a session works without `{feature}` of `inferlite.patch`: ")
    assert session.cache is None


def test_batches_are_those_of_concurrent_calls(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_models.parse("g (float[n,4] x) => (float[n,4] y) { y = Add(x, x) }")
    with inferlite.patch(batching=True), caplog.at_level(logging.WARNING, "inferlite"):
        session = onnxruntime.InferenceSession(model)
        answers: list[Any] = [None] * 8

        def ask(number: int) -> None:
            for _ in range(50):
                (answers[number],) = session.run(None, {"x": ones(1, 4) * number})

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.tolist() for answer in answers] == [[[2.0 * number] * 4] for number in range(8)]
    assert len(caplog.records) == (0 if backend == "native" else 1)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"cache": object()}, TypeError),
        ({"cache": "much"}, ValueError),
        ({"batching": "yes"}, TypeError),
        ({"batching": inferlite.Batching(timeout=1.0)}, ValueError),
    ],
)
def test_settings_are_checked_before_anything_is_patched(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        inferlite.patch(**given)
    assert onnxruntime.InferenceSession is Plain.InferenceSession


def test_classes_derived_before_stay_as_they_are() -> None:
    class Before(onnxruntime.InferenceSession):
        pass

    with inferlite.patch():
        session = Before(DOUBLE)
        assert not isinstance(session, inferlite.InferenceSession)
        assert isinstance(session, onnxruntime.InferenceSession)
        assert _answer(session) == [[2.0] * 4]


def test_classes_derived_meanwhile_are_judged_by_themselves(backend: str) -> None:
    plain = Plain.SessionOptions()
    with inferlite.patch():

        class Meanwhile(onnxruntime.InferenceSession):
            def run(self, *args: Any, **kwargs: Any) -> Any:
                return ["mine", *super().run(*args, **kwargs)]

        sessions = [Meanwhile(DOUBLE), Meanwhile(DOUBLE, plain)]
    assert [session.engine == "onnxruntime (python)" for session in sessions] == [False, backend == "native"]
    for session in sessions:
        assert isinstance(session, Meanwhile)
        assert session.run(None, {"x": ones(1, 4)})[0] == "mine"
    assert not isinstance(Plain.InferenceSession(DOUBLE), Meanwhile)
    assert not isinstance(inferlite.InferenceSession(DOUBLE), Meanwhile)


def test_values_and_bindings_of_onnxruntime_go_through_a_patched_session() -> None:
    with inferlite.patch():
        session = onnxruntime.InferenceSession(DOUBLE)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(ones(1, 4))
        assert session.run_with_ort_values(None, {"x": value})[0].numpy().tolist() == [[2.0] * 4]
        binding = onnxruntime.IOBinding(session)
        binding.bind_cpu_input("x", ones(2, 4))
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        assert binding.copy_outputs_to_cpu()[0].tolist() == [[2.0] * 4] * 2


def test_references_to_the_classes_can_be_pickled() -> None:
    references = [pickle.dumps(getattr(onnxruntime, name)) for name in ORIGINALS]
    with inferlite.patch():
        patched = [getattr(onnxruntime, name) for name in ORIGINALS]
        assert [pickle.loads(reference) for reference in references] == list(ORIGINALS.values())  # noqa: S301
        assert [pickle.loads(pickle.dumps(original)) for original in ORIGINALS.values()] == list(ORIGINALS.values())  # noqa: S301
        later = [pickle.dumps(kind) for kind in patched]
        assert [pickle.loads(reference) for reference in later] == patched  # noqa: S301
        assert copy.copy(patched[0]) is patched[0]
    assert [pickle.loads(reference) for reference in later] == list(ORIGINALS.values())  # noqa: S301


def test_what_was_made_under_a_patch_can_be_pickled_and_is_inferlites_elsewhere(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    x = ones(2, 4)
    with inferlite.patch():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(make_models.build("double"), options)
        data = pickle.dumps((session, options))
        made = pickle.loads(data)  # noqa: S301 - made here
        assert isinstance(made[0], onnxruntime.InferenceSession)
        assert isinstance(made[1], onnxruntime.SessionOptions)
    for again in (made, pickle.loads(data), pickle.loads(pickle.dumps((session, options))), copy.deepcopy(made)):  # noqa: S301
        assert isinstance(again[0], inferlite.InferenceSession)
        assert again[0].run(None, {"x": x})[0].tolist() == [[2.0] * 4] * 2
        assert again[1].intra_op_num_threads == 1
    path = tmp_path / "pickled"
    path.write_bytes(data)
    code = f"""
        import pathlib, pickle
        from cases import ones
        session, _ = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())
        assert session.run(None, {{"x": ones(2, 4)}})[0].tolist() == [[2.0] * 4] * 2
    """
    child.run(code, child_environment)


class _Loud(ModuleType):
    """A module that fails when anybody looks for an attribute."""

    def __getattribute__(self, name: str) -> Any:
        message = f"somebody asked for {name}"
        raise AssertionError(message)

    def __setattr__(self, name: str, value: object) -> None:
        message = f"somebody set {name}"
        raise AssertionError(message)


class _Equal:
    """What claims to be equal to everything, and fails to be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        message = "somebody compared"
        raise AssertionError(message)

    @property
    def __class__(self) -> Any:
        message = "somebody asked for the class"
        raise AssertionError(message)


def test_odd_modules_are_left_alone_and_searched_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "lazily.py").write_text("raise AssertionError('it was loaded')")
    spec = importlib.util.spec_from_file_location("lazily", tmp_path / "lazily.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    loud = _Loud("loud")
    namespace = ModuleType.__getattribute__(loud, "__dict__")
    namespace["Session"] = Plain.InferenceSession
    namespace["equal"] = _Equal()
    namespace[5] = Plain.InferenceSession
    nameless = ModuleType("nameless")
    nameless.__dict__.clear()
    nameless.__dict__["Session"] = Plain.InferenceSession
    odd = {"lazily": lazy, "loud": loud, "nothing": None, "number": 5, "equal": _Equal(), "nameless": nameless}
    sys.modules.update(odd)  # type: ignore[arg-type]
    try:
        with inferlite.patch():
            patched = onnxruntime.InferenceSession
            assert namespace["Session"] is namespace[5] is nameless.__dict__["Session"] is patched
        assert namespace["Session"] is namespace[5] is nameless.__dict__["Session"] is Plain.InferenceSession
    finally:
        for name in odd:
            del sys.modules[name]


def test_names_of_the_package_that_defines_them_stay() -> None:
    with inferlite.patch():
        from onnxruntime.capi import onnxruntime_inference_collection, onnxruntime_pybind11_state  # noqa: PLC0415

        assert onnxruntime_inference_collection.InferenceSession is Plain.InferenceSession
        assert onnxruntime_pybind11_state.SessionOptions is Plain.SessionOptions


def test_selecting_another_back_end_meanwhile_is_harmless(backend: str) -> None:
    other = "python" if backend == "native" else "native"
    with inferlite.patch():
        session = onnxruntime.InferenceSession(DOUBLE)
        if other in {"native", "python"}:
            _backend.select(other)
        with inferlite.patch():
            assert _answer(onnxruntime.InferenceSession(DOUBLE)) == _answer(session)
    assert onnxruntime.InferenceSession is Plain.InferenceSession


IMPORTS: dict[str, str] = {
    "patch before onnxruntime": """
        import sys, inferlite
        assert "onnxruntime" not in sys.modules
        inferlite.patch()
        import onnxruntime
        from onnxruntime import InferenceSession
    """,
    "patch after onnxruntime": """
        import onnxruntime
        from onnxruntime import InferenceSession
        import inferlite
        inferlite.patch()
    """,
    "onnxruntime reloaded": """
        import importlib, inferlite, onnxruntime
        inferlite.patch()
        importlib.reload(onnxruntime)
        inferlite.patch()
        from onnxruntime import InferenceSession
    """,
    "onnxruntime imported a second time": """
        import sys, inferlite, onnxruntime
        inferlite.patch()
        for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
            if not name.endswith("_state"):
                del sys.modules[name]
        import onnxruntime
        inferlite.patch()
        from onnxruntime import InferenceSession
    """,
}


@pytest.mark.parametrize("imports", IMPORTS)
def test_the_order_of_imports_does_not_matter(imports: str, child_environment: dict[str, str]) -> None:
    import textwrap  # noqa: PLC0415 - for this test alone

    code = textwrap.dedent(IMPORTS[imports]) + textwrap.dedent("""
        import make_models, numpy as np
        session = InferenceSession(make_models.path("double"))
        assert isinstance(session, inferlite.InferenceSession)
        assert isinstance(session, onnxruntime.InferenceSession)
        print(session.run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist())
        while issubclass(onnxruntime.InferenceSession, inferlite.InferenceSession):
            inferlite.unpatch()
        assert InferenceSession is onnxruntime.InferenceSession
        print(InferenceSession(make_models.path("double")).run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist())
    """)
    assert child.run(code, child_environment).split("\n")[:2] == ["[[2.0, 2.0, 2.0, 2.0]]"] * 2


def test_a_child_that_forks_meanwhile_can_patch(child_environment: dict[str, str]) -> None:
    code = """
        import os, threading, inferlite, onnxruntime, make_models, numpy as np
        from inferlite import patching
        feed = {"x": np.ones((1, 4), np.float32)}
        inferlite.patch()
        session = onnxruntime.InferenceSession(make_models.path("double"))
        held, done = threading.Event(), threading.Event()

        def hold():
            with patching._State.lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            inferlite.patch()
            inferlite.unpatch()
            assert session.run(None, feed)[0].tolist() == [[2.0] * 4]
            inferlite.unpatch()
            assert not issubclass(onnxruntime.InferenceSession, inferlite.InferenceSession)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        done.set()
        thread.join()
        print(status)
    """
    assert child.run(code, child_environment, warnings=True).strip() == "0"


def _functions() -> list[Callable[[], Any]]:
    return [
        lambda: onnxruntime.set_default_logger_severity(3),
        lambda: onnxruntime.set_default_logger_severity(7),
        lambda: onnxruntime.set_default_logger_severity("3"),
        onnxruntime.disable_telemetry_events,
        lambda: onnxruntime.set_seed("x"),
    ]


def test_functions_with_settings_of_a_runtime_end_as_in_onnxruntime() -> None:
    try:
        wanted = [oracle.outcome(function) for function in _functions()]
        with inferlite.patch():
            given = [oracle.outcome(function) for function in _functions()]
        for one, other in zip(given, wanted, strict=True):
            oracle.assert_same_outcome(one, other)
    finally:
        # The native part warns, as the tests expect; the judge is silent.
        inferlite.set_default_logger_severity(2)
        onnxruntime.set_default_logger_severity(4)
