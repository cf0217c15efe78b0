"""The cache by row: what it runs, what it answers, which models it refuses, and what both back ends check."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import make_models
import numpy as np
import onnx
import pytest
import row_graphs
from hypothesis import given, strategies as st

import inferlite
import oracle
from cases import f32
from conftest import BACKENDS
from inferlite.exceptions import BackendUnavailableError, InvalidInputError, ModelLoadError

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)

ROWS = inferlite.Cache(max_bytes="10MB", by="row")

DOUBLE = make_models.parse("double (float[n,2] x) => (float[n,2] y) { y = Add(x, x) }")
TWO = make_models.parse(
    "two (float[n,2] x, int64[2,n] s, float k) => (float[n,2] a, int64[2,n] b) { a = Mul(x, k) b = Neg(s) }"
)
TEXT = make_models.parse("text (string[n] x) => (string[n] y) { y = Identity(x) }")
BROKEN = make_models.parse(
    "broken (int64[n] x) => (float[n] y) <float[3] table = {1, 2, 3}> { [pick] y = Gather(table, x) }"
)
# As silero-vad is made: a state and a rate beside the batch, and a cell in a branch that the rate chooses.
_BRANCH = """{branch} = {name} () => (float[n,1] {name}o, float[2,n,2] {name}s) {{
    {name}m = ReduceMean(input, one) {name}x = Unsqueeze({name}m, zero)
    {name}h = Slice(state, zero, one, zero) {name}c = Slice(state, one, two, zero)
    {name}y, {name}hn, {name}cn = LSTM<hidden_size = 2>({name}x, w, r, , , {name}h, {name}c)
    {name}s = Concat<axis = 0>({name}hn, {name}cn) {name}z = Squeeze({name}hn, zero)
    {name}o = {reduce}({name}z, one)
}}"""
VOICE = make_models.parse(
    "voice (float[?,?] input, float[2,?,2] state, int64 sr) => (float[?,1] output, float[?,?,?] stateN) "
    "<int64 wide = {16000}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, "
    "float[1,8,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1,8,2] r = {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2}> "
    "{ c = Equal(sr, wide) output, stateN = If (c) <"
    + _BRANCH.format(branch="then_branch", name="t", reduce="ReduceSum")
    + ", "
    + _BRANCH.format(branch="else_branch", name="e", reduce="ReduceMax")
    + "> }"
)
VOICE_AXES = {"state": 1, "stateN": 1}


def _pair(model: Any, **settings: Any) -> tuple[Any, Any]:
    """The same model with a cache by row, and without."""
    return inferlite.load(model, cache=ROWS, **settings), inferlite.load(model)


def _rows(*numbers: float) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], np.float32)


def _counts(model: Any) -> tuple[int, int, int]:
    stats = model.stats().cache
    return stats.hits, stats.misses, stats.coalesced


# --- what runs, and what is answered


@native
def test_only_new_rows_run_and_answers_come_in_order() -> None:
    model, plain = _pair(DOUBLE)
    for rows, counts in (
        (_rows(1, 2, 3), (0, 3, 0)),
        (_rows(3, 1), (2, 3, 0)),
        (_rows(4, 2, 4, 5, 4), (3, 5, 2)),
        (_rows(5), (4, 5, 2)),
    ):
        oracle.assert_same_value(model(rows), plain(rows))
        assert _counts(model) == counts
    assert len(model.cache) == 5
    # Two calls ran a batch each: of three rows, and of two.
    stats = model.stats()
    assert (stats.calls, stats.latency.count, stats.rows) == (4, 2, 11)


@native
def test_answers_are_the_callers_own() -> None:
    model, _ = _pair(DOUBLE)
    x = _rows(1, 2)
    for answer in (model(x), model(x), model(x[:1]), model(x)):
        assert answer.flags.writeable
        assert answer.tolist() == (2 * x[: len(answer)]).tolist()
        answer[:] = -1
    x[:] = 9
    assert model(_rows(1)).tolist() == [[2, -2]]


@native
def test_several_inputs_outputs_and_axes() -> None:
    model, plain = _pair(TWO, batch_axes={"s": 1, "b": 1})
    x, s = _rows(1, 2, 1, 3), np.array([[1, 2, 1, 3], [4, 5, 4, 6]])
    for outputs in (None, "a", "b", ["b", "a"], None):
        for k in (np.float32(2), np.float32(3)):
            feed = {"x": x, "s": s, "k": np.asarray(k)}
            oracle.assert_same_value(model(feed, outputs=outputs), plain(feed, outputs=outputs))
    assert _counts(model) == (2 * 4, 2 * 4 * 3, 2 * 4)
    parts = {"x": x[1:], "s": s[:, 1:], "k": np.asarray(np.float32(2))}
    oracle.assert_same_value(model(parts), plain(parts))
    assert model.stats().cache.hits == 11


@native
def test_strings_are_kept_by_row() -> None:
    model, plain = _pair(TEXT)
    for items in (["a", "bc", "a"], ["ab", "c", "bc"]):
        x = np.array(items, object)
        oracle.assert_same_value(model(x), plain(x))
    assert _counts(model) == (1, 4, 1)


@native
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float16, np.float64, np.bool_])
@pytest.mark.parametrize("width", [1, 3, 40_000])
def test_rows_of_every_size_and_type_are_told_apart(dtype: type, width: int) -> None:
    names = {np.float64: "double", np.bool_: "bool"}
    model, plain = _pair(make_models.identity(names.get(dtype, np.dtype(dtype).name), "[n,m]"))
    x = (np.arange(4)[:, None] % 2 + np.zeros((1, width))).astype(dtype)
    x[2, -1] = 0
    x[3, 0] = 0
    oracle.assert_same_value(model(x), plain(x))
    oracle.assert_same_value(model(x[::-1]), plain(x[::-1]))
    distinct = len({row.tobytes() for row in x})
    assert _counts(model) == (4, distinct, 4 - distinct)


@native
def test_an_empty_batch_runs_as_it_is() -> None:
    model, plain = _pair(DOUBLE)
    for _ in range(2):
        oracle.assert_same_value(model(_rows().reshape(0, 2)), plain(_rows().reshape(0, 2)))
    assert len(model.cache) == 0


@native
def test_a_batch_with_a_bad_row_fails_and_leaves_the_others_alone() -> None:
    model, _ = _pair(BROKEN)
    assert model(np.array([0, 1])).tolist() == [1, 2]
    for _ in range(2):
        with pytest.raises(Exception, match="pick"):
            model(np.array([0, 7, 2]))
    assert len(model.cache) == 2
    assert model(np.array([2, 1, 0])).tolist() == [3, 2, 1]


@native
def test_inputs_that_disagree_about_their_rows_are_refused_as_without_a_cache() -> None:
    content = make_models.build("add")
    ours, plain = inferlite.InferenceSession(content, cache=ROWS), inferlite.InferenceSession(content)
    for rows in ((2, 3), (1, 3), (3, 1)):
        a, b = (np.ones((count, 4), np.float32) for count in rows)
        oracle.compare_calls(
            lambda a=a, b=b: ours.run(None, {"a": a, "b": b}), lambda a=a, b=b: plain.run(None, {"a": a, "b": b})
        )
    assert len(ours.cache) == 0


@native
def test_rows_are_dropped_by_the_call_that_asks_for_them() -> None:
    model, _ = _pair(DOUBLE)
    model(_rows(1, 2, 3))
    assert model.cache.invalidate(_rows(2, 9)) is True
    assert model.cache.invalidate(_rows(2, 9)) is False
    assert len(model.cache) == 2
    model.cache.clear()
    assert len(model.cache) == 0
    assert model(_rows(1)).tolist() == [[2, -2]]


@native
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 12), max_size=9), st.sampled_from([2, 6_000]), st.sampled_from("abcd")),
        max_size=25,
    )
)
def test_any_traffic_gets_the_models_answers_within_the_budget(calls: list[tuple[list[int], int, str]]) -> None:
    flexible = make_models.parse("flexible (float[n,m] x) => (float[n,m] y) { y = Add(x, x) }")
    model = inferlite.load(flexible, cache=inferlite.Cache(max_bytes="100KB", max_entries=7, by="row"))
    for numbers, width, action in calls:
        x = np.repeat(np.array(numbers, np.float32)[:, None], width, axis=1)
        if action == "a":
            model.cache.invalidate(x)
        assert model(x).tobytes() == (x + x).tobytes()
        stats = model.cache.stats()
        assert stats.bytes <= 100_000
        assert stats.entries <= 7


@native
def test_threads_under_pressure_get_right_answers() -> None:
    model = inferlite.load(DOUBLE, cache=inferlite.Cache(max_bytes="20KB", by="row"))

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(400):
            x = _rows(*generator.integers(0, 100, generator.integers(1, 9)))
            assert model(x).tobytes() == (x + x).tobytes()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result()
    stats = model.stats().cache
    assert stats.bytes <= 20_000
    assert stats.hits > 0
    assert stats.evictions > 0


@native
def test_rows_that_another_thread_writes_to_poison_nothing() -> None:
    model, plain = _pair(make_models.parse("wide (float[n,m] x) => (float[n,m] y) { y = Add(x, x) }"))
    x = np.zeros((4, 6_000), np.float32)

    def write() -> None:
        for number in range(2_000):
            x[:, :] = number % 3

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            model(x)
    for number in range(3):
        settled = np.full((4, 6_000), number, np.float32)
        assert model(settled).tobytes() == plain(settled).tobytes()


@native
def test_how_far_rows_in_other_company_differ_stays_within_rounding() -> None:
    model, plain = _pair(make_models.dense(256, 512, 10))
    x = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    for rows in (x[:1], x[5:20], x[::-1], x[[3, 3, 30, 1]]):
        np.testing.assert_allclose(model(rows), plain(rows), rtol=1e-4, atol=1e-5)
    assert model.stats().cache.misses == 32


# --- which models are refused

VERDICTS = row_graphs.verdicts()


def _loaded(name: str, axes: dict[str, int], **settings: Any) -> Any:
    return inferlite.load(row_graphs.path(name), cache=ROWS, batch_axes=axes, **settings)


def _feed(model: Any, axes: dict[str, int], rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows)
    feed = {}
    for spec in model.signature.inputs:
        dims = spec.shape or ()
        shape = [rows if at == axes.get(spec.name, 0) else 4 if isinstance(n, str) else n for at, n in enumerate(dims)]
        feed[spec.name] = generator.integers(0, 3, shape).astype(spec.dtype)
    return feed


@native
@pytest.mark.parametrize(
    ("name", "axes"), [(name, axes) for name, axes, verdict, _ in VERDICTS if verdict == "independent"]
)
def test_models_with_independent_rows_answer_as_without_a_cache(name: str, axes: dict[str, int]) -> None:
    model, plain = _loaded(name, axes), inferlite.load(row_graphs.path(name))
    for rows in (5, 3, 1, 5):
        feed = _feed(plain, axes, rows)
        np.testing.assert_allclose(model(feed), plain(feed), rtol=1e-5)
    assert model.stats().cache.hits + model.stats().cache.coalesced >= 5


@native
@pytest.mark.parametrize(
    ("name", "axes", "reason"), [(name, axes, text) for name, axes, verdict, text in VERDICTS if verdict == "refused"]
)
def test_models_whose_rows_influence_each_other_are_refused(name: str, axes: dict[str, int], reason: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        _loaded(name, axes)
    assert str(caught.value) == (
        f"model `{name}` cannot be cached by row: {reason}; pass `rows_independent=True` if no row influences another "
        "all the same"
    )


@pytest.mark.parametrize("name", row_graphs.GRAPHS)
def test_the_files_of_the_graphs_are_what_their_sources_say(name: str) -> None:
    assert row_graphs.path(name).read_bytes() == make_models.parse(row_graphs.GRAPHS[name])
    assert name in {verdict[0] for verdict in VERDICTS}


@native
def test_trial_runs_decide_where_the_graph_does_not_tell() -> None:
    for name in ("einsum", "loop"):
        model = _loaded(name, {})
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert model(x).tobytes() == inferlite.load(row_graphs.path(name))(x).tobytes()
    for name in ("straddling", "perhaps_straddling"):
        with pytest.raises(
            ModelLoadError, match=r"changed in a trial run when the other rows and its place did \(node `` \(Reshape\)"
        ):
            _loaded(name, {})
    with pytest.raises(ModelLoadError) as caught:
        _loaded("einsum_that_mixes", {})
    assert str(caught.value) == (
        "model `einsum_that_mixes` cannot be cached by row: output `y` of a row changed in a trial run when the other "
        "rows and its place did (node `sum` (Einsum) is an operator that the analysis does not know); pass "
        "`rows_independent=True` if no row influences another all the same"
    )


def _written_for(opsets: str, text: str) -> bytes:
    return onnx.parser.parse_model(f"<ir_version: 7, opset_import: [{opsets}]>\n{text}").SerializeToString()


def _refusal(model: bytes, **settings: Any) -> str:
    with pytest.raises(ModelLoadError, match="cannot be cached by row") as caught:
        inferlite.load(model, cache=ROWS, **settings)
    return str(caught.value)


@native
def test_operators_of_early_versions_that_see_positions_are_refused() -> None:
    numbers = "float[1,4] s = {1, 2, 3, 4}"
    model = _written_for(
        '"": 8',
        f"early (float[2,1,n] x) => (float[2,1,n] y) <{numbers}> "
        "{ [norm] y = BatchNormalization<spatial = 0>(x, s, s, s, s) }",
    )
    assert "node `norm` (BatchNormalization) has numbers for every element" in _refusal(
        model, batch_axes={"x": 2, "y": 2}
    )


@native
@pytest.mark.parametrize("opsets", ['"": 13, "ai.onnx": 11', '"": 11, "ai.onnx": 13'])
def test_a_file_with_two_versions_of_the_operators_is_not_read_by_either(opsets: str) -> None:
    # Along axis 0 alone since version 13, along all from there on before.
    model = _written_for(opsets, "two (float[3,n] x) => (float[3,n] y) { y = Softmax<axis = 0>(x) }")
    try:
        ours = inferlite.load(model, cache=ROWS, batch_axes={"x": 1, "y": 1})
    except ModelLoadError as error:
        assert "its file names two versions of ONNX's operators" in str(error)  # noqa: PT017
        return
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(ours(x), inferlite.load(model)(x), rtol=1e-6)


_FUNCTIONS = {
    # Each has the name of an operator and does something else, which makes an axis of the batch's.
    "Neg": ("(a) => (b) { b = Sub(a, a) }", "my.Neg(minus)"),
    "Sub": ("(a, c) => (b) { b = Add(a, c) }", "my.Sub(minus, two)"),
    "Add": ("(a, c) => (b) { b = Sub(a, c) }", "my.Add(one, one)"),
    "Identity": ("(a) => (b) { b = Sub(a, a) }", "my.Identity(one)"),
}


@native
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions_of_the_model_are_not_taken_for_the_operators_whose_names_they_have(name: str) -> None:
    body, used = _FUNCTIONS[name]
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "my": 1]>\n'
        "own (float[n,3,3] x) => (float[n,3,3] y) <int64[1] minus = {-1}, int64[1] one = {1}, int64[1] two = {-2}> "
        f"{{ s = {used} r = ReduceSum(x, s) y = Sub(x, r) }}\n"
        f'<domain: "my", opset_import: ["": 21]> {name} {body}'
    )
    text = _refusal(model.SerializeToString())
    assert "(ReduceSum) takes axes or sizes that are not known before the run" in text
    assert "changed in a trial run" in text


def _overridable() -> bytes:
    text = "g (float[n,3] x, float[m,3] w) => (float[n,3] y) { y = Add(x, w) }"
    model = onnx.parser.parse_model(make_models.HEADER + text)
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model.SerializeToString()


@native
def test_a_weight_that_calls_may_override_has_no_rows() -> None:
    assert "(Add) combines rows with a value that may hold one element for each" in _refusal(_overridable())


@native
def test_what_is_fed_for_a_scalar_is_not_taken_row_by_row_where_it_is_none() -> None:
    model, plain = _pair(
        make_models.parse("scaled (float[n,3] x, float k) => (float[n,3] y) { y = Mul(x, k) }"), batch_axes={"k": None}
    )
    x = np.ones((4, 3), np.float32)
    column = np.arange(4, dtype=np.float32)[:, None]
    for k in (np.array(2, np.float32), column, column[::-1], np.array(2, np.float32)):
        feed = {"x": x, "k": k}
        oracle.assert_same_value(model(feed), plain(feed))
    assert _counts(model) == (4, 1, 3)


@native
def test_a_shared_value_that_may_hold_one_element_for_each_row_is_refused() -> None:
    text = _refusal(
        make_models.parse("g (float[n] x, float[m] k) => (float[n] y) { [mul] y = Mul(x, k) }"), batch_axes={"k": None}
    )
    assert "node `mul` (Mul) combines rows with a value that may hold one element for each" in text


@native
def test_a_branch_that_trial_runs_would_not_take_needs_an_example() -> None:
    name = "branch_of_unknowns"
    with pytest.raises(ModelLoadError) as caught:
        _loaded(name, {})
    assert str(caught.value) == (
        f"model `{name}` cannot be cached by row: node `sum` (Einsum) is an operator that the analysis does not know, "
        "and a trial run would take one of several branches; pass `example=` with inputs that take the one that calls "
        "take, or `rows_independent=True` if no row influences another"
    )
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert _loaded(name, {}, example={"x": x, "mode": np.array(4)}) is not None
    with pytest.raises(ModelLoadError, match="changed in a trial run"):
        _loaded(name, {}, example={"x": x, "mode": np.array(5)})


@native
def test_a_place_that_only_a_function_sees_shows_in_a_trial_run() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "my": 1]>\n'
        "own (float[n,3] x) => (float[n,3] y) { y = my.Own(x) }\n"
        '<domain: "my", opset_import: ["": 21]> Own (a) => (b) { b = Trilu(a) }'
    )
    assert "changed in a trial run when the other rows and its place did" in _refusal(model.SerializeToString())


@native
def test_whole_numbers_that_tell_how_many_rows_there_are_are_no_rounding() -> None:
    model = make_models.parse(
        "counted (float[n,3] x) => (int64[n] y) <int64[1] zero = {0}> "
        '{ e = Einsum<equation = "ij->ij">(x) shape = Shape(e) n = Gather(shape, zero) '
        "a = ArgMax<axis = 1, keepdims = 0>(e) b = Sub(a, a) y = Add(b, n) }"
    )
    assert "output `y` of a row changed in a trial run with fewer other rows" in _refusal(model)


_LOOKED_UP = make_models.parse(
    "ids (int64[n] ids) => (float[n,2] y) <float[8,2] table = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}> "
    '{ a = Gather(table, ids) y = Einsum<equation = "ij->ij">(a) }'
)


@native
@pytest.mark.parametrize("example", [None, np.array([1, 2, 3, 4])])
def test_rows_of_one_integer_are_replaced_by_those_of_other_rows(example: np.ndarray | None) -> None:
    model = inferlite.load(_LOOKED_UP, cache=ROWS, example=example)
    x = np.array([3, 1, 3])
    assert model(x).tolist() == inferlite.load(_LOOKED_UP)(x).tolist()
    for name, integer in (("bool", "bool[n] b"), ("int64", "int64[n] b")):
        mixing = make_models.parse(
            f"{name} (float[n,3] x, {integer}) => (float[n,3] y) <int64[1] zero = {{0}}> {{ f = Cast<to = 1>(b) "
            'e = Einsum<equation = "i->i">(f) [max] m = ReduceMax<keepdims = 1>(e, zero) y = Mul(x, m) }'
        )
        assert "changed in a trial run" in _refusal(mixing)


@native
def test_an_example_of_equal_rows_vouches_for_nothing() -> None:
    assert "there are no other rows that it accepts" in _refusal(_LOOKED_UP, example=np.array([5, 5]))


_UNTIL_SMALL = make_models.parse(
    "g (float[n,3] x) => (float[n,3] y) <bool yes = {1}, float tol = {0.001}, float half = {0.5}> { "
    "a = Loop<body = b (int64 i, bool go, float[n,3] v) => (bool go_on, float[n,3] w) { "
    "w = Mul(v, half) d = Abs(w) m = ReduceMax<keepdims = 0>(d) l = Less(m, tol) go_on = Not(l) }>(, yes, x) "
    "z = Mul(a, half) y = Sign(z) }"
)


@native
def test_a_loop_that_a_trial_would_keep_going_for_ever_is_ended() -> None:
    # A number that is none is never small, so that the trial with such rows counts as refused.
    model = inferlite.load(_UNTIL_SMALL, cache=ROWS)
    assert model(np.ones((2, 3), np.float32)).tolist() == [[1, 1, 1]] * 2


@native
def test_ctrl_c_ends_a_trial_run_that_has_no_end() -> None:
    code = (
        "import sys, threading, _thread, numpy as np, inferlite\n"
        "threading.Timer(1.0, _thread.interrupt_main).start()\n"
        "try: inferlite.load(sys.stdin.buffer.read(), cache=inferlite.Cache(by='row'),\n"
        "                    example=np.full((2, 3), np.nan, np.float32))\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    given = subprocess.run(
        [sys.executable, "-c", code],
        input=_UNTIL_SMALL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (given.stdout.decode().strip(), given.returncode) == ("interrupted", 0), given.stderr.decode()


@native
def test_an_example_helps_where_made_up_inputs_are_refused() -> None:
    fails = make_models.parse(
        "fails (int64[n,s] x) => (float[n,s] y) <float[9] table = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 far = {60}> "
        '{ low = Sub(x, far) [pick] p = Gather(table, low) [sum] y = Einsum<equation = "ij,ij->ij">(p, p) }'
    )
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(fails, cache=ROWS)
    text = str(caught.value)
    assert text.startswith(
        "model `fails` cannot be cached by row: node `sum` (Einsum) is an operator that the analysis does not know, "
        "and a trial run failed: Non-zero status code returned while running Gather node."
    )
    assert text.endswith(
        "; pass `example=` with inputs that the model accepts, or `rows_independent=True` if no row influences another"
    )
    model = inferlite.load(fails, cache=ROWS, example=np.array([[60, 61], [63, 62]]))
    assert model(np.array([[60, 62], [60, 62]])).tolist() == [[1, 9], [1, 9]]
    assert _counts(model) == (0, 1, 1)


@native
def test_whoever_knows_better_can_say_so() -> None:
    model = _loaded("running_sum", {}, rows_independent=True)
    assert model(np.ones((1, 3), np.float32)).tolist() == [[1, 1, 1]]
    with pytest.raises(ModelLoadError) as caught:
        _loaded("elementwise", {}, rows_independent=False)
    assert str(caught.value) == (
        "model `elementwise` cannot be cached by row: `rows_independent=False` says that rows influence each other"
    )


@native
@pytest.mark.parametrize(
    ("model", "axes", "reason"),
    [
        ("fixed", {}, "no input has a batch axis: declare one with `load(..., batch_axes={name: axis})`"),
        ("constant", {}, 'output `w` has no batch axis: declare one with `load(..., batch_axes={"w": axis})`'),
        ("sequence_make", {}, "output `s` of type seq(tensor(float)) cannot be split into rows"),
        ("sequence_make", {"a": 0}, "output `s` of type seq(tensor(float)) cannot be split into rows"),
    ],
)
def test_models_without_rows_say_what_is_missing(model: str, axes: dict[str, int], reason: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(make_models.path(model), cache=ROWS, batch_axes=axes)
    assert str(caught.value) == f"model `{model}` cannot be cached by row: {reason}"


@native
def test_an_output_that_has_other_rows_than_was_said_fails_by_name() -> None:
    model = _loaded("doubled_batch", {}, rows_independent=True)
    with pytest.raises(Exception, match="output `y` was to have 2 rows on axis 0, and there are 4") as caught:
        model(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert str(caught.value) == (
        "model `doubled_batch` failed: output `y` was to have 2 rows on axis 0, and there are 4: declare its axis with "
        "`batch_axes`"
    )


@native
def test_sessions_keep_rows_too() -> None:
    session = inferlite.InferenceSession(make_models.build("double"), cache=ROWS)
    x = np.ones((3, 4), np.float32)
    assert session.run(None, {"x": x})[0].tolist() == (2 * x).tolist()
    stats = session.cache.stats()
    assert (stats.misses, stats.coalesced) == (1, 2)
    assert session.cache.invalidate(None, {"x": x}) is True
    with pytest.raises(ModelLoadError) as caught:
        inferlite.InferenceSession(str(row_graphs.path("running_sum")), cache=ROWS)
    assert str(caught.value) == (
        "model `model` cannot be cached by row: node `sum` (CumSum) works along the batch axis; pass "
        "`rows_independent=True` if no row influences another all the same"
    )


# --- a state and a rate beside the batch


def _voices(rows: int, rate: int, width: int = 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rate)
    return {
        "input": generator.standard_normal((rows, width)).astype(np.float32),
        "state": generator.standard_normal((2, rows, 2)).astype(np.float32),
        "sr": np.array(rate),
    }


def _picked(feed: dict[str, np.ndarray], rows: list[int]) -> dict[str, np.ndarray]:
    return {"input": feed["input"][rows], "state": feed["state"][:, rows], "sr": feed["sr"]}


def _assert_close(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Equal but for rounding, which depends on where in a batch a row stands."""
    assert list(given) == list(wanted)
    for name, answer in wanted.items():
        np.testing.assert_allclose(given[name], answer, rtol=1e-4, atol=1e-6)


@native
def test_a_state_and_a_rate_beside_the_batch_are_kept_by_row() -> None:
    model, plain = _pair(VOICE, batch_axes=VOICE_AXES)
    for rate in (8000, 16000):
        feed = _voices(4, rate)
        for rows in ([0, 1], [1, 2, 1, 3], [3, 0]):
            _assert_close(model(_picked(feed, rows)), plain(_picked(feed, rows)))
    assert _counts(model) == (2 * 4, 2 * 4, 0)
    changed = _voices(4, 8000)
    changed["state"][1, 2, 0] += 1
    _assert_close(model(changed), plain(changed))
    assert model.stats().cache.misses == 9


@native
def test_a_state_whose_axis_is_not_declared_is_refused() -> None:
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(VOICE, cache=ROWS)
    assert str(caught.value) == (
        "model `voice` cannot be cached by row: output `stateN` has no batch axis: declare one with "
        '`load(..., batch_axes={"stateN": axis})`'
    )


# --- models of others, which `make test` installs without what they depend on


def _real_model(package: str, inside: str) -> Path:
    places = [Path(sys.prefix) / "real-models" / package]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent)
    for place in places:
        if (place / inside).is_file():
            return place / inside
    message = f"the package {package} is not there: `make test` installs it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@native
def test_silero_vad_is_kept_by_row_once_the_axes_of_its_state_are_declared() -> None:
    path = _real_model("silero_vad", "data/silero_vad.onnx")
    model, plain = _pair(path, batch_axes=VOICE_AXES)
    generator = np.random.default_rng(0)
    for rate, width in ((16_000, 576), (8_000, 288)):
        feed = {
            "input": generator.standard_normal((4, width)).astype(np.float32) / 10,
            "state": generator.standard_normal((2, 4, 128)).astype(np.float32) / 10,
            "sr": np.array(rate),
        }
        for rows in ([0, 1], [1, 2, 1, 3], [3, 0]):
            _assert_close(model(_picked(feed, rows)), plain(_picked(feed, rows)))
    assert _counts(model) == (2 * 4, 2 * 4, 0)
    with pytest.raises(ModelLoadError, match=r"\(LSTM\) treats rows by their position in the batch"):
        inferlite.load(path, cache=ROWS)


@native
def test_magika_is_kept_by_row_as_it_is() -> None:
    path = _real_model("magika", "models/standard_v3_3/model.onnx")
    model, plain = _pair(path)
    x = np.random.default_rng(0).integers(0, 257, (4, 2048)).astype(np.int32)
    for rows in (x[:2], x[[1, 2, 1, 3]], x[::-1]):
        np.testing.assert_allclose(model(rows), plain(rows), rtol=1e-4, atol=1e-6)
    assert _counts(model) == (2 + 4, 4, 0)


# --- what both back ends check


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"batch_axes": [0]}, TypeError, "`batch_axes` must be a mapping of names to axes, not [0]"),
        ({"batch_axes": {1: 0}}, TypeError, "`batch_axes` must name inputs and outputs, not 1"),
        ({"batch_axes": {"x": "0"}}, TypeError, "`batch_axes` must give `x` a number or None, not '0'"),
        ({"batch_axes": {"x": True}}, TypeError, "`batch_axes` must give `x` a number or None, not True"),
        ({"batch_axes": {"x": -1}}, ValueError, "`batch_axes` must give `x` an axis from 0 on, not -1"),
        (
            {"batch_axes": {"z": 0}},
            ValueError,
            "`batch_axes` names `z`, which model `double` has not: its inputs are `x`, its outputs are `y`",
        ),
        (
            {"batch_axes": {"y": 2}},
            ValueError,
            "`batch_axes` gives `y` axis 2, but model `double` declares it with 2 axes",
        ),
        ({"rows_independent": 1}, TypeError, "`rows_independent` must be True, False or None, not 1"),
    ],
)
def test_what_is_said_of_rows_is_checked(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        inferlite.load(DOUBLE, **settings)
    assert str(caught.value) == text


def test_what_is_said_of_rows_makes_no_difference_without_a_cache_by_row() -> None:
    settings: dict[str, Any] = {"batch_axes": {"x": 0, "y": 0}, "rows_independent": False, "example": _rows(1)}
    for cache in (None, "1MB"):
        assert inferlite.load(DOUBLE, cache=cache, **settings)(_rows(1, 2)).tolist() == [[2, -2], [4, -4]]


def test_an_example_must_fit_the_model() -> None:
    with pytest.raises(InvalidInputError, match=r"input `x`"):
        inferlite.load(DOUBLE, example=f32(1.0))
    with pytest.raises(InvalidInputError, match=r"`z`"):
        inferlite.load(DOUBLE, example={"z": f32(1.0)})


@pytest.mark.parametrize("by", ["rows", "", None, 1, [], True])
def test_what_is_looked_up_is_one_of_two(by: Any) -> None:
    with pytest.raises(ValueError, match="`by` must be") as caught:
        inferlite.Cache(by=by)
    assert str(caught.value) == f'`by` must be "request" or "row", not {by!r}'
    assert inferlite.Cache().by == "request"


@fallback
def test_the_python_back_end_refuses_to_look_up_rows() -> None:
    for load in (inferlite.load, inferlite.InferenceSession):
        with pytest.raises(BackendUnavailableError) as caught:
            load(DOUBLE, cache=ROWS)
        assert str(caught.value) == (
            '`Cache(by="row")` is not available: only the native back end looks up rows: pass `Cache(by="request")`, '
            "which is the default"
        )
