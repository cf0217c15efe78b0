"""The prediction cache and the options of a run: what is looked up, what is run in any case, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

import inferlite
import oracle
from cases import f32
from conftest import BACKENDS
from inferlite.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
# A weight that calls may override, as adapters do.
SCALED = make_models.parse("scaled (float[n] x, float[1] w) => (float[n] y) <float[1] w = {2}> { y = Mul(x, w) }")

TERMINATED = "[ONNXRuntimeError] : 1 : FAIL : Exiting due to terminate flag being set to true."
SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")

OPTIONS_CLASSES = {"inferlite's": inferlite.RunOptions, "onnxruntime's": onnxruntime.RunOptions}


def _counts(session: Any) -> tuple[int, int, int]:
    """Hits, misses and entries."""
    stats = session.cache.stats()
    return stats.hits, stats.misses, stats.entries


def _answer(session: Any, x: np.ndarray, options: Any = None) -> Any:
    """The answer to a call, which must be twice what is fed."""
    (answer,) = session.run(None, {"x": x}, options)
    assert answer.tolist() == (2 * x).tolist()
    return answer


HARMLESS: dict[str, Callable[[Any, int], object]] = {
    "as they are made": lambda options, number: (options, number),
    "a name of its own": lambda options, number: setattr(options, "logid", f"request {number}"),
    "a severity": lambda options, number: setattr(options, "log_severity_level", 2 + number % 3),
    "a verbosity": lambda options, number: setattr(options, "log_verbosity_level", number),
    "terminate, taken back": lambda options, number: [
        setattr(options, "terminate", number >= 0),
        setattr(options, "terminate", False),
    ],
}


@pytest.mark.parametrize("owner", OPTIONS_CLASSES)
@pytest.mark.parametrize("what", HARMLESS)
def test_options_that_change_no_answer_defeat_no_look_up(backend: str, what: str, owner: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    for number in range(5):
        options = OPTIONS_CLASSES[owner]()
        HARMLESS[what](options, number)
        _answer(session, f32(1.0, 2.0), options)
    # Without the native part, calls with options run in any case.
    assert _counts(session) == ((4, 1, 1) if backend == "native" else (0, 0, 0))
    _answer(session, f32(1.0, 2.0))
    assert _counts(session) == ((5, 1, 1) if backend == "native" else (0, 1, 1))


def test_one_object_of_options_may_be_named_anew_for_every_call(backend: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    options = inferlite.RunOptions()
    for number in range(5):
        options.logid = f"request {number}"
        _answer(session, f32(1.0, 2.0), options)
    assert _counts(session) == ((4, 1, 1) if backend == "native" else (0, 0, 0))


def test_a_call_with_config_entries_is_neither_looked_up_nor_kept(backend: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    options = inferlite.RunOptions()
    options.add_run_config_entry(*SHRINK)
    for _ in range(2):
        _answer(session, f32(1.0), options)
    assert _counts(session) == (0, 0, 0)
    _answer(session, f32(1.0)), _answer(session, f32(1.0))
    assert _counts(session) == (1, 1, 1)
    _answer(session, f32(1.0), options)
    assert _counts(session) == (1, 1, 1)
    assert backend


def test_options_stop_being_looked_up_with_their_first_config_entry(backend: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    options = inferlite.RunOptions()
    _answer(session, f32(1.0)), _answer(session, f32(1.0), options)
    before = _counts(session)
    assert before == ((1, 1, 1) if backend == "native" else (0, 1, 1))
    options.add_run_config_entry(*SHRINK)
    options.logid = "changed once more"
    _answer(session, f32(1.0), options)
    assert _counts(session) == before


def test_a_config_entry_that_the_runtime_refuses_is_refused_although_the_answer_is_kept(backend: str) -> None:
    ours, plain = inferlite.InferenceSession(DOUBLE, cache="1MB"), inferlite.InferenceSession(DOUBLE)
    _answer(ours, f32(1.0))
    options = inferlite.RunOptions()
    options.add_run_config_entry(SHRINK[0], "nonsense")
    feed = {"x": f32(1.0)}
    wanted = oracle.outcome(lambda: plain.run(None, feed, options))
    assert wanted.error is not None
    oracle.assert_same_outcome(oracle.outcome(lambda: ours.run(None, feed, options)), wanted)
    assert _counts(ours) == (0, 1, 1)
    assert backend


@pytest.mark.parametrize("owner", OPTIONS_CLASSES)
def test_a_call_that_is_told_to_terminate_fails_although_its_answer_is_kept(backend: str, owner: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    _answer(session, f32(1.0))
    options = OPTIONS_CLASSES[owner]()
    options.terminate = True
    for number in (1.0, 2.0):
        with pytest.raises(Fail) as caught:
            session.run(None, {"x": f32(number)}, options)
        assert str(caught.value) == TERMINATED
    assert _counts(session) == (0, 1, 1)
    options.terminate = False
    _answer(session, f32(1.0), options)
    assert _counts(session) == ((1, 1, 1) if backend == "native" else (0, 1, 1))


def _ended(session: Any, calls: list[Any], started: int) -> list[BaseException | None]:
    """How endless calls end, each by its own options and after the one before, once so many are counted as misses."""
    ends = []
    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(session.run, None, {"x": f32(1.0)}, options) for options in calls]
        try:
            while session.cache.stats().misses < started:
                assert not any(run.done() for run in running)
            for options, run in zip(calls, running, strict=True):
                options.terminate = True
                ends.append(run.exception(timeout=60))
        finally:
            for options in calls:
                options.terminate = True
    return ends


@pytest.mark.parametrize("count", [1, 3])
def test_whoever_has_options_computes_alone_and_what_they_end_is_not_kept(backend: str, count: int) -> None:
    session = inferlite.InferenceSession(make_models.path("endless"), cache="1MB")
    started = count if backend == "native" else 0
    # Whoever waited for another one's run would not be ended by options of its own.
    for error in _ended(session, [inferlite.RunOptions() for _ in range(count)], started):
        assert type(error) is Fail
        # The node under way says its part before, if one is.
        assert str(error).startswith("[ONNXRuntimeError] : 1 : FAIL : ")
        assert str(error).endswith("Exiting due to terminate flag being set to true.")
    assert _counts(session) == (0, started, 0)


@pytest.mark.parametrize("wrong", ["an object", "a number", "the class", "options of a session"])
def test_what_are_no_options_is_refused_although_the_answer_is_kept(backend: str, wrong: str) -> None:
    values = {
        "an object": object(),
        "a number": 3,
        "the class": inferlite.RunOptions,
        "options of a session": inferlite.SessionOptions(),
    }
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    _answer(session, f32(1.0))
    with pytest.raises(TypeError) as caught:
        session.run(None, {"x": f32(1.0)}, values[wrong])
    text = "run(): incompatible function arguments. The following argument types are supported:"
    assert str(caught.value).splitlines()[0] == text
    assert _counts(session) == (0, 1, 1)
    assert backend


def test_options_that_were_never_made_are_refused_although_the_answer_is_kept(backend: str) -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    _answer(session, f32(1.0))
    options = inferlite.RunOptions.__new__(inferlite.RunOptions)
    with pytest.raises(RuntimeError) as caught:
        session.run(None, {"x": f32(1.0)}, options)
    assert str(caught.value) == "the run options are empty: `__init__` has not run"
    assert backend


def test_calls_of_a_model_take_no_run_options(backend: str) -> None:
    model = inferlite.load(DOUBLE, cache="1MB")
    x = f32(1.0)
    model(x)
    for call in (model, model.predict):
        with pytest.raises(InvalidInputError) as caught:
            call(x=x, run_options=inferlite.RunOptions())
        assert str(caught.value) == "model `double` has no input `run_options`: it takes `x`"
    assert _counts(model) == (0, 1, 1)
    assert backend


@pytest.fixture
def adapter(tmp_path: Path) -> Any:
    """An adapter that multiplies by 5 instead of 2."""
    form = onnxruntime.AdapterFormat()
    form.set_adapter_version(1)
    form.set_model_version(1)
    form.set_parameters({"w": onnxruntime.OrtValue.ortvalue_from_numpy(f32(5.0))})
    path = tmp_path / "five.onnx_adapter"
    form.export_adapter(str(path))
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    return adapter


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("owner", OPTIONS_CLASSES)
def test_the_answers_of_an_adapter_are_neither_kept_nor_taken_from_the_cache(owner: str, adapter: Any) -> None:
    session = inferlite.InferenceSession(SCALED, cache="1MB")
    options = OPTIONS_CLASSES[owner]()
    options.add_active_adapter(adapter)
    feed = {"x": f32(1.0, 2.0)}
    for given, wanted in ((options, [5.0, 10.0]), (None, [2.0, 4.0]), (options, [5.0, 10.0]), (None, [2.0, 4.0])):
        assert session.run(None, feed, given)[0].tolist() == wanted
    assert _counts(session) == (1, 1, 1)
    # The same weight, fed by hand, is part of the question.
    for weight in (5.0, 7.0, 5.0):
        assert session.run(None, {**feed, "w": f32(weight)})[0].tolist() == [weight, 2 * weight]
    assert _counts(session) == (2, 3, 3)


@native
def test_rows_are_looked_up_under_the_same_options_as_whole_calls(backend: str) -> None:
    session = inferlite.InferenceSession(
        make_models.parse("double (float[n, 2] x) => (float[n, 2] y) { y = Add(x, x) }"),
        cache=inferlite.Cache(max_bytes="1MB", by="row"),
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    options = inferlite.RunOptions()
    for number in range(2):
        options.logid = f"request {number}"
        _answer(session, x, options)
    assert _counts(session) == (3, 3, 3)
    options.terminate = True
    with pytest.raises(Fail) as caught:
        session.run(None, {"x": x}, options)
    assert str(caught.value) == TERMINATED
    options.terminate = False
    options.add_run_config_entry(*SHRINK)
    _answer(session, x, options), _answer(session, x + 9, options)
    assert _counts(session) == (3, 3, 3)
    assert backend
