"""The inputs of a command: what `--input` names, and random values for the rest."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferlite.cli.conversion import from_json
from inferlite.cli.failures import RefusedError, WrongUsageError, shortened
from inferlite.cli.terminal import show_bytes, show_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import inferlite

LARGEST_RANDOM_INPUT: Final = 2_000_000_000
"""Bytes of one random input, above which a mistyped dimension is likelier than a wish."""

RANDOM_INTEGERS_BELOW: Final = 10
"""Integer inputs are often indices, and small ones are more often valid."""

FILE_SUFFIXES: Final = (".npy", ".npz", ".json")


@dataclass(frozen=True, slots=True)
class RandomShapes:
    """What the command line says about the shapes of random inputs.

    Attributes:
        dims: sizes of symbolic dimensions by name.
        shapes: whole shapes by input.
    """

    dims: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def parse(cls, dims: Sequence[str] | None, shapes: Sequence[str] | None) -> RandomShapes:
        """Read `--dim NAME=SIZE` and `--shape INPUT=2x3` options.

        Raises:
            WrongUsageError: an option is not of that form.
        """
        sizes = {}
        for option in dims or ():
            name, _, size = option.rpartition("=")
            if not name or not _is_size(size):
                message = f"`--dim {option}` is not of the form NAME=SIZE, such as `--dim batch=4`"
                raise WrongUsageError(message)
            sizes[name] = int(size)
        whole = {}
        for option in shapes or ():
            name, _, shape = option.rpartition("=")
            parts = shape.split("x") if shape else []
            if not name or not all(map(_is_size, parts)):
                message = f"`--shape {option}` is not of the form INPUT=2x3, such as `--shape image=1x3x224x224`"
                raise WrongUsageError(message)
            whole[name] = tuple(map(int, parts))
        return cls(sizes, whole)


def gather_inputs(
    signature: inferlite.Signature, options: Sequence[str] | None, shapes: RandomShapes, *, seed: int
) -> dict[str, Any]:
    """Read the inputs that `options` name and make random ones for the rest, in the signature's order.

    Raises:
        WrongUsageError: an option does not fit the model's signature.
        RefusedError: a file cannot be read, or a value cannot become that input.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    given = read_inputs(specs, options or ())
    missing = [spec for spec in signature.inputs if spec.name not in given]
    _check_names(specs, missing, shapes)
    generator = np.random.default_rng(seed)
    # Drawn in the signature's order, so that the seed alone decides.
    drawn = {spec.name: random_input(spec, shapes, generator) for spec in missing}
    return {name: given[name] if name in given else drawn[name] for name in specs}


def read_inputs(specs: Mapping[str, inferlite.TensorSpec], options: Iterable[str]) -> dict[str, Any]:
    """Read `--input` options: `NAME=FILE`, `NAME=JSON`, or a file that holds inputs by name."""
    values: dict[str, Any] = {}
    for option in options:
        name, source = _split(option, specs)
        for key, value in _read(name, source, specs).items():
            if key not in specs:
                message = f"the model has no input `{key}`: it takes {_listed(specs)}"
                raise RefusedError(message)
            if key in values:
                message = f"input `{key}` is given twice"
                raise WrongUsageError(message)
            values[key] = value
    return values


def random_input(
    spec: inferlite.TensorSpec, shapes: RandomShapes, generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Draw an input: floats from the normal distribution, integers from 0 to 9, booleans, short words.

    Raises:
        RefusedError: the input is no tensor, is of a type numpy lacks, or too large.
    """
    shape = _random_shape(spec, shapes)
    try:
        dtype = np.dtype(object if spec.dtype == "string" else spec.dtype)
    except TypeError:
        message = f"input `{spec.name}` is {spec.dtype}, which cannot be drawn at random: give it with `--input`"
        raise RefusedError(message) from None
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_RANDOM_INPUT:
        message = (
            f"input `{spec.name}` of shape {show_shape(shape)} would take {show_bytes(size)}, "
            f"but random inputs are made up to {show_bytes(LARGEST_RANDOM_INPUT)}"
        )
        raise RefusedError(message)
    return _draw(dtype, shape, generator)


def _draw(dtype: np.dtype[Any], shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any]
    match dtype.kind:
        case "b":
            numbers = generator.integers(2, size=shape, dtype=np.bool_)
        case "i" | "u":
            numbers = generator.integers(RANDOM_INTEGERS_BELOW, size=shape)
        case "O":
            numbers = np.empty(shape, dtype=object)
            numbers.flat[:] = [f"word{number}" for number in generator.integers(100, size=numbers.size).tolist()]
        case "c":
            parts = generator.standard_normal((2, *shape))
            numbers = parts[0] + 1j * parts[1]
        case _:
            numbers = generator.standard_normal(shape, dtype=np.float32)
    return np.asarray(numbers).astype(dtype, copy=False)


def _random_shape(spec: inferlite.TensorSpec, shapes: RandomShapes) -> tuple[int, ...]:
    if spec.name in shapes.shapes:
        return shapes.shapes[spec.name]
    if spec.shape is None:
        # Most inputs without a declared shape are scalars.
        return ()
    return tuple(size if isinstance(size, int) else shapes.dims.get(size or "", 1) for size in spec.shape)


def _check_names(
    specs: Mapping[str, inferlite.TensorSpec], random: Sequence[inferlite.TensorSpec], shapes: RandomShapes
) -> None:
    drawn = {spec.name for spec in random}
    for name in shapes.shapes:
        if name not in specs:
            message = f"`--shape {name}=...`: the model has no input `{name}`: it takes {_listed(specs)}"
            raise WrongUsageError(message)
        if name not in drawn:
            message = f"`--shape {name}=...` says how to draw `{name}`, but `--input` gives it"
            raise WrongUsageError(message)
    known = {size: None for spec in random for size in spec.shape or () if isinstance(size, str)}
    for name in shapes.dims:
        if name not in known:
            there = f"they have {_listed(known)}" if known else "they have none with a name"
            message = f"`--dim {name}=...`: the random inputs have no dimension `{name}`: {there}"
            raise WrongUsageError(message)


def _split(option: str, specs: Mapping[str, inferlite.TensorSpec]) -> tuple[str | None, str]:
    """Split `NAME=VALUE`; a name that is an input's wins, for both sides may contain `=`."""
    for name in sorted(specs, key=len, reverse=True):
        if option.startswith(f"{name}="):
            return name, option[len(name) + 1 :]
    name, found, source = option.partition("=")
    if not found or Path(option).is_file():
        return None, option
    if not name:
        message = f"`--input {shortened(option)}` has no name before the `=`"
        raise WrongUsageError(message)
    return name, source


def _read(name: str | None, source: str, specs: Mapping[str, inferlite.TensorSpec]) -> dict[str, Any]:
    suffix = Path(source).suffix.lower()
    if suffix == ".json":
        return _named(name, _parse(_read_text(source), source), specs, source)
    if suffix in FILE_SUFFIXES:
        content = _read_arrays(source)
        if isinstance(content, dict):
            return content if name is None else {name: _pick(content, name, source)}
        return {name or _only(specs, source): content}
    if name is None:
        message = f"`--input {shortened(source)}` is neither NAME=VALUE nor a .npy, .npz or .json file"
        raise WrongUsageError(message)
    if name in specs:
        try:
            document = json.loads(source)
        except (ValueError, RecursionError):
            message = f"`--input {name}={shortened(source)}` is neither a .npy, .npz or .json file nor JSON"
            raise WrongUsageError(message) from None
        return {name: from_json(document, specs[name])}
    return {name: None}


def _named(
    name: str | None,
    document: Any,  # noqa: ANN401 - JSON
    specs: Mapping[str, inferlite.TensorSpec],
    source: str,
) -> dict[str, Any]:
    if name is None and isinstance(document, dict) and (document.keys() & specs.keys() or len(specs) != 1):
        return {key: from_json(value, specs[key]) if key in specs else None for key, value in document.items()}
    target = name or _only(specs, source)
    return {target: from_json(document, specs[target]) if target in specs else None}


def _only(specs: Mapping[str, inferlite.TensorSpec], source: str) -> str:
    if len(specs) != 1:
        shown = shortened(source)
        message = f"`--input {shown}` names no input: the model takes {_listed(specs)}, so write NAME={shown}"
        raise WrongUsageError(message)
    return next(iter(specs))


def _pick(arrays: Mapping[str, np.ndarray[Any, Any]], name: str, source: str) -> np.ndarray[Any, Any]:
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    message = f"`{source}` has no array `{name}`: it holds {_listed(arrays) or 'none'}"
    raise RefusedError(message)


def _read_arrays(source: str) -> np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]:
    try:
        # Pickles run code when they are read.
        with open(source, "rb") as file:  # noqa: PTH123 - the path may be any text, NUL included
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            with content:
                return {key: content[key] for key in content.files}
    except OSError as error:
        raise _unreadable(source, error) from error
    except MemoryError as error:
        message = f"`{source}` does not fit in memory"
        raise RefusedError(message) from error
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, SyntaxError, TypeError) as error:
        if "allow_pickle" in str(error) and _is_numpy(source):
            message = f"`{source}` holds Python objects, which are never loaded: save numbers or strings"
        else:
            message = f"`{source}` is not a readable .npy or .npz file"
        raise RefusedError(message) from error


def _is_numpy(source: str) -> bool:
    """Tell a .npy or .npz file from one that numpy takes for a pickle because it is neither."""
    with open(source, "rb") as file:  # noqa: PTH123 - as above
        return file.read(6) == b"\x93NUMPY" or zipfile.is_zipfile(file)


def _read_text(source: str) -> str:
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(source, error) from error
    except ValueError as error:
        message = f"`{source}` is not UTF-8 text"
        raise RefusedError(message) from error


def _parse(text: str, source: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = error.msg.lower().replace("'", "`")
        message = f"`{source}` is not JSON: {reason} at line {error.lineno}, column {error.colno}"
        raise RefusedError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"`{source}` is not JSON that can be read: nested too deep, or a number too long"
        raise RefusedError(message) from error


def _unreadable(source: str, error: OSError) -> RefusedError:
    reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {_reason(error)}"
    return RefusedError(f"`{shortened(source)}` {reason}")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _is_size(text: str) -> bool:
    # More digits than a 64-bit size has would also be slow to read.
    return text.isascii() and text.isdigit() and len(text) < 20  # noqa: PLR2004


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
