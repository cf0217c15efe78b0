"""A model behind FastAPI, as quick as it gets without leaving it: `fastapi_server.py MODEL PORT`.

orjson reads and writes, no schema is checked, and the event loop runs the model itself: handing so short a run to a
thread takes longer.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response


def application(path: str) -> FastAPI:
    """Return what answers `POST /predict`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> None:
        return

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        rows = np.array(orjson.loads(await request.body())["inputs"], np.float32)
        (answer,) = session.run(None, {name: rows})
        content = orjson.dumps({"outputs": answer}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")

    return app


if __name__ == "__main__":
    model, port = sys.argv[1:]
    uvicorn.run(
        application(model),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
