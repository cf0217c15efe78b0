"""Values from elsewhere that lie, are used twice or at once: never a crash."""

from __future__ import annotations

import textwrap

import make_models
import pytest

import child
from conftest import BACKENDS

native = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "native"], indirect=True)
pytestmark = pytest.mark.usefixtures("backend")

# A producer of DLPack in Python, which says whatever it is told to.
PRODUCER = """
import ctypes, gc, threading
import numpy as np
import inferlite, onnxruntime
api = ctypes.pythonapi
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("id", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("offset", ctypes.c_uint64)]

class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]

class Versioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", Tensor)]

DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
deleted = []
delete = DELETER(lambda pointer: deleted.append(pointer))
memory = np.arange(64, dtype=np.uint8)
kept = []

def tensor(shape=(4,), strides=None, rank=None, data=memory.ctypes.data, kind=1, code=2, bits=32, lanes=1, offset=0):
    numbers = (ctypes.c_int64 * max(1, len(shape)))(*shape) if shape is not None else None
    steps = (ctypes.c_int64 * max(1, len(strides)))(*strides) if strides is not None else None
    kept.append((numbers, steps))
    return Tensor(data, kind, 0, len(shape) if rank is None else rank, code, bits, lanes, numbers, steps, offset)

def capsule(name=b"dltensor", deleter=delete, **said):
    managed = Managed(tensor(**said), None, ctypes.cast(deleter, ctypes.c_void_p) if deleter else None)
    kept.append(managed)
    return api.PyCapsule_New(ctypes.addressof(managed), name, None)

def versioned(major=1, minor=1, flags=0, **said):
    managed = Versioned(major, minor, None, ctypes.cast(delete, ctypes.c_void_p), flags, tensor(**said))
    kept.append(managed)
    return api.PyCapsule_New(ctypes.addressof(managed), b"dltensor_versioned", None)

def refused(made):
    before = len(deleted)
    try:
        inferlite.OrtValue.from_dlpack(made)
    except (BufferError, RuntimeError, TypeError) as error:
        return len(deleted) - before, str(error)
    raise AssertionError("taken")
"""


def run(code: str, environment: dict[str, str]) -> str:
    """Run code after the producer's."""
    return child.run(PRODUCER + "\n" + textwrap.dedent(code), environment)


@native
def test_capsules_that_lie_are_refused_and_given_back(child_environment: dict[str, str]) -> None:
    run(
        """
        lies = [
            dict(shape=(-1,)), dict(shape=(2**62, 2**62)), dict(shape=(2**61,)), dict(shape=(4,), rank=-1),
            dict(shape=(4,), rank=65), dict(shape=None, rank=2), dict(data=None), dict(lanes=4), dict(lanes=0),
            dict(bits=7), dict(bits=0), dict(code=99), dict(code=5, bits=64), dict(kind=2), dict(kind=0), dict(kind=-3),
            dict(kind=10**6), dict(shape=(2, 2), strides=(1, 2)), dict(shape=(2, 2), strides=(0, 0)),
            dict(shape=(4,), strides=(-1,)), dict(shape=(4,), strides=(2**63 - 1,)), dict(offset=1), dict(offset=3),
            dict(shape=(2**40, 2**40, 0, 2**40), rank=4),
        ]
        for said in lies:
            for make in (capsule, versioned):
                count, text = refused(make(**said))
                assert count == 1 and text, (said, count, text)
        for made in (versioned(major=2), versioned(major=0), versioned(major=2**32 - 1)):
            assert refused(made)[0] == 1
        for made in (capsule(name=b"used_dltensor"), capsule(name=b"other"), None, 3, object(), memory.data):
            assert refused(made)[0] == 0
        """,
        child_environment,
    )


@native
def test_honest_capsules_are_given_back_once(child_environment: dict[str, str]) -> None:
    run(
        """
        for make in (capsule, versioned):
            made = make(shape=(2, 2), strides=(2, 1))
            value = inferlite.OrtValue.from_dlpack(made)
            assert refused(made)[0] == 0
            view = value.numpy()
            del value
            gc.collect()
            assert not deleted and view.shape == (2, 2)
            del view
            gc.collect()
            assert len(deleted) == 1, deleted
            deleted.clear()
        assert inferlite.OrtValue.from_dlpack(capsule(deleter=None)).shape() == [4]
        assert inferlite.OrtValue.from_dlpack(capsule(shape=(0,), data=None)).numpy().shape == (0,)
        assert inferlite.OrtValue.from_dlpack(capsule(shape=(), rank=0)).shape() == []
        value = inferlite.OrtValue.from_dlpack(versioned(flags=1))
        assert not value.numpy().flags.writeable
        packed = inferlite.OrtValue.from_dlpack(versioned(flags=4, code=0, bits=4, shape=(3,)))
        assert packed.numpy().tolist() == [0, 1, 2]
        assert packed.data_ptr() != memory.ctypes.data
        """,
        child_environment,
    )


@native
def test_producers_that_misbehave_are_heard(child_environment: dict[str, str]) -> None:
    run(
        """
        class Producer:
            def __init__(self, lend, device=(1, 0)):
                self.lend, self.device = lend, device
            def __dlpack__(self, **keywords):
                return self.lend(**keywords)
            def __dlpack_device__(self):
                return self.device
        def fail(**keywords):
            raise LookupError("not today")
        def old(**keywords):
            if keywords:
                raise TypeError("max_version?")
            return capsule()
        assert inferlite.OrtValue.from_dlpack(Producer(old)).shape() == [4]
        for producer, error in (
            (Producer(fail), LookupError),
            (Producer(lambda **_: None), TypeError),
            (Producer(old, (2, 0)), RuntimeError),
            (Producer(old, "cpu"), Exception),
            (Producer(old, None), Exception),
            (Producer(lambda **_: 3), TypeError),
        ):
            try:
                inferlite.OrtValue.from_dlpack(producer)
            except error:
                continue
            raise AssertionError(producer)
        """,
        child_environment,
    )


@native
def test_capsules_that_nobody_uses_are_released(child_environment: dict[str, str]) -> None:
    run(
        """
        import weakref
        for version in (None, (1, 0)):
            array = np.ones(1000, np.float32)
            gone = weakref.ref(array)
            made = inferlite.OrtValue.ortvalue_from_numpy(array).__dlpack__(max_version=version)
            del array
            gc.collect()
            assert gone() is not None
            del made
            gc.collect()
            inferlite.OrtValue.ortvalue_from_numpy(np.ones(1)).shape()
            assert gone() is None
        """,
        child_environment,
    )


def test_bindings_in_any_order_never_crash(child_environment: dict[str, str]) -> None:
    child.run(
        f"""
        import itertools
        import numpy as np
        import inferlite
        session = inferlite.InferenceSession({make_models.build("add")!r})
        names = [argument.name for argument in session.get_inputs()]
        output = session.get_outputs()[0].name
        x = np.ones((1, 4), np.float32)
        steps = [
            lambda b: b.bind_cpu_input(names[0], x), lambda b: b.bind_cpu_input(names[1], x),
            lambda b: b.bind_output(output), lambda b: session.run_with_iobinding(b), lambda b: b.copy_outputs_to_cpu(),
            lambda b: [value.numpy() for value in b.get_outputs()], lambda b: b.clear_binding_outputs(),
        ]
        ran = 0
        for order in itertools.permutations(range(len(steps)), 5):
            binding = session.io_binding()
            for step in order:
                try:
                    steps[step](binding)
                except RuntimeError:
                    continue
                ran += step == 3
        assert ran
        """,
        child_environment,
    )


# onnxruntime lets threads write to one binding at once.
@native
def test_one_binding_in_many_threads_never_crashes(child_environment: dict[str, str]) -> None:
    child.run(
        f"""
        import threading
        import numpy as np
        import inferlite
        session = inferlite.InferenceSession({make_models.identity("float")!r})
        texts = inferlite.InferenceSession({make_models.build("strings")!r})
        binding, other = session.io_binding(), texts.io_binding()
        binding.bind_output("y")
        other.bind_output(texts.get_outputs()[0].name)
        refusals, others = [], []
        def work(seed):
            random = np.random.default_rng(seed)
            for _ in range(300):
                try:
                    binding.bind_cpu_input("x", np.ones(random.integers(1, 50_000), np.float32))
                    other.bind_cpu_input("x", np.array(["text" * 10] * random.integers(1, 50), object))
                    binding.bind_output("y")
                    session.run_with_iobinding(binding)
                    texts.run_with_iobinding(other)
                    for one in (binding, other):
                        for value in one.get_outputs():
                            value.numpy().sum() if one is binding else value.numpy().tolist()
                        one.copy_outputs_to_cpu()
                except RuntimeError as error:
                    refusals.append(str(error))
                except BaseException as error:
                    others.append(error)
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not others, others
        known = ("serves one thread at a time", "has no value yet", "OrtValue", "Error in execution")
        assert all(any(part in text for part in known) for text in refusals), set(refusals)
        """,
        child_environment,
    )


@native
def test_values_survive_a_fork_and_the_end_of_the_interpreter(child_environment: dict[str, str]) -> None:
    child.run(
        f"""
        import os
        import numpy as np
        import inferlite
        session = inferlite.InferenceSession({make_models.identity("float")!r})
        value = inferlite.OrtValue.ortvalue_from_numpy(np.ones(10_000, np.float32))
        (made,) = session.run_with_ort_values(None, {{"x": value}})
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", value)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        pid = os.fork()
        if pid == 0:
            assert made.numpy().sum() == 10_000
            assert session.run_with_ort_values(None, {{"x": value}})[0].numpy().sum() == 10_000
            session.run_with_iobinding(binding)
            assert binding.copy_outputs_to_cpu()[0].sum() == 10_000
            del made, value, binding
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        # What is left is released when modules are cleared.
        inferlite.kept = [made, value, binding, value.__dlpack__(), np.from_dlpack(value)]
        """,
        child_environment,
    )
