"""`inferlite run`: run a model once and look at, or keep, what it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import inferlite
from inferlite.cli.answers import summarise
from inferlite.cli.conversion import to_json
from inferlite.cli.failures import refusals
from inferlite.cli.inputs import RandomShapes, gather_inputs
from inferlite.cli.options import (
    AsJson,
    Dims,
    Inputs,
    ModelPath,
    Seed,
    Shapes,
    Verbose,
    check_model_path,
    session_options,
)
from inferlite.cli.outputs import prepare_folder, write_outputs
from inferlite.cli.terminal import Terminal

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Write each output here: tensors as NAME.npy, other values as NAME.json. Overwrites.",
        show_default=False,
    ),
]


def run(
    model: ModelPath,
    inputs: Inputs = None,
    output: Output = None,
    dims: Dims = None,
    shapes: Shapes = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a model once and show its outputs.

    Examples:
      inferlite run model.onnx                                random inputs
      inferlite run model.onnx --dim batch=4 --seed 7         ... four rows, other numbers
      inferlite run model.onnx --input x=x.npy --output out   writes out/NAME.npy
      inferlite run model.onnx --input inputs.npz             several inputs in one file
      inferlite run model.onnx -i ids='[[1, 2, 3]]' -i rate=16000

    With --json the object holds the whole outputs, not a summary.
    """
    check_model_path(model)
    random_shapes = RandomShapes.parse(dims, shapes)
    if output is not None:
        prepare_folder(output)
    terminal = Terminal()
    with terminal.waiting(f"running {model.name}"), refusals():
        loaded = inferlite.load(model, session_options=session_options(is_verbose=verbose))
        feed = gather_inputs(loaded.signature, inputs, random_shapes, seed=seed)
        names = [spec.name for spec in loaded.signature.outputs]
        answer = loaded.predict(feed, outputs=names)
    # A single output comes without its name.
    outputs = answer if len(names) > 1 else {names[0]: answer}
    files = {} if output is None else write_outputs(output, outputs)
    if as_json:
        terminal.line(json.dumps({name: to_json(value) for name, value in outputs.items()}))
        return
    terminal.fields((f"input {name}", summarise(value)) for name, value in feed.items())
    terminal.fields((f"output {name}", summarise(value)) for name, value in outputs.items())
    terminal.fields(("written", str(path)) for path in files.values())
