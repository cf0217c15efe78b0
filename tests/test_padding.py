"""Padding: calls of other lengths share a batch, and every answer is that of a call by itself, or `load` refuses."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import inferlite
from conftest import BACKENDS
from inferlite import Batching, Pad
from inferlite.exceptions import BackendUnavailableError, ModelLoadError, ModelRunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

pytestmark = pytest.mark.usefixtures("backend")
native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)

WIDTH = 4
# One head of attention over embeddings, a residual and the mean of what the mask leaves: what a small encoder does.
ENCODER = make_models.parse(
    "encoder (int64[n,t] ids, int64[n,t] mask) => (float[n,t,4] hidden, float[n,4] pooled, float[n,t,u] weights) "
    "<float[5,4] table = "
    "{0.1, -0.5, 0.3, 1, 0.7, 0.2, -0.1, 0.4, -1, 0.6, 0.9, -0.3, 0.5, 0.8, -0.7, 0, 1.5, 1, 0.2, 2}, "
    "float[4,4] w = {0.2, 0.5, -0.3, 1, 0.7, -1, 0.1, 0.3, 0.9, 0.4, 0.6, -0.2, 0.3, 0.8, 0, 0.5}, float one = {1}, "
    "float much = {10000}, int64[1] middle = {1}, int64[1] last = {2}> { "
    "x = Gather(table, ids) h = MatMul(x, w) k = Transpose<perm = [0, 2, 1]>(h) scores = MatMul(h, k) "
    "m = Cast<to = 1>(mask) absent = Sub(m, one) bias = Mul(absent, much) column = Unsqueeze(bias, middle) "
    "biased = Add(scores, column) weights = Softmax<axis = -1>(biased) attended = MatMul(weights, h) "
    "hidden = Add(attended, x) seen = Unsqueeze(m, last) masked = Mul(hidden, seen) "
    "total = ReduceSum<keepdims = 0>(masked, middle) count = ReduceSum<keepdims = 1>(m, middle) "
    "pooled = Div(total, count) }"
)
TOTAL = make_models.parse(
    "total (float[n,t] x) => (float[n] y) <int64[1] last = {1}> { y = ReduceSum<keepdims = 0>(x, last) }"
)
NEGATED = make_models.parse("negated (float[n,t] x) => (float[n,u] y) { y = Neg(x) }")
TWO = make_models.parse("two (float[n,t] a, float[n,t] b) => (float[n,t] y) { y = Add(a, b) }")

SIZES = (4, 8)
ENCODED = Pad({"ids": 1, "mask": 1}, sizes=SIZES, outputs={"hidden": 1, "weights": (1, 2)})


def _padded(content: bytes, *pads: Pad, **settings: Any) -> Any:
    loading = {name: settings.pop(name) for name in ("cache", "example", "batch_axes") if name in settings}
    return inferlite.load(content, batching=Batching(**{"max_rows": 64, "pad": pads, **settings}), **loading)


def _question(random: np.random.Generator, rows: int, length: int) -> dict[str, np.ndarray]:
    ids = random.integers(1, 5, (rows, length))
    mask = (random.random((rows, length)) < 0.8).astype(np.int64)
    mask[:, 0] = 1
    return {"ids": ids, "mask": mask}


def _check(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(given) == list(wanted)
    for name, value in given.items():
        assert value.shape == wanted[name].shape, name
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def _together(model: Any, questions: Sequence[Any], **arguments: Any) -> list[Any]:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(model.apredict(question, **arguments) for question in questions))

    return asyncio.run(ask())


@native
def test_calls_of_other_lengths_share_a_batch_and_get_their_own_answers() -> None:
    plain = inferlite.load(ENCODER)
    # Whatever waits, waits for six rows; longer ones have a batch of their own.
    model = _padded(ENCODER, ENCODED, max_rows=6, max_delay=60)
    random = np.random.default_rng(0)
    short = [_question(random, rows, length) for rows, length in ((1, 3), (2, 2), (1, 4), (2, 3))]
    long = [_question(random, rows, length) for rows, length in ((3, 5), (3, 8))]
    mixed = [short[0], long[0], short[1], short[2], long[1], short[3]]
    for question, answer in zip(mixed, _together(model, mixed), strict=True):
        _check(answer, plain(question))
    batching = model.stats().batching
    assert (batching.sizes, batching.retried, batching.lone) == ({6: 2}, 0, 0)
    # Outputs that are asked for by name are cut back as well.
    for question, answer in zip(short, _together(model, short, outputs=["weights", "pooled"]), strict=True):
        wanted = plain(question, outputs=["weights", "pooled"])
        _check(answer, wanted)
    assert model.stats().batching.sizes == {6: 3}


def _drawn(seed: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [_question(random, int(random.integers(1, 4)), int(random.integers(1, 12))) for _ in range(60)]


def _check_all(answers: Iterable[Any], questions: list[dict[str, np.ndarray]], plain: Any) -> None:
    for question, answer in zip(questions, answers, strict=True):
        _check(answer, plain(question))


@native
@pytest.mark.parametrize("cache", [None, "request", "row"])
def test_threads_tasks_and_futures_get_the_answers_of_a_plain_model(cache: Any) -> None:
    plain = inferlite.load(ENCODER)
    kept = None if cache is None else inferlite.Cache(max_bytes="1MB", by=cache)
    model = _padded(ENCODER, ENCODED, cache=kept)

    with ThreadPoolExecutor(9) as pool:
        ends = [
            pool.submit(lambda ask, questions: _check_all(ask(questions), questions, plain), ask, questions)
            for questions in map(_drawn, range(3))
            for ask in (partial(map, model), partial(_together, model), model.map)
        ]
        for end in ends:
            end.result()
    assert model.stats().calls == 9 * 60
    assert model.stats().batching.retried == 0
    if cache is not None:
        assert model.stats().cache.hits > 0
    model.close()


@native
def test_a_kept_answer_is_that_of_its_own_length() -> None:
    plain = inferlite.load(ENCODER)
    model = _padded(ENCODER, ENCODED, max_rows=2, max_delay=60, cache=inferlite.Cache(max_bytes="1MB"))
    random = np.random.default_rng(5)
    questions = [_question(random, 1, 2), _question(random, 1, 3)]
    for _ in range(2):
        for question, answer in zip(questions, _together(model, questions), strict=True):
            _check(answer, plain(question))
    assert model.stats().cache.hits == 2
    # A question that looks like the one it was filled up to is another question.
    longer = {name: np.pad(value, ((0, 0), (0, 2))) for name, value in questions[0].items()}
    others = [longer, _question(random, 1, 3)]
    for question, answer in zip(others, _together(model, others), strict=True):
        _check(answer, plain(question))
    assert model.stats().cache.hits == 2


@native
def test_lengths_beyond_the_sizes_and_of_one_element_are_left_as_they_are() -> None:
    model = _padded(NEGATED, Pad({"x": 1}, sizes=SIZES, value=7, outputs={"y": 1}), max_rows=2, max_delay=60)
    for length in (0, 1, 9):
        x = np.arange(length, dtype=np.float32).reshape(1, length)
        for answer in _together(model, [x, x]):
            np.testing.assert_array_equal(answer, -x)
    assert model.stats().batching.sizes == {2: 3}


@native
def test_strings_and_truth_values_are_filled_up() -> None:
    pad = Pad({"x": 1}, sizes=(3,), value="[PAD]", outputs={"y": 1})
    model = _padded(make_models.identity("string", "[n,t]"), pad, max_rows=2, max_delay=60)
    one, other = np.array([["a", "b"]], object), np.array([["c", "d", "e"]], object)
    assert [answer.tolist() for answer in _together(model, [one, other])] == [[["a", "b"]], [["c", "d", "e"]]]
    model = _padded(
        make_models.identity("bool", "[n,t]"),
        Pad({"x": 1}, sizes=(3,), value=True, outputs={"y": 1}),
        max_rows=2,
        max_delay=60,
    )
    given = [np.array([[True, False]]), np.array([[False, False, True]])]
    assert [answer.tolist() for answer in _together(model, given)] == [x.tolist() for x in given]


@native
def test_several_lengths_are_filled_up_each_by_itself() -> None:
    content = make_models.parse("image (float[n,h,w] x) => (float[n,h,w] y) { y = Neg(x) }")
    pads = [Pad({"x": axis}, sizes=SIZES, outputs={"y": axis}) for axis in (1, 2)]
    model = _padded(content, *pads, max_rows=3, max_delay=60)
    random = np.random.default_rng(1)
    images = [random.standard_normal((1, high, wide), np.float32) for high, wide in ((3, 7), (2, 5), (4, 8))]
    for image, answer in zip(images, _together(model, images), strict=True):
        np.testing.assert_array_equal(answer, -image)
    # Of one height, and of several widths.
    images = [random.standard_normal((1, 3, wide), np.float32) for wide in (2, 3, 4)]
    for image, answer in zip(images, _together(model, images), strict=True):
        np.testing.assert_array_equal(answer, -image)
    assert model.stats().batching.sizes == {3: 2}


@native
def test_rows_may_lie_on_another_axis() -> None:
    content = make_models.parse("turned (float[t,n] x) => (float[t,n] y) { y = Neg(x) }")
    pad = Pad({"x": 0}, sizes=SIZES, outputs={"y": 0})
    model = _padded(content, pad, batch_axes={"x": 1, "y": 1}, max_rows=5, max_delay=60)
    given = [np.arange(rows * length, dtype=np.float32).reshape(length, rows) for rows, length in ((2, 3), (3, 2))]
    for x, answer in zip(given, _together(model, given), strict=True):
        np.testing.assert_array_equal(answer, -x)
    assert model.stats().batching.sizes == {5: 1}


@native
def test_a_culprit_fails_alone_with_its_own_error() -> None:
    model = _padded(ENCODER, ENCODED, max_rows=3, max_delay=60)
    plain = inferlite.load(ENCODER)
    random = np.random.default_rng(2)
    questions = [_question(random, 1, length) for length in (2, 3, 4)]
    questions[1]["ids"][0, 2] = 9

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(model.apredict, questions), return_exceptions=True)

    first, culprit, last = asyncio.run(ask())
    _check(first, plain(questions[0]))
    _check(last, plain(questions[2]))
    assert isinstance(culprit, ModelRunError)
    with pytest.raises(ModelRunError) as alone:
        plain(questions[1])
    text = str(alone.value)
    assert str(culprit).partition("failed")[2] == text.partition("failed")[2]


@native
def test_a_call_whose_axes_disagree_is_not_made_to_fit() -> None:
    model = _padded(TWO, Pad({"a": 1, "b": 1}, sizes=SIZES, outputs={"y": 1}), max_rows=8)
    plain = inferlite.load(TWO)
    ones = np.ones((1, 3), np.float32)
    with pytest.raises(ModelRunError) as wanted:
        plain(a=ones, b=ones[:, :2])

    async def ask() -> list[Any]:
        calls = [{"a": ones, "b": ones[:, :2]}, {"a": ones, "b": ones}, {"a": ones[:, :2], "b": ones[:, :2]}]
        calls += [{"a": ones, "b": ones[:, :1]}]
        return await asyncio.gather(*map(model.apredict, calls), return_exceptions=True)

    culprit, three, two, repeated = asyncio.run(ask())
    assert isinstance(culprit, ModelRunError)
    assert str(culprit).partition("failed")[2] == str(wanted.value).partition("failed")[2]
    assert (three.tolist(), two.tolist(), repeated.tolist()) == ([[2.0] * 3], [[2.0] * 2], [[2.0] * 3])


LONGER = "axis 1 of input `x` padded from 7 to 8"
IGNORES = "padding takes a model that ignores what it is filled up with, and perhaps a mask in the same `Pad`"
FOLLOWS = "name the axis that follows in `outputs` of the `Pad`"
REFUSALS = [
    (
        TOTAL,
        [Pad({"x": 1}, sizes=SIZES, value=1)],
        f"output `y` is another one with {LONGER}: {IGNORES}",
    ),
    (
        NEGATED,
        [Pad({"x": 1}, sizes=SIZES)],
        f"output `y` has shape [4, 8] with {LONGER}, and [4, 7] without: {FOLLOWS}",
    ),
    (
        make_models.parse(
            "two_outputs (float[n,t] x) => (float[n,u] y, float[n,v] z) <int64[1] one = {1}, int64[1] four = {4}> "
            "{ y = Neg(x) z = Slice(x, one, four, one) }"
        ),
        [Pad({"x": 1}, sizes=SIZES, outputs={"y": 1, "z": 1})],
        f"output `z` has shape [4, 3] with {LONGER}, which does not follow it as `outputs` of the `Pad` says",
    ),
    (
        NEGATED,
        [Pad({"z": 1}, sizes=SIZES)],
        "`pad` names input `z`, which the model has not",
    ),
    (
        NEGATED,
        [Pad({"x": 1}, sizes=SIZES, outputs={"z": 1})],
        "`pad` names output `z`, which the model has not",
    ),
    (
        NEGATED,
        [Pad({"x": 0}, sizes=SIZES, outputs={"y": 1})],
        "axis 0 of input `x` holds the rows of the batch, which cannot be padded",
    ),
    (
        NEGATED,
        [Pad({"x": 2}, sizes=SIZES)],
        "`pad` gives input `x` axis 2, but it has 2 axes",
    ),
    (
        NEGATED,
        [Pad({"x": 1}, sizes=SIZES, outputs={"y": 1}), Pad({"x": 1}, sizes=SIZES)],
        "`pad` gives axis 1 of input `x` twice",
    ),
    (
        NEGATED,
        [Pad({"x": 1}, sizes=SIZES, value="a")],
        '`pad` fills input `x` up with "a", which a float32 cannot be: pass another `value`',
    ),
    (
        make_models.parse("wide (float[n,3] x) => (float[n,3] y) { y = Neg(x) }"),
        [Pad({"x": 1}, sizes=SIZES)],
        "axis 1 of input `x` is 3 long in every call: it cannot be padded",
    ),
]


@native
@pytest.mark.parametrize(("content", "pads", "text"), REFUSALS, ids=[text for _, _, text in REFUSALS])
def test_what_cannot_be_padded_is_refused(content: bytes, pads: list[Pad], text: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(content, name="m", batching=Batching(pad=pads))
    assert str(caught.value) == f"model `m` cannot be batched: {text}"


@native
@pytest.mark.parametrize(
    "pads",
    [
        [Pad({"a": 1}, sizes=SIZES, outputs={"y": 1})],
        [Pad({"a": 1}, sizes=SIZES, outputs={"y": 1}), Pad({"b": 1}, sizes=SIZES)],
    ],
)
def test_axes_of_one_length_belong_into_one_pad(pads: list[Pad]) -> None:
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(TWO, name="m", batching=Batching(pad=pads))
    text = str(caught.value)
    assert text.startswith(
        "model `m` cannot be batched: a trial run failed with axis 1 of input `a` padded from 7 to 8: Non-zero status"
    )
    assert text.endswith("; axes that are equally long in every call belong into one `Pad`")


@native
def test_an_example_is_padded_where_made_up_inputs_do_not_do() -> None:
    content = make_models.parse(
        "picky (float[n,t] x, int64[r] flat) => (float[n,t] y) { z = Reshape(x, flat) s = Shape(x) y = Reshape(z, s) }"
    )
    pad = Pad({"x": 1}, sizes=SIZES, outputs={"y": 1})
    settings: dict[str, Any] = {"batch_axes": {"flat": None}, "rows_independent": True, "name": "m"}
    with pytest.raises(ModelLoadError) as caught:
        inferlite.load(content, batching=Batching(pad=pad), **settings)
    assert str(caught.value).startswith("model `m` cannot be batched: `pad` cannot be tried out: ")
    assert str(caught.value).endswith("; pass `example=` with inputs that the model accepts")
    for length in (1, 8, 9):
        example = {"x": np.ones((2, length), np.float32), "flat": np.array([-1])}
        with pytest.raises(ModelLoadError) as caught:
            inferlite.load(content, batching=Batching(pad=pad), example=example, **settings)
        assert str(caught.value) == (
            "model `m` cannot be batched: `pad` cannot be tried out: "
            f"axis 1 of input `x` would have {length} elements, but lengths from 2 to 7 can be filled up; "
            "pass `example=` with inputs that the model accepts"
        )
    example = {"x": np.ones((2, 3), np.float32), "flat": np.array([-1])}
    model = inferlite.load(content, batching=Batching(pad=pad), example=example, **settings)
    assert model(example).tolist() == [[1.0] * 3] * 2


@native
def test_a_model_that_masks_what_it_is_filled_up_with_passes_with_made_up_inputs() -> None:
    assert _padded(ENCODER, ENCODED).stats().batching.rounding < 1e-5
    with pytest.raises(ModelLoadError, match="output `hidden` is another one with axis 1 of input `ids` and axis 1 of"):
        _padded(ENCODER, Pad({"ids": 1, "mask": 1}, sizes=SIZES, value=1, outputs=ENCODED.outputs))


@fallback
def test_the_fallback_refuses() -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        _padded(NEGATED, Pad({"x": 1}, sizes=SIZES, outputs={"y": 1}))
    assert str(caught.value) == (
        "`Batching(pad=...)` is not available: only the native back end fills calls up to a common length: leave `pad` "
        "out, which lets calls of equal shapes share a batch, or install the native part"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"inputs": ["x"]}, TypeError("`inputs` of a `Pad` must be a mapping of names to axes, not ['x']")),
        ({"inputs": {}}, ValueError("`inputs` of a `Pad` must name one at least")),
        ({"inputs": {1: 1}}, TypeError("`inputs` of a `Pad` must have names, not 1")),
        (
            {"inputs": {"x": "1"}},
            TypeError("`inputs` of a `Pad` must give `x` the number of an axis, or several, not '1'"),
        ),
        (
            {"inputs": {"x": True}},
            TypeError("`inputs` of a `Pad` must give `x` the number of an axis, or several, not True"),
        ),
        (
            {"outputs": {"y": ()}},
            TypeError("`outputs` of a `Pad` must give `y` the number of an axis, or several, not ()"),
        ),
        (
            {"outputs": {"y": (1, 2.0)}},
            TypeError("`outputs` of a `Pad` must give `y` the number of an axis, or several, not (1, 2.0)"),
        ),
        ({"inputs": {"x": -1}}, ValueError("`inputs` of a `Pad` must give `x` an axis from 0 on, not -1")),
        ({"outputs": {"y": (1, -2)}}, ValueError("`outputs` of a `Pad` must give `y` an axis from 0 on, not (1, -2)")),
        ({"sizes": 8}, TypeError("`sizes` of a `Pad` must be a sequence of whole numbers, not 8")),
        ({"sizes": "8"}, TypeError("`sizes` of a `Pad` must be a sequence of whole numbers, not '8'")),
        ({"sizes": (8.0,)}, TypeError("`sizes` of a `Pad` must be a sequence of whole numbers, not (8.0,)")),
        ({"sizes": ()}, ValueError("`sizes` of a `Pad` must grow from 1 on, and the last be at least 3, not ()")),
        ({"sizes": (2,)}, ValueError("`sizes` of a `Pad` must grow from 1 on, and the last be at least 3, not (2,)")),
        (
            {"sizes": (8, 8)},
            ValueError("`sizes` of a `Pad` must grow from 1 on, and the last be at least 3, not (8, 8)"),
        ),
        (
            {"sizes": (0, 8)},
            ValueError("`sizes` of a `Pad` must grow from 1 on, and the last be at least 3, not (0, 8)"),
        ),
        ({"value": None}, TypeError("`value` of a `Pad` must be a number or text, not None")),
        ({"value": {"z": 0}}, ValueError("`value` of a `Pad` names 'z', which is none of its `inputs`: `x`")),
        ({"value": 2**63}, ValueError(f"`value` of a `Pad` must fit into 64 bits, not {2**63}")),
    ],
)
def test_settings_are_checked(arguments: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Pad(**{"inputs": {"x": 1}, "sizes": SIZES, **arguments})
    assert str(caught.value) == str(error)


def test_pads_are_pads() -> None:
    pad = Pad({"x": 1}, sizes=[4, 8])
    assert Batching(pad=pad) == Batching(pad=[pad])
    assert Batching().pad == ()
    for given in (3, [pad, 3], "x"):
        with pytest.raises(TypeError) as caught:
            Batching(pad=given)  # type: ignore[arg-type]
        assert str(caught.value) == f"`pad` must be an `inferlite.Pad` or several, not {given!r}"


def test_a_pad_keeps_what_it_was_given() -> None:
    inputs = {"x": 1}
    sizes = [4, 8]
    pad = Pad(inputs, sizes=sizes)
    inputs["y"] = 2
    sizes.append(3)
    assert (pad.inputs, pad.sizes, pad.outputs, pad.value) == ({"x": 1}, (4, 8), {}, 0)
