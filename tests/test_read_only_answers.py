"""`Cache(copy=False)`: read-only answers, over memory that nobody can write to; on both back ends."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import make_models
import numpy as np
import onnx
import pytest

import child
import inferlite
import oracle
from cases import f32, ones

pytestmark = pytest.mark.usefixtures("backend")

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
TWO = make_models.parse("two (float[n] x) => (float[n] a, int64[1] b) { a = Neg(x) b = Shape(x) }")
FLEXIBLE = make_models.parse("flexible (float[] x) => (float[] y) { y = Identity(x) }")
SIZES = (1, 16, 5_000, 100_000)


def _model(model: Any = DOUBLE, **settings: Any) -> Any:
    return inferlite.load(model, cache=inferlite.Cache(max_bytes="10MB", copy=False, **settings))


def _assert_read_only(array: np.ndarray) -> None:
    assert not array.flags.writeable
    for view in (array, array.view(), array.reshape(-1), np.asarray(array), array[...]):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0
    if array.dtype != object and array.size:
        # numpy offers no buffer of the types of ml_dtypes.
        array = array.view(np.uint8) if array.dtype.num >= 256 else array
        assert memoryview(array).readonly
        with pytest.raises((ValueError, BufferError)):
            np.frombuffer(array.data, np.uint8)[...] = 0


def _private(value: Any) -> Any:
    """The same to write to, which the oracle asks for."""
    if isinstance(value, list):
        return [_private(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("size", SIZES)
def test_hits_and_misses_are_read_only_for_good(size: int) -> None:
    model = _model()
    for _ in range(3):
        answer = model(ones(size))
        assert answer.tolist() == [2.0] * size
        _assert_read_only(answer)
    assert model.stats().cache.hits == 2


@pytest.mark.parametrize("size", SIZES)
def test_hits_look_at_one_memory_and_copy_nothing(size: int) -> None:
    model = _model()
    model(ones(size))
    first, second = model(ones(size)), model(ones(size))
    assert first is not second
    assert first.ctypes.data == second.ctypes.data
    # A copy is where it was asked for.
    private = inferlite.load(DOUBLE, cache="10MB")
    private(ones(size))
    assert private(ones(size)).ctypes.data != private(ones(size)).ctypes.data


def test_the_shape_and_type_of_one_hit_change_no_other() -> None:
    model = _model()
    first, second = (model(f32(1, 2, 3, 4)) for _ in range(2))
    first.shape = (2, 2)
    assert second.shape == (4,)
    second.dtype = np.dtype(np.int32)
    third = model(f32(1, 2, 3, 4))
    assert (third.shape, third.dtype) == ((4,), np.float32)
    assert third.tolist() == [2, 4, 6, 8]
    assert first.tolist() == [[2, 4], [6, 8]]


@pytest.mark.parametrize("size", SIZES)
def test_what_a_caller_sees_outlives_eviction_and_the_model(size: int) -> None:
    model = _model(max_entries=1)
    kept = [model(ones(size)), model(ones(size))]
    model(ones(size + 1))
    assert model.stats().cache.evictions == 1
    model.cache.clear()
    model.close()
    del model
    gc.collect()
    junk = [np.full(size, 7, np.float32) for _ in range(20)]
    assert all(array.tolist() == [2.0] * size for array in kept)
    del junk


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1)])
def test_scalars_and_empty_tensors_are_read_only_too(shape: tuple[int, ...]) -> None:
    model = _model(FLEXIBLE)
    for _ in range(2):
        answer = model(np.zeros(shape, np.float32))
        assert answer.shape == shape
        _assert_read_only(answer)


@pytest.mark.parametrize("name", ["strings", "sequence", "zipmap", "zipmap_strings", "optional_output"])
def test_other_values_are_new_for_every_caller(name: str) -> None:
    feeds: dict[str, dict[str, Any]] = {
        "sequence": {"s": [f32(1.0), f32(2.0, 3.0)]},
        "strings": {"x": np.array(["a", "b"], object)},
        "optional_output": {"x": f32(1.0)},
    }
    path = make_models.path(name)
    session = inferlite.InferenceSession(path)
    ours = inferlite.InferenceSession(path, cache=inferlite.Cache(copy=False))
    feed = feeds.get(name) or {session.get_inputs()[0].name: ones(2, 4)}
    wanted = session.run(None, feed)
    for _ in range(3):
        answers = ours.run(None, feed)
        oracle.assert_same_value(_private(answers), wanted)
        for answer in answers:
            if isinstance(answer, np.ndarray):
                _assert_read_only(answer)
            elif isinstance(answer, list):
                for item in answer:
                    if isinstance(item, np.ndarray):
                        _assert_read_only(item)
                answer.clear()


def test_every_way_to_call_gives_read_only_answers() -> None:
    model = _model(TWO)
    for _ in range(2):
        for answers in (
            model(f32(1)),
            model.predict(f32(2), timeout=30),
            asyncio.run(model.apredict(f32(3))),
            asyncio.run(model.apredict(f32(3), timeout=30)),
        ):
            assert set(answers) == {"a", "b"}
            for answer in answers.values():
                _assert_read_only(answer)
    session = inferlite.InferenceSession(TWO, cache=inferlite.Cache(copy=False))
    for options in (None, inferlite.RunOptions()):
        for answer in session.run(None, {"x": f32(1)}, options):
            _assert_read_only(answer)


def test_calls_that_are_not_looked_up_are_read_only_too() -> None:
    model = _model()
    for number in range(11_000):
        answer = model(f32(number))
    assert model.stats().cache.sampling
    assert model.stats().cache.skipped > 0
    _assert_read_only(answer)


def test_rows_are_read_only(backend: str) -> None:
    if backend == "python":
        return  # it has no cache by row
    model = _model(make_models.parse("double (float[n,2] x) => (float[n,2] y) { y = Add(x, x) }"), by="row")
    for rows in (ones(3, 2), ones(1, 2), f32(1, 1, 5, 5).reshape(2, 2), ones(3, 2)):
        answer = model(rows)
        assert answer.tolist() == (2 * rows).tolist()
        _assert_read_only(answer)


def test_elements_that_share_bytes_are_read_only() -> None:
    tensor = onnx.TensorProto(name="y", data_type=onnx.TensorProto.FLOAT4E2M1, dims=[3], raw_data=b"\x21\x03")
    output = onnx.helper.make_tensor_value_info("y", tensor.data_type, [3])
    graph = onnx.helper.make_graph([], "constant", [], [output], [tensor])
    opset = onnx.helper.make_opsetid("", 23)
    model = onnx.helper.make_model(graph, ir_version=11, opset_imports=[opset]).SerializeToString()
    if oracle.outcome(lambda: oracle.reference(model)).error is not None:
        pytest.skip("this onnxruntime has no float4")
    session = inferlite.InferenceSession(model, cache=inferlite.Cache(copy=False))
    for _ in range(2):
        (answer,) = session.run(None, {})
        assert answer.tobytes() == b"\x01\x02\x03"
        _assert_read_only(answer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_may_read_and_drop_what_its_parent_has_found(child_environment: dict[str, str]) -> None:
    child.run(
        """
        import os
        import numpy as np
        import inferlite
        model = inferlite.load(PATH, cache=inferlite.Cache(copy=False))
        x = np.ones((25_000, 4), np.float32)
        held = [model(x), model(x)]
        pid = os.fork()
        if pid == 0:
            assert all((array == 2).all() for array in held)
            held.clear()
            again = model(x)
            assert (again == 2).all() and not again.flags.writeable
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        assert (held[1] == 2).all()
        """.replace("PATH", repr(str(make_models.path("double")))),
        child_environment,
    )


@pytest.mark.parametrize("copy", [None, 1, "no"])
def test_what_is_no_answer_is_refused(copy: Any) -> None:
    with pytest.raises(TypeError, match="`copy` must be True or False, not "):
        inferlite.Cache(copy=copy)
