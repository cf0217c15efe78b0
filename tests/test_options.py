"""Options are onnxruntime's own, and tell the native back end what they hold."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import make_models
import numpy as np
import onnxruntime
import pytest

import inferlite
from inferlite import _backend
from inferlite._config_keys import KNOWN_CONFIG_KEYS
from inferlite.capabilities import CAPABILITIES
from inferlite.exceptions import BackendUnavailableError
from inferlite.options import DEFAULT_ATTRIBUTES, RunOptions, SessionOptions, options_from_settings, session_settings

SPINNING = "session.intra_op.allow_spinning"


def _attributes(kind: type) -> list[str]:
    instance = kind()
    return [name for name in dir(instance) if not name.startswith("_") and not callable(getattr(instance, name))]


def _ending(call: Any) -> tuple[type[Exception], str] | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - every ending is compared
        # What was passed is printed with its address.
        return type(error), str(error).split("Invoked with")[0]
    return None


@pytest.fixture(autouse=True)
def _python_back_end() -> Any:
    _backend.select("python")
    yield
    _backend.select(None)


PAIRS = [(onnxruntime.SessionOptions, SessionOptions), (onnxruntime.RunOptions, RunOptions)]
ATTRIBUTES = [(theirs, ours, name) for theirs, ours in PAIRS for name in _attributes(theirs)]
WRONG_VALUES = [
    None,
    "text",
    b"bytes",
    1.5,
    3,
    -1,
    True,
    np.int64(2),
    2**70,
    [],
    object,
    onnxruntime.ExecutionMode.ORT_PARALLEL,
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_options_are_onnxruntimes_own_class(theirs: type, ours: type) -> None:
    assert isinstance(ours(), theirs)
    assert _attributes(ours) == _attributes(theirs)
    assert set(dir(theirs)) <= set(dir(ours))


@pytest.mark.parametrize(("theirs", "ours", "name"), ATTRIBUTES)
def test_every_default_is_onnxruntimes(theirs: type, ours: type, name: str) -> None:
    wanted, given = getattr(theirs(), name), getattr(ours(), name)
    assert given == wanted
    assert type(given) is type(wanted)


@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
@pytest.mark.parametrize(("theirs", "ours", "name"), ATTRIBUTES)
def test_setting_ends_as_in_onnxruntime(theirs: type, ours: type, name: str, value: object) -> None:
    other, own = theirs(), ours()
    wanted = _ending(lambda: setattr(other, name, value))
    given = _ending(lambda: setattr(own, name, value))
    assert (given and given[0]) == (wanted and wanted[0])
    assert getattr(own, name) == getattr(other, name)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_an_unknown_attribute_is_refused(theirs: type, ours: type) -> None:
    for kind in (theirs, ours):
        with pytest.raises(AttributeError, match="has no attribute 'intra_op_threads'"):
            kind().intra_op_threads = 2


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_the_constructor_takes_nothing(theirs: type, ours: type) -> None:
    wanted, given = _ending(lambda: theirs(1)), _ending(lambda: ours(1))
    assert wanted is not None
    assert given is not None
    assert given[0] is wanted[0] is TypeError


METHOD_CALLS: list[tuple[type, type, str, tuple[Any, ...]]] = [
    (onnxruntime.SessionOptions, SessionOptions, name, arguments)
    for name, arguments in [
        ("add_session_config_entry", ("", "1")),
        ("add_session_config_entry", ("k" * 2000, "1")),
        ("add_session_config_entry", ("k", 1)),
        ("add_session_config_entry", (SPINNING, "0")),
        ("get_session_config_entry", ("k",)),
        ("get_session_config_entry", (1,)),
        ("add_free_dimension_override_by_name", ("n", 1.5)),
        ("add_free_dimension_override_by_name", ("n", 4)),
        ("add_free_dimension_override_by_denotation", ("n", "4")),
        ("register_custom_ops_library", ("/no/such/library.so",)),
        ("register_custom_ops_library", (1,)),
        ("add_initializer", ("w", 1)),
        ("add_external_initializers", (["w"], [])),
        ("add_provider", ("x", {})),
    ]
] + [
    (onnxruntime.RunOptions, RunOptions, name, arguments)
    for name, arguments in [
        ("add_run_config_entry", ("", "1")),
        ("add_run_config_entry", ("k", "1")),
        ("add_run_config_entry", ("k", 1)),
        ("get_run_config_entry", ("k",)),
        ("add_active_adapter", (1,)),
    ]
]


@pytest.mark.parametrize(("theirs", "ours", "name", "arguments"), METHOD_CALLS)
def test_methods_end_as_in_onnxruntime(theirs: type, ours: type, name: str, arguments: tuple[Any, ...]) -> None:
    other, own = theirs(), ours()
    assert _ending(lambda: getattr(own, name)(*arguments)) == _ending(lambda: getattr(other, name)(*arguments))


def test_the_table_of_defaults_is_onnxruntimes() -> None:
    options = onnxruntime.SessionOptions()
    for name, default in DEFAULT_ATTRIBUTES.items():
        value = getattr(options, name)
        assert (int(value) if name in {"execution_mode", "graph_optimization_level"} else value) == default
    assert set(_attributes(onnxruntime.SessionOptions)) - set(DEFAULT_ATTRIBUTES) == {
        "enable_mem_reuse",
        "execution_order",
    }


def test_defaults_give_no_settings() -> None:
    assert session_settings(None) == {}
    assert session_settings(onnxruntime.SessionOptions()) == {}
    assert session_settings(SessionOptions()) == {}


CHANGED = {
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "enable_profiling": True,
    "execution_mode": onnxruntime.ExecutionMode.ORT_PARALLEL,
    "graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "inter_op_num_threads": 2,
    "intra_op_num_threads": 3,
    "log_severity_level": 4,
    "log_verbosity_level": 1,
    "logid": "id",
    "optimized_model_filepath": "/tmp/optimized.onnx",  # noqa: S108 - nothing is written
    "profile_file_prefix": "prefix_",
    "use_deterministic_compute": True,
    "use_per_session_threads": False,
}


@pytest.mark.parametrize("kind", [onnxruntime.SessionOptions, SessionOptions])
def test_changed_attributes_are_settings(kind: type) -> None:
    assert CHANGED.keys() == DEFAULT_ATTRIBUTES.keys()
    options = kind()
    for name, value in CHANGED.items():
        setattr(options, name, value)
    expected = {**CHANGED, "execution_mode": 1, "graph_optimization_level": 1}
    assert session_settings(options) == expected
    assert session_settings(options_from_settings(expected)) == expected


def test_everything_recorded_is_in_the_settings() -> None:
    options = SessionOptions()
    options.add_session_config_entry(SPINNING, "1")
    options.add_session_config_entry(SPINNING, "0")
    options.add_session_config_entry("a.key.of.my.own", "x")
    options.add_free_dimension_override_by_name("batch", np.int64(4))
    options.add_free_dimension_override_by_denotation("DATA_BATCH", 5)
    settings = session_settings(options)
    assert settings == {
        "config_entries": {SPINNING: "0", "a.key.of.my.own": "x"},
        "free_dimensions_by_name": {"batch": 4},
        "free_dimensions_by_denotation": {"DATA_BATCH": 5},
    }
    assert type(settings["free_dimensions_by_name"]["batch"]) is int
    assert session_settings(options_from_settings(settings)) == settings


def test_a_refused_call_is_not_recorded() -> None:
    options = SessionOptions()
    with pytest.raises(RuntimeError):
        options.add_session_config_entry("", "1")
    with pytest.raises(TypeError):
        options.add_free_dimension_override_by_name("n", 1.5)  # type: ignore[arg-type]
    assert session_settings(options) == {}


def test_bytes_count_as_text_where_onnxruntime_takes_them() -> None:
    options = SessionOptions()
    options.add_session_config_entry(b"key", b"value")  # type: ignore[arg-type]
    assert options.get_session_config_entry("key") == "value"
    assert session_settings(options) == {"config_entries": {"key": "value"}}


def test_known_keys_are_read_from_onnxruntimes_own_options() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(SPINNING, "0")
    options.add_session_config_entry("a.key.of.my.own", "x")
    assert session_settings(options) == {"config_entries": {SPINNING: "0"}}


def test_known_keys_are_sorted_and_can_be_set() -> None:
    assert list(KNOWN_CONFIG_KEYS) == sorted(set(KNOWN_CONFIG_KEYS))
    options = onnxruntime.SessionOptions()
    for key in KNOWN_CONFIG_KEYS:
        options.add_session_config_entry(key, "1")
    assert session_settings(options) == {"config_entries": dict.fromkeys(KNOWN_CONFIG_KEYS, "1")}


def test_disabled_optimizers_are_sorted_names() -> None:
    assert session_settings(None, {"b", "a"}) == {"disabled_optimizers": ["a", "b"]}
    assert session_settings(SessionOptions(), ["b", "a", "b"]) == {"disabled_optimizers": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "value"), [("enable_mem_reuse", False), ("execution_order", onnxruntime.ExecutionOrder.PRIORITY_BASED)]
)
def test_what_cannot_be_set_and_changes_no_answer_is_logged(
    name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    options = SessionOptions()
    setattr(options, name, value)
    with caplog.at_level(logging.WARNING, "inferlite"):
        assert session_settings(options) == {name: value}
        assert getattr(options_from_settings({name: value}), name) == value
    assert [record.message for record in caplog.records] == [
        f"`SessionOptions.{name}` is {value}, which the native back end cannot set: ignored"
    ]


def _value() -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.array([10, 20], np.float32))


REFUSED: dict[str, Any] = {
    "add_initializer": lambda options: options.add_initializer("w", _value()),
    "add_external_initializers": lambda options: options.add_external_initializers(["w"], [_value()]),
    "add_external_initializers_from_files_in_memory": lambda options: (
        options.add_external_initializers_from_files_in_memory(["w.bin"], [b"1234"], [4])
    ),
    "add_provider": lambda options: options.add_provider(onnxruntime.get_available_providers()[0], {}),
    "set_load_cancellation_flag": lambda options: options.set_load_cancellation_flag(True),
    "set_provider_selection_policy": lambda options: options.set_provider_selection_policy(
        onnxruntime.OrtExecutionProviderDevicePolicy.PREFER_CPU
    ),
}


@pytest.mark.parametrize("method", REFUSED)
def test_what_only_the_package_can_use_is_refused_by_name(method: str) -> None:
    options = SessionOptions()
    try:
        REFUSED[method](options)
    except Exception as error:  # noqa: BLE001 - a build may lack what the call needs
        pytest.skip(f"this onnxruntime refuses the call: {error}")
    with pytest.raises(BackendUnavailableError) as caught:
        session_settings(options)
    named = "add_provider" if options.has_providers() else method
    reason = CAPABILITIES["session_objects"].reason
    assert str(caught.value) == f"`SessionOptions.{named}` is not available: {reason}"


def test_a_cancellation_that_was_taken_back_is_no_obstacle() -> None:
    options = SessionOptions()
    options.set_load_cancellation_flag(True)
    options.set_load_cancellation_flag(False)
    assert session_settings(options) == {}


def test_an_initializer_lives_as_long_as_the_options() -> None:
    options = SessionOptions()
    value = _value()
    alive = weakref.ref(value)
    options.add_initializer("w", value)
    del value
    gc.collect()
    assert alive() is not None
    del options
    gc.collect()
    assert alive() is None


def test_an_initializer_given_as_a_temporary_is_used() -> None:
    model = make_models.parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 1}> { y = Add(x, w) }")
    options = SessionOptions()
    options.add_initializer("w", _value())
    session = inferlite.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    del options
    gc.collect()
    assert session.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [11.0, 21.0]


def test_a_copy_is_equal_and_stands_on_its_own() -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 3
    options.enable_mem_reuse = False
    options.add_session_config_entry(SPINNING, "0")
    options.add_free_dimension_override_by_name("n", 2)
    copy = options._copy()
    assert session_settings(copy) == session_settings(options)
    assert copy.enable_mem_reuse is False
    copy.intra_op_num_threads = 1
    copy.add_session_config_entry(SPINNING, "1")
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry(SPINNING) == "0"


class _Handle:
    """Stands in for the native half of run options, and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))


def test_run_options_tell_the_native_half_what_is_set() -> None:
    options, handle = RunOptions(), _Handle()
    options._handle = handle  # type: ignore[assignment]
    options.terminate = True
    options.log_severity_level = np.int64(3)
    options.log_verbosity_level = 2
    options.logid = "id"
    options.add_run_config_entry("k", "v")
    options.terminate = False
    assert handle.told == [
        ("set_terminate", True),
        ("set_log_severity_level", 3),
        ("set_log_verbosity_level", 2),
        ("set_logid", "id"),
        ("add_config_entry", "k", "v"),
        ("set_terminate", False),
    ]
    assert options.terminate is False
    assert options.get_run_config_entry("k") == "v"


def test_what_onnxruntime_refuses_does_not_reach_the_native_half() -> None:
    options, handle = RunOptions(), _Handle()
    options._handle = handle  # type: ignore[assignment]
    for name, value in {"terminate": "yes", "log_severity_level": 1.5, "logid": 3}.items():
        with pytest.raises(TypeError):
            setattr(options, name, value)
    with pytest.raises(RuntimeError):
        options.add_run_config_entry("", "v")
    assert handle.told == []


def test_a_run_with_an_adapter_is_left_to_the_package() -> None:
    options, handle = RunOptions(), _Handle()
    options._handle = handle  # type: ignore[assignment]
    options.add_active_adapter(onnxruntime.LoraAdapter())
    assert handle.told == [("set_need_package",)]


def test_onnxruntime_takes_these_options() -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(make_models.build("identity"), options, providers=["CPUExecutionProvider"])
    x = np.ones((1, 3), np.float32)
    run_options = RunOptions()
    assert session.run(None, {"x": x}, run_options)[0].tolist() == x.tolist()
    assert session.get_session_options().intra_op_num_threads == 1
