"""A server whose model is reloaded every second, under load: no failed or wrong answer, and no more memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import pytest

import child

if TYPE_CHECKING:
    from pathlib import Path

SECONDS: Final = float(os.environ.get("INFERLITE_SOAK_SECONDS", "60"))
"""How long the test presses; CI takes less."""

# Version v of the model multiplies by v, and says so in its reply: another product is stale. The
# folder is watched and loaded by call in turn, old versions go, and now and then the last change is taken back.
PRESSURE = """
import gc, http.client, json, pathlib, shutil, threading, time
import memory
import inferlite, make_models, served

folder = pathlib.Path({folder!r})
SETTINGS, WATCH = {settings!r}, {watch}
answered, problems = [0] * 8, []
stopping = threading.Event()

def put(version):
    graph = (
        "times (float[n,4] x) => (float[n,4] y) <float factor = {{" + str(version) + "}}> {{ y = Mul(x, factor) }}"
    )
    served.add(folder, "times", graph, version=version, settings=SETTINGS if version == 1 else None)

def ask(number):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    value = number
    try:
        while not stopping.is_set():
            # Few questions, so that the cache has most of the answers.
            value = (value * 7 + 1) % 97
            body = json.dumps(served.row(value, 1, 2, 3))
            connection.request("POST", "/v2/models/times/infer", body)
            reply = connection.getresponse()
            content = reply.read()
            assert reply.status == 200, (reply.status, content)
            answer = json.loads(content)
            version = int(answer["model_version"])
            expected = [version * each for each in (value, 1, 2, 3)]
            assert answer["outputs"][0]["data"] == expected, (answer, expected)
            answered[number] += 1
    except BaseException as error:
        problems.append(repr(error))
        stopping.set()
        raise
    finally:
        connection.close()

put(1)
with inferlite.Server(folder, watch=WATCH) as server:
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    pause, stop, version, reloads, marks = threading.Event(), time.monotonic() + {seconds}, 1, 0, []
    while time.monotonic() < stop and not stopping.is_set():
        version += 1
        put(version)
        if WATCH is None:
            server.load("times")
            if version % 5 == 0:
                server.rollback("times")
                server.load("times")
        else:
            wanted = str(version)
            served.until(
                lambda: any(model.version == wanted and model.state == "READY" for model in server.index()),
                f"version {{wanted}} is served: {{server.index()}}",
            )
        reloads += 1
        if version > 3:
            shutil.rmtree(folder / "times" / str(version - 3))
        gc.collect()
        marks.append(memory.resident())
        pause.wait(1 if {seconds} > 30 else 0.25)
    stopping.set()
    for thread in threads:
        thread.join()
assert not problems, problems
assert min(answered) > 0, answered
assert reloads >= {least}, reloads
# The first reloads still warm up heaps and caches.
settled, last = max(marks[len(marks) // 3 : len(marks) // 2]), min(marks[-3:])
print(sum(answered), "answers", reloads, "reloads", last - settled, "bytes grown", flush=True)
assert last - settled < 8_000_000, marks
"""


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
@pytest.mark.parametrize("watch", [None, 0.1])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param('cache = "4MB"\nbatching = false\n', id="cache"),
        pytest.param("batching = true\n", id="batching"),
        pytest.param('cache = { max_bytes = "4MB", by = "row" }\nbatching = true\n', id="cache by row and batching"),
    ],
)
def test_a_model_that_is_reloaded_under_load(
    settings: str, watch: float | None, tmp_path: Path, native_environment: dict[str, str]
) -> None:
    code = PRESSURE.format(folder=str(tmp_path), settings=settings, watch=watch, seconds=SECONDS, least=SECONDS / 6)
    child.run(code, native_environment, limit=SECONDS + 90)
