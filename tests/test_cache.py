"""The prediction cache: what it must never answer, what it keeps, and whom it makes wait; on both back ends."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import pytest
from hypothesis import given, strategies as st

import cases
import child
import inferlite
import oracle
from cases import f32, ones
from inferlite.cache import POLICIES, parse_size
from inferlite.exceptions import ModelClosedError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend")

FLEXIBLE = make_models.parse("flexible (float[] x) => (float[] y) { y = Identity(x) }")
TWO = make_models.parse("two (float[n] x) => (float[n] a, float[n] b) { a = Neg(x) b = Exp(x) }")
SUM = make_models.parse("sum (float[n] a, float[n] b) => (float[n] y) { twice = Add(a, a) y = Add(twice, b) }")
DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
RANDOM = make_models.parse("dice (float[n] x) => (float[n] y) { [roll] y = RandomUniformLike(x) }")


def _cached(model: str | bytes = DOUBLE, **settings: Any) -> tuple[Any, Any]:
    """The same model with and without a cache."""
    settings = {"max_bytes": "1MB", **settings}
    return inferlite.load(model, cache=inferlite.Cache(**settings)), inferlite.load(model)


def _hits(model: Any) -> int:
    return int(model.stats().cache.hits)


def test_equal_bytes_of_another_shape_get_their_own_answer() -> None:
    model, _ = _cached(FLEXIBLE)
    for shape in ((2, 3), (3, 2), (1, 6), (6,), ()):
        size = int(np.prod(shape))
        zeros = np.zeros(size, np.float32).reshape(shape)
        assert model(zeros).shape == model(zeros).shape == shape
    assert _hits(model) == 5


class _Turning(str):
    """A name that turns the array of a feed on its side when it is compared."""

    __slots__ = ("array", "asked")
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if self.asked:
            self.array.shape = self.array.shape[::-1]  # type: ignore[misc]
        self.asked += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def test_an_array_that_changes_its_shape_while_a_call_is_read_poisons_nothing() -> None:
    session = inferlite.InferenceSession(FLEXIBLE, cache="1MB")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    name = _Turning("x")
    name.array, name.asked = x.copy(), 0
    for _ in range(3):
        (answer,) = session.run(None, {name: name.array})
        assert answer.size == 6
    for shape in ((2, 3), (3, 2), (2, 3)):
        (answer,) = session.run(None, {"x": x.reshape(shape)})
        np.testing.assert_array_equal(answer, x.reshape(shape), strict=True)


def test_every_choice_of_outputs_gets_its_own_answer() -> None:
    model, plain = _cached(TWO)
    x = f32(1.0, 2.0)
    for outputs in ("a", ["a", "b"], "b", ["b", "a"], None, "a"):
        oracle.assert_same_value(model(x, outputs=outputs), plain(x, outputs=outputs))
    assert _hits(model) == 2


def test_inputs_are_told_apart_by_name_and_not_by_order() -> None:
    model, plain = _cached(SUM)
    one, two = f32(1.0), f32(2.0)
    for a, b in ((one, two), (two, one)):
        for feed in ({"a": a, "b": b}, {"b": b, "a": a}):
            oracle.assert_same_value(model(feed), plain(feed))
    assert _hits(model) == 2


@pytest.mark.parametrize("bits", [0x00000000, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000])
def test_every_bit_counts(bits: int) -> None:
    model, _ = _cached(FLEXIBLE)
    model(np.zeros(1, np.float32)), model(np.full(1, np.nan, np.float32))
    x = np.array([bits], np.uint32).view(np.float32)
    assert model(x).tobytes() == x.tobytes()


def test_two_models_share_nothing() -> None:
    doubled, _ = _cached(DOUBLE)
    same, _ = _cached(FLEXIBLE)
    x = f32(3.0)
    assert doubled(x).tolist() == doubled(x).tolist() == [6.0]
    assert same(x).tolist() == same(x).tolist() == [3.0]


def test_a_model_loaded_again_with_other_weights_has_its_own_answers(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x = f32(1.0)
    for weight in (2.0, 5.0):
        text = f"g (float[n] x) => (float[n] y) <float w = {{{weight}}}> {{ y = Mul(x, w) }}"
        path.write_bytes(make_models.parse(text))
        model = inferlite.load(path, cache="1MB")
        assert model(x).tolist() == model(x).tolist() == [weight]


@pytest.mark.parametrize("size", [4, 10_000])
def test_arrays_are_the_callers_own(size: int) -> None:
    model, _ = _cached(DOUBLE)
    x = np.ones(size, np.float32)
    for answer in (model(x), model(x), model(x)):
        assert answer.max() == answer.min() == 2
        assert answer.flags.writeable
        answer[:] = -1
    x[:] = 4
    assert model(x).max() == 8
    assert _hits(model) == 2


@pytest.mark.parametrize("name", ["zipmap", "zipmap_strings", "strings", "sequence", "optional_output", "mlp"])
def test_values_of_every_kind_are_kept(name: str) -> None:
    feeds: dict[str, tuple[Any, Any]] = {
        "strings": ({"x": np.array(["ab", "c"], object)}, {"x": np.array(["a", "bc"], object)}),
        "sequence": ({"s": [f32(1.0), f32(2.0, 3.0)]}, {"s": [f32(1.0, 2.0), f32(3.0)]}),
        "optional_output": ({"x": f32(1.0)}, {"x": f32(2.0)}),
        "mlp": ({"x": ones(1, 16)}, {"x": ones(2, 16)}),
    }
    path = make_models.path(name)
    ours, plain = inferlite.InferenceSession(path, cache="1MB"), inferlite.InferenceSession(path)
    first, second = feeds.get(
        name, ({plain.get_inputs()[0].name: ones(1, 4)}, {plain.get_inputs()[0].name: ones(3, 4)})
    )
    for feed in (first, second, first, second):
        oracle.assert_same_value(ours.run(None, feed), plain.run(None, feed))
    assert ours.cache is not None
    assert (ours.cache.stats().hits, ours.cache.stats().misses) == (2, 2)


def test_an_error_is_raised_each_time_and_not_kept() -> None:
    path = make_models.path("failing")
    ours, plain = inferlite.InferenceSession(path, cache="1MB"), inferlite.InferenceSession(path)
    feed = {"a": ones(2, 3), "b": ones(2, 3)}
    for _ in range(3):
        oracle.compare_calls(lambda: ours.run(None, feed), lambda: plain.run(None, feed))
    assert len(ours.cache) == 0


BAD_FEEDS: dict[str, Callable[[], Any]] = {
    "nothing": dict,
    "unknown": lambda: {"x": f32(1.0), "z": f32(1.0)},
    "another dtype": lambda: {"x": np.ones(1)},
    "another rank": lambda: {"x": ones(1, 1)},
    "no array": lambda: {"x": object()},
    "no dictionary": lambda: [1],
    "None": lambda: None,
}


@pytest.mark.parametrize("name", BAD_FEEDS)
def test_what_is_refused_without_a_cache_is_refused_with_one(name: str) -> None:
    ours, plain = inferlite.InferenceSession(DOUBLE, cache="1MB"), inferlite.InferenceSession(DOUBLE)
    for _ in range(2):
        oracle.compare_calls(lambda: ours.run(None, BAD_FEEDS[name]()), lambda: plain.run(None, BAD_FEEDS[name]()))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1, 3, 5_000]), st.sampled_from("abcde")), max_size=60),
    st.sampled_from(POLICIES),
)
def test_any_traffic_gets_the_models_answers_within_the_budget(calls: list[tuple[int, int, str]], policy: str) -> None:
    model, _ = _cached(max_bytes=60_000, max_entries=6, policy=policy)
    for number, size, action in calls:
        x = np.full(size, number, np.float32)
        if action == "e" and number == 0:
            model.cache.clear()
        elif action == "d" and number == 0:
            assert model.cache.invalidate(x) in {True, False}
        answer = model(x)
        assert answer.shape == (size,)
        assert answer.min() == answer.max() == 2 * number
        stats = model.cache.stats()
        assert stats.bytes <= 60_000
        assert stats.entries <= 6


def test_the_least_recently_used_answer_goes_first() -> None:
    model, _ = _cached(max_entries=2)
    one, two, three = f32(1.0), f32(2.0), f32(3.0)
    model(one), model(two), model(one), model(three)
    before = _hits(model)
    model(one), model(three)
    assert _hits(model) == before + 2
    model(two)
    assert _hits(model) == before + 2
    assert model.stats().cache.evictions == 2


@pytest.mark.parametrize(("policy", "survivors"), [("lru", 0), ("s3-fifo", 15)])
def test_a_scan_pushes_out_what_is_asked_for_again_under_one_policy_alone(policy: str, survivors: int) -> None:
    model, _ = _cached(max_entries=20, policy=policy)
    for _ in range(4):
        for number in range(15):
            model(f32(number))
    for number in range(100, 200):
        model(f32(number))
    before = _hits(model)
    for number in reversed(range(15)):
        model(f32(number))
    assert _hits(model) - before == survivors


class _ObviousLru:
    """A dictionary in order of use."""

    def __init__(self, most: int) -> None:
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._most = most

    def ask(self, number: int) -> bool:
        """Whether it was there; it is now."""
        is_hit = number in self._kept
        self._kept[number] = None
        self._kept.move_to_end(number)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return is_hit


class _ObviousS3Fifo:
    """Lists, the oldest first, and a dictionary of uses."""

    def __init__(self, most: int) -> None:
        self._small: list[int] = []
        self._main: list[int] = []
        self._ghosts: list[int] = []
        self._uses: dict[int, int] = {}
        self._most = most

    def ask(self, number: int) -> bool:
        """Whether it was there; it is now."""
        if number in self._uses:
            self._uses[number] = min(self._uses[number] + 1, 3)
            return True
        was_here = number in self._ghosts
        if was_here:
            self._ghosts.remove(number)
        while len(self._uses) >= self._most:
            self._evict()
            del self._ghosts[: max(len(self._ghosts) - len(self._uses), 0)]
        (self._main if was_here else self._small).append(number)
        self._uses[number] = 0
        return False

    def _evict(self) -> None:
        if not self._main or len(self._small) >= max(self._most // 10, 1):
            number = self._small.pop(0)
            if self._uses[number] > 1:
                self._main.append(number)
                self._uses[number] = 0
                return
            self._ghosts.append(number)
        else:
            number = self._main.pop(0)
            if self._uses[number] > 0:
                self._main.append(number)
                self._uses[number] -= 1
                return
        del self._uses[number]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("most", [1, pytest.param(7, marks=pytest.mark.slow), 40])
def test_each_policy_hits_where_its_obvious_form_hits(policy: str, most: int) -> None:
    model, _ = _cached(max_entries=most, policy=policy)
    obvious = {"lru": _ObviousLru, "s3-fifo": _ObviousS3Fifo}[policy](most)
    numbers = np.random.default_rng(most).zipf(1.2, 4_000) % 500
    numbers[1_000:1_200] = np.arange(1_000, 1_200)
    hits = 0
    for number in numbers.tolist():
        assert model(f32(number)).tolist() == [2.0 * number]
        hits += obvious.ask(number)
        assert _hits(model) == hits
    assert hits > 100
    assert model.stats().cache.entries == most


@pytest.mark.parametrize("policy", POLICIES)
def test_a_smaller_budget_drops_at_once(policy: str) -> None:
    model, _ = _cached(policy=policy)
    for number in range(20):
        model(f32(number))
    assert len(model.cache) == 20
    model.cache.resize(max_entries=5)
    assert (len(model.cache), model.cache.max_entries) == (5, 5)
    model.cache.resize("100B")
    assert (len(model.cache), model.cache.max_bytes, model.cache.max_entries) == (0, 100, None)
    assert model(f32(1.0)).tolist() == [2.0]
    assert len(model.cache) == 0


def test_one_answer_or_all_can_be_dropped() -> None:
    model, _ = _cached(TWO)
    x = f32(1.0)
    model(x), model(x, outputs="a")
    assert model.cache.invalidate(x=x, outputs="a") is True
    assert model.cache.invalidate(x, outputs="a") is False
    assert len(model.cache) == 1
    model.cache.clear()
    assert len(model.cache) == 0
    assert "0 entries" in repr(model.cache)
    session = inferlite.InferenceSession(TWO, cache="1MB")
    session.run(["b"], {"x": x})
    assert session.cache.invalidate(["b"], {"x": x}) is True
    assert session.cache.invalidate(["b"], {"x": x}) is False


def test_calls_and_rows_count_those_that_the_cache_answers() -> None:
    model, _ = _cached()
    for _ in range(3):
        model(f32(1.0, 2.0))
    stats = model.stats()
    assert (stats.calls, stats.rows, stats.latency.count) == (3, 6, 1)
    assert (stats.cache.hits, stats.cache.misses) == (2, 1)
    assert inferlite.load(DOUBLE).stats().cache is None
    assert inferlite.load(DOUBLE).cache is None
    assert inferlite.InferenceSession(DOUBLE).cache is None


def test_traffic_without_repeats_is_only_sampled_until_repeats_return() -> None:
    model, _ = _cached(max_entries=100)
    for number in range(10_000):
        model(f32(number))
    assert model.stats().cache.sampling
    skipped = model.stats().cache.skipped
    for number in range(640):
        assert model(f32(-number)).tolist() == [-2.0 * number]
    assert model.stats().cache.skipped - skipped == 630
    for _ in range(1_000):
        model(f32(1.0))
    assert not model.stats().cache.sampling
    before = _hits(model)
    for _ in range(10):
        model(f32(1.0))
    assert _hits(model) == before + 10


def test_one_hit_in_64_is_timed() -> None:
    model, _ = _cached()
    model(f32(1.0))
    assert model.stats().cache.hit_latency == inferlite.Latency()
    for _ in range(200):
        model(f32(1.0))
    latency = model.stats().cache.hit_latency
    assert latency.count == 3
    assert 0 < latency.p50 <= latency.max < 1


# A run of some tens of milliseconds, so that the others come while it is under way.
SLOW = make_models.parse(
    "slow (float[n] x) => (float y) { a = Tan(x) b = Tan(a) c = Tan(b) d = Tan(c) y = ReduceMax<keepdims = 0>(d) }"
)


def test_concurrent_identical_calls_are_computed_once() -> None:
    model, plain = _cached(SLOW)
    x = np.ones(1_000_000, np.float32)
    barrier = threading.Barrier(8)

    def call() -> np.ndarray:
        barrier.wait()
        answer: np.ndarray = model(x.copy())
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(call) for _ in range(8)]]
    wanted = plain(x)
    assert all(answer.tobytes() == wanted.tobytes() for answer in answers)
    stats = model.stats()
    assert stats.cache.misses == stats.latency.count == 1
    assert stats.cache.hits + stats.cache.coalesced == 7
    assert stats.calls == 8


def test_an_input_changed_by_another_thread_poisons_nothing() -> None:
    model, plain = _cached(DOUBLE, max_bytes="64MB")
    x = np.zeros(20_000, np.float32)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            x[:] = 1
            x[:] = 2

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            model(x)
    finally:
        stop.set()
        thread.join()
    for number in (0.0, 1.0, 2.0):
        settled = np.full(20_000, number, np.float32)
        assert model(settled).tobytes() == plain(settled).tobytes()


@pytest.mark.parametrize("policy", POLICIES)
def test_threads_under_pressure_get_right_answers(policy: str) -> None:
    model, _ = _cached(max_bytes=20_000, policy=policy)

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for number in generator.integers(0, 60, 1_500).tolist():
            assert model(np.full(8, number, np.float32)).tolist() == [2.0 * number] * 8

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result()
    assert model.stats().cache.bytes <= 20_000


def test_run_options_do_not_let_others_wait() -> None:
    session = inferlite.InferenceSession(DOUBLE, cache="1MB")
    options = inferlite.RunOptions()
    feed = {"x": f32(1.0)}
    options.terminate = True
    with pytest.raises(Exception, match="terminate flag"):
        session.run(None, feed, options)
    options.terminate = False
    assert session.run(None, feed, options)[0].tolist() == session.run(None, feed)[0].tolist() == [2.0]


def test_random_models_are_refused_unless_allowed() -> None:
    text = (
        "model `dice` cannot be cached: node `roll` (RandomUniformLike) may be random; pass "
        "`cache=inferlite.Cache(allow_random=True)` to keep its first answers"
    )
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(RANDOM, name="dice", cache="1MB")
    assert str(caught.value) == text
    with pytest.raises(ModelLoadError, match="cannot be cached: node `roll`"):
        inferlite.InferenceSession(RANDOM, cache="1MB")
    model = inferlite.load(RANDOM, cache=inferlite.Cache(allow_random=True))
    x = f32(1.0, 2.0)
    assert model(x).tobytes() == model(x).tobytes()


INSIDE = (
    "g (bool c, float[n] x) => (float[n] y) { y = If (c) <then_branch = t () => (float[n] a) "
    "{ a = RandomNormalLike(x) }, else_branch = e () => (float[n] b) { b = Neg(x) }> }"
)


@pytest.mark.parametrize("what", ["a branch", "another domain", "a function of another domain", "training"])
def test_random_nodes_are_found_where_they_hide(what: str, tmp_path: Path) -> None:
    if what == "a branch":
        content = make_models.parse(INSIDE)
    elif what == "training":
        content = make_models.parse(
            "g (float[n] x, bool t) => (float[n] y) <float r = {0.5}> { [drop] y = Dropout(x, r, t) }"
        )
    else:
        helper = onnx.helper
        operator = "Multinomial" if what.startswith("a function") else "Neg"
        node = helper.make_node("Own", ["x"], ["y"], domain="own")
        tensor = helper.make_tensor_value_info("x", 1, [2, 2]), helper.make_tensor_value_info("y", 1, [2, 2])
        graph = helper.make_graph([node], "g", [tensor[0]], [tensor[1]])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
        body = helper.make_function("own", "Own", ["x"], ["y"], [helper.make_node(operator, ["x"], ["y"])], opsets[:1])
        functions = [body] if what.startswith("a function") else []
        model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
        content = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(ModelLoadError, match="cannot be cached: node"):
            inferlite.load(source, cache="1MB")


@pytest.mark.parametrize("form", ["a weight", "a constant", "a raw weight", "a weight in a branch"])
@pytest.mark.parametrize("trains", [False, True])
def test_a_dropout_that_never_trains_is_not_random(form: str, trains: bool) -> None:
    drop, truth = "[drop] y = Dropout(x, r, t)", str(int(trains))
    weight, constant = f", bool t = {{{truth}}}", f"t = Constant<value = bool {{{truth}}}>()"
    weights, nodes = ("", f"{constant} {drop}") if form == "a constant" else (weight, drop)
    content = make_models.parse(f"g (float[n] x) => (float[n] y) <float r = {{0.5}}{weights}> {{ {nodes} }}")
    if form != "a constant":
        model = onnx.load_from_string(content)
        if form == "a raw weight":
            weight = model.graph.initializer[1]
            weight.CopyFrom(onnx.helper.make_tensor("t", weight.data_type, [], bytes([trains]), raw=True))
        if form == "a weight in a branch":
            branch = onnx.helper.make_graph(
                model.graph.node, "b", [], [onnx.helper.make_tensor_value_info("y", 1, ["n"])], model.graph.initializer
            )
            choice = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
            node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
            graph = onnx.helper.make_graph([node], "g", [*model.graph.input, choice], model.graph.output)
            model.graph.CopyFrom(graph)
        content = model.SerializeToString()
    if trains:
        with pytest.raises(ModelLoadError, match=r"cannot be cached: node `drop` \(Dropout\)"):
            inferlite.load(content, cache="1MB")
        return
    model = inferlite.load(content, cache="1MB")
    feed = {"x": f32(1.0, 2.0)} | ({"c": np.ones((), np.bool_)} if form == "a weight in a branch" else {})
    for _ in range(2):
        assert model(feed).tolist() == [1.0, 2.0]
    assert model.stats().cache.hits == 1


def test_a_file_that_is_not_there_or_no_model_says_so() -> None:
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        inferlite.load("missing.onnx", cache="1MB")
    with pytest.raises(ModelLoadError, match="cannot be cached: what it does cannot be read"):
        inferlite.load(b"no model", cache="1MB")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [("256MB", 256_000_000), ("1MiB", 2**20), ("1.5 GiB", 3 * 2**29), (" 7B ", 7), ("2TB", 2 * 10**12), (5, 5)],
)
def test_sizes_are_read(size: str | int, wanted: int) -> None:
    assert parse_size(size) == wanted
    assert inferlite.Cache(max_bytes=size).max_bytes == wanted


@pytest.mark.parametrize("size", ["", "5", "MB", "-1MB", "1 mb", "1e3B", "1,5GB", "0B", 0, -1, 2**63, "9999999TB"])
def test_what_is_no_size_is_refused(size: str | int) -> None:
    with pytest.raises(ValueError, match=r"size"):
        inferlite.load(DOUBLE, cache=size)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ttl": 0}, ValueError),
        ({"ttl": float("nan")}, ValueError),
        ({"ttl": "60"}, TypeError),
        ({"max_entries": 0}, ValueError),
        ({"max_entries": 1.5}, TypeError),
        ({"max_bytes": 1.5}, TypeError),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        inferlite.Cache(**settings)


@pytest.mark.parametrize("policy", ["LRU", "", "fifo", None, 1])
def test_an_unknown_policy_is_refused_with_the_ones_there_are(policy: Any) -> None:
    with pytest.raises(ValueError, match="policy") as caught:
        inferlite.Cache(policy=policy)
    assert str(caught.value) == f"`policy` must be one of 'lru', 's3-fifo', not {policy!r}"


@pytest.mark.parametrize("cache", [True, 1.5, [], object()])
def test_what_is_no_cache_is_a_type_error(cache: Any) -> None:
    with pytest.raises(TypeError, match="`cache` must be a size"):
        inferlite.load(DOUBLE, cache=cache)


def test_a_closed_model_has_no_cache() -> None:
    model, _ = _cached()
    live = model.cache
    model(f32(1.0))
    model.close()
    assert model.cache is None
    with pytest.raises(ModelClosedError):
        live.clear()
    assert len(live) == 0


def test_ctrl_c_ends_a_wait_and_takes_nobody_with_it(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, threading, numpy, inferlite, committed
        session = inferlite.InferenceSession(committed.path("endless"), cache="1MB")
        x = numpy.ones(1, numpy.float32)
        threading.Thread(target=session.run, args=(None, {"x": x}), daemon=True).start()
        while not session.cache.stats().misses:
            pass
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        try:
            session.run(None, {"x": x})
        except KeyboardInterrupt:
            assert session.cache.stats().misses == 1
            os._exit(0)
        os._exit(1)
    """
    child.run(code, child_environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_begins_with_an_empty_cache_whatever_its_parent_was_doing(child_environment: dict[str, str]) -> None:
    code = """
        import os, signal, threading, warnings, numpy, inferlite, committed
        warnings.simplefilter("ignore", DeprecationWarning)
        model = inferlite.load(committed.path("double"), cache=inferlite.Cache(max_bytes="10KB"))
        stop = threading.Event()

        def work(start):
            number = start
            while not stop.is_set():
                number += 1
                model(numpy.full((1, 4), number % 97, numpy.float32))

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        [thread.start() for thread in threads]
        for number in range(40):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(5)
                assert len(model.cache) == 0
                for _ in range(2):
                    assert model(numpy.full((1, 4), number, numpy.float32)).tolist() == [[2.0 * number] * 4]
                assert model.stats().cache.hits == 1
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, number
        stop.set()
        [thread.join() for thread in threads]
    """
    child.run(code, child_environment)


ODD = {**cases.BAD_INPUT, **cases.VALUES}


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_whatever_is_fed_ends_as_in_onnxruntime_however_often(name: str) -> None:
    case = ODD[name]
    content = make_models.build(case.model) if isinstance(case.model, str) else case.model
    outcome = oracle.outcome(lambda: inferlite.InferenceSession(content, cache=inferlite.Cache(allow_random=True)))
    if outcome.error is not None:
        pytest.skip("such a model cannot be loaded, which other tests compare")
    plain = inferlite.InferenceSession(content)
    for _ in range(3):
        given = oracle.outcome(lambda: outcome.value.run(case.outputs(), case.feed()))
        wanted = oracle.outcome(lambda: plain.run(case.outputs(), case.feed()))
        oracle.assert_same_outcome(given, wanted)
