"""Settings of the process, of which the onnxruntime package and the native part each have their own."""

from __future__ import annotations

import operator


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


def set_global_thread_pool(*, intra_op: int = 0, inter_op: int = 0, allow_spinning: bool = True) -> None:
    """Have one pool of threads for the sessions that ask for it, instead of one for each.

    A session asks by `SessionOptions.use_per_session_threads = False`; its own numbers of threads count for nothing
    then. All other sessions keep the threads that they would have had. In a process that forks off, where the pool is
    left behind, sessions that asked for it have as many threads of their own.

    Args:
        intra_op: Threads inside one operator; 0 for one for each processor.
        inter_op: Threads for operators beside each other, in sessions whose `execution_mode` is parallel; 0 as above.
        allow_spinning: Whether threads without work keep a processor busy looking for some for a while.

    Raises:
        RuntimeError: The process has made a session already.
        ValueError: A number of threads is negative.
        TypeError: It is no whole number.
        BackendUnavailableError: The Python back end is active.

    Example:
        >>> inferlite.set_global_thread_pool(intra_op=4)  # doctest: +SKIP
        >>> options = inferlite.SessionOptions()
        >>> options.use_per_session_threads = False
    """
    counts = {"intra_op": operator.index(intra_op), "inter_op": operator.index(inter_op)}
    for name, count in counts.items():
        if not 0 <= count < 2**31:
            message = f"`{name}` must be a number of threads, or 0 for one for each processor, not {count}"
            raise ValueError(message)
    from inferlite import _backend  # noqa: PLC0415 - `import inferlite` must not look for the native part

    if _backend.active().name != "native":
        from inferlite.capabilities import refuse  # noqa: PLC0415 - most programs never ask

        refuse("global_thread_pool", "`set_global_thread_pool`")
    from inferlite import _core  # noqa: PLC0415 - there only with the native back end

    _core.set_global_thread_pool(counts["intra_op"], counts["inter_op"], bool(allow_spinning))


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
