"""Libraries that know onnxruntime alone, unmodified: under `patch` they give the same answers, from inferlite."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

import child

FOLDER = Path(sys.prefix) / "real-models"

# What each library does with inputs that are made up; every session that it makes is kept by what it returns.
LIBRARIES = {
    "magika": """
        def work():
            import magika
            detector = magika.Magika()
            contents = [b"def f(x):\\n    return x + 1\\n" * 20, b"<html>text</html>" * 9, bytes(range(256)) * 9]
            found = [detector.identify_bytes(content) for content in contents]
            return detector, [(str(one.output.label), one.score) for one in found]
    """,
    "rapidocr": """
        def work():
            import cv2
            from rapidocr import RapidOCR
            image = np.full((96, 320, 3), 255, np.uint8)
            cv2.putText(image, "inferlite 42", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (0, 0, 0), 2)
            reader = RapidOCR(params={"Global.log_level": "error"})
            found = reader(image)
            assert found.txts == ("inferlite 42",)
            return reader, [found.txts, found.scores, found.boxes]
    """,
    "faster_whisper": """
        # Its package imports a runtime for speech, which the detection of voices does without.
        sys.modules["faster_whisper"] = package = types.ModuleType("faster_whisper")
        package.__path__ = [os.path.join(FOLDER, "faster_whisper")]

        def work():
            from faster_whisper import vad
            vad.get_vad_model.cache_clear()
            model = vad.get_vad_model()
            sound = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) / 10
            return model, [model(sound[: 512 * 60]), vad.get_speech_timestamps(sound)]
    """,
    "silero_vad": """
        # Its package imports PyTorch; its files do without.
        def work():
            import onnxruntime
            sessions, answers = [], []
            for name in ("silero_vad.onnx", "silero_vad_16k_op15.onnx"):
                options = onnxruntime.SessionOptions()
                options.inter_op_num_threads = options.intra_op_num_threads = 1
                path = os.path.join(FOLDER, "silero_vad", "data", name)
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"], sess_options=options)
                sessions.append(session)
                sound = np.random.default_rng(0).standard_normal((40, 1, 576)).astype(np.float32) / 10
                state = np.zeros((2, 1, 128), np.float32)
                for window in sound:
                    feed = {"input": window, "state": state, "sr": np.array(16_000, dtype="int64")}
                    voice, state = session.run(None, feed)
                    answers.append(voice)
            return sessions, answers
    """,
    "silero_vad with torch": """
        def work():
            import torch
            from silero_vad import get_speech_timestamps, load_silero_vad
            model = load_silero_vad(onnx=True)
            sound = torch.from_numpy(np.random.default_rng(0).standard_normal(48_000).astype(np.float32) / 10)
            return model, [get_speech_timestamps(sound, model), model(sound[:512], 16_000).numpy()]
    """,
}

ORDERS = {
    "patched later": """
        plain = answers(False)
        with inferlite.patch():
            patched = answers(True)
    """,
    "patched before": """
        with inferlite.patch():
            patched = answers(True)
        plain = answers(False)
    """,
}

PROGRAM = """
import gc, os, sys, types
import inferlite
import numpy as np

FOLDER = {folder!r}
sys.path.append(FOLDER)
{library}

def bits(value):
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    return value.hex() if isinstance(value, float) else value

def answers(is_patched):
    kept, values = work()
    made = [thing for thing in gc.get_objects() if issubclass(type(thing), inferlite.InferenceSession)]
    assert bool(made) is is_patched, made
    assert {{session.engine for session in made}} <= {{"onnxruntime"}}
    return bits(values)
{order}
assert patched == plain, (patched, plain)
print("the same")
"""


OPERATORS = """
import glob, os
import inferlite, onnx, onnxruntime
import numpy as np
from onnx import TensorProto, helper

files = glob.glob(os.path.join({folder!r}, "onnxruntime_extensions", "_extensions_pydll*"))
(LIBRARY,) = [file for file in files if file.endswith((".so", ".pyd"))]
strings = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy"]
node = helper.make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
graph = helper.make_graph([node], "g", strings[:1], strings[1:])
model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()

def ask(session_class, options):
    options.register_custom_ops_library(LIBRARY)
    session = session_class(model, options, providers=["CPUExecutionProvider"])
    return getattr(session, "engine", None), session.run(None, {{"x": np.array(["ab", "Cd"], object)}})[0].tolist()

print(ask(onnxruntime.InferenceSession, onnxruntime.SessionOptions()))
print(ask(inferlite.InferenceSession, inferlite.SessionOptions()))
print(ask(inferlite.InferenceSession, onnxruntime.SessionOptions()))
with inferlite.patch():
    print(ask(onnxruntime.InferenceSession, onnxruntime.SessionOptions()))
"""


def _demand(package: str) -> None:
    if not (FOLDER / package).is_dir():
        message = f"the package {package} is not there: `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def _same(library: str, order: str, environment: dict[str, str]) -> None:
    _demand(library.split(" ", maxsplit=1)[0])
    code = PROGRAM.format(
        folder=str(FOLDER), library=textwrap.dedent(LIBRARIES[library]), order=textwrap.dedent(ORDERS[order])
    )
    assert child.run(code, environment, warnings=True).splitlines()[-1] == "the same"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("library", ["magika", "faster_whisper", "silero_vad"])
def test_a_library_gives_the_same_answers(library: str, order: str, child_environment: dict[str, str]) -> None:
    _same(library, order, child_environment)


@pytest.mark.slow_on_fallback
def test_rapidocr_reads_the_same(child_environment: dict[str, str]) -> None:
    _same("rapidocr", "patched later", child_environment)


def test_a_library_of_operators_serves_both_runtimes(backend: str, child_environment: dict[str, str]) -> None:
    _demand("onnxruntime_extensions")
    code = OPERATORS.format(folder=str(FOLDER))
    package = "onnxruntime (python)" if backend == "native" else "onnxruntime"
    engines = (None, "onnxruntime", package, "onnxruntime")
    wanted = [str((engine, ["AB", "CD"])) for engine in engines]
    assert child.run(code, child_environment, warnings=True).splitlines() == wanted


@pytest.mark.torch
@pytest.mark.parametrize("order", ORDERS)
def test_silero_vad_gives_the_same_answers_with_torch(order: str, child_environment: dict[str, str]) -> None:
    _same("silero_vad with torch", order, child_environment)
