"""The typer application: the verbs, and the one door through which every failure leaves."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

import inferlite
from inferlite.cli.failures import CommandError, ExitCode, one_line
from inferlite.cli.options import VERBOSE_KEY, Verbose
from inferlite.exceptions import BackendUnavailableError, InferliteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VERBS: Final = ("demo", "info", "run", "bench", "serve")
"""The commands; each is the function of that name in the module of that name."""

EXAMPLES = """
Examples:

\b
inferlite demo                                  see it work, without a model of your own
inferlite info model.onnx                       what goes in, what comes out
inferlite run model.onnx --dim batch=4          run it on random inputs
inferlite run model.onnx --input x=x.npy --output answers
inferlite bench model.onnx --json               compare with onnxruntime
inferlite serve models/                         answer over HTTP
"""


def _help(verb: Callable[..., None]) -> str:
    """Return a verb's docstring with its indented blocks marked, so that their lines are kept as they are."""
    blocks = (inspect.getdoc(verb) or "").split("\n\n")
    return "\n\n".join(f"\b\n{block}" if "\n  " in block else block for block in blocks)


def _exit_codes() -> str:
    lines = [f"{code.value:<4} {code.meaning}" for code in ExitCode]
    return "\n".join(["Exit codes:", "", "\b", *lines])


class _Verbs(Mapping[str, Any]):
    """The commands by name, each made when it is asked for: a server starts without what a benchmark imports."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - typer's class for commands is private
        if name not in VERBS:
            raise KeyError(name)
        if name not in self._made:
            verb = getattr(import_module(f"inferlite.cli.{name}"), name)
            alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
            alone.command(name=name, help=_help(verb))(verb)
            self._made[name] = get_command(alone)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class Application(TyperGroup):
    """A group of commands whose failures are one line on stderr and a documented exit code."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's signature
        """Make the group that typer describes, with the commands that are made later."""
        super().__init__(**attributes)
        # It is read, and never written to.
        self.commands = cast("Any", _Verbs())

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001 - typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001 - typer's signature
        **extra: Any,  # noqa: ANN401 - typer's signature
    ) -> NoReturn:
        """Run a command, then exit; the arguments are typer's."""
        del standalone_mode
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(
                    args=args,
                    prog_name=prog_name,
                    complete_var=complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    **extra,
                )
                if sys.stdout is not None:
                    sys.stdout.flush()
            except SystemExit:
                # Commands exit by `typer.Exit`; this is what typer makes of a closed pipe.
                code = _report(BrokenPipeError(), is_verbose=False)
            except Exception as error:  # noqa: BLE001 - the outermost handler
                code = _report(error, is_verbose=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's signature; its context class is private
        """Run the command that `ctx` was parsed for, and turn what it raises into an exit code."""
        _write_what_cannot_be_encoded_as_escapes()
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            raise typer.Exit(_report(error, is_verbose=ctx.meta.get(VERBOSE_KEY, False))) from error


def _report(error: Exception, *, is_verbose: bool) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _abandon_stdout()
        return ExitCode.CLOSED_PIPE
    code, message = _explain(error)
    if is_verbose and sys.stderr is not None:
        traceback.print_exception(error, file=sys.stderr)
    _note("error", message)
    return code


def _explain(error: Exception) -> tuple[ExitCode, str]:
    match error:
        case CommandError():
            return error.code, str(error)
        case BackendUnavailableError():
            return ExitCode.UNAVAILABLE, str(error)
        case InferliteError():
            return ExitCode.REFUSED, str(error)
        case OSError():
            # Files that are read have their own handlers; what is left is stdout.
            return ExitCode.UNWRITABLE, f"cannot write the output: {(error.strerror or str(error)).lower()}"
    # typer's own classes for wrong usage live in a private module of it.
    if (format_message := getattr(error, "format_message", None)) is not None:
        return ExitCode.USAGE, _usage(format_message(), getattr(error, "ctx", None))
    advice = "this is a bug in inferlite, `--verbose` shows where"
    return ExitCode.INTERNAL, f"unexpected {type(error).__name__}: {error} ({advice})"


def _usage(message: str, context: Any) -> str:  # noqa: ANN401 - typer's context class is private
    text = message.strip().rstrip(".").replace("'", "`")
    command = "inferlite" if context is None else context.command_path
    return f"{text[:1].lower()}{text[1:]} (`{command} --help` shows how)"


def _note(kind: str, message: str) -> None:
    if sys.stderr is not None:
        print(f"{kind}: {one_line(message)}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _note("warning", str(message))


def _write_what_cannot_be_encoded_as_escapes() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _abandon_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere; its reader is gone."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer's callback signature
    if value:
        print(f"inferlite {inferlite.__version__}")
        raise typer.Exit


# `rich_markup_mode=None`: help is plain text, on a terminal as in a pipe.
app = typer.Typer(
    name="inferlite",
    cls=Application,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{EXAMPLES}\n{_exit_codes()}",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has done the work
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Verbose = False,  # noqa: ARG001 - likewise
) -> None:
    """Make ONNX models cheap to call."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(ExitCode.USAGE)
