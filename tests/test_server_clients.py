"""Clients of other servers, unmodified: tritonclient, KServe's, and curl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import make_models
import pytest

import child
import inferlite
import served
from test_serve_command import demand_curl

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(sys.prefix) / "clients"

# The protocol's names of types, and those of ONNX.
TYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float",
    "FP64": "double",
    "BF16": "bfloat16",
    "BYTES": "string",
}

TWO_BY_TWO = (
    "two (float[n,2] a, int64[n,2] b) => (float[n,2] sum, int64[n,2] negative) "
    "{ c = Cast<to = 1>(b) sum = Add(a, c) negative = Neg(b) }"
)

TRITON = """
import sys
sys.path.append({folder!r})
import numpy as np
import ml_dtypes
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype, InferenceServerException

client = triton.InferenceServerClient({address!r}, concurrency=4)

def tensor(name, array, binary_data=True):
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, binary_data=binary_data)
    return given

def wanted(name, binary_data=True):
    return triton.InferRequestedOutput(name, binary_data=binary_data)

def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("it was not refused")

a = np.array([[1.5, 2.0], [-0.0, 1e-45]], np.float32)
b = np.array([[1, 2], [2**40, -4]], np.int64)
"""

KSERVE = """
import sys, types, asyncio, os
sys.path.append({folder!r})
# The package imports servers of its own, Kubernetes and more, which its client does without.
sys.modules["kserve"] = package = types.ModuleType("kserve")
package.__path__ = [os.path.join({folder!r}, "kserve")]
import httpx
import numpy as np
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, RequestedOutput

URL = {url!r}
a = np.array([[1.5, 2.0], [3.0, -4.25]], np.float32)
b = np.array([[1, 2], [3, -4]], np.int64)

def request(is_binary, outputs=None):
    inputs = [InferInput("a", [2, 2], "FP32"), InferInput("b", [2, 2], "INT64")]
    for given, array in zip(inputs, (a, b)):
        given.set_data_from_numpy(array, binary_data=is_binary)
    return InferRequest(model_name="two", infer_inputs=inputs, request_outputs=outputs)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every type, and some that the calls of the clients are about."""
    folder = tmp_path_factory.mktemp("clients") / "models"
    for datatype, kind in TYPES.items():
        served.add(folder, datatype.lower(), make_models.identity(kind, "[n]"))
    served.add(folder, "double", served.DOUBLE, settings='versions = "all"\nlabels = { stable = 1, canary = 2 }\n')
    served.add(folder, "double", served.TRIPLE, version=2)
    served.add(folder, "two", TWO_BY_TWO)
    served.add(folder, "wide", make_models.identity("float", "[n,m]"))
    return folder


@pytest.fixture
def server(repository: Path, native_backend: str) -> Iterator[inferlite.Server]:
    """A server of these models."""
    assert native_backend
    with inferlite.Server(repository, watch=None) as server:
        yield server


def demand(package: str) -> None:
    """Skip a test where a package of the clients is not unpacked; in CI, it fails."""
    if not (FOLDER / package).is_dir():
        message = f"{package} is not unpacked in {FOLDER}: `make test` does it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def triton(server: inferlite.Server, environment: dict[str, str], code: str) -> None:
    """Run code with a client of tritonclient's."""
    demand("tritonclient")
    address = server.url.removeprefix("http://")
    child.run(TRITON.format(folder=str(FOLDER), address=address) + code, environment, warnings=True)


def kserve(server: inferlite.Server, environment: dict[str, str], code: str) -> None:
    """Run code with KServe's client."""
    demand("kserve")
    child.run(KSERVE.format(folder=str(FOLDER), url=server.url) + code, environment, warnings=True)


# tritonclient


def test_tritonclient_asks_after_servers_and_models(
    server: inferlite.Server, native_environment: dict[str, str]
) -> None:
    code = """
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("double") and client.is_model_ready("double", "2")
assert client.is_model_ready("double", "canary")
assert not client.is_model_ready("double", "7") and not client.is_model_ready("none")
about = client.get_server_metadata()
assert about["name"] == "inferlite" and "binary_tensor_data" in about["extensions"], about
about = client.get_model_metadata("double")
assert about["versions"] == ["1", "2"], about
assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], about
assert about["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}], about
assert client.get_model_metadata("double", "1")["name"] == "double"
config = client.get_model_config("double")
assert config["name"] == "double", config
assert config["input"][0]["name"] == "x" and config["input"][0]["data_type"] == "TYPE_FP32", config
assert config["output"][0]["name"] == "y", config
status, message = refused(client.get_model_metadata, "none")
assert status == "404" and "none" in message, (status, message)
"""
    triton(server, native_environment, code)


def test_tritonclient_reads_statistics(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
for _ in range(3):
    client.infer("two", [tensor("a", a), tensor("b", b)])
(stats,) = client.get_inference_statistics("two")["model_stats"]
assert (stats["name"], stats["version"]) == ("two", "1")
assert stats["inference_stats"]["success"]["count"] == 3, stats
assert stats["inference_stats"]["success"]["ns"] > 0, stats
assert stats["inference_count"] == 6, stats
assert client.get_inference_statistics("two", "1")["model_stats"][0]["version"] == "1"
names = {stats["name"] for stats in client.get_inference_statistics()["model_stats"]}
assert {"two", "double", "fp32"} <= names, names
refused(client.infer, "two", [tensor("a", a)])
(stats,) = client.get_inference_statistics("two")["model_stats"]
assert stats["inference_stats"]["fail"]["count"] == 1, stats
"""
    triton(server, native_environment, code)


def test_tritonclient_changes_the_repository(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
index = client.get_model_repository_index()
assert {"name": "two", "version": "1", "state": "READY"} in index, index
client.unload_model("two")
assert not client.is_model_ready("two")
assert refused(client.infer, "two", [tensor("a", a), tensor("b", b)])[0] in {"404", "503"}
client.load_model("two")
assert client.is_model_ready("two")
client.infer("two", [tensor("a", a), tensor("b", b)])
assert refused(client.load_model, "none") == ("404", "there is no model `none`")
"""
    triton(server, native_environment, code)


def test_tritonclient_cannot_bring_its_own_model(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
status, message = refused(client.load_model, "two", config='{"max_batch_size": 8}')
assert status == "400" and message == (
    "parameter `config` is not taken from requests: write settings into `model.toml` in the folder of model `two`, and "
    "load it then"
), message
status, message = refused(client.load_model, "new", config="{}", files={"file:1/model.onnx": b"a model"})
assert status == "400" and "`config`" in message, message
client.unload_model("two", unload_dependents=True)
client.load_model("two")
assert client.is_model_ready("two")
"""
    triton(server, native_environment, code)


def test_tritonclient_carries_every_type(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
arrays = {
    "bool": np.array([True, False, True]),
    "fp16": np.array([0, -1.5, 65504, 2**-24], np.float16),
    "fp32": np.array([0, -1.5, 3.4028235e38, 1e-45, 0.1], np.float32),
    "fp64": np.array([-0.0, 5e-324, 1.7976931348623157e308, 0.1]),
    "bf16": np.array([0, -1.5, 3e38], ml_dtypes.bfloat16),
    "bytes": np.array(["", "a", "\u00e4\u4e2d\\\\ \\"quoted\\" \\n", "x" * 300], object),
}
for kind in ("int", "uint"):
    for bits in (8, 16, 32, 64):
        limits = np.iinfo(f"{kind}{bits}")
        arrays[f"{kind}{bits}"] = np.array([0, 1, limits.min, limits.max], f"{kind}{bits}")
assert set(arrays) == TYPES
for name, x in arrays.items():
    # The client sends no bfloat16 in JSON, and numpy reads none.
    for sent in (True, False) if name != "bf16" else (True,):
        for answered in (True, False) if name != "bf16" else (True,):
            reply = client.infer(name, [tensor("x", x, sent)], outputs=[wanted("y", answered)])
            (output,) = reply.get_response()["outputs"]
            assert (output["datatype"], output["shape"]) == (name.upper(), [len(x)]), output
            assert ("data" in output) is not answered, output
            y = reply.as_numpy("y")
            if name == "bytes":
                read = [item if isinstance(item, str) else item.decode() for item in y.tolist()]
                assert read == x.tolist(), (sent, answered, read)
            else:
                assert y.dtype == x.dtype and y.tobytes() == x.tobytes(), (name, sent, answered, y)
"""
    types = {datatype.lower() for datatype in TYPES}
    triton(server, native_environment, code.replace("TYPES", repr(types)))


def test_tritonclient_mixes_forms(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
for first in (True, False):
    for second in (True, False):
        asked = [tensor("a", a, binary_data=first), tensor("b", b, binary_data=second)]
        for outputs in (
            None,
            [wanted("negative", first), wanted("sum", second)],
            [wanted("sum", first)],
        ):
            reply = client.infer("two", asked, outputs=outputs, request_id="r 7")
            names = [output["name"] for output in reply.get_response()["outputs"]]
            assert names == (["sum", "negative"] if outputs is None else [output.name() for output in outputs]), names
            assert reply.get_response()["id"] == "r 7"
            assert reply.as_numpy("sum").tobytes() == (a + b.astype(np.float32)).tobytes()
            if "negative" in names:
                assert reply.as_numpy("negative").tobytes() == (-b).tobytes()
empty = client.infer("two", [tensor("a", a[:0]), tensor("b", b[:0])])
assert empty.as_numpy("sum").shape == (0, 2)
"""
    triton(server, native_environment, code)


def test_tritonclient_picks_versions_and_labels(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
x = np.array([[1, 2, 3, 4]], np.float32)
for version, times, number in (("1", 2, "1"), ("2", 3, "2"), ("stable", 2, "1"), ("canary", 3, "2"), ("", 2, "1")):
    reply = client.infer("double", [tensor("x", x)], model_version=version)
    assert (reply.as_numpy("y") == times * x).all(), version
    assert reply.get_response()["model_version"] == number, version
status, message = refused(client.infer, "double", [tensor("x", x)], model_version="9")
assert status == "404" and "9" in message, (status, message)
"""
    triton(server, native_environment, code)


def test_tritonclient_compresses_both_ways(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
x = np.arange(20_000, dtype=np.float32).reshape(100, 200) % 7
for sent in (None, "gzip", "deflate"):
    for answered in (None, "gzip", "deflate"):
        for binary_data in (True, False):
            reply = client.infer(
                "wide",
                [tensor("x", x, binary_data)],
                outputs=[wanted("y", binary_data)],
                request_compression_algorithm=sent,
                response_compression_algorithm=answered,
            )
            assert (reply.as_numpy("y") == x).all(), (sent, answered, binary_data)
"""
    triton(server, native_environment, code)


def test_tritonclient_asks_for_many_at_once(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
x = [np.full((1, 4), number, np.float32) for number in range(40)]
asked = [client.async_infer("double", [tensor("x", each)]) for each in x]
for each, one in zip(x, asked):
    assert (one.get_result().as_numpy("y") == 2 * each).all()
bad = client.async_infer("double", [tensor("x", x[0][:, :3])])
assert refused(bad.get_result)[0] == "400"
"""
    triton(server, native_environment, code)


def test_tritonclient_is_told_what_is_wrong(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
x = np.ones((1, 4), np.float32)
for expected, name, asked, outputs in (
    ("404", "none", [tensor("x", x)], None),
    ("400", "double", [tensor("z", x)], None),
    ("400", "double", [tensor("x", x.astype(np.float64))], None),
    ("400", "double", [tensor("x", x[:, :3])], None),
    ("400", "double", [tensor("x", x)], [wanted("z")]),
    ("400", "double", [], None),
):
    status, message = refused(client.infer, name, asked, outputs=outputs)
    assert status == expected and message, (status, message)
# Unknown parameters are accepted, and those that mean something work.
reply = client.infer("double", [tensor("x", x)], parameters={"mine": 1}, priority=2, timeout=30_000_000)
assert (reply.as_numpy("y") == 2).all()
"""
    triton(server, native_environment, code)


# KServe


def test_kserve_asks_after_servers_and_models(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
async def work():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(URL) is True
        assert await client.is_server_ready(URL) is True
        assert await client.is_model_ready(URL, "two")
        assert not await client.is_model_ready(URL, "none")
asyncio.run(work())
"""
    kserve(server, native_environment, code)


@pytest.mark.parametrize("is_binary", [True, False])
def test_kserve_asks_for_answers(is_binary: bool, server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = f"""
async def work():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        for binary_output in (True, False):
            outputs = [RequestedOutput(name, {{"binary_data": binary_output}}) for name in ("sum", "negative")]
            reply = await client.infer(URL, request({is_binary}, outputs), model_name="two")
            found = {{output.name: output.as_numpy() for output in reply.outputs}}
            assert found["sum"].tolist() == (a + b).tolist(), found
            assert found["negative"].tolist() == (-b).tolist(), found
        reply = await client.infer(URL, request({is_binary}), model_name="two")
        assert [output.name for output in reply.outputs] == ["sum", "negative"]
        try:
            await client.infer(URL, request({is_binary}), model_name="none")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 404 and "none" in str(error), error
        else:
            raise AssertionError("it was not refused")
asyncio.run(work())
"""
    kserve(server, native_environment, code)


def test_kserve_asks_in_the_old_form(server: inferlite.Server, native_environment: dict[str, str]) -> None:
    code = """
async def work():
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        rows = [[1, 2, 3, 4], [0, 0, 0, 0.5]]
        reply = await client.infer(URL, {"instances": rows}, model_name="double")
        assert reply == {"predictions": [[2, 4, 6, 8], [0, 0, 0, 1]]}, reply
        rows = [{"a": [1, 2], "b": [3, 4]}]
        reply = await client.infer(URL, {"instances": rows}, model_name="two")
        assert reply == {"predictions": [{"sum": [4, 6], "negative": [-3, -4]}]}, reply
asyncio.run(work())
"""
    kserve(server, native_environment, code)


# curl


def curl(*arguments: str, body: bytes | None = None) -> bytes:
    """What curl prints."""
    path = demand_curl()
    done = subprocess.run(
        [path, "-sS", *arguments], input=body, capture_output=True, timeout=served.PATIENCE, check=True
    )
    return done.stdout


def test_curl_sends_a_body_of_nothing_but_numbers(server: inferlite.Server) -> None:
    import numpy as np  # noqa: PLC0415 - one test alone needs it

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    reply = curl(
        f"{server.url}/v2/models/double/infer",
        "-H",
        "Inference-Header-Content-Length: 0",
        "--data-binary",
        "@-",
        body=x.tobytes(),
    )
    # The JSON ends where the numbers begin.
    head, _, rest = reply.partition(b"}]}")
    about = json.loads(head + b"}]}")
    assert about["outputs"][0]["shape"] == [2, 4]
    assert rest == (2 * x).tobytes()


def test_curl_asks_with_rows_alone(server: inferlite.Server) -> None:
    body = '{"model": "double", "version": 2, "inputs": [[1, 2, 3, 4]]}'
    assert json.loads(curl(f"{server.url}/predict", "-d", body)) == {"outputs": [[3, 6, 9, 12]]}
    body = '{"inputs": [[1, 2, 3, 4]]}'
    assert "error" in json.loads(curl(f"{server.url}/predict", "-d", body))
    reply = curl(f"{server.url}/v1/models/double/versions/1:predict", "-d", body)
    assert json.loads(reply) == {"outputs": [[2, 4, 6, 8]]}


def test_curl_keeps_one_connection(server: inferlite.Server) -> None:
    arguments = [f"{server.url}/v2/models/double", *(["-w", "%{num_connects} "])]
    shown = curl(*arguments, "-o", "/dev/null", *arguments[:1], "-o", "/dev/null", *arguments[:1], "-o", "/dev/null")
    assert shown == b"1 0 0 "


def test_curl_asks_whether_a_large_body_may_come(server: inferlite.Server) -> None:
    row = ",".join(["1.5"] * 4)
    rows = ",".join([f"[{row}]"] * 100_000)
    body = f'{{"model": "double", "inputs": [{rows}]}}'.encode()
    assert len(body) > 1_500_000
    reply = json.loads(curl(f"{server.url}/predict", "-H", "Expect: 100-continue", "--data-binary", "@-", body=body))
    assert len(reply["outputs"]) == 100_000
