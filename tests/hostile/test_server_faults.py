"""A server among clients that are slow, lie or vanish, with models, folders and disks that fail."""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import make_models
import pytest

import child
import inferlite
import served
from shell_server import ShellServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are those of Linux")

INFER = "/v2/models/double/infer"
INDEX = "/v2/repository/index"
DOUBLED = [3.0, 4.0, 6.0, 8.0]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the models `double` and `counted`, of which the second takes as long as it is told."""
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    served.add(folder, "counted", served.ROUNDS)
    return folder


@pytest.fixture
def server(repository: Path, native_backend: str) -> Iterator[inferlite.Server]:
    """A server with little patience."""
    assert native_backend
    with inferlite.Server(
        repository, header_timeout=1, body_timeout=1, idle_timeout=1, drain_timeout=1, max_body="1MB", watch=0.05
    ) as server:
        yield server


def connect(server: inferlite.Server) -> socket.socket:
    """A connection that gives up after a while."""
    return socket.create_connection((server.host, server.port), timeout=served.PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks)


def status_of(reply: bytes) -> int:
    """The status of the first reply."""
    assert reply.startswith(b"HTTP/1.1 "), reply[:80]
    return int(reply[9:12])


def request(body: bytes, *, length: int | None = None, path: str = INFER, extra: str = "") -> bytes:
    """A request as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body) if length is None else length}\r\n{extra}\r\n"
    )
    return head.encode() + body


BODY = json.dumps(served.row(1.5, 2, 3, 4)).encode()


# Clients that are slow


def test_a_head_that_drips_is_cut_off(server: inferlite.Server) -> None:
    with connect(server) as slow:
        slow.sendall(b"POST /v2/models/double/infer HTTP/1.1\r\nHost: h\r\nX-Slow: ")
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.1):
                    slow.sendall(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            reply = read_all(slow)
        finally:
            ended.set()
            thread.join()
    assert not reply or status_of(reply) == 408
    assert served.double(server.url) == DOUBLED


def test_a_body_that_drips_is_cut_off(server: inferlite.Server) -> None:
    with connect(server) as slow:
        slow.sendall(request(BODY[:10], length=len(BODY)))
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                for number in range(10, len(BODY) - 1):
                    if ended.wait(0.1):
                        return
                    slow.sendall(BODY[number : number + 1])

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            reply = slow.recv(65_536)
        finally:
            ended.set()
            thread.join()
    assert status_of(reply) == 408
    assert served.double(server.url) == DOUBLED


def test_fifty_slow_clients_hold_up_nobody(server: inferlite.Server) -> None:
    slow = [connect(server) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(request(BODY[:-1], length=len(BODY)))
        for _ in range(20):
            assert served.double(server.url) == DOUBLED
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.timeout(240)
def test_two_thousand_idle_connections_hold_up_nobody(repository: Path, native_backend: str) -> None:
    assert native_backend
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * 2_000 + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process have {hard} files, and {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    idle: list[socket.socket] = []
    try:
        with inferlite.Server(repository, idle_timeout=60) as server:
            for number in range(2_000):
                connection = connect(server)
                idle.append(connection)
                # Half of them have asked something before.
                if number % 2:
                    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
            for connection in idle[1::2]:
                assert status_of(connection.recv(4096)) == 200
            for _ in range(50):
                assert served.double(server.url) == DOUBLED
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_end(server: inferlite.Server) -> None:
    with connect(server) as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        # Ends when the server closes, or else by the time limit of the socket.
        assert status_of(read_all(idle)) == 200


def test_more_connections_than_allowed_wait_and_are_served(repository: Path, native_backend: str) -> None:
    assert native_backend
    with inferlite.Server(repository, workers=1, max_connections=2, header_timeout=1) as server:
        held = [connect(server) for _ in range(4)]
        try:
            # Those that are silent end, and make room.
            assert served.double(server.url) == DOUBLED
        finally:
            for connection in held:
                connection.close()


@pytest.mark.parametrize("start", ["POST /predict", "POST /nope", "GET /v2", "GET /v2/models/double"])
def test_a_body_that_never_ends_holds_no_connection(start: str, repository: Path, native_backend: str) -> None:
    assert native_backend
    begun = f"{start} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nab".encode()
    limits = {"workers": 1, "max_connections": 2, "body_timeout": 0.5, "header_timeout": 0.5, "drain_timeout": 5.0}
    with inferlite.Server(repository, **limits) as server:
        held = [connect(server) for _ in range(2)]
        try:
            for connection in held:
                connection.sendall(begun)
            assert served.double(server.url) == DOUBLED
        finally:
            for connection in held:
                connection.close()


def test_a_pipe_in_place_of_settings_stops_nobody(repository: Path, native_backend: str) -> None:
    assert native_backend
    served.add(repository, "piped", make_models.build("double"))
    os.mkfifo(repository / "piped" / "model.toml")
    with inferlite.Server(repository) as server:
        assert served.double(server.url) == DOUBLED
        reasons = {model.name: model.reason for model in server.index()}
    assert reasons["double"] is None
    assert str(reasons["piped"]).endswith("model.toml: it is no file")


def test_more_requests_than_allowed_are_told_to_come_back(repository: Path, native_backend: str) -> None:
    assert native_backend
    with inferlite.Server(repository, max_requests=1, drain_timeout=1) as server, connect(server) as slow:
        slow.sendall(request(BODY[:-1], length=len(BODY)))

        def is_full() -> bool:
            return b"\ninferlite_requests_under_way 1\n" in served.ask(server.url, "GET", "/metrics")[2]

        served.until(is_full, "the server is full")
        reply = served.ask(server.url, "POST", INFER, BODY)
        assert reply[0] == 503
        assert reply[1]["retry-after"].isdecimal()
        slow.sendall(BODY[-1:])
        assert status_of(slow.recv(65_536)) == 200
        assert served.double(server.url) == DOUBLED


# Clients that vanish


def test_a_half_closed_connection_gets_its_answer(server: inferlite.Server) -> None:
    with connect(server) as half:
        half.sendall(request(BODY))
        half.shutdown(socket.SHUT_WR)
        reply = read_all(half)
    # Whoever closes its side may be taken for gone; whoever gets an answer gets all of it.
    assert not reply or (status_of(reply) == 200 and reply.endswith(b"}"))
    assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize("sent", [0, 1, 20, len(request(BODY)) - 1, len(request(BODY))])
def test_clients_that_go_at_any_point_leave_nothing_behind(sent: int, server: inferlite.Server) -> None:
    for _ in range(20):
        gone = connect(server)
        gone.sendall(request(BODY)[:sent])
        # A reset instead of an orderly end.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    assert served.double(server.url) == DOUBLED
    served.until(lambda: _gauge(server.url, "inferlite_requests_under_way") == 0, "nothing is under way")


def test_a_run_that_nobody_waits_for_ends(server: inferlite.Server) -> None:
    with connect(server) as gone:
        gone.sendall(request(_count(10**9), path="/v2/models/counted/infer"))
        served.until(lambda: _pending(server.url) == 1, "the run is under way")
        # An orderly end could be that of a client that still listens.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    served.until(lambda: _pending(server.url) == 0, "the run has ended")


def _count(rounds: int, **parameters: Any) -> bytes:
    inputs = [served.tensor("rounds", [1], [rounds], "INT64"), served.tensor("x", [1], [7.0])]
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def _pending(url: str) -> int:
    return _gauge(url, 'nv_inference_pending_request_count{model="counted",version="1"}')


def _gauge(url: str, name: str) -> int:
    page = served.ask(url, "GET", "/metrics")[2].decode()
    (value,) = (line.removeprefix(f"{name} ") for line in page.splitlines() if line.startswith(f"{name} "))
    return int(value)


# Clients that lie


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request(BODY, length=len(BODY) + 5), id="longer than it is"),
        pytest.param(request(BODY, length=2**63), id="longer than anything"),
        pytest.param(request(BODY, length=-1), id="negative"),
        pytest.param(request(BODY).replace(b"Content-Length: ", b"Content-Length: x"), id="no number"),
        pytest.param(request(BODY, extra="Content-Length: 3\r\n"), id="two lengths"),
        pytest.param(request(BODY, extra="Transfer-Encoding: chunked\r\n"), id="length and chunks"),
        pytest.param(
            b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            id="bad chunks",
        ),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /v2" + b"/a" * 100_000 + b" HTTP/1.1\r\n\r\n", id="a path without end"),
        pytest.param(b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 100_000 + b"\r\n", id="headers without end"),
        pytest.param(b"\x00" * 1000, id="zeros"),
    ],
)
def test_what_is_no_request_is_refused_and_hurts_nobody(sent: bytes, server: inferlite.Server) -> None:
    with connect(server) as liar:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            liar.sendall(sent)
        with contextlib.suppress(OSError):
            liar.shutdown(socket.SHUT_WR)
        reply = read_all(liar)
    assert not reply or 400 <= status_of(reply) < 500, reply[:200]
    assert served.double(server.url) == DOUBLED


def test_a_shorter_length_cuts_the_body_off(server: inferlite.Server) -> None:
    with connect(server) as liar:
        liar.sendall(request(BODY, length=len(BODY) - 5))
        reply = read_all(liar)
    assert status_of(reply) == 400
    assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize(
    ("json_length", "binary_data_size", "content"),
    [
        ("0x10", 16, b"\0" * 16),
        ("-1", 16, b"\0" * 16),
        (str(2**64), 16, b"\0" * 16),
        ("100000", 16, b"\0" * 16),
        ("3", 16, b"\0" * 16),
        (None, 17, b"\0" * 16),
        (None, 15, b"\0" * 16),
        (None, 16, b"\0" * 17),
        (None, -16, b"\0" * 16),
        (None, 2**70, b"\0" * 16),
        (None, "16", b"\0" * 16),
    ],
)
def test_lies_about_the_parts_of_a_body_are_named(
    json_length: str | None, binary_data_size: Any, content: bytes, server: inferlite.Server
) -> None:
    spec = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": binary_data_size}}
    head = json.dumps({"inputs": [spec]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)) if json_length is None else json_length}
    status, text = served.error(served.ask(server.url, "POST", INFER, head + content, headers))
    assert status == 400
    assert text
    assert served.double(server.url) == DOUBLED


def _infer(data: str, *, shape: str = "[1,4]", more: str = "") -> bytes:
    tensor = f'{{"name":"x","shape":{shape},"datatype":"FP32","data":{data}{more}}}'
    return f'{{"inputs":[{tensor}]}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"\xff\xfe{}", id="no UTF-8"),
        pytest.param(BODY[:-1], id="cut off"),
        pytest.param(BODY + b"x", id="more behind it"),
        pytest.param(b"[" * 200_000, id="deep and open"),
        pytest.param(_infer("[" * 100_000 + "1" + "]" * 100_000), id="deep"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="deep objects"),
        pytest.param(_infer("[1,2,3]"), id="short"),
        pytest.param(_infer("[1,2,3,4,5]"), id="long"),
        pytest.param(_infer("[1,2,3,1e400]"), id="too large a number"),
        pytest.param(_infer("[1,2,3,NaN]"), id="NaN"),
        pytest.param(_infer("[1,2,3,Infinity]"), id="Infinity"),
        pytest.param(_infer("[1,2,3,--4]"), id="no number"),
        pytest.param(_infer("[1,2,3,01]"), id="a leading zero"),
        pytest.param(_infer('[1,2,3,"4"]'), id="text"),
        pytest.param(_infer("[1,2,3,null]"), id="null among numbers"),
        pytest.param(_infer("[1,2,3,4]", shape="[1,-4]"), id="a negative extent"),
        pytest.param(_infer("[1,2,3,4]", shape="[1.0,4]"), id="an extent that is no integer"),
        pytest.param(_infer("[1,2,3,4]", shape=f"[{2**62},4]"), id="an overflowing shape"),
        pytest.param(_infer("[1,2,3,4]", shape=f"[{2**70},4]"), id="an extent beyond 64 bits"),
        pytest.param(_infer("[]", shape=f"[0,{2**62}]"), id="an empty tensor of a huge extent"),
        pytest.param(_infer("[1,2,3,4]", shape=str([1] * 10_000)), id="ten thousand axes"),
        pytest.param(_infer("[1,2,3,4]", more=',"data":[5,6,7,8]'), id="data twice"),
        pytest.param(b'{"inputs":[],' + BODY[1:], id="inputs twice"),
        pytest.param(
            json.dumps({"inputs": [served.tensor("x", [1, 4], [1, 2, 3, 4])] * 2}).encode(), id="an input twice"
        ),
        pytest.param(json.dumps({"inputs": [served.tensor("x", [1, 4], [1] * 4)] * 5_000}).encode(), id="thousands"),
        pytest.param(json.dumps(served.row(1, 2, 3, 4, id=7)).encode(), id="an id that is no text"),
    ],
)
def test_a_malformed_body_is_400_with_a_text(body: bytes, server: inferlite.Server) -> None:
    status, text = served.error(served.ask(server.url, "POST", INFER, body))
    assert status == 400
    assert text
    assert "panic" not in text
    assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize("path", ["/predict", "/v1/models/double:predict"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 200_000,
        b'{"model": "double", "inputs": ' + b"[" * 100_000,
        b'{"model": "double", "inputs": [[1,2,3]]}',
        b'{"model": "double", "inputs": [[1,2,3,4],[1,2,3]]}',
        b'{"model": "double", "inputs": {"z": [[1,2,3,4]]}}',
        b'{"instances": [[1,2,3,4], 5]}',
    ],
    ids=range(8),
)
def test_the_plain_forms_refuse_as_well(path: str, body: bytes, server: inferlite.Server) -> None:
    status, text = served.error(served.ask(server.url, "POST", path, body))
    assert status == 400
    assert text
    assert served.double(server.url) == DOUBLED


def test_a_body_that_unpacks_to_gigabytes_is_too_large(server: inferlite.Server) -> None:
    packed = gzip.compress(b" " * 400_000_000, compresslevel=9)
    assert len(packed) < 500_000
    for path in (INFER, "/predict"):
        reply = served.ask(server.url, "POST", path, packed, {"Content-Encoding": "gzip"})
        assert served.error(reply)[0] == 413
    assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_cannot_be_unpacked_is_400(coding: str, server: inferlite.Server) -> None:
    for body in (b"", b"no such thing", gzip.compress(BODY)[:-9]):
        assert served.ask(server.url, "POST", INFER, body, {"Content-Encoding": coding})[0] == 400
    assert served.error(served.ask(server.url, "POST", INFER, BODY, {"Content-Encoding": "br"}))[0] == 415
    assert served.double(server.url) == DOUBLED


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2fmodels", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a%00b", "%ff", ".hidden", "double%2f1"]
)
def test_names_do_not_lead_out_of_the_folder(name: str, server: inferlite.Server) -> None:
    for method, path in (
        ("GET", f"/v2/models/{name}"),
        ("GET", f"/v2/models/double/versions/{name}"),
        ("POST", f"/v2/repository/models/{name}/load"),
        ("POST", f"/v2/repository/models/{name}/unload"),
    ):
        status, text = served.error(served.ask(server.url, method, path))
        assert status in {400, 404}, (path, text)
    assert served.double(server.url) == DOUBLED


# Models that fail


def test_a_model_that_never_returns_frees_its_client_at_the_deadline(server: inferlite.Server) -> None:
    reply = served.ask(server.url, "POST", "/v2/models/counted/infer", _count(10**9, timeout=300_000))
    status, text = served.error(reply)
    assert status == 504
    assert text
    served.until(lambda: _pending(server.url) == 0, "the request has ended")
    overdue = 'inferlite_overdue_runs{model="counted",version="1"}'
    served.until(lambda: _gauge(server.url, overdue) == 0, "the run has ended")
    assert served.double(server.url) == DOUBLED


def test_a_deadline_of_the_models_own_counts(repository: Path, native_backend: str) -> None:
    assert native_backend
    graph = served.ROUNDS.replace("float[1]", "float[n]")
    settings = "rows_independent = true\n[batching]\ntimeout = 0.3\n"
    served.add(repository, "slow", graph, settings=settings)
    with inferlite.Server(repository, drain_timeout=1) as server:
        status, text = served.error(served.ask(server.url, "POST", "/v2/models/slow/infer", _count(10**9)))
        assert (status, bool(text)) == (504, True)
        assert served.ask(server.url, "POST", "/v2/models/slow/infer", _count(3))[0] == 200


def test_a_model_that_fails_says_so_and_goes_on(server: inferlite.Server, repository: Path) -> None:
    served.add(repository, "failing", make_models.build("failing"))
    served.until(
        lambda: "failing" in {model.name for model in server.index() if model.state == "READY"}, "it is served"
    )

    def multiply(columns: int) -> tuple[int, bytes]:
        inputs = [served.tensor("a", [1, 2], [1, 2]), served.tensor("b", [columns, 1], [1] * columns)]
        status, _, content = served.ask(server.url, "POST", "/v2/models/failing/infer", {"inputs": inputs})
        return status, content

    assert multiply(2)[0] == 200
    status, content = multiply(3)
    assert status in {400, 500}
    assert "mm" in json.loads(content)["error"]
    assert multiply(2)[0] == 200


def test_a_limit_on_memory_leaves_other_models_alone(repository: Path, native_environment: dict[str, str]) -> None:
    served.add(repository, "expand", make_models.build("expand"))
    code = f"""
    import json, resource
    import inferlite, served
    with inferlite.Server({str(repository)!r}, workers=1) as server:
        served.double(server.url)
        resident = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (resident + 600_000_000, resource.RLIM_INFINITY))
        inputs = [served.tensor("x", [1], [1.0]), served.tensor("shape", [2], [50_000, 50_000], "INT64")]
        for _ in range(3):
            status, _, content = served.ask(server.url, "POST", "/v2/models/expand/infer", {{"inputs": inputs}})
            assert status in (500, 503), (status, content[:200])
            assert json.loads(content)["error"]
            assert served.double(server.url) == {DOUBLED}
    print("went on")
    """
    assert child.run(code, native_environment, limit=90) == "went on\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes a user without other threads")
def test_without_room_for_threads_it_does_not_start_and_leaves_none(
    tmp_path: Path, native_environment: dict[str, str]
) -> None:
    code = f"""
    import os, resource
    import inferlite, served
    def threads():
        return len(os.listdir("/proc/self/task"))
    def start():
        return inferlite.Server(".", workers=2, watch=None, access_log="text", wait=False)
    os.chdir({str(tmp_path)!r})
    os.chmod(".", 0o755)
    before = threads()
    # What is imported late may not be readable for the other user.
    with start() as server:
        served.get(server.url, "/v2/health/live")
    served.until(lambda: threads() == before, "the first server has ended")
    # Root's threads are not limited; this user has no other ones.
    os.setuid(20_000 + os.getpid() % 40_000)
    refused = []
    for most in range(before, before + 20):
        resource.setrlimit(resource.RLIMIT_NPROC, (most, before + 20))
        try:
            server = start()
        except OSError as error:
            refused.append(str(error))
            served.until(lambda: threads() == before, "no thread is left")
        else:
            with server:
                served.get(server.url, "/v2/health/live")
            served.until(lambda: threads() == before, "the last server has ended")
            break
    print(*refused, sep="\\n")
    """
    refused = child.run(code, native_environment).splitlines()
    assert all("resource temporarily unavailable" in text for text in refused), refused
    # One for each thread: the log's, the server's, two workers', the one that accepts, the models'.
    assert len(refused) == 6


# Folders and disks that fail


def test_a_folder_that_is_deleted_goes_on_being_served_or_is_taken_away(
    server: inferlite.Server, repository: Path
) -> None:
    assert served.double(server.url) == DOUBLED
    moved = repository.with_name("moved")
    repository.rename(moved)
    # A repository that cannot be read is a fault, and no wish to serve nothing.
    looked = threading.Event()
    for _ in range(40):
        assert served.double(server.url) == DOUBLED
        looked.wait(0.02)
    with pytest.raises(inferlite.ModelLoadError):
        server.load("double")
    assert served.double(server.url) == DOUBLED
    moved.rename(repository)
    server.load("double")
    assert served.double(server.url) == DOUBLED
    shutil.rmtree(repository)
    assert served.ask(server.url, "GET", "/v2/health/live")[0] == 200


def test_a_folder_that_is_emptied_goes_on_being_served(server: inferlite.Server, repository: Path) -> None:
    for folder in list(repository.iterdir()):
        shutil.rmtree(folder)
    reason = f"the repository `{repository}` holds no model any more, so that what serves goes on: unload what is to go"
    served.until(lambda: [model.reason for model in server.index()] == [reason] * 2, "it is noticed")
    assert served.double(server.url) == DOUBLED
    assert {model.state for model in server.index()} == {"READY"}
    server.unload("counted")
    # One that comes back takes nothing from one that does not.
    served.add(repository, "other", served.TRIPLE)
    served.until(lambda: any(model.name == "other" for model in server.index()), "another one is served")
    assert served.double(server.url) == DOUBLED
    served.add(repository, "double", served.DOUBLE)
    served.until(lambda: all(model.reason is None for model in server.index()), "all is well again")
    shutil.rmtree(repository / "double")
    served.until(lambda: [model.name for model in server.index()] == ["other"], "a single model is taken away")


@pytest.mark.timeout(120)
def test_a_load_that_never_returns_holds_up_no_other_model(
    repository: Path, native_environment: dict[str, str]
) -> None:
    arguments = ("--drain-timeout", "1")
    with ShellServer(repository, *arguments, environment=native_environment) as server:
        settings = "[[warmup]]\ninputs.x = { shape = [1] }\n"
        served.add(repository, "endless", make_models.build("endless"), settings=settings)

        def index() -> dict[str, dict[str, str]]:
            return {entry["name"]: entry for entry in json.loads(served.ask(server.url, "POST", INDEX)[2])}

        served.until(lambda: "has been loading for" in index().get("endless", {}).get("reason", ""), "it is loading")
        assert index()["endless"]["state"] == "LOADING"
        served.add(repository, "double", served.TRIPLE, version=2)
        served.add(repository, "new", served.DOUBLE)
        served.until(lambda: served.double(server.url) == [4.5, 6.0, 9.0, 12.0], "version 2 answers")
        served.until(lambda: index().get("new", {}).get("state") == "READY", "another model is served")
        assert index()["endless"]["state"] == "LOADING"
        assert served.ask(server.url, "GET", "/v2/health/ready")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(served.PATIENCE) == 0


def test_a_half_written_model_is_never_loaded(server: inferlite.Server, repository: Path) -> None:
    content = make_models.parse(served.TRIPLE)
    path = repository / "double" / "2" / "model.onnx"
    path.parent.mkdir()
    pause = threading.Event()
    with path.open("wb") as file:
        for position in range(0, len(content), max(1, len(content) // 20)):
            file.write(content[position : position + max(1, len(content) // 20)])
            file.flush()
            assert served.double(server.url) == DOUBLED
            pause.wait(0.03)
    served.until(lambda: served.double(server.url) == [4.5, 6.0, 9.0, 12.0], "version 2 answers")
    assert all(model.reason is None for model in server.index() if model.name == "double")


def test_killed_while_loading_it_starts_again(repository: Path, native_environment: dict[str, str]) -> None:
    # A warm-up that takes minutes keeps the model loading.
    settings = "[[warmup]]\ninputs.x = { shape = [1] }\n"
    served.add(repository, "endless", make_models.build("endless"), settings=settings)
    before = _listed(repository)
    with ShellServer(repository, environment=native_environment, is_waited_for=False) as server:
        assert server.process.stderr is not None
        while b"loaded: double" not in server.process.stderr.readline():
            pass
        server.process.kill()
        assert server.wait()[0] == -signal.SIGKILL
    assert _listed(repository) == before
    shutil.rmtree(repository / "endless")
    with ShellServer(repository, environment=native_environment) as server:
        assert served.double(server.url) == DOUBLED
        assert server.end()[0] == 0


def _listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_full_disk_costs_lines_of_the_log_alone(repository: Path, native_backend: str) -> None:
    assert native_backend
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this machine has no /dev/full")
    with inferlite.Server(repository, access_log="text", access_log_path="/dev/full") as server:
        for _ in range(20):
            assert served.double(server.url) == DOUBLED
        served.until(
            lambda: _gauge(server.url, "inferlite_access_log_lost_lines_total") >= 20, "the lost lines are counted"
        )


def test_a_log_that_nobody_reads_holds_up_nobody(repository: Path, native_environment: dict[str, str]) -> None:
    arguments = (repository, "--access-log", "json", "--drain-timeout", 1)
    with ShellServer(*arguments, environment=native_environment) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=served.PATIENCE)
        # More lines than a pipe holds.
        for _ in range(2_000):
            connection.request("GET", "/v2/health/live?" + "a" * 100)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == 200
        connection.close()
        assert server.end()[0] == 0


def test_a_pipe_that_closes_does_not_end_the_server(repository: Path, native_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "inferlite", "serve", "--port", "0", "--access-log", "text", str(repository)]
    process = subprocess.Popen(command, env=native_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = b""
        while b"url: " not in shown:
            shown += process.stdout.readline()
        url = shown.decode().rpartition("url: ")[2].strip()
        process.stdout.close()
        process.stderr.close()
        for _ in range(20):
            assert served.double(url) == DOUBLED
        process.send_signal(signal.SIGTERM)
        assert process.wait(served.PATIENCE) in {0, 141}
    finally:
        process.kill()
        process.wait()


def test_a_process_without_room_for_files_goes_on(repository: Path, native_environment: dict[str, str]) -> None:
    code = f"""
    import resource, socket
    import inferlite, served
    with inferlite.Server({str(repository)!r}, workers=1, idle_timeout=1) as server:
        assert served.double(server.url) == {DOUBLED}
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(socket.create_connection((server.host, server.port), timeout=5))
        except OSError as error:
            assert error.errno == {errno.EMFILE}, error
        for connection in held:
            connection.close()
        served.until(lambda: served.double(server.url) == {DOUBLED}, "it answers again")
    print("went on")
    """
    assert child.run(code, native_environment) == "went on\n"
