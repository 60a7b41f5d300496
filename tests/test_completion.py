"""What a model says of unseen cells, against the conditional Gaussians of a linear model: statistical bounds of five errors."""

import numpy as np
import pytest

import tightbound as tb
from data_checks import refused
from linear import linear_model, rows_of
from tightbound.completion import complete, conformal_p_values, impute, site_scores
from tightbound.errors import CombinationError, SpecError
from tightbound.evidence.exact import affine_decoder
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import WARY, Proposal
from tightbound.model import Model
from tightbound.testing.linear import conditional_normal, log_normal

MODEL = linear_model(missing=True)
DATA = rows_of(MODEL)
MIXTURE = [MODEL, linear_model(missing=True, seed=4)]
DRAWS = 20_000


def moments(model: Model) -> tuple[np.ndarray, np.ndarray]:
    weight, offset, noise = affine_decoder(model)
    return offset, weight @ weight.T + np.diag(noise)


def conditional(row: int, wanted: np.ndarray, given: np.ndarray, model: Model = MODEL) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of some cells of a row given others."""
    return conditional_normal(*moments(model), DATA.x[row], wanted, given)


def log_densities(row: int, cells: np.ndarray) -> np.ndarray:
    """Return log p_m(some cells of a row) of the models of the mixture."""
    found = []
    for offset, covariance in map(moments, MIXTURE):
        found.append(log_normal((DATA.x[row, cells] - offset[cells])[None], covariance[np.ix_(cells, cells)])[0])
    return np.array(found)


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
    count = 20_000  # of as many: not every pair of them may take memory
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


@pytest.mark.parametrize("proposal", [Proposal(kind="laplace"), WARY], ids=str)
def test_the_density_of_the_seen_cells_is_that_of_their_block(proposal: Proposal) -> None:
    """False-alarm rate of 12 rows at five standard errors below 1e-5; q(z|x) alone, untrained, is 0.3 nats off."""
    found = importance(MODEL, DATA, draws=DRAWS, proposal=proposal)
    offset, covariance = moments(MODEL)
    for row, seen in enumerate(DATA.observed):
        exact = log_normal((DATA.x[row, seen] - offset[seen])[None], covariance[np.ix_(seen, seen)])[0] if seen.any() else 0.0
        assert abs(found.log_evidence[row] - exact) < 5 * found.se[row] + 1e-5
    assert np.all(found.se < 0.03)  # or the bound would say nothing
    assert not DATA.observed[0].any() and found.log_evidence[0] == found.se[0] == 0.0


def test_a_mixture_is_filled_drawn_from_and_scored_as_its_closed_form_says() -> None:
    count = 500
    filled, scores = impute(MIXTURE, DATA, draws=DRAWS), site_scores(MIXTURE, DATA, draws=DRAWS)
    drawn = complete(MIXTURE, DATA, count, draws=4_000)
    weights = []
    for row in range(len(DATA)):
        seen, unseen = np.flatnonzero(DATA.observed[row]), np.flatnonzero(~DATA.observed[row])
        log_p = log_densities(row, seen) if len(seen) else np.zeros(2)
        weights.append(np.exp(log_p - np.logaddexp(*log_p)))
        if len(unseen):
            means, covariances = zip(*(conditional(row, unseen, seen, model) for model in MIXTURE), strict=True)
            expected = weights[-1] @ np.array(means)
            spread = np.array([np.diag(covariance) for covariance in covariances]) + (np.array(means) - expected) ** 2
            deviations = np.sqrt(weights[-1] @ spread)
            assert np.all(np.abs(filled[row, unseen] - expected) < 0.1 * deviations)
            error = deviations / np.sqrt(min(count, drawn.ess[row]))
            assert np.all(np.abs(drawn.x[:, row, unseen].mean(axis=0) - expected) < 5 * error)
        for site in seen:
            rest = np.setdiff1d(seen, [site])
            without = np.logaddexp(*log_densities(row, rest)) if len(rest) else np.log(2)
            assert scores[row, site] == pytest.approx(np.logaddexp(*log_p) - without, abs=0.3)
    # Rows of either model and rows between them: a mixture that ignored the weights would not pass.
    assert min(weight.min() for weight in weights) < 0.1 and np.ptp([weight[0] for weight in weights]) > 0.5


def test_models_of_different_specs_are_no_mixture() -> None:
    with refused("of different specs", error=CombinationError):
        impute([MODEL, linear_model(latent=3, missing=True)], DATA)


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
