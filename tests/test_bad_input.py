"""What a caller gets wrong, and odd things that onnxruntime takes: the same ending for each, on both back ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np
import onnxruntime
import pytest
from packaging.version import Version

import cases
import oracle
from cases import ones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("backend")


# What older releases than 1.32 refuse for another reason: they looked at the class of a feed before its values.
SINCE_1_32 = {"feed: keys without items"}


@pytest.mark.parametrize("name", cases.BAD_INPUT)
def test_bad_input_ends_as_onnxruntime(name: str) -> None:
    if name in SINCE_1_32 and Version(onnxruntime.__version__).release[:2] < (1, 32):
        pytest.skip("this onnxruntime refuses it for another reason than 1.32, which inferlite follows")
    case = cases.BAD_INPUT[name]
    ours, theirs = oracle.pair(case.model)
    wanted = oracle.outcome(lambda: theirs.run(case.outputs(), case.feed()))
    given = oracle.outcome(lambda: ours.run(case.outputs(), case.feed()))
    oracle.assert_same_outcome(given, wanted)


@pytest.mark.parametrize("case", cases.BAD_INPUT.values(), ids=cases.BAD_INPUT)
def test_a_session_works_after_bad_input(case: cases.Case) -> None:
    ours, theirs = oracle.pair(case.model)
    for _ in range(3):
        oracle.outcome(lambda: ours.run(case.outputs(), case.feed()))
    good = GOOD[case.model] if isinstance(case.model, str) else None
    if good is not None:
        oracle.compare(ours, theirs, good())


GOOD: dict[str, Callable[[], Any]] = {
    "identity": lambda: {"x": ones(2, 3)},
    "add": lambda: {"a": ones(2, 4), "b": ones(2, 4)},
    "fixed": lambda: {"x": ones(1, 4)},
    "scalar": lambda: {"x": ones()},
    "unknown_rank": lambda: {"x": ones(2, 2)},
    "two_outputs": lambda: {"x": ones(2)},
    "eight_inputs": lambda: {name: ones(4) for name in "abcdefgh"},
    "default_input": lambda: {"x": ones(2)},
    "constant": lambda: {"x": ones(2)},
    "failing": lambda: {"a": ones(2, 3), "b": ones(3, 2)},
    "expand": lambda: {"x": ones(1), "shape": np.array([2, 2])},
    "reshape": lambda: {"x": ones(4), "shape": np.array([2, -1])},
    "lying": lambda: {"x": ones(2, 2)},
}


class _Subclass(np.ndarray):
    def __array_finalize__(self, other: object) -> None:
        self.note = "kept"


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def _unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    shifted = raw[1:].view(array.dtype).reshape(array.shape)
    assert not shifted.flags.aligned
    return shifted


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "negative strides": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "zero strides": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": _read_only,
    "unaligned": _unaligned,
    "unaligned and strided": lambda a: np.repeat(_unaligned(a), 2, axis=1)[:, ::2],
    "subclass": lambda a: a.view(_Subclass),
    "matrix": lambda a: a.view(np.matrix),
    "masked": lambda a: np.ma.masked_array(a, mask=a > 1),
    "memory map's class": lambda a: a.view(np.memmap),
    "of a buffer": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "odd strides of one row": lambda a: np.lib.stride_tricks.as_strided(a[:1], (1, 3), (997, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_taken_as_its_values(layout: str) -> None:
    ours, theirs = oracle.pair("identity")
    array = LAYOUTS[layout](np.arange(6, dtype=np.float32).reshape(2, 3))
    given = oracle.compare(ours, theirs, {"x": array})
    assert given.value[0].tolist() == np.asarray(array).tolist()


@pytest.mark.parametrize("layout", ["Fortran order", "strided", "negative strides", "zero strides", "unaligned"])
def test_a_copied_input_stays_as_it_was(layout: str) -> None:
    ours, _ = oracle.pair("identity")
    array = LAYOUTS[layout](np.arange(6, dtype=np.float32).reshape(2, 3))
    before = (array.tobytes(), array.strides, array.flags.writeable)
    ours.run(None, {"x": array})
    assert (array.tobytes(), array.strides, array.flags.writeable) == before


@oracle.proves("the class `numpy.ndarray` as an input")
def test_the_class_of_arrays_is_no_array() -> None:
    ours, theirs = oracle.pair("identity")
    wanted = oracle.outcome(lambda: theirs.run(None, {"x": int}))
    given = oracle.outcome(lambda: ours.run(None, {"x": np.ndarray}))
    oracle.assert_same_outcome(given, wanted)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_two_bad_inputs_one_is_reported(names: str) -> None:
    # Which one is up to a hash table of the runtime's.
    bad = {"a": np.ones((1, 4)), "b": ones(4)}
    feed = {name: bad[name] for name in names}
    ours, theirs = oracle.pair("add")
    wanted, given = (oracle.outcome(lambda session=session: session.run(None, feed)) for session in (theirs, ours))
    assert type(given.error) is type(wanted.error)


@oracle.proves("an input that does not fit and an unknown output in one call")
def test_of_a_bad_input_and_an_unknown_output_one_is_reported(backend: str) -> None:
    ours, theirs = oracle.pair("add")
    feed = {"a": ones(4), "b": ones(1, 4)}
    wanted, given = (oracle.outcome(lambda session=session: session.run(["zzz"], feed)) for session in (theirs, ours))
    assert type(given.error) is type(wanted.error)
    about = "Invalid output name:zzz" if backend == "native" else "Invalid rank for input: a"
    assert about in str(given.error)


RUN_OPTIONS: dict[str, Callable[[], Any]] = {
    "number": lambda: 5,
    "text": lambda: "options",
    "map": dict,
    "session options": onnxruntime.SessionOptions,
    "class": lambda: onnxruntime.RunOptions,
    "none": lambda: None,
    "false": lambda: False,
}


@pytest.mark.parametrize("options", RUN_OPTIONS)
def test_wrong_run_options_end_as_onnxruntime(options: str) -> None:
    ours, theirs = oracle.pair("identity")
    feed = {"x": ones(1, 3)}
    oracle.compare_calls(
        lambda: ours.run(None, feed, RUN_OPTIONS[options]()), lambda: theirs.run(None, feed, RUN_OPTIONS[options]())
    )


CALLS: dict[str, Callable[[Any], Any]] = {
    "no arguments": lambda session: session.run(),
    "one argument": lambda session: session.run(None),
    "five arguments": lambda session: session.run(None, {"x": ones(1, 3)}, None, 4),
    "by keyword": lambda session: session.run(output_names=["y"], input_feed={"x": ones(1, 3)}, run_options=None),
    "feed by keyword": lambda session: session.run(None, input_feed={"x": ones(1, 3)}),
    "options by keyword": lambda session: session.run(None, {"x": ones(1, 3)}, run_options=onnxruntime.RunOptions()),
}


@pytest.mark.parametrize("call", CALLS)
def test_ways_to_call_run_end_alike(call: str) -> None:
    ours, theirs = oracle.pair("identity")
    wanted = oracle.outcome(lambda: CALLS[call](theirs))
    given = oracle.outcome(lambda: CALLS[call](ours))
    if isinstance(wanted.error, TypeError):
        # The interpreter words these, and it words them differently for functions that are not written in Python.
        assert type(given.error) is TypeError
        return
    oracle.assert_same_outcome(given, wanted)


def test_an_unknown_keyword_of_run_is_a_type_error() -> None:
    ours, _ = oracle.pair("identity")
    with pytest.raises(TypeError):
        ours.run(None, {"x": ones(1, 3)}, nonsense=1)


def test_bfloat16_bits_are_never_taken_for_another_type() -> None:
    ours, _ = oracle.pair("identity")
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.float8_e5m2):
        given = oracle.outcome(lambda dtype=dtype: ours.run(None, {"x": np.ones((1, 3), dtype)}))
        assert type(given.error).__name__ in ("InvalidArgument", "BackendUnavailableError")


def test_an_ortvalue_of_onnxruntime_ends_as_onnxruntime() -> None:
    ours, theirs = oracle.pair("identity")
    value = onnxruntime.OrtValue.ortvalue_from_numpy(ones(1, 3))
    oracle.compare(ours, theirs, {"x": value})


def test_a_sparse_tensor_is_refused_as_onnxruntime_does() -> None:
    ours, theirs = oracle.pair("identity")
    device = onnxruntime.OrtDevice.make("cpu", 0)
    sparse = onnxruntime.SparseTensor.sparse_coo_from_numpy(
        np.array([1, 3], np.int64), ones(1), np.array([0], np.int64), device
    )
    oracle.compare(ours, theirs, {"x": sparse})


class _Lengthless(Mapping[str, Any]):
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        message = "not today"
        raise LookupError(message)


@oracle.proves("a mapping whose `len()` raises")
def test_a_mapping_that_has_no_length_answers_or_raises_its_own_exception(backend: str) -> None:
    ours, theirs = oracle.pair("double")
    feed = _Lengthless({"x": ones(1, 4)})
    given, wanted = oracle.outcome(lambda: ours.run(None, feed)), oracle.outcome(lambda: theirs.run(None, feed))
    assert isinstance(wanted.error, LookupError)
    if backend == "native":
        assert given.value[0].tolist() == [[2.0] * 4]
    else:
        oracle.assert_same_outcome(given, wanted)
