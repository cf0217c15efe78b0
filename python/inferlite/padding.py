"""Lengths that calls may differ in and share a batch all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MOST: Final = 2**31 - 1
# Lengths of 0 and 1 are never filled up, and 2 to a size of 2 is nothing to do.
LEAST_SIZE: Final = 3
WHOLE_NUMBERS: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Pad:
    """A length that differs from call to call: calls are filled up to a common one, and outputs cut back to their own.

    The length is one number of a call, such as that of its tokens, which all axes have that are named here. Calls share
    a batch if they have the same size of `sizes`, and are equal in all else that they would have to be without padding.
    What fills them up comes last. A call that runs by itself, and calls that are equally long, are left as they are.

    You vouch that the answers of the model do not depend on what it is filled up with: that it has a mask, or looks at
    each element by itself. `load` tries it out once and refuses a model for which it is not so.

    Attributes:
        inputs: The axis that has this length, by the name of the input; several axes as a sequence. Not the one of the
            rows, and none of an input that has no rows.
        sizes: To how many elements a call may be filled up, the fewest first: the fewest that suffice are taken. A call
            that is longer than the last, or no longer than one element, is batched with its equals alone.
        value: What fills inputs up, as a number, or as text for strings: one for all, or by name, where 0 fills those
            that are not named.
        outputs: The axis that is as long as those of the inputs, by the name of the output; several as a sequence. An
            output that is not named must not depend on the length.

    Raises:
        ValueError: There is no input or no size, an axis is below 0, `sizes` do not grow or the last is below 3, or
            `value` names what `inputs` do not.
        TypeError: Something is of another type.

    Example:
        >>> import inferlite
        >>> pad = inferlite.Pad(
        ...     {"input_ids": 1, "attention_mask": 1}, sizes=(16, 32, 64), outputs={"last_hidden_state": 1}
        ... )
        >>> inferlite.Batching(max_rows=32, pad=pad).pad[0].sizes
        (16, 32, 64)
    """

    inputs: Mapping[str, int | Sequence[int]]
    sizes: Sequence[int] = field(kw_only=True)
    value: float | str | Mapping[str, float | str] = field(default=0, kw_only=True)
    outputs: Mapping[str, int | Sequence[int]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Check the settings, and keep copies that nobody else changes."""
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, _read_axes(name, getattr(self, name)))
        if not self.inputs:
            message = "`inputs` of a `Pad` must name one at least"
            raise ValueError(message)
        object.__setattr__(self, "sizes", _read_sizes(self.sizes))
        if isinstance(self.value, Mapping):
            object.__setattr__(self, "value", dict(self.value))
        self._check_values()

    def _check_values(self) -> None:
        values = self.value.items() if isinstance(self.value, Mapping) else [(None, self.value)]
        for name, value in values:
            if name is not None and name not in self.inputs:
                named = ", ".join(f"`{known}`" for known in self.inputs)
                message = f"`value` of a `Pad` names {name!r}, which is none of its `inputs`: {named}"
                raise ValueError(message)
            given: object = value
            if not isinstance(given, (int, float, str)):
                message = f"`value` of a `Pad` must be a number or text, not {value!r}"
                raise TypeError(message)
            if isinstance(value, int) and value not in WHOLE_NUMBERS:
                message = f"`value` of a `Pad` must fit into 64 bits, not {value}"
                raise ValueError(message)

    def _given(self) -> dict[str, Any]:
        """What the native part takes: an item for every axis."""
        values = self.value if isinstance(self.value, Mapping) else dict.fromkeys(self.inputs, self.value)
        inputs = [(name, axis, values.get(name, 0)) for name, axes in self.inputs.items() for axis in _several(axes)]
        outputs = [(name, axis) for name, axes in self.outputs.items() for axis in _several(axes)]
        return {"inputs": inputs, "sizes": self.sizes, "outputs": outputs}


def read_pads(given: object) -> tuple[Pad, ...]:
    """What `pad=` stands for.

    Raises:
        TypeError: It is neither a `Pad` nor several.
    """
    if isinstance(given, Pad):
        return (given,)
    pads = tuple(given) if isinstance(given, Sequence) else (given,)
    for pad in pads:
        if not isinstance(pad, Pad):
            message = f"`pad` must be an `inferlite.Pad` or several, not {given!r}"
            raise TypeError(message)
    return pads


def _several(axes: int | Sequence[int]) -> Sequence[int]:
    return (axes,) if isinstance(axes, int) else axes


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _read_axes(setting: str, given: object) -> dict[str, int | tuple[int, ...]]:
    if not isinstance(given, Mapping):
        message = f"`{setting}` of a `Pad` must be a mapping of names to axes, not {given!r}"
        raise TypeError(message)
    read: dict[str, int | tuple[int, ...]] = {}
    for name, axes in given.items():
        if not isinstance(name, str):
            message = f"`{setting}` of a `Pad` must have names, not {name!r}"
            raise TypeError(message)
        several = tuple(axes) if isinstance(axes, Sequence) else (axes,)
        if isinstance(axes, str) or not several or not all(map(_is_whole, several)):
            message = f"`{setting}` of a `Pad` must give `{name}` the number of an axis, or several, not {axes!r}"
            raise TypeError(message)
        if not all(0 <= axis <= MOST for axis in several):
            message = f"`{setting}` of a `Pad` must give `{name}` an axis from 0 on, not {axes!r}"
            raise ValueError(message)
        read[name] = several if isinstance(axes, Sequence) else axes
    return read


def _read_sizes(given: object) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(map(_is_whole, given)):
        message = f"`sizes` of a `Pad` must be a sequence of whole numbers, not {given!r}"
        raise TypeError(message)
    sizes = tuple(given)
    grow = all(smaller < larger for smaller, larger in zip((0, *sizes), sizes, strict=False))
    if not grow or not sizes or not LEAST_SIZE <= sizes[-1] <= MOST:
        message = f"`sizes` of a `Pad` must grow from 1 on, and the last be at least {LEAST_SIZE}, not {given!r}"
        raise ValueError(message)
    return sizes
