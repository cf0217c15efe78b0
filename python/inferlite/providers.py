"""Execution providers as callers write them, brought into the one form that sessions take."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU: Final = "CPUExecutionProvider"

# From the warning: `normalize`'s caller, then the constructor or `load`, then the line that called that.
_STACK_LEVEL: Final = 4


def normalize(
    providers: Any,  # noqa: ANN401 - whatever the caller gave is what is checked
    provider_options: Any,  # noqa: ANN401
    available: Sequence[str],
) -> tuple[list[str], list[dict[str, str]]]:
    """Check and normalise `providers` and `provider_options` with onnxruntime's rules, warnings and messages.

    Args:
        providers: None, or a sequence of names and (name, options) tuples, highest precedence first.
        provider_options: None, or one dict of options for each provider, all of which are names then.
        available: The providers that the runtime was built with.

    Returns:
        The names, and their options as strings; both empty for None. A name that comes again is left out.

    Raises:
        ValueError: Something has another form.

    Example:
        >>> normalize([("CPUExecutionProvider", {"a": 1})], None, ["CPUExecutionProvider"])
        (['CPUExecutionProvider'], [{'a': '1'}])
    """
    if providers is None:
        return [], []
    chosen: dict[str, dict[str, str]] = {}
    for name, options in _pairs(providers, provider_options):
        if name not in available:
            names = ", ".join(available)
            text = f"Specified provider '{name}' is not in available provider names.Available providers: '{names}'"
            warnings.warn(text, stacklevel=_STACK_LEVEL)
        if name in chosen:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", stacklevel=_STACK_LEVEL)
            continue
        chosen[name] = {str(key): str(value) for key, value in options.items()}
    return list(chosen), list(chosen.values())


def _pairs(providers: Any, provider_options: Any) -> Iterator[tuple[str, dict[Any, Any]]]:  # noqa: ANN401
    if not isinstance(providers, Sequence):
        message = "'providers' should be a sequence."
        raise ValueError(message)  # noqa: TRY004 - onnxruntime's class
    if provider_options is None:
        for provider in providers:
            match provider:
                case str():
                    yield provider, {}
                case (str() as name, dict() as options) if isinstance(provider, tuple):
                    yield name, options
                case _:
                    message = "'providers' values must be either strings or (string, dict) tuples."
                    raise ValueError(message)
        return
    if not isinstance(provider_options, Sequence):
        message = "'provider_options' should be a sequence."
        raise ValueError(message)  # noqa: TRY004
    if len(providers) != len(provider_options):
        message = "'providers' and 'provider_options' should be the same length if both are given."
        raise ValueError(message)
    if not all(isinstance(provider, str) for provider in providers):
        message = "Only string values for 'providers' are supported if 'provider_options' is given."
        raise ValueError(message)
    if not all(isinstance(options, dict) for options in provider_options):
        message = "'provider_options' values must be dicts."
        raise ValueError(message)
    yield from zip(providers, provider_options, strict=True)


def usable(
    names: Sequence[str], options: Sequence[dict[str, str]], available: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """The providers that can be registered: those that the runtime knows but was not built with are left out.

    Raises:
        RuntimeError: A name that no build of onnxruntime knows, with onnxruntime's message.
    """
    pairs = []
    for name, settings in zip(names, options, strict=True):
        if name in available:
            pairs.append((name, settings))
        elif name not in _all_providers():
            message = f"Unknown Provider Type: {name}"
            raise RuntimeError(message)
    return pairs


def check_pair(names: Sequence[str]) -> None:
    """Refuse the two providers that exclude each other.

    Raises:
        ValueError: Both TensorRT providers are asked for, with onnxruntime's message.
    """
    if "TensorrtExecutionProvider" in names and "NvTensorRTRTXExecutionProvider" in names:
        message = (
            "Cannot enable both 'TensorrtExecutionProvider' and 'NvTensorRTRTXExecutionProvider' in the same session."
        )
        raise ValueError(message)


def fallback_providers(names: Sequence[str], available: Sequence[str]) -> list[str]:
    """What a session is made with when the providers asked for cannot be used: CUDA for TensorRT beside it, and CPU."""
    tensorrt = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
    if "CUDAExecutionProvider" in names and any(name in names and name in available for name in tensorrt):
        return ["CUDAExecutionProvider", CPU]
    return [CPU]


def _all_providers() -> list[str]:
    # Only a name that is not available leads here, so that a plain session need not import onnxruntime.
    import onnxruntime  # noqa: PLC0415

    names: list[str] = onnxruntime.get_all_providers()
    return names
