"""What a model says of unseen cells, against the conditional Gaussians of a linear model: statistical bounds of five errors."""

import numpy as np
import pytest

import tightbound as tb
from data_checks import refused
from linear import linear_model, rows_of
from tightbound.completion import complete, conformal_p_values, impute, site_scores
from tightbound.errors import SpecError
from tightbound.evidence.exact import affine_decoder
from tightbound.testing.linear import log_normal

MODEL = linear_model(missing=True)
DATA = rows_of(MODEL)
WEIGHT, OFFSET, NOISE = affine_decoder(MODEL)
COVARIANCE = WEIGHT @ WEIGHT.T + np.diag(NOISE)
DRAWS = 20_000


def conditional(row: int, wanted: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of some cells of a row given others."""
    block = COVARIANCE[np.ix_(wanted, given)] @ np.linalg.pinv(COVARIANCE[np.ix_(given, given)])
    mean = OFFSET[wanted] + block @ (DATA.x[row, given] - OFFSET[given])
    return mean, COVARIANCE[np.ix_(wanted, wanted)] - block @ COVARIANCE[np.ix_(given, wanted)]


def test_imputed_cells_are_the_conditional_means() -> None:
    x = impute(MODEL, DATA, draws=DRAWS)
    np.testing.assert_array_equal(x[DATA.observed], DATA.x[DATA.observed])
    for row in range(len(DATA)):
        seen, unseen = np.flatnonzero(DATA.observed[row]), np.flatnonzero(~DATA.observed[row])
        if len(unseen):
            mean, covariance = conditional(row, unseen, seen)
            # z is known to a few hundredths of its deviation from thousands of effective draws.
            assert np.all(np.abs(x[row, unseen] - mean) < 0.1 * np.sqrt(np.diag(covariance)))


def test_drawn_cells_have_the_conditional_mean_and_covariance() -> None:
    count = 2_000
    drawn = complete(MODEL, DATA, count, draws=DRAWS)
    assert drawn.x.shape == (count, *DATA.x.shape) and np.all(drawn.ess > 500)
    np.testing.assert_array_equal(drawn.x[7][DATA.observed], DATA.x[DATA.observed])
    for row in range(len(DATA)):
        seen, unseen = np.flatnonzero(DATA.observed[row]), np.flatnonzero(~DATA.observed[row])
        if len(unseen):
            mean, covariance = conditional(row, unseen, seen)
            cells, deviations = drawn.x[:, row, unseen], np.sqrt(np.diag(covariance))
            error = deviations / np.sqrt(min(count, drawn.ess[row]))
            assert np.all(np.abs(cells.mean(axis=0) - mean) < 5 * error)
            assert np.all(np.abs(np.cov(cells.T).reshape(covariance.shape) - covariance) < 0.2 * deviations.max() ** 2)


def test_site_scores_are_conditional_densities() -> None:
    scores = site_scores(MODEL, DATA, draws=DRAWS)
    np.testing.assert_array_equal(np.isnan(scores), ~DATA.observed)
    for row, site in np.argwhere(DATA.observed):
        others = np.flatnonzero(DATA.observed[row] & (np.arange(5) != site))
        mean, covariance = conditional(row, np.array([site]), others)
        exact = log_normal((DATA.x[row, [site]] - mean)[None], covariance)[0]
        assert scores[row, site] == pytest.approx(exact, abs=0.3)


def test_what_is_not_observed_does_not_matter() -> None:
    other = tb.Dataset(np.where(DATA.observed, DATA.x, 1e6), DATA.sites, observed=DATA.observed)
    for function in (impute, site_scores):
        np.testing.assert_array_equal(function(MODEL, DATA, draws=50), function(MODEL, other, draws=50))


def test_rows_do_not_depend_on_their_neighbours() -> None:
    whole, part = impute(MODEL, DATA, draws=100), impute(MODEL, DATA.take(range(3)), draws=100)
    np.testing.assert_allclose(whole[:3], part, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_conformal_alarms_are_as_rare_as_they_say(alpha: float) -> None:
    """200 calibrations with 500 rows each and 100 new rows: 20,000 alarms or not, false-alarm rate of the test below 1e-6."""
    rng = np.random.default_rng(0)
    rates = [np.mean(conformal_p_values(rng.normal(size=100), rng.normal(size=500)) <= alpha) for _ in range(200)]
    assert np.mean(rates) < alpha + 5 * np.std(rates) / np.sqrt(200)
    assert np.mean(rates) > alpha - 1 / 501 - 5 * np.std(rates) / np.sqrt(200)


def test_too_few_draws_are_refused() -> None:
    with refused("expected at least 2, got 1", error=SpecError):
        impute(MODEL, DATA, draws=1)
    with refused("expected at least 1, got 0", error=SpecError):
        complete(MODEL, DATA, 0)
