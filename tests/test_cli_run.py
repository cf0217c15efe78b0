"""`inferlite run`: inputs from files, text and chance; outputs into a folder."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import make_models
import numpy as np
import pytest

from command import model, refuse, save, save_model, succeed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend")


# Random inputs of a run


def test_run_draws_inputs_and_repeats_them() -> None:
    text = succeed("run", model("double"), "--dim", "batch=2")
    assert text.startswith("input x: float32 [2, 4], ")
    assert "\noutput y: float32 [2, 4], " in text
    assert succeed("run", model("double"), "--dim", "batch=2") == text
    assert succeed("run", model("double"), "--dim", "batch=2", "--seed", "1") != text


def test_dimensions_are_1_unless_given() -> None:
    assert "input x: float32 [1, 4]" in succeed("run", model("double"))


def test_a_dimension_may_be_0() -> None:
    assert succeed("run", model("double"), "-d", "batch=0") == "input x: float32 [0, 4]\noutput y: float32 [0, 4]\n"


def test_a_whole_shape_for_dimensions_without_a_name() -> None:
    assert "input x: float32 [3, 2]" in succeed("run", model("unnamed"), "--shape", "x=3x2")
    assert "input x: float32 [2, 1, 2]" in succeed("run", model("unknown_rank"), "--shape", "x=2x1x2")


def test_strings_are_drawn() -> None:
    assert "output y: string [2]: 'word" in succeed("run", model("strings"), "--dim", "n=2")


@pytest.mark.parametrize("tensor_type", [name for name in make_models.TENSOR_TYPES if name not in {"bool", "string"}])
def test_numbers_of_every_type_are_drawn(tmp_path: Path, tensor_type: str) -> None:
    path = save_model(tmp_path / "m.onnx", make_models.identity(tensor_type, "[n]"))
    text = succeed("run", path, "--dim", "n=3", "--json")
    assert len(json.loads(text)["y"]) == 3


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--dim", "batch"], 2, "error: `--dim batch` is not of the form NAME=SIZE, such as `--dim batch=4`"),
        (["--dim", "batch=-1"], 2, "error: `--dim batch=-1` is not of the form NAME=SIZE, such as `--dim batch=4`"),
        (
            ["--dim", "n=4"],
            2,
            "error: `--dim n=...`: the random inputs have no dimension `n`: they have `batch`",
        ),
        (
            ["--shape", "x=2,4"],
            2,
            "error: `--shape x=2,4` is not of the form INPUT=2x3, such as `--shape image=1x3x224x224`",
        ),
        (["--shape", "q=2x4"], 2, "error: `--shape q=...`: the model has no input `q`: it takes `x`"),
        (
            ["--shape", "x=1x4", "--input", "x=[[1,2,3,4]]"],
            2,
            "error: `--shape x=...` says how to draw `x`, but `--input` gives it",
        ),
        (
            ["--dim", "batch=9999999999999999999"],
            1,
            (
                "error: input `x` of shape [9999999999999999999, 4] would take 160 EB, "
                "but random inputs are made up to 2.00 GB"
            ),
        ),
        (["--shape", "x=3"], 1, "error: input `x` has shape [3], but model `double` expects [batch, 4]"),
    ],
)
def test_shapes_that_do_not_fit(options: list[str], code: int, line: str) -> None:
    assert refuse("run", model("double"), *options) == (code, line)


def test_a_sequence_cannot_be_drawn() -> None:
    assert refuse("run", model("sequence")) == (
        1,
        "error: input `s` is seq(tensor(float)), which cannot be drawn at random: give it with `--input`",
    )


# Inputs of a run from files


def test_an_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(4, dtype=np.float32)[None])
    expected = "input x: float32 [1, 4], 0 to 3: 0, 1, 2, 3\noutput y: float32 [1, 4], 0 to 6: 0, 2, 4, 6\n"
    assert succeed("run", model("double"), "--input", f"x={tmp_path / 'x.npy'}") == expected
    # The only input needs no name.
    assert succeed("run", model("double"), "--input", tmp_path / "x.npy") == expected


def test_an_npz_file_holds_inputs_by_name(tmp_path: Path) -> None:
    row = np.ones((1, 4), np.float32)
    np.savez(tmp_path / "in.npz", a=row, b=2 * row)
    assert "output c: float32 [1, 4], 3 to 3: 3" in succeed("run", model("add"), "--input", tmp_path / "in.npz")
    picked = succeed("run", model("double"), "--input", f"x={save_npz(tmp_path / 'one.npz', anything=row)}")
    assert "output y: float32 [1, 4], 2 to 2" in picked


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_json_files_and_json_text(tmp_path: Path) -> None:
    expected = "output c: float32 [1, 4], 11 to 44: 11, 22, 33, 44\n"
    a, b = "[[1, 2, 3, 4]]", "[[10, 20, 30, 40]]"
    assert expected in succeed("run", model("add"), "-i", f"a={a}", "-i", f"b={save(tmp_path / 'b.json', b)}")
    both = save(tmp_path / "both.json", f'{{"a": {a}, "b": {b}}}')
    assert expected in succeed("run", model("add"), "--input", both)
    assert "output y: float32 [1, 4], 2 to 8" in succeed("run", model("double"), "-i", save(tmp_path / "x.json", a))


def test_strings_and_scalars_from_json() -> None:
    assert succeed("run", model("strings"), "-i", 'x=["a", "b\\u0000"]', "--json") == '{"y": ["a", "b\\u0000"]}\n'
    assert succeed("run", model("scalar"), "-i", "x=2.5", "--json") == '{"y": -2.5}\n'


def test_sequences_maps_and_optionals_are_json() -> None:
    assert succeed("run", model("sequence"), "-i", "s=[[1, 2], [3]]", "--json") == '{"t": [[1.0, 2.0], [3.0]]}\n'
    assert succeed("run", model("optional_absent"), "--json", "-i", "x=[1]") == '{"o": null, "y": [-1.0]}\n'
    outputs = json.loads(succeed("run", model("zipmap"), "--json"))
    assert {key: len(column) for key, column in outputs["probabilities"].items()} == {"1": 1, "2": 1, "3": 1}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[[1, 2, 3, 4], [1]]", "is ragged: its lists differ in length or depth"),
        ('[["a", "b", "c", "d"]]', "has values that float32 cannot hold"),
        ("[[1, 2, 3, null]]", "has values that float32 cannot hold"),
        ("[[1, 2, 3, 1e300]]", "has values that float32 cannot hold: they end at 3.40282e+38"),
        ("[" * 70 + "]" * 70, "is ragged: its lists differ in length or depth"),
        ('{"a": 1}', "has values that float32 cannot hold"),
        ("true", "has values that float32 cannot hold"),
    ],
)
def test_json_that_does_not_fit_the_type(tmp_path: Path, value: str, reason: str) -> None:
    path = save(tmp_path / "x.json", value)
    assert refuse("run", model("double"), "-i", f"x={path}") == (1, f"error: input `x` {reason}")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[1.5]", "has values that uint8 cannot hold"),
        ("[256]", "has values that uint8 cannot hold: they go from 0 to 255"),
        ("[-1]", "has values that uint8 cannot hold: they go from 0 to 255"),
        ("[99999999999999999999999]", "has values that uint8 cannot hold"),
    ],
)
def test_integers_are_never_cut(tmp_path: Path, value: str, reason: str) -> None:
    path = save_model(tmp_path / "m.onnx", make_models.identity("uint8", "[n]"))
    assert refuse("run", path, "-i", f"x={value}") == (1, f"error: input `x` {reason}")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('[["a"], "b"]', "is ragged: its lists differ in length or depth"),
        ('["a", ["b"]]', "is ragged: its lists differ in length or depth"),
        ('["a", 1]', "has values that are not strings"),
    ],
)
def test_json_strings_that_do_not_fit(value: str, reason: str) -> None:
    assert refuse("run", model("strings"), "-i", f"x={value}") == (1, f"error: input `x` {reason}")


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (99,))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def line(path: Path) -> str:
        code, text = refuse("run", model("double"), "--input", f"x={path}")
        assert code == 1
        return text

    missing = tmp_path / "no.npy"
    assert line(missing) == f"error: `{missing}` does not exist"
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    assert line(folder) == f"error: `{folder}` cannot be read: is a directory"
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([_Hostile()], dtype=object), allow_pickle=True)
    loaded = f"error: `{objects}` holds Python objects, which are never loaded: save numbers or strings"
    assert line(objects) == loaded
    packed = save_npz(tmp_path / "objects.npz", x=np.array([_Hostile()], dtype=object))
    assert line(packed) == f"error: `{packed}` holds Python objects, which are never loaded: save numbers or strings"
    for name, content in {"text.npy": b"text", "empty.npy": b"", "zip.npz": b"PK\x03\x04broken"}.items():
        path = save_model(tmp_path / name, content)
        assert line(path) == f"error: `{path}` is not a readable .npy or .npz file"
    whole = io.BytesIO()
    np.save(whole, np.ones((100, 4), np.float32))
    cut = save_model(tmp_path / "cut.npy", whole.getvalue()[:-50])
    assert line(cut) == f"error: `{cut}` is not a readable .npy or .npz file"
    broken = save(tmp_path / "broken.json", "[1,\n 2")
    assert line(broken) == f"error: `{broken}` is not JSON: expecting `,` delimiter at line 2, column 3"
    binary = save_model(tmp_path / "binary.json", b"\xff\xfe\x00")
    assert line(binary) == f"error: `{binary}` is not UTF-8 text"
    deep = save(tmp_path / "deep.json", "[" * 200_000)
    assert line(deep) == f"error: `{deep}` is not JSON that can be read: nested too deep, or a number too long"


def test_an_array_that_claims_to_be_huge(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    path = save_model(tmp_path / "huge.npy", content)
    code, line = refuse("run", model("double"), "-i", f"x={path}")
    assert (code, line) in {
        (1, f"error: `{path}` does not fit in memory"),
        (1, f"error: `{path}` is not a readable .npy or .npz file"),
    }


def test_the_model_refuses_a_dtype_and_a_shape_in_its_own_words(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((1, 4)))
    assert refuse("run", model("double"), "-i", tmp_path / "d.npy") == (
        1,
        "error: input `x` has dtype float64, but model `double` expects float32: pass `x.astype(numpy.float32)`",
    )
    np.save(tmp_path / "s.npy", np.ones((2, 3), np.float32))
    assert refuse("run", model("double"), "-i", tmp_path / "s.npy") == (
        1,
        "error: input `x` has shape [2, 3], but model `double` expects [batch, 4]",
    )


def test_a_node_that_fails_is_refused_on_one_line() -> None:
    code, line = refuse("run", model("failing"), "--shape", "a=2x3", "--shape", "b=2x3")
    assert code == 1
    assert "MatMul" in line


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["-i", "q=[1]"], 1, "error: the model has no input `q`: it takes `a`, `b`"),
        (["-i", "a=[[1,2,3,4]]", "-i", "a=[[1,2,3,4]]"], 2, "error: input `a` is given twice"),
        (["-i", "=x"], 2, "error: `--input =x` has no name before the `=`"),
        (["-i", "x"], 2, "error: `--input x` is neither NAME=VALUE nor a .npy, .npz or .json file"),
        (["-i", "a=x.txt"], 2, "error: `--input a=x.txt` is neither a .npy, .npz or .json file nor JSON"),
    ],
)
def test_options_that_name_no_input(options: list[str], code: int, line: str) -> None:
    assert refuse("run", model("add"), *options) == (code, line)


def test_a_file_without_a_name_is_refused_where_there_are_several_inputs(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((1, 4), np.float32))
    assert refuse("run", model("add"), "-i", path) == (
        2,
        f"error: `--input {path}` names no input: the model takes `a`, `b`, so write NAME={path}",
    )


def test_an_npz_without_the_name_says_what_it_holds(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "in.npz", p=np.ones(1), q=np.ones(1))
    assert refuse("run", model("add"), "-i", f"a={path}") == (
        1,
        f"error: `{path}` has no array `a`: it holds `p`, `q`",
    )


# The outputs of a run


def test_outputs_are_npy_files_of_the_same_bits(tmp_path: Path) -> None:
    text = succeed("run", model("two_outputs"), "-i", "x=[1, -2, 0]", "--output", tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    assert text.splitlines()[-2:] == [f"written: {folder / 'negative.npy'}", f"written: {folder / 'small.npy'}"]
    np.testing.assert_array_equal(np.load(folder / "negative.npy"), np.array([-1, 2, -0.0], np.float32))
    np.testing.assert_array_equal(np.load(folder / "small.npy"), [False, True, False])


def test_strings_are_saved_without_pickle(tmp_path: Path) -> None:
    succeed("run", model("strings"), "-i", 'x=["a", "öl"]', "-o", tmp_path)
    assert np.load(tmp_path / "y.npy", allow_pickle=False).tolist() == ["a", "öl"]
    # numpy's text type would lose this NUL.
    succeed("run", model("strings"), "-i", 'x=["a\\u0000"]', "-o", tmp_path)
    assert json.loads((tmp_path / "y.json").read_text(encoding="utf-8")) == ["a\0"]


def test_other_values_are_saved_as_json(tmp_path: Path) -> None:
    succeed("run", model("zipmap"), "-o", tmp_path)
    assert np.load(tmp_path / "label.npy").shape == (1,)
    columns = json.loads((tmp_path / "probabilities.json").read_text(encoding="utf-8"))
    assert {key: len(column) for key, column in columns.items()} == {"1": 1, "2": 1, "3": 1}


@pytest.mark.parametrize(
    ("output", "file"),
    [("../../y", "..%2F..%2Fy.npy"), ("/etc/y", "%2Fetc%2Fy.npy"), ("..", "...npy"), ("a\\b:0", "a%5Cb%3A0.npy")],
)
def test_an_outputs_name_cannot_leave_the_folder(tmp_path: Path, output: str, file: str) -> None:
    content = make_models.parse("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    path = save_model(tmp_path / "m.onnx", rename_output(content, output))
    folder = tmp_path / "a" / "b" / "out"
    succeed("run", path, "-o", folder)
    assert [entry.name for entry in folder.iterdir()] == [file]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "m.onnx"]


def rename_output(content: bytes, name: str) -> bytes:
    import onnx  # noqa: PLC0415

    loaded = onnx.load_from_string(content)
    loaded.graph.output[0].name = loaded.graph.node[0].output[0] = name
    return loaded.SerializeToString()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = save(tmp_path / "file", "")
    assert refuse("run", model("double"), "-o", file) == (4, f"error: cannot write `{file}`: file exists")
    below = file / "out"
    assert refuse("run", model("double"), "-o", below) == (4, f"error: cannot write `{below}`: not a directory")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "y.npy").mkdir()
    assert refuse("run", model("double"), "-o", tmp_path) == (
        4,
        f"error: cannot write `{tmp_path / 'y.npy'}`: is a directory",
    )
