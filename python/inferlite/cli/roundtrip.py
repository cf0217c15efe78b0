"""The demo's digits through a server of its own and back, as a client without any library would send them."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import inferlite
from inferlite.cli.answers import first_difference
from inferlite.cli.failures import AddressError, DifferentAnswersError, RefusedError, refusals
from inferlite.demo import MODEL_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime
    from numpy.typing import NDArray

TIMEOUT: Final = 30.0
"""Seconds that one answer may take."""

SETTINGS: Final = "threads = 1\n"
"""As the other side of the comparison has it: other numbers of threads may sum in another order."""


def ask_over_http(pixels: NDArray[np.float32], theirs: onnxruntime.InferenceSession) -> float:
    """Serve the model, ask for each digit over one connection, and compare.

    Args:
        pixels: float32 (samples, 64).
        theirs: onnxruntime's session of the same model.

    Returns:
        Answers per second, from a request's body to a reply's.

    Raises:
        DifferentAnswersError: A bit differs.
        RefusedError: The server gives no answer.
        AddressError: It cannot listen on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="inferlite-demo-") as folder:
        version = Path(folder, "digits", "1")
        version.mkdir(parents=True)
        shutil.copyfile(MODEL_PATH, version / "model.onnx")
        (version.parent / "model.toml").write_text(SETTINGS, encoding="utf-8")
        try:
            with refusals():
                server = inferlite.Server(folder, watch=None)
        except RefusedError as error:
            if isinstance(error.__cause__, OSError):
                raise AddressError(str(error)) from error
            raise
        with server:
            bodies = [_write(row) for row in pixels]
            start = time.perf_counter()
            replies = _ask(server, bodies)
            took = time.perf_counter() - start
    for row, reply in zip(pixels, replies, strict=True):
        given = {output["name"]: _read(output) for output in json.loads(reply)["outputs"]}
        expected = theirs.run(None, {"pixels": row[None]})
        difference = first_difference([*given], [*given.values()], expected)
        if difference is not None:
            message = f"the server's answers differ: {difference}"
            raise DifferentAnswersError(message)
    return len(bodies) / took


def _write(row: NDArray[np.float32]) -> bytes:
    tensor = {"name": "pixels", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _ask(server: inferlite.Server, bodies: Sequence[bytes]) -> list[bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=TIMEOUT)
    replies = []
    try:
        for body in bodies:
            connection.request("POST", "/v2/models/digits/infer", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
            if reply.status != http.client.OK:
                message = f"the server answers {reply.status}: {content.decode(errors='replace')}"
                raise RefusedError(message)
            replies.append(content)
    except (OSError, http.client.HTTPException) as error:
        message = f"the server gives no answer: {error}"
        raise RefusedError(message) from error
    finally:
        connection.close()
    return replies


def _read(output: dict[str, Any]) -> NDArray[Any]:
    dtype = {"FP32": np.float32, "INT64": np.int64}[output["datatype"]]
    return np.array(output["data"], dtype).reshape(output["shape"])
