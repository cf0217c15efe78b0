"""Sessions in other processes and copies: from a path or bytes, with their options, on both back ends."""

from __future__ import annotations

import copy
import io
import os
import pickle
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, NoSuchFile

import child
import inferlite
import oracle
from cases import f32

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
NEGATIVE = make_models.parse("negative (float[n] x) => (float[n] y) { y = Neg(x) }")


def _pickled(session: Any) -> Any:
    return pickle.loads(pickle.dumps(session))  # noqa: S301 - made here


COPIES: list[Callable[[Any], Any]] = [_pickled, copy.deepcopy, copy.copy]


def _options() -> inferlite.SessionOptions:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_free_dimension_override_by_name("n", 3)
    options.logid = "mine"
    return options


@oracle.proves("a session that is pickled or copied")
@pytest.mark.parametrize("again", COPIES, ids=["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize("is_path", [True, False], ids=["path", "bytes"])
def test_a_copy_is_the_same_session(again: Callable[[Any], Any], is_path: bool, tmp_path: Path) -> None:
    path = tmp_path / "double.onnx"
    path.write_bytes(DOUBLE)
    options = _options()
    session = inferlite.InferenceSession(
        path if is_path else DOUBLE,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["ConstantFolding"],
        cache="1MB",
    )
    options.intra_op_num_threads = 7  # which does not reach the session
    other = again(session)
    assert type(other) is type(session)
    assert other is not session
    x = f32(1.0, 2.0, 3.0)
    assert other.run(None, {"x": x})[0].tobytes() == session.run(None, {"x": x})[0].tobytes()
    assert [str(value) for value in other.get_inputs()] == [str(value) for value in session.get_inputs()]
    assert other.get_providers() == session.get_providers()
    assert other.get_provider_options() == session.get_provider_options()
    if inferlite.backend == "native":
        given = other.get_session_options()
        assert given.intra_op_num_threads == 1
        assert given.logid == "mine"
        assert given.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    # The cache is its own, and empty.
    assert other.cache is not None
    other.run(None, {"x": x})
    assert other.cache.stats().hits == 1


class Tagged(inferlite.InferenceSession if TYPE_CHECKING else object):
    """A subclass with arguments of its own, made anew for each back end below."""


def _subclass() -> type[Any]:
    class Tagged(inferlite.InferenceSession):  # type: ignore[misc, valid-type]
        def __init__(self, tag: str, *, model: Any) -> None:
            self.before = [tag]
            super().__init__(model)
            self.tag = tag

    Tagged.__qualname__ = "Tagged"
    globals()["Tagged"] = Tagged
    return Tagged


@pytest.mark.parametrize("again", COPIES[:2], ids=["pickle", "deepcopy"])
def test_a_subclass_keeps_its_class_and_its_attributes(again: Callable[[Any], Any]) -> None:
    session = _subclass()("a", model=DOUBLE)
    session.shape = {"n": [1, 2]}
    session.get_modelmeta(), session.get_inputs()
    other = again(session)
    assert type(other) is type(session)
    assert (other.tag, other.before, other.shape) == ("a", ["a"], {"n": [1, 2]})
    assert other.shape is not session.shape
    assert other.run(None, {"x": f32(2.0)})[0].tolist() == [4.0]
    # A copy of a copy.
    assert again(other).tag == "a"


def test_a_relative_path_leads_to_the_same_file_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "double.onnx").write_bytes(DOUBLE)
    monkeypatch.chdir(tmp_path)
    session = inferlite.InferenceSession("double.onnx")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert _pickled(session).run(None, {"x": f32(2.0)})[0].tolist() == [4.0]


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(DOUBLE)
    session = inferlite.InferenceSession(path)
    data = pickle.dumps(session)
    # The same content in another file is as good.
    path.unlink()
    path.write_bytes(DOUBLE)
    assert pickle.loads(data).run(None, {"x": f32(2.0)})[0].tolist() == [4.0]  # noqa: S301 - made here
    path.write_bytes(NEGATIVE)
    with pytest.raises(Fail, match="held another model than it does here: make a new session"):
        pickle.loads(data)  # noqa: S301
    with pytest.raises(Fail, match="has changed since it was made: make a new session"):
        pickle.dumps(session)
    path.unlink()
    with pytest.raises(Fail, match="has changed since it was made: make a new session"):
        copy.deepcopy(session)
    with pytest.raises(NoSuchFile):
        pickle.loads(data)  # noqa: S301


def test_weights_beside_a_file_are_part_of_it(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.arange(400, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "beside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [400])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [400])],
        [weights],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    session = inferlite.InferenceSession(path)
    data = pickle.dumps(session)
    x = np.zeros(400, np.float32)
    assert pickle.loads(data).run(None, {"x": x})[0][7] == 7  # noqa: S301 - made here
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(Fail, match="held another model"):
        pickle.loads(data)  # noqa: S301


def test_a_session_that_gave_its_model_up_says_which_option_did_it() -> None:
    session = inferlite.InferenceSession(DOUBLE, release_model=True)
    assert session.run(None, {"x": f32(2.0)})[0].tolist() == [4.0]
    for again in COPIES:
        with pytest.raises(Fail, match="release_model=True"):
            again(session)
    with pytest.raises(Fail, match="release_model=True"):
        session.set_providers(["CPUExecutionProvider"])
    with pytest.raises(Fail, match="release_model=True"):
        # Adapters are the onnxruntime package's, which would have to load the model.
        _ = session._sess if inferlite.backend == "native" else session.set_providers([])
    assert session.run(None, {"x": f32(3.0)})[0].tolist() == [6.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_session_that_gave_its_model_up_is_told(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, numpy, inferlite, make_models
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail
        model = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
        session = inferlite.InferenceSession(model, release_model=True)
        x = numpy.ones(3, numpy.float32)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            status = 1
            try:
                session.run(None, {"x": x})
            except Fail as error:
                status = 0 if "release_model=True" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert session.run(None, {"x": x})[0].tolist() == [2.0] * 3
    """
    child.run(code, child_environment)


@oracle.proves("`release_model=True` of a session made from bytes")
def test_released_bytes_are_gone(backend: str) -> None:
    content = bytes(bytearray(DOUBLE))
    import sys  # noqa: PLC0415 - counts references, which only this test does

    before = sys.getrefcount(content)
    kept = inferlite.InferenceSession(content)
    assert sys.getrefcount(content) > before
    del kept
    session = inferlite.InferenceSession(content, release_model=True)
    assert sys.getrefcount(content) == before, backend
    assert session.run(None, {"x": f32(1.0)})[0].tolist() == [2.0]


@oracle.proves("a model as `bytearray`, `memoryview` or binary file")
def test_buffers_and_binary_files_are_models_too(tmp_path: Path) -> None:
    path = tmp_path / "double.onnx"
    path.write_bytes(DOUBLE)
    buffer = bytearray(DOUBLE)
    with path.open("rb") as file:
        sessions = [
            inferlite.InferenceSession(model) for model in (buffer, memoryview(buffer), io.BytesIO(DOUBLE), file)
        ]
    buffer[:] = bytes(len(buffer))
    for session in (*sessions, *map(_pickled, sessions)):
        assert session.run(None, {"x": f32(2.0)})[0].tolist() == [4.0]
    with path.open(encoding="latin-1") as file, pytest.raises(TypeError, match="opened in binary mode"):
        inferlite.InferenceSession(file)


def test_options_of_onnxruntimes_own_class_are_not_guessed() -> None:
    session = inferlite.InferenceSession(DOUBLE, onnxruntime.SessionOptions())
    with pytest.raises((pickle.PicklingError, TypeError), match=r"[oO]ptions"):
        pickle.dumps(session)


@oracle.proves("options that are pickled or copied")
def test_options_themselves_are_copied() -> None:
    for again in COPIES:
        options = again(_options())
        assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert inferlite.InferenceSession(DOUBLE, options).get_inputs()[0].shape == [3]


WORK = """
import multiprocessing, sys
import numpy, inferlite, make_models

def work(session, x):
    return session.run(None, {{"x": x}})[0]

if __name__ == "__main__":
    import faulthandler, warnings
    faulthandler.dump_traceback_later(100, exit=True)
    warnings.simplefilter("ignore", DeprecationWarning)
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 2
    model = make_models.parse("double (float[n] x) => (float[n] y) {{ y = Add(x, x) }}")
    session = inferlite.InferenceSession(model, options)
    x = numpy.ones(3, numpy.float32)
    session.run(None, {{"x": x}})
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        given = pool.starmap(work, [(session, x * number) for number in range(6)])
    assert [y.tolist() for y in given] == [[2.0 * number] * 3 for number in range(6)]
    assert session.run(None, {{"x": x}})[0].tolist() == [2.0] * 3
    print("done")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_takes_sessions(method: str, tmp_path: Path, child_environment: dict[str, str]) -> None:
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    import subprocess  # noqa: PLC0415 - a script with a name, which spawned processes import
    import sys  # noqa: PLC0415

    script = tmp_path / "script.py"
    script.write_text(WORK.format(method=method))
    done = subprocess.run(
        [sys.executable, str(script)], env=child_environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "done\n"
