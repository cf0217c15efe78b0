"""`inferlite serve`: what it shows, how it is stopped, and how it fails; and the line for the shell that it shows."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import make_models
import pytest
from hypothesis import given, strategies as st

import child
import served
from command import refuse, succeed
from inferlite import demo
from inferlite.cli import lineup, serve, trial
from inferlite.server import ServedModel
from shell_server import ShellServer

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = "a repository holds `NAME/1/model.onnx`, `NAME/model.onnx` or `NAME.onnx` for each model"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the models `digits` and `double`."""
    folder = tmp_path / "models"
    served.add(folder, "digits", demo.MODEL_PATH, settings='cache = "16MB"\nthreads = 1\n')
    served.add(folder, "double", served.DOUBLE, settings="batching = false")
    return folder


def demand_curl() -> str:
    """The path of curl.

    Raises:
        Failed: There is none where CI runs; elsewhere the test is skipped.
    """
    path = shutil.which("curl")
    if path is None:
        message = "this machine has no curl"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


# How it is refused


def test_help_teaches_how_a_repository_looks_and_how_to_ask() -> None:
    text = succeed("serve", "--help")
    for line in (
        "  inferlite serve models/ ",
        "  models/digits/1/model.onnx ",
        "  curl http://127.0.0.1:8000/v2/models/digits",
        "INFERLITE_KEYS",
        "INFERLITE_ADMIN_KEYS",
    ):
        assert line in text


@pytest.mark.parametrize("make", ["nothing", "file"])
def test_what_is_no_folder_is_told_how_a_repository_looks(make: str, tmp_path: Path) -> None:
    path = tmp_path / "models"
    reason = "does not exist"
    if make == "file":
        path.touch()
        reason = "is a file, not a folder"
    assert refuse("serve", path) == (1, f"error: repository `{path}` {reason}: {LAYOUT}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--host", "0.0.0.0"],  # noqa: S104 - nothing listens
            (
                "others may reach the server on `0.0.0.0` without a key: pass `--key` or set INFERLITE_KEYS, or pass "
                "`--insecure` if that is meant"
            ),
        ),
        (
            ["--host", "0.0.0.0", "--admin-key", "secret"],  # noqa: S104 - nothing listens
            (
                "others may reach the server on `0.0.0.0` without a key: pass `--key` or set INFERLITE_KEYS, or pass "
                "`--insecure` if that is meant"
            ),
        ),
        (
            ["--max-body", "many"],
            (
                "`--max-body`: `many` is no size: write a number and one of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, "
                'such as "256MB"'
            ),
        ),
        (
            ["--key", "sec ret"],
            "`--key` holds a key that no header can carry: take letters, digits and signs of ASCII, no blanks",
        ),
        (
            ["--admin-key", ""],
            "`--admin-key` holds a key that is empty: take letters, digits and signs of ASCII, no blanks",
        ),
        (
            ["--drain-timeout", "1e9"],
            "`--drain-timeout` must be from 0 to 86400 seconds, not 1000000000.0",
        ),
        (
            ["--access-log-path", "log"],
            "`--access-log-path` is given, but nothing is logged: pass `--access-log text` or `json`",
        ),
    ],
)
def test_wrong_usage_has_its_code(repository: Path, arguments: list[str], text: str) -> None:
    assert refuse("serve", repository, *arguments) == (2, f"error: {text}")


def test_the_python_back_end_is_unavailable(repository: Path, child_environment: dict[str, str], backend: str) -> None:
    if backend == "native":
        pytest.skip("it has a server")
    command = [sys.executable, "-m", "inferlite", "serve", str(repository)]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("error: `inferlite.Server` is not available: ")


@pytest.mark.usefixtures("native_backend")
def test_an_address_in_use_has_a_code_of_its_own(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refuse("serve", repository, "--port", port) == (
            6,
            f"error: cannot listen on 127.0.0.1:{port}: address already in use",
        )


@pytest.mark.usefixtures("native_backend")
def test_a_log_that_cannot_be_written_has_its_code(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "none" / "log"
    assert refuse("serve", repository, "--access-log", "text", "--access-log-path", log) == (
        4,
        f"error: the access log `{log}` cannot be written: no such file or directory",
    )


def test_listening_waits_for_nothing_that_it_does_not_need(child_environment: dict[str, str]) -> None:
    code = """
        import sys
        import inferlite.cli.application, inferlite.cli.serve
        print(sorted({"http.client", "inferlite.session", "numpy", "onnxruntime", "rich"} & set(sys.modules)))
    """
    assert child.run(code, child_environment) == "[]\n"


# What it shows


def test_a_table_shows_what_is_served(repository: Path, native_environment: dict[str, str]) -> None:
    served.add(repository, "broken", b"this is no model")
    with ShellServer(repository, environment=native_environment) as server:
        lines = server.shown.splitlines()
        cells = {line.split("  ")[0]: re.split(r" {2,}", line) for line in lines[:4]}
        assert cells["model"] == ["model", "version", "state", "inputs", "outputs", "cache", "batching"]
        assert cells["digits"] == [
            "digits",
            "1",
            "READY",
            "pixels FP32 [?, 64]",
            "label INT64 [?], probabilities FP32 [?, 10]",
            "16MB",
            "auto",
        ]
        assert cells["double"] == ["double", "1", "READY", "x FP32 [?, 4]", "y FP32 [?, 4]", "off", "off"]
        assert cells["broken"] == ["broken", "1", "UNAVAILABLE"]
        assert lines[4].startswith("broken version 1: ")
        assert server.url.startswith("http://127.0.0.1:")
        code, err = server.end()
    assert code == 0
    told = err.splitlines()
    assert sorted(line for line in told if line.startswith("loaded: ")) == [
        "loaded: digits version 1",
        "loaded: double version 1",
    ]
    assert any(line.startswith("failed: broken version 1: ") for line in told)
    assert told[-1] == "SIGTERM: requests under way may end, no more are taken; Ctrl-C ends it at once"


@pytest.mark.parametrize("make", ["empty", "hidden", "other files"])
@pytest.mark.parametrize("is_watched", [True, False])
def test_a_folder_without_a_model_is_served_and_filled(
    make: str, is_watched: bool, tmp_path: Path, native_environment: dict[str, str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    if make == "hidden":
        (folder / ".m.onnx").touch()
    elif make == "other files":
        (folder / "model.onnx.tmp").touch()
        (folder / "README.md").touch()
    arguments = () if is_watched else ("--no-watch",)
    then = (
        "the folder is watched, and each model is served as it comes"
        if is_watched
        else "the folder is not watched: `POST /v2/repository/models/NAME/load` loads a model that has come"
    )
    with ShellServer(folder, *arguments, environment=native_environment) as server:
        assert server.shown.splitlines() == [
            f"repository `{folder}` holds no model yet; {then}",
            LAYOUT,
            "",
            f"url: {server.url}",
        ]
        assert served.ask(server.url, "GET", "/v2/health/ready")[0] == 200
        served.add(folder, "double", served.DOUBLE)
        if not is_watched:
            assert served.ask(server.url, "POST", "/v2/repository/models/double/load")[0] == 200
        assert server.process.stderr is not None
        assert server.process.stderr.readline() == b"loaded: double version 1\n"
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]


def test_what_only_waits_to_be_loaded_has_not_failed(tmp_path: Path, native_environment: dict[str, str]) -> None:
    names = [f"double{number}" for number in range(12)]
    for name in names:
        served.add(tmp_path / "models", name, served.DOUBLE)
    with ShellServer(tmp_path / "models", environment=native_environment) as server:
        _, err = server.end()
    assert sorted(err.splitlines()[:-1]) == sorted(f"loaded: {name} version 1" for name in names)


def test_what_somebody_has_asked_for_is_no_failure(tmp_path: Path, native_environment: dict[str, str]) -> None:
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    with ShellServer(folder, "--no-watch", environment=native_environment) as server:
        assert server.process.stderr is not None
        assert server.process.stderr.readline() == b"loaded: double version 1\n"

        def change(what: str, *lines: str) -> None:
            assert served.ask(server.url, "POST", f"/v2/repository/models/double/{what}")[0] == 200
            assert server.process.stderr is not None
            told = [server.process.stderr.readline().decode() for _ in lines]
            assert told == [f"{line}\n" for line in lines]

        served.add(folder, "double", served.TRIPLE, version=2)
        change("load", "loaded: double version 2")
        change("unload", "unloaded: double")
        change("load", "loaded: double version 2")
        change("rollback", "loaded: double version 1", "rolled back: double version 2")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("it waits to be loaded", ""),
        ("it was rolled back", "rolled back: m version 1\n"),
        ("it was unloaded", "unloaded: m version 1\n"),
        ("it is no model", "failed: m version 1: it is no model\n"),
    ],
)
def test_only_failures_are_told_as_such(reason: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    serve._tell([ServedModel("m", "1", "UNAVAILABLE", reason)], [])
    assert capsys.readouterr().err == told


def test_changes_are_told_as_they_come(repository: Path, native_environment: dict[str, str]) -> None:
    with ShellServer(repository, environment=native_environment) as server:
        served.add(repository, "double", served.TRIPLE, version=2)
        served.until(lambda: served.double(server.url) == [4.5, 6.0, 9.0, 12.0], "version 2 answers")
        assert server.process.stderr is not None
        lines = []
        while "loaded: double version 2\n" not in lines:
            lines.append(server.process.stderr.readline().decode())
        assert sorted(lines) == [
            "loaded: digits version 1\n",
            "loaded: double version 1\n",
            "loaded: double version 2\n",
        ]


def test_a_folder_that_is_emptied_and_filled_again_is_told_of(
    tmp_path: Path, native_environment: dict[str, str]
) -> None:
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    reason = f"the repository `{folder}` holds no model any more, so that what serves goes on: unload what is to go"
    with ShellServer(folder, environment=native_environment) as server:
        assert server.process.stderr is not None
        assert server.process.stderr.readline() == b"loaded: double version 1\n"
        shutil.rmtree(folder / "double")
        assert server.process.stderr.readline().decode() == f"warning: double version 1: {reason}\n"
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]
        served.add(folder, "double", served.DOUBLE)
        assert server.process.stderr.readline() == b"mended: double version 1\n"


@pytest.mark.parametrize("graph", ["digits", "double", "strings", "large", "several"])
def test_the_line_that_it_shows_works_as_it_stands(
    graph: str, tmp_path: Path, native_environment: dict[str, str]
) -> None:
    demand_curl()
    content: Any = {
        "digits": demo.MODEL_PATH,
        "double": served.DOUBLE,
        "strings": make_models.build("strings"),
        "large": "large (float[n,3,224,224] x) => (float[n,3,1,1] y) { y = GlobalAveragePool(x) }",
        "several": "several (int64[n] a, bool[n] b, double[n,2] c) => (int64[n] d, bool[n] e, double[n,2] f) "
        "{ d = Neg(a) e = Not(b) f = Neg(c) }",
    }[graph]
    served.add(tmp_path / "models", graph, content)
    with ShellServer(tmp_path / "models", environment=native_environment) as server:
        done = subprocess.run(
            ["/bin/bash", "-c", server.trial], capture_output=True, text=True, timeout=served.PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    reply = json.loads(done.stdout)
    assert "error" not in reply
    assert reply["model_name"] == graph
    assert all(output["shape"][0] == 1 for output in reply["outputs"])


def test_the_line_takes_a_key_from_a_variable(repository: Path, native_environment: dict[str, str]) -> None:
    demand_curl()
    environment = {**native_environment, "INFERLITE_KEYS": "first second", "INFERLITE_ADMIN_KEYS": "third"}
    with ShellServer(repository, environment=environment) as server:
        assert "try, with a key in the variable KEY:" in server.shown.splitlines()
        assert not re.search("first|second|third", server.shown)
        for key, is_right in (("second", True), ("third", True), ("fourth", False)):
            done = subprocess.run(
                ["/bin/bash", "-c", server.trial],
                env={**os.environ, "KEY": key},
                capture_output=True,
                text=True,
                timeout=served.PATIENCE,
                check=True,
            )
            assert ("outputs" in json.loads(done.stdout)) is is_right


def test_a_terminal_sees_the_table_in_colour(repository: Path, native_environment: dict[str, str]) -> None:
    environment = {**native_environment, "TERM": "xterm-256color", "COLUMNS": "160"}
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "inferlite", "serve", "--port", "0", str(repository)]
        process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown, deadline = "", time.monotonic() + served.PATIENCE
        while "/infer" not in shown:
            ready, _, _ = select.select([ours], [], [], max(deadline - time.monotonic(), 0))
            assert ready, shown
            shown += os.read(ours, 65_536).decode()
        assert "\x1b[" in shown
        assert "READY" in shown
        assert "loaded: " not in shown
        process.send_signal(signal.SIGINT)
        assert process.wait(served.PATIENCE) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)


# How it ends


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 0, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_signal_lets_requests_end(
    number: int, code: int, name: str, repository: Path, native_environment: dict[str, str]
) -> None:
    served.add(repository, "counted", served.ROUNDS)
    replies: list[int] = []
    with ShellServer(repository, environment=native_environment) as server:
        body = {"inputs": [served.tensor("rounds", [1], [300_000], "INT64"), served.tensor("x", [1], [7.0])]}
        thread = threading.Thread(
            target=lambda: replies.append(served.ask(server.url, "POST", "/v2/models/counted/infer", body)[0])
        )
        thread.start()
        served.until(lambda: _is_busy(server.url), "the request is under way")
        ended, err = server.end(number)
        assert ended == code
        assert err.endswith(f"{name}: requests under way may end, no more are taken; Ctrl-C ends it at once\n")
        thread.join(served.PATIENCE)
        assert replies == [200]
        with pytest.raises(ConnectionRefusedError):
            served.ask(server.url, "GET", "/v2/health/live")


def test_ctrl_c_again_ends_it_at_once(repository: Path, native_environment: dict[str, str]) -> None:
    served.add(repository, "counted", served.ROUNDS)
    arguments = (repository, "--drain-timeout", 600)
    with ShellServer(*arguments, environment=native_environment) as server:
        body = {"inputs": [served.tensor("rounds", [1], [10**9], "INT64"), served.tensor("x", [1], [7.0])]}
        outcome: list[object] = []

        def ask() -> None:
            try:
                outcome.append(served.ask(server.url, "POST", "/v2/models/counted/infer", body))
            except (OSError, http.client.HTTPException) as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        served.until(lambda: _is_busy(server.url), "the request is under way")
        server.process.send_signal(signal.SIGTERM)
        # The supervisor is impatient, which changes nothing.
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(1)
        assert server.end(signal.SIGINT)[0] == 130
        thread.join(served.PATIENCE)
    assert isinstance(outcome[0], (OSError, http.client.HTTPException))


def test_a_signal_while_models_load_ends_it(repository: Path, native_environment: dict[str, str]) -> None:
    # A warm-up that never ends keeps the model loading.
    settings = "[[warmup]]\ninputs.x = { shape = [1] }\n"
    served.add(repository, "endless", make_models.build("endless"), settings=settings)
    arguments = (repository, "--drain-timeout", 0)
    with ShellServer(*arguments, environment=native_environment, is_waited_for=False) as server:
        assert server.process.stderr is not None
        while b"loaded: double" not in server.process.stderr.readline():
            pass
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0


def _is_busy(url: str) -> bool:
    page = served.ask(url, "GET", "/metrics")[2].decode()
    return re.search(r'^nv_inference_pending_request_count\{.*"counted".*\} 1$', page, flags=re.MULTILINE) is not None


# The line for the shell


def _read(line: str) -> tuple[str, list[dict[str, Any]]]:
    """The address and the inputs of a line without a pipe."""
    words = shlex.split(line)
    assert words[:2] == ["curl", "-s"]
    assert words[-2] == "-d"
    return words[2], json.loads(words[-1])["inputs"]


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=8),
            st.sampled_from(sorted(set(trial.SIZES) - {"BF16"})),
            st.lists(st.integers(-1, 4), max_size=3),
        ),
        max_size=3,
    )
)
def test_a_line_has_valid_json_of_the_right_shape(specs: list[tuple[str, str, list[int]]]) -> None:
    inputs = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in specs]
    line = trial.curl_line("http://h:1", "m", inputs)
    assert line is not None
    address, tensors = _read(line)
    assert address == "http://h:1/v2/models/m/infer"
    for (name, datatype, shape), tensor in zip(specs, tensors, strict=True):
        assert (tensor["name"], tensor["datatype"]) == (name, datatype)
        assert tensor["shape"] == [abs(size) for size in shape]
        count = 1
        for size in tensor["shape"]:
            count *= size
        assert len(tensor["data"]) == count


def test_many_values_come_from_the_system() -> None:
    line = trial.curl_line("http://h:1", "m", [{"name": "x", "datatype": "FP32", "shape": [-1, 300]}])
    assert line is not None
    head = '{"inputs":[{"name":"x","shape":[1,300],"datatype":"FP32","parameters":{"binary_data_size":1200}}]}'
    assert line == (
        f"{{ printf %s '{head}'; head -c 1200 /dev/zero; }} | curl -s http://h:1/v2/models/m/infer "
        f"-H 'Inference-Header-Content-Length: {len(head)}' --data-binary @-"
    )


def test_what_the_protocol_cannot_carry_has_no_line() -> None:
    spec = {"name": "x", "datatype": "COMPLEX64", "shape": [1]}
    assert trial.curl_line("http://h:1", "m", [spec]) is None
    huge = {"name": "x", "datatype": "FP64", "shape": [10**5, 10**5]}
    assert trial.curl_line("http://h:1", "m", [huge]) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ("off", "auto")),
        ('cache = "1GB"\nbatching = true', ("1GB", "on")),
        ("cache = false\nbatching = false", ("off", "off")),
        ('[cache]\nmax_bytes = "2MB"\nby = "row"\n[batching]\nmax_rows = 8', ("2MB, by row", "on")),
        ("[cache]\nttl = 3\n", ("256MB", "auto")),
        ("no toml", ("off", "auto")),
    ],
)
def test_the_table_reads_a_models_file(tmp_path: Path, text: str, shown: tuple[str, str]) -> None:
    path = tmp_path / "model.toml"
    path.write_text(text)
    assert lineup._settings(path) == shown
    assert lineup._settings(tmp_path / "none") == ("off", "auto")
