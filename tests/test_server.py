"""`inferlite.Server`: its arguments, and its life in this process."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

import inferlite
import served
from inferlite import _backend, demo
from inferlite.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Callable


class _StandIn:
    """What the native part's class does, without listening."""

    made: list[_StandIn]
    entries: list[tuple[str, str | None, str, str | None]]
    looks: int
    refusal: OSError | None

    def __init__(self, repository: str, settings: dict[str, Any]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.repository, self.settings, self.stops, self.asked = repository, settings, 0, []
        self.address = (settings["host"], settings["port"] or 4242)
        self.made.append(self)

    def is_ready(self) -> bool:
        type(self).looks -= 1
        return self.looks < 0

    def index(self) -> list[tuple[str, str | None, str, str | None]]:
        return self.entries

    def look_around(self) -> None:
        self.asked.append(("look_around", ""))

    def notices(self) -> list[str]:
        return ["a run does not end"]

    def stop(self) -> None:
        self.stops += 1

    def load(self, name: str) -> None:
        self.asked.append(("load", name))

    def unload(self, name: str) -> None:
        self.asked.append(("unload", name))

    def rollback(self, name: str) -> None:
        self.asked.append(("rollback", name))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> type[_StandIn]:
    """A native part whose server is ready at once."""
    state = {"made": [], "entries": [], "looks": 0, "refusal": None}
    made = type("_StandIn", (_StandIn,), state)
    monkeypatch.setattr(_backend, "native_core", lambda: SimpleNamespace(Server=made))
    return made


# Arguments


def test_everything_has_a_default(native: type[_StandIn], tmp_path: Path) -> None:
    with inferlite.Server(tmp_path):
        (made,) = native.made
    assert made.repository == str(tmp_path)
    assert made.settings == {
        "host": "127.0.0.1",
        "port": 0,
        "workers": None,
        "inference_keys": [],
        "admin_keys": [],
        "body_limit": 64_000_000,
        "connections": 10_000,
        "requests": 4096,
        "header_time": 10.0,
        "body_time": 30.0,
        "idle_time": 75.0,
        "drain_time": 30.0,
        "watch": 1.0,
        "access_log": None,
        "access_log_path": None,
    }


def test_what_is_given_is_handed_over(native: type[_StandIn], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with inferlite.Server(
        os.fsencode(tmp_path).decode(),
        host="0.0.0.0",  # noqa: S104 - nothing listens
        port=1,
        workers=3,
        keys=("one", "two"),
        admin_keys=["three"],
        max_body="1.5 MiB",
        max_connections=5,
        max_requests=6,
        header_timeout=7,
        body_timeout=8,
        idle_timeout=9,
        drain_timeout=0,
        watch=None,
        access_log="json",
        access_log_path=log,
    ):
        (made,) = native.made
    assert made.settings == {
        "host": "0.0.0.0",  # noqa: S104 - nothing listens
        "port": 1,
        "workers": 3,
        "inference_keys": ["one", "two"],
        "admin_keys": ["three"],
        "body_limit": 1_572_864,
        "connections": 5,
        "requests": 6,
        "header_time": 7.0,
        "body_time": 8.0,
        "idle_time": 9.0,
        "drain_time": 0.0,
        "watch": None,
        "access_log": "json",
        "access_log_path": str(log),
    }


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"host": 1}, TypeError, "`host` must be text such as `127.0.0.1`, not 1"),
        ({"host": ""}, ValueError, "`host` must be an address or a name such as `127.0.0.1`, not ''"),
        ({"host": "a b"}, ValueError, "`host` must be an address or a name such as `127.0.0.1`, not 'a b'"),
        ({"port": "80"}, TypeError, "`port` must be a number, not '80'"),
        ({"port": True}, TypeError, "`port` must be a number, not True"),
        ({"port": -1}, ValueError, "`port` must be from 0 to 65535, not -1"),
        ({"port": 65_536}, ValueError, "`port` must be from 0 to 65535, not 65536"),
        ({"workers": 0}, ValueError, "`workers` must be from 1 to 1024, not 0"),
        ({"workers": 1.0}, TypeError, "`workers` must be a number, not 1.0"),
        ({"max_connections": 0}, ValueError, "`max_connections` must be from 1 to 1000000, not 0"),
        ({"max_requests": None}, TypeError, "`max_requests` must be a number, not None"),
        (
            {"max_body": "64"},
            ValueError,
            (
                "`max_body`: `64` is no size: write a number and one of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, such as "
                '"256MB"'
            ),
        ),
        (
            {"max_body": 1.5},
            TypeError,
            '`max_body`: a size must be a number of bytes or text such as "256MB", not 1.5',
        ),
        ({"header_timeout": 0}, ValueError, "`header_timeout` must be more than 0 and at most 86400 seconds, not 0"),
        (
            {"body_timeout": float("nan")},
            ValueError,
            "`body_timeout` must be more than 0 and at most 86400 seconds, not nan",
        ),
        ({"idle_timeout": "1"}, TypeError, "`idle_timeout` must be seconds, not '1'"),
        ({"drain_timeout": -1}, ValueError, "`drain_timeout` must be from 0 to 86400 seconds, not -1"),
        ({"watch": False}, TypeError, "`watch` must be seconds or None, not False"),
        ({"watch": 0}, ValueError, "`watch` must be more than 0 and at most 86400 seconds, not 0"),
        ({"access_log": None}, ValueError, "`access_log` must be one of 'off', 'text', 'json', not None"),
        ({"access_log": "xml"}, ValueError, "`access_log` must be one of 'off', 'text', 'json', not 'xml'"),
        ({"access_log_path": 3, "access_log": "text"}, TypeError, "`access_log_path` must be a path or None, not 3"),
        (
            {"access_log_path": "log"},
            ValueError,
            '`access_log_path` is given, but nothing is logged: pass `access_log="text"` or `"json"`',
        ),
        ({"keys": "secret"}, TypeError, "`keys` must be a list of keys, not str"),
        ({"keys": 5}, TypeError, "`keys` must be a list of keys, not int"),
        ({"admin_keys": [b"secret"]}, TypeError, "`admin_keys` must hold text, not bytes"),
        (
            {"keys": ["secret", "sec ret"]},
            ValueError,
            "`keys` holds a key that no header can carry: take letters, digits and signs of ASCII, no blanks",
        ),
        (
            {"admin_keys": [""]},
            ValueError,
            "`admin_keys` holds a key that is empty: take letters, digits and signs of ASCII, no blanks",
        ),
        ({"insecure": 1}, TypeError, "`insecure` must be True or False, not 1"),
        ({"wait": "yes"}, TypeError, "`wait` must be True or False, not 'yes'"),
        (
            {"host": "0.0.0.0"},  # noqa: S104 - nothing listens
            ValueError,
            (
                "`host` is `0.0.0.0`, where others may reach the server without a key: pass `keys`, or "
                "`insecure=True` if that is meant"
            ),
        ),
    ],
)
def test_a_wrong_argument_is_named(
    native: type[_StandIn], tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        inferlite.Server(tmp_path, **arguments)
    assert str(caught.value) == text
    assert native.made == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_the_machine_itself_needs_no_key(native: type[_StandIn], tmp_path: Path, host: str) -> None:
    inferlite.Server(tmp_path, host=host).stop()
    assert len(native.made) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "127.1"])  # noqa: S104
def test_others_need_a_key_or_a_word(native: type[_StandIn], tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="where others may reach the server without a key"):
        inferlite.Server(tmp_path, host=host, admin_keys=["secret"])
    inferlite.Server(tmp_path, host=host, keys=["secret"]).stop()
    inferlite.Server(tmp_path, host=host, insecure=True).stop()
    assert len(native.made) == 2


def test_the_repository_must_be_a_folder(native: type[_StandIn], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, reason in ((file, "is a file, not a folder"), (tmp_path / "none", "does not exist")):
        with pytest.raises(inferlite.ModelLoadError) as caught:
            inferlite.Server(path)
        assert str(caught.value) == f"repository `{path}` {reason}"
    with pytest.raises(TypeError, match=r"^`repository` must be the path of a folder, not None$"):
        inferlite.Server(None)  # type: ignore[arg-type]
    assert native.made == []


def test_a_log_that_cannot_be_written_is_named_before_anything_listens(native: type[_StandIn], tmp_path: Path) -> None:
    log = tmp_path / "none" / "log"
    with pytest.raises(FileNotFoundError) as caught:
        inferlite.Server(tmp_path, access_log="text", access_log_path=log)
    assert caught.value.filename == str(log)
    assert native.made == []


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.EADDRINUSE, OSError, "address already in use"),
        (errno.EACCES, PermissionError, "permission denied"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(
    native: type[_StandIn], tmp_path: Path, number: int, kind: type[OSError], reason: str
) -> None:
    native.refusal = OSError(number, os.strerror(number))
    with pytest.raises(kind) as caught:
        inferlite.Server(tmp_path, host="::1", port=80)
    assert caught.value.strerror == f"cannot listen on [::1]:80: {reason}"
    assert caught.value.errno == number


def test_a_failure_without_a_number_is_told_without_one(native: type[_StandIn], tmp_path: Path) -> None:
    native.refusal = OSError("the server panicked: It does not say why")
    with pytest.raises(OSError, match="panicked") as caught:
        inferlite.Server(tmp_path)
    assert str(caught.value) == "cannot listen on 127.0.0.1:0: the server panicked: it does not say why"


# Where it is


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4242"),
        ("::1", "http://[::1]:4242"),
        ("0.0.0.0", "http://127.0.0.1:4242"),  # noqa: S104 - nothing listens
        ("::", "http://[::1]:4242"),
    ],
)
def test_the_url_leads_to_it_from_this_machine(native: type[_StandIn], tmp_path: Path, host: str, url: str) -> None:
    with inferlite.Server(tmp_path, host=host, insecure=True) as server:
        assert (server.host, server.port, server.url) == (host, 4242, url)
        assert repr(server) == f"<inferlite.Server: {url}>"
    assert repr(server) == f"<inferlite.Server: {url}, stopped>"
    assert len(native.made) == 1


# Waiting, asking, stopping


def test_it_waits_until_the_models_are_there(native: type[_StandIn], tmp_path: Path) -> None:
    native.looks = 3
    with inferlite.Server(tmp_path):
        assert native.looks == -1
    native.looks = 1_000_000
    with inferlite.Server(tmp_path, wait=False) as server:
        assert not server.is_ready()
        assert not server.wait_until_ready(timeout=0)
        native.looks = 0
        assert server.wait_until_ready(timeout=10)


def test_whoever_interrupts_the_wait_has_no_server(
    native: type[_StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_server: _StandIn) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(native, "is_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        inferlite.Server(tmp_path)
    assert native.made[0].stops == 1


def test_the_index_is_of_frozen_dataclasses(native: type[_StandIn], tmp_path: Path) -> None:
    native.entries = [("m", "2", "READY", None), ("n", None, "UNAVAILABLE", "it is no model")]
    with inferlite.Server(tmp_path) as server:
        first, second = server.index()
    assert first == inferlite.ServedModel("m", "2", "READY", None)
    assert (second.name, second.version, second.state, second.reason) == ("n", None, "UNAVAILABLE", "it is no model")
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.state = "LOADING"  # type: ignore[misc]


def test_notices_are_passed_on(native: type[_StandIn], tmp_path: Path) -> None:
    with inferlite.Server(tmp_path) as server:
        assert server.notices() == ["a run does not end"]
    assert len(native.made) == 1


def test_changes_are_passed_on_by_name(native: type[_StandIn], tmp_path: Path) -> None:
    with inferlite.Server(tmp_path) as server:
        server.load("a")
        server.unload("b")
        server.rollback("c")
        for change in (server.load, server.unload, server.rollback):
            with pytest.raises(TypeError, match=r"^`name` must be the name of a model, not 1$"):
                change(1)  # type: ignore[arg-type]
    assert native.made[0].asked == [("load", "a"), ("unload", "b"), ("rollback", "c")]


def test_it_stops_where_no_thread_is_to_be_had(
    native: type[_StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError

    server = inferlite.Server(tmp_path)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    server.stop()
    assert native.made[0].stops == 1
    assert repr(server).endswith(", stopped>")


def test_a_server_that_nobody_holds_ends(native: type[_StandIn], tmp_path: Path) -> None:
    inferlite.Server(tmp_path)
    gc.collect()
    assert native.made[0].stops == 1


def test_the_python_back_end_has_no_server(backend: str, tmp_path: Path) -> None:
    if backend == "python":
        with pytest.raises(inferlite.BackendUnavailableError) as caught:
            inferlite.Server(tmp_path)
        assert str(caught.value) == f"`inferlite.Server` is not available: {CAPABILITIES['server'].reason}"
    else:
        with inferlite.Server(tmp_path) as server:
            assert server.index() == []


# The native part


@pytest.fixture
def repository(tmp_path: Path, native_backend: str) -> Path:
    """A folder with the models `double` and `digits`."""
    assert native_backend
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    served.add(folder, "digits", demo.MODEL_PATH, settings="threads = 1")
    return folder


def test_its_answers_are_onnxruntimes(repository: Path) -> None:
    digits = demo.load_samples().pixels[:50]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(demo.MODEL_PATH, options)
    with inferlite.Server(repository) as server:
        for pixels in digits:
            body = {"inputs": [served.tensor("pixels", [1, 64], pixels.tolist())]}
            status, _, content = served.ask(server.url, "POST", "/v2/models/digits/infer", body)
            assert status == 200, content
            outputs = {output["name"]: output for output in json.loads(content)["outputs"]}
            label, probabilities = session.run(None, {"pixels": pixels[None]})
            assert outputs["label"]["data"] == label.tolist()
            given = np.array(outputs["probabilities"]["data"], np.float32)
            assert given.tobytes() == probabilities.tobytes()


def test_it_tells_what_it_serves(repository: Path) -> None:
    served.add(repository, "broken", b"this is no model")
    with inferlite.Server(repository) as server:
        index = {model.name: model for model in server.index()}
        assert {name: model.state for name, model in index.items()} == {
            "broken": "UNAVAILABLE",
            "digits": "READY",
            "double": "READY",
        }
        assert index["digits"] == inferlite.ServedModel("digits", "1", "READY", None)
        assert index["broken"].reason is not None
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]
        assert served.ask(server.url, "GET", "/v2/health/ready")[0] == 200


def test_what_cannot_be_served_for_its_name_or_place_is_in_the_index(repository: Path) -> None:
    served.add(repository, "a b", served.DOUBLE)
    served.replace(repository / "double.onnx", b"")
    (repository / "double" / "01").mkdir()
    with inferlite.Server(repository) as server:
        listed = json.loads(served.ask(server.url, "POST", "/v2/repository/index")[2])
        assert [(entry.name, entry.version, entry.reason) for entry in server.index()] == [
            (entry["name"], entry.get("version"), entry.get("reason")) for entry in listed
        ]
    assert listed == [
        {
            "name": "a b",
            "state": "UNAVAILABLE",
            "reason": (
                f"{repository}/a b: `a b` can be no model's name, which must be of at most 200 letters, digits, `_`, "
                "`-` and `.`, and begin with no `.`: rename it"
            ),
        },
        {"name": "digits", "version": "1", "state": "READY"},
        {"name": "double", "version": "1", "state": "READY"},
        {
            "name": "double",
            "version": "01",
            "state": "UNAVAILABLE",
            "reason": (
                f"{repository}/double/01: `01` is no version, which must be a positive number without leading zeros: "
                "rename it"
            ),
        },
        {
            "name": "double.onnx",
            "state": "UNAVAILABLE",
            "reason": (
                f"{repository}/double.onnx: the folder `double` is the same model, and counts: rename one of them, or "
                "take it away"
            ),
        },
    ]


def test_a_folder_that_is_not_watched_is_looked_at_for_the_index(repository: Path) -> None:
    with inferlite.Server(repository, watch=None) as server:

        def listed() -> list[str]:
            return [entry["name"] for entry in json.loads(served.ask(server.url, "POST", "/v2/repository/index")[2])]

        assert listed() == ["digits", "double"]
        (repository / "a b").mkdir()
        served.add(repository, "later", served.DOUBLE)
        assert [model.name for model in server.index(anew=False)] == ["digits", "double"]
        # What could be served is not loaded, and so not listed, before somebody asks for it.
        assert listed() == ["a b", "digits", "double"]
        server.load("later")
        (repository / "a b").rmdir()
        assert [model.name for model in server.index()] == ["digits", "double", "later"]


@pytest.mark.parametrize("batching", ["", "batching = false\n"])
def test_axes_of_what_is_no_input_are_refused(repository: Path, batching: str) -> None:
    served.add(repository, "named", served.DOUBLE, settings=f"{batching}[batch_axes]\nz = 0")
    with inferlite.Server(repository) as server:
        (reason,) = (model.reason for model in server.index() if model.name == "named")
    assert reason == (
        "`batch_axes.z` in `model.toml` is no input or output of the model, whose inputs are `x` and whose outputs are "
        "`y`"
    )


def test_an_empty_repository_is_served_and_filled(tmp_path: Path, native_backend: str) -> None:
    assert native_backend
    with inferlite.Server(tmp_path, watch=0.05) as server:
        assert server.index() == []
        served.add(tmp_path, "double", served.DOUBLE)
        served.until(lambda: [model.state for model in server.index()] == ["READY"], "the model is served")
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]


def test_what_a_stopped_server_served_is_told_with_the_reason(repository: Path) -> None:
    with inferlite.Server(repository) as server:
        names = sorted({model.name for model in server.index()})
    assert names
    assert server.index() == [
        inferlite.ServedModel(name, None, "UNAVAILABLE", "the repository is closed") for name in names
    ]


def test_a_repository_of_failures_alone_does_not_keep_anybody_waiting(tmp_path: Path, native_backend: str) -> None:
    assert native_backend
    served.add(tmp_path, "broken", b"this is no model")
    with inferlite.Server(tmp_path) as server:
        (model,) = server.index()
        assert (model.name, model.state) == ("broken", "UNAVAILABLE")


def test_a_model_is_loaded_anew_taken_away_and_brought_back(repository: Path) -> None:
    with inferlite.Server(repository, watch=None) as server:
        served.add(repository, "double", served.TRIPLE, version=2)
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]
        server.load("double")
        assert served.double(server.url) == [4.5, 6.0, 9.0, 12.0]
        server.rollback("double")
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]
        server.unload("double")
        assert served.ask(server.url, "POST", "/v2/models/double/infer", served.row(1, 2, 3, 4))[0] in {404, 503}
        server.load("double")
        assert served.double(server.url) in ([3.0, 4.0, 6.0, 8.0], [4.5, 6.0, 9.0, 12.0])
        for change in (server.load, server.unload, server.rollback):
            with pytest.raises(inferlite.ModelLoadError, match="nonsense"):
                change("nonsense")


def test_a_version_that_others_could_not_call_leaves_the_old_one_where_it_is(repository: Path) -> None:
    with inferlite.Server(repository, watch=None) as server:
        served.add(repository, "double", served.OTHER_INPUT, version=2)
        with pytest.raises(inferlite.ModelLoadError, match="x"):
            server.load("double")
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]


def test_the_folder_is_watched(repository: Path) -> None:
    with inferlite.Server(repository, watch=0.05) as server:
        served.add(repository, "double", served.TRIPLE, version=2)
        served.until(lambda: served.double(server.url) == [4.5, 6.0, 9.0, 12.0], "version 2 answers")


def test_a_stopped_server_frees_its_port_and_another_may_have_it(repository: Path) -> None:
    with inferlite.Server(repository) as server:
        port = server.port
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            inferlite.Server(repository, port=port)
        with inferlite.Server(repository) as another:
            assert another.port != port
            assert served.double(another.url) == served.double(server.url)
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        served.ask(server.url, "GET", "/v2")
    with inferlite.Server(repository, port=port) as again:
        assert served.double(again.url) == [3.0, 4.0, 6.0, 8.0]


def test_requests_under_way_end_first(repository: Path) -> None:
    served.add(repository, "counted", served.ROUNDS)
    replies: list[tuple[int, bytes]] = []

    def count(url: str) -> None:
        body = {"inputs": [served.tensor("rounds", [1], [400_000], "INT64"), served.tensor("x", [1], [7.0])]}
        status, _, content = served.ask(url, "POST", "/v2/models/counted/infer", body)
        replies.append((status, content))

    with inferlite.Server(repository) as server:
        thread = threading.Thread(target=count, args=(server.url,))
        thread.start()
        served.until(lambda: _pending(server.url, "counted"), "the request is under way")
    thread.join(served.PATIENCE)
    ((status, content),) = replies
    assert (status, json.loads(content)["outputs"][0]["data"]) == (200, [7.0])


def test_the_drain_has_an_end(repository: Path) -> None:
    served.add(repository, "counted", served.ROUNDS)
    ended: list[object] = []

    def count(url: str) -> None:
        body = {"inputs": [served.tensor("rounds", [1], [10**9], "INT64"), served.tensor("x", [1], [7.0])]}
        try:
            ended.append(served.ask(url, "POST", "/v2/models/counted/infer", body)[0])
        except OSError as error:
            ended.append(error)

    with inferlite.Server(repository, drain_timeout=1) as server:
        thread = threading.Thread(target=count, args=(server.url,))
        thread.start()
        served.until(lambda: _pending(server.url, "counted"), "the request is under way")
    thread.join(served.PATIENCE)
    assert not thread.is_alive()
    assert ended != [200]


def _pending(url: str, model: str) -> bool:
    page = served.ask(url, "GET", "/metrics")[2].decode()
    return any(
        line.startswith("nv_inference_pending_request_count{") and f'"{model}"' in line and not line.endswith(" 0")
        for line in page.splitlines()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads threads from /proc")
def test_no_thread_is_left(repository: Path) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    with inferlite.Server(repository) as server:
        served.double(server.url)
    before = threads()
    for _ in range(3):
        with inferlite.Server(repository) as server:
            assert threads() > before
            served.double(server.url)
    served.until(lambda: threads() <= before, "the threads of the server have ended")


@pytest.mark.skipif(sys.platform != "linux", reason="reads threads from /proc")
def test_a_server_that_cannot_start_leaves_no_thread(repository: Path, tmp_path: Path) -> None:
    def threads() -> list[str]:
        return [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]

    def servers() -> list[str]:
        return [name for name in threads() if name.startswith(("inferlite", "actix"))]

    log = tmp_path / "log"
    with inferlite.Server(repository) as server:
        before, named = len(threads()), len(servers())
        for _ in range(5):
            with pytest.raises(OSError, match="address already in use"):
                inferlite.Server(repository, port=server.port, access_log="text", access_log_path=log)
            assert (len(threads()), len(servers())) == (before, named)
    served.until(lambda: servers() == [], "the threads of the server have ended")


def test_keys_are_asked_for(repository: Path) -> None:
    def status(url: str, path: str, key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        method = "POST" if path.endswith(("infer", "index")) else "GET"
        return served.ask(url, method, path, served.row(1, 2, 3, 4) if method == "POST" else None, headers)[0]

    with inferlite.Server(repository, keys=["one", "two"], admin_keys=["three"]) as server:
        infer, index, live = "/v2/models/double/infer", "/v2/repository/index", "/v2/health/live"
        assert [status(server.url, infer, key) for key in (None, "none", "one", "two", "three")] == [
            *[401] * 2,
            *[200] * 3,
        ]
        assert [status(server.url, index, key) for key in (None, "one", "three")] == [401, 401, 200]
        assert [status(server.url, live, key) for key in (None, "none")] == [200, 200]
        assert served.double(server.url, headers={"X-API-Key": "one"}) == [3.0, 4.0, 6.0, 8.0]
    with inferlite.Server(repository, keys=["one"]) as server:
        assert status(server.url, index, "one") == 401


def test_bodies_have_a_limit(repository: Path) -> None:
    with inferlite.Server(repository, max_body="1KB") as server:
        body = json.dumps(served.row(1, 2, 3, 4)).encode()
        assert served.ask(server.url, "POST", "/v2/models/double/infer", body.ljust(1000))[0] == 200
        reply = served.ask(server.url, "POST", "/v2/models/double/infer", body.ljust(1001))
        assert served.error(reply) == (413, "the body is larger than 1000 bytes")


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_request_has_its_line(repository: Path, tmp_path: Path, form: Any) -> None:
    log = tmp_path / "log"
    with inferlite.Server(repository, access_log=form, access_log_path=log) as server:
        served.double(server.url)
        assert served.ask(server.url, "GET", "/nowhere")[0] == 404
    first, second = log.read_text(encoding="utf-8").splitlines()
    if form == "json":
        assert [(line["method"], line["path"], line["status"]) for line in map(json.loads, (first, second))] == [
            ("POST", "/v2/models/double/infer", 200),
            ("GET", "/nowhere", 404),
        ]
    else:
        assert '"POST" "/v2/models/double/infer" 200' in first
        assert '"GET" "/nowhere" 404' in second


def test_it_listens_on_the_other_protocol_too(repository: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with inferlite.Server(repository, host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert served.double(server.url) == [3.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda url: served.get(url, "/v2/models/double")["inputs"], id="metadata"),
        pytest.param(lambda url: served.get(url, "/openapi.json")["paths"], id="description"),
    ],
)
def test_it_describes_itself(repository: Path, make: Callable[[str], Any]) -> None:
    with inferlite.Server(repository) as server:
        assert make(server.url)
