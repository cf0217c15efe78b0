"""The models that the benchmarks run: fixed seeds, fixed weights, one row unless the name says otherwise.

`python -m benches.models` trains the logistic regression again and writes it beside this file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benches.harness import NotMeasurableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

# The oldest onnxruntime that is supported (1.24) must read them too.
IR_VERSION: Final = 10
OPSET: Final = 21

LOGISTIC_REGRESSION: Final = Path(__file__).with_name("logistic_regression.onnx")

PEERS: Final = "peers"
"""The folder of the environment that holds wheels which are unpacked without what they depend on."""

LARGE_ELEMENTS: Final = 4_000_000
"""Elements of a 16 MB float32 tensor."""


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A serialised model and what a run of it is fed.

    Attributes:
        content: the model's bytes.
        feed: input name -> C-contiguous array.
    """

    content: bytes
    feed: dict[str, NDArray[Any]]


def mlp(*widths: int) -> BenchModel:
    """Return a dense network with relu between its layers and one row of input.

    Args:
        widths: width of the input, of every hidden layer, and of the output.
    """
    random = np.random.default_rng(sum(widths))
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    last = len(widths) - 2
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        kernel = random.standard_normal((fan_in, fan_out), dtype=np.float32) / np.float32(fan_in**0.5)
        bias = random.standard_normal(fan_out, dtype=np.float32)
        weights += [
            numpy_helper.from_array(kernel, f"kernel{layer}"),
            numpy_helper.from_array(bias, f"bias{layer}"),
        ]
        dense = "y" if layer == last else f"dense{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"kernel{layer}", f"bias{layer}"], [dense]))
        if layer != last:
            value = f"hidden{layer}"
            nodes.append(helper.make_node("Relu", [dense], [value]))
    content = _serialise(nodes, {"x": ["batch", widths[0]]}, {"y": ["batch", widths[-1]]}, weights)
    return BenchModel(content, _random_feed(x=(1, widths[0])))


TOKENS: Final = 64
VOCABULARY: Final = 1000


def transformer(layers: int = 6, width: int = 384, heads: int = 12) -> BenchModel:
    """Return an encoder of sentences of the size of MiniLM, with random weights and a small vocabulary.

    Args:
        layers: how many blocks of attention and dense network there are, each normalised afterwards as in BERT.
        width: elements of a token, and of the answer, which is the mean over all tokens.
        heads: how many parts of a token attend apart.
    """
    random = np.random.default_rng(layers * width)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, value: Any) -> str:  # noqa: ANN401 - whatever numpy takes
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def matrix(name: str, *shape: int, scale: float) -> str:
        return constant(name, random.standard_normal(shape, dtype=np.float32) * np.float32(scale))

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - as above
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def dense(value: str, name: str, fan_in: int, fan_out: int) -> str:
        product = node("MatMul", [value, matrix(f"{name}.kernel", fan_in, fan_out, scale=fan_in**-0.5)], f"{name}.dot")
        return node("Add", [product, matrix(f"{name}.bias", fan_out, scale=0.1)], name)

    def split(value: str, name: str, order: Sequence[int]) -> str:
        parts = node("Reshape", [dense(value, name, width, width), "parts"], f"{name}.parts")
        return node("Transpose", [parts], f"{name}.heads", perm=order)

    def add_and_normalise(value: str, other: str, name: str) -> str:
        total = node("Add", [value, other], f"{name}.sum")
        return node("LayerNormalization", [total, "ones", "zeros"], name, axis=-1)

    constant("parts", np.array([0, 0, heads, width // heads], np.int64))
    constant("whole", np.array([0, 0, width], np.int64))
    constant("scale", np.float32((width // heads) ** -0.5))
    constant("ones", np.ones(width, np.float32))
    constant("zeros", np.zeros(width, np.float32))
    words = node("Gather", [matrix("words", VOCABULARY, width, scale=1), "ids"], "word")
    value = node("Add", [words, matrix("places", 1, TOKENS, width, scale=1)], "token")
    for layer in range(layers):
        query = split(value, f"{layer}.query", [0, 2, 1, 3])
        key = split(value, f"{layer}.key", [0, 2, 3, 1])
        told = split(value, f"{layer}.told", [0, 2, 1, 3])
        likeness = node("Mul", [node("MatMul", [query, key], f"{layer}.likeness"), "scale"], f"{layer}.scaled")
        attention = node("Softmax", [likeness], f"{layer}.attention", axis=-1)
        seen = node("MatMul", [attention, told], f"{layer}.seen")
        seen = node("Transpose", [seen], f"{layer}.seen.tokens", perm=[0, 2, 1, 3])
        seen = dense(node("Reshape", [seen, "whole"], f"{layer}.seen.whole"), f"{layer}.mixed", width, width)
        value = add_and_normalise(value, seen, f"{layer}.attended")
        hidden = node("Gelu", [dense(value, f"{layer}.wide", width, 4 * width)], f"{layer}.hidden")
        value = add_and_normalise(value, dense(hidden, f"{layer}.narrow", 4 * width, width), f"{layer}.block")
    node("ReduceMean", [value, constant("tokens", np.array([1], np.int64))], "y", keepdims=0)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, TOKENS))
    serialised = _serialise(
        nodes, {"ids": ["batch", TOKENS]}, {"y": ["batch", width]}, weights, takes=TensorProto.INT64
    )
    return BenchModel(serialised, {"ids": ids})


def chain(length: int) -> BenchModel:
    """Return a model of `length` nodes in a row that no optimizer can drop or fuse away."""
    nodes = [
        helper.make_node(
            ("Sin", "Cos", "Abs", "Neg")[position % 4],
            ["x" if position == 0 else f"v{position - 1}"],
            ["y" if position == length - 1 else f"v{position}"],
        )
        for position in range(length)
    ]
    return BenchModel(_serialise(nodes, {"x": [1, 4]}, {"y": [1, 4]}), _random_feed(x=(1, 4)))


def image() -> BenchModel:
    """Return a model that takes one image as classifiers do, and gives little: a mean for each colour."""
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    content = _serialise([node], {"x": [1, 3, 224, 224]}, {"y": [1, 3, 1, 1]})
    return BenchModel(content, _random_feed(x=(1, 3, 224, 224)))


def magika() -> Path | None:
    """Return the file of magika's model, if its wheel is unpacked here: `make bench` sees to that.

    Its package is not imported, nor what it depends on installed.
    """
    folders = [Path(folder, "magika", "models") for folder in (Path(sys.prefix, PEERS), *sys.path)]
    return next((file for folder in folders for file in sorted(folder.glob("standard_*/model.onnx"))), None)


def magika_model() -> tuple[str, dict[str, NDArray[Any]]]:
    """Return magika's model, and what it is fed: bytes of a file as numbers.

    Raises:
        NotMeasurableError: it is not here.
    """
    path = magika()
    if path is None:
        message = "magika's model is not installed: `make bench` does that"
        raise NotMeasurableError(message)
    numbers = np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)
    return str(path), {"bytes": numbers}


def logistic_regression() -> BenchModel:
    """Return scikit-learn's logistic regression on iris: outputs a label and three probabilities."""
    row = np.array([[5.9, 3.0, 5.1, 1.8]], dtype=np.float32)
    return BenchModel(LOGISTIC_REGRESSION.read_bytes(), {"x": row})


def classifier(labels: Sequence[int] | Sequence[str]) -> BenchModel:
    """Return a forest as scikit-learn's converter writes it, and 100 rows: a label, and a dict for each row.

    Args:
        labels: the classes; ZipMap has them as the keys of its dicts.
    """
    rng = np.random.default_rng(0)
    features, trees, depth = 20, 10, 5
    inner = 2**depth - 1
    nodes: dict[str, list[Any]] = {}
    votes: dict[str, list[Any]] = {}

    def add(table: dict[str, list[Any]], **values: Any) -> None:  # noqa: ANN401 - of several types
        for name, value in values.items():
            table.setdefault(name, []).append(value)

    for tree in range(trees):
        for node in range(2 * inner + 1):
            is_leaf = node >= inner
            add(
                nodes,
                nodes_treeids=tree,
                nodes_nodeids=node,
                nodes_featureids=0 if is_leaf else int(rng.integers(features)),
                nodes_values=0.0 if is_leaf else float(rng.standard_normal()),
                nodes_modes="LEAF" if is_leaf else "BRANCH_LEQ",
                nodes_truenodeids=0 if is_leaf else 2 * node + 1,
                nodes_falsenodeids=0 if is_leaf else 2 * node + 2,
            )
            for label, weight in enumerate(rng.dirichlet(np.ones(len(labels))) / trees) if is_leaf else ():
                add(votes, class_treeids=tree, class_nodeids=node, class_ids=label, class_weights=float(weight))
    is_text = isinstance(labels[0], str)
    key = TensorProto.STRING if is_text else TensorProto.INT64
    suffix = "strings" if is_text else "int64s"
    forest = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        post_transform="NONE",
        **{f"classlabels_{suffix}": labels},
        **nodes,
        **votes,
    )
    zipped = helper.make_node(
        "ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **{f"classlabels_{suffix}": labels}
    )
    row = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        [forest, zipped],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [
            helper.make_tensor_value_info("label", key, ["batch"]),
            helper.make_value_info("probabilities", helper.make_sequence_type_proto(row)),
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    content = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets).SerializeToString()
    return BenchModel(content, _random_feed(x=(100, features)))


def train_logistic_regression() -> bytes:
    """Train it and convert it without ZipMap; scikit-learn and skl2onnx are needed here only."""
    from skl2onnx import convert_sklearn  # noqa: PLC0415 - the benchmarks themselves do without it
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415 - as above
    from sklearn.datasets import load_iris  # noqa: PLC0415 - as above
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above

    features, classes = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=1000).fit(features.astype(np.float32), classes)
    converted = convert_sklearn(
        classifier,
        name="logistic_regression",
        initial_types=[("x", FloatTensorType([None, features.shape[1]]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    converted.ir_version = IR_VERSION
    content: bytes = converted.SerializeToString()
    return content


def _one_node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    shape: tuple[int, ...],
    **attributes: int,
) -> BenchModel:
    """Return a model of one node; every input has `shape`, outputs split the last axis evenly."""
    node = helper.make_node(operator, inputs, outputs, **attributes)
    part = [*shape[:-1], shape[-1] // len(outputs)]
    names = list(dict.fromkeys(inputs))
    content = _serialise([node], {name: list(shape) for name in names}, dict.fromkeys(outputs, part))
    return BenchModel(content, _random_feed(**dict.fromkeys(names, shape)))


def _serialise(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Sequence[onnx.TensorProto] = (),
    takes: int = TensorProto.FLOAT,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "bench",
        [helper.make_tensor_value_info(name, takes, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        list(weights),
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    content: bytes = model.SerializeToString()
    return content


def _random_feed(**shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


EIGHT: Final = tuple("abcdefgh")

MODELS: Final[dict[str, Callable[[], BenchModel]]] = {
    "identity-1x4": lambda: _one_node("Identity", ["x"], ["y"], shape=(1, 4)),
    "identity-1x16": lambda: _one_node("Identity", ["x"], ["y"], shape=(1, 16)),
    "image": image,
    "mlp-16-32-16-4": lambda: mlp(16, 32, 16, 4),
    "mlp-256-512-512-10": lambda: mlp(256, 512, 512, 10),
    "logistic-regression": logistic_regression,
    "classifier, 3 integers": lambda: classifier([0, 1, 2]),
    "classifier, 3 strings": lambda: classifier(["setosa", "versicolor", "virginica"]),
    "classifier, 10 integers": lambda: classifier(list(range(10))),
    "classifier, 10 strings": lambda: classifier([f"class {i}" for i in range(10)]),
    "8-in-1-out": lambda: _one_node("Sum", EIGHT, ["y"], shape=(1, 4)),
    "1-in-8-out": lambda: _one_node("Split", ["x"], EIGHT, shape=(1, 8), axis=1, num_outputs=8),
    "identity-16mb": lambda: _one_node("Identity", ["x"], ["y"], shape=(LARGE_ELEMENTS,)),
    "add-16mb": lambda: _one_node("Add", ["x", "x"], ["y"], shape=(LARGE_ELEMENTS,)),
    "chain-500": lambda: chain(500),
    "transformer": transformer,
    "transformer-small": lambda: transformer(layers=1, width=48, heads=4),
    "mlp-10mb": lambda: mlp(1000, 1000, 1000, 500),
    "mlp-64mb": lambda: mlp(2000, 2000, 2000, 2000, 2000),
}
"""Name -> maker of every model; `model` below makes each once."""


@cache
def model(name: str) -> BenchModel:
    """Return the model called `name` in `MODELS`, made on first use.

    Example:
        >>> model("identity-1x4").feed["x"].shape
        (1, 4)
    """
    return MODELS[name]()


if __name__ == "__main__":
    LOGISTIC_REGRESSION.write_bytes(train_logistic_regression())
