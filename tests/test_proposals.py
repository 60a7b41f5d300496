"""Where importance samples come from, and whether their weights can be believed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tightbound as tb
from linear import LINEAR, linear_model, rows_of, true_mean, true_precision
from tightbound.errors import SpecError
from tightbound.evidence.exact import exact
from tightbound.evidence.importance import _kept, _pareto_shape, importance
from tightbound.evidence.proposals import Proposal, propose
from tightbound.model import Model, from_arrays, to_arrays
from tightbound.rows import Row

TRUE = Proposal("refined", widening=1.0)
FITTED = [TRUE, Proposal("refined", steps=1, draws=4, widening=1.0), Proposal("laplace", steps=1, widening=1.0)]


@pytest.fixture(scope="module")
def model() -> Model:
    return linear_model()


@pytest.mark.parametrize("proposal", FITTED, ids=str)
def test_of_a_gaussian_posterior_the_fit_is_the_truth(model: Model, proposal: Proposal) -> None:
    x = rows_of(model).x[0]
    r = propose(proposal, model, model.prior(), Row(jnp.asarray(x)), jax.random.key(0))
    np.testing.assert_allclose(r.mean, true_mean(model, x), atol=1e-4)
    np.testing.assert_allclose(r.covariance_matrix, np.linalg.inv(true_precision(model)), atol=1e-4)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("noise", ["fixed", "site"])
def test_with_the_truth_as_proposal_every_draw_has_the_same_weight(missing: bool, noise: str) -> None:
    scale = {"scale": 0.7} if noise == "fixed" else {}
    model = linear_model(missing=missing, likelihood=tb.Gaussian(noise=noise, **scale))
    data = rows_of(model)
    result = importance(model, data, draws=50, proposal=TRUE)
    np.testing.assert_allclose(result.log_evidence, exact(model, data).log_evidence, atol=1e-3)
    np.testing.assert_allclose(result.ess, 50, rtol=1e-3)
    np.testing.assert_allclose(result.elbo, result.log_evidence, atol=1e-3)
    assert not result.warnings()


def test_a_share_of_draws_from_the_prior_leaves_the_bound_where_it_is(model: Model) -> None:
    """The mean over 12 rows of 5,000 draws each, with weights of variance below 10: within 0.05 of the truth."""
    data = rows_of(model)
    mixed = Proposal("posterior", defensive=0.5)
    result = importance(model, data, draws=5000, proposal=mixed)
    truth = exact(model, data).log_evidence
    np.testing.assert_allclose(result.log_evidence.mean(), truth.mean(), atol=0.05)
    assert "50% of the draws from the prior" in result.bound().method
    # No weight exceeds p(x|z) / share, so the mean of no example can either.
    peak = -0.5 * 5 * np.log(2 * np.pi * 0.49)
    assert np.all(result.log_evidence <= peak + np.log(2))


def test_a_posterior_with_two_modes_is_survived() -> None:
    """Between the modes the curvature is negative, and one Gaussian finds one mode; draws from the prior find the other."""
    model = linear_model(latent=1, prior=tb.TrainedMixture(components=2))
    head = model.prior_head
    apart = type(head)(head.logits, jnp.array([[-3.0], [3.0]]), jnp.full((2, 1), -2.0), head.floor)
    model = type(model)(**{**vars(model), "prior_head": apart})
    data = rows_of(model)
    truth = exact(model, data).log_evidence
    for proposal in (Proposal("refined"), Proposal("laplace"), Proposal("refined", defensive=0.2)):
        result = importance(model, data, draws=2000, proposal=proposal)
        assert np.isfinite(result.log_evidence).all()
        assert np.mean(result.log_evidence - truth) < 0.05
    assert np.mean(result.log_evidence - truth) > -0.1, "the share of the prior covers both modes"


def test_a_fit_that_goes_astray_is_not_taken() -> None:
    """The curve of x over z is flat where q(z|x) starts, and flatter beyond: the step is far too long, all weights there are
    one number in single precision, and nothing is more even than that.
    """
    sites, unit = tb.Sites(kind="real", shape=(1,)), tb.MLP(hidden=(1,), activation="tanh")
    noise = tb.Gaussian(noise="fixed", scale=1e-4)
    model = tb.VAE(sites=sites, latent=1, encoder=tb.MLP(hidden=()), decoder=unit, likelihood=noise).build(jax.random.key(0))
    weights = {
        "encoder.output.weight": [[0.0, 0.0]], "encoder.output.bias": [3.0, -2.0],
        "decoder.hidden.0.linear.weight": [[1.0]], "decoder.hidden.0.linear.bias": [0.0],
        "decoder.output.weight": [[1000.0]], "decoder.output.bias": [0.0],
    }  # fmt: skip
    known = to_arrays(model) | {name: np.asarray(value, np.float32) for name, value in weights.items()}
    model = from_arrays(model, known)
    row = tb.Dataset(np.array([[500.0]]), sites)
    start = importance(model, row, draws=50)
    fitted = importance(model, row, draws=50, proposal=Proposal("refined", steps=1))
    assert fitted.log_evidence[0] > start.elbo[0]


@pytest.mark.parametrize(
    "likelihood", [tb.Bernoulli(), tb.Poisson(), tb.DiscretisedLogistic(components=2)], ids=lambda p: p.kind
)
def test_a_fitted_proposal_is_tighter_than_the_encoder(likelihood: tb.Bernoulli) -> None:
    """Random weights: the encoder knows nothing, the fit does; the difference is many standard errors."""
    kinds = {"bernoulli": ("binary", 0), "poisson": ("count", 0), "discretised-logistic": ("levels", 8)}
    kind, levels = kinds[likelihood.kind]
    sites = tb.Sites(kind=kind, shape=(6,), levels=levels)
    spec = tb.VAE(sites=sites, latent=3, encoder=LINEAR, decoder=tb.MLP(hidden=(8,), activation="tanh"), likelihood=likelihood)
    statistics = tb.Statistics(np.full(6, 0.5, np.float32), np.ones(6, np.float32))
    model = spec.build(jax.random.key(0), statistics)
    data = tb.Dataset(np.random.default_rng(0).integers(0, 2, (16, 6)), sites)
    plain, fitted = (importance(model, data, draws=20, proposal=Proposal(kind)) for kind in ("posterior", "refined"))
    assert fitted.elbo.mean() > plain.elbo.mean()
    assert np.median(fitted.ess) > np.median(plain.ess)


def test_what_a_proposal_costs() -> None:
    assert Proposal().evaluations(50) == 0
    refined = Proposal("refined", steps=1, draws=2)
    assert refined.evaluations(50) == 2 * (3 + 51) + 4 * 2
    assert Proposal("laplace", steps=3).evaluations(10) == 3 * 3 + 4 * 11 + 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "best"}, "refined or laplace"),
        ({"steps": 0}, "at least 1"),
        ({"defensive": 1.0}, "below 1"),
        ({"draws": 3}, "even number"),
        ({"widening": 0.0}, "positive factor"),
    ],
)
def test_proposals_that_do_not_exist_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Proposal(**fields)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_pareto_shape_of_pareto_weights(shape: float) -> None:
    """Mean over 100 samples of 4,000 weights whose tail is exactly Pareto; its standard deviation is below 0.015."""
    weights = np.random.default_rng(0).pareto(1 / shape, (100, 4000))
    tail = int(3 * 4000**0.5)
    largest = -np.sort(-np.log(weights))[:, : tail + 1]
    assert _pareto_shape(largest, tail).mean() == pytest.approx(shape, abs=0.06)


def test_weights_that_rest_on_few_draws_are_reported() -> None:
    model = linear_model(likelihood=tb.Gaussian(noise="fixed", scale=0.05))
    result = importance(model, rows_of(model), draws=1000)
    assert np.median(result.pareto_shape) > 0.7 and np.median(result.ess) < 10
    warning, unstated = result.warnings()
    assert "far from tight" in warning and "refined proposal" in warning and "no standard error" in unstated
    assert np.isnan(importance(model, rows_of(model), draws=20).pareto_shape).all(), "too few draws for a tail"


def test_few_programs_are_compiled_for_many_numbers_of_draws() -> None:
    assert len({_kept(min(k // 5, int(3 * k**0.5), 1000)) for k in (*range(1, 2000), 10_000, 100_000, 1_000_000)}) <= 6
