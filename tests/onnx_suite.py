"""The backend test suite that the onnx package generates: its cases as plain data, and how onnxruntime ends on them.

A case is a model with inputs and the answers that ONNX expects. onnxruntime does not pass all of them (types that its
Python cannot take, operators it does not have); how it ends is what inferlite is held to.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import oracle
from inferlite.metadata import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

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

WAYS = ("run", "run_with_ort_values", "run_with_iobinding")


def end(case: Case, package: Any, way: str = "run") -> oracle.Outcome:
    """Load the case's model with one thread, run each of its examples RUNS times, and keep how that ended.

    Args:
        case: What to run.
        package: `inferlite` or `onnxruntime`, of which the classes are taken.
        way: The method of the session that runs it, one of WAYS.
    """

    def run() -> list[list[list[Any]]]:
        options = package.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = package.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        runs = 1 if case.name.startswith("real/") else RUNS
        answers = []
        for given, _ in case.examples:
            feed = {argument.name: value for argument, value in zip(inputs, given, strict=False)}
            call = _call(package, session, feed, way)
            answers.append([call() for _ in range(runs)])
        return answers

    return oracle.outcome(run)


def _call(package: Any, session: Any, feed: dict[str, Any], way: str) -> Callable[[], list[Any]]:
    """A call without arguments that runs the feed and gives arrays, lists and None."""
    if way == "run":
        return lambda: session.run(None, feed)
    # What is not fed is what a model sees as an absent optional.
    present = {name: value for name, value in feed.items() if value is not None}
    if way == "run_with_ort_values":
        types = {argument.name: argument.type for argument in session.get_inputs()}
        values = {name: _ort_value(package, value, types[name]) for name, value in present.items()}
        return lambda: [_content(value) for value in session.run_with_ort_values(None, values)]
    binding = session.io_binding()
    for name, value in present.items():
        binding.bind_cpu_input(name, value)
    outputs = [argument.name for argument in session.get_outputs()]

    def call() -> list[Any]:
        # Bound anew each time: the shape of an output may depend on random numbers.
        for name in outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    return call


def _ort_value(package: Any, value: Any, type_string: str) -> Any:
    if isinstance(value, (list, tuple)) and package is not onnxruntime:
        element = re.search(r"tensor\((\w+)\)", type_string)
        return package.OrtValue.ortvalue_from_sequence(value, element and DTYPES[element[1]].replace("string", "str"))
    return package.OrtValue.ortvalue_from_numpy(value)


def _content(value: Any) -> Any:
    if not value.has_value():
        return None
    return value.numpy() if value.is_tensor() or not hasattr(value, "value") else value.value()


@cache
def _end_of_onnxruntime(index: int) -> oracle.Outcome:
    return end(load()[index], onnxruntime)


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
