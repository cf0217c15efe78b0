"""A model behind mosec, which batches: `mosec_server.py MODEL PORT`."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import numpy as np
import onnxruntime
import orjson
from mosec import Server, Worker

MODEL: Final = "MOSEC_BENCH_MODEL"
"""The variable that tells the worker's process which model it is."""

MOST_ROWS: Final = 16
"""As many as there are connections: a batch that is full leaves, and one that cannot get full waits each time."""

WAIT: Final = 1
"""Milliseconds that a batch waits for more rows; the least that mosec has."""


class Model(Worker):
    """Runs the rows of a batch together."""

    def __init__(self) -> None:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ[MODEL], options, ["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> np.ndarray:
        """Read one request."""
        return np.array(orjson.loads(data)["inputs"], np.float32)

    def forward(self, data: list[np.ndarray]) -> list[Any]:
        """Answer a batch of requests, each of one row."""
        (answer,) = self._session.run(None, {self._name: np.concatenate(data)})
        return [{"outputs": answer[place : place + 1]} for place in range(len(data))]

    def serialize(self, data: Any) -> bytes:  # noqa: ANN401 - as mosec has it
        """Write one reply."""
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    model, port = sys.argv[1:]
    os.environ[MODEL] = model
    # mosec reads its settings from the command line.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--log-level", "warning"]
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MOST_ROWS, max_wait_time=WAIT, route="/predict")
    server.run()
