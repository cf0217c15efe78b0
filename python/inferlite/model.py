"""`load`: from a file to a `Model`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from inferlite import _backend, providers as provider_rules
from inferlite.cache import Cache, refuse_random
from inferlite.capabilities import CAPABILITIES
from inferlite.exceptions import BackendUnavailableError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime

    from inferlite._core import Model

ENGINES = ("auto", "onnxruntime", "native")


def load(  # noqa: PLR0913 - keyword arguments, each with a default
    model: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    name: str | None = None,
    engine: Literal["auto", "onnxruntime", "native"] = "auto",
    hold_gil: bool | Literal["auto"] = "auto",
    cache: Cache | str | int | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
    provider_options: Sequence[dict[Any, Any]] | None = None,
) -> Model:
    """Load a model.

    Unless `session_options` sets `intra_op_num_threads`, an operator uses as many threads as the process may keep
    busy by its affinity mask and its cgroup's quota.

    Args:
        model: A path, the content of an ONNX or ORT file, or a file object opened in binary mode, which is read to its
            end. Data in files beside the model is found only by way of a path.
        name: What messages call the model; by default the file's name without its ending, else the graph's name.
        engine: What runs the model. `auto` and `onnxruntime` both mean ONNX Runtime for now.
        hold_gil: Whether a run that is expected to take a few microseconds may keep the GIL; `auto` means that it may,
            unless the environment variable `INFERLITE_HOLD_GIL` is 0. The Python back end ignores it.
        cache: Whether answers are kept and given again for equal inputs: a number of bytes, text such as `"256MB"`,
            or an `inferlite.Cache`; None for no cache. `model.cache` is the live one.
        session_options: Options, of inferlite's or of onnxruntime's class. The Python back end cannot copy those of
            onnxruntime's class, so that they keep the number of threads they have.
        providers: Names of execution providers or (name, options) tuples, highest precedence first.
        provider_options: One dict of options for each of `providers`, which are all names then.

    Raises:
        ModelLoadError: The model cannot be read or run, a provider is not known, or `cache` is given for a model that
            may be random.
        BackendUnavailableError: The engine, something that `session_options` holds, or a setting of the cache is not
            there.
        TypeError: `model` is of another type.
        ValueError: `engine`, `hold_gil`, `providers` or `provider_options` has another form.

    Example:
        >>> import inferlite
        >>> model = inferlite.load("model.onnx")  # doctest: +SKIP
        >>> y = model(x)  # doctest: +SKIP
    """
    if engine not in ENGINES:
        message = f"`engine` must be `auto`, `onnxruntime` or `native`, not `{engine}`"
        raise ValueError(message)
    if engine == "native":
        raise BackendUnavailableError(CAPABILITIES["native_engine"].reason)
    hold = _may_hold(hold_gil)
    kept = Cache.read(cache)
    source, stem = _source(model)
    title = name or stem
    backend = _backend.active()
    open_model = _open_native if backend.name == "native" else _open_python
    if kept is not None and not kept.allow_random:
        refuse_random(title, _random_node(backend, source))
    given = None
    if kept is not None:
        given = kept._given() if backend.name == "native" else kept._given_alone()  # noqa: SLF001 - of this package

    def make(**settings: Any) -> Model:  # noqa: ANN401 - the back ends take other settings
        model: Model = backend.Model(source, name=title, cache=given, **settings)
        return model

    return open_model(make, title, hold, session_options, providers, provider_options)


def _may_hold(hold_gil: object) -> bool:
    if isinstance(hold_gil, bool):
        return hold_gil
    if hold_gil != "auto":
        message = f'`hold_gil` must be True, False or "auto", not {hold_gil!r}'
        raise ValueError(message)
    return True


def _open_native(
    make: Callable[..., Model],
    name: str,
    hold_gil: bool,  # noqa: FBT001
    session_options: onnxruntime.SessionOptions | None,
    providers: Any,  # noqa: ANN401
    provider_options: Any,  # noqa: ANN401
) -> Model:
    from inferlite import _core  # noqa: PLC0415 - there only with the native back end
    from inferlite.session import settings_for  # noqa: PLC0415

    available = _core.available_providers()
    names, dicts = provider_rules.normalize(providers, provider_options, available)
    settings = settings_for(session_options, providers_given=bool(names))
    if not settings.get("intra_op_num_threads"):
        settings["intra_op_num_threads"] = _core.available_threads()
    pairs = _usable(name, names, dicts, available)
    return make(settings=settings, providers=pairs, hold_gil=hold_gil)


def _open_python(
    make: Callable[..., Model],
    name: str,
    _hold_gil: bool,  # noqa: FBT001
    session_options: onnxruntime.SessionOptions | None,
    providers: Any,  # noqa: ANN401
    provider_options: Any,  # noqa: ANN401
) -> Model:
    import onnxruntime  # noqa: PLC0415 - the Python back end has imported it

    available = onnxruntime.get_available_providers()
    names, dicts = provider_rules.normalize(providers, provider_options, available)
    pairs = _usable(name, names, dicts, available)
    return make(session_options=session_options, providers=pairs)


def _random_node(backend: _backend.Backend, source: str | bytes) -> str | None:
    """The first node that may be random, or why that cannot be told."""
    from inferlite._model_file import random_node  # noqa: PLC0415 - only models with a cache are looked into

    return random_node(source, native=backend.name == "native")


def _usable(
    name: str, names: list[str], dicts: list[dict[str, str]], available: list[str]
) -> list[tuple[str, dict[str, str]]]:
    provider_rules.check_pair(names)
    try:
        return provider_rules.usable(names, dicts, available)
    except RuntimeError as error:
        message = f"model `{name or 'model'}` cannot be loaded: {error}"
        raise ModelLoadError(message) from error


def _source(model: object) -> tuple[str | bytes, str]:
    """What the runtime loads, and the name that it gives away: empty where only the graph can tell."""
    if isinstance(model, (str, os.PathLike)):
        path = os.fsdecode(model)
        return path, Path(path).stem
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model), ""
    read = getattr(model, "read", None)
    if read is None:
        message = f"`load` takes a path, bytes or a binary file object, not {type(model).__name__}"
        raise TypeError(message)
    content = read()
    if not isinstance(content, bytes):
        message = "`load` takes a file object that is opened in binary mode"
        raise TypeError(message)
    return content, ""
