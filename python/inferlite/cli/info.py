"""`inferlite info`: what a model takes and gives, and what is in its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import inferlite
from inferlite._model_file import read_model_file
from inferlite.cli.failures import refusals
from inferlite.cli.options import AsJson, ModelPath, Verbose, check_model_path, session_options
from inferlite.cli.terminal import Terminal, show_bytes, show_kind

if TYPE_CHECKING:
    from inferlite._model_file import ModelFile


def info(model: ModelPath, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show what a model takes and gives, and what is in its file.

    Examples:
      inferlite info model.onnx
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
        ("engine", facts["engine"]),
        ("back end", f"{facts['backend']} (inferlite {facts['inferlite']}, onnxruntime {facts['onnxruntime']})"),
        ("providers", ", ".join(facts["providers"])),
    ]
    return [(name, value) for name, value in pairs if value]
