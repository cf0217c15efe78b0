"""Train the model that `inferlite demo` ships and write it beside the demo's code, with held-out samples.

    python scripts/train_digits.py [FOLDER]

The data are the 1,797 hand-written digits of 8x8 pixels that scikit-learn carries (UCI Machine Learning
Repository, "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, 1998). 70 % of them
train a network of 64-32-10; the rest are written to `digits.npz` and never seen by the training.
Every random choice is seeded: on one machine, two runs write the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0
HIDDEN = 32
PASSES = 80
BRIGHTEST = 16.0
DEMO = Path(__file__).resolve().parents[1] / "python" / "inferlite" / "demo"

# Old enough for every onnxruntime that inferlite runs on.
IR_VERSION = 8
OPSET = 17


def train(pixels: NDArray[np.float64], labels: NDArray[np.int64]) -> MLPClassifier:
    """Fit the network on `pixels` (n, 64), each from 0 to 1, and `labels` (n,)."""
    network = MLPClassifier((HIDDEN,), alpha=1e-3, learning_rate_init=5e-3, random_state=SEED)
    # `fit` warns when the loss still falls at the last pass; this many passes are all that is wanted.
    for _ in range(PASSES):
        network.partial_fit(pixels, labels, classes=np.arange(10))
    return network


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """Write the network's layers as an ONNX graph that takes the raw pixels, 0 to 16."""
    first, second = (weights.astype(np.float32) for weights in network.coefs_)
    first_bias, second_bias = (bias.astype(np.float32) for bias in network.intercepts_)
    weights = {
        # The scaling of the pixels is folded into the first layer.
        "hidden.weight": first / np.float32(BRIGHTEST),
        "hidden.bias": first_bias,
        "scores.weight": second,
        "scores.bias": second_bias,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "hidden.weight", "hidden.bias"], ["sums"], name="hidden"),
            helper.make_node("Relu", ["sums"], ["activations"], name="activation"),
            helper.make_node("Gemm", ["activations", "scores.weight", "scores.bias"], ["scores"], name="scores"),
            helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax", axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], name="answer", axis=1, keepdims=0),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="inferlite",
        producer_version="scripts/train_digits.py",
        doc_string="Hand-written digits of 8x8 pixels (0 to 16), trained on scikit-learn's copy of the UCI data set.",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main(folder: Path = DEMO) -> None:
    """Train, and write `digits.onnx` and `digits.npz` (pixels uint8 (n, 64), labels uint8 (n,)) into `folder`."""
    data = load_digits()
    train_pixels, pixels, train_labels, labels = train_test_split(
        data.data, data.target, test_size=0.3, stratify=data.target, random_state=SEED
    )
    network = train(train_pixels / BRIGHTEST, train_labels)
    model = folder / "digits.onnx"
    model.write_bytes(to_onnx(network).SerializeToString(deterministic=True))
    samples = folder / "digits.npz"
    np.savez_compressed(samples, pixels=pixels.astype(np.uint8), labels=labels.astype(np.uint8))
    correct = int((network.predict(pixels / BRIGHTEST) == labels).sum())
    print(f"{correct} of {len(labels)} held-out digits are right ({correct / len(labels):.1%})")
    for path in (model, samples):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
