"""The backend test suite that the onnx package generates: its cases as plain data, and how onnxruntime ends on them.

A case is a model with inputs and the answers that ONNX expects. onnxruntime does not pass all of them (types that its
Python cannot take, operators it does not have); how it ends is what inferlite is held to.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import oracle

KINDS = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")
LIGHT = "onnx/backend/test/data/light/"


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the suite.

    Attributes:
        name: Its name in the suite, with its kind.
        model: The model's bytes.
        examples: Pairs of inputs by position and expected outputs.
        rtol: Relative tolerance of the suite for this case.
        atol: Absolute tolerance of the suite for this case.
    """

    name: str
    model: bytes
    examples: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


@cache
def load() -> tuple[Case, ...]:
    """Every case, sorted by name."""
    with warnings.catch_warnings():
        # The generators divide by zero and overflow on purpose.
        warnings.simplefilter("ignore")
        cases = [_case(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    return tuple(sorted(cases, key=lambda case: case.name))


def _case(kind: str, case: Any) -> Case:
    name = f"{kind}/{case.name}"
    if case.model is not None:
        examples = [
            ([_plain(value) for value in inputs], [_plain(value) for value in outputs])
            for inputs, outputs in case.data_sets
        ]
        return Case(name, case.model.SerializeToString(), tuple(examples), case.rtol, case.atol)
    if case.model_dir is not None:
        folder = Path(case.model_dir)
        model = (folder / "model.onnx").read_bytes()
        return Case(name, model, tuple(_stored(folder, onnx.load_from_string(model).graph)), case.rtol, case.atol)
    # The light models are known architectures with constant weights; their input is made, their answer is stored.
    path = Path(onnx.__file__).parent.parent / case.url
    assert case.url.startswith(LIGHT), case.url
    model = path.read_bytes()
    return Case(name, model, (_light(path, onnx.load_from_string(model).graph),), case.rtol, case.atol)


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _stored(folder: Path, graph: onnx.GraphProto) -> list[tuple[list[Any], list[Any]]]:
    examples = []
    for data in sorted(folder.glob("test_data_set*")):
        inputs = [_read(data / f"input_{i}.pb", value.type) for i, value in enumerate(graph.input)]
        outputs = [_read(data / f"output_{i}.pb", value.type) for i, value in enumerate(graph.output)]
        examples.append((_present(inputs), _present(outputs)))
    return examples


def _present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not _MISSING]


_MISSING = object()


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    if not path.exists():
        return _MISSING
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _light(path: Path, graph: onnx.GraphProto) -> tuple[list[Any], list[Any]]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [Runner.generate_dummy_data(value, name=path.stem) for value in graph.input if value.name not in weights]
    outputs = [_read(path.with_name(f"{path.stem}_output_{i}.pb"), value.type) for i, value in enumerate(graph.output)]
    return inputs, outputs


# A session writes into memory that it has kept from earlier runs: the third run is the first that does so throughout.
RUNS = 4


def end(case: Case, session_class: Any, options_class: Any) -> oracle.Outcome:
    """Load the case's model with one thread, run each of its examples RUNS times, and keep how that ended."""

    def run() -> list[list[list[Any]]]:
        options = options_class()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = session_class(case.model, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        runs = 1 if case.name.startswith("real/") else RUNS
        feeds = [dict(zip(names, inputs, strict=False)) for inputs, _ in case.examples]
        return [[session.run(None, feed) for _ in range(runs)] for feed in feeds]

    return oracle.outcome(run)


@cache
def _end_of_onnxruntime(index: int) -> oracle.Outcome:
    return end(load()[index], onnxruntime.InferenceSession, onnxruntime.SessionOptions)


def judged(index: int) -> oracle.Outcome:
    """How onnxruntime ends on the case with this index in `load()`; asked once."""
    return _end_of_onnxruntime(index)


def passes(case: Case, ended: oracle.Outcome) -> bool:
    """Whether the answers are those that ONNX expects, within the suite's tolerances."""
    if ended.error is not None:
        return False
    answers = zip(case.examples, ended.value, strict=True)
    return all(_is_similar(given[0], expected, case) for (_, expected), given in answers)


def _is_similar(given: Any, expected: Any, case: Case) -> bool:
    # The suite's own comparison takes the items of a sequence for sequences and so fails on a sequence of scalars.
    if isinstance(given, list) and isinstance(expected, (list, tuple)):
        return len(given) == len(expected) and all(
            _is_similar(one, other, case) for one, other in zip(given, expected, strict=True)
        )
    try:
        Runner.assert_similar_outputs([expected], [given], case.rtol, case.atol)
    except (AssertionError, AttributeError, TypeError, ValueError):
        return False
    return True
