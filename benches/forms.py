"""How a server is asked for an answer over HTTP, and how its reply is read."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from benches.harness import WrongAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

MODEL: Final = "model"
"""The name under which every server serves its one model."""

INFER: Final = f"/v2/models/{MODEL}/infer"

TYPES: Final = {"FP32": np.float32, "INT32": np.int32}
"""The protocol's names of the types that the models here take and give."""

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
PATIENCE: Final = 30.0
"""Seconds that an answer may take."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: with a POST, always the same."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask a model of one input and output.

    Attributes:
        write: the request for an input, given by name.
        read: the output in a reply, given its headers and body.
    """

    write: Callable[[str, NDArray[Any]], Request]
    read: Callable[[Mapping[str, str], bytes], NDArray[Any]]


def _numbers(array: NDArray[Any]) -> list[Any]:
    """As few digits as tell the numbers of a type apart: a float32 turned into Python's float has twice as many."""
    numbers: list[Any] = array.astype(str).astype(np.float64).tolist() if array.dtype.kind == "f" else array.tolist()
    return numbers


def _write_plain(name: str, array: NDArray[Any]) -> Request:
    del name
    body = json.dumps({"inputs": _numbers(array)}, separators=(",", ":"))
    return Request("/predict", {"Content-Type": "application/json"}, body.encode())


def _read_plain(headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    del headers
    return np.array(json.loads(body)["outputs"], np.float32)


def _tensor(name: str, array: NDArray[Any], **more: object) -> dict[str, object]:
    (datatype,) = (name for name, kind in TYPES.items() if kind == array.dtype)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), **more}


def _write_protocol(name: str, array: NDArray[Any]) -> Request:
    tensor = _tensor(name, array, data=_numbers(array.ravel()))
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":"))
    return Request(INFER, {"Content-Type": "application/json"}, body.encode())


def _read_protocol(headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    del headers
    (output,) = json.loads(body)["outputs"]
    return np.array(output["data"], TYPES[output["datatype"]]).reshape(output["shape"])


def _write_binary(name: str, array: NDArray[Any]) -> Request:
    content = array.tobytes()
    tensor = _tensor(name, array, parameters={"binary_data_size": len(content)})
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Request(INFER, headers, head + content)


def _read_binary(headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    length = int(headers[HEADER_LENGTH])
    (output,) = json.loads(body[:length])["outputs"]
    content = body[length : length + output["parameters"]["binary_data_size"]]
    return np.frombuffer(content, TYPES[output["datatype"]]).reshape(output["shape"])


PLAIN: Final = Form(_write_plain, _read_plain)
"""`POST /predict` with rows as lists of numbers, which our server and those that people write take."""

PROTOCOL: Final = Form(_write_protocol, _read_protocol)
"""The Open Inference Protocol, in JSON."""

BINARY: Final = Form(_write_binary, _read_binary)
"""The same with tensors as bytes behind the JSON, both ways, as Triton's clients send it."""


class Caller:
    """A connection over which answers are asked for; a context manager that closes it."""

    def __init__(self, host: str, port: int, form: Form) -> None:
        """Connect with the first call."""
        self._connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self._form = form

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Hang up."""
        self._connection.close()

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Ask for an answer.

        Raises:
            WrongAnswerError: the reply is none, or another than 200.
        """
        request = self._form.write(name, array)
        try:
            self._connection.request("POST", request.path, request.body, dict(request.headers))
            reply = self._connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            message = f"a request to {request.path} got no reply: {error!r}"
            raise WrongAnswerError(message) from error
        if reply.status != http.client.OK:
            message = f"a request to {request.path} got {reply.status}: {content[:200]!r}"
            raise WrongAnswerError(message)
        return self._form.read(reply.headers, content)
