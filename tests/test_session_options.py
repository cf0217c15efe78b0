"""Session and run options: every one reaches the runtime, comes back as it was, and fails as onnxruntime's."""

from __future__ import annotations

import gc
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make_models
import onnx
import onnxruntime
import pytest

import inferlite
import oracle
from cases import f32, ones

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.build("double")
CPU = ["CPUExecutionProvider"]


def _described(values: list[Any]) -> list[tuple[str, str, list[Any], str]]:
    return [(value.name, value.type, value.shape, str(value)) for value in values]


OPTION_VALUES = {
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "enable_mem_reuse": False,
    "execution_mode": onnxruntime.ExecutionMode.ORT_PARALLEL,
    "graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "inter_op_num_threads": 2,
    "intra_op_num_threads": 1,
    "log_severity_level": 3,
    "log_verbosity_level": 1,
    "logid": "mine",
    "use_deterministic_compute": True,
}


def _option_classes() -> list[Any]:
    return [inferlite.SessionOptions, onnxruntime.SessionOptions]


@pytest.mark.parametrize("which", [0, 1], ids=["inferlite's", "onnxruntime's"])
@pytest.mark.parametrize("option", OPTION_VALUES)
def test_every_option_is_taken_and_given_back(option: str, which: int) -> None:
    options = _option_classes()[which]()
    setattr(options, option, OPTION_VALUES[option])
    ours = inferlite.InferenceSession(make_models.path("mlp"), options, providers=CPU)
    theirs = onnxruntime.InferenceSession(make_models.path("mlp"), options, providers=CPU)
    oracle.compare(ours, theirs, {"x": ones(3, 16)})
    assert getattr(ours.get_session_options(), option) == OPTION_VALUES[option]


def test_session_options_come_back_as_a_copy() -> None:
    options = inferlite.SessionOptions()
    options.logid = "before"
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = inferlite.InferenceSession(DOUBLE, options)
    options.logid = "after"
    copy = session.get_session_options()
    assert copy is not options
    assert isinstance(copy, onnxruntime.SessionOptions)
    assert copy.logid == "before"
    assert copy.get_session_config_entry("session.disable_prepacking") == "1"
    assert session.get_session_options() is copy


def test_sessions_without_options_give_back_the_defaults() -> None:
    ours, theirs = (session.get_session_options() for session in oracle.pair("double"))
    attributes = [name for name in dir(theirs) if not name.startswith("_") and not callable(getattr(theirs, name))]
    assert {name: getattr(ours, name) for name in attributes} == {name: getattr(theirs, name) for name in attributes}


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "new attribute": lambda options: setattr(options, "nonsense", 1),
    "number for an enum": lambda options: setattr(options, "execution_mode", 1),
    "text for a number": lambda options: setattr(options, "intra_op_num_threads", "1"),
    "float for a number": lambda options: setattr(options, "intra_op_num_threads", 1.0),
    "path for text": lambda options: setattr(options, "optimized_model_filepath", Path("x")),
    "empty key": lambda options: options.add_session_config_entry("", "1"),
    "long key": lambda options: options.add_session_config_entry("k" * 1025, "1"),
    "long value": lambda options: options.add_session_config_entry("k", "1" * 100_000),
    "number as value": lambda options: options.add_session_config_entry("k", 1),
    "unknown key": lambda options: options.get_session_config_entry("k"),
    "entry twice": lambda options: [options.add_session_config_entry("k", value) for value in "12"],
    "override without number": lambda options: options.add_free_dimension_override_by_name("batch", "x"),
    "missing operators": lambda options: options.register_custom_ops_library("/nowhere/ops.so"),
    "initializer that is none": lambda options: options.add_initializer("w", 5),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_wrong_settings_end_as_onnxruntime(setting: str) -> None:
    ours, theirs = (options() for options in _option_classes())
    wanted = oracle.outcome(lambda: SETTINGS[setting](theirs))
    given = oracle.outcome(lambda: SETTINGS[setting](ours))
    if setting == "new attribute":
        assert type(given.error) is type(wanted.error) is AttributeError
        return
    oracle.assert_same_outcome(given, wanted)


def _with_options(configure: Callable[[Any], Any]) -> tuple[Any, Any]:
    ours, theirs = (options() for options in _option_classes())
    configure(ours)
    configure(theirs)
    return ours, theirs


@pytest.mark.parametrize("override", ["by_name", "by_denotation"])
def test_free_dimensions_can_be_fixed(override: str) -> None:
    model = onnx.load_from_string(DOUBLE)
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    content = model.SerializeToString()
    name = "batch" if override == "by_name" else "DATA_BATCH"
    options = _with_options(lambda o: getattr(o, f"add_free_dimension_override_{override}")(name, 2))
    ours = inferlite.InferenceSession(content, options[0], providers=CPU)
    theirs = onnxruntime.InferenceSession(content, options[1], providers=CPU)
    assert _described(ours.get_inputs()) == _described(theirs.get_inputs())
    assert ours.get_inputs()[0].shape == [2, 4]
    for rows in (2, 3):
        oracle.compare(ours, theirs, {"x": ones(rows, 4)})


def test_config_entries_reach_the_runtime() -> None:
    options = _with_options(lambda o: o.add_session_config_entry("session.load_model_format", "ORT"))
    oracle.compare_calls(
        lambda: inferlite.InferenceSession(DOUBLE, options[0], providers=CPU),
        lambda: onnxruntime.InferenceSession(DOUBLE, options[1], providers=CPU),
    )
    with pytest.raises(Exception, match="ORT model verification failed"):
        inferlite.InferenceSession(DOUBLE, options[1], providers=CPU)


def test_the_optimized_model_is_written(tmp_path: Path) -> None:
    written = []
    for library in (inferlite, onnxruntime):
        path = tmp_path / f"{library.__name__}.onnx"
        options = library.SessionOptions()
        options.optimized_model_filepath = str(path)
        library.InferenceSession(make_models.path("mlp"), options, providers=CPU)
        written.append(sorted(node.op_type for node in onnx.load(path).graph.node))
    assert written[0] == written[1]


def test_disabled_optimizers_change_the_graph(tmp_path: Path) -> None:
    written = []
    for library in (inferlite, onnxruntime):
        path = tmp_path / f"{library.__name__}.onnx"
        options = library.SessionOptions()
        options.optimized_model_filepath = str(path)
        arguments = {"disabled_optimizers": ["GemmActivationFusion"]}
        library.InferenceSession(make_models.path("mlp"), options, providers=CPU, **arguments)
        written.append(sorted(node.op_type for node in onnx.load(path).graph.node))
    assert written[0] == written[1]
    assert "Relu" in written[0]


@oracle.proves("`SessionOptions.add_initializer` with a temporary OrtValue")
def test_an_initializer_given_with_the_options_is_used_and_kept_alive() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    options = inferlite.SessionOptions()
    options.add_initializer("w", onnxruntime.OrtValue.ortvalue_from_numpy(f32(5, 6)))
    gc.collect()
    session = inferlite.InferenceSession(make_models.parse(text), options, providers=CPU)
    del options
    gc.collect()
    assert session.run(None, {"x": f32(1, 1)})[0].tolist() == [5.0, 6.0]


def test_one_options_object_serves_many_sessions() -> None:
    options = inferlite.SessionOptions()
    sessions = [inferlite.InferenceSession(DOUBLE, options) for _ in range(5)]
    del options
    for session in sessions:
        assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]


def test_profiling_writes_the_file_it_names(tmp_path: Path) -> None:
    options = inferlite.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = inferlite.InferenceSession(make_models.path("mlp"), options)
    session.run(None, {"x": ones(1, 16)})
    assert session.get_profiling_start_time_ns() > 0
    path = session.end_profiling()
    assert path.startswith(str(tmp_path / "profile"))
    names = {event["name"] for event in json.loads(Path(path).read_text())}
    assert {"model_run", "session_initialization"} <= names


def test_profiling_that_is_off_names_no_file() -> None:
    ours, theirs = oracle.pair("double")
    assert ours.end_profiling() == theirs.end_profiling() == ""
    assert ours.get_profiling_start_time_ns() == theirs.get_profiling_start_time_ns() == 0


@pytest.mark.parametrize("which", [0, 1], ids=["inferlite's", "onnxruntime's"])
def test_a_run_told_to_terminate_before_it_starts_fails(which: int) -> None:
    options = [inferlite.RunOptions, onnxruntime.RunOptions][which]()
    options.terminate = True
    ours, theirs = oracle.pair("double")
    feed = {"x": ones(1, 4)}
    oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))
    options.terminate = False
    oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))


def test_a_run_that_goes_on_is_terminated_by_another_thread() -> None:
    session = inferlite.InferenceSession(make_models.path("endless"))
    options = inferlite.RunOptions()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, None, {"x": f32(1)}, options)
        other = inferlite.InferenceSession(DOUBLE)
        other.run(None, {"x": ones(1, 4)})
        assert not running.done()
        options.terminate = True
        error = running.exception(timeout=30)
    assert "Exiting due to terminate flag being set to true." in str(error)
    assert type(error).__name__ == "Fail"
    assert type(error).__module__ == "onnxruntime.capi.onnxruntime_pybind11_state"


def test_run_options_may_change_while_runs_read_them() -> None:
    session = inferlite.InferenceSession(make_models.path("endless"))
    options = inferlite.RunOptions()
    options.logid = "first"
    with ThreadPoolExecutor(2) as pool:
        running = []
        for number in range(2):
            running.append(pool.submit(session.run, None, {"x": f32(1)}, options))
            inferlite.InferenceSession(DOUBLE).run(None, {"x": ones(1, 4)})
            for logid in ("a much longer name than the small string has room for", str(number)):
                options.logid = logid
            options.log_severity_level = 4
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        assert not any(run.done() for run in running)
        # Those that began before the changes end, too.
        options.terminate = True
        errors = [run.exception(timeout=30) for run in running]
    assert all("Exiting due to terminate flag" in str(error) for error in errors)
    # And what comes later keeps all that was set.
    error = oracle.outcome(lambda: session.run(None, {"x": f32(1)}, options)).error
    assert "Exiting due to terminate flag" in str(error)


RUN_OPTION_VALUES = {"log_severity_level": 4, "log_verbosity_level": 1, "logid": "mine", "terminate": False}


@pytest.mark.parametrize("option", RUN_OPTION_VALUES)
def test_run_options_are_taken_and_given_back(option: str) -> None:
    options = inferlite.RunOptions()
    assert getattr(options, option) == getattr(onnxruntime.RunOptions(), option)
    setattr(options, option, RUN_OPTION_VALUES[option])
    ours, theirs = oracle.pair("double")
    feed = {"x": ones(1, 4)}
    oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))
    assert getattr(options, option) == RUN_OPTION_VALUES[option]


RUN_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "unknown key": lambda options: options.get_run_config_entry("k"),
    "entry": lambda options: [options.add_run_config_entry("k", "1"), options.get_run_config_entry("k")],
    "empty key": lambda options: options.add_run_config_entry("", "1"),
    "text for a number": lambda options: setattr(options, "log_severity_level", "1"),
    "text for a truth": lambda options: setattr(options, "terminate", "yes"),
    "adapter that is none": lambda options: options.add_active_adapter(5),
}


@pytest.mark.parametrize("setting", RUN_SETTINGS)
def test_wrong_run_settings_end_as_onnxruntime(setting: str) -> None:
    ours, theirs = inferlite.RunOptions(), onnxruntime.RunOptions()
    wanted = oracle.outcome(lambda: RUN_SETTINGS[setting](theirs))
    given = oracle.outcome(lambda: RUN_SETTINGS[setting](ours))
    oracle.assert_same_outcome(given, wanted)


def test_run_config_entries_are_taken() -> None:
    options = inferlite.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session = inferlite.InferenceSession(DOUBLE)
    assert session.run(None, {"x": ones(1, 4)}, options)[0].tolist() == [[2.0] * 4]
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "nonsense")
    ours, theirs = oracle.pair("double")
    feed = {"x": ones(1, 4)}
    oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))
