"""The judge of the drop-in: the installed onnxruntime says what an answer or an exception has to be.

`compare` runs one call on both sides and asserts that they end alike. Where inferlite is meant to end differently, a
row of DIFFERENCES says so; docs/dropin.md is made from that table, and `proves` ties every row to its test.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnxruntime

import inferlite

if TYPE_CHECKING:
    from collections.abc import Callable

# What the judge would warn about (declared shapes that are no truth) is what many tests are made of.
onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True, slots=True)
class Difference:
    """One case in which inferlite does not end as onnxruntime does.

    Attributes:
        case: What the caller does.
        onnxruntime: How the installed onnxruntime ends.
        inferlite: How inferlite ends, on both back ends unless the text names one.
        reason: Why inferlite does not follow.
    """

    case: str
    onnxruntime: str
    inferlite: str
    reason: str


DIFFERENCES = (
    Difference(
        case="bytes arrays (dtype `S`) as string tensors",
        onnxruntime="reads items that fill the width past their end",
        inferlite="takes exactly the bytes of each item, decoded as UTF-8",
        reason="wrong data and memory that is not the caller's to see",
    ),
    Difference(
        case="arrays of another byte order (`>f4`)",
        onnxruntime="takes the bytes as they lie, so the values are garbage",
        inferlite="swaps the bytes into a copy",
        reason="a silently wrong answer",
    ),
    Difference(
        case="outputs of types that numpy has from ml_dtypes",
        onnxruntime="RuntimeError, but float8e4m3fn as bytes of type uint8, and float4e2m1 as bytes of which the "
        "second half is memory that is not the tensor's",
        inferlite="arrays of these types of ml_dtypes; on the Python back end BackendUnavailableError where "
        "onnxruntime refuses",
        reason="every ONNX type has a type for arrays",
    ),
    Difference(
        case="arrays of types of ml_dtypes as inputs",
        onnxruntime="RuntimeError, whatever the input's type",
        inferlite="taken where the input is of that type, else InvalidArgument; BackendUnavailableError on the Python "
        "back end",
        reason="every ONNX type has a type for arrays",
    ),
    Difference(
        case="strings in an OrtValue",
        onnxruntime="RuntimeError",
        inferlite="taken, as are sequences and the types of ml_dtypes; BackendUnavailableError on the Python back end",
        reason="a value should hold whatever a model takes",
    ),
    Difference(
        case="strings and sequences in an IOBinding",
        onnxruntime="RuntimeError",
        inferlite="taken, as are the types of ml_dtypes; BackendUnavailableError on the Python back end",
        reason="a binding should take whatever `run` takes",
    ),
    Difference(
        case="`IOBinding.copy_outputs_to_cpu` before a run",
        onnxruntime="crashes the interpreter (segmentation fault)",
        inferlite="RuntimeError that says what to call first",
        reason="no input may crash the interpreter",
    ),
    Difference(
        case="`OrtValue.update_inplace` with an array of another dtype",
        onnxruntime="copies the bytes as they lie, so the values are garbage",
        inferlite="InvalidArgument, as for an input of another dtype",
        reason="a silently wrong answer",
    ),
    Difference(
        case="`ortvalue_from_numpy_with_onnx_type` of an array that is not in C order",
        onnxruntime="takes the bytes as they lie, so the values are permuted",
        inferlite="copies the array into C order",
        reason="a silently wrong answer",
    ),
    Difference(
        case="sparse indices outside of the tensor",
        onnxruntime="taken, and memory of others is read in a run",
        inferlite="InvalidArgument; the native back end copies them, so that none can be moved outside later",
        reason="no input may crash the interpreter",
    ),
    Difference(
        case="objects whose `str()` raises, as strings",
        onnxruntime="crashes the interpreter (segmentation fault)",
        inferlite="raises the exception of `str()`",
        reason="no input may crash the interpreter",
    ),
    Difference(
        case="the class `numpy.ndarray` as an input",
        onnxruntime="crashes the interpreter (segmentation fault)",
        inferlite="RuntimeError, as for any other class",
        reason="no input may crash the interpreter",
    ),
    Difference(
        case="a provider that cannot be used, and the CPU tried instead",
        onnxruntime="prints to standard output",
        inferlite="logs a warning to the logger `inferlite`",
        reason="standard output belongs to the program",
    ),
    Difference(
        case="`SessionOptions.add_initializer` with a temporary OrtValue",
        onnxruntime="uses memory that is freed already, and may crash",
        inferlite="keeps the value alive (`inferlite.SessionOptions`)",
        reason="no use of freed memory",
    ),
    Difference(
        case="both TensorRT providers in one session",
        onnxruntime="AttributeError, for a name that its fallback to the CPU needs and does not have yet",
        inferlite="falls back to the CPU as for other providers that cannot be used",
        reason="the exception says nothing of the mistake",
    ),
    Difference(
        case="a message of the runtime with bytes that are not UTF-8",
        onnxruntime="UnicodeDecodeError, for a failure of any kind",
        inferlite="the class of the failure, with these bytes replaced (native back end)",
        reason="the exception says nothing of the failure",
    ),
    Difference(
        case="a sequence with a tensor of another type",
        onnxruntime="RuntimeError that quotes a line of its source",
        inferlite="RuntimeError that names the input and both types (native back end)",
        reason="the text says nothing to a caller",
    ),
    Difference(
        case="an input of another library: DLPack, Arrow, `__array_interface__`, the buffer protocol",
        onnxruntime="RuntimeError",
        inferlite="takes it as the array that it is, without a copy where its memory is in order; RuntimeError that "
        "names the input and the remedy where it does not fit",
        reason="torch, jax, pyarrow, polars and memoryview hold arrays as well as numpy does",
    ),
    Difference(
        case="arrays of another library in a list for a sequence",
        onnxruntime="RuntimeError",
        inferlite="takes each as the array that it is",
        reason="as above",
    ),
    Difference(
        case="an array of another dtype, with `casting=`",
        onnxruntime="has no such option",
        inferlite="casts it where `numpy.can_cast` says so",
        reason="the most common mistake of all has a remedy that one can choose",
    ),
    Difference(
        case="`run(..., out={name: array})`",
        onnxruntime="TypeError: there is no such argument",
        inferlite="writes these outputs into the arrays and returns them",
        reason="a loop need not make new arrays, whatever shapes a model declares",
    ),
    Difference(
        case="a model as `bytearray`, `memoryview` or binary file",
        onnxruntime="TypeError",
        inferlite="copies its content, or reads it to its end",
        reason="models come from archives, shared memory and databases too",
    ),
    Difference(
        case="`release_model=True` of a session made from bytes",
        onnxruntime="ignores it, and keeps the bytes as long as the session",
        inferlite="gives them up; pickling, a child after `fork()` and `set_providers` then raise Fail, which names "
        "the option",
        reason="a process need not hold a large model twice",
    ),
    Difference(
        case="`optimized_cache=` of a session",
        onnxruntime="ignores it, and optimizes the graph in each process anew",
        inferlite="keeps the optimized graph in that folder, of which the next session is made (native back end)",
        reason="a service should start quickly",
    ),
    Difference(
        case="a session that is pickled or copied",
        onnxruntime="TypeError; `copy.copy` gives another name for the same session",
        inferlite="a session of its own, made from the same path or bytes with the same options; Fail where the file "
        "has changed, PicklingError or TypeError with options of the class `onnxruntime.SessionOptions`",
        reason="multiprocessing sends objects by pickling them",
    ),
    Difference(
        case="options that are pickled or copied",
        onnxruntime="TypeError",
        inferlite="options with the same settings (`inferlite.SessionOptions`)",
        reason="as above",
    ),
    Difference(
        case="`run_async` of a session with one thread",
        onnxruntime="InvalidArgument",
        inferlite="runs, and calls back",
        reason="whether a call may wait has nothing to do with the threads that compute it",
    ),
    Difference(
        case="`run_async` with a callback that cannot be called",
        onnxruntime="takes None, runs, and prints `bad_function_call` to standard error",
        inferlite="TypeError, as for any other object that cannot be called",
        reason="the answer would be lost without a word to the caller",
    ),
    Difference(
        case="`await session.arun(...)`",
        onnxruntime="AttributeError: there is no such method",
        inferlite="runs without holding up the event loop; a call that is cancelled, or times out, ends its run",
        reason="callbacks of other threads do not go well with `async`",
    ),
    Difference(
        case="what the runtime logs",
        onnxruntime="is written to standard error, without the model's name",
        inferlite="goes to the logger `inferlite.onnxruntime`, with the model's name (native back end)",
        reason="standard error belongs to the program, and who reads a log asks which model it was",
    ),
    Difference(
        case="one pool of threads for many sessions",
        onnxruntime="after `set_global_thread_pool_sizes`, sessions with the usual options raise RuntimeError",
        inferlite="after `set_global_thread_pool`, sessions that ask share the pool, and others are as they were; "
        "BackendUnavailableError on the Python back end",
        reason="one library's setting must not break another library's sessions",
    ),
    Difference(
        case="an input that does not fit, or a name that is unknown",
        onnxruntime="a text that often does not name the input",
        inferlite="the same text, and below it a line that names the input, what was expected and what to pass",
        reason="an error should say what to do",
    ),
    Difference(
        case="a mapping whose `len()` raises",
        onnxruntime="raises the exception of `len()`",
        inferlite="answers, since it does not ask for it (native back end)",
        reason="nothing is gained by asking",
    ),
    Difference(
        case="an input that does not fit and an unknown output in one call",
        onnxruntime="InvalidArgument about the input",
        inferlite="InvalidArgument about the output (native back end)",
        reason="names are looked up before anything is computed",
    ),
    Difference(
        case="`__init__` called again on a session",
        onnxruntime="replaces the model",
        inferlite="RuntimeError, and the session keeps its model (native back end)",
        reason="runs of other threads and bound calls would change their model on the way",
    ),
    Difference(
        case="`set_providers` with providers that are refused",
        onnxruntime="leaves the session without a model: AttributeError at the next call",
        inferlite="the session goes on with those it had (native back end)",
        reason="a mistake in a setting is no reason to stop",
    ),
    Difference(
        case="a session made before `fork()`, in the child",
        onnxruntime="waits for ever for threads that stayed in the parent, where a session has any",
        inferlite="loads the model again on first use; Fail if its file has changed, NoSuchFile if it is gone",
        reason="preforking servers hang, and a child must not answer with another model than its parent",
    ),
    Difference(
        case="creating a session while other threads run",
        onnxruntime="holds the GIL until the model is loaded",
        inferlite="releases the GIL (native back end)",
        reason="other threads stall for the whole creation",
    ),
)

HINT = re.compile(
    r"input `.*` (has|is|cannot) .*|the model (takes|gives) .*|`(input_feed|output_names)` must be .*"
    r"|the keys of `input_feed` must be .*"
)
"""The line that inferlite may write below a text of onnxruntime's."""

REWORDED = (
    (
        r"Unable to handle object of type .*|Input must be a list of dictionaries or a single numpy array for input .*",
        r"input `.*` (has (dtype|shape) .*, but the model expects .*|cannot be read as an array .*)",
    ),
)
"""Texts of onnxruntime's, and of inferlite's in their place: values that are arrays, and do not fit."""

_proofs: dict[str, str] = {}


def proves(case: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a test as the proof of the difference with this case."""
    known = [difference.case for difference in DIFFERENCES]
    if case not in known:
        message = f"no difference has the case {case!r}; there are {known}"
        raise LookupError(message)

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        _proofs[case] = f"{test.__module__}.{test.__name__}"
        return test

    return mark


def unproved() -> list[str]:
    """The cases of DIFFERENCES that no imported test proves."""
    return [difference.case for difference in DIFFERENCES if difference.case not in _proofs]


@cache
def _built(name: str) -> bytes:
    return make_models.build(name)


@cache
def reference(model: bytes) -> onnxruntime.InferenceSession:
    """onnxruntime's session of a model, shared by all tests."""
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def pair(model: str | bytes) -> tuple[Any, Any]:
    """A session of the active back end and one of onnxruntime; the model is a name of make_models or bytes.

    onnxruntime's session is shared by all tests, ours is new.
    """
    content = _built(model) if isinstance(model, str) else model
    return inferlite.InferenceSession(content, providers=["CPUExecutionProvider"]), reference(content)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: with a value, or with an exception."""

    value: Any = None
    error: Exception | None = None


def outcome(call: Callable[[], Any]) -> Outcome:
    """Make a call and keep how it ended."""
    try:
        return Outcome(value=call())
    except Exception as error:  # noqa: BLE001 - every ending is data here
        return Outcome(error=error)


def compare(ours: Any, theirs: Any, feed: Any, outputs: Any = None) -> Outcome:
    """Run one feed on inferlite's session and on onnxruntime's, and assert the same ending; return ours."""
    return compare_calls(lambda: ours.run(outputs, feed), lambda: theirs.run(outputs, feed))


def compare_calls(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Outcome:
    """Make our call and their call, and assert the same value or the same exception; return our outcome."""
    wanted = outcome(theirs)
    given = outcome(ours)
    assert_same_outcome(given, wanted)
    return given


def assert_same_outcome(given: Outcome, wanted: Outcome) -> None:
    """Both ended with the same value, bit for bit, or with the same class of exception and the same text."""
    if wanted.error is None:
        if given.error is not None:
            message = f"onnxruntime gives {wanted.value!r}, inferlite raises {describe(given.error)}"
            raise AssertionError(message) from given.error
        assert_same_value(given.value, wanted.value)
        return
    if given.error is None:
        message = f"onnxruntime raises {describe(wanted.error)}, inferlite gives {given.value!r}"
        raise AssertionError(message)
    assert_same_error(given.error, wanted.error)


def describe(error: BaseException) -> str:
    """The class, with its module, and the text of an exception."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}: {error}"


def assert_same_error(given: BaseException, wanted: BaseException) -> None:
    """The same class object and the same text.

    Of pybind's list of signatures only the first line counts, and line numbers in onnxruntime's sources do not. Texts
    that quote a line of those sources say nothing to a caller: inferlite words them anew. A line may be added that says
    what to do.
    """
    assert type(given) is type(wanted), f"wanted {describe(wanted)}\ngot {describe(given)}"
    if str(wanted).startswith("/onnxruntime_src/") and not str(given).startswith("/onnxruntime_src/"):
        assert str(given), "an exception without a text"
        return
    if any(re.fullmatch(old, str(wanted)) and re.fullmatch(new, str(given)) for old, new in REWORDED):
        return
    text = _comparable(given)
    first, _, last = text.rpartition("\n")
    if text != _comparable(wanted) and HINT.fullmatch(last):
        text = first
    assert text == _comparable(wanted), f"wanted {describe(wanted)}\ngot {describe(given)}"


def _comparable(error: BaseException) -> str:
    text = str(error)
    if re.search("incompatible (function|constructor) arguments", text):
        return text.splitlines()[0]
    return re.sub(r"(\.(?:cc|h|cpp)):\d+\b", r"\1:_", text)


def assert_same_value(given: Any, wanted: Any, where: str = "result") -> None:
    """The same types and the same bits, through lists and dicts; arrays in C order with equal dtype and shape."""
    assert type(given) is type(wanted), f"{where}: {type(given)} instead of {type(wanted)}"
    if isinstance(wanted, np.ndarray):
        _assert_same_array(given, wanted, where)
    elif isinstance(wanted, (list, tuple)):
        assert len(given) == len(wanted), f"{where}: {len(given)} items instead of {len(wanted)}"
        for index, (one, other) in enumerate(zip(given, wanted, strict=True)):
            assert_same_value(one, other, f"{where}[{index}]")
    elif isinstance(wanted, dict):
        assert_same_value(list(given), list(wanted), f"keys of {where}")
        for key, value in wanted.items():
            assert_same_value(given[key], value, f"{where}[{key!r}]")
    elif isinstance(wanted, float):
        assert struct.pack("=d", given) == struct.pack("=d", wanted), f"{where}: {given} instead of {wanted}"
    else:
        assert given == wanted, f"{where}: {given!r} instead of {wanted!r}"


def _assert_same_array(given: np.ndarray, wanted: np.ndarray, where: str) -> None:
    assert given.dtype == wanted.dtype, f"{where}: dtype {given.dtype} instead of {wanted.dtype}"
    assert given.dtype.isnative, f"{where}: dtype {given.dtype.str} is not native"
    assert given.shape == wanted.shape, f"{where}: shape {given.shape} instead of {wanted.shape}"
    assert given.flags.c_contiguous, f"{where}: not in C order"
    assert given.flags.writeable == wanted.flags.writeable, f"{where}: writeable is {given.flags.writeable}"
    if wanted.dtype.hasobject:
        assert_same_value(given.ravel().tolist(), wanted.ravel().tolist(), where)
    elif given.tobytes() != wanted.tobytes():
        # numpy's message shows where they part; equal values may still have other bits (signed zeros, NaN payloads).
        np.testing.assert_array_equal(given, wanted, err_msg=where)
        message = f"{where}: equal values, other bits"
        raise AssertionError(message)
