"""Every estimate of log p(x) against the exact value; every statistical test has a fixed seed and a stated false-alarm rate."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import tightbound as tb
from linear import LINEAR, ROWS, linear_model, rows_of, true_mean, true_precision, with_good_encoder
from tightbound.errors import CombinationError, DataError, SpecError
from tightbound.evidence.annealed import Walk, annealed, bracket, temperatures
from tightbound.evidence.estimate import Estimate, delta_error, mean_estimate, stated_error
from tightbound.evidence.exact import exact, posterior_grid
from tightbound.evidence.gaps import gaps
from tightbound.evidence.importance import DRAWS_AT_ONCE, importance
from tightbound.evidence.proposals import Proposal
from tightbound.evidence.truth import true_posterior
from tightbound.model import Model
from tightbound.priors import Encoder, PriorHead


@pytest.fixture(scope="module")
def model() -> Model:
    return linear_model()


@pytest.fixture(scope="module")
def data(model: Model) -> tb.Dataset:
    return rows_of(model)


@pytest.fixture(scope="module")
def truth(model: Model, data: tb.Dataset) -> np.ndarray:
    return exact(model, data).log_evidence


def test_the_closed_form_is_the_normal_density_of_scipy(model: Model, data: tb.Dataset, truth: np.ndarray) -> None:
    weight = np.asarray(model.decoder.output.weight, np.float64)
    p = scipy.stats.multivariate_normal(np.zeros(5), weight.T @ weight + 0.49 * np.eye(5))
    np.testing.assert_allclose(truth, p.logpdf(data.x), atol=1e-5)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("missing", [False, True])
def test_quadrature_equals_the_closed_form(latent: int, missing: bool) -> None:
    model = linear_model(latent, missing=missing)
    data = rows_of(model, 3)
    closed = exact(model, data).log_evidence
    observed = [None] * 3 if data.observed is None else [jnp.asarray(row) for row in data.observed]
    grids = [posterior_grid(model, jnp.asarray(x), mask) for x, mask in zip(data.x, observed, strict=True)]
    np.testing.assert_allclose([grid.log_evidence for grid in grids], closed, atol=1e-4)
    assert max(grid.error for grid in grids) < 1e-3
    if missing:
        assert closed[0] == pytest.approx(0.0, abs=1e-9), "a row of which nothing is observed has probability 1"


def test_the_grid_is_the_closed_form_posterior(model: Model, data: tb.Dataset) -> None:
    grid = posterior_grid(model, jnp.asarray(data.x[0]))
    points = np.stack(np.meshgrid(*grid.axes, indexing="ij"), axis=-1)
    p = scipy.stats.multivariate_normal(true_mean(model, data.x[0]), np.linalg.inv(true_precision(model)))
    np.testing.assert_allclose(grid.log_density, p.logpdf(points), atol=2e-3)


def test_an_example_out_of_reach_has_no_grid(model: Model, data: tb.Dataset) -> None:
    with pytest.raises(DataError, match="too far from the data"):
        posterior_grid(model, jnp.full(data.x.shape[1], 1e30))


def test_a_mixture_prior_has_a_closed_form_too() -> None:
    model = linear_model(prior=tb.TrainedMixture(components=3))
    data = rows_of(model, 3)
    grids = [posterior_grid(model, jnp.asarray(x)).log_evidence for x in data.x]
    np.testing.assert_allclose(exact(model, data).log_evidence, grids, atol=1e-4)


class Switch(PriorHead):
    """Every latent is 0 or 1."""

    latent: int = eqx.field(static=True, default=1)

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        return dist.Bernoulli(probs=jnp.full(self.latent, 0.3)).to_event(1)


@pytest.fixture(scope="module")
def switched() -> Model:
    model = linear_model(1)
    return type(model)(**{**vars(model), "prior_head": Switch()})


def test_finitely_many_latents_are_added_up(switched: Model) -> None:
    data = rows_of(switched)
    means = [np.asarray(switched.decode(jnp.array([z])), np.float64) for z in (0.0, 1.0)]
    classes = [scipy.stats.norm(mean, 0.7).logpdf(data.x).sum(axis=1) for mean in means]
    truth = np.logaddexp(np.log(0.7) + classes[0], np.log(0.3) + classes[1])
    found = exact(switched, data)
    assert found.method == "enumeration"
    np.testing.assert_allclose(found.log_evidence, truth, atol=1e-4)


@pytest.mark.parametrize("latents", [3, 17])
def test_combinations_of_finitely_many_values(latents: int) -> None:
    """Summed over a latent that the decoder ignores, nothing changes; too many combinations are refused."""
    model = linear_model(latents)
    ignored = eqx.tree_at(lambda m: m.decoder.output.weight, model, jnp.zeros_like(model.decoder.output.weight))
    ignored = type(model)(**{**vars(ignored), "prior_head": Switch(latents)})
    data = rows_of(ignored, 2)
    if latents > 16:
        with pytest.raises(CombinationError, match=r"131,072 combinations.*importance sampling"):
            exact(ignored, data)
        return
    expected = scipy.stats.norm(0, 0.7).logpdf(data.x).sum(axis=1)
    np.testing.assert_allclose(exact(ignored, data).log_evidence, expected, atol=1e-4)


def test_methods_that_need_gradients_in_z_refuse_such_latents(switched: Model) -> None:
    data = rows_of(switched)
    for attempt in (
        lambda: annealed(switched, data),
        lambda: importance(switched, data, proposal=Proposal("laplace")),
        lambda: true_posterior(switched, data),
        lambda: gaps(switched, data),
    ):
        with pytest.raises(CombinationError, match="finitely many values: use 'exact'"):
            attempt()


def test_no_exact_value_for_many_latents_of_a_nonlinear_model() -> None:
    sites = tb.Sites(kind="binary", shape=(4,))
    model = tb.VAE(sites=sites, latent=3, encoder=LINEAR, decoder=LINEAR, likelihood=tb.Bernoulli()).build(jax.random.key(0))
    with pytest.raises(CombinationError, match=r"3 latents.*importance sampling"):
        exact(model, tb.Dataset(np.zeros((2, 4), np.uint8), sites))


def test_importance_sampling_brackets_the_truth(model: Model, data: tb.Dataset, truth: np.ndarray) -> None:
    """Mean of 12 rows × 64 seeds, each within 4 standard errors of the mean: false-alarm rate below 1e-3."""
    previous = None
    for draws in (1, 10, 1000):
        values = np.stack([importance(model, data, draws=draws, seed=seed).log_evidence for seed in range(64)])
        distance = (values - truth).mean(axis=1)
        se = distance.std(ddof=1) / 8
        assert distance.mean() < 4 * se, "a lower bound lies above the truth"
        if previous is not None:
            assert distance.mean() > previous - 4 * se, "the bound must rise with k"
        previous = distance.mean()
    assert previous > -0.2


def test_the_elbo_of_the_draws_does_not_depend_on_their_number(model: Model, data: tb.Dataset) -> None:
    few, many = (importance(model, data, draws=draws) for draws in (2_000, 20_000))
    np.testing.assert_allclose(few.elbo, many.elbo, atol=0.5)
    assert np.all(many.elbo <= many.log_evidence)


@pytest.mark.parametrize("draws", [1, DRAWS_AT_ONCE - 1, DRAWS_AT_ONCE, DRAWS_AT_ONCE + 1, 10 * DRAWS_AT_ONCE + 7])
def test_exactly_as_many_draws_as_asked_are_used(model: Model, data: tb.Dataset, draws: int) -> None:
    """A constant weight is recovered whatever the number of draws: no division by the wrong count."""
    flat = eqx.tree_at(lambda m: (m.decoder.output.weight, m.encoder.output.weight), model, replace_fn=jnp.zeros_like)
    result = importance(flat, data, draws=draws)
    expected = scipy.stats.norm(0, 0.7).logpdf(data.x).sum(axis=1)
    # Not to the last digit: the posterior's scale is 1 plus its floor of 1e-4.
    np.testing.assert_allclose(result.log_evidence, expected, atol=2e-3)
    np.testing.assert_allclose(result.elbo, expected, atol=2e-3)
    np.testing.assert_allclose(result.ess, draws, rtol=1e-3)


def test_a_row_has_the_same_estimate_alone_and_among_others(model: Model) -> None:
    data = rows_of(model, 40)
    whole = importance(model, data, draws=150)
    alone = importance(model, data.take([0, 1, 2]), draws=150)
    np.testing.assert_allclose(alone.log_evidence, whole.log_evidence[:3], atol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draws", [1, 8])
def test_too_few_draws_or_chains_have_no_standard_error_and_say_so(model: Model, data: tb.Dataset, draws: int) -> None:
    drawn = importance(model, data, draws=draws)
    walked = annealed(model, data, Walk(steps=2, chains=draws, leapfrog=1))
    for result in (drawn, walked):
        assert np.isnan(result.se).all() and "no standard error" in " ".join(result.warnings())


def test_errors_are_stated_for_all_rows_or_for_none() -> None:
    """Chosen row by row, those would stay whose largest weights happen not to have been drawn."""
    se = np.array([0.1, 0.2, 0.3])
    for ess, stated in (([5, 55, 60], True), ([45, 49, 90], False), ([16, 16, 16], False)):
        assert np.isfinite(stated_error(se, np.array(ess))).all() == stated


def test_an_upper_bound_has_an_error_of_its_mean_alone(model: Model) -> None:
    both = bracket(model, 4, Walk(steps=5, chains=32, leapfrog=1))
    assert np.isnan(both.upper.se).all() and both.upper.estimate().se > 0


def test_standard_errors_cover_the_truth(model: Model, data: tb.Dataset, truth: np.ndarray) -> None:
    """200 repetitions of 12 rows: the share within 1.96 standard errors is 95 %, measured to ±1 % (one deviation)."""
    able = with_good_encoder(model)
    results = [importance(able, data, draws=1000, seed=seed) for seed in range(200)]
    inside = [np.abs(result.log_evidence - truth) < 1.96 * result.se for result in results]
    assert 0.90 < np.mean(inside) < 0.98


@pytest.mark.parametrize("start", ["prior", "posterior", "refined"])
def test_annealing_is_a_lower_bound_within_its_error(model: Model, data: tb.Dataset, truth: np.ndarray, start: str) -> None:
    """Mean of 12 rows within 4.5 standard errors of the truth from above, and close from below."""
    result = annealed(model, data, Walk(steps=200, chains=16, leapfrog=5, start=start))
    difference = result.log_evidence - truth
    se = np.sqrt(np.mean(delta_error(result.ess, 16) ** 2) / ROWS)
    assert -0.2 < difference.mean() < 4.5 * se
    assert 0.5 < result.acceptance.mean() < 0.9
    assert result.estimate().side == "lower"


def test_the_bracket_of_simulated_data_closes(model: Model) -> None:
    """The gap is not below 0 by more than 4 standard errors: false-alarm rate below 1e-4."""
    both = bracket(model, 16, Walk(steps=200, chains=4, leapfrog=5))
    gap, se = both.gap
    assert -4 * se < gap < 0.3
    assert (both.lower.estimate().side, both.upper.estimate().side) == ("lower", "upper")
    np.testing.assert_array_less(
        exact(model, tb.Dataset(both.x, model.spec.sites)).log_evidence.mean(), both.upper.log_evidence.mean() + 0.3
    )
    assert both.lower.estimate().given == both.upper.estimate().given == "simulated"


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_temperatures_rise_from_0_to_1(schedule: str) -> None:
    betas = temperatures(50, schedule)
    assert (betas[0], betas[-1], len(betas)) == (0.0, 1.0, 51)
    assert np.all(np.diff(betas) > 0)


def test_what_cannot_be_evaluated_is_refused(model: Model, data: tb.Dataset) -> None:
    with pytest.raises(SpecError, match=r"draws.*at least 1"):
        importance(model, data, draws=0)
    for function in (importance, annealed, exact, tb.embed, tb.reconstruct):
        with pytest.raises(DataError, match="no rows"):
            function(model, data.take([]))
    with pytest.raises(DataError, match=r"3 sites.*5 sites"):
        importance(model, tb.Dataset(np.zeros((1, 3)), tb.Sites(kind="real", shape=(3,))))
    with pytest.raises(SpecError, match="at least 2"):
        bracket(model, 1)
    with pytest.raises(SpecError, match="at least 1"):
        Walk(steps=0)
    with pytest.raises(SpecError, match=r"prior, posterior, refined, got 'middle'"):
        Walk(start="middle")


def test_an_estimate_says_its_unit_side_and_error() -> None:
    estimate = mean_estimate(np.array([-80.0, -90.0]), side="lower", method="ELBO", draws=1, measure="counting")
    assert (estimate.value, estimate.se, estimate.examples) == (-85.0, 5.0, 2)
    assert str(estimate) == "-85.00 ± 5.00 nats per example (lower bound in expectation, ELBO, 2 examples)"
    bits, se = estimate.bits_per_dimension(784)
    assert bits == pytest.approx(85 / 784 / np.log(2)) and se == pytest.approx(5 / 784 / np.log(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 0.0  # type: ignore[misc]
    assert isinstance(estimate, Estimate)
