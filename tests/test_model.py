"""`load` and `Model`: what they take, what they give, and their texts, on both back ends."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime
import pytest

import inferlite
from inferlite.exceptions import (
    BackendUnavailableError,
    InvalidInputError,
    ModelClosedError,
    ModelLoadError,
    ModelRunError,
)
from inferlite.metadata import Latency, Signature, Stats, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from inferlite import Model

pytestmark = pytest.mark.usefixtures("backend")

ADD = "add"
DOUBLE = "double"


def _load(name: str, **arguments: Any) -> Model:
    return inferlite.load(make_models.build(name), **{"name": name, **arguments})


def _parsed(text: str, name: str = "model") -> Model:
    return inferlite.load(make_models.parse(text), name=name)


def _ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def _message(call: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# --- what load takes


def test_a_model_is_loaded_from_a_path_bytes_and_a_file(tmp_path: Path) -> None:
    content = make_models.build(DOUBLE)
    path = tmp_path / "twice.v2.onnx"
    path.write_bytes(content)
    with path.open("rb") as file:
        sources: dict[Any, str] = {str(path): "twice.v2", path: "twice.v2"}
        models = [(inferlite.load(source), name) for source, name in sources.items()]
        models += [(inferlite.load(source), DOUBLE) for source in (content, bytearray(content), memoryview(content))]
        models += [(inferlite.load(source), DOUBLE) for source in (file, io.BytesIO(content))]
    for model, name in models:
        assert model.name == name
        assert model(_ones(1, 4)).tolist() == [[2.0] * 4]


def test_a_given_name_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(make_models.build(DOUBLE))
    assert inferlite.load(path, name="mine").name == "mine"


@pytest.mark.parametrize("source", [None, 3, [], object()], ids=["None", "a number", "a list", "an object"])
def test_a_source_of_another_type_is_refused(source: Any) -> None:
    text = _message(lambda: inferlite.load(source), TypeError)
    assert text == f"`load` takes a path, bytes or a binary file object, not {type(source).__name__}"


def test_a_text_file_is_refused() -> None:
    text = _message(lambda: inferlite.load(io.StringIO("text")), TypeError)  # type: ignore[arg-type]
    assert text == "`load` takes a file object that is opened in binary mode"


def test_the_native_engine_is_not_there_yet() -> None:
    text = _message(lambda: _load(DOUBLE, engine="native"), BackendUnavailableError)
    assert text == 'the native engine is not there yet: pass `engine="auto"` or `engine="onnxruntime"`'


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_the_engine_says_its_name(engine: Any) -> None:
    assert _load(DOUBLE, engine=engine).engine == "onnxruntime"


def test_an_unknown_engine_is_refused() -> None:
    text = _message(lambda: _load(DOUBLE, engine="fast"), ValueError)
    assert text == "`engine` must be `auto`, `onnxruntime` or `native`, not `fast`"


@pytest.mark.parametrize("hold_gil", ["auto", True, False])
def test_every_way_to_hold_the_gil_gives_the_answer(hold_gil: Any) -> None:
    assert _load(DOUBLE, hold_gil=hold_gil)(_ones(1, 4)).tolist() == [[2.0] * 4]


def test_hold_gil_of_another_type_is_refused() -> None:
    text = _message(lambda: _load(DOUBLE, hold_gil="yes"), ValueError)
    assert text == "`hold_gil` must be True, False or \"auto\", not 'yes'"


def test_options_and_providers_are_taken() -> None:
    options = inferlite.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", 1)
    model = _load(DOUBLE, session_options=options, providers=["CPUExecutionProvider"], provider_options=[{}])
    assert model.signature.inputs[0].shape == (1, 4)
    assert options.intra_op_num_threads == 1
    options = inferlite.SessionOptions()
    _load(DOUBLE, session_options=options)
    assert options.intra_op_num_threads == 0, "the caller's options stay as they are"
    model = _load(DOUBLE, session_options=onnxruntime.SessionOptions())
    assert model(_ones(1, 4)).tolist() == [[2.0] * 4]


def test_malformed_providers_are_a_value_error() -> None:
    assert _message(lambda: _load(DOUBLE, providers=5), ValueError) == "'providers' should be a sequence."


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_an_unknown_provider_does_not_load() -> None:
    text = _message(lambda: _load(DOUBLE, providers=["x"]), ModelLoadError)
    assert text == "model `double` cannot be loaded: Unknown Provider Type: x"


# --- what does not load


def _runtime_text(source: Any) -> str:
    """What onnxruntime says, without the code in front."""
    try:
        onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its classes have no base of their own
        return str(error).split(" : ", maxsplit=3)[-1].strip()
    message = "onnxruntime loads this"
    raise AssertionError(message)


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "garbage": b"\x00garbage" * 9,
    "truncated": make_models.build("mlp")[:-20],
    "no kernel": make_models.parse("g (float[n] x) => (float[n] y) { y = com.example.Nothing(x) }"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_model_says_what_onnxruntime_says(content: bytes) -> None:
    text = _message(lambda: inferlite.load(content, name="broken"), ModelLoadError)
    assert text == f"model `broken` cannot be loaded: {_runtime_text(content)}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.onnx"
    text = _message(lambda: inferlite.load(path), ModelLoadError)
    assert text == f"model `missing` cannot be loaded: {_runtime_text(str(path))}"


def test_a_broken_model_without_a_name_is_called_model() -> None:
    assert _message(lambda: inferlite.load(b""), ModelLoadError).startswith("model `model` cannot be loaded: ")


# --- the signature

SIGNATURES: dict[str, tuple[list[tuple[str, str, Any]], list[tuple[str, str, Any]]]] = {
    "double": ([("x", "float32", ("batch", 4))], [("y", "float32", ("batch", 4))]),
    "add": (
        [("a", "float32", ("batch", 4)), ("b", "float32", ("batch", 4))],
        [("c", "float32", ("batch", 4))],
    ),
    "two_outputs": ([("x", "float32", ("n",))], [("negative", "float32", ("n",)), ("small", "bool", ("n",))]),
    "default_input": ([("x", "float32", (2,))], [("y", "float32", (2,))]),
    "scalar": ([("x", "float32", None)], [("y", "float32", None)]),
    "unknown_rank": ([("x", "float32", None)], [("y", "float32", None)]),
    "unnamed": ([("x", "float32", (None, 2))], [("y", "float32", (None, 2))]),
    "strings": ([("x", "string", ("n",))], [("y", "string", ("n",))]),
    "sequence": ([("s", "seq(tensor(float))", None)], [("t", "seq(tensor(float))", None)]),
    "optional_input": ([("o", "optional(tensor(float))", None)], [("present", "bool", None)]),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_names_dtypes_as_numpy_does(name: str) -> None:
    inputs, outputs = SIGNATURES[name]
    assert _load(name).signature == Signature(
        tuple(TensorSpec(*spec) for spec in inputs), tuple(TensorSpec(*spec) for spec in outputs)
    )


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, kind) for kind in ("int8", "uint16", "int64", "bool", "float16")), ("double", "float64")],
)
def test_dtypes_of_a_signature_are_numpys(kind: str, dtype: str) -> None:
    model = inferlite.load(make_models.identity(kind, "[n]"))
    assert model.signature.inputs[0].dtype == model.signature.outputs[0].dtype == dtype
    x = np.ones(3, dtype)
    assert model(x).dtype == x.dtype


# --- ways to call


def test_one_input_may_come_in_every_way() -> None:
    model, x = _load(DOUBLE), _ones(2, 4)
    for given in (model(x), model({"x": x}), model(x=x), model.predict(x), model.predict({"x": x}), model.predict(x=x)):
        assert isinstance(given, np.ndarray)
        assert given.tolist() == [[2.0] * 4] * 2


def test_several_inputs_come_by_name() -> None:
    model, a, b = _load(ADD), _ones(1, 4), _ones(1, 4) * 2
    assert model({"b": b, "a": a}).tolist() == model(a=a, b=b).tolist() == [[3.0] * 4]


def test_several_outputs_are_a_dict_in_the_models_order() -> None:
    result = _load("two_outputs")(np.array([-1, 1], np.float32))
    assert list(result) == ["negative", "small"]
    assert result["negative"].tolist() == [1.0, -1.0]
    assert result["small"].tolist() == [True, False]


@pytest.mark.parametrize("cache", [None, "1MB"])
def test_a_call_is_predict_in_whatever_form_it_is_made(cache: str | None) -> None:
    model = _load(DOUBLE, cache=cache)
    x = _ones(1, 4)
    for args, named in [
        ((x,), {}),
        ((x,), {"outputs": "y"}),
        ((x,), {"outputs": None, "timeout": None}),
        (({"x": x},), {}),
        ((), {"x": x}),
        ((), {"x": x, "outputs": ["y"]}),
        ((), {"x": x, "timeout": 30.0}),
    ]:
        answers = [model(*args, **named), model.__call__(*args, **named), type(model).__call__(model, *args, **named)]
        for answer in [*answers, model.predict(*args, **named)]:
            np.testing.assert_array_equal(answer, 2 * x, strict=True)
    for args, named in [((), {}), ((x, x), {}), ((x,), {"x": x}), ((), {"z": x}), ((x,), {"timeout": "soon"})]:
        with pytest.raises((TypeError, InvalidInputError)) as called:
            model(*args, **named)
        with pytest.raises(type(called.value)) as predicted:
            model.predict(*args, **named)
        said = str(predicted.value)
        assert str(called.value) in {said, said.replace("predict()", "__call__()")}
    with pytest.raises(TypeError, match=r"'__call__'|argument"):
        type(model).__call__()  # type: ignore[call-arg]


def test_requested_outputs_come_in_the_callers_order() -> None:
    model, x = _load("two_outputs"), np.array([-1], np.float32)
    assert model(x, outputs=["small"]).tolist() == [True]
    assert model(x, outputs="small").tolist() == [True]
    assert list(model(x, outputs=["small", "negative"])) == ["small", "negative"]
    assert list(model(x, outputs=("negative", "small"))) == ["negative", "small"]
    assert list(model(x, outputs=[])) == list(model(x, outputs=None)) == ["negative", "small"]


@pytest.mark.parametrize("outputs", [5, {"negative"}, {"small": 1}, iter(["small"]), True])
def test_outputs_without_an_order_are_refused(outputs: Any) -> None:
    model = _load("two_outputs")
    text = _message(lambda: model(_ones(1), outputs=outputs), InvalidInputError)
    assert text == (
        f"`outputs` of model `{model.name}` must be a name or a list of names, not {type(outputs).__name__}"
    )


def test_an_input_with_a_default_may_be_given() -> None:
    model, x = _load("default_input"), np.array([1, 1], np.float32)
    assert model(x).tolist() == [1.0, 2.0]
    assert model(x=x, w=np.array([3, 4], np.float32)).tolist() == [3.0, 4.0]
    assert model({"x": x, "w": [5, 6]}).tolist() == [5.0, 6.0]


def test_inputs_may_be_called_as_the_arguments_are() -> None:
    model = _parsed("g (float[n] inputs, float[n] outputs) => (float[n] y) { y = Add(inputs, outputs) }")
    assert model({"inputs": _ones(1), "outputs": _ones(1)}).tolist() == [2.0]
    model = _parsed("g (float[n] inputs) => (float[n] y) { y = Neg(inputs) }")
    assert model(inputs=_ones(1)).tolist() == [-1.0]


def test_an_optional_input_may_be_left_out_or_none() -> None:
    model = _load("optional_input")
    assert model(o=np.ones(2, np.float32)).tolist() is True
    assert model({}).tolist() is False
    assert model(o=None).tolist() is False


class _Array:
    """What numpy makes an array of."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.array if dtype is None else self.array.astype(dtype)


CONVERTED: dict[str, Any] = {
    "lists": [[1, 2, 3, 4]],
    "tuples": ((1, 2, 3, 4),),
    "lists of arrays": [np.array([1.0, 2.0, 3.0, 4.0])],
    "an array-like": _Array(np.array([[1, 2, 3, 4]], np.float32)),
    "a buffer": memoryview(np.array([[1, 2, 3, 4]], np.float32)),
    "Fortran order": np.asfortranarray(np.array([[1, 2, 3, 4]], np.float32)),
    "strides": np.array([[1, 0, 2, 0, 3, 0, 4, 0]], np.float32)[:, ::2],
    "another byte order": np.array([[1, 2, 3, 4]], ">f4"),
    "read-only": np.frombuffer(np.array([1, 2, 3, 4], np.float32).tobytes(), np.float32).reshape(1, 4),
    "a subclass": np.array([[1, 2, 3, 4]], np.float32).view(np.matrix),
}


@pytest.mark.parametrize("value", CONVERTED.values(), ids=CONVERTED)
def test_what_holds_the_right_numbers_is_taken(value: Any) -> None:
    given = _load(DOUBLE)(value)
    assert given.dtype == np.float32
    assert given.tolist() == [[2.0, 4.0, 6.0, 8.0]]


@pytest.mark.parametrize(("kind", "value"), [("float", 1.5), ("double", 1.5), ("int64", 3), ("bool", True)])
def test_pythons_own_numbers_become_scalars(kind: str, value: Any) -> None:
    given = inferlite.load(make_models.identity(kind))(value)
    assert given.shape == ()
    assert given.tolist() == value


STRINGS: dict[str, Any] = {
    "a list": ["a", "é"],
    "text": np.array(["a", "é"]),
    "objects": np.array(["a", "é"], object),
    "bytes": np.array([b"a", "é".encode()]),
    "text of another byte order": np.array(["a", "é"], ">U1"),
}


@pytest.mark.parametrize("value", STRINGS.values(), ids=STRINGS)
def test_strings_come_in_every_form(value: Any) -> None:
    given = _load("strings")(value)
    assert given.dtype == object
    assert given.tolist() == ["a", "é"]


def test_sequences_and_maps_pass() -> None:
    (item,) = _load("sequence")([_ones(2)])
    assert item.tolist() == [1.0, 1.0]
    (item,) = _load("sequence")(s=[_ones(2)])
    assert item.tolist() == [1.0, 1.0]
    model = inferlite.load(make_models.map_input("string"))
    assert model({"m": {"a": 1.0, "c": 2.0}}).tolist() == [[1.0, 0.0, 2.0]]
    probabilities = _load("zipmap")(_ones(1, 4), outputs="probabilities")
    assert [(key, column.shape) for key, column in probabilities.items()] == [(1, (1,)), (2, (1,)), (3, (1,))]


def test_answers_are_the_sessions() -> None:
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    content = make_models.dense(16, 32, 4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    wanted = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    given = inferlite.load(content, session_options=options)(x)
    assert given.tobytes() == wanted.tobytes()


def test_what_is_returned_belongs_to_the_caller() -> None:
    model, x = _load("passthrough"), _ones(2)
    first = model(x)
    first["x"][:] = 7
    first["y"][:] = 7
    assert x.tolist() == [1.0, 1.0]
    assert model(x)["y"].tolist() == [-1.0, -1.0]


# --- what is refused, in full

REFUSED: dict[str, tuple[str, Any, str]] = {
    "rank": ("double", lambda m: m(_ones(4)), "input `x` has shape [4], but model `double` expects [batch, 4]"),
    "rank of a scalar": (
        "double",
        lambda m: m(1.0),
        "input `x` has shape [], but model `double` expects [batch, 4]",
    ),
    "dims": (
        "double",
        lambda m: m(_ones(2, 3)),
        "input `x` has shape [2, 3], but model `double` expects [batch, 4]",
    ),
    "dims of an unnamed axis": (
        "unnamed",
        lambda m: m(_ones(2, 3)),
        "input `x` has shape [2, 3], but model `unnamed` expects [?, 2]",
    ),
    "fixed dims": (
        "fixed",
        lambda m: m(_ones(0, 4)),
        "input `x` has shape [0, 4], but model `fixed` expects [1, 4]",
    ),
    "dtype": (
        "double",
        lambda m: m(np.ones((1, 4))),
        "input `x` has dtype float64, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    ),
    "dtype before shape": (
        "double",
        lambda m: m(np.ones(3, np.int32)),
        "input `x` has dtype int32, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    ),
    "numpy's number": (
        "double",
        lambda m: m(np.float64(1)),
        "input `x` has dtype float64, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    ),
    "None in a mapping": (
        "double",
        lambda m: m(x=None),
        "input `x` has dtype object, but model `double` expects float32: pass `numpy.asarray(x).astype(numpy.float32)`",
    ),
    "objects": (
        "double",
        lambda m: m(object()),
        "input `x` has dtype object, but model `double` expects float32: pass `numpy.asarray(x).astype(numpy.float32)`",
    ),
    "text for numbers": (
        "double",
        lambda m: m(np.array(["1"])),
        "input `x` has dtype str32, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    ),
    "complex numbers": (
        "double",
        lambda m: m(np.ones((1, 4), complex)),
        "input `x` has dtype complex128, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    ),
    "numbers for text": (
        "strings",
        lambda m: m(_ones(2)),
        "input `x` has dtype float32, but model `strings` expects string: pass `x.astype(str)`",
    ),
    "another name": ("double", lambda m: m(q=_ones(1, 4)), "model `double` has no input `q`: it takes `x`"),
    "another name in a mapping": (
        "double",
        lambda m: m({"x": _ones(1, 4), "q": 1}),
        "model `double` has no input `q`: it takes `x`",
    ),
    "a name that is no string": ("double", lambda m: m({1: 1}), "model `double` has no input `1`: it takes `x`"),
    "another name of several": (
        "add",
        lambda m: m(a=1, b=1, q=1),
        "model `add` has no input `q`: it takes `a`, `b`",
    ),
    "a missing input": (
        "add",
        lambda m: m(a=_ones(1, 4)),
        "input `b` is missing: model `add` takes `a`, `b`",
    ),
    "the first missing input": ("add", lambda m: m({}), "input `a` is missing: model `add` takes `a`, `b`"),
    "nothing": ("double", lambda m: m(), "input `x` is missing: model `double` takes `x`"),
    "None": ("double", lambda m: m(None), "input `x` is missing: model `double` takes `x`"),
    "an unknown output": (
        "double",
        lambda m: m(_ones(1, 4), outputs=["z"]),
        "model `double` has no output `z`: it gives `y`",
    ),
    "an unknown output of several": (
        "two_outputs",
        lambda m: m(_ones(1), outputs="z"),
        "model `two_outputs` has no output `z`: it gives `negative`, `small`",
    ),
    "one value for two inputs": (
        "add",
        lambda m: m(_ones(1, 4)),
        "model `add` takes 2 inputs (`a`, `b`): pass a mapping or keyword arguments",
    ),
    "position and name": (
        "add",
        lambda m: m({"a": _ones(1, 4)}, b=_ones(1, 4)),
        "model `add` takes a mapping or keyword arguments, not both",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_was_given_and_what_was_wanted(case: str) -> None:
    name, call, text = REFUSED[case]
    assert _message(lambda: call(_load(name)), InvalidInputError) == text


def test_bool_is_called_as_every_numpy_knows_it() -> None:
    model = inferlite.load(make_models.identity("bool", "[n]"), name="m")
    text = _message(lambda: model(_ones(1)), InvalidInputError)
    assert text == "input `x` has dtype float32, but model `m` expects bool: pass `x.astype(numpy.bool_)`"


def _endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def _deep(depth: int) -> list[Any]:
    items: list[Any] = [1.0]
    for _ in range(depth):
        items = [items]
    return items


UNCONVERTIBLE: dict[str, Any] = {
    "ragged": [[1.0], [1.0, 2.0]],
    "itself": _endless(),
    "deep": _deep(5000),
}


@pytest.mark.parametrize("value", UNCONVERTIBLE.values(), ids=UNCONVERTIBLE)
def test_lists_that_are_no_array_say_what_numpy_says(value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _load(DOUBLE)(value)
    with pytest.raises((ValueError, RecursionError)) as numpys:
        np.asarray(value)
    assert str(caught.value) == f"input `x` cannot be made an array of float32: {numpys.value}"
    assert type(caught.value.__cause__) is type(numpys.value)


def _accepting(kind: str) -> Model:
    return inferlite.load(make_models.identity(kind), name="m")


HELD: dict[str, tuple[str, Any, Any]] = {
    "integers as floats": ("float", [1, 2], [1.0, 2.0]),
    "integers that floats round": ("float", [2**24 + 1], [2.0**24]),
    "integers beyond 64 bits as floats": ("double", [2**70, 0.5], [2.0**70, 0.5]),
    "an integer beyond 64 bits as a float": ("float", 2**70, 2.0**70),
    "fractions that floats round": ("float16", [0.1], [float(np.float16(0.1))]),
    "bools as integers": ("int8", [True, 2], [1, 2]),
    "bools as floats": ("float", (True, 0.5), [1.0, 0.5]),
    "infinity and nan": ("float16", [np.inf, -np.inf, 1.0], [np.inf, -np.inf, 1.0]),
    "the ends of a type": ("int8", [-128, 127], [-128, 127]),
    "integers beyond int64": ("uint64", [2**64 - 1, 1], [2**64 - 1, 1]),
    "numbers of numpy": ("float", [np.float64(0.5), np.int8(2), np.array(1.5)], [0.5, 2.0, 1.5]),
    "integers of numpy": ("uint8", [np.int64(255), np.arange(2)[1]], [255, 1]),
    "an empty list for integers": ("int64", [], []),
    "an empty list for bools": ("bool", [[]], [[]]),
    "a range": ("int64", range(3), [0, 1, 2]),
    "a range as floats": ("float", range(2), [0.0, 1.0]),
    "a list of ranges": ("int32", [range(2), range(2)], [[0, 1], [0, 1]]),
    "an empty list for strings": ("string", [], []),
    "anything as strings": ("string", ["a", 1, None], ["a", "1", "None"]),
    "one string": ("string", "a\0", "a\0"),
}


@pytest.mark.parametrize("case", HELD)
def test_values_are_converted_where_the_type_holds_them(case: str) -> None:
    kind, value, wanted = HELD[case]
    given = _accepting(kind)(value)
    assert given.tolist() == wanted


OF_ANOTHER_KIND: dict[str, tuple[str, Any, str]] = {
    "a fraction for integers": ("int64", [1.5], "float64"),
    "fractions among integers": ("int64", [1, 2.5], "float64"),
    "a whole float for integers": ("int64", 2.0, "float64"),
    "a float among integers beyond int64": ("uint64", [2**63, 2.0], "float64"),
    "a number of numpy for integers": ("int64", [np.float32(1)], "float32"),
    "an array for integers": ("int8", [np.array([1.5])], "float64"),
    "an integer for bools": ("bool", [2], "int64"),
    "integers among bools": ("bool", [True, 0], "int64"),
    "a float for bools": ("bool", 0.0, "float64"),
    "text for integers": ("int64", "5", "str32"),
    "text for bools": ("bool", "x", "str32"),
    "text among numbers": ("float", [1.5, "2"], "str1024"),
    "bytes for numbers": ("float", [b"1"], "bytes8"),
    "complex numbers": ("float", [1j], "complex128"),
    "None for floats": ("float", [None, 1.0], "object"),
    "objects for floats": ("float", [[object()]], "object"),
    "dates for integers": ("int64", [np.datetime64(0, "s")], "datetime64[s]"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_values_of_another_kind_are_refused(case: str) -> None:
    kind, value, given = OF_ANOTHER_KIND[case]
    wanted = {"float": "float32"}.get(kind, kind)
    remedy = "numpy.bool_" if wanted == "bool" else f"numpy.{wanted}"
    assert _message(lambda: _accepting(kind)(value), InvalidInputError) == (
        f"input `x` has dtype {given}, but model `m` expects {wanted}: pass `numpy.asarray(x).astype({remedy})`"
    )


OUT_OF_RANGE: dict[str, tuple[str, Any, str]] = {
    "too large": ("uint8", [300], "from 0 to 255"),
    "negative": ("uint64", [-1], "from 0 to 18446744073709551615"),
    "one of many": ("int8", [[0, 1], [2, -129]], "from -128 to 127"),
    "beyond 64 bits": ("int64", 2**70, "from -9223372036854775808 to 9223372036854775807"),
    "more digits than Python writes": ("int32", [10**5000], "from -2147483648 to 2147483647"),
    "beyond int64 and negative": ("int64", [2**63, -1], "from -9223372036854775808 to 9223372036854775807"),
    "numbers of numpy": ("uint8", [np.int64(300)], "from 0 to 255"),
    "an array": ("uint8", [np.array([300])], "from 0 to 255"),
    "a float": ("float", [1.0, 1e40], "from -3.40282e+38 to 3.40282e+38"),
    "a negative float": ("float16", -7e4, "from -65504 to 65504"),
    "an integer for half": ("float16", [70000], "from -65504 to 65504"),
    "an integer beyond 64 bits for half": ("float16", [2**70], "from -65504 to 65504"),
    "an integer beyond every float": ("double", [10**5000], "from -1.79769e+308 to 1.79769e+308"),
}


@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused(case: str) -> None:
    kind, value, limits = OUT_OF_RANGE[case]
    wanted = {"float": "float32", "double": "float64"}.get(kind, kind)
    assert _message(lambda: _accepting(kind)(value), InvalidInputError) == (
        f"input `x` has numbers out of range, but model `m` expects {wanted}: pass numbers {limits}"
    )


def test_the_remedy_for_what_is_no_array_makes_one() -> None:
    text = _message(lambda: _load(DOUBLE)({1.5}), InvalidInputError)
    assert text == (
        "input `x` has dtype object, but model `double` expects float32: pass `numpy.asarray(x).astype(numpy.float32)`"
    )


def test_text_that_is_no_utf_8_is_an_invalid_input() -> None:
    with pytest.raises(InvalidInputError, match=r"^model `strings` refuses its inputs: 'utf-8' codec can't decode"):
        _load("strings")(np.array([b"\xff"]))
    for array in (np.array(["\ud800"]), np.array(["\ud800"], object)):
        with pytest.raises(InvalidInputError, match=r"^model `strings` refuses its inputs: .*surrogates not allowed$"):
            _load("strings")(array)


def test_what_is_no_sequence_is_an_invalid_input() -> None:
    text = _message(lambda: _load("sequence")([1.0]), InvalidInputError)
    assert text == "model `sequence` refuses its inputs: CreateSequenceOfTensors: Input is not a tensor"


def test_a_failing_node_is_the_models_failure() -> None:
    model = _load("failing")
    a, b = _ones(2, 3), _ones(4, 5)
    session = onnxruntime.InferenceSession(make_models.build("failing"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="mm") as wanted:
        session.run(None, {"a": a, "b": b})
    text = _message(lambda: model(a=a, b=b), ModelRunError)
    assert text.startswith("model `failing` failed: Non-zero status code returned while running MatMul node. Name:'mm'")
    assert text.removeprefix("model `failing` failed: ") in str(wanted.value)
    assert model.stats().calls == 0


# --- stats


def test_a_new_model_has_counted_nothing() -> None:
    assert _load(DOUBLE).stats() == Stats(0, 0, Latency(0, 0.0, 0.0, 0.0, 0.0, 0.0))


def test_calls_rows_and_latency_are_counted() -> None:
    model = _load(DOUBLE)
    for rows in (1, 2, 0, 5):
        model(_ones(rows, 4))
    with pytest.raises(InvalidInputError):
        model(_ones(4))
    stats = model.stats()
    assert (stats.calls, stats.rows, stats.latency.count) == (4, 8, 4)
    latency = stats.latency
    assert 0 < latency.mean <= latency.max < 10
    assert 0 < latency.p50 <= latency.p95 <= latency.p99 <= latency.max


@pytest.mark.parametrize(
    ("name", "call", "rows"),
    [
        ("fixed", lambda m: m(_ones(1, 4)), 1),
        ("default_input", lambda m: m(_ones(2)), 1),
        ("scalar", lambda m: m(1.0), 1),
        ("unknown_rank", lambda m: m(_ones(7)), 1),
        ("sequence", lambda m: m([_ones(3), _ones(4)]), 1),
        ("unnamed", lambda m: m(_ones(3, 2)), 3),
        ("add", lambda m: m(b=_ones(3, 4), a=_ones(3, 4)), 3),
        ("reshape", lambda m: m({"shape": np.array([2, 2]), "x": _ones(4)}), 4),
        ("strings", lambda m: m(["a", "b"]), 2),
    ],
)
def test_rows_are_counted_along_a_dynamic_first_axis(name: str, call: Any, rows: int) -> None:
    model = _load(name)
    call(model)
    assert (model.stats().calls, model.stats().rows) == (1, rows)


# --- closing


def test_a_closed_model_says_so() -> None:
    model = _load(DOUBLE)
    model(_ones(2, 4))
    assert model.closed is False
    model.close()
    model.close()
    assert model.closed is True
    for call in (lambda: model(_ones(1, 4)), lambda: model.predict(x=_ones(1, 4)), lambda: model(q=1)):
        assert _message(call, ModelClosedError) == "model `double` is closed"
    assert (model.name, model.engine, model.stats().calls) == (DOUBLE, "onnxruntime", 1)
    assert model.signature.inputs[0].name == "x"


def test_a_block_closes_the_model() -> None:
    with _load(DOUBLE) as model:
        assert model(_ones(1, 4)).tolist() == [[2.0] * 4]
    assert model.closed
    with pytest.raises(KeyError), _load(DOUBLE) as model:
        raise KeyError
    assert model.closed


def test_many_threads_call_one_model() -> None:
    model = _load(DOUBLE)

    def call(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((1 + seed % 5, 4)).astype(np.float32)
        for _ in range(50):
            assert model(x).tobytes() == (x + x).tobytes()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(call, seed) for seed in range(16)]:
            future.result()
    assert model.stats().calls == 16 * 50
    assert model.stats().rows == sum(1 + seed % 5 for seed in range(16)) * 50


def test_calls_under_way_end_well_when_the_model_is_closed() -> None:
    model, x = _load("mlp"), _ones(4, _load("mlp").signature.inputs[0].shape[1])  # type: ignore[index, arg-type]
    wanted = model(x).tobytes()
    start, endings = threading.Barrier(9), []

    def call() -> None:
        start.wait()
        while True:
            try:
                assert model(x).tobytes() == wanted
            except ModelClosedError as error:
                endings.append(str(error))
                return

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    while model.stats().calls < 100:
        pass
    model.close()
    for thread in threads:
        thread.join()
    assert endings == ["model `mlp` is closed"] * 8


def test_a_model_shows_its_name() -> None:
    model = _load(DOUBLE)
    assert repr(model) == "<inferlite.Model `double` on onnxruntime>"
    model.close()
    assert repr(model) == "<inferlite.Model `double` on onnxruntime, closed>"


def test_the_class_is_the_active_back_ends() -> None:
    assert type(_load(DOUBLE)) is inferlite.Model


def test_an_optional_tensor_is_read_as_any_other() -> None:
    model = _parsed("g (optional(int64[n]) o) => (int64[n] y) { y = OptionalGetElement(o) }", "m")
    for value in ([1, 2], (1, 2), range(1, 3), np.array([1, 2])):
        assert model(o=value).tolist() == [1, 2]
    for value, text in {
        1.5: "has dtype float64, but model `m` expects int64: pass `numpy.asarray(o).astype(numpy.int64)`",
        1: "has shape [], but model `m` expects [n]",
    }.items():
        assert _message(lambda value=value: model(o=value), InvalidInputError) == f"input `o` {text}"
