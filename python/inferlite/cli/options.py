"""Options that several verbs share, and the settings that keep ONNX Runtime's own log off stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

import inferlite
from inferlite.cli.failures import RefusedError

if TYPE_CHECKING:
    import onnxruntime

VERBOSE_KEY: Final = "inferlite.verbose"
FATAL: Final = 4
"""ONNX Runtime's severity that leaves only what ends the process."""


def _remember(context: typer.Context, value: bool) -> bool:  # noqa: FBT001 - typer's callback signature
    # A command's context shares `meta` with the application's.
    if value:
        context.meta[VERBOSE_KEY] = True
    return value


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=_remember,
        is_eager=True,
        help="Show the traceback of an error, and ONNX Runtime's log.",
    ),
]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model, a file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input: a .npy, .npz or .json file, or JSON text. Repeat it for several inputs. "
        "A .npz or .json file without NAME= holds inputs by name. Inputs that are not given are random.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")]
Dims = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        "-d",
        metavar="NAME=SIZE",
        help="Size of a symbolic dimension of the random inputs; 1 by default.",
        show_default=False,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT=2x3",
        help="Whole shape of a random input, for dimensions without a name.",
        show_default=False,
    ),
]


def session_options(*, is_verbose: bool, threads: int | None = None) -> onnxruntime.SessionOptions:
    """Make session options; `threads` are those of one operator, 0 for as many as there are cores.

    ONNX Runtime logs every failure on stderr besides raising it, in colour and on several lines. Unless
    `is_verbose`, that is turned off: the error says the same in one line.
    """
    options: onnxruntime.SessionOptions = inferlite.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    if not is_verbose:
        options.log_severity_level = FATAL
    return options


def check_model_path(path: Path) -> None:
    """Refuse what cannot be a model's file, in words of its own.

    Raises:
        RefusedError: there is no such file, or it is a folder, a pipe or a device.
    """
    try:
        if path.is_file():
            return
        if path.is_dir():
            reason = "is a folder, not a file"
        else:
            # A pipe or a device may never end.
            reason = "is not a regular file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error}"
    message = f"model `{path}` {reason}"
    raise RefusedError(message)
