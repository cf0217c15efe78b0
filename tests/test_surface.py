"""The table of names is complete, and true."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import onnxruntime
import pytest

import child
import inferlite
import surface

TESTS = Path(__file__).parent


def _public(owner: object) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


def _submodules() -> set[str]:
    """What other tests have imported of onnxruntime, which puts it on the package."""
    return {"backend", "datasets", "quantization", "tools", "transformers"}


def test_every_name_of_onnxruntime_has_a_row() -> None:
    names = _public(onnxruntime) - surface.NO_NAMES - _submodules()
    for kind in surface.CLASSES:
        names |= {f"{kind}.{name}" for name in _public(getattr(onnxruntime, kind))}
    assert names - surface.rows().keys() == set()


@pytest.mark.parametrize("name", [name for name, row in surface.rows().items() if row.how == "delegated"])
def test_what_is_delegated_is_onnxruntimes_own(name: str) -> None:
    if not hasattr(onnxruntime, name):
        with pytest.raises(AttributeError):
            getattr(inferlite, name)
        return
    assert getattr(inferlite, name) is getattr(onnxruntime, name)
    assert name in dir(inferlite)


@pytest.mark.usefixtures("backend")
def test_names_of_classes_are_on_inferlites() -> None:
    for kind, names in surface.CLASSES.items():
        theirs = _public(getattr(onnxruntime, kind))
        missing = [name for name in names if name in theirs and not hasattr(getattr(inferlite, kind), name)]
        assert missing == []


@cache
def _module(name: str) -> ast.Module:
    return ast.parse((TESTS / f"{name}.py").read_text(encoding="utf-8"))


def _names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _assigns(node: ast.stmt, names: set[str]) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id in names for to in node.targets)


@pytest.mark.parametrize("name", [name for name, row in surface.rows().items() if row.how != "delegated"])
def test_a_test_compares_what_is_not_delegated(name: str) -> None:
    file, function = surface.rows()[name].test.split(".")
    functions = {node.name: node for node in _module(file).body if isinstance(node, ast.FunctionDef)}
    reached, names = {function}, _names_in(functions[function])
    while more := (names & functions.keys()) - reached:
        reached |= more
        names |= {name for one in more for name in _names_in(functions[one])}
    # A function that asks the judge, or onnxruntime itself, or runs a program that does.
    programs = "".join(ast.unparse(node) for node in _module(file).body if _assigns(node, names))
    assert names & {"onnxruntime", "oracle", "theirs", "Plain"} or "onnxruntime" in programs, "it compares nothing"


def test_importing_inferlite_as_onnxruntime_is_a_working_line(child_environment: dict[str, str]) -> None:
    code = """
        import sys
        import inferlite as onnxruntime
        assert not {"onnxruntime", "inferlite._core"} & sys.modules.keys()
        import make_models, numpy as np
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        providers = onnxruntime.get_available_providers()
        session = onnxruntime.InferenceSession(make_models.path("double"), options, providers=providers)
        assert session.run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2.0] * 4]
        try:
            session.run(None, {"x": np.ones((1, 4))})
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
            print(onnxruntime.get_device())
    """
    assert child.run(code, child_environment).strip() == onnxruntime.get_device()
