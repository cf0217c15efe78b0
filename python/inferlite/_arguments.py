"""What a session is given, as the native part takes it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from inferlite._content import content_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnxruntime

    from inferlite.cache import Cache


def settings_for(
    options: onnxruntime.SessionOptions | None,
    disabled_optimizers: Iterable[str] | None = None,
    *,
    providers_given: bool = False,
) -> dict[str, Any]:
    """The settings that the native runtime takes; onnxruntime is imported only for options that exist.

    Raises:
        TypeError: `options` are not onnxruntime's.
        BackendUnavailableError: The options hold something that only the onnxruntime package can use.
    """
    if options is not None and disabled_optimizers is None and hasattr(options, "_settings"):
        # Ours, which knows by itself.
        own: dict[str, Any] = options._settings(providers_given=providers_given)  # noqa: SLF001 - of this package
        return own
    if not options:
        # A falsy value counts as no options, as in onnxruntime.
        return {} if disabled_optimizers is None else {"disabled_optimizers": sorted(set(disabled_optimizers))}
    import onnxruntime  # noqa: PLC0415

    from inferlite.options import session_settings  # noqa: PLC0415 - imports onnxruntime

    if not isinstance(options, onnxruntime.SessionOptions):
        raise TypeError(constructor_refusal(options))
    return session_settings(options, disabled_optimizers, providers_given=providers_given)


def cache_settings(model: str | bytes, given: Cache | str | int) -> dict[str, Any] | None:
    """The settings of a cache, once it is sure that the model may have one; None for none."""
    from inferlite._model_file import random_node  # noqa: PLC0415 - most sessions have no cache
    from inferlite.cache import Cache, refuse_random  # noqa: PLC0415

    settings = Cache.read(given)
    if settings is None:
        return None
    if not settings.allow_random:
        refuse_random("", random_node(model, native=True))
    return settings._given()  # noqa: SLF001 - a class of this package


def casting_of(given: str) -> str:
    """The name of a casting, checked."""
    if given == "no":
        return given
    from inferlite._exchange import read_casting  # noqa: PLC0415 - most sessions cast nothing

    return read_casting(given)


def model_argument(path_or_bytes: object) -> str | bytes:
    """A model as its path, or its bytes.

    Raises:
        TypeError: It is neither, nor a file.
    """
    content = content_of(path_or_bytes)
    if content is not None:
        return content
    if not isinstance(path_or_bytes, (str, os.PathLike)):
        message = f"Unable to load from type '{type(path_or_bytes)}'"
        raise TypeError(message)
    path: str | bytes = os.fspath(path_or_bytes)
    try:
        # A PathLike may stand for bytes, and a string may hold what no UTF-8 path can.
        return path.decode() if isinstance(path, bytes) else path.encode().decode()
    except UnicodeError:
        raise TypeError(constructor_refusal(path)) from None


def constructor_refusal(given: object) -> str:
    """What onnxruntime says of an argument of another type."""
    # The first line is onnxruntime's.
    return (
        "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
        "    1. path_or_bytes: str | bytes | os.PathLike, sess_options: SessionOptions | None\n\n"
        f"Invoked with: {given!r}"
    )


def must_read_config(given: dict[str, Any]) -> bool:
    """Whether the model's own options are asked for, and nothing makes the runtime read them by itself."""
    # Set, the variable makes every copy of the runtime read a model's own options.
    return int(given.get("read_config_from_model", 0)) == 1 and os.environ.get("ORT_LOAD_CONFIG_FROM_MODEL") != "1"


def provider_names(providers: Any) -> list[Any]:  # noqa: ANN401 - not checked yet
    """Providers without their options."""
    return [provider[0] if isinstance(provider, tuple) else provider for provider in providers or []]
