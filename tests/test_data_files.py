"""Reading files: array files, tables and idx files, and every bad file that must end in a message."""

import csv
import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_checks import EIGHTHS, REPEATABLE, refused
from tightbound.data.arrays import Dataset
from tightbound.data.load import load
from tightbound.errors import DataError

X = np.arange(12.0).reshape(4, 3) + 0.5
IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3) * 10
LABELS = np.array([3, 1, 2, 1], np.uint8)
MNIST = Path(os.environ.get("TIGHTBOUND_DATA", "")) / "mnist" / "mnist.npz"

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """A function that writes text or bytes to a file of the given name and returns its path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def npy_bytes(x: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, x, **options)
    return stream.getvalue()


def npz_bytes(**named: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **named)
    return stream.getvalue()


def idx_bytes(x: np.ndarray, code: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    sizes = x.shape if shape is None else shape
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, code, len(sizes), *sizes) + x.tobytes()


def claiming(shape: str) -> bytes:
    """A .npy file whose header claims a shape and that holds eight bytes."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 8


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def test_the_built_in_digits() -> None:
    data = load("digits")
    assert data.x.shape == (1797, 64) and data.sites.shape == (8, 8, 1) and data.sites.levels == 17
    assert data.source == "digits" and data.labels.tolist()[:5] == [0, 1, 2, 3, 4]
    assert load("digits", binarise="threshold").sites.kind == "binary"
    assert load("digits", kind="count").sites.kind == "count"


def test_arrays_are_data_too() -> None:
    assert np.array_equal(load(X).x, X)
    assert load(X.astype(int), kind="real").sites.kind == "real"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8"])
def test_npy(write: Writer, dtype: str, order: Any) -> None:
    path = write("x.npy", npy_bytes(np.asarray(X, dtype, order=order)))
    assert np.array_equal(load(path).x, X.astype(dtype)) and load(str(path)).source == str(path)


@pytest.mark.parametrize(
    ("members", "options", "labels"),
    [
        ({"x": X, "y": LABELS, "z": X[:1]}, {}, LABELS),
        ({"X": X, "y": LABELS[:, None]}, {}, LABELS),
        ({"x_train": X, "y_train": LABELS, "x_test": X[:2], "y_test": LABELS[:2]}, {}, LABELS),
        ({"x_train": X[:2], "y_train": LABELS[:2], "x_test": X, "y_test": LABELS}, {"array": "x_test"}, LABELS),
        ({"x_train": X, "y_train": LABELS, "x_test": X}, {"array": "x_test"}, None),
        ({"x_train": X, "labels": LABELS}, {}, LABELS),
        ({"data": X, "target": LABELS}, {}, LABELS),
        ({"rows": X, "labels": LABELS}, {}, LABELS),
        ({"rows": X, "class": LABELS, "other": X}, {"array": "rows", "label": "class"}, LABELS),
        ({"x": X, "y": np.eye(4)}, {}, None),
        ({"x": X, "y": np.array([None] * 4)}, {}, None),
    ],
)
def test_npz(write: Writer, members: dict[str, np.ndarray], options: dict[str, str], labels: np.ndarray | None) -> None:
    data = load(write("set.npz", npz_bytes(**members)), **options)
    assert np.array_equal(data.x, X)
    assert np.array_equal(data.labels, labels) if labels is not None else data.labels is None
    assert labels is not None or "x_test" in members or any("left out" in note for note in data.notes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dash", ["-", "."])
def test_idx_with_the_labels_beside_it(write: Writer, packed: bool, dash: str) -> None:
    pack, end = (gzip.compress, ".gz") if packed else (bytes, "")
    path = write(f"train-images{dash}idx3-ubyte{end}", pack(idx_bytes(IMAGES)))
    assert load(path).labels is None
    write(f"train-labels{dash}idx1-ubyte{end}", pack(idx_bytes(LABELS)))
    for source in (path, path.parent):
        data = load(source)
        assert np.array_equal(data.x, IMAGES.reshape(4, 6)) and data.sites.shape == (2, 3, 1)
        assert data.sites.levels == 256 and np.array_equal(data.labels, LABELS)


def test_idx_folders_hold_parts(write: Writer) -> None:
    write("t10k-images-idx3-ubyte", idx_bytes(IMAGES[:1]))
    folder = write("other.txt", "").parent
    assert len(load(folder)) == 1
    write("train-images-idx3-ubyte", idx_bytes(IMAGES))
    assert len(load(folder)) == 4 and len(load(folder, array="t10k")) == 1


def test_idx_of_other_types(write: Writer) -> None:
    assert np.array_equal(load(write("x-idx2-ubyte", idx_bytes(X.astype(">f4"), 0x0D))).x, X)


@given(
    x=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(EIGHTHS | st.none(), min_size=width, max_size=width),
            min_size=3,
            max_size=12,
        )
    ),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    header=st.booleans(),
    mark=st.sampled_from(["NA", "nan", "?", "NULL", " "]),
    bom=st.booleans(),
)
@settings(REPEATABLE, max_examples=80)
def test_tables_are_read_as_they_were_written(tmp_path: Path, **form: Any) -> None:
    x = [[0.1, *row] for row in form["x"]]  # a first column of 0.1: no line is blank, no delimiter is in doubt
    names = [f'"{j}", a;b' for j in range(len(x[0]))] if form["header"] else []
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8-sig" if form["bom"] else "utf-8") as stream:
        writer = csv.writer(stream, delimiter=form["delimiter"], lineterminator=form["end"], quoting=form["quoting"])
        writer.writerows([names] * form["header"])
        writer.writerows([form["mark"] if cell is None else repr(cell) for cell in row] for row in x)
    data = load(tmp_path / "x.csv", missing="mask", kind="real")
    wanted = np.array(x, float)
    assert data.names == tuple(names)
    assert np.array_equal(data.x, np.nan_to_num(wanted).astype(np.float32))
    seen = np.ones(wanted.shape, bool) if data.observed is None else data.observed
    assert np.array_equal(seen, ~np.isnan(wanted))


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("a,b\n1.5,2\n", ("a", "b"), [1.5, 2]),
        ("1.5,2\n3,4\n", (), [1.5, 2]),
        (" .15e1,+2\n3,4\n", (), [1.5, 2]),
        ("\na,2020\n1.5,2\n\n", ("a", "2020"), [1.5, 2]),
        ("0,1,2\n1.5,2,3\n", ("0", "1", "2"), [1.5, 2, 3]),
        (",0,1\n0,1.5,2\n1,3,4\n", ("0", "1"), [1.5, 2]),
        (",a\n7,1.5\n8,2\n", ("a",), [1.5]),
        (",a\n7,1.5\n7,2\n", ("column 0", "a"), [7, 1.5]),
        ("?;1.5\n2;3\n", (), [0, 1.5]),
        ("a\n1.5\n2\n", ("a",), [1.5]),
        ('a\tb,c\n1.5\t"2"\n', ("a", "b,c"), [1.5, 2]),
    ],
)
def test_headers_and_delimiters_are_found(write: Writer, text: str, names: Any, first: Any) -> None:
    data = load(write("x.csv", text), missing="mask", kind="real")
    assert data.names == names and data.x[0].tolist() == first


@pytest.mark.parametrize(
    ("label", "labels", "names"),
    [("kind", ["a", "b", "a"], ("x", "y")), ("2", ["a", "b", "a"], ("x", "y")), ("-3", [1, 2, 3], ("y", "kind"))],
)
def test_a_column_of_labels_is_set_apart(write: Writer, label: str, labels: list[Any], names: Any) -> None:
    kinds = ["a", "b", "a"] if names == ("x", "y") else [7, 8, 9]
    path = write("x.csv", "x,y,kind\n" + "".join(f"{row},{row}.5,{kind}\n" for row, kind in enumerate(kinds, 1)))
    data = load(path, label=label)
    assert data.labels.tolist() == labels and data.names == names


@pytest.mark.parametrize("chosen", ["total", "2", "-1"])
def test_a_column_of_exposures_is_set_apart(write: Writer, chosen: str) -> None:
    data = load(write("x.csv", "a,kind,total\n1,u,10\n0,v,20\n3,u,30\n"), label="kind", exposure=chosen)
    assert data.exposure.tolist() == [10, 20, 30] and data.names == ("a",) and data.sites.exposure
    assert data.labels.tolist() == ["u", "v", "u"]


def test_an_array_of_exposures_is_read_from_npz(write: Writer) -> None:
    data = load(write("x.npz", npz_bytes(x=np.array([[1, 2], [3, 4]]), size=np.array([5.0, 6.0]))), exposure="size")
    assert data.exposure.tolist() == [5, 6] and data.sites.kind == "count"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,2020\n1.5,2\n", "column names: a, 2020"),
        (",a\n7,1.5\n8,2\n", "counts the rows"),
        ("a,Class\n1.5,2\n", "pass label='Class'"),
    ],
)
def test_what_a_reader_takes_for_granted_is_noted(write: Writer, text: str, words: str) -> None:
    assert any(words in note for note in load(write("x.csv", text)).notes)


def test_missing_cells_of_a_table(write: Writer) -> None:
    path = write("x.csv", "a,b\n1.5,\n2,3\n")
    with refused("column 'b'", "row 0", "missing='mask'"):
        load(path)
    assert load(path, missing="mask").observed.tolist() == [[True, False], [True, True]]


BAD_FILES: dict[str, tuple[str, str | bytes, tuple[str, ...]]] = {
    "empty": ("x.csv", b"", ("empty", "0 bytes")),
    "type": ("x.parquet", b"PAR1", ("'.parquet'", ".npy, .npz, .csv")),
    "no type": ("data", b"1,2", ("unknown type", ".csv")),
    "one image": ("x.PNG", b"\x89PNG", ("single image", "folder")),
    "garbage npy": ("x.npy", "1,2,3\n4,5,6\n", ("not a numpy array", "np.save")),
    "npy header": ("x.npy", npy_bytes(X)[:20], ("damaged", "np.save")),
    "npy of code": ("x.npy", claiming("__import__('os').getcwd()"), ("damaged",)),
    "npy too short": ("x.npy", npy_bytes(X)[:-1], ("truncated", "96 bytes", "95 there")),
    "npy of terabytes": ("x.npy", claiming("(1099511627776, 8)"), ("truncated", "8 there")),
    "npy of less than nothing": ("x.npy", claiming("(-1, 4)"), ("shape (-1, 4)",)),
    "npy too wide": ("x.npy", claiming("(0, 99999999999999999999)"), ("cannot be read",)),
    "npy pickled": ("x.npy", npy_bytes(np.array([{}]), allow_pickle=True), ("pickled", "never loaded")),
    "npy of text": ("x.npy", npy_bytes(np.array([["red"]])), ("column 0", "expected numbers")),
    "npy of records": ("x.npy", npy_bytes(np.zeros(2, "f8,i4")), ("expected numbers",)),
    "npy version 3": ("x.npy", b"\x93NUMPY\x03\x00" + npy_bytes(X)[8:], ("damaged",)),
    "garbage npz": ("x.npz", b"PK and nothing", ("not a .npz file", "np.savez")),
    "npz cut": ("x.npz", npz_bytes(x=X)[:-30], ("damaged or not a .npz",)),
    "npz without arrays": ("x.npz", npz_bytes(), ("which array", "holds nothing")),
    "npz of many": ("x.npz", npz_bytes(a=X, b=X), ("which array", "a, b", "array=")),
    "npz pickled": ("x.npz", npz_bytes(x=np.array([{}])), ("'x'", "pickled", "never loaded")),
    "npz of garbage": ("x.npz", zipped("x.npy", b"1,2,3"), ("'x'", "not a numpy array")),
    "npz that claims": ("x.npz", zipped("x.npy", claiming("(1000000000, 8)")), ("'x'", "truncated")),
    "ragged": ("x.csv", "a,b\n1,2\n3\n", ("line 3", "1 cells, expected 2")),
    "ragged by a delimiter": ("x.csv", "a,b\n1,2,\n", ("line 2", "3 cells, expected 2")),
    "text": ("x.csv", "a,b\n1,2\n\n3,red\n4,blue\n", ("column 'b'", "line 4: 'red'", "expected numbers")),
    "text without header": ("x.csv", "1.5,red\n2,blue\n", ("column 1", "line 1: 'red'")),
    "text in many columns": ("x.csv", "a,b,c,d,e,f\n" + "u,v,w,x,y,z\n", ("column 'a'", "and 1 more")),
    "underscore": ("x.csv", "a,b\n1_5,2\n", ("column 'a'", "'1_5'")),
    "decimal comma": ("x.csv", "a;b\n1,5;2,5\n", ("column 'a'", "decimal commas")),
    "thousands": ("x.csv", 'a,b\n"1,000",2\n', ("column 'a'", "1234.5")),
    "infinite": ("x.csv", "a,b\n1,inf\n", ("infinite", "column 'b'")),
    "only a header": ("x.csv", "a,b\n", ("no rows", "header")),
    "only blank lines": ("x.csv", "\n\n", ("no rows",)),
    "open quote": ("x.csv", 'a,b\n1,"2\n3,4\n', ("line", "quotes")),
    "names alike": ("x.csv", "a,a\n1,2\n", ("'a'", "more than once")),
    "not UTF-8": ("x.csv", "grösse\n1\n".encode("latin-1"), ("UTF-8",)),
    "spreadsheet": ("x.csv", zipped("xl/workbook.xml", bytes(range(256))), ("UTF-8",)),
    "garbage idx": ("a-idx3-ubyte", b"\x89PNG....", ("does not begin like an idx file", "89 50")),
    "idx cut": ("a-idx3-ubyte", idx_bytes(IMAGES)[:-1], ("24 bytes", "23 there")),
    "idx too long": ("a-idx3-ubyte", idx_bytes(IMAGES) + b"!", ("24 bytes", "more there")),
    "idx of terabytes": ("a-idx3-ubyte", idx_bytes(IMAGES, shape=(2**31, 2**10, 2**10)), ("announced",)),
    "idx header": ("a-idx3-ubyte", idx_bytes(IMAGES)[:7], ("truncated within its header",)),
    "idx without rows": ("a-idx3-ubyte", idx_bytes(IMAGES[:0]), ("empty",)),
    "gz garbage": ("a-idx3-ubyte.gz", b"garbage", ("damaged or truncated",)),
    "gz cut": ("a-idx3-ubyte.gz", gzip.compress(idx_bytes(IMAGES))[:-9], ("damaged or truncated",)),
    "gz of terabytes": ("a-idx3-ubyte.gz", gzip.compress(idx_bytes(IMAGES, shape=(2**31, 2**9, 1))), ("announced",)),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_refused(write: Writer, case: str) -> None:
    name, content, words = BAD_FILES[case]
    with refused(*words):
        load(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("x.npz", npz_bytes(x=X), {"array": "z"}, ("no array 'z'", "holds x")),
        ("x.npz", npz_bytes(x=X), {"label": "z"}, ("no array 'z' for labels", "holds x")),
        ("x.npz", npz_bytes(x=X, z=LABELS[:2]), {"label": "z"}, ("labels", "(2,)", "(4,)")),
        ("x.csv", "a,b\n1,2\n", {"label": "c"}, ("no column 'c'", "'a', 'b'")),
        ("x.csv", "a,b\n1,2\n", {"exposure": "c"}, ("no column 'c' for exposures", "'a', 'b'")),
        ("x.csv", "a,b\n1,2\n", {"exposure": "b", "label": "b"}, ("cannot be both label and exposure",)),
        ("x.csv", "a,b\n1,\n2,3\n", {"exposure": "b"}, ("exposure",)),
        ("x.npz", npz_bytes(x=X), {"exposure": "z"}, ("no array 'z' for exposures", "holds x")),
        ("x.csv", "1,2\n1,2\n", {"label": "2"}, ("no column '2'", "columns 0…1")),
        ("x.csv", "a\n1\n", {"label": "a"}, ("empty", "at least one row and one column")),
        ("x.csv", "a\n1\n", {"resize": (2, 2), "grey": True}, ("grey and resize", "it takes exposure, label")),
        ("x.npy", npy_bytes(X), {"array": "x"}, ("array cannot be used", "none of")),
        ("x.npy", npy_bytes(X), {"binarise": "fixed"}, ("grey levels", "np.round(x * 255)")),
        ("a-idx3-ubyte", idx_bytes(IMAGES), {"label": "y"}, ("label cannot be used",)),
    ],
)
def test_options_that_do_not_fit(write: Writer, name: str, content: Any, options: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        load(write(name, content), **options)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digit", ("unknown data 'digit'", "no such file", "built-in sets: digits", "did you mean 'digits'?")),
        ("nowhere.csv", ("'nowhere.csv' does not exist", "looked in")),
        ("a/b/c", ("does not exist",)),
        ("", ("unknown data ''",)),
        ("a\0b", ("unknown data",)),
        ("x" * 5000, ("cannot be read", "too long")),
        ("~nobody-of-this-name/x.csv", ("cannot be read", "home directory")),
    ],
)
def test_sources_that_are_not_there(source: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        load(source)


def test_options_of_sources_that_take_none() -> None:
    for source in ("digits", X):
        with refused("label cannot be used", "none of"):
            load(source, label="y")


def test_built_in_names_do_not_depend_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(load("digits")) == 1797
    with refused("no images"):
        load("./digits")


def test_labels_that_belong_to_other_images(write: Writer) -> None:
    write("train-labels-idx1-ubyte", idx_bytes(LABELS[:3]))
    with refused("(3,)", "(4,)", "train-images-idx3-ubyte"):
        load(write("train-images-idx3-ubyte", idx_bytes(IMAGES)))


def test_idx_folders_without_a_choice(write: Writer) -> None:
    folder = write("b-images-idx3-ubyte", idx_bytes(IMAGES)).parent
    write("a-images-idx3-ubyte", idx_bytes(IMAGES))
    for options in ({}, {"array": "c"}):
        with refused("which images?", "a-images-idx3-ubyte, b-images-idx3-ubyte"):
            load(folder, **options)


def test_files_that_may_not_be_read(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*given: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    paths = [write("x.csv", "1,2\n"), write("x.npy", npy_bytes(X)), write("a-idx3-ubyte", idx_bytes(IMAGES))]
    monkeypatch.setattr(Path, "open", denied)
    for path in paths:
        with refused(str(path), "Permission denied"):
            load(path)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with refused("neither a file nor a folder"):
        load(tmp_path / "pipe.csv")


@pytest.mark.parametrize(("method", "bomb"), [(zipfile.ZIP_DEFLATED, True), (zipfile.ZIP_STORED, False)])
def test_zip_bombs_are_not_opened(write: Writer, monkeypatch: pytest.MonkeyPatch, method: int, bomb: bool) -> None:
    monkeypatch.setattr("tightbound.data.arrayfiles._SAFE_BYTES", 10_000)
    path = write("x.npz", zipped("x.npy", npy_bytes(np.zeros((1000, 100))), method))
    if bomb:
        with refused("would expand", "-fold", ".npy"):
            load(path)
    else:
        assert len(load(path)) == 1000


def test_what_does_not_fit_into_memory(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.lib.format.read_array", full)
    with refused("does not fit into memory"):
        load(write("x.npy", npy_bytes(X)))


VALID = {
    "x.npy": npy_bytes(X),
    "x.npz": npz_bytes(x=X, y=LABELS),
    "x.csv": b'a;"b";c\r\n1.5;2;3\r\n4;5;6\r\n',
    "a-images-idx3-ubyte": idx_bytes(IMAGES),
    "a-images-idx3-ubyte.gz": gzip.compress(idx_bytes(IMAGES)),
}


@pytest.mark.parametrize("name", VALID)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), cut=st.integers(0, 400))
@settings(REPEATABLE, max_examples=80)
def test_damaged_files_are_read_or_refused(write: Writer, name: str, edits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(VALID[name])
    for position, byte in edits:
        content[position % len(content)] = byte
    try:
        data = load(write(name, bytes(content[: cut or None])))
    except DataError:
        return
    assert isinstance(data, Dataset) and np.isfinite(data.x).all()


@pytest.mark.data
@pytest.mark.skipif(not MNIST.is_file(), reason="TIGHTBOUND_DATA has no mnist/mnist.npz")
def test_mnist() -> None:
    data = load(MNIST, array="x_test", shape=(28, 28))
    assert data.sites.shape == (28, 28, 1) and data.sites.levels == 256 and len(data) == 10_000
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.statistics().scale[0] == pytest.approx(data.x.std(), rel=1e-5)
