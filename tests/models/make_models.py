"""Build the models of the tests; `python tests/models/make_models.py` writes those in FILES beside this file.

Graphs are written in ONNX's text form, so that a test can be read without a viewer. Tests take the files through
`path` and the bytes of any other graph through `build`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from committed import HERE, path
from onnx import helper, numpy_helper

__all__ = ["HERE", "path"]  # and all that is made here

# The oldest onnxruntime that is supported (1.24) must read them too.
IR_VERSION = 10
OPSET = 21
HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}, "ai.onnx.ml": 3]>\n'

TENSOR_TYPES = (
    "float",
    "double",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "string",
)

GRAPHS = {
    "identity": "identity (float[batch,3] x) => (float[batch,3] y) { y = Identity(x) }",
    "double": "double (float[batch,4] x) => (float[batch,4] y) { y = Add(x, x) }",
    "add": "add (float[batch,4] a, float[batch,4] b) => (float[batch,4] c) { c = Add(a, b) }",
    "passthrough": "passthrough (float[n] x) => (float[n] x, float[n] y) { y = Neg(x) }",
    "constant": "constant (float[n] x) => (float[2] w, float[n] y) <float[2] w = {1.5, 2.5}> { y = Neg(x) }",
    "two_outputs": "two_outputs (float[n] x) => (float[n] negative, bool[n] small) "
    "<float zero = {0}> { negative = Neg(x) small = Less(x, zero) }",
    "default_input": "default_input (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Mul(x, w) }",
    "scalar": "scalar (float x) => (float y) { y = Neg(x) }",
    "unknown_rank": "unknown_rank (float[] x) => (float[] y) { y = Identity(x) }",
    "unnamed": "unnamed (float[?,2] x) => (float[?,?] y) { y = Identity(x) }",
    "fixed": "fixed (float[1,4] x) => (float[1,4] y) { y = Identity(x) }",
    "eight_inputs": "eight_inputs (float[4] a, float[4] b, float[4] c, float[4] d, float[4] e, float[4] f, float[4] g, "
    "float[4] h) => (float[4] y) { y = Sum(a, b, c, d, e, f, g, h) }",
    "eight_outputs": "eight_outputs (float[8] x) => (float[1] a, float[1] b, float[1] c, float[1] d, float[1] e, "
    "float[1] f, float[1] g, float[1] h) { a, b, c, d, e, f, g, h = Split<axis = 0, num_outputs = 8>(x) }",
    "strings": "strings (string[n] x) => (string[n] y) { y = Identity(x) }",
    "sequence": "sequence (seq(float[]) s) => (seq(float[]) t) { t = Identity(s) }",
    "sequence_strings": "sequence_strings (seq(string[]) s) => (seq(string[]) t) { t = Identity(s) }",
    "sequence_length": "sequence_length (seq(float[]) s) => (int64 n) { n = SequenceLength(s) }",
    "sequence_make": "sequence_make (float[n] a, float[m] b) => (seq(float[]) s) { s = SequenceConstruct(a, b) }",
    "sequence_empty": "sequence_empty (float[n] x) => (seq(float[]) s, float[n] y) "
    "{ s = SequenceEmpty<dtype = 1>() y = Neg(x) }",
    "optional_input": "optional_input (optional(float[n]) o) => (bool present) { present = OptionalHasElement(o) }",
    "optional_sequence": "optional_sequence (optional(seq(float[n])) o) => (bool present) "
    "{ present = OptionalHasElement(o) }",
    "optional_output": "optional_output (float[n] x) => (optional(float[n]) o) { o = Optional(x) }",
    "optional_absent": "optional_absent (float[n] x) => (optional(float[n]) o, float[n] y) "
    "{ o = Optional<type = float[n]>() y = Neg(x) }",
    # The product of the inputs' dims is checked by the kernel only, so a run can fail inside a node.
    "failing": "failing (float[n,k] a, float[m,j] b) => (float[p,q] c) { [mm] c = MatMul(a, b) }",
    "failing_parallel": "failing_parallel (float[n,k] a, float[m,j] b) => (float[p,q] c, float[r,s] d, float[t,u] e) "
    "{ [mm] c = MatMul(a, b) [nn] d = MatMul(a, b) [oo] e = Neg(a) }",
    # A billion rounds: ends by terminate alone.
    "endless": "endless (float[1] x) => (float[1] y) <int64 rounds = {1000000000}, bool yes = {1}> "
    "{ y = Loop<body = body (int64 i, bool go, float[1] v) => (bool go_on, float[1] w) "
    "{ go_on = Identity(go) w = Add(v, v) }>(rounds, yes, x) }",
    "reshape": "reshape (float[n] x, int64[r] shape) => (float[] y) { y = Reshape(x, shape) }",
    # The answer is as large as the caller says, whatever the size of the input.
    "expand": "expand (float[n] x, int64[r] shape) => (float[] y) { y = Expand(x, shape) }",
    # Declares rank 2 and gives rank 3, as models in the wild do.
    "lying": "lying (float[n,k] x) => (float[n,k] y) <int64[3] shape = {1, -1, 2}> { y = Reshape(x, shape) }",
}

FILES = (*GRAPHS, "mlp", "zipmap", "zipmap_strings", "metadata", "external")


def parse(text: str) -> bytes:
    """A model from one graph in ONNX's text form."""
    return onnx.parser.parse_model(HEADER + text).SerializeToString()


def identity(tensor_type: str, shape: str = "[]") -> bytes:
    """A model that gives back its one input `x` of any tensor type as `y`; `shape` is text such as `[n,3]`."""
    return parse(f"same ({tensor_type}{shape} x) => ({tensor_type}{shape} y) {{ y = Identity(x) }}")


def sequence_identity(tensor_type: str) -> bytes:
    """A model that gives back its one input `s`, a sequence of tensors of one type, as `t`."""
    return parse(f"same (seq({tensor_type}[]) s) => (seq({tensor_type}[]) t) {{ t = Identity(s) }}")


def _model(graph: onnx.GraphProto, **properties: object) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, **properties)


def dense(*widths: int, seed: int = 0) -> bytes:
    """A network of dense layers with ReLU between them, from `x` [batch, first] to `y` [batch, last]."""
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    last = len(widths) - 2
    for layer, (wide, narrow) in enumerate(pairwise(widths)):
        matrix = (rng.standard_normal((wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        offset = rng.standard_normal(narrow).astype(np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{layer}"), numpy_helper.from_array(offset, f"b{layer}")]
        out = "y" if layer == last else f"z{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [out]))
        value = out
        if layer != last:
            nodes.append(helper.make_node("Relu", [value], [f"h{layer}"]))
            value = f"h{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", widths[0]])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", widths[-1]])],
        weights,
    )
    return _model(graph).SerializeToString()


def zipmap(labels: list[int] | list[str]) -> bytes:
    """A linear classifier as scikit-learn's converter writes it: `label`, and `probabilities` as a list of dicts."""
    strings = isinstance(labels[0], str)
    kind = onnx.TensorProto.STRING if strings else onnx.TensorProto.INT64
    key = "classlabels_strings" if strings else "classlabels_ints"
    zip_key = "classlabels_strings" if strings else "classlabels_int64s"
    coefficients = np.random.default_rng(3).standard_normal((len(labels), 4)).ravel().tolist()
    classifier = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=coefficients,
        intercepts=[0.1 * i for i in range(len(labels))],
        multi_class=0,
        post_transform="SOFTMAX",
        **{key: labels},
    )
    zipped = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **{zip_key: labels})
    tensor = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, tensor))
    graph = helper.make_graph(
        [classifier, zipped],
        "zipmap",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("label", kind, ["batch"]),
            helper.make_value_info("probabilities", maps),
        ],
    )
    return _model(graph).SerializeToString()


def map_input(key: str) -> bytes:
    """A model whose input `m` is a map from `key` (`string` or `int64`) to float and whose output `y` is dense."""
    kind = onnx.TensorProto.STRING if key == "string" else onnx.TensorProto.INT64
    vocabulary = {"string_vocabulary": ["a", "b", "c"]} if key == "string" else {"int64_vocabulary": [1, 2, 3]}
    tensor = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    graph = helper.make_graph(
        [helper.make_node("DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", **vocabulary)],
        "map_input",
        [helper.make_value_info("m", helper.make_map_type_proto(kind, tensor))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    return _model(graph).SerializeToString()


def metadata() -> bytes:
    """A model that fills every field of its metadata."""
    model = onnx.load_from_string(parse(GRAPHS["double"]))
    model.producer_name, model.producer_version = "make_models", "3"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "doubles what it gets"
    model.graph.doc_string = "one addition"
    helper.set_model_props(model, {"author": "somebody", "empty": "", "ключ": "значение"})
    return model.SerializeToString()


def external() -> bytes:
    """A model whose weights lie in a file that does not exist."""
    model = onnx.load_from_string(dense(4, 2))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="missing.bin")
    return model.SerializeToString()


def build(name: str) -> bytes:
    """The bytes of one of FILES, made anew."""
    if name in GRAPHS:
        return parse(GRAPHS[name])
    special = {
        "mlp": lambda: dense(16, 32, 16, 4),
        "zipmap": lambda: zipmap([3, 1, 2]),
        "zipmap_strings": lambda: zipmap(["no", "yes", "maybe"]),
        "metadata": metadata,
        "external": external,
    }
    return special[name]()


def write_all() -> None:
    """Write every file; the same sources give the same bytes."""
    for name in FILES:
        Path(path(name)).write_bytes(build(name))


if __name__ == "__main__":
    write_all()
