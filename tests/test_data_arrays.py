"""Data sets in memory: what values are taken for, what is refused, how rows are split, taken, scaled and binarised."""

from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_checks import EIGHTHS, REPEATABLE, refused
from tightbound.data.arrays import Dataset, from_arrays
from tightbound.errors import DataError, SupportError
from tightbound.schema import Sites

NAN, INF = float("nan"), float("inf")
GOLDEN_SPLIT = [1, 2, 6]
GOLDEN_BITS = "00000000000010000100011111111111"
PICTURES = np.arange(2 * 4 * 4).reshape(2, 4, 4)
GREY = from_arrays(PICTURES.astype(np.uint8) * 8)


def tables(elements: Any, rows: int = 1, columns: int = 5) -> Any:
    shapes = st.tuples(st.integers(rows, 40), st.integers(1, columns))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=elements))


def levels_of_four(**changes: Any) -> dict[str, Any]:
    return {"x": np.array([[0, 3], [2, 1]]), "sites": Sites(shape=(2,), kind="levels", levels=4)} | changes


@pytest.mark.parametrize(
    ("x", "kind", "levels", "dtype"),
    [
        ([[True, False]], "binary", 0, "uint8"),
        ([[0, 1], [1, 1]], "binary", 0, "uint8"),
        ([[0.0, 1.0]], "binary", 0, "uint8"),
        (np.zeros((3, 2, 2), np.uint8), "binary", 0, "uint8"),
        (PICTURES % 8, "levels", 8, "uint8"),
        (PICTURES % 17 * 1.0, "levels", 17, "uint8"),
        (PICTURES, "levels", 256, "uint8"),
        (PICTURES[..., None] * [1, 2, 3], "levels", 256, "uint8"),
        (PICTURES * 10, "count", 0, "int32"),
        (PICTURES / 31, "real", 0, "float32"),
        (np.array([[0, 5]], np.uint8), "levels", 6, "uint8"),
        (np.array([[0, 200]], np.uint8), "levels", 256, "uint8"),
        ([[0, 255]], "levels", 256, "uint8"),
        ([[0, 254]], "count", 0, "int32"),
        ([[2.0, 7.0]], "count", 0, "int32"),
        ([[0, 2**24]], "count", 0, "int32"),
        ([[0, 2**25]], "real", 0, "float32"),
        ([[-1, 2]], "real", 0, "float32"),
        ([[0.5, 1.0]], "real", 0, "float32"),
    ],
)
def test_the_kind_is_inferred_and_the_note_says_so(x: Any, kind: str, levels: int, dtype: str) -> None:
    data = from_arrays(x)
    assert (data.sites.kind, data.sites.levels, data.x.dtype) == (kind, levels, dtype)
    assert data.notes[0].startswith(f"taken as {kind}") and "pass kind to change" in data.notes[0]
    assert np.array_equal(data.x, np.asarray(x, np.float32).reshape(len(x), -1))


@pytest.mark.parametrize(
    ("options", "kind", "levels", "dtype"),
    [
        ({"levels": 300}, "levels", 300, "int32"),
        ({"kind": "levels"}, "levels", 8, "uint8"),
        ({"kind": "category"}, "category", 8, "uint8"),
        ({"kind": "category", "levels": 9}, "category", 9, "uint8"),
        ({"kind": "real"}, "real", 0, "float32"),
        ({"exposure": [1.0, 2.5]}, "count", 0, "int32"),
    ],
)
def test_what_is_asked_for_is_done(options: dict[str, Any], kind: str, levels: int, dtype: str) -> None:
    data = from_arrays([[0, 7], [1, 3]], **options)
    assert (data.sites.kind, data.sites.levels, data.x.dtype) == (kind, levels, dtype)
    assert data.sites.exposure == ("exposure" in options)


@pytest.mark.parametrize(
    ("shape", "wanted", "sites"),
    [
        ((2, 12), None, (12,)),
        ((2, 3, 4), None, (3, 4, 1)),
        ((2, 2, 2, 3), None, (2, 2, 3)),
        ((2, 12), (3, 4), (3, 4, 1)),
        ((2, 12), (2, 2, 3), (2, 2, 3)),
        ((2, 3, 4), (12,), (12,)),
    ],
)
def test_images_are_height_width_channels(shape: tuple[int, ...], wanted: Any, sites: tuple[int, ...]) -> None:
    assert from_arrays(np.ones(shape) / 2, shape=wanted).sites.shape == sites


BAD_ARRAYS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "one dimension": ([1, 2, 3], {}, ("one dimension", "reshape(-1, 1)")),
    "five dimensions": (np.zeros((1, 1, 1, 1, 1)), {}, ("5 dimensions", "(n, height, width, channels)")),
    "no dimension": (3.0, {}, ("float", "(n, D)")),
    "sparse": (SimpleNamespace(), {}, ("SimpleNamespace", ".toarray()")),
    "no rows": (np.zeros((0, 3)), {}, ("(0, 3)", "empty", "at least one row")),
    "no columns": (np.zeros((3, 0)), {}, ("(3, 0)", "empty")),
    "channels first": (np.zeros((2, 3, 32, 32)), {}, ("channels first", "np.moveaxis(x, 1, -1)")),
    "ragged": ([[1, 2], [3]], {}, ("equal length",)),
    "complex": ([[1j]], {}, ("complex", "real")),
    "text": ([["1", "red"]], {"names": ("a", "b")}, ("text", "column", "expected numbers")),
    "objects": (np.array([[1, None, "b"]], object), {}, ("columns 1, 2", "expected numbers")),
    "numbers as objects": (np.array([[1, 2.5]], object), {}, ("object", "x.astype(float)")),
    "dates": (np.array([["2020-01-01"]], "datetime64[D]"), {}, ("datetime64", "expected numbers")),
    "NaN": ([[1.5, NAN]] * 7, {"names": ("a", "b")}, ("column 'b'", "rows 0, 1, 2, 3, 4 and 2 more", "missing='mask'")),
    "infinite": ([[1.5, INF]], {}, ("infinite", "column 1")),
    "infinite, masked": ([[1.5, INF]], {"missing": "mask"}, ("infinite", "column 1")),
    "hidden cells": (np.ma.MaskedArray([[1, 2]], [[False, True]]), {}, ("column 1", "row 0", "missing='mask'")),
    "far from zero": (
        [[0.0, 1e6], [1.5, 1e6 + 1]],
        {"names": ("a", "year")},
        ("column 'year'", "10,000 standard deviations", "subtract an offset"),
    ),
    "too large": ([[0.5, 1e39]], {}, ("column 1", "single precision", "rescale")),
    "too small": ([[0.0], [1e-40]], {}, ("column 0", "single precision", "rescale")),
    "counts too large": ([[0, 2**24 + 1]], {"kind": "count"}, ("16,777,216", "counts")),
    "levels too many": ([[0, 70_000]], {"kind": "levels"}, ("70,000", "65,535", "kind='count'")),
    "one level": ([[0, 0]], {"levels": 1}, ("kind 'levels'", "levels ≥ 2")),
    "levels of bits": ([[0, 1]], {"kind": "binary", "levels": 2}, ("no levels",)),
    "kind": ([[0, 1]], {"kind": "bits"}, ("'bits'", "binary, levels, category, count, real")),
    "missing": ([[0, 1]], {"missing": "drop"}, ("'drop'", "refuse, mask")),
    "shape": ([[0, 1]], {"shape": (3, 3)}, ("(3, 3)", "2 values")),
    "shape of two axes too many": ([[0, 1]], {"shape": (1, 1, 1, 2)}, ("(1, 1, 1, 2)",)),
    "names": ([[0, 1]], {"names": ("a",)}, ("1 names for 2 columns",)),
    "names alike": ([[0, 1]], {"names": ("a", "a")}, ("'a'", "more than once")),
    "observed": ([[0, 1]], {"observed": [[True]]}, ("observed", "(1, 1)", "every cell")),
    "observed as numbers": ([[0, 1]], {"observed": [[1, 0]]}, ("observed", "int64", "true or false")),
    "labels": ([[0, 1]], {"labels": [1, 2]}, ("labels", "(2,)", "(1,)")),
    "labels ragged": ([[0, 1]] * 2, {"labels": [[1], [1, 2]]}, ("labels", "plain list")),
    "labels complex": ([[0, 1]], {"labels": [1j]}, ("labels", "complex128")),
    "exposure of bits": ([[0, 1]], {"kind": "binary", "exposure": [1.0]}, ("only counts have an exposure",)),
    "exposure length": ([[0, 1]], {"exposure": [1.0, 1.0]}, ("exposure", "(2,)", "(1,)")),
    "exposure zero": ([[0, 1]], {"exposure": [0.0]}, ("row 0", "positive")),
    "exposure NaN": ([[0, 1]], {"exposure": [NAN]}, ("row 0 is nan", "finite")),
    "exposure text": ([[0, 1]], {"exposure": ["long"]}, ("exposure", "not numeric")),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_refused(case: str) -> None:
    x, options, words = BAD_ARRAYS[case]
    with refused(*words):
        from_arrays(x, **options)


@pytest.mark.parametrize(
    ("kind", "levels", "words"),
    [
        ("binary", None, ("values 0 or 1", "column 'b'")),
        ("count", None, ("counts", "column 'a' has -1")),
        ("levels", 2, ("2 ordered levels", "column 'a' has -1")),
        ("category", None, ("categories", "column 'b' has 2.5")),
    ],
)
def test_values_outside_the_kind_are_named(kind: Any, levels: int | None, words: tuple[str, ...]) -> None:
    with refused(*words, error=SupportError):
        from_arrays([[0, 0], [-1, 2.5]], kind=kind, levels=levels, names=("a", "b"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": np.zeros((2, 3))}, ("(2, 3)", "(n, 2)")),
        ({"x": np.zeros(2)}, ("(2,)", "(n, 2)")),
        ({"x": np.array([["a", "b"]])}, ("expected numbers",)),
        ({"x": np.array([[0, 4]])}, ("column 1 has 4",)),
        ({"observed": np.ones((2, 2), bool)}, ("never missing", "replace(missing=True)")),
        ({"observed": np.ones((2, 1), bool)}, ("observed", "(2, 1)", "(2, 2)")),
        ({"labels": np.zeros(3)}, ("labels", "(3,)", "(2,)")),
        ({"exposure": np.ones(2)}, ("exposure is given",)),
        ({"sites": Sites(shape=(2,), kind="count", exposure=True)}, ("exposure is missing",)),
        ({"names": ("a", "b", "c")}, ("3 names for 2 columns",)),
        ({"binarise": True}, ("binary sites", "with_binarisation")),
        ({"binarise": True, "sites": Sites(shape=(2,), kind="binary"), "x": np.array([[0, 256]])}, ("has 256",)),
        ({"sites": Sites(shape=(2,), kind="real"), "x": np.array([[0.5, 1e39]])}, ("1e+39", "single precision")),
    ],
)
def test_fields_that_do_not_fit_together(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with refused(*words):
        Dataset(**levels_of_four(**changes))


def test_placeholders_must_be_admissible() -> None:
    sites = Sites(shape=(2,), kind="levels", levels=4, missing=True)
    fields = levels_of_four(sites=sites, observed=np.array([[True, False], [True, True]]))
    assert Dataset(**fields).observed is not None
    with refused("placeholder", "column 1 has 9"):
        Dataset(**fields | {"x": np.array([[0, 9], [2, 1]])})


def test_the_callers_arrays_are_neither_changed_nor_shared() -> None:
    given_arrays = {
        "x": np.array([[0.5, NAN], [1.5, 2.5]], np.float32),
        "observed": np.array([[True, True], [True, False]]),
        "labels": np.array([1, 2]),
    }
    before = {name: array.copy() for name, array in given_arrays.items()}
    data = from_arrays(**given_arrays, missing="mask")
    for name, array in given_arrays.items():
        assert np.array_equal(array, before[name], equal_nan=name == "x") and array.flags.writeable
        assert not np.shares_memory(array, getattr(data, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(data, name)[0] = 0
    counted = np.ones((2, 2), np.int32) * 5
    assert not np.shares_memory(counted, from_arrays(counted).x)
    assert counted.flags.writeable


def test_missing_cells_hold_zero_and_are_not_observed() -> None:
    x = np.array([[0.5, NAN], [INF, 2.5]])
    data = from_arrays(x, observed=np.array([[True, True], [False, True]]), missing="mask")
    assert data.sites.missing and data.observed.tolist() == [[True, False], [False, True]]
    assert data.x.tolist() == [[0.5, 0.0], [0.0, 2.5]]
    whole = from_arrays([[1.0, NAN], [0.0, 1.0]], missing="mask")
    assert whole.sites.kind == "binary" and whole.x.dtype == np.uint8
    hidden = from_arrays(np.ma.MaskedArray([[9, 2], [3, 4]], [[True, False], [False, False]]), missing="mask")
    assert hidden.observed.tolist() == [[False, True], [True, True]] and hidden.x.tolist() == [[0, 2], [3, 4]]
    complete = from_arrays([[0.5]], missing="mask")
    assert complete.sites.missing and complete.observed is None


def test_data_frames_lend_their_names() -> None:
    class Frame:
        columns = ("age", 7)

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.array([[0.5, 1.5]])

    assert from_arrays(Frame()).names == ("age", "7")
    assert from_arrays(Frame(), names=("a", "b")).names == ("a", "b")


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        ([[1.5, 2.0], [1.5, 3.0]], {"names": ("a", "b")}, "constant: column 'a'"),
        (np.array([[[0, 9]], [[0, 3]]]), {}, "constant: 1 of 2 sites"),
        ([[1.5, NAN], [2.5, NAN]], {"missing": "mask"}, "never observed: column 1"),
        (np.arange(64).reshape(4, 16) * 4 / 255, {}, "bytes divided by 255"),
        (np.array([[[0, 255]], [[255, 0]]]), {}, "'threshold'"),
        ([[0, 1, 2]], {"kind": "category"}, "pass levels to change"),
    ],
)
def test_what_a_careful_colleague_would_notice(x: Any, options: dict[str, Any], words: str) -> None:
    assert any(words in note for note in from_arrays(x, **options).notes)
    assert words in from_arrays(x, **options).describe()


def test_describe_says_what_there_is() -> None:
    data = from_arrays([[0.5, NAN], [1.5, 2.5]], missing="mask", labels=["a", "b"], source="two.csv")
    assert data.describe().splitlines() == [
        "2 rows from two.csv",
        "2 sites, real numbers, with missing cells",
        "25.0% of the cells missing, 1 rows complete",
        "labels with 2 different values",
        "note: taken as real, because some values are not whole numbers; pass kind to change",
        "note: constant: column 1",
    ]


@given(tables(EIGHTHS | st.just(NAN)), st.data())
@REPEATABLE
def test_taking_rows_takes_all_that_belongs_to_them(x: np.ndarray, draw: st.DataObject) -> None:
    data = from_arrays(x, kind="real", missing="mask", labels=np.arange(len(x)))
    rows = draw.draw(st.lists(st.integers(0, len(x) - 1)))
    part = data.take(rows)
    assert len(part) == len(rows) and part.sites == data.sites and part.labels.tolist() == rows
    seen = part.observed if part.observed is not None else np.ones(part.x.shape, bool)
    wanted = x[np.array(rows, int)].astype(np.float32)
    assert np.array_equal(np.where(seen, part.x, np.float32("nan")), wanted, equal_nan=True)
    mask = np.isin(np.arange(len(x)), rows)
    assert np.array_equal(data.take(mask).x, data.take(sorted(set(rows))).x)


@pytest.mark.parametrize("rows", [[-1], [3], [0.5], [[0]], [True, False], ["a"]])
def test_rows_that_are_not_there(rows: Any) -> None:
    with refused("row"):
        from_arrays(np.eye(3)).take(rows)


@given(st.integers(1, 200), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 2**64 - 1))
@REPEATABLE
def test_the_parts_of_a_split_are_disjoint_and_cover_all_rows(n: int, first: float, second: float, seed: int) -> None:
    validation, test = (first, second) if first + second < 1 else (first / 2, second / 2)
    data = from_arrays(np.zeros((n, 1)))
    parts = data.split(validation, test, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert all((np.diff(part) > 0).all() for part in parts) and len(parts.train)
    for part, fraction in ((parts.validation, validation), (parts.test, test)):
        assert (len(part) > 0) == (fraction > 0 and n >= 3)
        assert n < 3 or abs(len(part) - n * fraction) < 2
    again = data.split(validation, test, seed)
    assert all(np.array_equal(part, other) for part, other in zip(parts, again, strict=True))


def test_the_seed_decides_the_split_for_good() -> None:
    data = from_arrays(np.zeros((12, 1)))
    assert data.split(0.25, 0.25, seed=7).test.tolist() == GOLDEN_SPLIT
    assert len({tuple(data.split(seed=seed).train) for seed in range(6)}) > 1


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.0), (NAN, 0.1)])
def test_fractions_out_of_range(fractions: tuple[float, float]) -> None:
    with refused("validation=", "test=", "less than 1"):
        from_arrays(np.eye(5)).split(*fractions)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "0"])
def test_seeds_out_of_range(seed: Any) -> None:
    with refused("seed=", "whole number"):
        from_arrays(np.eye(5)).split(seed=seed)


@given(tables(EIGHTHS | st.just(NAN), columns=3))
@REPEATABLE
def test_real_sites_are_scaled_one_by_one(x: np.ndarray) -> None:
    data = from_arrays(x, kind="real", missing="mask")
    mean, scale, _ = data.statistics()
    for j, column in enumerate(x.T.astype(np.float32).astype(np.float64)):
        seen = column[~np.isnan(column)]
        constant = len(set(seen)) < 2
        assert mean[j] == pytest.approx(seen.mean() if len(seen) else 0.0, rel=1e-5, abs=1e-4)
        assert scale[j] == pytest.approx(1.0 if constant else seen.std(), rel=1e-4)


@given(tables(st.integers(0, 9) | st.just(NAN)), st.sampled_from(["levels", "count"]))
@REPEATABLE
def test_discrete_sites_share_one_scale(x: np.ndarray, kind: Any) -> None:
    mean, scale, _ = from_arrays(x, kind=kind, levels=10 if kind == "levels" else None, missing="mask").statistics()
    cells = x[~np.isnan(x)]
    assert len(set(scale)) == 1
    assert scale[0] == pytest.approx(cells.std() if len(set(cells)) > 1 else 1.0, rel=1e-6)
    assert np.allclose(mean, [np.nanmean(c) if not np.isnan(c).all() else 0.0 for c in x.T], rtol=1e-6)


@given(tables(st.integers(0, 9) | st.just(NAN)), st.data())
@REPEATABLE
def test_counts_with_an_exposure_have_the_moments_of_rates(x: np.ndarray, draw: st.DataObject) -> None:
    e = draw.draw(arrays.arrays(np.float32, len(x), elements=st.sampled_from([0.5, 1, 2, 8])))
    mean, scale, _ = from_arrays(x, exposure=e, missing="mask").statistics()
    weights = np.where(np.isnan(x), 0.0, e[:, None])
    total = weights.sum(axis=0)
    assert np.allclose(mean, np.nansum(x, axis=0) / np.where(total > 0, total, 1), rtol=1e-5)
    rates, grand = np.nan_to_num(x) / e[:, None], np.nansum(x) / max(total.sum(), 0.5)
    variance = (weights * (rates - grand) ** 2).sum() / max(total.sum(), 0.5)
    assert scale[0] == pytest.approx(np.sqrt(variance) if variance > 1e-9 else 1.0, rel=1e-5)


def test_examples_are_rows_with_means_for_what_is_missing() -> None:
    x = np.arange(3000.0).reshape(1500, 2) + 0.5
    examples = from_arrays(x).statistics().examples
    assert examples.shape == (1000, 2) and np.isin(examples[:, 0], x[:, 0]).all()
    assert len(np.unique(examples[:, 0])) == 1000 and examples.max() > 2900
    gaps = from_arrays([[0.5, NAN], [1.5, 2.0], [2.5, 3.0]], missing="mask").statistics()
    assert gaps.examples.tolist() == [[0.5, 2.5], [1.5, 2.0], [2.5, 3.0]]


def test_statistics_do_not_depend_on_how_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(100, 7)) * [1, 2, 3, 4, 5, 6, 0] + 3
    whole = from_arrays(x).statistics()
    monkeypatch.setattr("tightbound.data.moments._CHUNK_CELLS", 50)
    for one, other in zip(whole, from_arrays(x).statistics(), strict=True):
        assert np.allclose(one, other, rtol=1e-6)
    assert whole.mean[6] == 3 and whole.scale[6] == 1


def test_categories_have_no_moments_and_no_rows_no_statistics() -> None:
    data = from_arrays([[0, 2], [1, 2]], kind="category")
    assert data.statistics().mean.tolist() == [0, 0] and data.statistics().scale.tolist() == [1, 1]
    with refused("no rows", "training part"):
        data.take([]).statistics()


@given(arrays.arrays(np.uint8, (30, 4)))
@REPEATABLE
def test_statistics_of_binarised_data_are_those_of_the_bits(grey: np.ndarray) -> None:
    data = from_arrays(grey, kind="levels", levels=256).with_binarisation("dynamic")
    mean, scale, examples = data.statistics()
    assert np.array_equal(np.round(examples * 255), grey)
    m = grey.mean() / 255
    assert np.allclose(mean, grey.mean(axis=0) / 255, rtol=1e-6)
    assert scale[0] == pytest.approx(np.sqrt(m * (1 - m)) if 0 < m < 1 else 1.0, rel=1e-6)


def test_bits_are_drawn_with_the_probability_of_the_grey_level() -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
    data = from_arrays(grey, kind="levels", levels=256).with_binarisation("dynamic")
    bits = data.binarised(seed=5)
    assert set(np.unique(bits.x)) == {0, 1} and not bits.binarise and bits.sites.kind == "binary"
    assert bits.x[:, 0].max() == 0 and bits.x[:, 255].min() == 1
    p = np.arange(256) / 255
    z = (bits.x.mean(axis=0) - p)[1:-1] / np.sqrt(p * (1 - p) / 4000)[1:-1]
    assert np.abs(z).max() < 4.5 and abs(z.std() - 1) < 0.15
    assert not np.array_equal(bits.x, data.binarised(seed=6).x)


def test_the_seed_decides_the_bits_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "".join(map(str, GREY.with_binarisation("fixed", seed=3).x.ravel())) == GOLDEN_BITS
    odd = from_arrays(np.full((50, 7), 99), levels=256)
    whole = odd.with_binarisation("fixed", seed=3).x
    monkeypatch.setattr("tightbound.data.moments._CHUNK_CELLS", 20)
    assert np.array_equal(odd.with_binarisation("fixed", seed=3).x, whole)


def test_three_ways_to_binarise() -> None:
    digits = from_arrays(np.arange(17).reshape(1, 17), levels=17, labels=[4])
    dynamic, fixed, threshold = (digits.with_binarisation(mode, 1) for mode in ("dynamic", "fixed", "threshold"))
    assert dynamic.binarise and dynamic.x.tolist() == [[round(level * 255 / 16) for level in range(17)]]
    assert threshold.x.tolist() == [[0] * 9 + [1] * 8] and not threshold.binarise
    assert np.array_equal(fixed.x, dynamic.binarised(1).x) and not fixed.binarise
    for data in (dynamic, fixed, threshold):
        assert data.sites == Sites(shape=(17,), kind="binary") and data.labels.tolist() == [4]
        assert len(data.notes) == len(digits.notes) + 1


@pytest.mark.parametrize(
    ("data", "mode", "words"),
    [
        (GREY, "dithered", ("'dithered'", "dynamic, fixed, threshold")),
        (from_arrays([[0, 1]]), "fixed", ("bits already",)),
        (from_arrays([[0.5, 1]]), "fixed", ("np.round(x * 255)",)),
        (from_arrays([[0, 3]]), "dynamic", ("kind='levels'", "levels=256")),
        (from_arrays([[0, 3]], kind="category"), "threshold", ("categories", "no order")),
    ],
)
def test_what_cannot_be_binarised(data: Dataset, mode: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        data.with_binarisation(mode)


def test_bits_are_drawn_from_grey_levels_only() -> None:
    with refused("with_binarisation"):
        GREY.binarised(0)


@given(
    arrays.arrays(
        st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.uint16, bool]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    st.sampled_from(["refuse", "mask"]),
)
@settings(REPEATABLE, max_examples=200)
def test_any_array_becomes_a_data_set_or_is_refused(x: np.ndarray, missing: Any) -> None:
    try:
        data = from_arrays(x, missing=missing)
    except DataError:
        return
    seen = np.ones(data.x.shape, bool) if data.observed is None else data.observed
    assert np.array_equal(data.x[seen], x.reshape(len(x), -1)[seen].astype(np.float32))
    assert np.isfinite(data.statistics().mean).all() and (data.statistics().scale > 0).all()
    data.sites.check(data.x)
