"""Calls of a session that are answered later, without the native part."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import onnxruntime

from inferlite import _async
from inferlite._fallback.cache import Claim, copied_value
from inferlite.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from inferlite._fallback.session import InferenceSession

NAME = "session"
"""What messages call a session."""


class Asked:
    """A call of a session that was read, with inputs of its own."""

    def __init__(
        self,
        session: InferenceSession,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None,
        function: str,
    ) -> None:
        """Read the call.

        Raises:
            ValueError: An input is missing.
            TypeError: The names or the options are of another type.
        """
        session._validate_input(list(input_feed.keys()))  # noqa: SLF001 - as everywhere here, of this package
        if not _are_names(output_names) or not isinstance(run_options, onnxruntime.RunOptions | None):
            message = f"{function}(): incompatible function arguments. The following argument types are supported:"
            raise TypeError(message)
        self._session = session
        self._names = None if output_names is None else list(output_names)
        self._feed = {name: copied_value(value) for name, value in dict(input_feed).items()}
        self._given = run_options
        # onnxruntime's own options do not tell all they hold, and other runs may have them: such a run ends by itself.
        self._own = run_options._for_one() if isinstance(run_options, RunOptions) else None  # noqa: SLF001
        self._claim = Claim()

    def kept(self) -> list[Any] | None:
        """The answer, if it is kept."""
        return None if self._given is not None else self._session._kept(self._names, self._feed)  # noqa: SLF001

    def answer(self) -> list[Any]:
        """What `run` returns, or raises."""
        if self._given is None:
            return self._session._run_claimed(self._names, self._feed, self._claim)  # noqa: SLF001
        return self._session.run(self._names, self._feed, self._own or self._given)

    def leave(self) -> None:
        """Give the answer up: the run ends if nobody else waits for it."""
        if self._given is None:
            self._session._leave(self._claim)  # noqa: SLF001
        elif self._own is not None:
            self._own.terminate = True


def arun(
    session: InferenceSession,
    output_names: Sequence[str] | None,
    input_feed: Mapping[str, Any],
    run_options: onnxruntime.RunOptions | None,
) -> Coroutine[Any, Any, list[Any]]:
    """What `InferenceSession.arun` returns."""
    try:
        asked = Asked(session, output_names, input_feed, run_options, "arun")
        kept = asked.kept()
        if kept is not None:
            return _async.answered(kept)
        ticket = session._threads.submit(NAME, asked.answer, None, asked.leave)  # noqa: SLF001
    except Exception as error:  # noqa: BLE001 - whoever awaits it is told
        return _async.failed(error)
    return _async.answer(ticket, NAME, None)


def run_async(
    session: InferenceSession,
    output_names: Sequence[str] | None,
    input_feed: Mapping[str, Any],
    callback: Any,  # noqa: ANN401 - not checked yet
    user_data: Any,  # noqa: ANN401 - anything
    run_options: onnxruntime.RunOptions | None,
) -> None:
    """What `InferenceSession.run_async` does."""
    if not callable(callback):
        message = "run_async(): incompatible function arguments. The following argument types are supported:"
        raise TypeError(message)
    asked = Asked(session, output_names, input_feed, run_options, "run_async")
    session._threads.begin(NAME, partial(_tell, asked, callback, user_data))  # noqa: SLF001


def _tell(asked: Asked, callback: Callable[[list[Any], Any, str], object], user_data: Any) -> None:  # noqa: ANN401
    from inferlite._fallback.runs import text_of  # noqa: PLC0415 - imports the whole of `Model`

    results, message = [], ""
    try:
        results = asked.answer()
    except Exception as error:  # noqa: BLE001 - the callback is told
        message = text_of(error).replace("Invalid output name:", "Invalid output name: ")
    try:
        callback(results, user_data, message)
    except BaseException as error:  # noqa: BLE001 - nobody waits for it
        _report(error, callback)


def _report(error: BaseException, callback: object) -> None:
    details = {
        "exc_type": type(error),
        "exc_value": error,
        "exc_traceback": error.__traceback__,
        "err_msg": None,
        "object": callback,
    }
    # The class itself cannot be made by hand.
    sys.unraisablehook(cast("Any", SimpleNamespace(**details)))


def _are_names(names: Any) -> bool:  # noqa: ANN401 - not checked yet
    if names is None:
        return True
    is_listed = not isinstance(names, (str, bytes)) and hasattr(names, "__getitem__")
    return is_listed and all(isinstance(name, (str, bytes)) for name in names)
