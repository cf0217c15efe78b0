"""`load`: from a file to a `Model`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

# Calls need more than this module does. A child that is forked while another thread imports that would wait for ever
# for the end of the import, so it is there once there is a model.
from inferlite import _backend, _calls, _futures, _out, _rows, providers as provider_rules  # noqa: F401
from inferlite._content import content_of
from inferlite.batching import Batching
from inferlite.cache import Cache, refuse_random
from inferlite.capabilities import CAPABILITIES
from inferlite.exceptions import BackendUnavailableError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    batching: Batching | bool | None = None,
    batch_axes: Mapping[str, int | None] | None = None,
    example: Any = None,  # noqa: ANN401 - whatever the model takes
    rows_independent: bool | None = None,
    casting: Literal["no", "safe", "same_kind"] = "no",
    optimized_cache: str | os.PathLike[str] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
    provider_options: Sequence[dict[Any, Any]] | None = None,
) -> Model:
    """Load a model.

    Unless `session_options` sets `intra_op_num_threads`, an operator uses as many threads as the process may keep
    busy by its affinity mask and its cgroup's quota. Threads without work look for some for a while before they
    sleep, as is the runtime's default, since models whose operators are shared among threads are much slower otherwise;
    `session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")` ends that.

    Args:
        model: A path, the content of an ONNX or ORT file, or a file object opened in binary mode, which is read to its
            end. Data in files beside the model is found only by way of a path.
        name: What messages call the model; by default the file's name without its ending, else the graph's name.
        engine: What runs the model. `auto` and `onnxruntime` both mean ONNX Runtime for now.
        hold_gil: Whether a run that is expected to take a few microseconds may keep the GIL; `auto` means that it may,
            unless the environment variable `INFERLITE_HOLD_GIL` is 0. The Python back end ignores it.
        cache: Whether answers are kept and given again for equal inputs: a number of bytes, text such as `"256MB"`,
            or an `inferlite.Cache`; None for no cache. `model.cache` is the live one.
        batching: Whether calls that come at the same time are combined to batches: True, or an `inferlite.Batching`;
            None and False for no. A call that comes alone is none the slower.
        batch_axes: The axis on which an input or output holds the rows of a batch, by name; None for an input that
            belongs to all rows alike. What is not named has axis 0 if that is dynamic, else none.
        example: Inputs that the model accepts, as a call takes them, for the trial runs that show whether the rows are
            independent, and padding changes nothing; they are made up otherwise. Without `Cache(by="row")` and
            `batching` there are no trial runs.
        rows_independent: Whether no row of a batch has any influence on what the model gives for another; None to
            find out, which the Python back end cannot. Only `Cache(by="row")` and `batching` ask.
        casting: Which arrays of numbers are cast to the dtype of their input, with numpy's meanings
            (`numpy.can_cast`): none, those whose values all stay, or those that stay of their kind.
        optimized_cache: A folder where optimized graphs are kept, as for `InferenceSession`; the Python back end
            ignores it.
        session_options: Options, of inferlite's or of onnxruntime's class. The Python back end cannot copy those of
            onnxruntime's class, so that they keep the number of threads they have.
        providers: Names of execution providers or (name, options) tuples, highest precedence first.
        provider_options: One dict of options for each of `providers`, which are all names then.

    Raises:
        ModelLoadError: The model cannot be read or run, a provider is not known, `cache` is given for a model that
            may be random, `Cache(by="row")` or `batching` for one whose rows are not independent, or padding for one
            whose answers it changes.
        BackendUnavailableError: The engine, something that `session_options` holds, or a setting of the cache or of
            `batching` is not there; or whether rows are independent is not said, and cannot be found out.
        InvalidInputError: `example` does not fit the model.
        TypeError: `model`, `batching`, `batch_axes` or `rows_independent` is of another type.
        ValueError: `engine`, `hold_gil`, `casting`, `providers` or `provider_options` has another form, or `batch_axes`
            names what the model has not.

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
    _check_casting(casting)
    kept = Cache.read(cache)
    combined = Batching.read(batching)
    axes = _rows.read_axes(batch_axes)
    _rows.check_independent(rows_independent)
    source, stem = _source(model)
    title = name or stem
    backend = _backend.active()
    open_model = _open_native if backend.name == "native" else _open_python
    _check_backend(backend.name, kept, combined)
    if kept is not None and not kept.allow_random:
        refuse_random(title, _random_node(backend, source))
    given = None
    if kept is not None:
        given = kept._given() if backend.name == "native" else kept._given_alone()  # noqa: SLF001 - of this package

    folder = _folder(optimized_cache)

    def make(**settings: Any) -> Model:  # noqa: ANN401 - the back ends take other settings
        settings.get("settings", {}).update(folder)
        model: Model = backend.Model(source, name=title, cache=given, casting=casting, **settings)
        return model

    opened = open_model(make, title, hold, session_options, providers, provider_options, combined)
    if axes:
        _rows.check_axes(opened.name, axes, opened.signature)
        opened._declare_axes(axes)  # noqa: SLF001 - a class of this package
    by_row = kept is not None and kept.by == "row"
    settings = None
    if combined is not None:
        settings = combined._given(instances(backend.name, session_options, providers))  # noqa: SLF001 - as above
    if by_row or settings is not None:
        opened._use_rows(axes, example, rows_independent, by_row, settings)  # noqa: SLF001 - a class of this package
    elif example is not None:
        opened._check_example(example)  # noqa: SLF001 - as above
    return opened


def _check_backend(backend: str, *wanted: Cache | Batching | None) -> None:
    for settings in wanted:
        if settings is not None:
            settings._check_backend(backend)  # noqa: SLF001 - a class of this package


def _check_casting(casting: object) -> None:
    if casting != "no":
        from inferlite._exchange import read_casting  # noqa: PLC0415 - most models cast nothing

        read_casting(casting)


def _folder(optimized_cache: str | os.PathLike[str] | None) -> dict[str, str]:
    if optimized_cache is None:
        return {}
    return {"optimized_cache": os.path.abspath(optimized_cache)}  # noqa: PTH100 - resolves no links


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
    batching: Batching | None,
) -> Model:
    from inferlite import _core  # noqa: PLC0415 - there only with the native back end
    from inferlite._arguments import settings_for  # noqa: PLC0415

    available = _core.available_providers()
    names, dicts = provider_rules.normalize(providers, provider_options, available)
    settings = settings_for(session_options, providers_given=bool(names))
    if not settings.get("intra_op_num_threads"):
        # Instances share the processors.
        instances = 1 if batching is None else batching.instances or 1
        settings["intra_op_num_threads"] = max(1, _core.available_threads() // instances)
    pairs = _usable(name, names, dicts, available)
    return make(settings=settings, providers=pairs, hold_gil=hold_gil)


def _open_python(
    make: Callable[..., Model],
    name: str,
    _hold_gil: bool,  # noqa: FBT001
    session_options: onnxruntime.SessionOptions | None,
    providers: Any,  # noqa: ANN401
    provider_options: Any,  # noqa: ANN401
    batching: Batching | None,
) -> Model:
    import onnxruntime  # noqa: PLC0415 - the Python back end has imported it

    available = onnxruntime.get_available_providers()
    names, dicts = provider_rules.normalize(providers, provider_options, available)
    pairs = _usable(name, names, dicts, available)
    instances = 1 if batching is None else batching.instances or 1
    return make(session_options=session_options, providers=pairs, instances=instances)


def instances(backend: str, session_options: onnxruntime.SessionOptions | None, providers: object) -> int:
    """How many runs keep all processors busy; one where something else than processors runs the model."""
    threads = 0 if session_options is None else session_options.intra_op_num_threads
    if threads < 1 or providers not in (None, ["CPUExecutionProvider"]):
        return 1
    if backend == "native":
        from inferlite._core import available_threads  # noqa: PLC0415 - there only with this back end
    else:
        from inferlite._fallback.threads import available_threads  # noqa: PLC0415 - as above
    return max(1, available_threads() // threads)


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
    content = content_of(model, "load")
    if content is None:
        message = f"`load` takes a path, bytes or a binary file object, not {type(model).__name__}"
        raise TypeError(message)
    return content, ""
