"""Tables of mixed columns: what they are taken for, and that cells become sites and back."""

import re
import warnings
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tightbound as tb
from data_checks import refused
from tightbound.data.frames import Column, TableSchema, infer
from tightbound.errors import DataError, FormatError

ROWS = 60
RNG = np.random.default_rng(0)
DAYS = [date(2020, 1, 1) + timedelta(days=int(day)) for day in RNG.integers(0, 900, ROWS)]
TABLE = {
    "height": RNG.normal(1.7, 0.1, ROWS).tolist(),
    "income": np.exp(RNG.normal(10, 1, ROWS)).tolist(),
    "visits": RNG.poisson(30, ROWS).tolist(),
    "quality": RNG.integers(3, 9, ROWS).tolist(),
    "smoker": (RNG.random(ROWS) < 0.3).tolist(),
    "town": RNG.choice(["Bonn", "Ulm", "Trier"], ROWS).tolist(),
    "day": DAYS,
    "moment": [datetime(day.year, day.month, day.day, 13, 30) for day in DAYS],
    "number": list(range(ROWS)),
    "key": [f"row {i}" for i in range(ROWS)],
    "country": ["DE"] * ROWS,
    "text numbers": [("?" if i % 7 == 0 else str(i / 4)) for i in range(ROWS)],
}
MAKERS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


@pytest.fixture(params=MAKERS)
def table(request: pytest.FixtureRequest) -> object:
    return MAKERS[request.param](TABLE)


def columns_of(table: object) -> dict[str, list]:
    return nw.from_native(table, eager_only=True).to_dict(as_series=False)


def test_kinds_are_those_of_the_values(table: object) -> None:
    schema = infer(table)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "height": "real", "income": "positive", "visits": "count", "quality": "ordinal", "smoker": "boolean",
        "town": "category", "day": "real", "moment": "real", "text numbers": "real",
    }  # fmt: skip
    reasons = {out.name: out.reason for out in schema.left_out}
    assert "identifier" in reasons["number"] and "identifier" in reasons["key"] and "one value only, DE" in reasons["country"]
    assert [name for name, *_ in schema.lines()] == list(TABLE) and schema.column("moment").unit.startswith("seconds")


def test_cells_become_sites_and_back(table: object) -> None:
    """Same columns in the same order, same types, same values; identifiers are not invented."""
    schema = infer(table)
    data = schema.encode(table)
    back = schema.decode(np.where(data.observed, data.x, np.nan), like=table)
    assert type(back) is type(table)
    found, known = columns_of(back), columns_of(table)
    assert list(found) == [name for name in TABLE if name not in ("number", "key")]
    for name, cells in found.items():
        if name == "text numbers":
            numbers = [float("nan") if cell is None else float(cell) for cell in cells]
            expected = [float("nan") if cell == "?" else float(cell) for cell in known[name]]
            np.testing.assert_allclose(numbers, expected, rtol=1e-5)
        elif name in ("height", "income"):
            np.testing.assert_allclose(cells, known[name], rtol=1e-5)
        elif name == "moment":
            assert max(abs(a - b) for a, b in zip(cells, known[name], strict=True)) < timedelta(seconds=30)
        else:
            assert [str(cell) for cell in cells] == [str(cell) for cell in known[name]]
    frame, original = (nw.from_native(t, eager_only=True) for t in (back, table))
    same = {name for name in found if name not in ("moment", "day") and str(frame[name].dtype) == str(original[name].dtype)}
    assert same == set(found) - {"moment", "day"}


def test_only_missing_cells_are_filled(table: object) -> None:
    frame = nw.from_native(table, eager_only=True)
    third = nw.new_series("third", [i % 3 == 0 for i in range(ROWS)], nw.Boolean, backend=frame.implementation.value)
    holed = frame.with_columns(
        *(nw.when(third).then(nw.lit(None)).otherwise(nw.col(name)).alias(name) for name in ("height", "visits", "town"))
    )
    schema = infer(table)
    filled = columns_of(schema.fill(holed.to_native(), schema.encode(table).x))
    for name, cells in columns_of(table).items():
        if name == "height":
            np.testing.assert_allclose(filled[name], cells, rtol=1e-5)
        elif name != "text numbers":
            assert filled[name] == cells


def test_markers_nulls_and_nan_are_missing() -> None:
    table = pl.DataFrame({"a": [1.5, None, float("nan"), 2.5, 0.5], "b": ["x", "?", None, "y", "x"]})
    observed = infer(table).encode(table).observed
    assert observed.tolist() == [[True, True], [False, False], [False, False], [True, True], [True, True]]


def test_a_number_that_is_named_as_a_marker_is_missing_whatever_the_type_of_its_column() -> None:
    table = pl.DataFrame({"a": [1.5, 999.0, 2.5, -1.5], "b": [3, 5, 999, 70], "c": ["x", "999", "y", "x"]})
    schema = infer(table, markers=("999",))
    data = schema.encode(table)
    assert data.observed.tolist() == [[True, True, True], [False, True, False], [True, False, True], [True, True, True]]
    assert 999.0 not in schema.fill(table, np.where(data.observed, data.x, data.x[:1]))["a"].to_list()


def test_missing_values_of_pandas_own_types_are_missing() -> None:
    table = pd.DataFrame({
        "i": pd.array([1, None, 30, 77], dtype="Int64"), "b": pd.array([True, None, False, True], dtype="boolean"),
        "c": pd.Categorical(["x", None, "y", "x"]), "f": pd.array([1.5, None, 2.5, 9.25], dtype="Float64"),
        "s": pd.array(["a", None, "b", "a"], dtype="string"),
        "t": pd.to_datetime(["2020-01-01", None, "2021-05-05", "2020-06-06"]),
    })  # fmt: skip
    schema = infer(table)
    assert [column.kind for column in schema.columns] == ["count", "boolean", "category", "real", "category", "real"]
    data = schema.encode(table)
    assert not data.observed[1].any() and data.observed[[0, 2, 3]].all()
    filled = schema.fill(table, np.where(data.observed, data.x, data.x[0]))
    pd.testing.assert_frame_equal(filled.iloc[[0, 2, 3]], table.iloc[[0, 2, 3]], check_dtype=False)
    assert filled["i"][1] == 1 and filled["c"][1] == "x" and not filled.isna().any().any()


def test_exact_decimals_become_numbers() -> None:
    table = pl.DataFrame({"price": [Decimal("1.50"), None, Decimal("2.25")], "small": pl.Series([1, None, 9], dtype=pl.UInt8)})
    schema = infer(table)
    filled = schema.fill(table, schema.encode(table).x)
    assert filled["price"].to_list()[::2] == [1.5, 2.25] and filled["price"].null_count() == 0
    assert filled["small"].dtype == pl.UInt8


def test_times_with_a_zone_keep_it() -> None:
    moments = [datetime(2024, 3, day, 12, tzinfo=UTC) for day in (1, 5, 9)]
    table = pl.DataFrame({"t": moments})
    schema = infer(table)
    back = schema.decode(schema.encode(table).x, like=table)
    assert back["t"].dtype == table["t"].dtype
    assert max(abs(a - b) for a, b in zip(back["t"].to_list(), moments, strict=True)) < timedelta(seconds=1)


def test_moments_that_are_whole_days_hours_or_minutes_stay_so() -> None:
    minutes = RNG.integers(0, 9000, ROWS).tolist()
    steps = {
        "days": timedelta(days=1),
        "hours": timedelta(hours=1),
        "minutes": timedelta(minutes=1),
        "seconds": timedelta(seconds=1),
    }
    table = {name: [datetime(2020, 1, 1) + number * step for number in minutes] for name, step in steps.items()}
    table["date"] = [moment.date() for moment in table["days"]]
    table["parts"] = [datetime(2020, 1, 1) + timedelta(seconds=number / 7) for number in minutes]
    schema = infer(pl.DataFrame(table))
    assert [line[2].split("; ")[-1] for line in schema.lines()] == [
        *(f"whole {name}" for name in steps), "whole days", "seconds since 1970-01-01",
    ]  # fmt: skip
    x = schema.encode(pl.DataFrame(table)).x
    shifted = schema.decode(x + 0.3 * np.array([column.step / column.scale for column in schema.columns]))
    for name in (*steps, "date"):
        assert shifted[name].to_list() == table[name]


def test_columns_are_found_by_name_and_new_levels_are_missing() -> None:
    schema = infer(pd.DataFrame(TABLE))
    shuffled = pd.DataFrame(TABLE)[sorted(TABLE)].assign(town=["Rome", *TABLE["town"][1:]], visits=[-1, *TABLE["visits"][1:]])
    data = schema.encode(shuffled)
    for name, word in (("town", "Rome"), ("visits", "-1")):
        at = schema.names.index(name)
        assert not data.observed[0, at] and data.observed[1:, at].all()
        assert any(f"'{name}': 1 cell, {word}, is nothing that training saw" in note for note in data.notes)
    with refused("no column 'height'", error=DataError):
        schema.encode(shuffled.drop(columns="height"))
    with refused("it was left out, it has one value only", error=DataError):
        schema.column("country")


def test_mixed_cells_are_text_and_truth_values_in_objects_are_boolean() -> None:
    table = pd.DataFrame({"mixed": [1, "a", 2.5, "a"], "truth": pd.Series([True, None, False, True], dtype=object)})
    schema = infer(table)
    assert [(column.kind, column.values) for column in schema.columns] == [
        ("category", ("1", "2.5", "a")),
        ("boolean", ("False", "True")),
    ]


def test_the_density_of_the_units_is_that_of_the_change() -> None:
    """log |dx/du| = offset + slope · x, against a difference quotient."""
    for column in (
        Column(kind="real", name="u", shift=3.0, scale=2.5),
        Column(kind="positive", name="u", shift=1.0, scale=0.5),
    ):
        u = np.array([0.5, 3.0, 40.0])
        x = column.encode(u)
        quotient = (column.encode(u * (1 + 1e-6)) - column.encode(u * (1 - 1e-6))) / (2e-6 * u)
        np.testing.assert_allclose(column.offset + column.slope * x, np.log(quotient), rtol=1e-6)
        np.testing.assert_allclose(column.decode(x), u, rtol=1e-12)


def test_what_is_named_wins() -> None:
    table = pd.DataFrame({"size": ["s", "m", "l", "m"], "year": [1990, 1991, 1990, 1995], "note": ["a", "b", "b", "a"]})
    schema = infer(table, columns={"size": {"kind": "ordinal", "values": ["s", "m", "l"]}, "year": "real", "note": "left-out"})
    assert schema.column("size").values == ("s", "m", "l") and schema.column("year").kind == "real"
    assert schema.encode(table).x[:, 0].tolist() == [0, 1, 2, 1] and schema.left_out[0].reason == "as asked for"


@pytest.mark.parametrize(
    ("table", "columns", "words"),
    [
        ({"a": [1.0, np.inf]}, {}, "infinite"),
        ({"a": ["x", "y"]}, {"a": "real"}, "holds text"),
        ({"a": [1.5, -2.0]}, {"a": "positive"}, "not positive"),
        ({"a": [1.5, 2.0]}, {"a": "count"}, "not of counts"),
        ({"a": [1.0, 2.0, 3.0]}, {"a": "boolean"}, "a boolean has two"),
        ({"a": [1.0, 2.0]}, {"b": "real"}, "does not have: b"),
        ({"a": [1.0, 2.0]}, {"a": "reel"}, "unknown kind 'reel'"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": ["x"]}}, "'y', which values does not name"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "levels": 2}}, "unknown levels"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": ["x"]}}, "a list of numbers, got ['x']"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": 1.5}}, "a list of numbers, got 1.5"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "step": "x"}}, "a step is a number, 0 for none, got 'x'"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "step": -1.0}}, "a step is a number, 0 for none, got -1.0"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "positive", "step": 0.5}}, "has no step"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "positive", "atoms": [0.0]}}, "so that 0 cannot be an atom"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "atoms": [1.0]}}, "has no atoms"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": "xy"}}, "a list of words or numbers, got 'xy'"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": 5}}, "a list of words or numbers, got 5"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": ["x", "y", "x"]}}, "'x' more than once"),
        ({"a": ["1", "2"]}, {"a": {"kind": "ordinal", "values": ["1", "2", "1.0"]}}, "'1' more than once"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "values": [1.5]}}, "has no values to name"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": [1.5, 1.5]}}, "atoms has 1.5 more than once"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": [1.5, 1.5 + 1e-9]}}, "cannot be told apart"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": [1e300]}}, "1e+300 is too far out"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": [10**400]}}, "atoms are a list of numbers, got [1000"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "atoms": [True]}}, "atoms are a list of numbers, got [True]"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "step": True}}, "a step is a number, 0 for none, got True"),
        ({"a": [1.5, 2.0]}, {"a": {"kind": "real", "step": 1e9}}, "a step of 1e+09 is wider than all of its numbers"),
        ({"a": [1, 2]}, {"a": {"kind": "ordinal", "values": [1, 2, "many"]}}, "of type Int64, which cannot hold 'many'"),
        ({"a": [1, 2]}, {"a": {"kind": "ordinal", "values": [1, 2, 2.5]}}, "of type Int64, which cannot hold '2.5'"),
        ({"a": [1.0, 2.5]}, {"a": {"kind": "ordinal", "values": [1, 2.5, "x"]}}, "which cannot hold 'x'"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": ["x", "y", "NA"]}}, "'NA', which stands for a missing cell"),
        ({"a": ["x", "y"]}, {"a": {"kind": "category", "values": ["x", "y", ""]}}, "'', which stands for a missing cell"),
        ({"a": ["x", "y"]}, {"a": {"values": ["x", "y"]}}, "column 'a': it has no kind (allowed: real"),
        ({"a": [1.5, 2.0]}, {"a": 3}, "expected a kind or a table with kind"),
        ({"a": [1.5, 2.0]}, 3, "says by name what a column is"),
        ({"a": [1.0, 1.0]}, {}, "no column of the table"),
        ({"a": []}, {}, "no rows"),
        ({1: [1.0, 2.0]}, {}, "must be text"),
    ],
)
def test_what_does_not_fit_is_refused(table: dict[str, list], columns: dict[str, str], words: str) -> None:
    with refused(words, error=DataError):
        infer(pd.DataFrame(table), columns=columns)


def test_values_and_atoms_may_be_those_of_numpy_and_pandas() -> None:
    table = pd.DataFrame({"grade": [1, 2, 3, 2] * 5, "size": ["s", "m", "s", "m"] * 5, "price": [0.0, 1.5, 0.0, 2.5] * 5})
    asked = {
        "grade": {"kind": "ordinal", "values": [np.int64(3), np.int64(2), np.int64(1)]},
        "size": {"kind": "ordinal", "values": pd.Index(["s", "m"])},
        "price": {"kind": "real", "atoms": np.zeros(1, np.float32)},
    }
    grade, size, price = infer(table, columns=asked).columns
    assert (grade.values, size.values, price.atoms) == (("3", "2", "1"), ("s", "m"), (0.0,))


def test_numbers_that_single_precision_cannot_tell_apart_are_one_atom() -> None:
    """Two sites of one code would share its probability, and the density would not add up to one."""
    beside = [3.0] * 40 + [3.0 + 1e-10, 3.0 + 2e-10] + [3.0 + 1e-9] * 40
    (column,) = infer(pd.DataFrame({"a": beside + list(np.random.default_rng(0).normal(size=120))})).columns
    assert column.atoms == (3.0,)


def test_the_step_of_very_large_numbers_is_none() -> None:
    """Doubles beyond 2^53 are all whole, and a step of one is nothing among them."""
    (column,) = infer(pd.DataFrame({"a": 1e300 * np.random.default_rng(0).normal(size=100)})).columns
    assert column.step == 0.0


@pytest.mark.parametrize(
    ("words", "in_order"),
    [
        (["9", "10", "-1", "-2", "0.5"], ("-2", "-1", "0.5", "9", "10")),
        (["00010", "-0002", "00000", "-0001"], ("-0002", "-0001", "00000", "00010")),
        (["low", "high", "9", "10"], ("10", "9", "high", "low")),
    ],
)
def test_words_that_are_numbers_have_the_order_of_numbers(words: list[str], in_order: tuple[str, ...]) -> None:
    """It is the order of an ordinal: in that of text, 10 would come before 9, and −1 before −2."""
    table = pd.DataFrame({"level": words * 3, "size": np.arange(3.0 * len(words)) ** 1.5})
    (level, _) = infer(table, columns={"level": "ordinal", "size": "real"}).columns
    assert level.values == in_order
    assert infer(table, columns={"level": "category", "size": "real"}).column("level").values == level.values


def test_names_that_occur_twice_and_what_is_no_table_are_refused() -> None:
    with refused("'a'", error=DataError):
        infer(pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["a", "a"]))
    with refused("expected a pandas, polars or pyarrow table, got list", error=DataError):
        infer([[1.0]])


def test_a_schema_survives_json() -> None:
    schema = infer(pd.DataFrame(TABLE))
    assert TableSchema.from_json(schema.to_json()) == schema


def spiky(rows: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Gains that are mostly none or capped, hours that are mostly forty, prices of two decimals, weights of many digits."""
    rng = np.random.default_rng(seed)
    gains = np.where(rng.random(rows) < 0.8, 0.0, np.minimum(np.exp(rng.normal(7, 2, rows)), 5000.0))
    hours = np.where(rng.random(rows) < 0.5, 40, rng.integers(1, 90, rows))
    prices = np.round(rng.gamma(40.0, 0.05, rows), 2)
    return pd.DataFrame({"gain": gains, "hours": hours, "price": prices, "weight": rng.normal(size=rows)})


def test_numbers_that_occur_again_and_again_are_atoms_and_rounded_ones_have_a_step() -> None:
    schema = infer(spiky())
    found = {column.name: (column.kind, column.atoms, column.step) for column in schema.columns}
    assert found == {
        "gain": ("real", (0.0, 5000.0), 0.0), "hours": ("real", (40.0,), 1.0), "price": ("real", (), 0.01),
        "weight": ("real", (), 0.0),
    }  # fmt: skip
    contents = {name: text for name, _, text in schema.lines()}
    assert contents["gain"] == "real numbers; often 0, 5000" and contents["hours"] == "real numbers; in steps of 1; often 40"


def test_of_few_different_numbers_all_that_are_not_rare_are_atoms() -> None:
    """Doses in a standardised column are as far from one another as others' noise: a density would blur them."""
    rng = np.random.default_rng(0)
    doses = np.append(rng.choice([-1.5, -1.2, 0.1, 2.7], 996), [0.4, 0.4, 3.1, 9.9])
    table = pd.DataFrame({"dose": doses, "level": np.exp(np.round(rng.normal(size=1000))), "weight": rng.normal(size=1000)})
    schema = infer(table)
    level, often = np.unique(table["level"], return_counts=True)
    assert {column.name: column.atoms for column in schema.columns} == {
        "dose": (-1.5, -1.2, 0.1, 2.7), "level": tuple(level[often >= 20]), "weight": (),
    }  # fmt: skip
    assert schema.column("level").kind == "positive"
    pd.testing.assert_frame_equal(schema.decode(schema.encode(table).x, like=table), table)


def test_a_column_may_consist_of_atoms_alone() -> None:
    table = pd.DataFrame({"dose": [0.5, 2.5] * 40, "weight": np.random.default_rng(0).normal(size=80)})
    assert infer(table).column("dose").atoms == (0.5, 2.5)
    density = tb.VAEDensity(latent=1, hidden=(64,), steps=400, learning_rate=1e-2, random_state=0).fit(table)
    drawn = density.sample(400)["dose"]
    assert drawn.isin([0.5, 2.5]).mean() > 0.95 and np.all(np.isfinite(density.score_samples(table)))


def test_atoms_come_back_exactly_and_numbers_between_steps_do_not_come_at_all() -> None:
    table = spiky()
    schema = infer(table)
    back = schema.decode(schema.encode(table).x, like=table)
    assert (back["gain"] == 0.0).equals(table["gain"] == 0.0) and (back["gain"] == 5000.0).equals(table["gain"] == 5000.0)
    pd.testing.assert_series_equal(back["price"], table["price"])
    pd.testing.assert_series_equal(back["hours"], table["hours"])
    between = schema.decode(schema.encode(table).x + np.array([0.01, 0.01, 0.01, 0.01]))
    prices = np.asarray(between["price"])
    np.testing.assert_allclose(prices, np.round(prices, 2), rtol=1e-12)


def test_log_units_leave_out_what_has_a_probability() -> None:
    table = spiky()
    schema = infer(table)
    per_row = schema.log_units(schema.encode(table, units=False))
    gain, weight = schema.column("gain"), schema.column("weight")
    free = ~table["gain"].isin([0.0, 5000.0]).to_numpy()
    np.testing.assert_allclose(per_row, free * gain.offset + weight.offset, rtol=1e-6)


def test_what_is_named_wins_over_atoms_and_steps() -> None:
    named = infer(spiky(), columns={"gain": {"kind": "real", "atoms": []}, "price": {"kind": "real", "step": 0.5}})
    assert named.column("gain").atoms == () and named.column("price").step == 0.5
    assert infer(spiky(), columns={"hours": "count"}).column("hours").atoms == ()
    alone = infer(pd.DataFrame({"a": [1.0, 2.0, 1.0]}), columns={"a": {"kind": "real", "atoms": [1.0, 2.0]}})
    assert alone.column("a").atoms == (1.0, 2.0)  # as a column that was found to consist of atoms is printed


def test_units_are_round_numbers_that_folds_share() -> None:
    schemas = [infer(spiky(1000, seed)) for seed in range(3)]
    for name in ("hours", "price", "weight"):
        assert len({(schema.column(name).shift, schema.column(name).scale) for schema in schemas}) == 1
        assert np.log2(schemas[0].column(name).scale).is_integer()


def test_whole_numbers_that_vary_less_than_a_poisson_are_no_counts() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "grade": rng.binomial(15, 0.6, 3000) + 1, "ages": rng.binomial(300, 0.9, 3000), "visits": rng.poisson(9, 3000),
    })  # fmt: skip
    schema = infer(table)
    assert [column.kind for column in schema.columns] == ["ordinal", "real", "count"]
    assert schema.column("ages").step == 1.0


def test_draws_end_where_the_numbers_that_were_seen_do() -> None:
    table = spiky().assign(visits=np.arange(2000) % 50, word=["a", "b"] * 1000)
    schema = infer(table, columns={"visits": "count"})
    far = np.vstack([schema.encode(table).x[:1] + sign * np.array([1e3, 1e3, 1e3, 1e3, 0, 0]) for sign in (-1, 1)])
    far[1, 4] = 80
    ends = schema.decode(schema.within(far), like=table)
    numbers = table.drop(columns="word")
    assert ends["gain"].tolist() == [0.0, 5000.0] and ends["visits"].tolist() == [0, 49]
    np.testing.assert_allclose(
        ends[["hours", "price", "weight"]], numbers[["hours", "price", "weight"]].agg(["min", "max"]), rtol=1e-6
    )
    apart = schema.within(far, {3: (-np.inf, np.inf)})
    assert (apart[:, 3] == far[:, 3].astype(np.float32)).all() and (apart[:, :3] == schema.within(far)[:, :3]).all()
    rows = schema.encode(table).x
    np.testing.assert_array_equal(schema.within(rows), rows)
    plain = Column(kind="real", name="a")
    assert plain.within(np.array([1e9])).tolist() == [1e9]


def test_numbers_in_other_units_are_noted() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"height": rng.normal(1.7, 0.1, 300), "weight": rng.normal(70, 9, 300), "born": pd.Timestamp("2020-01-01")}
    )
    table["born"] += pd.to_timedelta(np.arange(300) % 50, "D")
    schema = infer(table)
    new = table.assign(height=100 * table["height"], born=table["born"] + pd.Timedelta(365, "D"))
    (note,) = schema.encode(new).notes
    assert note.startswith("column 'height': most numbers are beyond 1.38937 … 2.0066, ")
    assert not schema.encode(table).notes and not schema.encode(new[:4]).notes


LONG = re.compile(
    "nanoseconds|milliseconds|Int64|decimal|uint64|polars zone|pandas moments"
)  # of more digits than a site holds
MOMENT = datetime(2020, 1, 1, 8, 30, 15, 123456)
HELD = {
    "pandas nanoseconds": pd.Series(pd.to_datetime(["2020-01-01 00:00:00.123456789", None, "2021-01-01 00:00:00.000000001"])),
    "pandas zone": pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"])).dt.tz_localize("Europe/Berlin"),
    "pandas Int64": pd.Series([2**60 + 1, None, 7], dtype="Int64"),
    "pandas boolean": pd.Series([True, None, False], dtype="boolean"),
    "pandas string": pd.Series(["a", None, "b"], dtype="string"),
    "pandas objects": pd.Series([1, None, 2.5], dtype=object),
    "pandas ordered": pd.Series(pd.Categorical(["low", None, "high"], categories=["low", "high"], ordered=True)),
    "pandas pyarrow": pd.Series([1, None, 300], dtype="int64[pyarrow]"),
    "pandas days": pd.Series([date(2020, 1, 1), None, date(2021, 1, 1)], dtype=object),
    "polars milliseconds": pl.Series([MOMENT, None, datetime(2021, 1, 1)], dtype=pl.Datetime("ms")),
    "polars enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
    "polars decimal": pl.Series([Decimal("12345678901234567891.12"), None, Decimal("2.50")]),
    "polars time": pl.Series([time(8), None, time(9)]),
    "polars int8": pl.Series([1, None, 100], dtype=pl.Int8),
    "pyarrow seconds": pa.chunked_array(
        [pa.array([MOMENT.replace(microsecond=0), None, datetime(2021, 1, 1)], pa.timestamp("s"))]
    ),
    "pyarrow decimal": pa.chunked_array(
        [pa.array([Decimal("12345678901234567891.12"), None, Decimal(3)], pa.decimal128(38, 2))]
    ),
    "pyarrow time": pa.chunked_array([pa.array([time(8), None, time(9)], pa.time32("s"))]),
    "pyarrow dictionary": pa.chunked_array([pa.array(["a", None, "b"], pa.dictionary(pa.int8(), pa.string()))]),
    "pyarrow large_string": pa.chunked_array([pa.array(["a", None, "b"], pa.large_string())]),
    "pyarrow uint64": pa.chunked_array([pa.array([2**63 + 5, None, 7], pa.uint64())]),
    "pandas decimals": pd.Series([Decimal("1.50"), None, Decimal("2.25")], dtype=object),
    "pandas int8": pd.Series([1, 2, 100], dtype="int8"),
    "pandas float32": pd.Series([1.5, None, 2.5], dtype="float32"),
    "pandas text": pd.Series(["a", None, "b"], dtype=object),
    "pandas seconds": pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"])).astype("datetime64[s]"),
    "pandas categories never seen": pd.Series(pd.Categorical(["x", None, "y"], categories=["y", "z", "x"])),
    "pandas whole categories": pd.Series(pd.Categorical([1, None, 3], categories=[3, 2, 1])),
    "pandas arrow zone": pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"]))
    .dt.tz_localize("Europe/Berlin")
    .astype(pd.ArrowDtype(pa.timestamp("ms", "Europe/Berlin"))),
    "pandas arrow text": pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.string())),
    "pandas arrow decimal": pd.Series([Decimal("1.50"), None, Decimal(3)], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    "pandas arrow dictionary": pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
    "pandas New York": pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01"])).dt.tz_localize("America/New_York"),
    "pandas times": pd.Series([time(8), None, time(9)], dtype=object),
    "pandas moments": pd.Series([datetime(2020, 1, 1, 8), None, datetime(9999, 12, 31, 23, 59, 59)], dtype=object),
    "pandas truth of numpy": pd.Series([np.bool_(True), None, np.bool_(False)], dtype=object),
    "polars categories": pl.Series(["a", None, "b"], dtype=pl.Categorical),
    "polars zone": pl.Series([MOMENT.replace(tzinfo=UTC), None, datetime(2021, 1, 1, tzinfo=UTC)]).dt.convert_time_zone(
        "Asia/Tokyo"
    ),
    "polars float32": pl.Series([1.5, None, 2.5], dtype=pl.Float32),
    "pyarrow decimal256": pa.chunked_array([pa.array([Decimal("1.50"), None, Decimal(3)], pa.decimal256(40, 2))]),
    "pyarrow date64": pa.chunked_array([pa.array([date(2020, 1, 1), None, date(2021, 1, 1)], pa.date64())]),
    "pyarrow halves": pa.chunked_array([pa.array([1.5, None, 2.5], pa.float16())]),
    "pyarrow string_view": pa.chunked_array([pa.array(["a", None, "b"], pa.string_view())]),
    "pyarrow zone": pa.chunked_array([pa.array([0, None, 10**12], pa.timestamp("ms", "Europe/Berlin"))]),
    "pyarrow ordered": pa.chunked_array(
        [pa.array(["b", None, "a"]).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string(), True))]
    ),
    "pandas sparse": pd.Series(pd.arrays.SparseArray([0.5, np.nan, 2.5])),
    "pandas sparse beside zeros": pd.Series(pd.arrays.SparseArray([0.5, np.nan, 2.5], fill_value=0.0)),
    "pandas sparse whole": pd.Series(pd.arrays.SparseArray([3, 0, 7])),
    "pandas sparse truth": pd.Series(pd.arrays.SparseArray([True, False, True], fill_value=True)),
    "pandas intervals": pd.Series(pd.cut([1.5, np.nan, 2.5], [0.25, 2, 3])),
    "pandas intervals of moments": pd.Series(pd.cut(pd.to_datetime(["2020-01-01", None, "2021-01-01"]), 2, right=False)),
    "pandas periods": pd.Series(pd.PeriodIndex(["2020-01", None, "2021-01"], freq="M")).astype("category"),
    "polars int128": pl.Series([1, None, 300], dtype=pl.Int128),
    "polars enum of numbers": pl.Series(["1.0", None, "3.50"], dtype=pl.Enum(["3.50", "2.0", "1.0"])),
    **{
        f"pandas categories of {name}": pd.Series([known[0], None, known[1]]).astype(pd.CategoricalDtype(known))
        for name, known in {
            "numbers as text": pd.Index(["1.0", "3.50"]), "halves": pd.Index([1.0, 0.5]),
            "singles": pd.Index([0.2, 1.0], dtype="float32"),
            "Int64": pd.Index([3, 1], dtype="Int64"), "truth": pd.Index([True, False], dtype="boolean"),
            "zones": pd.DatetimeIndex(["2021-01-01", "2020-06-01"]).tz_localize("Europe/Berlin"),
            "decimals": pd.Index([Decimal("1.50"), Decimal("3.00")], dtype=object),
            "days": pd.Index([date(2021, 1, 1), date(2020, 1, 1)], dtype=object),
        }.items()
    },
    **{
        f"pyarrow dictionary of {name}": pa.chunked_array([pa.array(cells, kind).dictionary_encode()])
        for name, (kind, cells) in {
            "numbers": (pa.int64(), [3, None, 1]), "halves": (pa.float64(), [1.0, None, 0.5]),
            "truth": (pa.bool_(), [True, None, False]), "days": (pa.date32(), [date(2021, 1, 1), None, date(2020, 1, 1)]),
            "times": (pa.time64("us"), [time(8), None, time(9, 30)]), "moments": (pa.timestamp("ms", "UTC"), [0, None, 10**12]),
            "decimals": (pa.decimal128(9, 2), [Decimal("1.50"), None, Decimal(3)]),
        }.items()
    },
}  # fmt: skip


def with_weights(held: str) -> Any:
    column = nw.from_native(HELD[held], series_only=True)
    weight = nw.new_series("weight", [0.25, 0.5, 0.75], backend=column.implementation.value)
    return weight.to_frame().with_columns(column.alias("a")).to_native()


def native_type(table: Any) -> Any:
    return table["a"].type if isinstance(table, pa.Table) else table["a"].dtype


@pytest.mark.parametrize("held", HELD)
def test_what_is_seen_keeps_its_type_and_every_digit(held: str) -> None:
    table = with_weights(held)
    schema = infer(table)
    filled = schema.fill(table, schema.encode(table).x[[0, 2, 0]])
    before, after = (columns_of(rows)["a"] for rows in (table, filled))
    assert native_type(filled) == native_type(table) and not pd.isna(after).any()
    assert [after[row] for row in (0, 2)] == [before[row] for row in (0, 2)]
    if pd.isna(before[1]) and not LONG.search(held):
        assert after[1] == before[2]  # the hole has the site of the last row


@pytest.mark.parametrize("held", HELD)
def test_rows_that_are_made_have_the_types_of_the_table(held: str) -> None:
    """The library's own types: categories in their order, precisions, zones, units; and what of the values a site holds."""
    table = with_weights(held)
    schema = TableSchema.from_json(infer(table).to_json())
    x = schema.encode(table).x
    made = schema.decode(x[[0, 2]])
    assert type(made) is type(table) and native_type(made) == native_type(table)
    before, after = (columns_of(rows)["a"] for rows in (table, made))
    if not LONG.search(held):
        assert after == [before[0], before[2]]
    holed = columns_of(schema.decode(np.where([[True], [False], [True]], x, np.nan)))["a"]
    assert pd.isna(holed).tolist() == [False, True, False] and holed[::2] == after


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Berlin"), UTC], ids=str)
def test_objects_with_a_zone_stay_in_it(zone: tzinfo) -> None:
    """The hour that the autumn has twice is its second one where it was."""
    cells = [datetime(2020, 1, 1, 3, tzinfo=zone), None, datetime(2020, 10, 25, 2, 30, tzinfo=zone, fold=1)]
    table = pd.DataFrame({"a": pd.Series(cells, dtype=object), "size": [0.5, 1.5, 2.5]})
    schema = infer(table)
    x = schema.encode(table).x
    for moment in (schema.fill(table, x[[0, 2, 0]])["a"][1], schema.decode(x)["a"][2]):
        assert moment.timestamp() == cells[2].timestamp() and moment.utcoffset() == cells[2].utcoffset()


def test_the_ends_of_the_calendar_have_a_zone_too() -> None:
    """Where a moment there has no local time it stays in UTC; what people are shown is in UTC everywhere."""
    dtype = "Datetime(time_unit='us', time_zone='America/New_York')"
    column = Column(kind="real", name="since", scale=1e12, dtype=dtype)
    first, last = column.cells(np.array([-1e9, 1e9]))
    assert (first, last.year, last.microsecond > 0) == (datetime(1, 1, 1, tzinfo=UTC), 9999, True)
    assert column.moment(0.0, minutes=True) == "1970-01-01 00:00" and column.cells(np.zeros(1))[0].hour == 19


@pytest.mark.parametrize("holes", [[None] * 3, [np.nan] * 3, ["?"] * 3], ids=["none", "NaN", "marks"])
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_column_without_a_single_cell_is_filled_in_the_type_of_training(holes: list, library: str) -> None:
    """Its own type says nothing; the dates had become numbers of days as if they were seconds."""
    table = {
        "day": [date(2020, 1, 1), date(2020, 1, 3), date(2020, 2, 1)], "at": [datetime(2020, 1, 1, hour) for hour in (3, 4, 9)],
        "size": [1.5, 2.5, 4.0], "kind": ["a", "b", "a"], "on": [True, False, True], "count": [2, 30, 400],
    }  # fmt: skip
    trained = nw.from_dict(table, backend=library).to_native()
    schema = infer(trained)
    x = schema.encode(trained).x
    for name, cells in table.items():
        given = nw.from_native(trained).with_columns(nw.new_series(name, holes, backend=library)).to_native()
        filled, before = (columns_of(rows)[name] for rows in (schema.fill(given, x), trained))
        assert filled == before == [*cells], name


def test_a_hole_does_not_change_the_words_of_intervals() -> None:
    """In a list, pandas has (18, 65] for whole bounds, and (18.0, 65.0] as soon as one cell is missing."""
    age = np.array([5.0, 30.0, 80.0] * 10)
    whole = pd.DataFrame({"age": pd.cut(age, [0, 18, 65, 100]), "size": np.arange(30.0) ** 1.5})
    holed = whole.copy()
    holed.loc[4, "age"] = None
    for trained, given in ((whole, holed), (holed, whole)):
        schema = infer(trained)
        data = schema.encode(given)
        assert not data.notes and schema.column("age").values == ("(0, 18]", "(18, 65]", "(65, 100]")
        assert schema.decode(data.x)["age"].dtype == whole["age"].dtype
    filled = schema.fill(holed, schema.encode(whole).x)
    pd.testing.assert_frame_equal(filled, whole)


def test_a_category_that_the_given_column_lacks_comes_after_its_own() -> None:
    trained = pd.DataFrame({"age": pd.cut([0.1, 0.5, 0.9] * 5, [0, 0.3, 0.6, 1.0]), "size": np.arange(15.0) ** 1.5})
    schema = infer(trained)
    given = pd.DataFrame({"age": pd.cut([0.1, 0.2, np.nan], [0, 0.3]), "size": [1.0, 2.0, 3.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = schema.fill(given, schema.encode(trained).x[[0, 0, 2]])["age"]
    assert filled.tolist() == [pd.Interval(0, 0.3), pd.Interval(0, 0.3), pd.Interval(0.6, 1.0)]
    assert list(filled.cat.categories) == [pd.Interval(0, 0.3), pd.Interval(0.6, 1.0)]


@pytest.mark.parametrize(
    ("given", "widened"),
    [
        (["low", "high"], ["low", "middle", "high"]),
        (["high", "low"], ["high", "low", "middle"]),
        (["low", "other", "high"], ["low", "other", "high", "middle"]),
    ],
    ids=["order of training", "another order", "a level of its own"],
)
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_level_that_the_given_column_lacks_stands_where_training_had_it(library: str, given: list, widened: list) -> None:
    def table(levels: list[str], cells: list) -> Any:
        if library == "polars":
            return pl.DataFrame({"a": pl.Series(cells, dtype=pl.Enum(levels)), "size": [1.5, 2.5, 4.0]})
        ordered = pd.DataFrame({"a": pd.Categorical(cells, categories=levels, ordered=True), "size": [1.5, 2.5, 4.0]})
        return ordered if library == "pandas" else pa.Table.from_pandas(ordered)

    trained = table(["low", "middle", "high", "never"], ["low", "middle", "high"])
    schema = infer(trained)
    filled = schema.fill(table(given, ["low", None, "high"]), schema.encode(trained).x)["a"]
    if library == "pyarrow":
        assert filled.type.ordered
        filled = filled.to_pandas()
    assert filled.to_list() == ["low", "middle", "high"]
    kept = filled.dtype.categories if library == "polars" else filled.cat.categories
    assert kept.to_list() == widened and (library == "polars" or filled.cat.ordered)


def test_what_another_library_cannot_hold_is_an_error_of_ours() -> None:
    far = timezone(timedelta(hours=5, minutes=30))
    moments = pa.table({"at": pa.array([0, 10**12, 2 * 10**12], pa.timestamp("ms", "+05:30")), "size": [1.5, 2.5, 4.0]})
    schema = infer(moments)
    there = schema.decode(schema.encode(moments).x, library="polars")["at"]
    assert there[1].timestamp() == 10**9 and moments["at"][1].as_py().utcoffset() == far.utcoffset(None)
    large = pl.DataFrame({"n": pl.Series([2**100, 2**101, 2**102], dtype=pl.Int128), "size": [1.5, 2.5, 4.0]})
    schema = infer(large)
    assert schema.decode(schema.encode(large).x).schema == large.schema
    with refused("column 'n' cannot be one of pyarrow", error=DataError):
        schema.decode(schema.encode(large).x, library="pyarrow")
    with refused("there are tables of pandas, polars, pyarrow, not of 'duckdb'", error=DataError):
        schema.decode(schema.encode(large).x, library="duckdb")
    with refused("the types of the columns in a stored schema are damaged", error=FormatError):
        schema.replace(types=schema.types[:40]).decode(schema.encode(large).x)


def test_holes_of_columns_that_are_left_out_are_counted_whatever_their_type() -> None:
    keys = [f"key {number}" for number in range(30)]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        for markers, holes in (((), 1), (("?", "na"), 3)):
            column = pa.chunked_array([pa.array([None, " ? ", "NA", *keys], kind)])
            table = pa.table({"key": column, "size": np.arange(33.0) ** 1.5})
            schema = infer(table, markers=markers)
            assert [out.name for out in schema.left_out] == ["key"]
            assert schema.unfilled(table)[0].endswith("its 1 hole stays" if holes == 1 else f"its {holes} holes stay")


def test_numbers_that_are_all_equal_beside_an_atom_do_not_set_the_scale() -> None:
    """They had a scale of 1, and the atom lay 10¹⁰ from them, where no network can learn anything."""
    at = np.array([-8.5e9] * 3 + [7.25e9] * 40)
    column = infer(
        pd.DataFrame({"at": at, "size": np.arange(43.0) ** 1.5}), columns={"at": {"kind": "real", "step": 0}}
    ).column("at")
    assert column.atoms == (7.25e9,) and np.abs(column.encode(at)).max() < 10


@pytest.mark.parametrize(
    "make", [pd.Categorical, lambda cells: pa.array(cells).dictionary_encode(), lambda cells: [*map(str, cells)]]
)
def test_a_marker_that_is_a_number_is_one_among_categories_too(make: Any) -> None:
    table = pa.table({"size": [1.5, 2.5, 4.0] * 9, "code": make([1.0, 2.0, -999.0] * 9)})
    schema = infer(table, markers=["-999"])
    assert set(schema.column("code").values) <= {"1.0", "2.0", "1", "2"} and schema.holes(table) == 9


def test_categories_that_are_to_be_numbers_are_numbers_again() -> None:
    for table in (
        pd.DataFrame({"size": [1.5, 2.5, 4.0], "dose": pd.Categorical([1.5, 2.5, 30.25])}),
        pl.DataFrame({"size": [1.5, 2.5, 4.0], "dose": pl.Series(["1.5", "2.5", "30.25"], dtype=pl.Categorical)}),
    ):
        schema = infer(table, columns={"dose": "real"})
        made = schema.decode(schema.encode(table).x + 0.01)["dose"]
        assert str(made.dtype).lower() == "float64" and made[0] == pytest.approx(1.5, abs=1.0)


@pytest.mark.parametrize(
    ("trained", "given", "filled"),
    [
        ([1, 2, 3], pd.Categorical([1, 2, None], categories=[1, 2]), [1, 2, 3]),
        (["1", "2", "300"], pd.Categorical([1.0, 2.0, None], categories=[1.0, 2.0]), [1.0, 2.0, 300.0]),
        ([True, False, False], pd.Categorical([True, False, None]), [True, False, False]),
        (["x", "y", "z"], pl.Series(["x", "y", None], dtype=pl.Enum(["y", "x"])), ["x", "y", "z"]),
        (pd.Categorical([Decimal("1.10"), Decimal("0.5"), Decimal("3")]), pd.Categorical([Decimal("1.10"), None, None]),
         [Decimal("1.10"), Decimal("0.5"), Decimal("3")]),
    ],
    ids=["whole numbers", "text of numbers", "truth", "enumeration", "decimals"],
)  # fmt: skip
def test_a_word_becomes_a_category_of_the_given_kind(trained: Any, given: Any, filled: list) -> None:
    size = [1.5, 2.5, 4.0]
    schema = infer(pd.DataFrame({"a": trained, "size": size}))
    x = schema.encode(pd.DataFrame({"a": trained, "size": size})).x
    table = (pl.DataFrame if isinstance(given, pl.Series) else pd.DataFrame)({"a": given, "size": size})
    cells = columns_of(schema.fill(table, x))["a"]
    assert cells == filled and [type(cell) for cell in cells] == [type(cell) for cell in filled]


def test_moments_on_another_clock_are_noted() -> None:
    naive = pd.DataFrame({"at": pd.date_range("2021-03-01", periods=30, freq="31h"), "size": np.arange(30.0) ** 1.5})
    zoned = naive.assign(at=naive["at"].dt.tz_localize("Europe/Berlin"))
    told = "moments without a zone are taken as UTC"
    assert infer(naive).encode(zoned).notes == (f"column 'at' has a zone, in training it had none: {told}",)
    assert infer(zoned).encode(naive).notes == (f"column 'at' has no zone, in training it had one: {told}",)
    assert not infer(zoned).encode(zoned).notes and not infer(naive).encode(naive).notes
    with refused("column 'at' holds text such as '01.03.2021', expected dates such as 2021-03-01", error=DataError):
        infer(naive).encode(naive.assign(at="01.03.2021"))


@pytest.mark.parametrize("places", [2, 16, 17, 22, 30])
def test_exact_decimals_are_levels_whatever_their_places(places: int) -> None:
    cells = [Decimal("0.1"), Decimal("0.3")] * 6
    table = pa.table({"k": pa.array(cells, pa.decimal128(38, places)), "size": np.arange(12.0) ** 1.5})
    schema = infer(table, columns={"k": {"kind": "ordinal", "values": ["0.1", "0.2", "0.3"]}})
    assert schema.column("k").values == ("0.1", "0.2", "0.3")
    assert schema.decode(schema.encode(table).x)["k"].to_pylist() == cells


def test_words_fill_decimals_where_they_are_numbers_or_sides() -> None:
    given = pa.table({"a": pa.array([Decimal("1.00"), None, None], pa.decimal128(5, 2)), "size": [1.5, 2.5, 4.0]})

    def filled(words: list[str]) -> list:
        trained = pa.table({"a": words, "size": [1.5, 2.5, 4.0]})
        schema = infer(trained)
        return schema.fill(given, schema.encode(trained).x)["a"].to_pylist()

    assert filled(["True", "False", "True"]) == [1, 0, 1]
    with refused("column 'a' is of type Decimal(scale=2), which cannot hold what it held in training", error=DataError):
        filled(["x", "y", "x"])


def test_levels_are_numbers_of_the_type_of_their_column() -> None:
    table = pa.table({"n": pa.array([0.1, 0.5] * 5, pa.float32()), "size": np.arange(10.0) ** 1.5})
    schema = infer(table, columns={"n": {"kind": "ordinal", "values": [0.1, 0.2, 0.5]}})
    again = schema.decode(np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert schema.encode(again).observed.all() and again["n"].to_pylist() == [np.float32(0.1), np.float32(0.2)]
    bytes_ = pa.table({"n": pa.array([1, 2] * 5, pa.uint8()), "size": np.arange(10.0) ** 1.5})
    with refused("of type UInt8, which cannot hold '300'", error=DataError):
        infer(bytes_, columns={"n": {"kind": "ordinal", "values": [1, 2, 300]}})


@pytest.mark.parametrize("pair", [(0.2, 0.3), (0.4, 0.5), (0.5, 0.6)])
def test_a_step_that_was_found_may_be_named(pair: tuple[float, float]) -> None:
    table = pa.table({"x": np.repeat(pair, 10)})
    found = infer(table).column("x").step
    assert found == 0.1 and infer(table, columns={"x": {"kind": "real", "step": found}}).column("x").step == found


def test_words_that_are_neither_true_nor_false_do_not_fill_truth_values() -> None:
    trained = pa.table({"a": ["a", "b", "x"], "size": [1.5, 2.5, 4.0]})
    schema = infer(trained)
    with refused("column 'a' is of type Boolean, which cannot hold what it held in training", error=DataError):
        schema.fill(trained.set_column(0, "a", pa.array([True, None, None])), schema.encode(trained).x)


def test_numbers_name_levels_however_they_are_written() -> None:
    table = pd.DataFrame(
        {"a": pd.Categorical([1.0, 2.0, 3.5] * 9), "on": ["0.0", "1.0", "1.0"] * 9, "size": [1.5, 2.5, 4.0] * 9}
    )
    ordinal = {"kind": "ordinal", "values": [1, 2.0, 3.5]}
    schema = infer(table, columns={"a": ordinal, "on": {"kind": "boolean", "values": [0, 1]}})
    assert schema.column("a").values == ("1.0", "2.0", "3.5") and schema.column("on").values == ("0.0", "1.0")
    for given, code in (("a=1", 0.0), ("a=1.0", 0.0), ("a=3.50", 2.0), ("on=1", 1.0), ("on=true", 1.0), ("on=0.0", 0.0)):
        assert tb.conditions(schema, given)[0].codes == (code,), given
    truth = schema.encode(table.assign(on=table["on"] == "1.0"))
    assert not truth.notes and (truth.x == schema.encode(table).x).all()
    bits = infer(pd.DataFrame({"on": [True, False] * 9, "size": np.arange(18.0) ** 1.5}))
    assert [tb.conditions(bits, f"on={word}")[0].codes for word in ("1", "1.0", "True", "0")] == [
        (1.0,),
        (1.0,),
        (1.0,),
        (0.0,),
    ]


def test_types_that_arrow_does_not_have_are_left_to_the_library() -> None:
    """Categories that are of several types come back as their words, and cost the column beside them nothing."""
    table = pd.DataFrame(
        {"a": pd.Categorical([1, "x", 2.5] * 10, categories=["x", 2.5, 1]), "b": pd.array([1, 2, 30] * 10, dtype="Int8")}
    )
    schema = infer(table)
    back = schema.decode(schema.encode(table).x)
    assert back["a"].tolist() == [str(cell) for cell in table["a"]] and back["b"].dtype == "Int8"


def test_a_dictionary_keeps_its_order_whatever_the_rows() -> None:
    """All of its chunks' values are in it, those that no row has too; what a table to fill lacks comes after its own."""
    kind = pa.dictionary(pa.int8(), pa.int64(), ordered=True)
    chunks = [pa.DictionaryArray.from_arrays(pa.array(at, pa.int8()), [9, 4, 7], ordered=True) for at in ([2, 0], [0, 2])]
    table = pa.table({"a": pa.chunked_array(chunks, kind), "weight": [0.25, 0.5, 0.75, 1.0]})
    schema = infer(table)
    made = schema.decode(schema.encode(table).x[[0, 1]])["a"]
    assert made.type == kind and made.to_pylist() == [7, 9] and made.chunk(0).dictionary.to_pylist() == [9, 4, 7]
    holed = table.set_column(0, "a", pa.chunked_array([pa.DictionaryArray.from_arrays([0, None, 0, 0], [7], ordered=True)]))
    filled = schema.fill(holed, schema.encode(table).x)["a"]
    assert filled.to_pylist() == [7, 9, 7, 7] and filled.chunk(0).dictionary.to_pylist() == [7, 9]


def test_a_schema_of_an_earlier_version_still_names_the_types() -> None:
    """It has no ``types``, but every column has the name of its own."""
    berlin = pl.Series([0, 10**12, 2 * 10**12]).cast(pl.Datetime("ms", "Europe/Berlin"))
    table = pl.DataFrame({"size": pl.Series([1.5, 2.5, 3.5], dtype=pl.Float32), "level": pl.Series([1, 2, 3], dtype=pl.UInt8)})
    table = table.with_columns(since=berlin, day=berlin.dt.date(), on=pl.Series([True, False, True]))
    schema = infer(table).replace(types="")
    assert schema.decode(schema.encode(table).x).schema == table.schema
    other = schema.decode(schema.encode(table).x, library="pyarrow")
    assert other.schema.types == [pa.float32(), pa.uint8(), pa.timestamp("ms", "Europe/Berlin"), pa.date32(), pa.bool_()]


def test_columns_of_one_value_come_back_to_the_last_digit() -> None:
    one = {"key": 2**62 + 1, "text": "1.50", "day": date(2020, 2, 29), "moment": MOMENT, "price": Decimal("1.50"), "on": True}
    table = pa.table({"size": [0.5, 1.5, 2.5], **{name: [value] * 3 for name, value in one.items()}})
    schema = infer(table)
    assert {out.name: out.value for out in schema.left_out}["moment"] == "2020-01-01 08:30:15.123456"
    back = schema.decode(schema.encode(table).x)
    assert back.select(list(one)).equals(table.select(list(one)))
    gone = pd.DataFrame({"size": [0.5, 1.5, 2.5], "delay": pd.to_timedelta([0, 0, 0])})
    assert list(infer(gone).decode(np.zeros((2, 1))).columns) == ["size"]


def test_days_and_moments_are_the_same_words() -> None:
    """Where dates are categories or levels, whichever of them training saw."""
    days = [date(2020, 1, 1 + number % 3) for number in range(9)]
    moments = [datetime(day.year, day.month, day.day) for day in days]
    for trained, given in ((days, moments), (moments, days)):
        table = pa.table({"size": np.arange(9) + 0.5, "day": trained})
        named = ["2020-01-03", "2020-01-01", "2020-01-02"]
        schema = infer(table, columns={"day": {"kind": "ordinal", "values": named}, "size": "real"})
        assert infer(table, columns={"day": "category"}).column("day").values == tuple(sorted(named))
        other = pa.table({"size": np.arange(9) + 0.5, "day": pa.array([None, *given[1:]])})
        data = schema.encode(other)
        assert not data.notes and schema.fill(other, schema.encode(table).x)["day"].to_pylist() == given
        assert schema.decode(schema.encode(table).x)["day"].to_pylist() == trained


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ([date(2020, 1, 1), date(2020, 1, 2)], ["18262", "18263"]),
        ([datetime(2020, 1, 1), datetime(2020, 1, 2, 5)], ["2020-01-01T00:00:00", "2020-01-02 05:00:00+00:00"]),
        ([Decimal("9.50"), Decimal("10.00")], ["9.50", "10.00"]),
        ([9.5, 10.0], ["9.50", "1e1"]),
    ],
)
def test_values_of_numbers_and_dates_may_be_named_as_people_write_them(cells: list, named: list[str]) -> None:
    for maker in MAKERS.values():
        table = maker({"a": cells * 3, "size": [0.5, 1.5, 2.5] * 2})
        schema = infer(table, columns={"a": {"kind": "ordinal", "values": named}, "size": "real"})
        assert schema.encode(table).x[:, 0].tolist() == [0.0, 1.0] * 3
        old = schema.replace(columns=(schema.columns[0].replace(values=tuple(named)), *schema.columns[1:]))
        assert old.encode(table).x[:, 0].tolist() == [0.0, 1.0] * 3
        assert columns_of(old.decode(old.encode(table).x))["a"] == columns_of(table)["a"]


def test_dates_a_minute_of_days_apart_are_whole_days_all_the_same() -> None:
    schema = infer(pl.DataFrame({"a": [date(1970, 1, 1), date(1970, 3, 2)] * 9, "b": np.arange(18) + 0.5}))
    assert schema.column("a").step == 1.0 and "whole days" in schema.lines()[0][2]


def test_made_numbers_are_never_beyond_what_was_seen() -> None:
    for seed in range(50):
        seen = np.exp(np.random.default_rng(seed).normal(5, 1 + seed % 3, 40))
        schema = infer(pl.DataFrame({"a": seen}))
        back = schema.decode(schema.within(np.array([[1e6], [-1e6]])))["a"].to_list()
        assert back == [seen.max(), seen.min()]


@pytest.mark.parametrize(
    ("trained", "given", "filled"),
    [
        ([20, 30, 45], [20.5, None, 45.5], [20.5, 30.0, 45.5]),
        ([20.5, 30.0, 45.5], [20, None, 45], [20, 30, 45]),
        ([True, False, True], [1, None, 1], [1, 0, 1]),
        ([1, 0, 1], [True, None, True], [True, False, True]),
        (["1", "x", "3"], [1, None, 3], None),
        ([1, 2, 3], [datetime(2020, 1, 1, 12), None, datetime(2020, 1, 2)], None),
        ([20, 1000, 45], pl.Series([20, None, 45], dtype=pl.Int8), [20, 1000, 45]),
        ([date(2020, 1, 1), date(2020, 1, 3), date(2020, 1, 2)], [datetime(2020, 1, 1, 12), None, datetime(2020, 1, 2)],
         [datetime(2020, 1, 1, 12), datetime(2020, 1, 3), datetime(2020, 1, 2)]),
        ([datetime(2020, 1, 1), datetime(2020, 1, 3), datetime(2020, 1, 2)], [date(2020, 1, 1), None, date(2020, 1, 2)],
         [date(2020, 1, 1), date(2020, 1, 3), date(2020, 1, 2)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_holes_are_filled_in_the_type_of_the_table_that_is_given(maker: Any, trained: list, given: Any, filled: list) -> None:
    if isinstance(given, pl.Series) and maker is not pl.DataFrame:
        given = given.to_arrow() if maker is pa.table else given.to_pandas()
    schema = infer(maker({"a": trained, "b": [0.5, 1.5, 2.5]}), columns={"b": "real"})
    x = schema.encode(maker({"a": trained, "b": [0.5, 1.5, 2.5]})).x
    table = maker({"a": given, "b": [0.5, 1.5, 2.5]})
    if filled is None:
        with refused("'a' is of type", "which cannot hold what it held in training"):
            schema.fill(table, x)
    else:
        assert columns_of(schema.fill(table, x))["a"] == filled


def test_days_and_seconds_are_told_apart_and_dates_from_numbers() -> None:
    days = [date(2020, 1, 1) + timedelta(days=7 * number) for number in range(40)]
    schema = infer(pl.DataFrame({"day": days}))
    moments = pl.DataFrame({"day": [datetime(day.year, day.month, day.day) for day in days]})
    np.testing.assert_allclose(schema.encode(moments).x, schema.encode(pl.DataFrame({"day": days})).x)
    with refused("'day' holds numbers, training saw dates"):
        schema.encode(pl.DataFrame({"day": [1, 2, 3]}))
    with refused("'size' holds dates, training saw numbers"):
        infer(pl.DataFrame({"size": [1.5, 2.5]})).encode(pl.DataFrame({"size": days[:2]}))


def test_numbers_far_from_zero_keep_the_digits_that_tell_them_apart(table: object) -> None:
    rng = np.random.default_rng(0)
    made = {"unix": (1.6e9 + rng.uniform(0, 1000, ROWS)).tolist(), "north": (5.4e6 + rng.uniform(0, 5, ROWS)).tolist()}
    own = type(table)(made) if not isinstance(table, pa.Table) else pa.table(made)
    back = columns_of(infer(own).decode(infer(own).encode(own).x, like=own))
    np.testing.assert_allclose(back["unix"], made["unix"], atol=2e-4, rtol=0)
    np.testing.assert_allclose(back["north"], made["north"], atol=1e-6, rtol=0)


def test_atoms_and_single_values_come_back_with_every_digit() -> None:
    rng = np.random.default_rng(0)
    cap = np.where(np.arange(400) % 2, 123456.78, rng.normal(1000, 100, 400))
    table = pd.DataFrame({"cap": cap, "one": 1234567.891})
    back = infer(table).decode(infer(table).encode(table).x, like=table)
    assert (back["cap"] == 123456.78).sum() == 200 and (back["one"] == 1234567.891).all()


def test_digits_that_are_no_number_stay_text() -> None:
    codes = ["00501", "02345", "10001", None] * 10
    table = pd.DataFrame(
        {"zip": codes, "phone": ["+491234567", "+491234568"] * 20, "delta": ["+1.5", "-0.5", "2", "0.25"] * 10}
    )
    schema = infer(table)
    assert {column.name: column.kind for column in schema.columns} == {"zip": "category", "phone": "category", "delta": "real"}
    x = schema.encode(table).x
    assert schema.fill(table, np.full_like(x, 0.0))["zip"].tolist()[3] == "00501"


def test_text_of_digits_may_be_named_a_category() -> None:
    table = pl.DataFrame({"ward": ["1", "2", "10", "2"] * 5})
    schema = infer(table, columns={"ward": {"kind": "category", "values": ["1", "2", "10"]}})
    assert schema.encode(table).x[:4, 0].tolist() == [0, 1, 2, 1]
    numbers = infer(pl.DataFrame({"level": [1, 2, 3, 2]}), columns={"level": {"kind": "ordinal", "values": [1.0, 2.0, 3.0]}})
    assert numbers.column("level").values == ("1", "2", "3")
    sides = infer(pl.DataFrame({"on": [True, False]}), columns={"on": {"kind": "boolean", "values": ["false", "true"]}})
    assert sides.column("on").values == ("False", "True")


def test_what_is_neither_number_nor_text_nor_date_is_left_out() -> None:
    table = pl.DataFrame({"a": [[1], [2]], "b": [timedelta(1), timedelta(2)], "c": [{"x": 1}, {"x": 2}], "d": [1.5, 2.5]})
    schema = infer(table)
    assert schema.names == ("d",) and all("neither numbers, text nor dates" in out.reason for out in schema.left_out)
    with refused("'a' cannot be of kind 'category'"):
        infer(table, columns={"a": "category"})
    holed = table.with_columns(d=pl.Series([None, 2.5]))
    assert schema.fill(holed, schema.encode(table).x).equals(table)


def test_the_largest_numbers_have_units() -> None:
    table = pd.DataFrame({"a": 1e300 * np.random.default_rng(0).normal(size=50)})
    schema = infer(table)
    np.testing.assert_allclose(schema.decode(schema.encode(table).x, like=table)["a"], table["a"], rtol=1e-5)


def test_markers_may_be_numbers_of_numpy() -> None:
    assert infer(pa.table({"a": [1.5, 2.5, -999.0, 4.0]}), markers=[np.int64(-999)]).column("a").low == 1.5
    words = pl.Series(["x", "y"])
    schema = infer(pa.table({"a": ["x", "y"]}), columns={"a": {"kind": "ordinal", "values": words}})
    assert schema.column("a").values == ("x", "y")


@pytest.mark.parametrize("markers", [[["a"]], [True], "NA", 3])
def test_what_is_no_marker_is_refused(markers: Any) -> None:
    with refused("markers are a list of words that stand for a missing cell", error=DataError):
        infer(pd.DataFrame({"a": [1.5, 2.5]}), markers=markers)


def test_markers_are_words_or_numbers() -> None:
    table = pl.DataFrame({"a": [1.5, -999.0, 2.5], "b": ["x", "y", "x"]})
    assert infer(table, markers=[-999]).encode(table).observed.tolist() == [[True, True], [False, True], [True, True]]
    with refused("markers are a list of words"):
        infer(table, markers="NA")
