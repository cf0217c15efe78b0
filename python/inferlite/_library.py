"""Finds the library of ONNX Runtime that the installed onnxruntime package carries, without importing the package."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferlite.exceptions import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

LIBRARY_VARIABLE: Final = "INFERLITE_ORT_LIBRARY"

_REMEDY: Final = f"install onnxruntime (`pip install onnxruntime`), or name the file in {LIBRARY_VARIABLE}"
_PATTERNS: Final = {
    "Linux": r"libonnxruntime\.so(\.\d+)*",
    "Darwin": r"libonnxruntime(\.\d+)*\.dylib",
    "Windows": r"onnxruntime\.dll",
}


def library_names(system: str, version: str | None = None) -> list[str]:
    """The file names that ONNX Runtime's library may have on a system, the most specific first.

    Args:
        system: What `platform.system()` says: `Linux`, `Darwin` or `Windows`; anything else counts as Linux.
        version: The version of ONNX Runtime, such as `1.32.0`; without it only the names that carry no version.

    Example:
        >>> library_names("Linux", "1.32.0")
        ['libonnxruntime.so.1.32.0', 'libonnxruntime.so.1', 'libonnxruntime.so']
    """
    if system == "Windows":
        return ["onnxruntime.dll"]
    versions = [] if version is None else [version, version.split(".", maxsplit=1)[0]]
    if system == "Darwin":
        return [f"libonnxruntime.{number}.dylib" for number in versions] + ["libonnxruntime.dylib"]
    return [f"libonnxruntime.so.{number}" for number in versions] + ["libonnxruntime.so"]


def pick_library(system: str, names: Iterable[str]) -> str | None:
    """The library among the names of a folder's files: the highest version, and a full version before a link to it.

    Example:
        >>> pick_library("Linux", ["libonnxruntime_providers_shared.so", "libonnxruntime.so.1.32.0"])
        'libonnxruntime.so.1.32.0'
    """
    pattern = re.compile(_PATTERNS.get(system, _PATTERNS["Linux"]))
    fitting = [name for name in names if pattern.fullmatch(name)]
    return max(fitting, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], default=None)


def find_library() -> Path:
    """The path of ONNX Runtime's library.

    That is what the environment variable `INFERLITE_ORT_LIBRARY` names, or else the file inside the installed
    onnxruntime package, which is found without being imported. Whether the file can be used is for the loader to say.

    Raises:
        BackendUnavailableError: No onnxruntime package is installed, or it carries no library.
    """
    override = os.environ.get(LIBRARY_VARIABLE)
    if override:
        return Path(override)
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        message = f"the package onnxruntime is not installed: {_REMEDY}"
        raise BackendUnavailableError(message)
    system = platform.system()
    folders = [Path(location) / "capi" for location in spec.submodule_search_locations]
    for folder in folders:
        if not folder.is_dir():
            continue
        name = pick_library(system, (entry.name for entry in folder.iterdir()))
        if name is not None:
            return folder / name
    wanted = "`, `".join(library_names(system))
    message = f"the package onnxruntime in `{folders[0].parent}` carries no `{wanted}`: {_REMEDY}"
    raise BackendUnavailableError(message)
