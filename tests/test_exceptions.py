"""The classes of inferlite's exceptions."""

from __future__ import annotations

import builtins

import pytest

import inferlite
from inferlite import exceptions

CLASSES = {
    "InvalidInputError": ValueError,
    "ModelLoadError": RuntimeError,
    "ModelRunError": RuntimeError,
    "ModelClosedError": RuntimeError,
    "DeadlineExceededError": TimeoutError,
    "QueueFullError": RuntimeError,
    "BackendUnavailableError": RuntimeError,
}


@pytest.mark.parametrize(("name", "builtin"), CLASSES.items())
def test_each_exception_is_an_inferlite_error_and_a_builtin_one(name: str, builtin: type[Exception]) -> None:
    kind = getattr(exceptions, name)
    assert kind.__bases__ == (exceptions.InferliteError, builtin)
    assert str(kind("what happened")) == "what happened"


def test_the_base_is_no_builtin_error_but_exception() -> None:
    assert exceptions.InferliteError.__bases__ == (Exception,)


def test_every_exception_is_public_and_hides_no_builtin() -> None:
    declared = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert declared == {"InferliteError", *CLASSES}
    for name in declared:
        assert getattr(inferlite, name) is getattr(exceptions, name)
        assert name in inferlite.__all__
        assert not hasattr(builtins, name)
