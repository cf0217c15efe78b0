"""Optimized graphs on disk: the same sessions as without, whatever lies in the folder."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import child
import inferlite
import onnx_suite
import oracle
from cases import f32
from inferlite import _backend

if TYPE_CHECKING:
    from collections.abc import Iterator


# It holds what an optimizer changes for the machine: a convolution whose layout is that of the processor.
def _convolution(channels: int = 32) -> bytes:
    random = np.random.default_rng(0)
    kernel = random.standard_normal((channels, 3, 3, 3), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    helper.set_model_props(model, {"author": "me"})
    return model.SerializeToString()


MODEL = _convolution()
X = np.random.default_rng(1).standard_normal((2, 3, 8, 8), dtype=np.float32)
META = ("graph_name", "description", "domain", "producer_name", "version", "custom_metadata_map", "graph_description")


@pytest.fixture(autouse=True)
def native() -> Iterator[None]:
    """The native back end: the other one ignores the folder, which one test below holds it to."""
    _backend.select("native")
    yield
    _backend.select(None)


@pytest.fixture
def environment() -> dict[str, str]:
    """That of a process which uses the native back end and can import this module."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INFERLITE_")}
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests / "models")])
    return {**kept, "INFERLITE_BACKEND": "native", "PYTHONPATH": path}


def _described(session: Any) -> list[Any]:
    arguments = (*session.get_inputs(), *session.get_outputs(), *session.get_overridable_initializers())
    meta = session.get_modelmeta()
    return [str(argument) for argument in arguments] + [getattr(meta, name) for name in META]


def _same(session: Any, model: Any = MODEL, **settings: Any) -> None:
    plain = inferlite.InferenceSession(model, **settings)
    assert _described(session) == _described(plain)
    assert session.run(None, {"x": X})[0].tobytes() == plain.run(None, {"x": X})[0].tobytes()


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@oracle.proves("`optimized_cache=` of a session")
@pytest.mark.parametrize("is_path", [True, False], ids=["path", "bytes"])
def test_the_second_session_is_made_of_what_the_first_has_kept(
    is_path: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    model, folder = path if is_path else MODEL, tmp_path / "not" / "there"
    with caplog.at_level(logging.DEBUG, "inferlite"):
        _same(inferlite.InferenceSession(model, optimized_cache=folder), model)
        (entry,) = _entries(folder)
        kept = entry.stat()
        assert b"ORTM" in entry.read_bytes()[:16]
        for _ in range(3):
            _same(inferlite.InferenceSession(model, optimized_cache=str(folder)), model)
        loaded = inferlite.load(model, optimized_cache=folder)
        assert loaded(X).tobytes() == inferlite.load(model)(X).tobytes()
    assert _entries(folder) == [entry]
    assert entry.stat().st_mtime_ns == kept.st_mtime_ns
    assert not [record for record in caplog.records if "hardware" in record.getMessage()]
    assert capfd.readouterr() == ("", "")


def test_what_decides_about_the_graph_has_an_entry_of_its_own(tmp_path: Path) -> None:
    def make(model: bytes = MODEL, **attributes: Any) -> int:
        options = inferlite.SessionOptions()
        for name, value in attributes.items():
            setattr(options, name, value)
        _same(inferlite.InferenceSession(model, options, optimized_cache=tmp_path), model, sess_options=options)
        return len(_entries(tmp_path))

    assert make() == 1
    # Neither threads nor names.
    assert make(intra_op_num_threads=1, logid="a") == 1
    assert make(graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC) == 2
    assert make(use_deterministic_compute=True) == 3
    assert make(_convolution(16)) == 4
    # There is nothing to gain, or the user wants the file.
    assert make(graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL) == 4
    options = inferlite.SessionOptions()
    options.optimized_model_filepath = str(tmp_path.parent / "mine.onnx")
    inferlite.InferenceSession(MODEL, options, optimized_cache=tmp_path)
    assert (tmp_path.parent / "mine.onnx").stat().st_size > 0
    assert len(_entries(tmp_path)) == 4


def test_other_weights_beside_the_file_make_another_entry(tmp_path: Path) -> None:
    model, folder = onnx.load_from_string(MODEL), tmp_path / "cache"
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    for scale in (1, 2):
        weights = np.frombuffer((tmp_path / "weights.bin").read_bytes(), np.float32) * np.float32(scale)
        (tmp_path / "weights.bin").write_bytes(weights.tobytes())
        for _ in range(2):
            _same(inferlite.InferenceSession(path, optimized_cache=folder), path)
    assert len(_entries(folder)) == 2


def _damaged(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    sealed = bytearray(content)
    sealed[-1] ^= 1
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one bit off": bytes(flipped),
        "seal broken": bytes(sealed),
        "garbage": b"\x99 no model" * 50,
        "a model of another kind": MODEL,
        "longer": content + b"x",
    }


def _repaired(entry: Path, damaged: bytes, name: str) -> None:
    _same(inferlite.InferenceSession(MODEL, optimized_cache=entry.parent))
    repaired = entry.read_bytes()
    assert repaired != damaged, name
    # What the runtime saves differs from time to time: a third one would not be the second.
    _same(inferlite.InferenceSession(MODEL, optimized_cache=entry.parent))
    assert entry.read_bytes() == repaired, name


def test_damaged_and_foreign_entries_are_made_anew(tmp_path: Path) -> None:
    inferlite.InferenceSession(MODEL, optimized_cache=tmp_path)
    (entry,) = _entries(tmp_path)
    content = entry.read_bytes()
    for name, damaged in _damaged(content).items():
        entry.write_bytes(damaged)
        _repaired(entry, damaged, name)
        assert _entries(tmp_path) == [entry], name
    # One of another model, under this one's name.
    inferlite.InferenceSession(_convolution(16), optimized_cache=tmp_path)
    (other,) = (path for path in _entries(tmp_path) if path != entry)
    entry.write_bytes(other.read_bytes())
    _repaired(entry, other.read_bytes(), "another model's")


def test_what_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    folder = tmp_path / "folder"
    for place in (file, file / "below", closed / "below", "/proc/none", "/dev/full", folder / ("x" * 300)):
        _same(inferlite.InferenceSession(MODEL, optimized_cache=place))
    # A folder in the entry's place.
    inferlite.InferenceSession(MODEL, optimized_cache=folder)
    (entry,) = _entries(folder)
    entry.unlink()
    entry.mkdir()
    _same(inferlite.InferenceSession(MODEL, optimized_cache=folder))
    assert _entries(folder) == [entry]


@pytest.mark.parametrize("budget", [0, 64, 2000])
def test_a_full_disk_is_no_error(budget: int, tmp_path: Path, environment: dict[str, str]) -> None:
    code = f"""
        import resource
        import inferlite, test_optimized_cache as tests
        inferlite.InferenceSession(tests.MODEL)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({budget}, {budget}))
        for _ in range(2):
            tests._same(inferlite.InferenceSession(tests.MODEL, optimized_cache={str(tmp_path)!r}))
    """
    child.run(code, environment)
    assert _entries(tmp_path) == []


def test_a_wrong_model_says_what_is_wrong_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = make_models.parse("g (float[n] x) => (float[n] y) { y = Nope(x) }")
    with caplog.at_level(logging.DEBUG, "inferlite"):
        ended = oracle.outcome(lambda: inferlite.InferenceSession(wrong))
        said = len(caplog.records)
        oracle.assert_same_outcome(
            oracle.outcome(lambda: inferlite.InferenceSession(wrong, optimized_cache=tmp_path)), ended
        )
        assert len(caplog.records) == 2 * said
    assert _entries(tmp_path) == []


def test_inputs_that_have_a_value_keep_it(tmp_path: Path) -> None:
    # Of format 3, where every weight is an input: the optimizer folds it, and leaves the input without its value.
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["w", "shape"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])],
        "old",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
        [numpy_helper.from_array(f32(1, 2, 3, 4), "w"), numpy_helper.from_array(np.array([2, 2]), "shape")],
    )
    model = helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 8)]).SerializeToString()
    x = np.ones((2, 2), np.float32)
    for _ in range(3):
        session = inferlite.InferenceSession(model, optimized_cache=tmp_path)
        assert _described(session) == _described(inferlite.InferenceSession(model))
        assert session.run(None, {"x": x})[0].tolist() == [[2, 3], [4, 5]]
        assert len(_entries(tmp_path)) == 1


def test_many_processes_may_begin_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    code = f"""
        import subprocess, sys
        program = (
            "import inferlite, test_optimized_cache as tests\\n"
            "for _ in range(5):\\n"
            "    tests._same(inferlite.InferenceSession(tests.MODEL, optimized_cache={str(tmp_path)!r}))\\n"
        )
        children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
        assert [child.wait() for child in children] == [0] * 4
    """
    child.run(code, environment, limit=100)
    assert len(_entries(tmp_path)) == 1


def test_what_killed_processes_have_left_behind_goes_after_an_hour(tmp_path: Path) -> None:
    old, new, *others = (
        tmp_path / name for name in (f".{'0a' * 16}.123.0", f".{'0b' * 16}.123.0", ".git", f".{'0c' * 16}.x.0")
    )
    now = time.time()
    for path in (old, new, *others):
        path.write_bytes(b"half of a graph")
        os.utime(path, (now, now - (3500 if path == new else 3700)))
    inferlite.InferenceSession(MODEL, optimized_cache=tmp_path)
    left = {path for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert left == {new, *others}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_such_sessions_survive_forks_and_pickling(tmp_path: Path, environment: dict[str, str]) -> None:
    code = f"""
        import os, pickle, signal
        import inferlite, test_optimized_cache as tests
        for _ in range(2):
            session = inferlite.InferenceSession(tests.MODEL, optimized_cache={str(tmp_path)!r})
        tests._same(pickle.loads(pickle.dumps(session)))
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            status = 1
            try:
                tests._same(session)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        tests._same(session)
    """
    child.run(code, environment)


def test_the_python_back_end_ignores_the_folder(tmp_path: Path) -> None:
    _backend.select("python")
    _same(inferlite.InferenceSession(MODEL, optimized_cache=tmp_path / "a"))
    inferlite.load(MODEL, optimized_cache=tmp_path / "a")
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("part", [pytest.param(part, marks=[pytest.mark.slow] if part else []) for part in range(16)])
def test_answers_of_the_backend_suite_are_the_same(part: int, tmp_path: Path) -> None:
    failures = []
    for case in onnx_suite.load()[part::16]:

        def end(case: Any = case, **settings: Any) -> oracle.Outcome:
            def run() -> list[Any]:
                options = inferlite.SessionOptions()
                options.intra_op_num_threads = 1
                session = inferlite.InferenceSession(case.model, options, **settings)
                names = [value.name for value in session.get_inputs()]
                feeds = [dict(zip(names, inputs, strict=False)) for inputs, _ in case.examples]
                return [_described(session), *(session.run(None, feed) for feed in feeds)]

            return oracle.outcome(run)

        wanted = end()
        for _ in range(2):
            try:
                oracle.assert_same_outcome(end(optimized_cache=tmp_path), wanted)
            except AssertionError as error:
                failures.append(f"{case.name}: {error}")
    assert not failures, "\n".join(failures)
    assert len(_entries(tmp_path)) > 60


REAL = Path(sys.prefix) / "real-models"


@pytest.mark.parametrize("inside", ["magika/models/standard_v3_3/model.onnx", "silero_vad/data/silero_vad.onnx"])
def test_answers_of_real_models_are_the_same(inside: str, tmp_path: Path) -> None:
    path = REAL / inside
    if not path.exists():
        pytest.skip(f"{path} is not there: `make dev` puts it there")
    random = np.random.default_rng(0)
    feed: dict[str, Any] = {"bytes": random.integers(0, 256, (1, 2048)).astype(np.int32)}
    if "silero" in inside:
        feed = {
            "input": random.standard_normal((1, 512), dtype=np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16_000, np.int64),
        }
    plain = inferlite.InferenceSession(path)
    for _ in range(2):
        session = inferlite.InferenceSession(path, optimized_cache=tmp_path)
        assert _described(session) == _described(plain)
        oracle.assert_same_value(session.run(None, feed), plain.run(None, feed))
    assert len(_entries(tmp_path)) == 1
