"""A table from file to file: what its columns are, a model of them, and the rows that come out."""

import functools
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tightbound as tb
from data_checks import refused
from running import LEAN, call, sha256, shared
from tightbound.errors import DataError, SpecError
from tightbound.settings import read_schema, schema_toml
from tightbound.tabular import ends, score_table

ROWS = 400
SCHEMA = 'markers = ["unknown", ""]\n[columns]\nsize = {kind = "ordinal", values = ["s", "m", "l"]}\nheight = "positive"\n'


def people(rows: int = ROWS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    sex = rng.choice(["F", "M"], rows)
    height = np.where(sex == "F", 165.0, 180.0) + rng.normal(0, 4, rows)
    size = np.where(height < 165, "s", np.where(height < 178, "m", "l")).astype(object)
    columns = {
        "name": [f"person {i}" for i in range(rows)], "sex": sex.astype(object), "height": height.round(1).astype(object),
        "size": size, "visits": rng.poisson(40, rows).astype(object), "member": rng.random(rows) < 0.5,
        "country": ["DE"] * rows,
    }  # fmt: skip
    for name in ("sex", "height", "visits"):
        columns[name][rng.random(rows) < 0.1] = None
    columns["size"][rng.random(rows) < 0.1] = "unknown"
    return pa.table({name: pa.array(list(cells)) for name, cells in columns.items()})


class Learnt(NamedTuple):
    run: Path
    folder: Path
    out: str


@functools.cache
def learnt() -> Learnt:
    """A run on a table, never changed by a test."""
    folder = shared("table", learn)
    return Learnt(folder / "run", folder, (folder / "out.txt").read_text())


def learn(folder: Path) -> None:
    for suffix in ("csv", "parquet"):
        tb.write_table(folder / f"people.{suffix}", people())
    (folder / "schema.toml").write_text(SCHEMA)
    flags = (
        "--schema",
        folder / "schema.toml",
        "--hidden",
        64,
        "--steps",
        3000,
        "--learning-rate",
        0.003,
        *LEAN,
        "--no-diagnosis",
    )
    outcome = call("fit", folder / "people.parquet", "--out", folder / "run", *flags)
    assert outcome.code == 0, outcome.err
    (folder / "out.txt").write_text(outcome.out)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables_of_every_library_are_written(tmp_path: Path, library: str, suffix: str) -> None:
    table = people(20)
    given = {"pandas": table.to_pandas, "polars": lambda: pl.from_arrow(table), "pyarrow": lambda: table}[library]()
    tb.write_table(tmp_path / f"people.{suffix}", given)
    assert tb.read_table(tmp_path / f"people.{suffix}")["sex"].to_pylist() == table["sex"].to_pylist()


def test_a_table_is_written_under_the_name_of_one_only(tmp_path: Path) -> None:
    with refused("is no table; supported: .csv, .tsv, .parquet", error=DataError):
        tb.write_table(tmp_path / "people.txt", people(3))
    with refused("expected a pandas, polars or pyarrow table, got list", error=DataError):
        tb.write_table(tmp_path / "people.csv", [1, 2])
    assert not list(tmp_path.iterdir())


def test_what_a_column_holds_far_down_decides_on_its_type(tmp_path: Path) -> None:
    """More than the first megabyte, by which pyarrow would decide."""
    cells = [str(number % 100) for number in range(400_000)]
    (tmp_path / "long.csv").write_text("a,b\n" + "".join(f"{cell},{cell}\n" for cell in cells) + "0.5,late\n")
    table = tb.read_table(tmp_path / "long.csv")
    assert table["a"].to_pylist()[-1] == 0.5 and table["b"].to_pylist()[-2:] == ["99", "late"]


def test_a_line_of_another_length_is_named(tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text('a,b\n1,"two\nlines"\n1\n')
    with refused("line 4: 1 cells, expected 2", error=DataError):
        tb.read_table(tmp_path / "ragged.csv")
    (tmp_path / "spaced.csv").write_text('a, b\n1, "two, three"\n2, "four"\n')
    with refused("line 2: 3 cells, expected 2", "after a space a quote is a character like others", error=DataError):
        tb.read_table(tmp_path / "spaced.csv")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("\n\na,b\n1,x\n2,y\n", {"a": [1, 2], "b": ["x", "y"]}),
        ('"a\nlong",b\n1,x\n2,y\n', {"a\nlong": [1, 2], "b": ["x", "y"]}),
        ('\r\n"a\r\n\r\nlong",b\r\n1,x\r\n2,y\r\n', {"a\r\n\r\nlong": [1, 2], "b": ["x", "y"]}),
        ("town,2019,2020\nHalle,5,6.5\nKiel,7,8\n", {"town": ["Halle", "Kiel"], "2019": [5, 7], "2020": [6.5, 8.0]}),
        ("Halle,2019,2020\nKiel,2001,2002\n", {
            "column 0": ["Halle", "Kiel"], "column 1": [2019, 2001], "column 2": [2020, 2002],
        }),
        ("town,2021,2011,2001\nHalle,5,6.5,1\nKiel,7,8,2\n", {
            "town": ["Halle", "Kiel"], "2021": [5, 7], "2011": [6.5, 8.0], "2001": [1, 2],
        }),
        ("39, State-gov, 77516\n50, ?, 83311\n38, Private, 21564\n", {
            "column 0": [39, 50, 38], "column 1": ["State-gov", None, "Private"], "column 2": [77516, 83311, 21564],
        }),
        ('Name, "Sex", n\n"Alex", "M", "1.5"\n"Kim",  "F" , "2.5"\n', {
            "Name": ["Alex", "Kim"], "Sex": ["M", "F"], "n": [1.5, 2.5],
        }),
        ('a,b\n1, "x ""q"" y"\n2, "z"\n', {"a": [1, 2], "b": ['x "q" y', "z"]}),
        ("1,12a\n2,12\n3,14\n", {"column 0": [1, 2, 3], "column 1": ["12a", "12", "14"]}),
        ("a,b\n0x1F,x\n0x2A,y\n", {"a": ["0x1F", "0x2A"], "b": ["x", "y"]}),
        ("1.5,2.5\n\n3.5,4.5\n", {"column 0": [1.5, 3.5], "column 1": [2.5, 4.5]}),
        ("zip,phone,key,delta\n01234,+491234567,12345678901234567890,-0.5\n10001,,7,0.25\n", {
            "zip": ["01234", "10001"], "phone": ["+491234567", None], "key": ["12345678901234567890", "7"],
            "delta": [-0.5, 0.25],
        }),
        ('pipe,count\n5" long,1\n"6"" long",2\n', {"pipe": ['5" long', '6" long'], "count": [1, 2]}),
        ('a,b,c\n1,"x" ,"u\n\n\nv" \n2,y,"z\nw"\n3,e,f', {
            "a": [1, 2, 3], "b": ["x", "y", "e"], "c": ["u\n\n\nv", "z\nw", "f"],
        }),
        ('a,b\n1,5"\n2,"' + 70_000 * "z\n" + '"\n3,x\n', {"a": [1, 2, 3], "b": ['5"', (70_000 * "z\n").strip(), "x"]}),
    ],
    ids=[
        "blank lines", "two lines in a name", "three lines in a name", "years as names", "years as cells", "years downward",
        "a mark in the second row", "spaces before quotes", "quotes in them", "house numbers",
        "hexadecimal", "no names", "digits that are no number", "inches",
        "spaces behind quotes", "a long cell",
    ],
)  # fmt: skip
def test_what_stands_in_a_file_is_what_is_read(tmp_path: Path, text: str, columns: dict[str, list]) -> None:
    (tmp_path / "given.csv").write_bytes(text.encode())
    table = tb.read_table(tmp_path / "given.csv")
    assert table.to_pydict() == columns
    tb.write_table(tmp_path / "again.csv", table)
    assert tb.read_table(tmp_path / "again.csv").to_pydict() == columns


OPEN = [
    (3, b'a,b\n1,x\n2,"y\n3,z\n4,x\n'),
    (5, b'a,b\n1,"x\ny"\n2,y\n3,"z\n4,x\n'),
    (3, b'a,b\n1,x\n"2,y\n' + 100_000 * b"3,z\n"),
    (3, b'a,b\n1,5"\n2,"y\n3,z\n4,w\n'),
    (2, b'a,b\n1,"x\n2,y\n3,"z\n4,w\n'),
    (4, b'a,b\n1,"x"y\n2,5"\n2,"z\n3,w\n4,w\n'),
    (2, b'a,b\n"x,1\n"y,2\nz,3\nw,4\n'),
    (3, b'a,b\n1,x\n2,"y\n3,z\n'),
    (3, b'a,b\n1,x\n2,"y\n3,z'),
    (2, b'1,2,5\n3,"4,5\n5,"6,5\n7,8,5\n9,1,5\n'),
    (2, b'a,b\r1,"x\r2,y\r3,"z"\r4,w\r'),
]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,x\n2,y\n3,K\xf6ln\n", "is not text in UTF-8"),
        (b"\n\n\n", "has no rows"),
        (b"a;b\n1,5;x\n;y\n2,5;z\n", "column 'a' has decimal commas, such as 1,5; write 1234.5"),
        *((content, f"line {line}: a quote is opened there") for line, content in OPEN),
    ],
)
def test_files_that_hold_no_table_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "given.csv").write_bytes(content)
    with refused(words):
        tb.read_table(tmp_path / "given.csv")


def test_what_a_file_cannot_hold_is_refused_and_leaves_none(tmp_path: Path) -> None:
    with refused("cannot hold this table"):
        tb.write_table(tmp_path / "x.csv", pa.table({"a": [[1]]}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["", "?", "NA", "n/a", "NaN", "NULL", "None", "none"])
def test_the_usual_marks_are_missing_whatever_their_case(tmp_path: Path, word: str) -> None:
    (tmp_path / "marked.csv").write_text(f"number,word\n1.5,a\n{word},{word}\n2.5,b\n")
    for table in (tb.read_table(tmp_path / "marked.csv"), pa.table({"number": ["1.5", word, "2.5"], "word": ["a", word, "b"]})):
        schema = tb.infer(table, columns={"number": "real"})
        assert schema.encode(table).observed.tolist() == [[True] * 2, [False] * 2, [True] * 2]


def test_missing_cells_of_a_table_are_refused_on_request(tmp_path: Path) -> None:
    run = ("--out", tmp_path / "run", "--steps", 2, "--no-pictures", "--no-diagnosis")
    outcome = call("fit", learnt().folder / "people.csv", "--missing", "refuse", *run)
    assert outcome.code == 2 and "missing cells; fill them" in outcome.err and not (tmp_path / "run").exists()


def test_the_columns_are_shown_before_training() -> None:
    lines = {line.split()[0]: line for line in learnt().out.splitlines() if line.strip()}
    assert "left out" in lines["name"] and "identifier" in lines["name"]
    assert "ordinal" in lines["size"] and "3 values: s, m, l" in lines["size"]
    assert "positive" in lines["height"] and "one value only, DE" in lines["country"]


def test_csv_and_parquet_are_the_same_table() -> None:
    folder = learnt().folder
    one, other = (tb.read_table(folder / f"people.{suffix}") for suffix in ("csv", "parquet"))
    assert one["height"].to_pylist() == other["height"].to_pylist() and one.column_names == other.column_names
    kinds = [[(column.name, column.kind) for column in tb.infer(table).columns] for table in (one, other)]
    assert kinds[0] == kinds[1]


def test_a_schema_that_is_printed_can_be_read(tmp_path: Path) -> None:
    folder = learnt().folder
    printed = call("schema", folder / "people.csv", "--schema", folder / "schema.toml", "--toml")
    (tmp_path / "again.toml").write_text(printed.out)
    shown = [
        call("schema", folder / "people.csv", "--schema", path).out
        for path in (folder / "schema.toml", tmp_path / "again.toml")
    ]
    kinds = [[line.split()[:2] for line in text.splitlines()] for text in shown]
    assert printed.code == 0 and kinds[0] == kinds[1]


def test_a_schema_that_is_printed_has_the_steps_and_atoms_that_were_asked_for(tmp_path: Path) -> None:
    table = pa.table({"size": [1.0, 2.0, 3.0] * 30, "pay": [float(number % 9 + 1) ** 3 for number in range(90)]})
    asked = {"size": {"kind": "real", "step": 0, "atoms": []}, "pay": {"kind": "positive", "atoms": []}}
    schema = tb.infer(table, columns=asked)
    (tmp_path / "s.toml").write_text(schema_toml(schema))
    again = tb.infer(table, columns=read_schema(tmp_path / "s.toml")["columns"])
    assert again == schema and not any(column.step or column.atoms for column in schema.columns)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[columns]\na = 'number'", "column 'a': unknown kind 'number'"),
        ("[columns]\na = {values = ['x']}", "column 'a': it has no kind"),
        (f"[columns]\na = {{kind = 'real', atoms = [1{'0' * 400}]}}", "column 'a': atoms are a list of numbers"),
        ("columns = 3", "columns says by name what a column is"),
        ("markers = [true]", "markers are a list of words"),
    ],
)
def test_what_is_wrong_in_a_schema_is_told_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with refused("mine.toml", words, error=SpecError):
        read_schema(tmp_path / "mine.toml")


def test_the_spec_of_a_run_starts_the_same_run_again(tmp_path: Path) -> None:
    run, folder, _ = learnt()
    (tmp_path / "spec.toml").write_text(call("info", run, "--spec").out)
    flags = ("--spec", tmp_path / "spec.toml", *LEAN, "--no-diagnosis", "--draws", 5)
    outcome = call("fit", folder / "people.parquet", "--out", tmp_path / "again", *flags)
    assert outcome.code == 0 and sha256(tmp_path / "again") == sha256(run), outcome.err


def test_imputations_are_chosen_from_ten_samples_each_at_least(tmp_path: Path) -> None:
    """Of two samples three imputations would nearly be one."""
    run, folder, _ = learnt()
    for draws in (2, 30):
        outcome = call("impute", run, folder / "people.csv", "--out", tmp_path / f"{draws}.csv", "-m", 3, "--draws", draws)
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "2.csv").read_bytes() == (tmp_path / "30.csv").read_bytes()


def test_imputing_fills_the_holes_and_nothing_else(tmp_path: Path) -> None:
    run, folder, _ = learnt()
    outcome = call("impute", run, folder / "people.parquet", "--out", tmp_path / "whole.parquet")
    assert outcome.code == 0, outcome.err
    before, after = people(), tb.read_table(tmp_path / "whole.parquet")
    assert after.schema.equals(before.schema)
    for name in before.column_names:
        for old, new in zip(before[name].to_pylist(), after[name].to_pylist(), strict=True):
            assert new == old or (old in (None, "unknown") and new not in (None, "unknown"))
    # Sizes follow from heights: most of those imputed are right, by the rule that made them.
    heights, sizes, holes = after["height"].to_pylist(), after["size"].to_pylist(), before["size"].to_pylist()
    made = [(height, size) for height, size, hole in zip(heights, sizes, holes, strict=True) if hole == "unknown"]
    right = [size == ("s" if height < 165 else "m" if height < 178 else "l") for height, size in made]
    assert np.mean(right) > 0.6


def test_several_imputations_differ_in_the_holes(tmp_path: Path) -> None:
    run, folder, _ = learnt()
    assert call("impute", run, folder / "people.parquet", "-m", 3, "--out", tmp_path / "three.csv").code == 0
    table = tb.read_table(tmp_path / "three.csv")
    assert table.num_rows == 3 * ROWS and table.column_names[0] == "imputation"
    heights = np.array(table["height"].to_pylist()).reshape(3, ROWS)
    holes = np.array([cell is None for cell in people()["height"].to_pylist()])
    assert (heights[:, holes].std(axis=0) > 0).all() and (np.ptp(heights[:, ~holes], axis=0) == 0).all()


def test_filled_cells_keep_the_form_of_the_seen_ones(tmp_path: Path) -> None:
    """Times of day, codes and whole numbers that training saw as others; 'imputation' is a name that is needed."""
    lines = [f"{8 + number % 5:02}:30,0{number % 3},{number % 7}" for number in range(60)]
    (tmp_path / "own.csv").write_text("\n".join(["at,ward,stays", *lines]) + "\n")
    call("fit", tmp_path / "own.csv", "--out", tmp_path / "run", "--steps", 20, "--hidden", 8, *LEAN, "--no-diagnosis")
    (tmp_path / "new.csv").write_text("at,ward,stays\n08:30,,2.5\n,01,\n")
    outcome = call("impute", tmp_path / "run", tmp_path / "new.csv", "--out", tmp_path / "full.csv")
    assert outcome.code == 0, outcome.err
    (at, ward, stays), (other_at, other_ward, other_stays) = (
        line.replace('"', "").split(",") for line in (tmp_path / "full.csv").read_text().splitlines()[1:]
    )
    assert (at[:5], stays, other_ward) == ("08:30", "2.5", "01")
    assert ward in ("00", "01", "02") and other_at[2:5] == ":30" and 0 <= float(other_stays) <= 6
    (tmp_path / "twice.csv").write_text("imputation,at,ward,stays\n0,08:30,,2\n")
    outcome = call("impute", tmp_path / "run", tmp_path / "twice.csv", "-m", 2, "--out", tmp_path / "none.csv")
    assert outcome.code == 2 and "has a column 'imputation'" in outcome.err


def test_samples_have_the_columns_and_types_of_the_table(tmp_path: Path) -> None:
    run, _, _ = learnt()
    assert call("sample", run, "-n", 50, "--out", tmp_path / "rows.parquet").code == 0
    drawn, table = tb.read_table(tmp_path / "rows.parquet"), people()
    assert drawn.column_names == [name for name in table.column_names if name != "name"]
    assert all(drawn.schema.field(name).type == table.schema.field(name).type for name in drawn.column_names)
    assert set(drawn["country"].to_pylist()) == {"DE"} and set(drawn["size"].to_pylist()) <= {"s", "m", "l"}
    assert call("reconstruct", run, learnt().folder / "people.csv", "--out", tmp_path / "back.csv").code == 0
    assert tb.read_table(tmp_path / "back.csv").num_rows == ROWS


def test_rows_meet_what_is_given_and_follow_it(tmp_path: Path) -> None:
    run, _, _ = learnt()
    given = "height=150..165,visits=30..,member=True"
    assert call("sample", run, "-n", 200, "--given", given, "--out", tmp_path / "given.csv").code == 0
    table = tb.read_table(tmp_path / "given.csv")
    heights, visits = (np.array(table[name].to_pylist()) for name in ("height", "visits"))
    assert heights.min() >= 150 and heights.max() <= 165 and visits.min() >= 30 and all(table["member"].to_pylist())
    # By Bayes' rule nearly all people below 165 cm are women here, and nearly all are of size s.
    assert np.mean(np.array(table["sex"].to_pylist()) == "F") > 0.8
    assert np.mean(np.array(table["size"].to_pylist()) == "s") > 0.7


def test_odd_rows_have_small_p_values_and_the_cell_that_is_odd(tmp_path: Path) -> None:
    run, _, _ = learnt()
    odd = people(20, seed=5).to_pydict()
    odd["visits"] = [400] * 20
    tb.write_table(tmp_path / "odd.csv", pa.table(odd))
    assert call("score", run, tmp_path / "odd.csv", "--out", tmp_path / "scores.csv").code == 0
    scores = tb.read_table(tmp_path / "scores.csv")
    assert max(scores["p_value"].to_pylist()) < 0.1
    assert np.mean(np.array(scores["oddest_1"].to_pylist()) == "visits") > 0.9
    assert min(scores["surprise_1"].to_pylist()) > 5.0
    stated = [error for error in scores["log_p_se"].to_pylist() if error is not None]
    assert all(0.0 <= error < 2.0 for error in stated)


def test_no_row_is_drawn_twice() -> None:
    """More rows than one round gives: heights, which are real numbers, never repeat (two of seed 0 tie in single precision)."""
    schema = tb.infer(people(), columns={"size": {"kind": "ordinal", "values": ["s", "m", "l", "unknown"]}})
    x = tb.draw_given(tb.load_model(learnt().run), tb.conditions(schema, "visits=30.."), 3000, seed=1)
    assert len(np.unique(x[:, schema.names.index("height")])) == 3000


@pytest.mark.parametrize("given", ["", "sex=F"])
def test_without_a_range_every_draw_counts(given: str) -> None:
    schema = tb.infer(people(), columns={"size": {"kind": "ordinal", "values": ["s", "m", "l", "unknown"]}})
    x = tb.draw_given(tb.load_model(learnt().run), tb.conditions(schema, given), 1500)
    assert x.shape == (1500, len(schema.names))
    assert not given or np.all(x[:, schema.names.index("sex")] == 0.0)


@pytest.mark.parametrize(
    ("given", "words", "error"),
    [
        ("height", "expected COLUMN=VALUE", SpecError),
        ("weight=3", "there is no column 'weight'", DataError),
        ("name=person 1", "it was left out", DataError),
        ("sex=X", "has no value 'X'; it has F, M", DataError),
        ("sex=F..M", "has no order", DataError),
        ("height=tall", "is of numbers, got 'tall'", DataError),
        ("height=-3", "cannot be -3", DataError),
        ("visits=1_0", "is of numbers, got '1_0'", DataError),
        ("sex=F,height=180..,sex=M", "'sex' occurs twice", SpecError),
        ("visits=40..30", "nothing of column 'visits' is in 40..30", DataError),
        ("visits=..inf", "cannot be inf", DataError),
        ("height=nan..", "cannot be nan", DataError),
        ('sex="F', "has no value '\"F'", DataError),
        ("sex=F|", "expected COLUMN=VALUE", SpecError),
        ('"sex="', "got '\"sex=\"'", SpecError),
        ("visits=30...40", "nothing of column 'visits' is in 30...40", DataError),
    ],
)
def test_conditions_that_mean_nothing_are_refused(given: str, words: str, error: type) -> None:
    schema = tb.infer(people(), columns={"height": "positive"})
    with refused(words, error=error):
        tb.conditions(schema, given)


def test_what_only_a_library_knows_is_written_as_words_and_numbers(tmp_path: Path) -> None:
    sparse = pd.arrays.SparseArray([0.0, 0.5, 0.0])
    table = pd.DataFrame(
        {"size": sparse, "age": pd.cut([1, 2, 3], [0, 2, 4]), "month": pd.period_range("2020-01", periods=3, freq="M")}
    )
    table.index = [7, 8, 9]  # which is no column
    large = pl.DataFrame({"n": pl.Series([1, None, 3], dtype=pl.Int128)})
    for suffix in (".csv", ".parquet"):
        tb.write_table(tmp_path / f"table{suffix}", table)
        back = tb.read_table(tmp_path / f"table{suffix}").to_pydict()
        assert len(back) == 3 and back["size"] == [0.0, 0.5, 0.0]
        assert back["month"][0] == "2020-01" and back["age"] == ["(0, 2]", "(0, 2]", "(2, 4]"]
        tb.write_table(tmp_path / f"large{suffix}", large)
        assert tb.read_table(tmp_path / f"large{suffix}")["n"].to_pylist() == [1, None, 3]
    with refused("column 'n' is of type Int128, which files have nothing for", error=DataError):
        tb.write_table(tmp_path / "larger.csv", large.with_columns(n=pl.lit(2**100, dtype=pl.Int128)))
    assert not (tmp_path / "larger.csv").exists()
    for suffix in (".csv", ".parquet"):
        tb.write_table(
            tmp_path / f"objects{suffix}", pl.DataFrame({"c": pl.Series([(1,), (2,)], dtype=pl.Object), "d": [1, 2]})
        )
        assert tb.read_table(tmp_path / f"objects{suffix}")["c"].to_pylist() == ["(1,)", "(2,)"]
    for cells in ([[1], None], [b"\xff", None]):
        with refused("cannot hold this table", error=DataError):
            tb.write_table(tmp_path / "alone.csv", pa.table({"c": cells}))
    noted = pd.DataFrame({"n": pd.array([1, 2, 3], "Int64"), "kind": pd.Categorical(["b", "a", "b"])})
    tb.write_table(tmp_path / "noted.parquet", noted)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "noted.parquet"), noted)
    tb.write_table(tmp_path / "none.parquet", noted.head(0))
    assert pd.read_parquet(tmp_path / "none.parquet").dtypes.map(str).equals(noted.dtypes.map(str))


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("height=0..165.5", [160.0, 165.5]), ("visits=-1..2", [0, 1, 2]), ("visits=0.5..1.5", [1]), ("level=0..3", [1, 3]),
        ("level=2..", [3, 5]), ("member=true", [True]), ("member=FALSE", [False]),
    ],
)  # fmt: skip
def test_the_ends_of_a_range_need_not_be_values_of_the_column(given: str, rows: list) -> None:
    table = pa.table({
        "height": [160.0, 165.5, 170.0, 190.0], "visits": [0, 1, 2, 30], "level": [1, 3, 5, 3],
        "member": [True, False, True, True],
    })  # fmt: skip
    schema = tb.infer(table, columns={"height": "positive", "visits": "count", "level": "ordinal"})
    (condition,) = tb.conditions(schema, given)
    cells = table[schema.names[condition.number]].to_pylist()
    held = [cells[row] for row in np.flatnonzero(condition.holds(schema.encode(table).x.astype(np.float32)))]
    assert sorted(set(held)) == sorted(rows)


def test_ranges_of_rounded_numbers_hold_for_what_is_rounded_into_them() -> None:
    """Draws are rounded when they become cells: half of each end would be lost, and what is asked for between steps found."""
    numbers = np.round(np.random.default_rng(0).normal(0.0, 3.0, 600))
    days = [datetime(2021, 3, 1) + timedelta(days=int(number) % 30) for number in numbers]
    schema = tb.infer(pa.table({"s": numbers, "day": days}), columns={"s": {"kind": "real", "step": 1.0, "atoms": []}})

    def sites(*cells: Any) -> np.ndarray:
        table = pa.table({"s": pa.array(cells, pa.float64()), "day": pa.array([days[0]] * len(cells))})
        return schema.encode(table).x

    (asked,) = tb.conditions(schema, "s=0..2")
    assert asked.holds(sites(-0.6, -0.4, 1.3, 2.4, 2.6)).tolist() == [False, True, True, True, False]
    within = schema.within(sites(-0.4, 2.4), ends(schema, (asked,)))
    assert schema.decode(within)["s"].to_pylist() == [0.0, 2.0]
    (between,) = tb.conditions(schema, "s=-0.5..2.5")
    assert between[:3] == asked[:3]
    (exact,) = tb.conditions(schema, "s=1..1.2")
    assert exact.exact == tb.conditions(schema, "s=1")[0].exact
    for given, words in (
        ("s=0.25", "column 's' (real, in steps of 1) cannot be 0.25"),
        ("s=0.2..0.8", "nothing of column 's' is in 0.2..0.8"),
        ("day=2021-03-05T12:00", "column 'day' (real, whole days) cannot be 2021-03-05T12:00"),
        ("day=2021-03-05T10:00..2021-03-05T20:00", "nothing of column 'day' is in"),
    ):
        with refused(words, error=DataError):
            tb.conditions(schema, given)


def test_every_number_that_was_seen_may_be_asked_for() -> None:
    """Of hundreds of millions in cents a double has no more than the eighth digit of a step."""
    seen = np.round(np.random.default_rng(0).uniform(1e8, 9e9, 60), 2)
    schema = tb.infer(pa.table({"x": np.repeat(seen, 20)}))
    assert schema.column("x").step == 0.01
    for number in seen.tolist():
        assert tb.conditions(schema, f"x={number!r}")[0].exact is not None
    (condition,) = tb.conditions(schema, "x=..1e308")
    assert condition.high > 1e200


def test_sides_of_a_boolean_may_differ_in_case_alone() -> None:
    schema = tb.infer(pa.table({"t": ["a", "A", "a"]}), columns={"t": {"kind": "boolean", "values": ["a", "A"]}})
    assert [tb.conditions(schema, f"t={word}")[0].exact for word in ("a", "A")] == [0.0, 1.0]


def test_marks_within_quotes_are_part_of_a_value() -> None:
    towns = ["Halle, Saale", "a|b", "1..2", "Ulm", '5"']
    table = pa.table({"town": towns, "the size, cm": [1.5, 2.5, 3.5, 9.5, 9.0], " a=b ": ["F", "M", "M", "M", "M"]})
    schema = tb.infer(table, columns={"town": "category"})

    def meant(given: str) -> list[list[str]]:
        return [
            [schema.columns[asked.number].values[int(code)] for code in asked.codes] for asked in tb.conditions(schema, given)
        ]

    assert meant('town="Halle, Saale"') == [["Halle, Saale"]]
    assert meant('town="a|b"|Ulm | "Halle, Saale",') == [["a|b", "Ulm", "Halle, Saale"]]
    assert meant('town="1..2", "the size, cm"=2..3') == [["1..2"], []]
    assert meant('town=5"') == [['5"']] and meant('town=5"|Ulm') == meant('town="5"""|Ulm') == [['5"', "Ulm"]]
    assert meant('" a=b "= "F"') == [["F"]]
    (size,) = tb.conditions(schema, '"the size, cm"="2".."3.5"')
    assert np.sum(size.holds(schema.encode(table).x.astype(np.float32))) == 2


def test_where_a_range_is_open_draws_end_where_the_data_did() -> None:
    schema = tb.infer(pa.table({"age": [18.5, 30.2, 90.1], "size": [1.25, 2.5, 7.75], "sex": ["F", "M", "F"]}))
    far = np.array([[-1e3, 1e3, 0.0], [1e3, -1e3, 1.0]])

    def reached(given: str) -> list:
        x = schema.within(far, ends(schema, tb.conditions(schema, given)))
        return [schema.decode(x)[name].to_pylist() for name in ("age", "size")]

    assert reached("age=..30,size=2..3") == [[18.5, 30.0], [3.0, 2.0]]
    assert reached("age=100..,sex=F") == [[100.0, 100.0], [7.75, 1.25]]
    assert reached("age=40") == [[40.0, 40.0], [7.75, 1.25]]


def test_conditions_that_nothing_meets_are_refused(tmp_path: Path) -> None:
    run, _, _ = learnt()
    outcome = call("sample", run, "-n", 5, "--given", "visits=100000..", "--out", tmp_path / "none.csv")
    assert outcome.code == 2 and "rows drawn meet the conditions" in outcome.err and not list(tmp_path.iterdir())


def test_dates_are_conditions_too() -> None:
    days = [date(2024, 1, 1) + timedelta(days=7 * i) for i in range(50)]
    schema = tb.infer(pa.table({"day": days}))
    (condition,) = tb.conditions(schema, "day=2024-02-01..2024-03-01")
    x = schema.encode(pa.table({"day": days})).x
    assert [days[i] for i in np.flatnonzero(condition.holds(x))] == [
        day for day in days if date(2024, 2, 1) <= day <= date(2024, 3, 1)
    ]
    for year in ("2024", "2024.."):  # which are days of 1975, counted from 1970
        with refused("column 'day' is of dates such as 2024-01-01, got '2024'", error=DataError):
            tb.conditions(schema, f"day={year}")


def test_rows_without_cells_and_usual_cells_have_nothing_odd() -> None:
    surprise = np.array([[np.nan, np.nan], [-2.0, -0.5], [-2.0, 3.0]])
    table = score_table(tb.Scores(np.zeros(3), np.zeros(3), np.ones(3), surprise), ("a", "b"), 2)
    assert table["oddest_1"] == [None, None, "b"] and table["oddest_2"] == [None] * 3
    np.testing.assert_array_equal(table["surprise_1"], [np.nan, np.nan, 3.0])


def test_holes_that_stay_and_rows_with_holes_are_told_of(tmp_path: Path) -> None:
    run, _, _ = learnt()
    given = {name: [None if name in ("name", "sex") else cells[0]] for name, cells in people(1).to_pydict().items()}
    tb.write_table(tmp_path / "one.parquet", pa.table(given, people().schema))
    outcome = call("impute", run, tmp_path / "one.parquet", "--out", tmp_path / "whole.csv")
    assert (
        "note: column 'name' was left out, it looks like an identifier, 400 values in 400 rows: its 1 hole stays" in outcome.err
    )
    outcome = call("score", run, tmp_path / "one.parquet", "--out", tmp_path / "scores.csv")
    assert "note: 1 row has missing cells" in outcome.err


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    run, folder, _ = learnt()
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    assert "is no table" in call("schema", tmp_path / "x.npy").err
    assert "is no table" in call("impute", run, tmp_path / "x.npy", "--out", tmp_path / "y.csv").err
    assert "must end in .csv, .tsv or .parquet" in call("score", run, folder / "people.csv", "--out", tmp_path / "y.txt").err
    (tmp_path / "bad.toml").write_text("[column]\n")
    outcome = call("fit", folder / "people.csv", "--schema", tmp_path / "bad.toml", "--out", tmp_path / "run")
    assert outcome.code == 2 and "column: is not part of a schema (allowed: markers, [columns])" in outcome.err
    outcome = call("fit", "digits", "--schema", folder / "schema.toml", "--out", tmp_path / "run")
    assert outcome.code == 2 and "is not read as a table of columns" in outcome.err
