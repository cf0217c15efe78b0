"""Write docs/dropin.md from the tables of differences and of names that the tests prove."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dropin.md"

HEAD = """\
# Being a drop-in for onnxruntime

`inferlite.InferenceSession` takes what `onnxruntime.InferenceSession` takes, gives the same bits, and raises the same
exception classes with the same texts. The tests compare every ending with the installed onnxruntime, over the ONNX
backend suite and every kind of bad input.

## Three ways in

| you | do |
|---|---|
| can change the imports | `import inferlite as onnxruntime`, or `from inferlite import InferenceSession` |
| cannot, as in the libraries that you use | `inferlite.patch()`, once, or `with inferlite.patch():` around it |
| write something new | `inferlite.load` |

`patch()` exchanges `InferenceSession`, `SessionOptions` and `RunOptions`, and the functions for the seed, the severity
of the log and telemetry, on the module `onnxruntime` and in the globals of every loaded module that has imported them
by name. Sessions that are made from then on are instances of the classes of both packages, also where these were
imported earlier; sessions and derived classes that were there before stay as they are. Each call is taken back by one
`unpatch()`, in any order and from any thread; the last one restores everything, in modules imported meanwhile too. Not
exchanged are names in closures, default arguments and attributes of classes, and those that a module imports from
`onnxruntime.capi` after the call. `patch(cache="256MB", batching=True)` is for every session that is made; one whose
model is refused either works without it, and the logger `inferlite` has a warning. A call looks at the globals of all
loaded modules, which takes some 30 ms for 1,500 of them. A process that also uses onnxruntime itself holds the runtime
twice, 36 MB more.

## What runs on the onnxruntime package

The native part loads a copy of ONNX Runtime of its own, which cannot be handed the objects of the package. Where it
cannot be told all that the caller has set, the package runs the session (`session.engine` is then
`"onnxruntime (python)"`, and a call costs what it costs on the Python back end), so that answers stay the same:

- options of the plain class `onnxruntime.SessionOptions`: they do not tell whether they hold initializers, free
  dimensions, libraries of operators or callbacks. Make them with `inferlite.SessionOptions`, or under `patch()`;
- options of either class with initializers, providers, a policy, a delegate, callbacks or a load that is cancelled;
- models that may be random, after `inferlite.set_seed`, and models with options in them, read by
  `read_config_from_model`.

One call, not the session, is the package's where its run options have an adapter, or may have one: plain
`onnxruntime.RunOptions` on a model with initializers to override, or on other providers than the CPU's. The package
then loads the model a second time, at the first such call; so do `session._sess` and `get_input_epdevices`. Else plain
run options are read at every call, and setting `terminate` from another thread ends the run. `inferlite.load` takes
from plain options what can be read.

Settings of the process that each copy of the runtime has for itself, and that only `onnxruntime`'s functions set (the
verbosity and the callback of its log, its own pool of threads, allocators and registered libraries, a seed that was set
before `patch()`), do not reach sessions of the native part. `inferlite.__version__` is inferlite's,
`get_version_string()` the runtime's, and `inferlite.backend` the name of the back end in use: onnxruntime's module of
that name is `onnxruntime.backend`.

## Where it ends otherwise

Each is proved by a test; `scripts/write_dropin.py` makes this page from the tests' table.

| when | onnxruntime | inferlite | why |
|---|---|---|---|
"""


NAMES = """
## Every name

`same` and `better` are what the named test finds, which compares with the installed onnxruntime; what is `delegated` is
onnxruntime's own object. A test fails where a name of onnxruntime has no row here.

| name | how | what to know | test |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
    import oracle  # noqa: PLC0415 - found only through the path above
    import surface  # noqa: PLC0415 - as above

    differences = [f"| {d.case} | {d.onnxruntime} | {d.inferlite} | {d.reason} |\n" for d in oracle.DIFFERENCES]
    names = [
        f"| `{name}` | {row.how} | {row.note} | {f'`{row.test}`' if row.test else ''} |\n"
        for name, row in surface.rows().items()
    ]
    return "".join([HEAD, *differences, NAMES, *names])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
