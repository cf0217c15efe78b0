"""Importing: what it brings along, and both orders with onnxruntime."""

from __future__ import annotations

import pytest

import child

RUN = """
    import numpy, committed
    x = numpy.ones((1, 16), numpy.float32)
    ours = inferlite.InferenceSession(committed.path("mlp"))
    theirs = onnxruntime.InferenceSession(committed.path("mlp"))
    for _ in range(10):
        (one,), (other,) = ours.run(None, {"x": x}), theirs.run(None, {"x": x})
        assert one.tobytes() == other.tobytes()
"""

ORDERS = {
    "inferlite first": "import inferlite; inferlite.InferenceSession; import onnxruntime",
    "onnxruntime first": "import onnxruntime; import inferlite; inferlite.InferenceSession",
    "onnxruntime's session first": (
        "import onnxruntime, committed; onnxruntime.InferenceSession(committed.path('mlp')); import inferlite"
    ),
    "inferlite's session first": (
        "import inferlite, committed; inferlite.InferenceSession(committed.path('mlp')); import onnxruntime"
    ),
    "at once in two threads": (
        "import threading, importlib, inferlite\n"
        "    threads = [threading.Thread(target=importlib.import_module, args=(name,))"
        " for name in ('onnxruntime', 'inferlite')]\n"
        "    threads += [threading.Thread(target=getattr, args=(inferlite, 'InferenceSession')) for _ in range(4)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "    import onnxruntime"
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_both_packages_work_in_one_process(order: str, child_environment: dict[str, str]) -> None:
    child.run(f"    {ORDERS[order]}{RUN}", child_environment)


def test_importing_brings_in_neither_onnxruntime_nor_the_command_line(child_environment: dict[str, str]) -> None:
    code = """
        import sys
        import inferlite
        heavy = {"onnxruntime", "typer", "rich", "onnx", "pytest"} & set(sys.modules)
        assert not heavy, heavy
        inferlite.InferliteError, inferlite.__version__
        assert "onnxruntime" not in sys.modules
    """
    child.run(code, child_environment)


def test_the_native_session_needs_no_onnxruntime_in_python(backend: str, child_environment: dict[str, str]) -> None:
    code = """
        import sys, numpy, inferlite, committed
        session = inferlite.InferenceSession(committed.path("double"))
        assert session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})[0].tolist() == [[2.0] * 4]
        session.get_inputs(), session.get_modelmeta(), session.get_providers()
        print("onnxruntime" in sys.modules)
    """
    printed = child.run(code, child_environment)
    assert printed.strip() == str(backend == "python")
