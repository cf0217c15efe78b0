"""`inferlite info`: what a model takes and gives, and what is in its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inferlite
from inferlite._model_file import read_model_file
from inferlite.cli.failures import refusals
from inferlite.cli.options import AsJson, ModelPath, Verbose, check_model_path, session_options
from inferlite.cli.terminal import Terminal, show_bytes, show_kind, show_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from inferlite._model_file import ModelFile

WithBatching = Annotated[
    bool,
    typer.Option(
        "--batching",
        help="Also run the model on made-up inputs, to say what micro-batching would do for it, on one thread.",
    ),
]


def info(
    model: ModelPath, with_batching: WithBatching = False, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """Show what a model takes and gives, and what is in its file.

    Examples:
      inferlite info model.onnx
      inferlite info model.onnx --batching
      inferlite info model.onnx | grep input
      inferlite info model.onnx --json | jq .inputs
    """
    check_model_path(model)
    terminal = Terminal()
    with (
        terminal.waiting(f"loading {model.name}"),
        refusals(),
        inferlite.load(model, session_options=session_options(is_verbose=verbose)) as loaded,
    ):
        facts = {
            "name": loaded.name,
            "path": str(model),
            "bytes": model.stat().st_size,
            **_describe_file(read_model_file(model)),
            "engine": loaded.engine,
            "inputs": _describe(loaded.signature.inputs),
            "outputs": _describe(loaded.signature.outputs),
        }
        if with_batching:
            facts["batching"] = _try_batching(model, is_verbose=verbose)
    facts |= describe_runtime()
    if as_json:
        terminal.line(json.dumps(facts, indent=2))
        return
    terminal.fields(_show(facts))


def describe_runtime() -> dict[str, Any]:
    """Say which back end and which ONNX Runtime answer, and which providers it has."""
    import onnxruntime  # noqa: PLC0415 - its import takes a while

    return {
        "inferlite": inferlite.__version__,
        "backend": inferlite.backend,
        "onnxruntime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }


def _try_batching(model: Path, *, is_verbose: bool) -> dict[str, Any]:
    """Load the model once more, with batches, and say what the trial runs have shown."""
    options = session_options(is_verbose=is_verbose, threads=1)
    facts: dict[str, Any] = dict.fromkeys(
        ("pays", "max_rows", "seconds_per_run", "seconds_per_row", "rounding", "refusal")
    )
    try:
        with inferlite.load(model, session_options=options, batching=True) as batched:
            seen = batched.stats().batching
    except (inferlite.ModelLoadError, inferlite.BackendUnavailableError) as error:
        return {**facts, "refusal": str(error)}
    return facts | {name: getattr(seen, name) for name in facts if name != "refusal"}


def _describe(specs: tuple[inferlite.TensorSpec, ...]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
        for spec in specs
    ]


def _describe_file(file: ModelFile | None) -> dict[str, Any]:
    return {
        "ir_version": file and file.ir_version,
        "opsets": file and file.opsets,
        "producer": file and file.producer,
        "graph": file and file.graph_name,
        "nodes": file and file.nodes,
        "operators": file and file.operators,
    }


def _show(facts: dict[str, Any]) -> list[tuple[str, str]]:
    unknown = "unknown"
    opsets = facts["opsets"] or {}
    operators = sorted((facts["operators"] or {}).items(), key=lambda item: (-item[1], item[0]))
    used = ", ".join(f"{name} {count}" for name, count in operators)
    pairs = [
        ("model", facts["name"]),
        ("file", f"{facts['path']} ({show_bytes(facts['bytes'])})"),
        *((f"input {spec['name']}", show_kind(spec["dtype"], spec["shape"])) for spec in facts["inputs"]),
        *((f"output {spec['name']}", show_kind(spec["dtype"], spec["shape"])) for spec in facts["outputs"]),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in opsets.items()) or unknown),
        ("IR version", unknown if facts["ir_version"] is None else str(facts["ir_version"])),
        ("producer", facts["producer"] or unknown),
        ("nodes", f"{facts['nodes']} ({used})" if operators else unknown),
        *_show_batching(facts.get("batching")),
        ("engine", facts["engine"]),
        ("back end", f"{facts['backend']} (inferlite {facts['inferlite']}, onnxruntime {facts['onnxruntime']})"),
        ("providers", ", ".join(facts["providers"])),
    ]
    return [(name, value) for name, value in pairs if value]


def _show_batching(facts: dict[str, Any] | None) -> list[tuple[str, str]]:
    if facts is None:
        return []
    if facts["refusal"] is not None:
        return [("batching", f"refused: {facts['refusal']}")]
    text = "pays" if facts["pays"] else "does not pay"
    if facts["seconds_per_row"] is not None:
        once, each = show_seconds(facts["seconds_per_run"]), show_seconds(facts["seconds_per_row"])
        text += f": a run takes {once}, and {each} for each of its rows"
    if facts["pays"]:
        text += f"; up to {facts['max_rows']} rows at once"
    pairs = [("batching", text)]
    if facts["rounding"] is not None:
        seen = f"{facts['rounding']:.1e} of an output's largest number" if facts["rounding"] else "none"
        pairs.append(("rounding in batches", seen))
    return pairs
