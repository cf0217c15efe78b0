"""Sessions that go to another process: what is told of their models, and how the file is found to be the same there."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferlite._model_file import data_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RELEASED: Final = (
    "the session gave its model up, because it was made with `release_model=True`: leave the option out where sessions "
    "are pickled, forked, or given other providers"
)


@dataclass(frozen=True, slots=True)
class ModelAt:
    """A model's file, and what is in it and in the files beside it that hold its weights."""

    path: str
    digest: bytes

    @classmethod
    def of(cls, path: str) -> ModelAt:
        """What lies there now.

        Raises:
            OSError: It cannot be read.
        """
        return cls(path, _digest(Path(path)))


def kind_of(instance: object) -> type:
    """The class to make again: inferlite's own for what was made under `patch`, which another process may not have."""
    made = type(instance)
    _, kind = vars(made).get("_stands_for", (None, made))
    return kind  # type: ignore[no-any-return]


def packed(model: str | bytes, *, is_unchanged: bool) -> ModelAt | bytes:
    """What is told of a model: its bytes, or its path with a digest.

    Raises:
        onnxruntime.capi.onnxruntime_pybind11_state.Fail: The file is another one than the session was made of.
    """
    if isinstance(model, bytes):
        return model
    try:
        if is_unchanged:
            return ModelAt.of(model)
    except OSError:
        pass
    message = f"the session cannot be pickled, because {model} has changed since it was made: make a new session"
    raise fail(message)


def unpacked(model: ModelAt | bytes) -> str | bytes:
    """The model to load.

    Raises:
        onnxruntime.capi.onnxruntime_pybind11_state.Fail: The file holds something else here.
    """
    if isinstance(model, bytes):
        return model
    try:
        is_same = ModelAt.of(model.path) == model
    except OSError:
        # Loading it says so.
        return model.path
    if not is_same:
        message = f"the session was pickled when {model.path} held another model than it does here: make a new session"
        raise fail(message)
    return model.path


def made(make: Callable[[Any, Any, dict[str, Any]], Any], kind: type, model: ModelAt | bytes, recipe: Any) -> Any:  # noqa: ANN401
    """A session like the one that was pickled; what `pickle` calls."""
    return make(kind, unpacked(model), recipe)


def without(names: Iterable[str], state: Any) -> Any:  # noqa: ANN401 - as `object.__getstate__` gives it
    """The state of an object without some attributes, which are made anew."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    own = set(names)
    kept = {name: value for name, value in (attributes or {}).items() if name not in own} or None
    return kept if slots is None else (kept, slots)


def fail(message: str) -> Exception:
    """onnxruntime's general failure."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail  # noqa: PLC0415 - most sessions never fail

    return Fail(f"[ONNXRuntimeError] : 1 : FAIL : {message}")  # type: ignore[no-any-return]


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        digest.update(hashlib.file_digest(file, _blake2b).digest())
        if file.seek(0, 2):
            # Not closed here: an exception's traceback may still hold a part of it, and closing would then fail.
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            locations = data_files(mapped)
        else:
            locations = []
    for location in locations:
        digest.update(location.encode())
        with (path.parent / location).open("rb") as file:
            digest.update(hashlib.file_digest(file, _blake2b).digest())
    return digest.digest()


def _blake2b() -> Any:  # noqa: ANN401 - hashlib's own object
    return hashlib.blake2b(digest_size=32)
