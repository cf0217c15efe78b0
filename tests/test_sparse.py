"""Sparse tensors as onnxruntime's, with indices that lie inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from packaging.version import Version

import inferlite
import oracle
from cases import f32
from conftest import BACKENDS

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
pytestmark = pytest.mark.usefixtures("backend")

# What the values of older releases lack, nothing can be compared with.
KNOWN_RUNTIME = Version(onnxruntime.__version__).release[:2] >= (1, 32)
compared = pytest.mark.skipif(not KNOWN_RUNTIME, reason="onnxruntime before 1.32 ends otherwise, or has no such method")

InvalidArgument = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
CPU = onnxruntime.OrtDevice.make("cpu", 0)
VALUES = f32(1, 2, 3)


def coo(package: Any, indices: Any = (0, 4, 8), values: np.ndarray = VALUES, shape: Any = (3, 3)) -> Any:
    return package.SparseTensor.sparse_coo_from_numpy(shape, values, np.array(indices, np.int64), CPU)


def csr(package: Any, inner: Any = (0, 1, 2), outer: Any = (0, 1, 2, 3), values: np.ndarray = VALUES) -> Any:
    inner, outer = np.array(inner, np.int64), np.array(outer, np.int64)
    return package.SparseTensor.sparse_csr_from_numpy([3, 3], values, inner, outer, CPU)


def told(tensor: Any) -> list[Any]:
    return [
        tensor.values(),
        [int(extent) for extent in tensor.dense_shape()],
        tensor.format(),
        tensor.data_type(),
        tensor.device_name(),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8"])
@pytest.mark.parametrize("indices", [(0, 4, 8), [[0, 0], [1, 1], [2, 2]]])
def test_coo_is_as_onnxruntimes(dtype: str, indices: Any) -> None:
    ours, theirs = (coo(package, indices, VALUES.astype(dtype)) for package in (inferlite, onnxruntime))
    oracle.assert_same_value(told(ours), told(theirs))
    oracle.assert_same_value(ours.as_coo_view().indices(), theirs.as_coo_view().indices())
    for view in ("as_csrc_view", "as_blocksparse_view"):
        with pytest.raises(RuntimeError, match="does not contain"):
            getattr(ours, view)()


def test_csr_is_as_onnxruntimes() -> None:
    ours, theirs = csr(inferlite), csr(onnxruntime)
    oracle.assert_same_value(told(ours), told(theirs))
    for part in ("inner", "outer"):
        oracle.assert_same_value(getattr(ours.as_csrc_view(), part)(), getattr(theirs.as_csrc_view(), part)())
    with pytest.raises(RuntimeError, match="does not contain COO format"):
        ours.as_coo_view()
    with pytest.raises(RuntimeError):
        ours.to_cuda(onnxruntime.OrtDevice.make("cuda", 0))


def test_strings_and_nothing_are_as_onnxruntimes() -> None:
    for values, indices in ((np.array(["a", "b", "c"]), (0, 4, 8)), (VALUES[:0], ())):
        ours, theirs = (coo(package, indices, values) for package in (inferlite, onnxruntime))
        assert ours.values().tolist() == theirs.values().tolist()
        assert ours.data_type() == theirs.data_type()


@oracle.proves("sparse indices outside of the tensor")
@pytest.mark.parametrize(
    "indices", [(0, 4, 9), (0, -1, 8), (0, 4, 2**40), [[0, 0], [1, 1], [2, 3]], [[0, 0], [1, 1], [-1, 2]], (0, 1)]
)
def test_indices_outside_are_refused(indices: Any) -> None:
    with pytest.raises((InvalidArgument, RuntimeError)):
        coo(inferlite, indices)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ((0, 1, 3), (0, 1, 2, 3)),
        ((0, -1, 2), (0, 1, 2, 3)),
        ((0, 1, 2), (0, 1, 2, 4)),
        ((0, 1, 2), (0, 2, 1, 3)),
        ((0, 1, 2), (-1, 1, 2, 3)),
        ((0, 1, 2), (0, 3)),
        ((0, 1), (0, 1, 2, 3)),
    ],
)
def test_columns_and_rows_outside_are_refused(inner: Any, outer: Any) -> None:
    with pytest.raises((InvalidArgument, RuntimeError)):
        csr(inferlite, inner, outer)


def test_what_is_no_vector_of_numbers_is_refused_as_by_onnxruntime() -> None:
    for values in ([1.0, 2.0, 3.0], VALUES.reshape(1, 3)):
        outcomes = [
            oracle.outcome(lambda p=package, v=values: coo(p, values=v)) for package in (inferlite, onnxruntime)
        ]
        assert type(outcomes[0].error) is type(outcomes[1].error)
    outcomes = [oracle.outcome(lambda p=package: p.SparseTensor(3)) for package in (inferlite, onnxruntime)]
    assert type(outcomes[0].error) is type(outcomes[1].error) is ValueError


@native
def test_later_writes_move_no_index() -> None:
    indices = np.array([0, 4, 8], np.int64)
    tensor = inferlite.SparseTensor.sparse_coo_from_numpy([3, 3], VALUES, indices, CPU)
    indices[:] = 10**6
    assert tensor.as_coo_view().indices().tolist() == [0, 4, 8]
    assert not tensor.as_coo_view().indices().flags.writeable
    assert not tensor.values().flags.writeable


@compared
def test_a_value_holds_a_sparse_tensor() -> None:
    for package in (inferlite, onnxruntime):
        value = package.OrtValue.ort_value_from_sparse_tensor(coo(package))
        assert (value.is_tensor(), value.is_sparse_tensor(), value.has_value()) == (False, True, True)
        assert (value.data_type(), value.element_type(), list(value.shape())) == ("sparse_tensor(float)", 1, [3, 3])
        assert value.as_sparse_tensor().values().tolist() == [1, 2, 3]
        for fact in ("numpy", "data_ptr", "tensor_size_in_bytes", "__dlpack__"):
            with pytest.raises(RuntimeError):
                getattr(value, fact)()
        with pytest.raises(RuntimeError, match="does not contain SparseTensor"):
            package.OrtValue.ortvalue_from_numpy(VALUES).as_sparse_tensor()


@pytest.mark.parametrize("make", [lambda package: coo(package, [[0, 0], [1, 1], [2, 2]]), csr], ids=["coo", "csr"])
def test_sparse_tensors_run(make: Any) -> None:
    node = onnx.helper.make_node("SparseToDenseMatMul", ["A", "B"], ["Y"], domain="com.microsoft")
    sparse = onnx.helper.make_sparse_tensor_value_info("A", onnx.TensorProto.FLOAT, [3, 3])
    dense = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3, 3]) for name in "BY"]
    graph = onnx.helper.make_graph([node], "sparse", [sparse, dense[0]], [dense[1]])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    answers = []
    for package in (inferlite, onnxruntime):
        session = package.InferenceSession(model, providers=["CPUExecutionProvider"])
        feed = {
            "A": package.OrtValue.ort_value_from_sparse_tensor(make(package)),
            "B": package.OrtValue.ortvalue_from_numpy(np.arange(9, dtype=np.float32).reshape(3, 3)),
        }
        answers.append(session.run_with_ort_values(None, feed)[0].numpy())
    oracle.assert_same_value(*answers)
