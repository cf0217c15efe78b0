"""`inferlite serve`: a folder of models over HTTP, until a signal ends it.

Only what listening needs is imported before the server has begun to load: rich, http and the like come while it does.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from inferlite.cli.failures import AddressError, ExitCode, RefusedError, UnwritableError, WrongUsageError, one_line
from inferlite.cli.interrupt import StopSignals
from inferlite.cli.options import Verbose  # noqa: TC001 - typer reads it
from inferlite.exceptions import ModelLoadError
from inferlite.server import Server, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferlite.cli.terminal import Terminal
    from inferlite.server import ServedModel

LAYOUT: Final = "a repository holds `NAME/1/model.onnx`, `NAME/model.onnx` or `NAME.onnx` for each model"

LOOK: Final = 0.005
"""Seconds between two looks at what is being loaded."""

GLANCE: Final = 1.0
"""The same, once all of it is."""

MEANT: Final = {"it waits to be loaded": None, "it was rolled back": "rolled back", "it was unloaded": "unloaded"}
"""Reasons of the index that are no failures, and what is told of them, if anything."""

OPTIONS: Final = {"keys": "key", "admin_keys": "admin-key"}
"""Options whose name is not that of the argument of `Server`."""

Repository = Annotated[
    Path, typer.Argument(metavar="REPOSITORY", help="The folder that holds the models.", show_default=False)
]
Host = Annotated[
    str,
    typer.Option("--host", metavar="ADDRESS", help="The address to listen on; 0.0.0.0 for all, which demands a key."),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="The port; 0 for one that is free.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1_024,
        metavar="N",
        help="Threads that read requests and write replies; by default one for each processor.",
        show_default=False,
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="INFERLITE_KEYS",
        help="A key that requests for answers must bring, as `Authorization: Bearer KEY`. Repeat it for several; the "
        "variable holds them with blanks in between, and shows them to nobody who lists processes.",
        show_default=False,
    ),
]
AdminKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--admin-key",
        metavar="KEY",
        envvar="INFERLITE_ADMIN_KEYS",
        help="The same for the rest: load, unload, rollback, index, statistics, metrics. With `--key` alone, none may.",
        show_default=False,
    ),
]
MaxBody = Annotated[
    str, typer.Option("--max-body", metavar="SIZE", help="The largest body of a request, uncompressed.")
]
DrainTimeout = Annotated[
    float,
    typer.Option(
        "--drain-timeout", min=0, metavar="SECONDS", help="How long requests under way have to end at the end."
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Load and unload models as they come, change and go in the folder.")
]
AccessLog = Annotated[
    Literal["off", "text", "json"], typer.Option("--access-log", help="Whether each request leaves a line, and which.")
]
AccessLogPath = Annotated[
    Path | None,
    typer.Option(
        "--access-log-path",
        metavar="FILE",
        help="Append these lines to a file, instead of writing them to stderr.",
        show_default=False,
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let others reach the server without a key.")]


def serve(
    repository: Repository,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = None,
    key: Keys = None,
    admin_key: AdminKeys = None,
    max_body: MaxBody = "64MB",
    drain_timeout: DrainTimeout = 30.0,
    watch: Watch = True,
    access_log: AccessLog = "off",
    access_log_path: AccessLogPath = None,
    insecure: Insecure = False,
    verbose: Verbose = False,
) -> None:
    """Serve a folder of models over HTTP, by the Open Inference Protocol.

    Examples:
      inferlite serve models/                                 on http://127.0.0.1:8000, for this machine alone
      inferlite serve models/ --port 9000 --access-log text   a line on stderr for each request
      INFERLITE_KEYS=secret inferlite serve models/ --host 0.0.0.0
                                                              for others, who bring the key

    The folder, of which any part may come later:
      models/digits/1/model.onnx        version 1 of the model `digits`
      models/digits/2/model.onnx        version 2, which is served as soon as it is there
      models/digits/model.toml          settings: cache, batching, versions, labels, warm-up, threads
      models/spam.onnx                  a model with one version, and without settings

    To ask it (the server prints a line that fits a model of yours):
      curl http://127.0.0.1:8000/v2/models/digits
      curl http://127.0.0.1:8000/predict -d '{"model": "digits", "inputs": [[0, 1, 2]]}'

    SIGTERM and Ctrl-C let the requests under way end first; Ctrl-C again ends it at once.
    """
    del verbose
    _check_repository(repository)
    arguments = {
        "host": host,
        "port": port,
        "workers": workers,
        "keys": key or (),
        "admin_keys": admin_key or (),
        "max_body": max_body,
        "drain_timeout": drain_timeout,
        "watch": 1.0 if watch else None,
        "access_log": access_log,
        "access_log_path": access_log_path,
        "insecure": insecure,
    }
    if not (key or insecure or is_loopback(host)):
        message = (
            f"others may reach the server on `{host}` without a key: pass `--key` or set INFERLITE_KEYS, or pass "
            "`--insecure` if that is meant"
        )
        raise WrongUsageError(message)
    with StopSignals() as signals:
        server = _start(repository, arguments)
        try:
            _run(server, repository, signals, next(iter(key or admin_key or ()), None), is_watched=watch)
        finally:
            server.stop()
    if signals.received == signal.SIGINT:
        raise typer.Exit(ExitCode.INTERRUPTED)


def _start(repository: Path, arguments: dict[str, Any]) -> Server:
    try:
        return Server(repository, wait=False, **arguments)
    except ValueError as error:
        raise WrongUsageError(_in_options(str(error))) from error
    except ModelLoadError as error:
        raise RefusedError(str(error)) from error
    except OSError as error:
        path = arguments["access_log_path"]
        if path is not None and error.filename is not None:
            message = f"the access log `{path}` cannot be written: {(error.strerror or str(error)).lower()}"
            raise UnwritableError(message) from error
        raise AddressError(error.strerror or str(error)) from error


def _in_options(message: str) -> str:
    """Say what is wrong with an argument of `Server`, by which the message begins, in the words of a shell.

    Example:
        >>> _in_options("`max_body`: `keys` is no size"), _in_options("`keys` holds an empty key")
        ('`--max-body`: `keys` is no size', '`--key` holds an empty key')
    """

    def option(name: re.Match[str]) -> str:
        return f"`--{OPTIONS.get(name[1]) or name[1].replace('_', '-')}`"

    named = re.sub(r"\A`(\w+)`", option, message)
    return named.replace('`access_log="text"` or `"json"`', "`--access-log text` or `json`")


def _run(server: Server, repository: Path, signals: StopSignals, key: str | None, *, is_watched: bool) -> None:
    """Show what is loaded and how to ask for it, then wait for a signal."""
    from inferlite.cli.lineup import show_lineup  # noqa: PLC0415 - while models are being loaded
    from inferlite.cli.terminal import Terminal  # noqa: PLC0415 - likewise

    terminal = Terminal()
    if _wait_for_models(server, signals, terminal):
        show_lineup(terminal, server, repository, key, is_watched=is_watched)
        # Whoever reads a pipe waits for this, and it is the last for a long time.
        sys.stdout.flush()
        _tell_changes(server, signals)
    name = "Ctrl-C" if signals.received == signal.SIGINT else "SIGTERM"
    _note(f"{name}: requests under way may end, no more are taken; Ctrl-C ends it at once")


def _wait_for_models(server: Server, signals: StopSignals, terminal: Terminal) -> bool:
    """Wait until all models are loaded or have failed, and say so meanwhile; False where a signal came first."""
    told: list[ServedModel] = []
    with terminal.waiting("looking for models") as show:
        while not signals.wait(LOOK):
            # In this order, or what came last would not be told.
            is_ready, index = server.is_ready(), server.index(anew=False)
            _warn(server)
            if terminal.has_progress:
                show(_progress(index))
            else:
                _tell(index, told)
                told = index
            if is_ready:
                return True
    return False


def _tell_changes(server: Server, signals: StopSignals) -> None:
    """Say what comes, goes or fails, until a signal has come."""
    # With --no-watch nobody wants the folder to be looked at all the time.
    told = server.index(anew=False)
    while not signals.wait(GLANCE):
        index = server.index(anew=False)
        _tell(index, told)
        told = index
        _warn(server)


def _warn(server: Server) -> None:
    for notice in server.notices():
        _note(f"warning: {notice}")


def _tell(index: Iterable[ServedModel], told: Sequence[ServedModel]) -> None:
    before = {(model.name, model.version): model for model in told}
    for model in index:
        name = model.name if model.version is None else f"{model.name} version {model.version}"
        known = before.get((model.name, model.version))
        if model == known:
            continue
        if model.state == "UNAVAILABLE" and model.reason in MEANT:
            if (what := MEANT[model.reason]) is not None:
                _note(f"{what}: {name}")
        elif model.reason is not None and model.state in {"UNAVAILABLE", "READY"}:
            _note(f"{'failed' if model.state == 'UNAVAILABLE' else 'warning'}: {name}: {model.reason}")
        elif model.state == "READY":
            is_mended = known is not None and known.state == "READY"
            _note(f"{'mended' if is_mended else 'loaded'}: {name}")


def _progress(index: Iterable[ServedModel]) -> str:
    states = [model.state for model in index]
    return f"loading {states.count('LOADING')} of {len(states)} models" if states else "looking for models"


def _note(text: str) -> None:
    if sys.stderr is not None:
        print(one_line(text), file=sys.stderr, flush=True)


def _check_repository(path: Path) -> None:
    """Refuse what is no folder, and say what one looks like.

    Raises:
        RefusedError: There is none.
    """
    try:
        if path.is_dir():
            return
        reason = "is a file, not a folder" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error}"
    message = f"repository `{path}` {reason}: {LAYOUT}"
    raise RefusedError(message)
