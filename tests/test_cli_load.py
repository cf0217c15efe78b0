"""`inferlite bench --concurrency`: what it prints and draws, and how it fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

from command import model, refuse, succeed
from conftest import BACKENDS
from inferlite.cli import callers
from inferlite.cli.failures import DifferentAnswersError, ExitCode

if TYPE_CHECKING:
    from pathlib import Path


native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
fallback = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "python"], indirect=True)
pytestmark = pytest.mark.usefixtures("backend")


@fallback
def test_the_python_back_end_says_that_it_cannot_tell_whether_rows_are_independent() -> None:
    status, text = refuse("bench", model("double"), "--concurrency", "2", "--seconds", "0.01")
    assert status == ExitCode.UNAVAILABLE
    assert text.startswith("error: `batching` without `rows_independent=True` is not available: ")


@native
def test_bench_puts_callers_to_a_model_with_and_without_batching(tmp_path: Path) -> None:
    picture = tmp_path / "callers.png"
    arguments = ("bench", model("double"), "--concurrency", "1,3", "--seconds", "0.01")
    lines = succeed(*arguments, "--plot", str(picture)).splitlines()
    assert "load: each caller calls again at once" in lines
    rows = [line.split() for line in lines[lines.index("") + 2 :]]
    sides = [("batching", 1), ("no batching", 1), ("onnxruntime", 1), ("batching", 3), ("no batching", 3)]
    assert [(" ".join(row[1 : 3 if row[1] == "no" else 2]), int(row[0])) for row in rows] == [
        *sides,
        ("onnxruntime", 3),
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


@native
def test_bench_has_calls_due_at_a_rate() -> None:
    result = json.loads(
        succeed(
            *("bench", model("double"), "--concurrency", "2", "--seconds", "0.05", "--open-loop", "400"),
            "--json",
        )
    )
    assert [load["side"] for load in result["loads"]] == ["batching", "no batching", "onnxruntime"]
    for load in result["loads"]:
        assert (load["callers"], load["due_per_second"], load["calls"]) == (2, 400.0, 6 * 20)
        seconds = load["seconds"]
        assert 0 < seconds["p50"] <= seconds["p95"] <= seconds["p99"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--concurrency", "4,x"), "`--concurrency` takes numbers from 1 to 1024, as in `1,4,16,64`, not `4,x`"),
        (("--concurrency", "0"), "`--concurrency` takes numbers from 1 to 1024, as in `1,4,16,64`, not `0`"),
        (("--open-loop", "9"), "`--open-loop` and `--plot` say more about `--concurrency`, which is not given"),
        (("--plot", "x.png"), "`--open-loop` and `--plot` say more about `--concurrency`, which is not given"),
        (("--cache", "--concurrency", "2"), "`--cache` and `--concurrency` are measured apart: give one of them"),
    ],
)
def test_bench_says_which_options_of_a_load_do_not_go(arguments: tuple[str, ...], text: str) -> None:
    assert refuse("bench", model("double"), *arguments) == (ExitCode.USAGE, f"error: {text}")


def test_bench_says_what_draws_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferlite.cli.plot.find_spec", lambda _: None)
    text = 'matplotlib, which `--plot` draws with, is not installed: `pip install "inferlite[plot]"` does that'
    given = refuse("bench", model("double"), "--concurrency", "1", "--plot", "x.png")
    assert given == (ExitCode.USAGE, f"error: {text}")


@native
def test_bench_says_where_a_picture_cannot_go(tmp_path: Path) -> None:
    arguments = ("bench", model("double"), "--concurrency", "1", "--seconds", "0.01", "--plot")
    status, text = refuse(*arguments, str(tmp_path / "missing" / "x.png"))
    assert status == ExitCode.UNWRITABLE
    assert text.startswith("error: cannot write the picture `")
    status, text = refuse(*arguments, str(tmp_path / "x.nothing"))
    assert status == ExitCode.UNWRITABLE
    assert "Format 'nothing' is not supported" in text


@native
def test_bench_batches_no_model_whose_rows_influence_each_other(tmp_path: Path) -> None:
    path = tmp_path / "softmax.onnx"
    path.write_bytes(make_models.parse("softmax (float[n, 2] x) => (float[n, 2] y) { y = Softmax <axis = 0> (x) }"))
    status, text = refuse("bench", str(path), "--concurrency", "2", "--seconds", "0.01")
    assert status == ExitCode.REFUSED
    assert "cannot be batched" in text


def test_callers_raise_what_a_call_raised() -> None:
    def call() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        list(callers.measure_callers({"one": call}, [2], rate=None, seconds=0.01, track=iter))


def test_batched_answers_are_compared_up_to_rounding() -> None:
    class Fixed:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def predict(self, _feed: Any) -> Any:
            return self.answer

    exact = np.array([1.0, np.nan, 1000.0], np.float32)
    near = exact + np.array([0.5, 0.0, 0.5], np.float32)
    check = callers.check_batched
    check(Fixed(exact), Fixed(near), {}, 2)  # type: ignore[arg-type]
    for other in (exact + 2, exact[:2], exact.astype(np.float64)):
        with pytest.raises(DifferentAnswersError):
            check(Fixed(exact), Fixed(other), {}, 2)  # type: ignore[arg-type]
    with pytest.raises(DifferentAnswersError):
        check(Fixed(np.array([1, 2])), Fixed(np.array([1, 3])), {}, 2)  # type: ignore[arg-type]
