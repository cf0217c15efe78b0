"""What Triton's Python backend runs: onnxruntime on the rows of all requests that it hands over at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    """A model of one input and output; the name of the class is what the backend looks for."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the model beside this file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(arguments["model_repository"], arguments["model_version"], "model.onnx")
        self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self._given = self._session.get_inputs()[0].name
        self._gives = self._session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, each in its place."""
        rows = [backend.get_input_tensor_by_name(request, self._given).as_numpy() for request in requests]
        (answer,) = self._session.run(None, {self._given: rows[0] if len(rows) == 1 else np.concatenate(rows)})
        ends = np.cumsum([len(part) for part in rows])
        return [
            backend.InferenceResponse([backend.Tensor(self._gives, answer[end - len(part) : end])])
            for part, end in zip(rows, ends, strict=True)
        ]
