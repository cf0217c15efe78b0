"""Write a model's outputs into a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from inferlite.cli.conversion import to_json
from inferlite.cli.failures import UnwritableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def file_name(output: str, suffix: str) -> str:
    """Make an output's name a file name that stays in its folder, on every system.

    What could be a separator, a drive or a reserved character is percent-encoded, as in a URL.

    Example:
        >>> file_name("layer/../y:0", ".npy"), file_name("..", ".json")
        ('layer%2F..%2Fy%3A0.npy', '...json')
    """
    return quote(output, safe=" ()[]+,;=@!$&'", errors="surrogatepass") + suffix


def prepare_folder(folder: Path) -> None:
    """Make `folder` and its parents, before the model runs for nothing.

    Raises:
        UnwritableError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from error


def write_outputs(folder: Path, outputs: Mapping[str, Any]) -> dict[str, Path]:
    """Write tensors as .npy, everything else as .json; returns the file of each output.

    Files of the same name are overwritten. No file holds pickled objects: strings are saved as numpy's
    text type, or as JSON where that would lose their trailing NULs.

    Raises:
        UnwritableError: naming the file and the reason.
    """
    files = {}
    for name, value in outputs.items():
        array = _as_plain_array(value)
        path = folder / file_name(name, ".json" if array is None else ".npy")
        try:
            if array is None:
                path.write_text(json.dumps(to_json(value)) + "\n", encoding="utf-8")
            else:
                with path.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _unwritable(path, error) from error
        files[name] = path
    return files


def _as_plain_array(value: Any) -> np.ndarray[Any, Any] | None:  # noqa: ANN401 - any model value
    """Return the array that a .npy file can hold without losing anything, or None."""
    if not isinstance(value, np.ndarray):
        return None
    # numpy would write a type of an extension, such as bfloat16, as nameless bytes.
    if value.dtype.kind == "V":
        return value.astype(np.float32)
    if value.dtype.kind != "O":
        return value
    if any(not isinstance(text, str) or text.endswith("\0") for text in value.flat):
        return None
    return value.astype(np.str_)


def _unwritable(path: Path, error: Exception) -> UnwritableError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnwritableError(f"cannot write `{path}`: {reason.lower()}")
