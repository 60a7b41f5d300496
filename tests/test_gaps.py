"""Why the ELBO is below log p(x): every part against its closed form on a linear-Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tightbound as tb
from linear import LINEAR, linear_model, rows_of, true_mean, true_precision, with_good_encoder
from tightbound.errors import CombinationError, DataError, SpecError
from tightbound.evidence.annealed import Walk
from tightbound.evidence.evaluation import evaluate
from tightbound.evidence.exact import exact
from tightbound.evidence.gaps import gaps, surgery
from tightbound.evidence.proposals import Proposal
from tightbound.evidence.truth import true_posterior
from tightbound.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return linear_model()


def test_the_gap_splits_as_theory_says(model: Model) -> None:
    """The best mean-field q has the precisions of p(z|x), and is ½ Σ log Λ_ll − ½ log det Λ away from it."""
    data, precision = rows_of(model), true_precision(model)
    parts = gaps(model, data)
    truth = exact(model, data).log_evidence
    approximation = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(parts.log_evidence, truth, atol=0.02)
    assert parts.approximation.value == pytest.approx(approximation, abs=0.02)
    assert parts.total.value == pytest.approx(parts.approximation.value + parts.amortisation.value, abs=1e-6)
    assert parts.gain("full covariance").value == pytest.approx(approximation, abs=0.02)
    noise = np.sqrt(np.mean(parts.se["elbo"] ** 2) / len(truth))
    elbo = np.mean([elbo_of(model, x) for x in data.x])
    assert parts.elbo.mean() == pytest.approx(elbo, abs=4 * noise)


def elbo_of(model: Model, x: np.ndarray) -> float:
    """log p(x) − KL(q(z|x) ‖ p(z|x)), both in closed form."""
    q, precision = model.posterior(jnp.asarray(x)), true_precision(model)
    mean, variance = np.asarray(q.mean, np.float64), np.asarray(q.variance, np.float64)
    away = mean - true_mean(model, x)
    spread = np.sum(np.diag(precision) * variance) - len(mean) - np.sum(np.log(variance))
    divergence = 0.5 * (spread + away @ precision @ away - np.linalg.slogdet(precision)[1])
    return float(exact(model, tb.Dataset(x[None], model.spec.sites)).log_evidence[0] - divergence)


def test_a_full_posterior_has_no_approximation_gap_here() -> None:
    model = linear_model(posterior=tb.FullGaussian())
    parts = gaps(model, rows_of(model, 4), families={})
    assert parts.approximation.value == pytest.approx(0.0, abs=0.02)
    assert parts.amortisation.value > 0.1


def test_the_family_of_a_flow_is_that_of_the_model_alone() -> None:
    """A flow that no model was trained with is no family to fit to single rows; one that was is split as any other."""
    model = linear_model()
    data = rows_of(model, 2)
    with pytest.raises(CombinationError, match="'flow' has weights that are trained with a model"):
        gaps(model, data, families={"flow": tb.FlowPosterior()})
    flow = tb.FlowPosterior(layers=1, width=4, context=2)
    parts = gaps(model.spec.replace(posterior=flow).build(jax.random.key(0)), data, families={}, steps=100)
    np.testing.assert_allclose(parts.approximation.value + parts.amortisation.value, parts.total.value, atol=1e-4)
    assert parts.amortisation.value > 0.1


def test_surgery_brackets_the_information() -> None:
    """x ~ N(0, I) and q(z|x) = N(A x + b, S): I(x; z) = ½ log det(A Aᵀ + S) / det S, within 4 standard errors."""
    model = with_good_encoder(linear_model())
    data = rows_of(model, 600)
    means = jax.vmap(lambda x: model.posterior(x).mean)
    slope = np.asarray(means(jnp.eye(5)) - means(jnp.zeros((5, 5))), np.float64).T
    variance = np.asarray(model.posterior(jnp.zeros(5)).variance, np.float64)
    information = 0.5 * (np.linalg.slogdet(slope @ slope.T + np.diag(variance))[1] - np.sum(np.log(variance)))
    result = surgery(model, data)
    low, high = result.information
    assert low.value - 4 * low.se < information < high.value + 4 * high.se
    assert high.value - low.value < 0.2
    assert result.rate.value == pytest.approx(low.value + result.marginal_kl[1].value)
    assert (low.side, high.side) == ("lower", "upper")


def test_information_is_never_above_the_rate(model: Model) -> None:
    result = surgery(model, rows_of(model, 3))
    assert result.information[1].value <= result.rate.value + 1e-9
    assert result.information[0].value <= np.log(3)
    with pytest.raises(DataError, match="at least 2 rows"):
        surgery(model, rows_of(model, 1))


def test_draws_from_the_true_posterior(model: Model) -> None:
    """Means within 4.5 standard errors by their effective sample size, variances within 15 %."""
    data = rows_of(model)
    draws = true_posterior(model, data, row=2, draws=500, warmup=300)
    covariance = np.linalg.inv(true_precision(model))
    error = np.sqrt(np.diag(covariance) / draws.ess)
    np.testing.assert_array_less(np.abs(draws.mean - true_mean(model, data.x[2])), 4.5 * error)
    np.testing.assert_allclose(draws.covariance, covariance, atol=0.15 * covariance.max())
    assert draws.z.shape == (4, 500, 2) and draws.divergences == 0
    assert np.all(draws.r_hat < 1.02)
    with pytest.raises(DataError, match="no row 12"):
        true_posterior(model, data, row=12)
    with pytest.raises(SpecError, match=r"chains.*at least 2"):
        true_posterior(model, data, chains=1)


def test_estimates_side_by_side(model: Model) -> None:
    data, seen = rows_of(model), []
    methods = ("elbo", "importance", "annealed", "exact")
    result = evaluate(
        model, data, methods, draws=200, proposal=Proposal("refined"), walk=Walk(50, 4, 5), simulated=4,
        report=lambda method, done, total: seen.append(method),
    )  # fmt: skip
    found = {line.name: line.estimate for line in result.lines}
    assert list(found) == ["elbo", "log_evidence", "annealed", "simulated_lower", "simulated_upper", "simulated_gap", "exact"]
    assert found["elbo"].value < found["log_evidence"].value == pytest.approx(found["exact"].value, abs=0.02)
    assert "refined" in found["log_evidence"].method and "refined" not in found["elbo"].method
    assert [found[name].given for name in ("annealed", "simulated_lower", "simulated_upper")] == [
        "data",
        "simulated",
        "simulated",
    ]
    assert {"elbo", "importance", "annealed"} == set(seen)


def test_what_cannot_be_had_is_a_note_or_an_error() -> None:
    sites = tb.Sites(kind="binary", shape=(4,))
    model = tb.VAE(sites=sites, latent=3, encoder=LINEAR, decoder=LINEAR, likelihood=tb.Bernoulli()).build(jax.random.key(0))
    data = tb.Dataset(np.zeros((1, 4), np.uint8), sites)
    result = evaluate(model, data, ("elbo", "exact"), draws=10)
    assert any("no exact value" in note for note in result.notes)
    assert any("one example has no standard error" in note for note in result.notes)
    with pytest.raises(CombinationError, match="importance sampling"):
        evaluate(model, data, ("exact",))
    with pytest.raises(SpecError, match=r"some of elbo.*got \['magic'\]"):
        evaluate(model, data, ("magic",))
