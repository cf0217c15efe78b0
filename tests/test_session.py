"""InferenceSession around `run`: construction, what it tells about the model, and its life as a class."""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import onnxruntime
import pytest

import inferlite
import oracle
from cases import ones

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.build("double")
CPU = ["CPUExecutionProvider"]


def _graph(text: str, ir_version: int = 10, opsets: str = '"": 21') -> bytes:
    return onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{opsets}]>\n{text}").SerializeToString()


SOURCES: dict[str, Callable[[Path], Any]] = {
    "path as text": lambda _: make_models.path("double"),
    "path object": lambda _: Path(make_models.path("double")),
    "bytes": lambda _: DOUBLE,
    "path that is not ASCII": lambda folder: _written(folder / "модель é.onnx", DOUBLE),
    "path that is not UTF-8": lambda folder: _written(os.fsdecode(os.fsencode(folder) + b"/\xff.onnx"), DOUBLE),
    "missing file": lambda folder: str(folder / "missing.onnx"),
    "missing path object": lambda folder: folder / "missing.onnx",
    "missing ort file": lambda folder: str(folder / "missing.ort"),
    "missing folder": lambda folder: str(folder / "none" / "missing.onnx"),
    "folder": lambda folder: folder,
    "empty file": lambda folder: _written(folder / "empty.onnx", b""),
    "garbage file": lambda folder: _written(folder / "garbage.onnx", b"\x99 no model" * 9),
    "truncated file": lambda folder: _written(folder / "truncated.onnx", DOUBLE[:-5]),
    "bad ort file": lambda folder: _written(folder / "bad.ort", b"nope" * 20),
    "empty ort file": lambda folder: _written(folder / "empty.ort", b""),
    "path with NUL": lambda folder: f"{folder}/a\0b.onnx",
    "lone surrogate": lambda _: "\ud800.onnx",
    "empty path": lambda _: "",
    "empty bytes": lambda _: b"",
    "garbage bytes": lambda _: b"\x99 no model" * 9,
    "truncated bytes": lambda _: DOUBLE[:-5],
    "a path as bytes": lambda _: os.fsencode(make_models.path("double")),
    "None": lambda _: None,
    "number": lambda _: 5,
    "model of onnx": lambda _: onnx.load_from_string(DOUBLE),
    "array": lambda _: np.frombuffer(DOUBLE, np.uint8),
    "missing external data": lambda _: make_models.path("external"),
    "missing external data, bytes": lambda _: make_models.build("external"),
    "unknown operator": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Nope(x) }"),
    "unknown domain": lambda _: _graph("g (float[n] x) => (float[n] y) { y = z.Nope(x) }", opsets='"": 21, "z": 1'),
    "opset too new": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Neg(x) }", opsets='"": 999'),
    "no opset": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Neg(x) }", opsets=""),
    "IR too new": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Neg(x) }", ir_version=999),
    "type clash": lambda _: _graph("g (float[n] x) => (int64[n] y) { y = Neg(x) }"),
    "dangling input": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Neg(q) }"),
    "no kernel": lambda _: _graph("g (int4[n] x) => (int4[n] y) { y = Identity(x) }"),
    "output of nobody": lambda _: _graph("g (float[n] x) => (float[n] z) { y = Neg(x) }"),
    "cycle": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Add(x, z) z = Neg(y) }"),
    "name twice": lambda _: _graph("g (float[n] x) => (float[n] y) { y = Neg(x) y = Neg(x) }"),
    "negative dim": lambda _: _graph("g (float[-1] x) => (float[n] y) { y = Neg(x) }"),
    "wrong initializer": lambda _: _lying_initializer(),
}


def _written(path: str | Path, content: bytes) -> str:
    Path(path).write_bytes(content)
    return str(path)


def _lying_initializer() -> bytes:
    model = onnx.load_from_string(make_models.dense(4, 2))
    model.graph.initializer[0].dims[:] = [2**31, 2**31]
    return model.SerializeToString()


def _summary(session: Any) -> list[Any]:
    return [str(value) for value in (*session.get_inputs(), *session.get_outputs())] + [session.get_providers()]


@pytest.mark.parametrize("source", SOURCES)
def test_construction_ends_as_onnxruntime(source: str, tmp_path: Path) -> None:
    model = SOURCES[source](tmp_path)
    oracle.compare_calls(
        lambda: _summary(inferlite.InferenceSession(model, providers=CPU)),
        lambda: _summary(onnxruntime.InferenceSession(model, providers=CPU)),
    )


ARGUMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "CPU": {"providers": CPU},
    "CPU as tuple": {"providers": ("CPUExecutionProvider",)},
    "no providers": {"providers": []},
    "no providers, tuple": {"providers": ()},
    "CPU with options": {"providers": [("CPUExecutionProvider", {"a": 1})]},
    "options apart": {"providers": CPU, "provider_options": [{"a": "b"}]},
    "options without providers": {"provider_options": [{}]},
    "too many options": {"providers": CPU, "provider_options": [{}, {}]},
    "options of a wrong type": {"providers": CPU, "provider_options": [5]},
    "options as map": {"providers": CPU, "provider_options": {}},
    "options given twice": {"providers": [("CPUExecutionProvider", {})], "provider_options": [{}]},
    "one provider twice": {"providers": CPU * 2},
    "CUDA and CPU": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
    "Azure and CPU": {"providers": ["AzureExecutionProvider", "CPUExecutionProvider"]},
    "unknown provider": {"providers": ["zzz"]},
    "unknown provider without fallback": {"providers": ["zzz"], "enable_fallback": 0},
    "provider as text": {"providers": "CPUExecutionProvider"},
    "number in providers": {"providers": [5]},
    "tuple of one": {"providers": [("CPUExecutionProvider",)]},
    "set": {"providers": {"CPUExecutionProvider"}},
    "set without fallback": {"providers": {"CPUExecutionProvider"}, "enable_fallback": False},
    "number": {"providers": 5},
    "odd fallback": {"enable_fallback": "x"},
    "unknown keyword": {"nonsense": 1},
    "config in the model": {"read_config_from_model": 1},
    "session options of a wrong type": {"sess_options": 5},
    "false session options": {"sess_options": {}},
    "run options as session options": {"sess_options": onnxruntime.RunOptions()},
    "disabled optimizers": {"disabled_optimizers": ["ConstantFolding", "NoSuchOptimizer"]},
    "disabled optimizers as set": {"disabled_optimizers": {"ConstantFolding"}},
    "disabled optimizers as number": {"disabled_optimizers": 5},
}


def _constructed(session_class: Any, arguments: dict[str, Any]) -> tuple[oracle.Outcome, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ended = oracle.outcome(lambda: session_class(DOUBLE, **arguments))
    if ended.error is None:
        session = ended.value
        # The order of the providers is in the list; onnxruntime's dict comes from a hash table.
        ended = oracle.Outcome(value=[session.get_providers(), sorted(session.get_provider_options().items())])
    return ended, [f"{warning.category.__name__}: {warning.message}" for warning in caught]


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_end_as_onnxruntime(arguments: dict[str, Any]) -> None:
    wanted, wanted_warnings = _constructed(onnxruntime.InferenceSession, arguments)
    given, given_warnings = _constructed(inferlite.InferenceSession, arguments)
    oracle.assert_same_outcome(given, wanted)
    assert given_warnings == wanted_warnings


@oracle.proves("a provider that cannot be used, and the CPU tried instead")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_fallback_to_the_cpu_is_logged_and_not_printed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session = inferlite.InferenceSession(DOUBLE, providers=["zzz"])
    assert session.get_providers() == CPU
    assert capfd.readouterr().out == ""
    (record,) = [record for record in caplog.records if record.name == "inferlite"]
    assert record.levelname == "WARNING"
    assert "Unknown Provider Type: zzz" in record.getMessage()


@oracle.proves("both TensorRT providers in one session")
def test_two_providers_that_exclude_each_other_end_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    both = ["TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"]
    session = inferlite.InferenceSession(DOUBLE, providers=both)
    assert session.get_providers() == CPU
    assert "Cannot enable both" in caplog.text
    with pytest.raises(ValueError, match="Cannot enable both"):
        inferlite.InferenceSession(DOUBLE, providers=both, enable_fallback=0)


def test_a_model_that_fails_on_the_cpu_too_raises_its_own_error() -> None:
    arguments = {"providers": [5]}
    oracle.compare_calls(
        lambda: inferlite.InferenceSession(b"garbage", **arguments),
        lambda: onnxruntime.InferenceSession(b"garbage", **arguments),
    )


@oracle.proves("a message of the runtime with bytes that are not UTF-8")
def test_a_message_that_is_not_utf8_is_no_other_failure(backend: str) -> None:
    readable = _graph("g (float[n] x) => (float[n] y) { y = Nope(x) }")
    unreadable = readable.replace(b"Nope", b"No\xffe")
    given = oracle.outcome(lambda: inferlite.InferenceSession(unreadable, providers=CPU, enable_fallback=0))
    if backend == "python":
        assert type(given.error) is UnicodeDecodeError
        return
    wanted = oracle.outcome(lambda: onnxruntime.InferenceSession(readable, providers=CPU))
    assert type(given.error) is type(wanted.error)
    assert str(given.error) == str(wanted.error).replace("Nope", "No\N{REPLACEMENT CHARACTER}e")


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    model = onnx.load_from_string(make_models.dense(4, 3))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    ours, theirs = (library.InferenceSession(path, providers=CPU) for library in (inferlite, onnxruntime))
    oracle.compare(ours, theirs, {"x": ones(2, 4)})


def test_the_caller_may_drop_and_delete_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(DOUBLE)
    session = inferlite.InferenceSession(str(path))
    path.unlink()
    assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]
    content = bytes(bytearray(DOUBLE))
    session = inferlite.InferenceSession(content)
    del content
    gc.collect()
    assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]


def test_a_model_in_the_runtimes_own_format(tmp_path: Path) -> None:
    path = tmp_path / "model.ort"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(make_models.path("mlp"), options, providers=CPU)
    for source in (path, path.read_bytes()):
        ours, theirs = (library.InferenceSession(source, providers=CPU) for library in (inferlite, onnxruntime))
        oracle.compare(ours, theirs, {"x": ones(2, 16)})


def _described(values: list[Any]) -> list[tuple[str, str, list[Any], str]]:
    return [(value.name, value.type, value.shape, str(value)) for value in values]


@pytest.mark.parametrize("name", [name for name in make_models.FILES if name != "external"])
def test_inputs_and_outputs_are_described_as_onnxruntime_does(name: str) -> None:
    ours, theirs = oracle.pair(name)
    assert _described(ours.get_inputs()) == _described(theirs.get_inputs())
    assert _described(ours.get_outputs()) == _described(theirs.get_outputs())
    assert _described(ours.get_overridable_initializers()) == _described(theirs.get_overridable_initializers())
    for method in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        assert type(getattr(ours, method)()) is type(getattr(theirs, method)())


@pytest.mark.parametrize("kind", [*make_models.TENSOR_TYPES, "bfloat16", "float8e4m3fn", "float8e5m2fnuz"])
def test_types_are_named_as_onnxruntime_does(kind: str) -> None:
    ours, theirs = oracle.pair(make_models.identity(kind, "[2,n,?]"))
    assert _described(ours.get_inputs()) == _described(theirs.get_inputs())


def test_descriptions_are_made_once_and_cannot_be_changed() -> None:
    session = inferlite.InferenceSession(DOUBLE)
    (value,) = session.get_inputs()
    assert session.get_inputs()[0] is value
    for attribute in ("name", "type", "shape", "nonsense"):
        with pytest.raises(AttributeError):
            setattr(value, attribute, "x")
    value.shape.append("spoiled")
    assert session.get_inputs()[0].shape == ["batch", 4]


META = (
    "custom_metadata_map",
    "description",
    "domain",
    "graph_description",
    "graph_name",
    "producer_name",
    "version",
)


@pytest.mark.parametrize("name", ["metadata", "double", "mlp"])
def test_model_metadata_equals_onnxruntimes(name: str) -> None:
    ours, theirs = (session.get_modelmeta() for session in oracle.pair(name))
    assert {field: getattr(ours, field) for field in META} == {field: getattr(theirs, field) for field in META}


def test_model_metadata_can_be_written_and_has_no_other_attributes() -> None:
    meta = inferlite.InferenceSession(DOUBLE).get_modelmeta()
    meta.version, meta.producer_name, meta.custom_metadata_map = 5, "somebody", {"a": "b"}
    assert (meta.version, meta.producer_name, meta.custom_metadata_map) == (5, "somebody", {"a": "b"})
    with pytest.raises(AttributeError):
        meta.nonsense = 1
    with pytest.raises(TypeError):
        meta.version = "x"


def test_a_subclass_overrides_run_and_keeps_its_attributes() -> None:
    class Counted(inferlite.InferenceSession):
        def __init__(self, path: str, step: int, **settings: Any) -> None:
            super().__init__(path, **settings)
            self.calls, self.step = 0, step

        def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> list[Any]:
            self.calls += self.step
            return super().run(output_names, input_feed, run_options)

    session = Counted(make_models.path("double"), 2, providers=CPU)
    assert session.run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]
    assert session.calls == 2
    assert isinstance(session, inferlite.InferenceSession)
    assert weakref.ref(session)() is session


def test_a_subclass_that_forgets_the_base_fails_cleanly() -> None:
    class Forgetful(inferlite.InferenceSession):
        def __init__(self) -> None:
            pass

    session = Forgetful()
    for call in (lambda: session.run(None, {"x": 1}), session.get_inputs, session.end_profiling):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any exception will do, a crash will not
            call()


def test_a_session_in_a_reference_cycle_is_collected() -> None:
    session = inferlite.InferenceSession(DOUBLE)
    session.itself = session
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_the_fallback_switches_are_there() -> None:
    session = inferlite.InferenceSession(DOUBLE)
    assert session.disable_fallback() is None
    assert session.enable_fallback() is None


@pytest.mark.parametrize("hold_gil", [True, False])
def test_holding_the_gil_changes_no_answer(hold_gil: bool) -> None:
    session = inferlite.InferenceSession(make_models.path("mlp"), hold_gil=hold_gil)
    _, theirs = oracle.pair("mlp")
    oracle.compare(session, theirs, {"x": ones(3, 16)})


def test_a_session_without_init_says_so(backend: str) -> None:
    if backend == "python":
        pytest.skip("there it is onnxruntime's own session")
    session = inferlite.InferenceSession.__new__(inferlite.InferenceSession)
    for ask in (
        session.get_inputs,
        session.get_providers,
        session.get_provider_options,
        session.get_session_options,
        session.get_modelmeta,
        lambda: session.run(None, {}),
        lambda: session.bind({}),
    ):
        with pytest.raises(RuntimeError, match="the session has no model: `__init__` has not run"):
            ask()


def test_only_public_names_are_listed() -> None:
    listed = [name for name in dir(inferlite) if not name.startswith("__")]
    names = {*inferlite.__all__, *inferlite._DELEGATED}
    assert listed == sorted(name for name in names if not name.startswith("__"))


@oracle.proves("`__init__` called again on a session")
def test_a_session_keeps_its_model_or_takes_the_new_one_but_never_mixes_them(backend: str) -> None:
    first, second = (make_models.parse(f"g (float[n] x) => (float[n] y) {{ y = {op}(x, x) }}") for op in ("Add", "Mul"))
    session = inferlite.InferenceSession(first)
    given = oracle.outcome(lambda: session.__init__(second))  # type: ignore[misc]
    (y,) = session.run(None, {"x": np.float32([3.0])})
    if backend == "native":
        assert isinstance(given.error, RuntimeError)
        assert "make a new one instead of calling `__init__` again" in str(given.error)
        assert y.tolist() == [6.0]
    else:
        assert given.error is None
        assert y.tolist() == [9.0]
