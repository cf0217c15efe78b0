"""Truncated, bit-flipped and spliced models: an exception as onnxruntime's or an answer as onnxruntime's, no crash."""

from __future__ import annotations

import pytest

import child

# Mutants are judged in one child per model, which a crash or a hang ends; the seed says which mutant it was.
JUDGE = """
import random, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
import logging
logging.disable()
import numpy, inferlite, make_models, onnxruntime, oracle

def mutant(content, rng):
    content = bytearray(content)
    kind = rng.choice(("cut", "flip", "flip", "flips", "byte", "splice", "repeat"))
    if kind == "cut":
        return bytes(content[: rng.randrange(len(content))])
    first, last = sorted((rng.randrange(len(content)), rng.randrange(len(content))))
    if kind == "splice":
        return bytes(content[:first] + content[last:])
    if kind == "repeat":
        return bytes(content[:last] + content[first:])
    for _ in range(8 if kind == "flips" else 1):
        place = rng.randrange(len(content))
        content[place] = rng.choice((0, 127, 128, 255)) if kind == "byte" else content[place] ^ 1 << rng.randrange(8)
    return bytes(content)

DTYPES = {{"tensor(float)": "f4", "tensor(int64)": "i8", "tensor(double)": "f8", "tensor(string)": "O"}}

def feed(session):
    values = {{}}
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) and 0 <= dim < 100 else 2 for dim in value.shape]
        if value.type in DTYPES:
            values[value.name] = numpy.ones(shape, DTYPES[value.type])
        elif value.type.startswith("seq"):
            values[value.name] = [numpy.ones(2, numpy.float32)]
    return values

original = make_models.build("{name}")
loaded = 0
for seed in range({first}, {last}):
    content = mutant(original, random.Random(f"{name} {{seed}}"))
    print("seed", seed, flush=True)
    sessions = []

    def load(session_class):
        sessions.append(session_class(content, providers=["CPUExecutionProvider"], enable_fallback=0))

    wanted = oracle.outcome(lambda: load(onnxruntime.InferenceSession))
    given = oracle.outcome(lambda: load(inferlite.InferenceSession))
    if isinstance(wanted.error, UnicodeDecodeError):
        # The name in the message is not UTF-8; see the table of differences.
        assert given.error is not None, seed
        continue
    if wanted.error is not None or given.error is not None:
        assert type(given.error) is type(wanted.error), (seed, given.error, wanted.error)
        continue
    loaded += 1
    theirs, ours = sessions
    try:
        values = feed(theirs)
    except UnicodeDecodeError:
        # A name that is not UTF-8 cannot be fed from Python.
        continue
    wanted = oracle.outcome(lambda: theirs.run(None, values))
    given = oracle.outcome(lambda: ours.run(None, values))
    if wanted.error is None:
        oracle.assert_same_outcome(given, wanted)
    else:
        is_unreadable = isinstance(wanted.error, UnicodeDecodeError)
        assert given.error is not None, seed
        assert is_unreadable or type(given.error) is type(wanted.error), (seed, given.error, wanted.error)
print("loaded", loaded)
"""

NAMES = ("double", "mlp", "zipmap", "zipmap_strings", "sequence_make", "optional_absent", "eight_outputs", "metadata")
MUTANTS = 60


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("name", NAMES)
def test_mutants_of_a_model_end_as_onnxruntime(name: str, child_environment: dict[str, str]) -> None:
    printed = child.run(JUDGE.format(name=name, first=0, last=MUTANTS), child_environment, limit=60)
    # Some mutants have to be models still, or the runs are not tested.
    assert int(printed.split()[-1]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", range(4))
def test_many_mutants_of_a_model_end_as_onnxruntime(name: str, part: int, child_environment: dict[str, str]) -> None:
    first = 1000 * (part + 1)
    child.run(JUDGE.format(name=name, first=first, last=first + 1000), child_environment, limit=110)
