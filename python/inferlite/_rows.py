"""What `batch_axes`, `example` and `rows_independent` may be; both back ends check them here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferlite.metadata import Signature


def read_axes(batch_axes: object) -> list[tuple[str, int | None]]:
    """The axes that were declared, by name.

    Raises:
        TypeError: They are no mapping of names to numbers and None.
        ValueError: An axis is below 0.
    """
    if batch_axes is None:
        return []
    if not isinstance(batch_axes, Mapping):
        message = f"`batch_axes` must be a mapping of names to axes, not {batch_axes!r}"
        raise TypeError(message)
    for name, axis in batch_axes.items():
        if not isinstance(name, str):
            message = f"`batch_axes` must name inputs and outputs, not {name!r}"
            raise TypeError(message)
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            message = f"`batch_axes` must give `{name}` a number or None, not {axis!r}"
            raise TypeError(message)
        if axis is not None and axis < 0:
            message = f"`batch_axes` must give `{name}` an axis from 0 on, not {axis}"
            raise ValueError(message)
    return list(batch_axes.items())


def check_independent(rows_independent: object) -> None:
    """Refuse what is no answer.

    Raises:
        TypeError: It is neither a bool nor None.
    """
    if rows_independent is not None and not isinstance(rows_independent, bool):
        message = f"`rows_independent` must be True, False or None, not {rows_independent!r}"
        raise TypeError(message)


def check_axes(name: str, axes: list[tuple[str, int | None]], signature: Signature) -> None:
    """Refuse axes that the model has not.

    Raises:
        ValueError: There is no input or output of a name, or it has fewer axes.
    """
    for wanted, axis in axes:
        found = [spec for spec in (*signature.inputs, *signature.outputs) if spec.name == wanted]
        if not found:
            inputs, outputs = (
                ", ".join(f"`{spec.name}`" for spec in specs) for specs in (signature.inputs, signature.outputs)
            )
            message = (
                f"`batch_axes` names `{wanted}`, which model `{name}` has not: its inputs are {inputs}, its outputs "
                f"are {outputs}"
            )
            raise ValueError(message)
        for spec in found:
            if axis is not None and spec.shape is not None and axis >= len(spec.shape):
                message = (
                    f"`batch_axes` gives `{wanted}` axis {axis}, but model `{name}` declares it with "
                    f"{len(spec.shape)} axes"
                )
                raise ValueError(message)
