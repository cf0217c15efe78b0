"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import onnx
import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

import inferlite
from command import invoke, model, refuse, save_model, succeed
from inferlite._model_file import decode
from inferlite.cli import application, bench as bench_verb
from inferlite.cli.failures import ExitCode
from inferlite.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


ESCAPE = "\x1b"

pytestmark = pytest.mark.usefixtures("backend")

# The program


def test_the_version_is_the_packages() -> None:
    assert succeed("--version") == f"inferlite {inferlite.__version__}\n"


def test_no_verb_shows_the_help_and_is_wrong_usage() -> None:
    result = invoke()
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == succeed("--help")


def test_help_lists_the_verbs_examples_and_every_exit_code() -> None:
    text = succeed("--help")
    for verb in ("demo", "info", "run", "bench", "serve"):
        assert f"\n  {verb} " in text
        assert f"\n  inferlite {verb}" in text
    for code in ExitCode:
        assert f"\n  {code.value:<4} {code.meaning}\n" in text


@pytest.mark.parametrize("verb", ["info", "run", "bench"])
def test_help_of_a_verb_has_examples(verb: str) -> None:
    text = succeed(verb, "--help")
    assert f"\n    inferlite {verb} model.onnx" in text
    assert "\b" not in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["inof"], "error: no such command `inof`. Did you mean `info`? (`inferlite --help` shows how)"),
        (["--nope"], "error: no such option: --nope (`inferlite --help` shows how)"),
        (["info"], "error: missing argument `MODEL` (`inferlite info --help` shows how)"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(application.app, arguments, prog_name="inferlite")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{line}\n")


def test_a_number_out_of_range_is_wrong_usage() -> None:
    code, line = refuse("bench", "m.onnx", "--rounds", "0")
    # The words in between are those of the installed typer.
    assert code == 2
    assert line.startswith("error: invalid value for `--rounds`: ")
    assert line.endswith(" --help` shows how)")


def test_verbose_shows_the_traceback_before_the_line() -> None:
    result = invoke("info", "missing.onnx", "--verbose")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("\nerror: model `missing.onnx` does not exist\n")
    assert invoke("--verbose", "info", "missing.onnx").stderr.startswith("Traceback")


def test_a_bug_is_one_line_and_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        message = "first\nsecond"
        raise LookupError(message)

    monkeypatch.setattr("inferlite.cli.info.check_model_path", fail)
    assert refuse("info", "m.onnx") == (
        70,
        "error: unexpected LookupError: first second (this is a bug in inferlite, `--verbose` shows where)",
    )


def test_an_unavailable_back_end_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "`lib.so` cannot be loaded"
        raise inferlite.BackendUnavailableError(message)

    monkeypatch.setattr(inferlite, "load", fail)
    assert refuse("info", model("double")) == (5, "error: `lib.so` cannot be loaded")


def test_a_back_end_that_there_is_not_has_that_code_too(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "INFERLITE_BACKEND": "nope"}
    done = child("info", model("double"), environment=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "error: INFERLITE_BACKEND must be `native` or `python`, not `nope`\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inferlite, "load", interrupt)
    result = invoke("info", model("double"))
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(path: Path) -> None:
        import warnings  # noqa: PLC0415

        del path
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the native part\nis missing", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr("inferlite.cli.info.check_model_path", warn)
    result = invoke("info", model("double"))
    assert (result.exit_code, result.stderr) == (0, "warning: the native part is missing\n")


# info


def test_info_shows_the_signature_and_the_file() -> None:
    lines = succeed("info", model("double")).splitlines()
    assert lines[:6] == [
        "model: double",
        f"file: {model('double')} ({model('double').stat().st_size} B)",
        "input x: float32 [batch, 4]",
        "output y: float32 [batch, 4]",
        "opset: ai.onnx 21, ai.onnx.ml 3",
        "IR version: 10",
    ]
    assert "nodes: 1 (Add 1)" in lines
    assert "engine: onnxruntime" in lines
    assert f"back end: {inferlite.backend} (" in "\n".join(lines)


def test_info_as_json() -> None:
    facts = json.loads(succeed("info", model("two_outputs"), "--json"))
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n"]}]
    assert facts["outputs"] == [
        {"name": "negative", "dtype": "float32", "shape": ["n"]},
        {"name": "small", "dtype": "bool", "shape": ["n"]},
    ]
    assert facts["opsets"] == {"ai.onnx": 21, "ai.onnx.ml": 3}
    assert facts["operators"] == {"Less": 1, "Neg": 1}
    assert facts["nodes"] == 2
    assert facts["graph"] == "two_outputs"
    assert facts["backend"] == inferlite.backend


def test_info_says_what_batches_do() -> None:
    if inferlite.backend == "python":
        refusal = json.loads(succeed("info", model("mlp"), "--batching", "--json"))["batching"]["refusal"]
        assert f"\nbatching: refused: {refusal}\n" in succeed("info", model("mlp"), "--batching")
        return
    number = r"[\d.]+ [num]?s"
    shown = succeed("info", model("mlp"), "--batching")
    assert re.search(
        rf"\nbatching: pays: a run takes {number}, and {number} for each of its rows; up to \d+ rows at once\n"
        r"rounding in batches: (none|\d\.\de-\d\d of an output's largest number)\nengine: ",
        shown,
    )
    facts = json.loads(succeed("info", model("mlp"), "--batching", "--json"))["batching"]
    assert facts["pays"]
    assert facts["seconds_per_run"] > 0
    assert facts["seconds_per_row"] > 0
    assert facts["max_rows"] >= 1
    assert 0 <= facts["rounding"] < 1e-4
    assert facts["refusal"] is None


def test_info_says_why_a_model_has_no_batches() -> None:
    facts = json.loads(succeed("info", model("sequence_make"), "--batching", "--json"))["batching"]
    assert facts["pays"] is None
    if inferlite.backend == "native":
        assert facts["refusal"] == (
            "model `sequence_make` cannot be batched: output `s` of type seq(tensor(float)) cannot be split into rows"
        )
    assert f"\nbatching: refused: {facts['refusal']}\n" in succeed("info", model("sequence_make"), "--batching")


def test_info_counts_the_nodes_of_bodies() -> None:
    assert json.loads(succeed("info", model("endless"), "--json"))["operators"] == {"Add": 1, "Identity": 1, "Loop": 1}


def test_info_shows_what_has_no_shape_and_no_name() -> None:
    assert "input x: float32 (no declared shape)\n" in succeed("info", model("scalar"))
    assert "input s: seq(tensor(float))\n" in succeed("info", model("sequence"))
    assert "input x: float32 [?, 2]\n" in succeed("info", model("unnamed"))


@pytest.mark.parametrize("name", sorted({*make_models.FILES} - {"external"}))
def test_info_reads_every_model(name: str) -> None:
    facts = json.loads(succeed("info", model(name), "--json"))
    assert facts["ir_version"] == 10
    assert facts["nodes"] == sum(facts["operators"].values())


# Models that are refused


def test_a_missing_model(tmp_path: Path) -> None:
    for verb in ("info", "run", "bench"):
        assert refuse(verb, tmp_path / "no.onnx") == (1, f"error: model `{tmp_path / 'no.onnx'}` does not exist")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert refuse("info", tmp_path) == (1, f"error: model `{tmp_path}` is a folder, not a file")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x3a\xff"])
@pytest.mark.parametrize("verb", ["info", "run", "bench"])
def test_what_is_no_model_is_refused_on_one_line(tmp_path: Path, verb: str, content: bytes) -> None:
    code, line = refuse(verb, save_model(tmp_path / "bad.onnx", content))
    assert code == 1
    assert line.startswith("error: ")


def test_control_characters_never_reach_the_terminal(tmp_path: Path) -> None:
    assert refuse("info", f"{ESCAPE}[31m\n.onnx") == (1, "error: model `\\x1b[31m .onnx` does not exist")
    coloured = make_models.parse("g (float[n] x) => (float[n] y) { y = Neg(x) }").replace(b"\x01n", b"\x01\x1b")
    text = succeed("info", save_model(tmp_path / "m.onnx", coloured))
    assert ESCAPE not in text
    assert "input x: float32 [\\x1b]\n" in text


# bench


def test_bench_compares_in_plain_text() -> None:
    text = succeed("bench", model("double"), "--rounds", "3", "--dim", "batch=2")
    lines = text.splitlines()
    assert lines[1] == "input x: float32 [2, 4]"
    assert lines[2] == "answers: equal bit for bit, 1 output"
    assert lines[3].startswith("rounds: 3 pairs of ")
    assert lines[3].endswith(" calls, 1 thread")
    assert lines[5].split() == ["side", "p5", "p50", "p95"]
    assert lines[6].startswith("inferlite ")
    assert lines[7].startswith("onnxruntime ")
    assert lines[9].startswith("inferlite    #")
    assert lines[10].startswith("onnxruntime  #")
    assert lines[12].startswith("ratio: ")
    assert text.isascii()


def test_bench_as_json() -> None:
    result = json.loads(succeed("bench", model("double"), "--rounds", "2", "--threads", "2", "--json"))
    assert result["rounds"] == 2
    assert result["threads"] == 2
    assert result["answers_equal"] is True
    assert result["inputs"] == {"x": "float32 [1, 4]"}
    ratio = result["ratio"]
    assert ratio["low"] <= ratio["p50"] <= ratio["high"]
    for side in ("ours", "theirs"):
        assert 0 < result[side]["p5"] <= result[side]["p50"] <= result[side]["p95"]


def test_bench_times_models_of_strings_and_maps() -> None:
    for name in ("strings", "zipmap", "optional_absent"):
        assert "answers: equal bit for bit" in succeed("bench", model(name), "--rounds", "1")


def test_bench_times_hits_and_misses_of_a_cache() -> None:
    lines = succeed("bench", model("double"), "--rounds", "2", "--cache").splitlines()
    assert lines[13:15] == ["", "with a cache, median"]
    assert lines[15].split() == ["call", "inferlite", "onnxruntime", "run", "ratio"]
    assert lines[16].startswith("found ")
    assert lines[17].startswith("looked up, run and kept ")
    result = json.loads(succeed("bench", model("strings"), "--rounds", "2", "--cache", "--json"))
    for way in ("hit", "miss"):
        figures = result["cache"][way]
        assert figures["rounds"] == 2
        assert 0 < figures["ratio"]["low"] <= figures["ratio"]["p50"] <= figures["ratio"]["high"]
    assert "cache" not in json.loads(succeed("bench", model("double"), "--rounds", "1", "--json"))


def test_bench_times_no_hits_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_verb, "BUDGET", "1B")
    status, text = refuse("bench", model("double"), "--cache", "--rounds", "1")
    assert status == ExitCode.REFUSED
    assert text.startswith(
        "error: the answer is not kept: 1 hits and 1 misses were to be, and there are CacheStats(hits=0"
    )


def test_bench_caches_no_model_that_may_be_random(tmp_path: Path) -> None:
    path = tmp_path / "dice.onnx"
    path.write_bytes(
        make_models.parse(
            "dice (float[1] x) => (float[1] y) { [roll] r = RandomUniformLike(x) z = Sub(r, r) y = Add(x, z) }"
        )
    )
    status, text = refuse("bench", str(path), "--cache", "--rounds", "1")
    assert status != 0
    assert "cannot be cached: node `roll`" in text


class _Wrong:
    def __init__(self, session: Any, change: Any) -> None:
        self._session = session
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._change = change

    def run(self, names: Sequence[str] | None, feed: dict[str, Any]) -> list[Any]:
        return [self._change(output) for output in self._session.run(names, feed)]


def test_bench_refuses_to_time_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_verb.open_both

    def open_wrong(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        ours, theirs = real(*arguments, **options)
        return _Wrong(ours, lambda array: array * np.float32([1, 1, -1, 1])), theirs

    monkeypatch.setattr(bench_verb, "open_both", open_wrong)
    assert refuse("bench", model("double")) == (
        3,
        "error: the answers differ: output `y` differs in 1 of 4 values",
    )


def test_bench_says_that_a_model_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_verb.open_both
    drawn = np.random.default_rng(0)

    def open_random(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        ours, theirs = real(*arguments, **options)
        return ours, _Wrong(theirs, lambda array: drawn.standard_normal(array.shape, np.float32))

    monkeypatch.setattr(bench_verb, "open_both", open_random)
    assert refuse("bench", model("double")) == (
        3,
        (
            "error: output `y` differs in 4 of 4 values: onnxruntime's own answers differ from call to call, "
            "the model is random"
        ),
    )


# Terminals, pipes and processes


def child(*arguments: object, environment: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inferlite", *map(str, arguments)],
        env=environment,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
        **options,
    )


def test_python_m_inferlite_is_the_same_program(child_environment: dict[str, str]) -> None:
    done = child("info", model("double"), environment=child_environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == succeed("info", model("double"))


@pytest.mark.slow_on_fallback
def test_a_pipe_gets_neither_colours_nor_boxes(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = child("bench", model("double"), "--rounds", "2", environment=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert ESCAPE not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently there")
@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["info"], marks=pytest.mark.slow),
        ["run", "--json", "--dim", "n=100000"],
        pytest.param(["--help"], marks=pytest.mark.slow),
        ["--version"],
    ],
)
def test_a_closed_pipe_is_silent(child_environment: dict[str, str], arguments: list[str], unbuffered: str) -> None:
    child_environment["PYTHONUNBUFFERED"] = unbuffered
    verb, *options = arguments
    models = [] if verb.startswith("--") else [model("identity" if verb == "info" else "strings")]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = child(verb, *models, *options, environment=child_environment, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.CLOSED_PIPE, "")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed differently there")
@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("verb", ["info", "run"])
def test_a_closed_standard_output_is_one_line(child_environment: dict[str, str], verb: str) -> None:
    command = f'"{sys.executable}" -m inferlite {verb} "{model("double")}" >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=child_environment, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (4, "error: cannot write the output: bad file descriptor\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("verb", ["info", "run", "bench"])
def test_a_pipe_or_a_device_is_no_model(verb: str, tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", "/dev/null"):
        assert refuse(verb, path) == (1, f"error: model `{path}` is not a regular file")


def test_a_failing_model_says_so_without_the_runtimes_prefix() -> None:
    code, text = refuse("bench", model("failing"), "--shape", "a=2x3", "--shape", "b=2x3")
    assert code == 1
    assert text.startswith("error: Non-zero status code returned while running MatMul node.")


def test_a_long_argument_is_shortened_in_the_error() -> None:
    code, text = refuse("run", model("double"), "--input", "x=[" + "1," * 10_000)
    assert code == 2
    assert len(text) < 250


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
@pytest.mark.slow_on_fallback
def test_a_full_disk_is_one_line(child_environment: dict[str, str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = child("info", model("double"), environment=child_environment, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (4, "error: cannot write the output: no space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.slow_on_fallback
def test_a_terminal_gets_colours_and_bars(child_environment: dict[str, str]) -> None:
    text, code = on_a_terminal(
        "bench", model("double"), "--rounds", "2", environment={**child_environment, "TERM": "xterm-256color"}
    )
    assert code == 0
    assert ESCAPE in text
    assert "█" in text


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.slow_on_fallback
def test_a_progress_bar_shows_only_after_a_second(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "TERM": "xterm-256color"}
    short, _ = on_a_terminal("bench", model("double"), "--rounds", "2", environment=environment)
    # Ends as soon as the bar is there, however fast the machine is.
    arguments = ("bench", model("double"), "--rounds", "100000")
    long, code = on_a_terminal(*arguments, environment=environment, interrupt_at="timing")
    assert "timing" not in short
    assert "timing" in long
    assert code == 130


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_ends_a_run_that_does_not_come_back(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "TERM": "xterm-256color"}
    text, code = on_a_terminal("run", model("endless"), environment=environment, interrupt_at="running endless")
    assert code == 130
    assert "Traceback" not in text
    # The cursor is shown again; where the line is that the bar has left depends on when it was drawn last.
    assert f"{ESCAPE}[?25h" in text


def on_a_terminal(*arguments: object, environment: dict[str, str], interrupt_at: str | None = None) -> tuple[str, int]:
    import pty  # noqa: PLC0415 - not on every system

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "inferlite", *map(str, arguments)],
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    chunks = []
    try:
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                # How a pseudo-terminal says that the other side has closed.
                break
            if not chunk:
                break
            chunks.append(chunk)
            if interrupt_at is not None and interrupt_at in b"".join(chunks).decode(errors="replace"):
                process.send_signal(signal.SIGINT)
                interrupt_at = None
        return b"".join(chunks).decode(), process.wait(timeout=60)
    finally:
        os.close(ours)
        # A test that runs out of time leaves no process behind that keeps a processor busy.
        process.kill()
        process.wait()


def test_the_package_needs_neither_typer_nor_rich(child_environment: dict[str, str]) -> None:
    code = "import sys, inferlite; inferlite.load; print(sorted({'typer', 'rich', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_a_table_is_aligned_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().table(["name", ">size"], [["a", "1"], ["b\nc", "234"]])
    assert capsys.readouterr().out == "name  size\na        1\nb c    234\n"


# The file reader of the Python back end


@pytest.mark.parametrize("name", make_models.FILES)
def test_the_file_reader_agrees_with_onnx(name: str) -> None:
    facts = decode(model(name))
    expected = onnx.load(model(name), load_external_data=False)
    assert facts["ir_version"] == expected.ir_version
    assert facts["producer_name"] == expected.producer_name
    assert facts["graph_name"] == expected.graph.name
    assert facts["opsets"] == {opset.domain: opset.version for opset in expected.opset_import}


@given(content=st.binary(min_size=1, max_size=300), cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_no_bytes_make_the_file_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cut: int, flip: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    real = bytearray(model("endless").read_bytes())
    if flip < len(real):
        real[flip] ^= 0xFF
    for data in (content, bytes(real), bytes(real[: cut + 1])):
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            decode(path)
