"""What the benchmark of the server does around its figures; nothing here asserts a speed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# The benchmarks are no part of the installed package.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benches import forms, load, servers, serving, subject  # noqa: E402
from benches.harness import Effort, NotMeasurableError, WrongAnswerError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW = np.array([[0.1, -2.0, 3.5, 1e-7]], np.float32)
PEERS = (servers.FASTAPI, servers.MOSEC, servers.TRITON, servers.BARE)
SMALL = serving.served(serving.SMALLEST)


@contextmanager
def answering(reply: Callable[[str, bytes], tuple[int, bytes]]) -> Iterator[int]:
    """Listen on a port that is free, and reply to each path and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = reply(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            del arguments

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128

    with Listener((servers.HOST, 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield listener.server_address[1]
        finally:
            listener.shutdown()
            thread.join()


def right_answer(path: str, body: bytes) -> tuple[int, bytes]:
    assert path == "/predict"
    x = np.array(json.loads(body)["inputs"], np.float32)
    outputs = subject.peer_session(SMALL.content).run(None, {SMALL.name: x})[0]
    return 200, json.dumps({"outputs": outputs.tolist()}).encode()


# forms


def test_a_row_is_written_with_as_few_digits_as_its_type_needs() -> None:
    request = forms.PLAIN.write("x", ROW)
    assert (request.path, request.body) == ("/predict", b'{"inputs":[[0.1,-2.0,3.5,1e-07]]}')
    assert np.array_equal(np.array(json.loads(request.body)["inputs"], np.float32), ROW)


def test_the_protocol_is_written_and_read_in_json_and_in_binary() -> None:
    request = forms.PROTOCOL.write("x", ROW)
    (tensor,) = json.loads(request.body)["inputs"]
    assert tensor == {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.1, -2.0, 3.5, 1e-07]}
    reply = json.dumps({"outputs": [tensor]}).encode()
    assert np.array_equal(forms.PROTOCOL.read({}, reply), ROW)

    request = forms.BINARY.write("x", ROW)
    length = int(request.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(request.body[:length])["inputs"]
    assert tensor["parameters"] == {"binary_data_size": 16}
    assert request.body[length:] == ROW.tobytes()
    head = json.dumps({"outputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert np.array_equal(forms.BINARY.read(headers, head + ROW.tobytes()), ROW)


# load


def test_what_wrk_prints_becomes_seconds() -> None:
    printed = 'Running 1s test\n{"requests": 500, "duration": 1000000, "slow": 4000, "refused": 0, "lost": 0}\n'
    assert load.read(printed) == load.Traffic(0.002, 0.004)


@pytest.mark.parametrize(("requests", "refused", "lost"), [(5, 1, 0), (5, 0, 2), (0, 0, 0)])
def test_load_of_which_a_request_fails_is_no_figure(requests: int, refused: int, lost: int) -> None:
    told = {"requests": requests, "duration": 1, "slow": 1, "refused": refused, "lost": lost}
    with pytest.raises(WrongAnswerError) as caught:
        load.read(json.dumps(told))
    assert str(caught.value) == (f"of {requests} requests under load {refused} were refused and {lost} got no answer")


def test_a_machine_without_wrk_measures_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(NotMeasurableError, match=r"^wrk is not installed: it is a package of that name in Debian"):
        load.press("http://127.0.0.1:1", forms.PLAIN.write("x", ROW), connections=1, seconds=1, core=0)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_the_request_as_it_is() -> None:
    seen: set[tuple[str, bytes]] = set()

    def reply(path: str, body: bytes) -> tuple[int, bytes]:
        seen.add((path, body))
        return 200, b"{}"

    request = forms.BINARY.write("x", ROW)
    with answering(reply) as port:
        traffic = load.press(f"http://127.0.0.1:{port}", request, connections=2, seconds=1, core=servers.cores()[1])
    assert seen == {(request.path, request.body)}
    assert 0 < traffic.seconds_per_request < 1
    with answering(lambda _path, _body: (400, b"no")) as port, pytest.raises(WrongAnswerError, match="were refused"):
        load.press(f"http://127.0.0.1:{port}", request, connections=2, seconds=1, core=servers.cores()[1])


# servers


def plain_server(program: str, is_ready: Callable[[int], bool]) -> servers.Server:
    return servers.Server("an example", lambda port: [sys.executable, "-c", program, str(port)], is_ready)


LISTEN = """
import http.server, os, sys
print(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_server_answers_inside_and_has_ended_afterwards() -> None:
    with plain_server(LISTEN, servers.health("/")) as server:
        assert server.seconds_to_ready > 0
        assert servers.health("/")(server.port)
        assert not servers.health("/nothing")(server.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((servers.HOST, server.port))


def test_a_server_that_is_asleep_answers_afterwards() -> None:
    with plain_server(LISTEN, servers.health("/")) as server:
        with server.asleep(), socket.create_connection((servers.HOST, server.port)) as waiting:
            waiting.settimeout(0.1)
            waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(TimeoutError):
                waiting.recv(1)
        assert servers.health("/")(server.port)


def test_a_server_that_ends_at_its_start_says_why() -> None:
    server = plain_server("raise SystemExit('no model here')", servers.health("/"))
    with pytest.raises(WrongAnswerError) as caught, server:
        pass
    assert str(caught.value) == "an example has ended at its start with 1: no model here"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")
def test_what_is_started_on_a_core_stays_there_and_the_starter_does_not() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with servers.pinned(core):
        assert os.sched_getaffinity(0) == {core}
    with servers.pinned(None):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.folder)
def test_a_peer_that_is_not_here_names_the_command(
    peer: servers.Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "PEERS", tmp_path)
    with pytest.raises(NotMeasurableError) as caught:
        peer.server(tmp_path / "model.onnx", core=None)
    assert str(caught.value) == f"{peer.name} is not installed: `make peers` does that"


@pytest.mark.parametrize("name", ["python", "onnxruntime"])
def test_who_has_no_server_says_so(name: str) -> None:
    for case in serving.CASES:
        if case.peer not in {peer.name for peer in PEERS}:
            with pytest.raises(NotMeasurableError):
                case.measure(subject.choose(name), Effort(smoke=True))


# serving


def test_no_two_connections_ask_the_same() -> None:
    assert len({row.tobytes() for row in SMALL.rows}) == len(SMALL.rows) == serving.CONNECTIONS


def test_right_answers_pass_and_wrong_ones_are_never_timed() -> None:
    with answering(right_answer) as port:
        serving.check(port, forms.PLAIN, SMALL, "an example")

    def zeros(path: str, body: bytes) -> tuple[int, bytes]:
        _, content = right_answer(path, body)
        return 200, json.dumps({"outputs": np.zeros_like(json.loads(content)["outputs"]).tolist()}).encode()

    with answering(zeros) as port, pytest.raises(WrongAnswerError) as caught:
        serving.check(port, forms.PLAIN, SMALL, "an example")
    assert str(caught.value) == "an example: an answer differs from onnxruntime's by more than rounding"

    with answering(lambda _path, _body: (503, b"full")) as port, pytest.raises(WrongAnswerError) as caught:
        serving.check(port, forms.PLAIN, SMALL, "an example")
    assert str(caught.value) == "a request to /predict got 503: b'full'"


def statistics(hits: int, misses: int) -> Callable[[str, bytes], tuple[int, bytes]]:
    counts: dict[str, Any] = {"cache_hit": {"count": hits, "ns": 0}, "cache_miss": {"count": misses, "ns": 0}}
    content = json.dumps({"model_stats": [{"name": "model", "inference_stats": counts}]}).encode()
    return lambda _path, _body: (200, content)


def test_hits_that_were_none_are_no_figure() -> None:
    with answering(statistics(100_000, 16)) as port:
        serving.require_hits(port, 16)
    for hits, misses in ((0, 0), (0, 16), (100_000, 99_000)):
        with answering(statistics(hits, misses)) as port, pytest.raises(WrongAnswerError, match="were kept ones and"):
            serving.require_hits(port, 16)
