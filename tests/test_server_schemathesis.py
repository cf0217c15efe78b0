"""The server against its own description: schemathesis makes requests of it, good and bad, and checks the replies."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import inferlite
import served
from test_server_clients import FOLDER, demand
from test_server_http import JOINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EXAMPLES: Final = 12
"""Random requests for each operation, beside those that schemathesis derives from each part of the description."""

LIMIT: Final = 110
"""Seconds after which a run counts as hanging."""

COMMAND: Final = f"""
import sys
sys.path.append({str(FOLDER)!r})
from schemathesis.cli import schemathesis
schemathesis()
"""

# Requests depend neither on chance nor on earlier runs, and one finding does not hide others.
ALWAYS: Final = ("--generation-deterministic", "--continue-on-failure", "--no-color", "--warnings", "off")

ONE_BY_ONE: Final = ("--phases", "coverage,fuzzing")
"""Requests that are not about what earlier ones have answered."""

# Most requests for a model name one that is there, and most of those for a version.
NAMES: Final = """
[dictionaries.models]
values = ["mlp", "text", "joined"]

[dictionaries.versions]
values = ["1", "stable"]

[parameters]
"path.model" = { dictionary = "models", probability = 0.8 }
"path.version" = { dictionary = "versions", probability = 0.8 }
"path.label" = { dictionary = "versions", probability = 0.8 }
"""

# All checks are made, but for these:
#
# What a body must look like depends on the model, which the published description cannot say: that whatever fits it is
# accepted is tested below, on a description of the models that are there.
NOT_OF_MODELS: Final = """
[[operations]]
include-tag = "inference"

[operations.checks.positive_data_acceptance]
enabled = false
"""

# Whether there is something to go back to depends on what was done before, which no request says.
NOT_OF_ROLLBACK: Final = """
[[operations]]
include-operation-id = "rollback"

[operations.checks.positive_data_acceptance]
enabled = false
"""

# A model that was unloaded is 503 to whoever asks for it, and 400 to whoever asks whether it is ready; a number of 5xx
# that is not described is still found, by `status_code_conformance`.
NOT_OF_UNLOADED: Final = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]

[[operations]]
include-operation-id-regex = "^modelReady"

[operations.checks.positive_data_acceptance]
enabled = false
"""

MODELS: Final = {
    "mlp": Path(__file__).parent / "models" / "mlp.onnx",
    "text": "text (string[n,2] t) => (string[n,2] same) { same = Identity(t) }",
    "joined": JOINED,
}

# The largest number that is rounded to one of 32 bits.
MOST: Final = math.nextafter(2.0**128 - 2.0**103, 0)

ELEMENTS: Final[dict[str, Any]] = {
    "FP32": {"type": "number", "minimum": -MOST, "maximum": MOST},
    # JSON Schema takes 1.0 for an integer, and the server does not: integers are listed, not described.
    "INT64": {"enum": [0, 1, -1, 255, -(2**31), 2**53 + 1, -(2**63), 2**63 - 1]},
    "BYTES": {"type": "string"},
}

ROWS: Final = 2
"""How many rows the requests have that fit a model."""


@pytest.fixture
def repository(tmp_path: Path, native_backend: str) -> Path:
    """A folder with models of numbers, of strings, and of several inputs."""
    assert native_backend
    demand("schemathesis")
    folder = tmp_path / "models"
    for name, graph in MODELS.items():
        served.add(folder, name, graph, settings="labels = { stable = 1 }")
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[inferlite.Server]:
    """A server of it."""
    with inferlite.Server(repository, watch=None) as server:
        yield server


@pytest.fixture
def fuzz(tmp_path: Path, native_environment: dict[str, str]) -> Callable[..., tuple[int, str]]:
    """Lets schemathesis ask a server, by its own description or by another one; gives exit code and report."""

    def run(
        server: inferlite.Server,
        *arguments: str,
        configuration: str = "",
        description: Mapping[str, Any] | None = None,
        examples: int = EXAMPLES,
    ) -> tuple[int, str]:
        (tmp_path / "schemathesis.toml").write_text(NAMES + configuration, encoding="utf-8")
        place = f"{server.url}/openapi.json"
        if description is not None:
            place = str(tmp_path / "description.json")
            Path(place).write_text(json.dumps(description), encoding="utf-8")
        options = (*ALWAYS, "--url", server.url, "--max-examples", str(examples), *arguments)
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "run", place, *options],
            cwd=tmp_path,
            env=native_environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def check_report(ended: tuple[int, str], operations: int, *, at_least: int) -> None:
    """See that nothing was found, and that it was looked for."""
    code, report = ended
    assert code == 0, report[-20_000:]
    tested, generated = (re.search(pattern, report) for pattern in (r"Tested: (\d+)", r"(\d+) generated"))
    assert tested, report
    assert generated, report
    assert int(tested[1]) == operations, report
    assert int(generated[1]) >= at_least, report


def check_models(server: inferlite.Server) -> None:
    """See that every model gives the right answer."""
    for name, inputs, outputs in (
        ("text", {"t": [["a", "ä"]]}, [["a", "ä"]]),
        ("joined", {"a": [[1.5, 2]], "b": [[3, 4]]}, {"both": [[1.5, 2, 3, 4]], "negative": [[-3, -4]]}),
    ):
        reply = served.ask(server.url, "POST", "/predict", {"model": name, "inputs": inputs})
        assert json.loads(reply[2]) == {"outputs": outputs}, reply
    reply = served.ask(server.url, "POST", "/predict", {"model": "mlp", "inputs": [[0.5] * 16]})
    assert reply[0] == 200, reply


def test_every_operation_keeps_to_the_description(
    server: inferlite.Server, fuzz: Callable[..., tuple[int, str]]
) -> None:
    ended = fuzz(server, *ONE_BY_ONE, "--exclude-tag", "repository", configuration=NOT_OF_MODELS)
    check_report(ended, 20, at_least=700)
    check_models(server)


def test_changes_of_the_repository_keep_to_the_description(
    server: inferlite.Server, fuzz: Callable[..., tuple[int, str]]
) -> None:
    ended = fuzz(server, *ONE_BY_ONE, "--include-tag", "repository", configuration=NOT_OF_ROLLBACK)
    check_report(ended, 4, at_least=120)
    for name in MODELS:
        server.load(name)
    check_models(server)


def test_changes_and_questions_in_any_order_keep_to_the_description(
    server: inferlite.Server, fuzz: Callable[..., tuple[int, str]]
) -> None:
    configuration = NOT_OF_MODELS + NOT_OF_ROLLBACK + NOT_OF_UNLOADED
    code, report = fuzz(server, "--phases", "stateful", configuration=configuration)
    assert code == 0, report
    covered = re.search(r"API Links: +(\d+) covered", report)
    assert covered, report
    assert int(covered[1]) >= 8, report
    for name in MODELS:
        server.load(name)
    check_models(server)


def test_what_fits_a_model_is_accepted_and_what_does_not_is_refused(
    server: inferlite.Server, fuzz: Callable[..., tuple[int, str]]
) -> None:
    ended = fuzz(server, description=of_models(server))
    check_report(ended, 9, at_least=600)


KEYS: Final = """
[auth.openapi.bearer]
bearer = "admin"

[auth.openapi.key]
api_key = "admin"
"""


def test_every_operation_asks_for_the_key_that_it_says_it_needs(
    repository: Path, fuzz: Callable[..., tuple[int, str]]
) -> None:
    with inferlite.Server(repository, watch=None, keys=["ours"], admin_keys=["admin"]) as server:
        key = {"X-API-Key": "admin"}
        description = served.get(server.url, "/openapi.json", key)
        # By a file, since schemathesis leaves the path out that it has the description from.
        arguments = ("--phases", "fuzzing", "--checks", "ignored_auth,status_code_conformance")
        ended = fuzz(server, *arguments, configuration=KEYS, description=description)
        check_report(ended, 25, at_least=250)


# What schemathesis finds


def test_a_description_that_is_not_true_is_found_out(
    server: inferlite.Server, fuzz: Callable[..., tuple[int, str]]
) -> None:
    true = served.get(server.url, "/openapi.json")
    path, ready = "/v2/models/{model}", "/v2/health/ready"

    def found(name: str, change: Callable[[dict[str, Any]], object], *arguments: str) -> None:
        description = copy.deepcopy(true)
        change(description)
        code, report = fuzz(server, *arguments, description=description, configuration=KEYS, examples=3)
        assert code == 1, report
        assert name in report, report

    found(
        "Response violates schema",
        lambda told: told["components"]["schemas"]["ModelMetadata"]["properties"]["name"].update(type="integer"),
        "--include-path",
        path,
    )
    found(
        "Undocumented status code",
        lambda told: told["paths"][path]["get"]["responses"].pop("404"),
        "--include-path",
        path,
    )
    found(
        "API accepts", lambda told: told["paths"][ready]["get"].update(security=[{"key": []}]), "--include-path", ready
    )


# Descriptions of models


def of_models(server: inferlite.Server) -> dict[str, Any]:
    """What the server says of inference, with paths for each model, and bodies that fit it and nothing else."""
    description = served.get(server.url, "/openapi.json")
    paths = {}
    for name in MODELS:
        inputs = served.get(server.url, f"/v2/models/{name}")["inputs"]
        for path, like, body in (
            (f"/v2/models/{name}/infer", "/v2/models/{model}/infer", protocol(inputs)),
            (f"/v2/models/{name}/versions/stable/infer", "/v2/models/{model}/infer", protocol(inputs)),
            (f"/v1/models/{name}:predict", "/v1/models/{model}:predict", columns(inputs)),
        ):
            responses = description["paths"][like]["post"]["responses"]
            content = {"application/json": {"schema": body}}
            paths[path] = {"post": {"responses": responses, "requestBody": {"required": True, "content": content}}}
    return {**description, "paths": paths}


def protocol(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a request of the Open Inference Protocol."""
    items = []
    for given in inputs:
        shape = [ROWS if extent < 0 else extent for extent in given["shape"]]
        count = math.prod(shape)
        properties = {
            "name": {"const": given["name"]},
            "datatype": {"const": given["datatype"]},
            "shape": {"const": shape},
            "data": {"type": "array", "items": ELEMENTS[given["datatype"]], "minItems": count, "maxItems": count},
        }
        items.append({"type": "object", "required": list(properties), "properties": properties})
    parameters = {"priority": {"enum": [0, 1, 7, 2**40]}, "binary_data_output": {"type": "boolean"}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "inputs": {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)},
            "parameters": {"type": ["object", "null"], "properties": parameters, "not": {"required": ["timeout"]}},
        },
    }


def columns(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a request in TensorFlow Serving's form, with columns."""
    properties = {}
    for given in inputs:
        _, width = given["shape"]
        row = {"type": "array", "items": ELEMENTS[given["datatype"]], "minItems": width, "maxItems": width}
        # A model of one input takes any number of rows, and one of several as many of each.
        rows = {"minItems": ROWS, "maxItems": ROWS} if len(inputs) > 1 else {"minItems": 1}
        properties[given["name"]] = {"type": "array", "items": row, **rows}
    named = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    return {"type": "object", "required": ["inputs"], "properties": {"inputs": named, "instances": {"type": "null"}}}
