"""Which back end runs, and what `import inferlite` brings along."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest

import inferlite
from inferlite import _backend
from inferlite._library import LIBRARY_VARIABLE
from inferlite.capabilities import CAPABILITIES
from inferlite.exceptions import BackendUnavailableError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = "the native part of inferlite cannot be imported: "
BROKEN = "`libonnxruntime.so` cannot be loaded"


@pytest.fixture(autouse=True)
def _fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in (_backend.BACKEND_VARIABLE, LIBRARY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    _backend.select(None)
    yield
    _backend.select(None)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the native part that loads whatever it is told to."""
    core, session = ModuleType("inferlite._core"), ModuleType("inferlite.session")
    core.Model, session.InferenceSession = type("Model", (), {}), type("InferenceSession", (), {})  # type: ignore[attr-defined]
    core.load_runtime = lambda path: None  # type: ignore[attr-defined]  # noqa: ARG005
    core._shut_gate = lambda: None  # type: ignore[attr-defined]
    for name, module in (("_core", core), ("session", session)):
        monkeypatch.setitem(sys.modules, f"inferlite.{name}", module)
        monkeypatch.setattr(inferlite, name, module, raising=False)
    return core


@pytest.fixture
def _without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inferlite._core", None)
    monkeypatch.delattr(inferlite, "_core", raising=False)


def _refuse(_path: str) -> None:
    raise BackendUnavailableError(BROKEN)


def test_the_native_back_end_comes_first(native: ModuleType) -> None:
    assert inferlite.backend == "native"
    assert _backend.reason() is None
    assert inferlite.Model is native.Model
    assert inferlite.InferenceSession.__name__ == "InferenceSession"


@pytest.mark.usefixtures("_without_native")
def test_without_the_native_part_one_warning_says_why() -> None:
    with pytest.warns(RuntimeWarning) as caught:
        assert inferlite.backend == "python"
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith(f"inferlite runs on its Python back end, which is slower: {MISSING}")
    assert caught[0].filename == __file__
    assert _backend.reason() == text.split(": ", maxsplit=1)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferlite.InferenceSession(make_models.build("identity"))


def test_a_library_that_does_not_load_leads_to_the_python_back_end(native: ModuleType) -> None:
    native.load_runtime = _refuse
    with pytest.warns(RuntimeWarning, match=f"^inferlite runs on its Python back end, which is slower: {BROKEN}$"):
        inferlite.InferenceSession(make_models.build("identity"))
    assert (inferlite.backend, _backend.reason()) == ("python", BROKEN)


@pytest.mark.parametrize(("variable", "value"), [(_backend.BACKEND_VARIABLE, "native"), (LIBRARY_VARIABLE, "/x.so")])
def test_what_was_asked_for_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, native: ModuleType, variable: str, value: str
) -> None:
    native.load_runtime = _refuse
    monkeypatch.setenv(variable, value)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match=f"^{BROKEN}$"):
            _ = inferlite.backend


@pytest.mark.usefixtures("_without_native")
def test_a_named_library_needs_the_native_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, "/x.so")
    with pytest.raises(BackendUnavailableError, match=f"^{MISSING}"):
        _ = inferlite.backend


def test_the_named_library_is_the_one_that_is_loaded(monkeypatch: pytest.MonkeyPatch, native: ModuleType) -> None:
    paths: list[str] = []
    native.load_runtime = paths.append
    monkeypatch.setenv(LIBRARY_VARIABLE, "/x/libonnxruntime.so")
    assert inferlite.backend == "native"
    assert paths == ["/x/libonnxruntime.so"]


def test_the_environment_chooses_the_python_back_end_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, native: ModuleType
) -> None:
    native.load_runtime = _refuse
    monkeypatch.setenv(_backend.BACKEND_VARIABLE, "python")
    assert inferlite.backend == "python"
    assert _backend.reason() == "INFERLITE_BACKEND=python is set"


def test_the_environment_must_name_a_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_backend.BACKEND_VARIABLE, "rust")
    with pytest.raises(ValueError, match=r"^INFERLITE_BACKEND must be `native` or `python`, not `rust`$"):
        _ = inferlite.backend


def test_an_unknown_back_end_cannot_be_selected() -> None:
    with pytest.raises(ValueError, match=r"^the back end must be `native` or `python`, not `rust`$"):
        _backend.select("rust")


def test_selecting_changes_the_public_classes_and_no_object(native: ModuleType) -> None:
    _backend.select("python")
    model = inferlite.load(make_models.build("double"))
    assert type(model) is inferlite.Model
    assert _backend.reason() == "the Python back end was selected"
    _backend.select("native")
    assert inferlite.Model is native.Model
    assert inferlite.backend == "native"
    assert model(np.ones((1, 4), np.float32)).tolist() == [[2.0] * 4]


def test_a_selection_that_fails_changes_nothing(native: ModuleType) -> None:
    _backend.select("python")
    native.load_runtime = _refuse
    with pytest.raises(BackendUnavailableError):
        _backend.select("native")
    assert inferlite.backend == "python"


def test_importing_inferlite_imports_nothing_heavy() -> None:
    code = (
        "import sys, inferlite; inferlite.InvalidInputError, inferlite.Signature; "
        "print(sorted({'onnxruntime', 'numpy', 'typer', 'rich', 'inferlite._core'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize("name", inferlite.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    _backend.select("python")
    assert getattr(inferlite, name) is not None
    assert name in dir(inferlite)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module `inferlite` has no attribute `nonsense`$"):
        _ = inferlite.nonsense


def test_the_version_is_text() -> None:
    assert isinstance(inferlite.__version__, str)


# --- the table of capabilities


def _opened(**arguments: Any) -> Any:
    return inferlite.InferenceSession(make_models.build("identity"), providers=["CPUExecutionProvider"], **arguments)


def _try_session() -> None:
    assert _opened().run(None, {"x": np.ones((1, 3), np.float32)})[0].shape == (1, 3)


def _try_model() -> None:
    assert inferlite.load(make_models.build("identity"))(np.ones((1, 3), np.float32)).shape == (1, 3)


def _try_bind() -> None:
    assert _opened().bind({"x": np.ones((1, 3), np.float32)})()[0].shape == (1, 3)


def _try_native_engine() -> None:
    inferlite.load(make_models.build("identity"), engine="native")


def _try_session_objects() -> None:
    options = inferlite.SessionOptions()
    options.set_load_cancellation_flag(True)
    try:
        inferlite.load(make_models.build("identity"), session_options=options)
    except ModelLoadError as error:
        assert "cancel" in str(error).lower()  # noqa: PT017 - as was asked


def _opened_on_two_providers() -> Any:
    names = onnxruntime.get_available_providers()
    if len(names) == 1:
        pytest.skip("this onnxruntime has no provider but the CPU's")
    return inferlite.InferenceSession(make_models.build("identity"), providers=names)


def _try_tuning() -> None:
    session = _opened_on_two_providers()
    session.set_tuning_results(session.get_tuning_results())


def _try_captured_graphs() -> None:
    if not hasattr(onnxruntime.InferenceSession, "release_captured_graph") and inferlite.backend == "python":
        pytest.skip("this onnxruntime has no such method")
    _opened_on_two_providers().release_captured_graph()


def _try_types_beyond_numpy() -> None:
    model = inferlite.load(make_models.identity("bfloat16", "[n]"))
    assert model([1.0]).tolist() == [1.0]


def _try_cache() -> None:
    model = inferlite.load(make_models.path("double"), cache="1MB")
    for _ in range(2):
        assert model(np.ones((1, 4), np.float32)).tolist() == [[2.0] * 4]
    assert model.stats().cache.hits == 1


def _try_cache_beyond_process() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answers")
        model = inferlite.load(make_models.path("double"), cache=inferlite.Cache(warm_from=path))
        model(np.ones((1, 4), np.float32))
        assert model.cache.save(path) == 1


def _try_row_cache() -> None:
    model = inferlite.load(make_models.path("double"), cache=inferlite.Cache(by="row"))
    assert model(np.ones((2, 4), np.float32)).tolist() == [[2.0] * 4] * 2
    assert model.stats().cache.misses == 1


def _try_batching() -> None:
    model = inferlite.load(make_models.path("double"), batching=True, rows_independent=True)
    assert model(np.ones((2, 4), np.float32)).tolist() == [[2.0] * 4] * 2
    assert model.stats().batching.lone == 1


def _try_row_independence() -> None:
    inferlite.load(make_models.path("double"), batching=True)


def _try_padding() -> None:
    pad = inferlite.Pad({"x": 1}, sizes=(4, 8), outputs={"y": 1})
    inferlite.load(
        make_models.parse("g (float[n,t] x) => (float[n,t] y) { y = Neg(x) }"),
        batching=inferlite.Batching(pad=pad),
        rows_independent=True,
    )


def _try_batch_tuning() -> None:
    batching = inferlite.Batching(target_latency=0.1)
    inferlite.load(make_models.path("double"), batching=batching, rows_independent=True)


def _try_server() -> None:
    with tempfile.TemporaryDirectory() as folder, inferlite.Server(folder) as server:
        assert server.index() == []


def _try_strings_in_values() -> None:
    value = inferlite.OrtValue.ortvalue_from_numpy(np.array(["a"]))
    assert value.numpy().tolist() == ["a"]


TRIALS = {
    "session": _try_session,
    "model": _try_model,
    "bind": _try_bind,
    "cache": _try_cache,
    "cache_beyond_process": _try_cache_beyond_process,
    "row_cache": _try_row_cache,
    "batching": _try_batching,
    "row_independence": _try_row_independence,
    "batch_tuning": _try_batch_tuning,
    "padding": _try_padding,
    "server": _try_server,
    "native_engine": _try_native_engine,
    "session_objects": _try_session_objects,
    "tuning": _try_tuning,
    "captured_graphs": _try_captured_graphs,
    "strings_in_values": _try_strings_in_values,
    "types_beyond_numpy": _try_types_beyond_numpy,
}

# What no call can show to be missing: it is accepted and makes no difference, is a matter of time, or no model of the
# tests can have it; or test_runtime tries it in a process of its own.
UNTRIED = {
    "complex_tensors",
    "gil_free_creation",
    "global_thread_pool",
    "hold_gil",
    "logging",
    "optimized_cache",
}


def test_every_capability_is_tried() -> None:
    assert set(CAPABILITIES) == set(TRIALS) | UNTRIED


@pytest.mark.parametrize("name", TRIALS)
def test_the_table_of_capabilities_is_true(name: str, backend: str) -> None:
    if getattr(CAPABILITIES[name], backend):
        TRIALS[name]()
        return
    with pytest.raises(BackendUnavailableError) as caught:
        TRIALS[name]()
    assert CAPABILITIES[name].reason in str(caught.value)
