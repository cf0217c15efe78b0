"""A model behind Triton, in its Python backend: `triton_server.py MODEL PORT`, in a folder for the repository.

The binary is the one in pytriton's wheel. pytriton itself stays out: it takes each batch through a further process.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import onnxruntime

PROGRAM: Final = Path(__file__).with_name("triton_model.py")
MOST_ROWS: Final = 64

CONFIGURATION: Final = """\
name: "model"
backend: "python"
max_batch_size: {most_rows}
input [{{ name: "{given.name}", data_type: TYPE_FP32, dims: [{given.shape[1]}] }}]
output [{{ name: "{gives.name}", data_type: TYPE_FP32, dims: [{gives.shape[1]}] }}]
dynamic_batching {{}}
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""


def write_repository(repository: Path, path: str) -> None:
    """Write a repository of one model, which runs the ONNX file at `path`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    folder = repository / "model"
    version = folder / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_bytes(PROGRAM.read_bytes())
    (version / "model.onnx").write_bytes(Path(path).read_bytes())
    configuration = CONFIGURATION.format(most_rows=MOST_ROWS, given=given, gives=gives)
    (folder / "config.pbtxt").write_text(configuration, encoding="utf-8")


def serve(path: str, port: str) -> None:
    """Become the server."""
    found = find_spec("pytriton")
    assert found is not None
    assert found.origin is not None
    triton = Path(found.origin).parent / "tritonserver"
    repository = Path.cwd() / "repository"
    write_repository(repository, path)
    # The backend looks beside itself for the program that is the process of a model; there is one for each Python.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    beside = triton / "backends" / "python" / stub.name
    beside.unlink(missing_ok=True)
    beside.symlink_to(stub)
    # That program finds the interpreter's library by the one variable and the environment by the other.
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
    }
    server = str(triton / "bin" / "tritonserver")
    options = {
        "model-repository": repository,
        "backend-directory": triton / "backends",
        "http-address": "127.0.0.1",
        "http-port": port,
        "allow-grpc": "false",
        "allow-metrics": "false",
        "log-info": "false",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    os.execve(server, [server, *arguments], environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    serve(*sys.argv[1:])
