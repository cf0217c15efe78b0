"""Arrays that another thread, or their own items, write to, resize or drop during a call: nothing crashes."""

from __future__ import annotations

import pytest

import child

START = """
import gc, threading
import numpy, inferlite, committed
session = inferlite.InferenceSession(committed.path("identity"), hold_gil=False)
strings = inferlite.InferenceSession(committed.path("strings"))
sequence = inferlite.InferenceSession(committed.path("sequence"))
stop = threading.Event()
errors = []

def in_another_thread(disturb):
    def loop():
        while not stop.is_set():
            try:
                disturb()
            except Exception as error:
                errors.append(error)
                if len(errors) > 100:
                    errors.clear()
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread

def finish(thread):
    stop.set()
    thread.join()
    good = numpy.ones((2, 3), numpy.float32)
    assert session.run(None, {"x": good})[0].tolist() == good.tolist()
"""

RACES = {
    "written": """
        x = numpy.ones((20_000, 3), numpy.float32)
        def disturb():
            x[:] = numpy.random.default_rng().random(1, dtype=numpy.float32)
        thread = in_another_thread(disturb)
        for _ in range(300):
            (y,) = session.run(None, {"x": x})
            assert y.shape == x.shape and 0 <= y.min() <= y.max() <= 1
    """,
    "resized": """
        x = numpy.ones((20_000, 3), numpy.float32)
        def disturb():
            x.resize((1, 3), refcheck=False)
            x.resize((20_000, 3), refcheck=False)
        thread = in_another_thread(disturb)
        for _ in range(300):
            try:
                session.run(None, {"x": x})
            except ValueError:
                pass
    """,
    "resized while bound": """
        x = numpy.ones((2_000, 3), numpy.float32)
        call = session.bind({"x": x})
        def disturb():
            x.resize((1_000_000, 3), refcheck=False)
        thread = in_another_thread(disturb)
        for _ in range(300):
            assert call()[0].shape == (2_000, 3)
    """,
    "output resized while bound": """
        x, y = numpy.ones((2_000, 3), numpy.float32), numpy.ones((2_000, 3), numpy.float32)
        call = session.bind({"x": x}, {"y": y})
        def disturb():
            y.resize((1, 3), refcheck=False)
        thread = in_another_thread(disturb)
        for _ in range(300):
            call()
        assert y.shape == (2_000, 3)
    """,
    "reshaped while bound": """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        x = numpy.ones((2_000, 3), numpy.float32)
        call = session.bind({"x": x})
        def disturb():
            x.shape = (3, 2_000)
            x.shape = (2_000, 3)
        thread = in_another_thread(disturb)
        for _ in range(300):
            assert call()[0].shape == (2_000, 3)
    """,
    "dropped": """
        feed = {}
        def disturb():
            feed["x"] = numpy.ones((20_000, 3), numpy.float32)
            feed.pop("x", None)
            gc.collect(0)
        thread = in_another_thread(disturb)
        for _ in range(300):
            try:
                session.run(None, feed)
            except (ValueError, RuntimeError):
                pass
    """,
    "feed changing its size": """
        x = numpy.ones((1, 3), numpy.float32)
        feed = {"x": x}
        names = [f"q{i}" for i in range(50)]
        def disturb():
            for name in names:
                feed[name] = x
            for name in names:
                del feed[name]
        thread = in_another_thread(disturb)
        for _ in range(300):
            try:
                session.run(None, feed)
            except Exception:
                pass
    """,
    "list of a sequence changing": """
        items = [numpy.ones(1_000, numpy.float32) for _ in range(50)]
        def disturb():
            items.clear()
            items.extend(numpy.ones(1_000, numpy.float32) for _ in range(50))
        thread = in_another_thread(disturb)
        for _ in range(300):
            try:
                sequence.run(None, {"s": items})
            except Exception:
                pass
    """,
    "strings changing": """
        x = numpy.array(["some longer text"] * 1_000, object)
        def disturb():
            x[:] = [str(i) * 20 for i in range(1_000)]
        thread = in_another_thread(disturb)
        for _ in range(100):
            (y,) = strings.run(None, {"x": x})
            assert all(isinstance(item, str) for item in y)
    """,
}


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("race", RACES)
def test_another_thread_disturbs_the_arguments(race: str, child_environment: dict[str, str]) -> None:
    body = "\n".join(line.removeprefix("        ") for line in RACES[race].splitlines())
    child.run(f"{START}{body}\nfinish(thread)\n", child_environment, limit=60)


EVIL = {
    "item empties the list": """
        class Item:
            def __str__(self):
                items.clear()
                return "x"
        items = [Item() for _ in range(100)]
        call = lambda: strings.run(None, {"x": items})
    """,
    "item overwrites the array": """
        class Item:
            def __str__(self):
                items[:] = "overwritten"
                gc.collect()
                return "x"
        items = numpy.array([Item() for _ in range(100)], object)
        call = lambda: strings.run(None, {"x": items})
    """,
    "item resizes the array": """
        class Item:
            def __str__(self):
                items.resize(0, refcheck=False)
                return "x"
        items = numpy.array([Item() for _ in range(1_000)], object)
        call = lambda: strings.run(None, {"x": items})
    """,
    "item empties the feed": """
        class Item:
            def __str__(self):
                feed.clear()
                gc.collect()
                return "x"
        feed = {"x": numpy.array([Item() for _ in range(100)], object)}
        call = lambda: strings.run(None, feed)
    """,
    "item runs the session": """
        class Item:
            def __str__(self):
                return strings.run(None, {"x": numpy.array(["inner"])})[0][0]
        call = lambda: strings.run(None, {"x": numpy.array([Item()], object)})
    """,
    "item deletes the session": """
        class Item:
            def __str__(self):
                globals().pop("strings", None)
                gc.collect()
                return "x"
        call = lambda: strings.run(None, {"x": numpy.array([Item()] * 10, object)})
    """,
    "key changes the map": """
        import make_models
        class Value:
            def __float__(self):
                values.clear()
                return 1.0
        values = {letter: Value() for letter in "abc"}
        maps = inferlite.InferenceSession(make_models.map_input("string"))
        call = lambda: maps.run(None, {"m": values})
    """,
    "name empties the names": """
        class Names(list):
            def __getitem__(self, index):
                self.clear()
                return "y"
            def __iter__(self):
                self.clear()
                return iter(["y"])
        call = lambda: session.run(Names(["y", "y"]), {"x": numpy.ones((1, 3), numpy.float32)})
    """,
    "mapping lies about its length": """
        import collections.abc
        class Feed(collections.abc.Mapping):
            def __len__(self):
                return 1_000_000
            def __iter__(self):
                return iter(["x"])
            def __getitem__(self, name):
                return numpy.ones((1, 3), numpy.float32)
        call = lambda: session.run(None, Feed())
    """,
    "array without its own shape": """
        class Lying(numpy.ndarray):
            shape = (1_000_000, 3)
            strides = (0, 0)
            dtype = numpy.dtype("float32")
            nbytes = 12_000_000
            ndim = 2
            flags = property(lambda self: 1 / 0)
            __array_interface__ = property(lambda self: 1 / 0)
        call = lambda: session.run(None, {"x": numpy.ones((1, 3), numpy.float32).view(Lying)})
    """,
}


@pytest.mark.slow_on_fallback
@pytest.mark.parametrize("evil", EVIL)
def test_the_arguments_change_themselves(evil: str, child_environment: dict[str, str]) -> None:
    body = "\n".join(line.removeprefix("        ") for line in EVIL[evil].splitlines())
    code = f"""{START}{body}
for _ in range(3):
    try:
        call()
    except Exception as error:
        print(type(error).__name__)
gc.collect()
good = numpy.ones((2, 3), numpy.float32)
assert session.run(None, {{"x": good}})[0].tolist() == good.tolist()
"""
    child.run(code, child_environment, limit=30)
