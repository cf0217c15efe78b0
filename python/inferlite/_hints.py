"""What to do about an error of `run`, as a line below onnxruntime's own text, which does not say it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite import _checks as checks
from inferlite.metadata import element_type, tensor_spec, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferlite.metadata import TensorSpec

    Description = tuple[str, str, list[int | str | None]]

_MODEL: Final = "the model"


class Text(str):
    """The text of an error, which has the line more once somebody reads it.

    The native part raises with it: it runs no Python for a refused call, in which the end of the interpreter could meet
    a thread, and callers who read no texts pay for none.
    """

    __slots__ = ("call",)

    call: tuple[object, object, Sequence[Description], Sequence[Description]] | str
    """What was asked, or the whole text: the outputs and the feed, then what `hint` takes as `inputs` and `outputs`."""

    def __str__(self) -> str:
        """The text, with the line where there is something to say."""
        if not isinstance(self.call, str):
            text = super().__str__()
            try:
                line = hint(text, *self.call)
            except Exception:  # noqa: BLE001 - what was fed may do anything when it is looked at
                line = None
            self.call = text if line is None else f"{text}\n{line}"
        return self.call

    def __reduce_ex__(self, _protocol: object) -> tuple[type[str], tuple[str]]:
        """Be pickled and copied as what it says: what was fed stays here."""
        return str, (str(self),)


def explained(
    error: Exception, output_names: object, feed: object, inputs: Sequence[Description], outputs: Sequence[Description]
) -> Exception:
    """The error with a line more, where there is something to say; else itself.

    Args:
        error: What `run` is about to raise.
        output_names: The outputs that it was asked for.
        feed: The values that it was given.
        inputs: As of `hint`.
        outputs: As of `hint`.
    """
    text = str(error)
    line = hint(text, output_names, feed, inputs, outputs)
    if line is None:
        return error
    try:
        other = type(error)(f"{text}\n{line}")
    except Exception:  # noqa: BLE001 - a class of the caller's own, which takes something else than a text
        return error
    return other.with_traceback(error.__traceback__)


def hint(
    text: str, output_names: object, feed: object, inputs: Sequence[Description], outputs: Sequence[Description]
) -> str | None:
    """What to do about an error with this text; None where there is nothing to say.

    Args:
        text: What onnxruntime says.
        output_names: The outputs that `run` was asked for.
        feed: The values that it was given.
        inputs: Name, onnxruntime's type string and axes of every input, and of every initializer that a call may
            override.
        outputs: The same of every output.
    """
    for pattern, find in _HINTS:
        found = pattern.search(text)
        if found:
            return find(_Call(output_names, feed if type(feed) is dict else {}, inputs, outputs), found)
    return None


class _Call:
    """A call that failed, and what the model declares."""

    def __init__(
        self,
        output_names: object,
        feed: dict[Any, Any],
        inputs: Sequence[Description],
        outputs: Sequence[Description],
    ) -> None:
        self.output_names = output_names
        self.feed = feed
        self.types = {name: kind for name, kind, _ in inputs}
        self.specs = {name: tensor_spec(name, unwrapped(kind), axes) for name, kind, axes in inputs}
        self.inputs = inputs
        self.outputs = outputs

    def values(self) -> Iterator[tuple[str, Any, TensorSpec]]:
        """Every value with its name and what is declared for it."""
        for name, value in self.feed.items():
            if name in self.specs:
                yield name, value, self.specs[name]

    def tensors(self) -> Iterator[tuple[Any, TensorSpec]]:
        """The same of the inputs that are tensors."""
        for name, value, spec in self.values():
            if element_type(unwrapped(self.types[name])) is not None:
                yield value, spec


def _dtype(call: _Call, _: re.Match[str]) -> str | None:
    for value, spec in call.tensors():
        if isinstance(value, np.ndarray):
            reason = checks.misfit(_MODEL, checks.without_shape(spec), value, value)
            if reason is not None:
                return reason
    for name, value, spec in call.values():
        if isinstance(value, (dict, list)) or call.types[name].startswith(("seq(", "map(", "optional(seq(")):
            return f"input `{name}` is {type(value)}, but the model expects {spec.dtype}"
    return None


def _shape(call: _Call, found: re.Match[str]) -> str | None:
    spec = call.specs.get(found["name"])
    value = call.feed.get(found["name"])
    if spec is None or not isinstance(value, np.ndarray):
        return None
    return checks.misfit(_MODEL, spec, value, value)


def _foreign(call: _Call, _: re.Match[str]) -> str | None:
    for value, spec in call.tensors():
        if not isinstance(value, (np.ndarray, list, dict)):
            can_be_converted = isinstance(value, (Real, range)) or hasattr(type(value), "__array__")
            instead = checks.conversion(spec) if can_be_converted else f"an array of {spec.dtype}"
            return f"input `{spec.name}` is {type(value)}: pass {instead}"
    return None


def _list(call: _Call, _: re.Match[str]) -> str | None:
    for value, spec in call.tensors():
        if isinstance(value, list) and spec.dtype in checks.NUMPY_DTYPES:
            try:
                np.asarray(value, spec.dtype)
            except Exception as error:  # noqa: BLE001 - whatever is in the list; its text is what is wanted
                return f"input `{spec.name}` cannot be made an array of {spec.dtype}: {error}"
    return None


def _named(call: _Call, found: re.Match[str]) -> str | None:
    for name, value, spec in call.values():
        if found["name"] in {None, name} and isinstance(value, tuple):
            return f"input `{name}` is a tuple: pass a list, or {checks.conversion(spec)}"
    return _foreign(call, found)


def _sequence(call: _Call, _: re.Match[str]) -> str | None:
    for name, value, _spec in call.values():
        if isinstance(value, list) and not all(isinstance(item, np.ndarray) for item in value):
            return f"input `{name}` is a list of other things than arrays: pass a list of arrays"
    return None


def _empty_map(call: _Call, _: re.Match[str]) -> str | None:
    for name, value, _spec in call.values():
        if isinstance(value, dict) and not value:
            return f"input `{name}` is an empty dict: pass at least one key"
    return None


def _none(call: _Call, _: re.Match[str]) -> str | None:
    for name, value, spec in call.values():
        if value is None and not call.types[name].startswith("optional"):
            return f"input `{name}` is None, but the model expects {spec.dtype}"
    return None


def _input_name(call: _Call, _: re.Match[str]) -> str:
    return f"the model takes {checks.names_of(name for name, _, _ in call.inputs)}"


def _output_name(call: _Call, _: re.Match[str]) -> str:
    return f"the model gives {checks.names_of(name for name, _, _ in call.outputs)}"


def _feed(call: _Call, _: re.Match[str]) -> str:
    names = ", ".join(f'"{name}": ...' for name, _, _ in call.inputs[:1])
    return f"`input_feed` must be a dict of values by name: {{{names}}}"


def _arguments(call: _Call, _: re.Match[str]) -> str | None:
    if isinstance(call.output_names, (str, bytes)):
        return f"`output_names` must be a list of names: [{call.output_names!r}]"
    if call.output_names and not isinstance(call.output_names, Sequence):
        return "`output_names` must be a list of names, or None for all outputs"
    if any(not isinstance(name, str) for name in call.feed):
        return "the keys of `input_feed` must be names of inputs"
    return None


_HINTS: Final[tuple[tuple[re.Pattern[str], Callable[[_Call, re.Match[str]], str | None]], ...]] = (
    (re.compile(r"Unexpected input data type\. Actual"), _dtype),
    (re.compile(r"Numpy_type \d+ can't be converted to MLDataType"), _dtype),
    (re.compile(r"Invalid rank for input: (?P<name>.+?) Got: "), _shape),
    (re.compile(r"Got invalid dimensions for input: (?P<name>.+?) for the following"), _shape),
    (re.compile(r"Unable to handle object of type"), _foreign),
    (re.compile(r"Input must be a list of dictionaries or a single numpy array for input '(?P<name>.*)'"), _named),
    (re.compile(r"Could not create tensor from given input list"), _list),
    (re.compile(r"CreateSequenceOfTensors: Input is not a tensor"), _sequence),
    (re.compile(r"Size of dictionary is empty"), _empty_map),
    (re.compile(r"Non-zero status code"), _none),
    (re.compile(r"Invalid input name: "), _input_name),
    (re.compile(r"Invalid output name:"), _output_name),
    (re.compile(r"^'\w+' object has no attribute '(keys|values|items)'$"), _feed),
    (re.compile(r"^run\(\): incompatible function arguments"), _arguments),
)
"""What a text says, and what finds the line to add."""
