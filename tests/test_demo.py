"""The demo: its data, its drawings, and what it claims."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import inferlite
from inferlite import demo
from inferlite.cli import application, demo as demo_verb, roundtrip, sides

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "train_digits.py"


def test_the_model_is_small_and_has_the_documented_signature(backend: str) -> None:
    assert demo.MODEL_PATH.stat().st_size + demo.SAMPLES_PATH.stat().st_size < 100_000
    signature = inferlite.load(demo.MODEL_PATH).signature
    assert signature.inputs == (inferlite.TensorSpec("pixels", "float32", ("batch", 64)),)
    assert signature.outputs == (
        inferlite.TensorSpec("label", "int64", ("batch",)),
        inferlite.TensorSpec("probabilities", "float32", ("batch", 10)),
    )
    assert backend == inferlite.backend


def test_the_model_is_right_on_digits_it_has_not_seen() -> None:
    digits = demo.load_samples()
    label, probabilities = onnxruntime.InferenceSession(demo.MODEL_PATH).run(None, {"pixels": digits.pixels})
    assert (label == digits.labels).mean() > 0.95
    np.testing.assert_array_equal(probabilities.argmax(axis=1), label)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_script_makes_the_files_that_are_shipped(tmp_path: Path) -> None:
    runpy.run_path(str(SCRIPT))["main"](tmp_path)
    assert (tmp_path / "digits.npz").read_bytes() == demo.SAMPLES_PATH.read_bytes()
    made, shipped = onnx.load(tmp_path / "digits.onnx"), onnx.load(demo.MODEL_PATH)
    assert made.graph.node == shipped.graph.node
    digits = demo.load_samples()
    labels = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(["label"], {"pixels": digits.pixels})[0]
        for model in (made, shipped)
    ]
    # Another processor sums in another order, and the weights with it.
    assert (labels[0] == labels[1]).mean() > 0.98


@pytest.mark.slow
def test_training_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        runpy.run_path(str(SCRIPT))["main"](tmp_path / run)
    for name in ("digits.onnx", "digits.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_digit_is_drawn_row_by_row() -> None:
    pixels = np.zeros(64, np.float32)
    pixels[1], pixels[63] = 16, 8
    drawing = demo.draw(pixels, " .#")
    assert drawing[0] == "  ##" + " " * 12
    assert drawing[7] == " " * 14 + ".."
    assert len(drawing) == 8


def test_pixels_beyond_the_range_are_drawn_at_its_ends() -> None:
    assert demo.draw(np.full(64, 99, np.float32), " #")[0] == "#" * 16
    assert demo.draw(np.full(64, -99, np.float32), " #")[0] == " " * 16


def test_the_first_wrong_answer_is_among_those_drawn() -> None:
    labels = np.array([1, 2, 3, 4, 5, 6])
    assert demo.choose_samples(labels, labels, 3) == [0, 1, 2]
    assert demo.choose_samples(labels, np.array([1, 2, 3, 4, 0, 0]), 3) == [0, 1, 4]
    assert demo.choose_samples(labels, np.array([1, 0, 3, 4, 5, 6]), 3) == [0, 1, 2]
    assert demo.choose_samples(labels[:1], labels[:1], 3) == [0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_verb, "ROUNDS", 1)


@pytest.mark.usefixtures("quick")
def test_the_demo_shows_accuracy_equality_and_costs(backend: str) -> None:
    result = CliRunner().invoke(application.app, ["demo"])
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    assert text.startswith(f"inferlite {inferlite.__version__}, {backend} back end\n")
    assert text.isascii()
    assert "accuracy: 97.0% (524 of 540 held-out digits)\n" in text
    assert "answers: equal to onnxruntime's bit for bit, 540 digits one by one and together\n" in text
    assert "cache: 540 of 540 answers found when asked again, equal bit for bit\n" in text
    if backend == "native":
        wanted = r"^server: 540 of 540 answers over HTTP equal bit for bit, [\d,]+ requests/s on one connection$"
        assert re.search(wanted, text, flags=re.MULTILINE)
    else:
        assert "server: left out, it is a part of the native back end\n" in text
    assert text.count("% sure), right\n") == 3
    assert text.count("% sure), wrong, it is a ") == 1
    for call in (
        "session.run, 1 digit",
        "session.bind, 1 digit",
        "model(x), 1 digit",
        "model(x), 1 digit, found in a cache",
        "session.run, 64 digits",
    ):
        assert f"\n{call} " in text


@pytest.mark.usefixtures("quick", "backend")
def test_the_demo_fails_if_an_answer_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "first_difference", lambda *_: "output `label` differs")
    result = CliRunner().invoke(application.app, ["demo"])
    assert result.exit_code == 3
    assert result.stderr.startswith("error: output `label` differs: ")


@pytest.mark.usefixtures("quick", "backend")
def test_the_demo_fails_if_an_answer_of_the_cache_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_verb, "first_difference", lambda *_: "output `label` differs")
    result = CliRunner().invoke(application.app, ["demo"])
    assert (result.exit_code, result.stderr) == (3, "error: the answers with a cache differ: output `label` differs\n")


@pytest.mark.usefixtures("quick", "native_backend")
def test_the_demo_fails_if_an_answer_of_the_server_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roundtrip, "first_difference", lambda *_: "output `label` differs")
    result = CliRunner().invoke(application.app, ["demo"])
    assert (result.exit_code, result.stderr) == (3, "error: the server's answers differ: output `label` differs\n")
