"""Sessions, and calls, that run on the onnxruntime package because the native part cannot be told what they need."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import onnxruntime
import pytest

import child
import inferlite
import oracle
from cases import f32, ones
from inferlite import options as inferlite_options, process_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend")

CPU = ["CPUExecutionProvider"]
DOUBLE = make_models.build("double")
WEIGHTED = make_models.parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
OVERRIDABLE = make_models.build("default_input")


@pytest.fixture
def package(backend: str) -> str:
    """What `engine` says of a session that the onnxruntime package runs."""
    return "onnxruntime (python)" if backend == "native" else "onnxruntime"


def _initializer(options: Any) -> Any:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(f32(5, 6))
    options.add_initializer("w", value)
    return value


CONFIGURED: dict[str, tuple[bytes, Callable[[Any], Any], dict[str, Any]]] = {
    "nothing": (DOUBLE, lambda _: None, {"x": ones(2, 4)}),
    "threads": (DOUBLE, lambda options: setattr(options, "intra_op_num_threads", 1), {"x": ones(2, 4)}),
    "an initializer": (WEIGHTED, _initializer, {"x": f32(1, 1)}),
    "free dimensions": (
        DOUBLE,
        lambda options: options.add_free_dimension_override_by_name("batch", 2),
        {"x": ones(3, 4)},
    ),
    "an unknown entry": (DOUBLE, lambda options: options.add_session_config_entry("my.own", "1"), {"x": ones(2, 4)}),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_options_of_onnxruntimes_own_class_say_all_they_hold_to_the_package(name: str, package: str) -> None:
    model, configure, feed = CONFIGURED[name]
    options = onnxruntime.SessionOptions()
    alive = configure(options)
    ours = inferlite.InferenceSession(model, options, CPU)
    theirs = onnxruntime.InferenceSession(model, options, CPU)
    assert ours.engine == package
    oracle.compare(ours, theirs, feed)
    assert [argument.shape for argument in ours.get_inputs()] == [argument.shape for argument in theirs.get_inputs()]
    del alive


@pytest.mark.parametrize("name", [name for name in CONFIGURED if name != "an initializer"])
def test_options_of_inferlites_class_do_without_the_package(name: str) -> None:
    model, configure, feed = CONFIGURED[name]
    options = inferlite.SessionOptions()
    configure(options)
    ours = inferlite.InferenceSession(model, options, CPU)
    theirs = onnxruntime.InferenceSession(model, options, CPU)
    assert ours.engine == "onnxruntime"
    oracle.compare(ours, theirs, feed)


UNREADABLE: dict[str, Callable[[Any], Any]] = {
    "an initializer": _initializer,
    "external initializers": lambda options: options.add_external_initializers(
        ["w"], [onnxruntime.OrtValue.ortvalue_from_numpy(f32(5, 6))]
    ),
    "a provider": lambda options: options.add_provider(onnxruntime.get_available_providers()[0], {}),
    "a provider for devices": lambda options: options.add_provider_for_devices(onnxruntime.get_ep_devices()[:1], {}),
    "a policy": lambda options: options.set_provider_selection_policy(
        onnxruntime.OrtExecutionProviderDevicePolicy.PREFER_CPU
    ),
    "a delegate": lambda options: options.set_provider_selection_policy_delegate(lambda devices, *_: devices[:1]),
    "a load that is cancelled": lambda options: options.set_load_cancellation_flag(True),
    "files in memory": lambda options: options.add_external_initializers_from_files_in_memory(["w"], [b"1234"], [4]),
    "a reader of compiled models": lambda options: options.set_ep_context_data_read_func(lambda *_: None, 1),
    "a reader that was taken back": lambda options: (
        options.set_ep_context_data_read_func(lambda *_: None, 1),
        options.clear_ep_context_data_read_func(),
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_the_native_part_cannot_use_is_the_packages(name: str, package: str) -> None:
    sides = []
    for library in (inferlite, onnxruntime):
        options = library.SessionOptions()
        try:
            alive = UNREADABLE[name](options)
        except Exception as error:  # noqa: BLE001 - a build may lack what the call needs
            pytest.skip(f"this onnxruntime refuses the call: {error}")
        ended = oracle.outcome(lambda options=options, library=library: library.InferenceSession(WEIGHTED, options))
        sides.append((ended, options.has_providers(), alive))
    (ours, has_ours, _), (theirs, has_theirs, _) = sides
    assert has_ours is has_theirs
    if theirs.error is not None:
        oracle.assert_same_error(ours.error, theirs.error)
        return
    assert ours.value.engine == ("onnxruntime" if name == "a reader that was taken back" else package)
    oracle.compare(ours.value, theirs.value, {"x": f32(1, 1)})


def test_plain_options_are_told_of_once(
    backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inferlite_options._Told, "of_plain_options", False)
    with caplog.at_level(logging.WARNING, "inferlite"):
        for _ in range(2):
            inferlite.InferenceSession(DOUBLE, onnxruntime.SessionOptions())
    said = [record.getMessage() for record in caplog.records]
    assert said == (
        []
        if backend == "python"
        else [
            (
                "a session with options of onnxruntime's own class runs on the onnxruntime package, since they do not "
                "tell all that they hold: make them with `inferlite.SessionOptions`, or call `inferlite.patch()` before"
            )
        ]
    )


def test_a_session_of_the_package_has_every_method_and_the_attributes_others_read() -> None:
    ours = inferlite.InferenceSession(make_models.path("double"), onnxruntime.SessionOptions(), CPU)
    theirs = onnxruntime.InferenceSession(make_models.path("double"), onnxruntime.SessionOptions(), CPU)
    assert isinstance(ours, inferlite.InferenceSession)
    names = {name for name in (*dir(theirs), *vars(theirs)) if not name.startswith("__")}
    assert [name for name in sorted(names) if not hasattr(ours, name)] == []
    for name in ("_model_path", "_model_bytes", "_providers", "_provider_options"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert type(ours._sess) is type(theirs._sess)
    assert ours.get_session_options() is not None
    with pytest.raises(AttributeError):
        _ = ours.nonsense
    call = ours.bind({"x": ones(1, 4)})
    assert call()[0].tolist() == [[2.0] * 4]
    for make in (ours.io_binding, lambda: inferlite.IOBinding(ours), lambda: onnxruntime.IOBinding(ours)):
        binding = make()
        binding.bind_cpu_input("x", ones(2, 4))
        binding.bind_output("y")
        ours.run_with_iobinding(binding)
        assert binding.copy_outputs_to_cpu()[0].tolist() == [[2.0] * 4] * 2


def test_the_attributes_others_read_are_there_on_every_session() -> None:
    for model in (DOUBLE, make_models.path("double")):
        ours, theirs = (library.InferenceSession(model, providers=CPU) for library in (inferlite, onnxruntime))
        for name in ("_model_path", "_model_bytes", "_providers", "_provider_options"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("_inputs_meta", "_outputs_meta", "_overridable_initializers"):
            assert [str(value) for value in getattr(ours, name)] == [str(value) for value in getattr(theirs, name)]
        assert ours._model_meta.graph_name == theirs._model_meta.graph_name
        assert ours._sess_options.intra_op_num_threads == 0
        assert type(ours._sess) is type(theirs._sess)
        assert ours._sess is ours._sess


def test_a_subclass_stays_one(package: str) -> None:
    class Mine(inferlite.InferenceSession):
        def run(self, *args: Any) -> Any:
            return ["mine", *super().run(*args)]

    session = Mine(DOUBLE, onnxruntime.SessionOptions())
    assert isinstance(session, Mine)
    assert session.engine == package
    assert session.run(None, {"x": ones(1, 4)})[0] == "mine"


def test_a_session_of_the_package_keeps_answers_and_goes_with_its_last_reference() -> None:
    session = inferlite.InferenceSession(DOUBLE, onnxruntime.SessionOptions(), cache="1MB")
    for _ in range(3):
        assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]
    assert session.cache.stats().hits == 2
    session.cache.clear()
    assert session.cache.stats().entries == 0
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_a_session_whose_options_cannot_be_read_is_neither_pickled_nor_copied(backend: str) -> None:
    if backend == "python":
        pytest.skip("there it is a session as any other")
    session = inferlite.InferenceSession(DOUBLE, onnxruntime.SessionOptions())
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            make(session)


def test_options_that_are_in_the_model_are_read_by_the_package(package: str) -> None:
    model = onnx.load_from_string(DOUBLE)
    entry = model.metadata_props.add()
    entry.key, entry.value = "ort_config", '{"session_options": {"intra_op_num_threads": 1}}'
    content = model.SerializeToString()
    ours, theirs = (
        library.InferenceSession(content, providers=CPU, read_config_from_model=1)
        for library in (inferlite, onnxruntime)
    )
    assert ours.engine == package
    assert ours.get_session_options().intra_op_num_threads == theirs.get_session_options().intra_op_num_threads
    oracle.compare(ours, theirs, {"x": ones(1, 4)})


def test_a_seed_makes_random_models_the_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = make_models.parse("g (float[n] x) => (float[n] y) { y = RandomUniformLike(x) }")
    monkeypatch.setattr(process_settings._Seed, "is_set", False)
    assert inferlite.InferenceSession(random).engine == "onnxruntime"
    answers = []
    for library in (inferlite, onnxruntime):
        inferlite.set_seed(7)
        session = library.InferenceSession(random, providers=CPU)
        answers.append(session.run(None, {"x": ones(5)})[0].tolist())
        if library is inferlite:
            assert session.engine == package
    assert answers[0] == answers[1]
    assert inferlite.InferenceSession(DOUBLE).engine == "onnxruntime"


# --- run options


def _adapter(folder: Path) -> Any:
    adapters = onnxruntime.AdapterFormat()
    adapters.set_adapter_version(1)
    adapters.set_model_version(1)
    adapters.set_parameters({"w": onnxruntime.OrtValue.ortvalue_from_numpy(f32(5, 6))})
    adapters.export_adapter(str(folder / "adapter"))
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(folder / "adapter"))
    return adapter


def _run_options() -> list[Any]:
    return [inferlite.RunOptions, onnxruntime.RunOptions]


@pytest.mark.parametrize("which", [0, 1], ids=["inferlite's", "onnxruntime's"])
def test_an_adapter_is_used_in_the_calls_that_name_it(which: int, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path)
    ours, theirs = oracle.pair(OVERRIDABLE)
    feed = {"x": ones(2)}
    plain = oracle.compare(ours, theirs, feed)
    options = _run_options()[which]()
    options.add_active_adapter(adapter)
    adapted = oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))
    assert adapted.value[0].tolist() == [5.0, 6.0] != plain.value[0].tolist()
    oracle.compare(ours, theirs, feed)


def test_an_adapter_lives_as_long_as_the_options_of_inferlites_class(tmp_path: Path) -> None:
    options = inferlite.RunOptions()
    options.add_active_adapter(_adapter(tmp_path))
    gc.collect()
    session = inferlite.InferenceSession(OVERRIDABLE)
    assert session.run(None, {"x": ones(2)}, options)[0].tolist() == [5.0, 6.0]


RUN_SETTINGS: dict[str, Callable[[Any], None]] = {
    "terminate": lambda options: setattr(options, "terminate", True),
    "severity": lambda options: setattr(options, "log_severity_level", 4),
    "verbosity": lambda options: setattr(options, "log_verbosity_level", 3),
    "logid": lambda options: setattr(options, "logid", "mine"),
    "skips": lambda options: setattr(options, "only_execute_path_to_fetches", True),
    "shrinks": lambda options: options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0"),
    "shrinks nonsense": lambda options: options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "zzz"),
    "unknown entry": lambda options: options.add_run_config_entry("my.own", "1"),
}


@pytest.mark.parametrize("model", ["double", "default_input"])
@pytest.mark.parametrize("which", [0, 1], ids=["inferlite's", "onnxruntime's"])
@pytest.mark.parametrize("setting", RUN_SETTINGS)
def test_run_options_of_both_classes_do_what_they_do_in_onnxruntime(setting: str, which: int, model: str) -> None:
    options = _run_options()[which]()
    RUN_SETTINGS[setting](options)
    ours, theirs = oracle.pair(model)
    feed = {"x": ones(1, 4) if model == "double" else ones(2)}
    for _ in range(2):
        oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))


def test_only_calls_that_need_the_package_make_it_load_the_model(backend: str) -> None:
    if backend == "python":
        pytest.skip("there it is the package's session from the start")
    session, overridable = inferlite.InferenceSession(DOUBLE), inferlite.InferenceSession(OVERRIDABLE)
    session.run(None, {"x": ones(1, 4)}, onnxruntime.RunOptions())
    overridable.run(None, {"x": ones(2)}, inferlite.RunOptions())
    assert session._twin is overridable._twin is None
    overridable.run(None, {"x": ones(2)}, onnxruntime.RunOptions())
    assert overridable._twin is not None


def test_terminate_of_onnxruntimes_own_options_ends_a_run_from_another_thread() -> None:
    session = inferlite.InferenceSession(make_models.path("endless"))
    options = onnxruntime.RunOptions()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(session.run, None, {"x": f32(1)}, options) for _ in range(2)]
        inferlite.InferenceSession(DOUBLE).run(None, {"x": ones(1, 4)}, onnxruntime.RunOptions())
        options.logid = "changed meanwhile"
        assert not any(run.done() for run in runs)
        options.terminate = True
        errors = [run.exception(timeout=30) for run in runs]
    for error in errors:
        assert type(error).__name__ == "Fail"
        assert "Exiting due to terminate flag being set to true." in str(error)
    options.terminate = False
    assert inferlite.InferenceSession(DOUBLE).run(None, {"x": ones(1, 4)}, options)[0].tolist() == [[2.0] * 4]


@pytest.mark.parametrize("which", [0, 1], ids=["inferlite's", "onnxruntime's"])
def test_run_options_are_read_at_every_call(which: int) -> None:
    options = _run_options()[which]()
    ours, theirs = oracle.pair(DOUBLE)
    feed = {"x": ones(1, 4)}
    for change in (
        lambda: None,
        lambda: options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "zzz"),
        lambda: options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0"),
        lambda: setattr(options, "terminate", True),
        lambda: setattr(options, "terminate", False),
    ):
        change()
        oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))
    with pytest.raises(RuntimeError, match="Config key is empty"):
        options.add_run_config_entry("", "1")


def test_options_of_a_derived_class_are_taken() -> None:
    class Mine(onnxruntime.RunOptions):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise LookupError

    ours, theirs = oracle.pair(DOUBLE)
    options = Mine()
    options.terminate = True
    feed = {"x": ones(1, 4)}
    oracle.compare_calls(lambda: ours.run(None, feed, options), lambda: theirs.run(None, feed, options))


def test_the_native_half_goes_with_the_options(backend: str) -> None:
    if backend == "python":
        pytest.skip("there is none")
    from inferlite import foreign  # noqa: PLC0415 - needs the native part

    session = inferlite.InferenceSession(DOUBLE)
    gc.collect()
    before = len(foreign._mirrors)
    for _ in range(100):
        session.run(None, {"x": ones(1, 4)}, onnxruntime.RunOptions())
    gc.collect()
    assert len(foreign._mirrors) == before


def test_a_file_that_has_changed_is_not_loaded_a_second_time(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(OVERRIDABLE)
    session = inferlite.InferenceSession(path)
    wanted = session.run(None, {"x": ones(2)})[0].tolist()
    path.write_bytes(make_models.build("identity"))
    if backend == "python":
        assert session.run(None, {"x": ones(2)}, onnxruntime.RunOptions())[0].tolist() == wanted
        return
    with pytest.raises(Exception, match="which has changed since: make a new session"):
        session.run(None, {"x": ones(2)}, onnxruntime.RunOptions())
    assert session.run(None, {"x": ones(2)})[0].tolist() == wanted


def test_the_twin_finds_a_relative_path_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(OVERRIDABLE)
    monkeypatch.chdir(tmp_path)
    session = inferlite.InferenceSession("model.onnx")
    monkeypatch.chdir("/")
    feed = {"x": ones(2)}
    assert session.run(None, feed, onnxruntime.RunOptions())[0].tolist() == session.run(None, feed)[0].tolist()


def test_threads_that_need_the_twin_at_once_get_one() -> None:
    session = inferlite.InferenceSession(DOUBLE)
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: id(session._sess), range(32)))
    assert len(made) == 1


def test_a_child_of_a_fork_has_a_twin_of_its_own(child_environment: dict[str, str]) -> None:
    code = """
        import os, inferlite, make_models, numpy as np, onnxruntime
        session = inferlite.InferenceSession(make_models.path("default_input"))
        options = onnxruntime.RunOptions()
        feed = {"x": np.ones(2, np.float32)}
        (wanted,) = session.run(None, feed, options)
        child = os.fork()
        if child == 0:
            assert session.run(None, feed, options)[0].tolist() == wanted.tolist()
            os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    assert child.run(code, child_environment, warnings=True).strip() == "0"


def test_the_bits_are_those_of_onnxruntime_in_every_way_to_run() -> None:
    x = np.random.default_rng(5).standard_normal((7, 16), np.float32)
    options = onnxruntime.SessionOptions()
    theirs = onnxruntime.InferenceSession(make_models.path("mlp"), options, CPU)
    for given in (None, options, inferlite.SessionOptions()):
        oracle.compare(inferlite.InferenceSession(make_models.path("mlp"), given, CPU), theirs, {"x": x})
