"""Sites: what values they admit, what a network sees of them, and what they say about themselves."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_checks import REPEATABLE, refused
from tightbound.errors import SupportError
from tightbound.schema import Sites

KINDS = ("binary", "levels", "category", "count", "real")


def of_kind(kind: str, shape: tuple[int, ...] = (3,), **more: Any) -> Sites:
    return Sites(kind=kind, shape=shape, levels=4 if kind in ("levels", "category") else 0, **more)


def admits(sites: Sites, value: float) -> bool:
    try:
        sites.check(np.full((1, sites.count), value))
    except SupportError:
        return False
    return True


@settings(REPEATABLE, max_examples=200)
@given(st.floats() | st.integers(-10, 10).map(float))
def test_admissible_values(value: float) -> None:
    whole = np.isfinite(value) and value == round(value)
    expected = {
        "binary": value in (0, 1),
        "levels": whole and 0 <= value < 4,
        "category": whole and 0 <= value < 4,
        "count": whole and value >= 0,
        "real": bool(np.isfinite(value)),
    }
    assert {kind: admits(of_kind(kind), value) for kind in KINDS} == expected


def test_bad_values_are_named_by_column_value_and_row() -> None:
    x = np.zeros((4, 8))
    x[:, 1], x[2, 3] = [7, 7, 8, 9], 0.5
    with refused(
        "expected 8 sites, 4 ordered levels 0…3",
        "column 'b' has 7, 8, 9 (4 rows)",
        "column 'd' has 0.5 (1 row)",
        error=SupportError,
    ):
        of_kind("levels", (8,)).check(x, names=tuple("abcdefgh"))
    x[:, 2:] = -1
    with refused("column 5 has -1 (4 rows)", "and 2 more columns", error=SupportError):
        of_kind("levels", (8,)).check(x)


def test_what_is_not_observed_is_not_checked() -> None:
    x, observed = np.array([[0.0, np.nan, 7.0]]), np.array([[True, False, False]])
    of_kind("binary", missing=True).check(x, observed)
    with refused("column 1 has nan", error=SupportError):
        of_kind("binary").check(x)
    with refused("2 sites, expected 3", error=SupportError):
        of_kind("binary").check(x[:, :2])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_have_the_shape_that_is_promised(kind: str, shape: tuple[int, ...], missing: bool) -> None:
    sites = of_kind(kind, shape, missing=missing)
    x = jnp.arange(sites.count) % 2.0
    features = sites.features(x, None, jnp.zeros(sites.count), jnp.ones(sites.count))
    assert features.shape == sites.feature_shape == (*shape[:-1], shape[-1] * ((4 if kind == "category" else 1) + missing))


def test_features_are_centred_scaled_coded_and_marked() -> None:
    x, mean, scale = jnp.array([1.0, 3.0, 2.0]), jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 2.0, 4.0])
    observed = jnp.array([True, True, False])
    assert of_kind("real").features(x, None, mean, scale).tolist() == [1.0, 1.0, 0.0]
    assert np.allclose(of_kind("count").features(x, None, mean, scale), np.log([2.0, 4.0, 3.0]))
    marked = of_kind("real", missing=True).features(x, observed, mean, scale)
    assert marked.reshape(3, 2).tolist() == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    codes = of_kind("category", missing=True).features(x, observed, mean, scale).reshape(3, 5)
    assert codes.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    complete = of_kind("real", missing=True).features(x, None, mean, scale)
    assert complete.reshape(3, 2)[:, 1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_that_is_not_observed_leaves_no_trace_in_the_features(kind: str) -> None:
    sites, observed = of_kind(kind, missing=True), jnp.array([True, False, True])
    seen = [sites.features(jnp.array([1.0, v, 0.0]), observed, jnp.zeros(3), jnp.ones(3)) for v in (0.0, 3.0, 1e30)]
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


def test_what_sites_say_of_themselves() -> None:
    image = Sites(kind="levels", shape=(8, 6, 1), levels=17, missing=True)
    assert image.count == 48 and image.is_image and image.measure == "counting"
    assert image.describe() == "48 sites (8×6×1), 17 ordered levels 0…16, with missing cells"
    counts = Sites(kind="count", shape=(5,), exposure=True)
    assert counts.describe() == "5 sites, counts 0, 1, 2, …, with exposure" and not counts.is_image
    assert Sites(kind="real", shape=(1,)).measure == "lebesgue"
