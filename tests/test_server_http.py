"""What the server says over HTTP, where clients of other servers would not notice a mistake."""

from __future__ import annotations

import gzip
import http.client
import json
import select
import socket
import zlib
from typing import TYPE_CHECKING, Any

import pytest

import inferlite
import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path, native_backend: str) -> Path:
    """A folder with the model `double`."""
    assert native_backend
    folder = tmp_path / "models"
    served.add(folder, "double", served.DOUBLE)
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[inferlite.Server]:
    """A server of it."""
    with inferlite.Server(repository, watch=None) as server:
        yield server


def test_what_is_not_there_is_404(server: inferlite.Server) -> None:
    def status(method: str, path: str) -> tuple[int, str]:
        return served.error(served.ask(server.url, method, path))

    for path in ("none", "none/versions/1", "double/versions/9", "double/versions/stable"):
        assert status("GET", f"/v2/models/{path}/ready") == (404, "Model version not ready"), path
        assert status("GET", f"/v2/models/{path}")[0] == 404, path
    for verb in ("load", "unload", "rollback"):
        path = f"/v2/repository/models/none/{verb}"
        assert status("POST", path) == (404, "there is no model `none`"), path
    for path in ("/v2/nothing", "/nothing", "//", "/v1"):
        assert status("GET", path) == (404, "Not Found"), path
    assert status("GET", "/") == (404, "Not Found: `/openapi.json` describes what is there")
    nothing_before = (
        "model `double` cannot be rolled back: no version that served before version 1 is in the folder: put one there "
        "and load it, under a higher number"
    )
    assert status("POST", "/v2/repository/models/double/rollback") == (400, nothing_before)


def test_a_model_that_is_there_and_does_not_answer_is_400_as_the_protocol_has_it(server: inferlite.Server) -> None:
    server.unload("double")
    reply = served.ask(server.url, "GET", "/v2/models/double/ready")
    assert served.error(reply) == (400, "Model version not ready")
    server.load("double")
    assert json.loads(served.ask(server.url, "GET", "/v2/models/double/ready")[2]) == {"name": "double", "ready": True}


JOINED = (
    "joined (float[n,2] a, int64[n,2] b) => (float[n,4] both, int64[n,2] negative) "
    "{ c = Cast<to = 1>(b) both = Concat<axis = 1>(a, c) negative = Neg(b) }"
)


def test_inputs_that_contradict_each_other_are_the_clients_mistake(repository: Path, server: inferlite.Server) -> None:
    served.add(repository, "joined", JOINED)
    server.load("joined")
    rows = {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8], [9, 10]]}
    text = (
        "unexpected shapes for model 'joined', which expects 'n' to be one number, not 2 in the shape [2,2] of input "
        "'a' and 3 in the shape [3,2] of input 'b'"
    )
    inputs = [served.tensor("a", [2, 2], rows["a"]), served.tensor("b", [3, 2], rows["b"], "INT64")]
    for path, body in (
        ("/v2/models/joined/infer", {"inputs": inputs}),
        ("/predict", {"model": "joined", "inputs": rows}),
        ("/v1/models/joined:predict", {"inputs": rows}),
    ):
        assert served.error(served.ask(server.url, "POST", path, body)) == (400, text), path
    # What the model can answer, it may: it shapes the first input like the second.
    served.add(repository, "wide", "wide (float[n,2] a, float[n,2] b) => (float[n,2] sum) { sum = Add(a, b) }")
    server.load("wide")
    body = {"model": "wide", "inputs": {"a": [[1, 2]], "b": [[10, 20], [30, 40]]}}
    reply = served.ask(server.url, "POST", "/predict", body)
    assert json.loads(reply[2]) == {"outputs": [[11, 22], [31, 42]]}


def test_a_version_counts_without_the_name_of_the_only_model(tmp_path: Path, native_backend: str) -> None:
    assert native_backend
    for version in (1, 2):
        graph = f"times (float[n] x) => (float[n] y) <float factor = {{{version}}}> {{ y = Mul(x, factor) }}"
        served.add(tmp_path, "times", graph, version=version, settings='versions = "all"\n')
    with inferlite.Server(tmp_path) as server:
        for version, factor in ((None, 2), (1, 1), ("2", 2)):
            body = {"inputs": [5]} | ({} if version is None else {"version": version})
            assert json.loads(served.ask(server.url, "POST", "/predict", body)[2]) == {"outputs": [5 * factor]}
        wanted = served.error(
            served.ask(server.url, "POST", "/predict", {"model": "times", "version": 9, "inputs": [5]})
        )
        assert wanted[0] == 404
        assert served.error(served.ask(server.url, "POST", "/predict", {"version": 9, "inputs": [5]})) == wanted


def test_a_failure_of_the_model_stays_one(repository: Path, server: inferlite.Server) -> None:
    served.add(
        repository,
        "picky",
        "picky (float[n,2] a, int64[1] shape) => (float[k] flat) { flat = Reshape(a, shape) }",
    )
    server.load("picky")
    body = {"model": "picky", "inputs": {"a": [[1, 2]], "shape": [3]}}
    assert served.error(served.ask(server.url, "POST", "/predict", body))[0] == 500


def test_one_good_key_suffices(repository: Path) -> None:
    with inferlite.Server(repository, keys=["good"], watch=None) as server:
        for bearer, key, expected in (
            ("good", "bad", 200),
            ("bad", "good", 200),
            ("good", "good", 200),
            ("bad", "bad", 401),
        ):
            headers = {"Authorization": f"Bearer {bearer}", "X-API-Key": key}
            assert served.ask(server.url, "GET", "/v2/models/double", headers=headers)[0] == expected, headers
        assert (
            served.ask(server.url, "GET", "/v2", headers={"Authorization": "Basic good", "X-API-Key": "good"})[0] == 200
        )


def test_inferences_are_those_that_were_run(repository: Path) -> None:
    def count(url: str, model: str, *rows: float) -> dict[str, int]:
        inputs = [served.tensor("x", [len(rows), 4], [value for row in rows for value in (row, 0, 0, 0)])]
        status, _, content = served.ask(url, "POST", f"/v2/models/{model}/infer", {"inputs": inputs})
        assert status == 200, content
        (stats,) = served.get(url, f"/v2/models/{model}/stats")["model_stats"]
        page = served.ask(url, "GET", "/metrics")[2].decode()
        label = f'{{model="{model}",version="1"}} '
        names = {
            "requests": "nv_inference_request_success",
            "rows": "nv_inference_count",
            "runs": "nv_inference_exec_count",
            "hits": "nv_cache_num_hits_per_model",
        }
        found = {
            name: int(page.partition(f"\n{metric}{label}")[2].partition("\n")[0]) for name, metric in names.items()
        }
        assert stats["inference_count"] == found["rows"]
        assert stats["execution_count"] == found["runs"]
        assert stats["inference_stats"]["success"]["count"] == found["requests"]
        return found

    served.add(repository, "kept", served.DOUBLE, settings='cache = "1MB"\nbatching = false')
    served.add(repository, "rows", served.DOUBLE, settings='[cache]\nmax_bytes = "1MB"\nby = "row"')
    with inferlite.Server(repository, watch=None) as server:
        # As Triton counts: each row, but for those of requests that the cache has answered.
        assert count(server.url, "kept", 1, 2, 3) == {"requests": 1, "rows": 3, "runs": 1, "hits": 0}
        assert count(server.url, "kept", 1, 2, 3) == {"requests": 2, "rows": 3, "runs": 1, "hits": 1}
        assert count(server.url, "kept", 4) == {"requests": 3, "rows": 4, "runs": 2, "hits": 1}
        assert count(server.url, "kept", 4) == {"requests": 4, "rows": 4, "runs": 2, "hits": 2}
        assert count(server.url, "rows", 1, 2, 3) == {"requests": 1, "rows": 3, "runs": 1, "hits": 0}
        # Of a batch, the rows that were not there.
        assert count(server.url, "rows", 1, 2, 3, 4) == {"requests": 2, "rows": 4, "runs": 2, "hits": 3}
        assert count(server.url, "rows", 4, 3) == {"requests": 3, "rows": 4, "runs": 2, "hits": 5}


INFER = "/v2/models/double/infer"
BODY = json.dumps(served.row(1.5, 2, 3, 4)).encode()


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "X-GZip", "deflate", "Deflate", "identity", "Identity"])
def test_a_coding_is_known_in_any_case(server: inferlite.Server, coding: str) -> None:
    pack = {"d": zlib.compress, "i": bytes}.get(coding[0].lower(), gzip.compress)
    reply = served.ask(server.url, "POST", INFER, pack(BODY), {"Content-Encoding": coding})
    assert reply[0] == 200, reply
    assert json.loads(reply[2])["outputs"][0]["data"] == [3.0, 4.0, 6.0, 8.0]


def test_a_body_may_be_several_files_of_gzip(server: inferlite.Server) -> None:
    packed = gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])
    reply = served.ask(server.url, "POST", INFER, packed, {"Content-Encoding": "gzip"})
    assert reply[0] == 200, reply


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_damaged_body_is_told_of_by_its_coding(server: inferlite.Server, coding: str, pack: Any) -> None:
    text = f"the body's `Content-Encoding` is {coding}, but the body is damaged, cut off or not {coding} at all"
    for body in (BODY, pack(BODY)[:-3], pack(b" " * 1_000_000 + BODY)[:-3]):
        reply = served.ask(server.url, "POST", INFER, body, {"Content-Encoding": coding})
        assert served.error(reply) == (400, text)


def test_a_model_may_be_called_stats(repository: Path, server: inferlite.Server) -> None:
    served.add(repository, "stats", served.DOUBLE)
    server.load("stats")
    assert served.double(server.url, "stats") == [3.0, 4.0, 6.0, 8.0]
    assert {stats["name"] for stats in served.get(server.url, "/v2/models/stats")["model_stats"]} == {"double", "stats"}
    assert served.get(server.url, "/v2/models/stats/versions/1")["name"] == "stats"
    assert served.get(server.url, "/v2/models/stats/stats")["model_stats"][0]["name"] == "stats"


@pytest.mark.parametrize("path", [INFER, "/predict", "/v1/models/double:predict"])
def test_small_requests_are_answered_while_a_large_one_is_read(repository: Path, path: str) -> None:
    rows = 1_500_000
    numbers = b"1.2345678," * (4 * rows)
    if path == INFER:
        head = f'{{"inputs": [{{"name": "x", "shape": [{rows}, 4], "datatype": "FP32", "data": ['.encode()
        # Wrong at the very end, so that nothing but the reading takes time.
        body = head + numbers + b'"x"]}]}'
    else:
        body = b'{"model": "double", "inputs": [' + b"[1.2345678,1.2345678,1.2345678,1.2345678]," * rows + b'"x"]}'
    with inferlite.Server(repository, watch=None, workers=1) as server:
        small = http.client.HTTPConnection(server.host, server.port, timeout=served.PATIENCE)
        with socket.create_connection((server.host, server.port), timeout=served.PATIENCE) as large:
            large.sendall(f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            answered = 0
            # The only worker reads what is left in the socket, and then the numbers: 60 MB of them.
            while not select.select([large], [], [], 0)[0]:
                small.request("POST", INFER, BODY)
                reply = small.getresponse()
                assert (reply.status, bool(reply.read())) == (200, True)
                answered += 1
            assert large.recv(65_536).startswith(b"HTTP/1.1 400 ")
        small.close()
    assert answered >= 20


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        pytest.param(b"nonsense\r\n\r\n", 400, b"", id="malformed"),
        # No more than the server reads: what it leaves would reset the connection.
        pytest.param(b"GET /v2 HTTP/1.1\r\nHost: h\r\nX: ".ljust(131_072, b"a"), 431, b"", id="large"),
        pytest.param(
            b"GET /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAccept-Encoding: br, identity;q=0\r\n\r\n",
            406,
            b"gzip, deflate",
            id="unwritable",
        ),
    ],
)
def test_what_is_refused_with_no_text_of_ours(server: inferlite.Server, head: bytes, status: int, body: bytes) -> None:
    reply, content = _exchange(server, head)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode()), reply
    assert content == body


def test_a_body_that_is_too_large_is_refused_before_it_is_there(repository: Path) -> None:
    with inferlite.Server(repository, watch=None, max_body="1KB") as server:
        head = f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n".encode()
        expected = b'{"error":"the body is larger than 1000 bytes"}'
        for extra in (b"\r\n", b"Expect: 100-continue\r\n\r\n"):
            # The connection is closed, or this would wait.
            reply, content = _exchange(server, head + extra)
            assert b"HTTP/1.1 413 " in reply
            assert content == expected


def _exchange(server: inferlite.Server, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes, and read until the server closes; gives what comes before the last empty line, and what after."""
    with socket.create_connection((server.host, server.port), timeout=served.PATIENCE) as connection:
        connection.sendall(request)
        chunks = []
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    head, _, body = b"".join(chunks).rpartition(b"\r\n\r\n")
    return head, body
