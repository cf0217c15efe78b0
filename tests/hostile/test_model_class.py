"""The class of models: what may be done to it and its instances, and what calls leave behind."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

import inferlite
from cases import f32
from conftest import BACKENDS
from inferlite.exceptions import InvalidInputError, ModelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)

DOUBLE = make_models.parse("double (float[n] x) => (float[n] y) { y = Add(x, x) }")
STRINGS = make_models.parse("strings (string[n] x) => (string[n] y) { y = Identity(x) }")

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "model(x)": lambda model, x: model(x),
    "model(x=x)": lambda model, x: model(x=x),
    "model(x, outputs=...)": lambda model, x: model(x, outputs="y"),
    "model.__call__(x)": lambda model, x: model.__call__(x),
    "model(*[x])": lambda model, x: model(*[x]),
    "model(**{'x': x})": lambda model, x: model(x=x),
    "model.predict(x)": lambda model, x: model.predict(x),
}


@pytest.fixture(params=[None, "1MB"], ids=["plain", "cached"])
def model(backend: str, request: pytest.FixtureRequest) -> Any:
    assert backend
    return inferlite.load(DOUBLE, cache=request.param)


@pytest.fixture
def counted() -> Iterator[list[Any]]:
    """Gives the class of models another `__call__` while a test runs; the list says what it was given."""
    given: list[Any] = []
    kind = type(inferlite.load(DOUBLE))
    original = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given.append((args, kwargs))
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", call)
        yield given


def test_another_call_of_the_class_is_the_one_that_is_called(model: Any, counted: list[Any]) -> None:
    x = f32(1.0, 2.0)
    for number, form in enumerate([form for name, form in FORMS.items() if "predict" not in name]):
        assert form(model, x).tolist() == [2.0, 4.0]
        assert len(counted) == number + 1
    assert inferlite.load(DOUBLE)(x).tolist() == [2.0, 4.0]
    assert counted[-1] == ((x,), {})
    with pytest.raises(InvalidInputError):
        model(y=x)
    assert len(counted) == len(FORMS) + 1


def test_a_model_is_called_as_before_once_its_class_is(model: Any) -> None:
    kind = type(model)
    for number in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "__call__", lambda self, *args, number=number: (self is model, args, number))
            assert model(1, 2) == (True, (1, 2), number)
        assert model(f32(number)).tolist() == [2.0 * number]


def _is_gone(make: Callable[[], Any], work: Callable[[Any], None]) -> bool:
    """Whether what was made for some work is gone after it, before anything else is called."""
    made = make()
    reference = weakref.ref(made)
    work(made)
    del made
    gc.collect()
    return reference() is None


class _Text:
    def __init__(self, text: str | None) -> None:
        self.text = text

    def __str__(self) -> str:
        if self.text is None:
            message = "no text"
            raise ValueError(message)
        return self.text


@pytest.mark.parametrize("text", [None, "a", "\ud800"], ids=["raises", "text", "surrogate"])
@pytest.mark.parametrize("form", FORMS)
def test_a_call_keeps_nothing_of_its_input(backend: str, form: str, text: str | None) -> None:
    assert backend
    strings = inferlite.load(STRINGS)

    def work(made: Any) -> None:
        x = np.empty(1, object)
        x[0] = made
        if text == "a":
            assert FORMS[form](strings, x).tolist() == ["a"]
            return
        with pytest.raises(InvalidInputError) as caught:
            FORMS[form](strings, x)
        # What pytest holds of the exception goes with its frames.
        caught.value.__traceback__ = caught.value.__cause__.__traceback__ = None
        caught.value.__context__ = None
        del caught

    assert _is_gone(lambda: _Text(text), work)


@pytest.mark.parametrize("form", FORMS)
def test_an_array_is_let_go_after_a_hit_a_miss_and_a_refusal(model: Any, form: str) -> None:
    class Array(np.ndarray):
        """Can be referred to weakly by name."""

    def refused(x: np.ndarray) -> None:
        with pytest.raises(InvalidInputError):
            FORMS[form](model, x)

    def answered(x: np.ndarray) -> None:
        assert FORMS[form](model, x).tolist() == [2.0, 4.0]

    for _ in range(3):
        assert _is_gone(lambda: f32(1.0, 2.0).view(Array), answered)
        assert _is_gone(lambda: np.ones(2).view(Array), refused)


class _Nested:
    """Something that numpy makes an array of by calling the model again."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls = 0

    def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
        self.calls += 1
        answer: np.ndarray = self.model(self)
        return answer


def test_a_call_that_calls_itself_for_ever_is_an_exception(model: Any) -> None:
    nested = _Nested(model)
    with pytest.raises(InvalidInputError) as caught:
        model(nested)
    assert str(caught.value).startswith("input `x` cannot be made an array of float32: ")
    assert "maximum recursion depth exceeded" in str(caught.value)
    assert nested.calls > 10
    assert model(f32(1.0)).tolist() == [2.0]


def test_a_call_within_a_call_is_answered(model: Any) -> None:
    class Once(_Nested):
        def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
            answer: np.ndarray = self.model(f32(1.0))
            return answer

    for _ in range(2):
        assert model(Once(model)).tolist() == [4.0]


def test_a_model_that_closes_itself_while_it_reads_still_ends(model: Any) -> None:
    class Closing(_Nested):
        def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
            self.model.close()
            return f32(1.0)

    assert model(Closing(model)).tolist() == [2.0]
    with pytest.raises(ModelClosedError) as caught:
        model(f32(1.0))
    assert str(caught.value) == "model `double` is closed"


def test_a_model_in_a_cycle_is_collected_and_says_so(model: Any) -> None:
    del model
    said: list[Any] = []
    inner = inferlite.load(DOUBLE, cache="1MB")
    reference = weakref.ref(inner, said.append)
    cycle: list[Any] = [inner]
    cycle.append(cycle)
    del inner, cycle
    gc.collect()
    assert reference() is None
    assert said == [reference]


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "nothing": (
        lambda model: model(),
        InvalidInputError,
        "input `x` is missing: model `double` takes `x`",
    ),
    "both forms": (
        lambda model: model(f32(1.0), x=f32(1.0)),
        InvalidInputError,
        "model `double` takes a mapping or keyword arguments, not both",
    ),
    "many names": (
        lambda model: model(**{f"a{number}": 1 for number in range(300)}),
        InvalidInputError,
        "model `double` has no input `a0`: it takes `x`",
    ),
    "names that are none": (
        lambda model: model(**{1: f32(1.0)}),  # type: ignore[misc]
        TypeError,
        "keywords must be strings",
    ),
}


@pytest.mark.parametrize("form", WRONG)
def test_wrong_calls_are_refused_in_words(model: Any, form: str) -> None:
    call, kind, text = WRONG[form]
    for _ in range(2):
        with pytest.raises(kind) as caught:
            call(model)
        assert str(caught.value) == text


@native
@pytest.mark.parametrize("count", [2, 3, 1_000])
def test_arguments_by_place_are_counted(backend: str, count: int) -> None:
    model = inferlite.load(DOUBLE)
    with pytest.raises(TypeError) as caught:
        model(*[f32(1.0)] * count)
    text = f"Model.__call__() takes from 0 to 1 positional arguments but {count} were given"
    assert str(caught.value) == text
    assert backend


@native
def test_the_class_cannot_be_made_less_than_a_model(backend: str) -> None:
    model = inferlite.load(DOUBLE)
    kind, base = type(model), type(model).__base__
    attempts: list[tuple[Callable[[], Any], str]] = [
        (lambda: type("Heir", (kind,), {}), "type 'inferlite.Model' is not an acceptable base type"),
        (
            lambda: object.__new__(kind),
            "object.__new__(inferlite.Model) is not safe, use inferlite.Model.__new__()",
        ),
        (
            lambda: base.__new__(kind),
            "inferlite._core.Model.__new__(inferlite.Model) is not safe, use inferlite.Model.__new__()",
        ),
        (
            lambda: kind.__call__(3, f32(1.0)),
            "descriptor '__call__' requires a 'inferlite.Model' object but received a 'int'",
        ),
    ]
    for attempt, text in attempts:
        with pytest.raises(TypeError) as caught:
            attempt()
        assert str(caught.value) == text
    for work in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^cannot pickle 'inferlite\.Model' object$"):
            work(model)
    with pytest.raises(TypeError, match="layout differs"):
        model.__class__ = base
    assert model(f32(1.0)).tolist() == [2.0]
    assert backend


def test_threads_may_change_the_call_of_the_class_while_others_call(model: Any) -> None:
    kind, x = type(model), f32(1.0, 2.0)
    stop = threading.Event()
    wrong: list[Any] = []

    def call_of_the_class(self: Any, *args: Any, **named: Any) -> Any:
        return self.predict(*args, **named)

    def call() -> None:
        while not stop.is_set():
            answer = model(x)
            if answer.tolist() != [2.0, 4.0]:
                wrong.append(answer)

    threads = [threading.Thread(target=call) for _ in range(3)]
    [thread.start() for thread in threads]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for _ in range(200):
                patch.setattr(kind, "__call__", call_of_the_class)
                model(x)
                patch.undo()
    finally:
        stop.set()
        [thread.join() for thread in threads]
    assert wrong == []
