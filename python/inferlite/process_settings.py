"""Settings of the process, of which the onnxruntime package and the native part each have their own."""

from __future__ import annotations


class _Seed:
    is_set = False


def may_be_seeded() -> bool:
    """Whether a seed was set, so that the numbers of random operators can be told in advance."""
    return _Seed.is_set


def set_seed(seed: int) -> None:
    """Set the seed of random operators in sessions that are made from now on, as `onnxruntime.set_seed`.

    The C interface has no seed: models that may be random run on the onnxruntime package from now on.

    Raises:
        TypeError: `seed` is not a number.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - imports onnxruntime

    state.set_seed(seed)
    _Seed.is_set = True


def set_default_logger_severity(severity: int) -> None:
    """Set the least severe messages to log where a session says nothing, as `onnxruntime.set_default_logger_severity`.

    Args:
        severity: 0 for everything, 1 from information, 2 from warnings, 3 from errors, 4 for what is fatal.

    Raises:
        RuntimeError: There is no such severity.
        TypeError: It is not a number.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - imports onnxruntime

    from inferlite import _backend  # noqa: PLC0415 - `import inferlite` must not look for the native part

    state.set_default_logger_severity(severity)
    if _backend.active().name == "native":
        from inferlite import _core  # noqa: PLC0415 - there only with the native back end

        _core.set_log_severity(severity)


def enable_telemetry_events() -> None:
    """Let the runtime say what it is used for, where its platform has a way to."""
    _set_telemetry(is_on=True)


def disable_telemetry_events() -> None:
    """Keep the runtime from saying what it is used for."""
    _set_telemetry(is_on=False)


def _set_telemetry(*, is_on: bool) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - imports onnxruntime

    from inferlite import _backend  # noqa: PLC0415 - `import inferlite` must not look for the native part

    (state.enable_telemetry_events if is_on else state.disable_telemetry_events)()
    if _backend.active().name == "native":
        from inferlite import _core  # noqa: PLC0415 - there only with the native back end

        _core.set_telemetry(is_on)
