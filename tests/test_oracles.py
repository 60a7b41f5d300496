"""The identities of a variational autoencoder on models whose truth is known in closed form.

Where draws are involved, a mean is compared within five of its standard errors: a right library fails a comparison with
probability 6e-7 over the choice of the seed, and the seeds are fixed.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis

import tightbound as tb
from tightbound import testing
from tightbound.distributions import diagonal_gaussian, kl
from tightbound.evidence.exact import exact
from tightbound.evidence.importance import importance
from tightbound.model import Model
from tightbound.testing import LinearGaussian, linear_gaussian

DRAWS = 20_000
Draws = Callable[[jax.Array], Any]


def agrees(draws: Any, truth: Any) -> bool:
    """Whether means over the leading axis lie within five standard errors, or float rounding, of the truth."""
    draws = np.asarray(draws, float)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return bool(np.all(np.abs(draws.mean(axis=0) - truth) < 5 * error + 1e-4))


def many(function: Draws, count: int = DRAWS, seed: int = 0) -> Any:
    """Call a function of a key with many keys, compiled."""
    return eqx.filter_jit(jax.vmap(function))(jax.random.split(jax.random.key(seed), count))


def objective_terms(spec: tb.ELBO | tb.IWAE, oracle: LinearGaussian, x: np.ndarray) -> Any:
    objective, model = spec.build(), oracle.model
    return many(lambda key: objective.example(model, model.prior(), tb.Row(jnp.asarray(x)), key))


class Moments(NamedTuple):
    """q(z|x) of one row in double precision, and what follows from it in closed form."""

    mean: np.ndarray
    covariance: np.ndarray
    reconstruction: float
    rate: float
    gap: float


@cache
def off() -> LinearGaussian:
    """A model whose q(z|x), with correlated latents, is not the true posterior."""
    return linear_gaussian(exact=False)


@cache
def tight(diagonal: bool = False) -> LinearGaussian:
    """A model whose q(z|x) is the true posterior."""
    return linear_gaussian(exact=True, diagonal=diagonal)


def row(oracle: LinearGaussian) -> np.ndarray:
    return oracle.dataset(1, seed=5).x[0]


def moments(oracle: LinearGaussian, x: np.ndarray) -> Moments:
    q = oracle.model.posterior(jnp.asarray(x))
    mean, covariance = np.asarray(q.mean, float), np.asarray(q.covariance_matrix, float)
    residual = x - oracle.offset - oracle.weights @ mean
    square = residual @ residual + np.trace(oracle.weights @ covariance @ oracle.weights.T)
    reconstruction = square / (2 * oracle.noise**2) + len(x) / 2 * np.log(2 * np.pi * oracle.noise**2)
    true_mean, true_covariance = oracle.true_posterior(x[None])
    rate = gaussian_kl(mean, covariance, np.zeros(len(mean)), np.eye(len(mean)))
    return Moments(mean, covariance, reconstruction, rate, gaussian_kl(mean, covariance, true_mean[0], true_covariance))


def gaussian_kl(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other: np.ndarray) -> float:
    """KL between two Gaussians, by the formula of the textbooks, in double precision."""
    apart = other_mean - mean
    return 0.5 * float(
        np.trace(np.linalg.solve(other, covariance))
        + apart @ np.linalg.solve(other, apart)
        - len(mean)
        + np.linalg.slogdet(other)[1]
        - np.linalg.slogdet(covariance)[1]
    )


def test_linear_gaussian_parts_have_their_closed_forms() -> None:
    oracle = off()
    model, x, z = oracle.model, row(oracle), np.array([0.3, -1.2])
    log_likelihood, log_prior = model.log_joint(jnp.asarray(z, jnp.float32), jnp.asarray(x))
    decoded = oracle.weights @ z + oracle.offset
    assert np.isclose(log_likelihood, norm(decoded, oracle.noise).logpdf(x).sum(), atol=1e-5)
    assert np.isclose(log_prior, norm.logpdf(z).sum(), atol=1e-5)
    q, expected = model.posterior(jnp.asarray(x)), moments(oracle, x)
    twin = multivariate_normal(expected.mean, expected.covariance)
    assert np.isclose(q.log_prob(jnp.asarray(z, jnp.float32)), twin.logpdf(z), atol=1e-4)


def test_loss_of_one_example_is_reconstruction_plus_kl() -> None:
    x = row(off())
    terms, expected = objective_terms(tb.ELBO(), off(), x), moments(off(), x)
    assert agrees(terms.reconstruction, expected.reconstruction)
    assert np.allclose(terms.kl.sum(axis=1), expected.rate, atol=1e-4)
    assert agrees(-terms.bound, expected.reconstruction + expected.rate)
    loss = tb.ELBO(beta=4.0).build().value(jax.tree.map(lambda term: term.mean(axis=0), terms), jnp.int32(0))
    assert np.isclose(loss.value, terms.reconstruction.mean() + 4.0 * expected.rate, atol=1e-4)


def test_mean_squared_error_is_a_gaussian_with_hidden_noise() -> None:
    weight = 0.02
    oracle = linear_gaussian(noise=float(np.sqrt(weight * 3 / 2)), exact=False)
    model, x = oracle.model, jnp.asarray(row(oracle))

    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = model.posterior(x)
        z, rate = q.sample(key), jnp.sum(kl(q, model.prior()))
        popular = jnp.mean((x - model.likelihood(z).mean) ** 2) + weight * rate
        return popular, -model.log_likelihood(z, x) + rate

    popular, honest = many(both, 1000)
    constant = weight * 3 / 2 * np.log(2 * np.pi * oracle.noise**2)
    assert np.std(popular) > 1e-3
    assert np.allclose(weight * honest - popular, constant, atol=1e-5)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1.0, 0.5), (-2.0, 1.7), (0.0, 0.01), (30.0, 1.0)])
def test_closed_form_kl_matches_quadrature(mean: float, scale: float) -> None:
    z = mean + scale * np.linspace(-12, 12, 20_001)
    log_q = norm(mean, scale).logpdf(z)
    definition = np.sum(np.exp(log_q) * (log_q - norm.logpdf(z))) * (z[1] - z[0])
    closed = kl(diagonal_gaussian(jnp.array([mean]), jnp.array([scale])), diagonal_gaussian(jnp.zeros(1), jnp.ones(1)))
    assert np.isclose(closed[0], definition, rtol=1e-5, atol=1e-6)
    assert np.isclose(definition, 0.5 * (mean**2 + scale**2 - 1 - np.log(scale**2)), rtol=1e-9, atol=1e-9)


def test_pathwise_gradient_is_unbiased() -> None:
    oracle = off()
    x, expected = row(oracle), moments(oracle, row(oracle))
    triangle = np.linalg.cholesky(expected.covariance)

    def elbo(mean: jax.Array, triangle: jax.Array, key: jax.Array) -> jax.Array:
        q = tb.distributions.dist.MultivariateNormal(mean, scale_tril=triangle, validate_args=False)
        prior = oracle.model.prior()
        return oracle.model.log_likelihood(q.sample(key), jnp.asarray(x)) - jnp.sum(kl(q, prior))

    arguments = [jnp.asarray(value, jnp.float32) for value in (expected.mean, triangle)]
    in_mean, in_triangle = many(partial(jax.grad(elbo, argnums=(0, 1)), *arguments))
    residual, squared = x - oracle.offset - oracle.weights @ expected.mean, oracle.weights.T @ oracle.weights
    assert agrees(in_mean, oracle.weights.T @ residual / oracle.noise**2 - expected.mean)
    of_triangle = -(squared / oracle.noise**2 + np.eye(2)) @ triangle + np.diag(1 / np.diag(triangle))
    lower = np.tril_indices(2)
    assert agrees(np.asarray(in_triangle)[:, *lower], of_triangle[lower])


def encoder_gradients(oracle: LinearGaussian, spec: tb.ELBO, count: int = 4000) -> np.ndarray:
    """Gradients (count, P) of minus the bound of one row in the encoder's biases."""
    objective, x = spec.build(), jnp.asarray(row(oracle))

    def loss(bias: jax.Array, key: jax.Array) -> jax.Array:
        model = eqx.tree_at(lambda m: m.encoder.output.bias, oracle.model, bias)
        return -objective.example(model, model.prior(), tb.Row(x), key).bound

    return np.asarray(many(partial(jax.grad(loss), oracle.model.encoder.output.bias), count), float)


@pytest.mark.parametrize("diagonal", [False, True])
def test_stl_gradient_vanishes_at_the_true_posterior(diagonal: bool) -> None:
    stl = encoder_gradients(tight(diagonal), tb.ELBO(gradient="stl"))
    pathwise = encoder_gradients(tight(diagonal), tb.ELBO())
    assert np.abs(stl).max() < 1e-4
    assert pathwise.std(axis=0).max() > 0.1
    assert agrees(pathwise, 0.0)


def test_stl_gradient_is_unbiased_elsewhere() -> None:
    stl, pathwise = (encoder_gradients(off(), tb.ELBO(gradient=kind), DRAWS) for kind in ("stl", "pathwise"))
    error = np.sqrt((stl.var(axis=0) + pathwise.var(axis=0)) / DRAWS)
    assert np.all(np.abs(stl.mean(axis=0) - pathwise.mean(axis=0)) < 5 * error + 1e-4)
    assert np.any(np.abs(stl.mean(axis=0)) > 20 * error)


def test_log_evidence_is_elbo_plus_gap() -> None:
    for oracle in (off(), linear_gaussian(latent=3, sites=5, noise=0.3, exact=False, seed=2)):
        x = row(oracle)
        known = moments(oracle, x)
        elbo = -known.reconstruction - known.rate
        assert np.isclose(oracle.log_evidence(x[None])[0], elbo + known.gap, rtol=0, atol=1e-6)
        assert known.gap > 0.1
        assert agrees(objective_terms(tb.ELBO(), oracle, x).bound, elbo)


@pytest.mark.parametrize("diagonal", [False, True])
def test_elbo_is_the_evidence_at_the_true_posterior(diagonal: bool) -> None:
    x = row(tight(diagonal))
    truth = tight(diagonal).log_evidence(x[None])[0]
    assert agrees(objective_terms(tb.ELBO(), tight(diagonal), x).bound, truth)
    for spec in (tb.ELBO(gradient="stl"), tb.IWAE(k=1), tb.IWAE(k=7)):  # one draw has no noise at all
        assert np.allclose(objective_terms(spec, tight(diagonal), x).bound, truth, rtol=0, atol=1e-3)


def test_elbo_is_below_the_evidence() -> None:
    x = row(off())
    bound = np.asarray(objective_terms(tb.ELBO(), off(), x).bound, float)
    below = off().log_evidence(x[None])[0] - bound.mean()
    assert below > 5 * bound.std() / np.sqrt(DRAWS)


def test_both_forms_of_the_elbo_agree() -> None:
    x = row(off())
    known = moments(off(), x)
    elbo = -known.reconstruction - known.rate
    single = objective_terms(tb.IWAE(k=1), off(), x)
    assert agrees(single.bound, elbo)
    assert np.allclose(single.bound, -single.reconstruction - single.kl[:, 0], atol=1e-4)
    assert agrees(objective_terms(tb.ELBO(), off(), x).bound, elbo)


def test_importance_weighted_bound_rises_with_k_and_stays_below() -> None:
    x = row(off())
    truth = off().log_evidence(x[None])[0]
    bounds = [np.asarray(objective_terms(tb.IWAE(k=k), off(), x).bound, float) for k in (1, 3, 10, 50)]
    means, errors = np.array([b.mean() for b in bounds]), np.array([b.std() / np.sqrt(DRAWS) for b in bounds])
    assert np.all(np.diff(means) > 5 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(means < truth + 5 * errors)
    assert truth - means[-1] < 0.05 < truth - means[0]


def test_true_posterior_of_the_linear_gaussian_model() -> None:
    oracle = off()
    x = row(oracle)
    z = np.random.default_rng(0).standard_normal((50, 2))
    joint = jax.vmap(lambda z: jnp.stack(oracle.model.log_joint(z, jnp.asarray(x))).sum())(jnp.asarray(z, jnp.float32))
    mean, covariance = oracle.true_posterior(x[None])
    bayes = np.asarray(joint, float) - oracle.log_evidence(x[None])
    assert np.allclose(multivariate_normal(mean[0], covariance).logpdf(z), bayes, atol=2e-4)
    q = tight().model.posterior(jnp.asarray(row(tight())))
    mean, covariance = tight().true_posterior(row(tight())[None])
    assert np.allclose(q.mean, mean[0], atol=1e-5) and np.allclose(q.covariance_matrix, covariance, atol=1e-5)


def test_log_evidence_is_the_marginal_density() -> None:
    oracle, x = off(), off().dataset(20).x
    covariance = oracle.weights @ oracle.weights.T + oracle.noise**2 * np.eye(3)
    assert np.allclose(oracle.log_evidence(x), multivariate_normal(oracle.offset, covariance).logpdf(x), atol=1e-9)
    drawn = jax.vmap(oracle.model.sample)(jax.random.split(jax.random.key(0), DRAWS))
    assert agrees(drawn, oracle.offset)
    assert agrees((drawn[:, :, None] - oracle.offset[:, None]) * (drawn[:, None] - oracle.offset), covariance)


def test_quadrature_is_exact() -> None:
    # One unit of tanh in the decoder: no closed form, so that quadrature is used; its own check is the prior's draws.
    data = linear_gaussian(sites=3).dataset(4)
    spec = linear_gaussian(sites=3).model.spec.replace(decoder=tb.MLP(hidden=(4,), activation="tanh"))
    model = spec.build(jax.random.key(1))
    result = exact(model, data)
    z = jax.random.normal(jax.random.key(2), (100_000, 2))
    for x, value in zip(data.x, result.log_evidence, strict=True):
        likelihood = np.exp(np.asarray(jax.jit(jax.vmap(lambda z, x=x: model.log_likelihood(z, jnp.asarray(x))))(z), float))
        assert agrees(likelihood / np.exp(value), 1.0)
    closed = exact(off().model, off().dataset(20))
    assert np.allclose(closed.log_evidence, off().log_evidence(off().dataset(20).x), atol=1e-5)


def test_importance_bound_is_on_its_side() -> None:
    data = off().dataset(12)
    truth = off().log_evidence(data.x)
    few = [importance(off().model, data, draws=5, seed=seed) for seed in range(64)]
    means = np.array([result.log_evidence.mean() for result in few])
    assert means.mean() < truth.mean() - 5 * means.std(ddof=1) / 8
    elbos = np.array([result.elbo.mean() for result in few])
    closed = [-known.reconstruction - known.rate for known in (moments(off(), x) for x in data.x)]
    assert agrees(elbos[:, None], np.mean(closed))
    much = importance(off().model, data, draws=5000)
    assert np.all(np.abs(much.log_evidence - truth) < 5 * much.se + 1e-4)
    assert np.all(much.ess < 5000) and np.all(much.ess > 50)


def test_importance_is_exact_at_the_true_posterior() -> None:
    data = tight().dataset(17)
    result = importance(tight().model, data, draws=101)
    assert np.allclose(result.log_evidence, tight().log_evidence(data.x), atol=1e-3)
    assert np.allclose(result.elbo, result.log_evidence, atol=1e-3) and np.allclose(result.ess, 101, rtol=1e-3)


def correlated_rows(count: int = 600, sites: int = 6, uneven: bool = False) -> np.ndarray:
    rng = np.random.default_rng(3)
    noise = np.linspace(0.3, 1.2, sites) if uneven else 0.6
    clean = rng.standard_normal((count, 2)) @ rng.standard_normal((2, sites))
    return (10 + clean + noise * rng.standard_normal((count, sites))).astype(np.float32)


def fit_linear(x: np.ndarray, likelihood: tb.Gaussian, posterior: Any) -> tuple[Model, tb.Dataset]:
    affine = tb.MLP(hidden=())
    data = tb.data.arrays.from_arrays(x, kind="real")
    spec = tb.VAE(sites=data.sites, latent=2, encoder=affine, decoder=affine, posterior=posterior, likelihood=likelihood)
    plan = tb.Plan(steps=2000, batch_size=300, learning_rate=0.03, weight_decay=0.0)
    *_, last = tb.train(spec.build(jax.random.key(0), data.statistics()), tb.ELBO(gradient="stl"), data, plan)
    return last.model, data


def learnt(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W (D, L), b (D,) and noise (D,) of a trained model in the units of x, in double precision."""
    p = model.likelihood(jnp.zeros(2))
    weights = np.asarray(model.scale(), float)[:, None] * np.asarray(model.decoder.output.weight, float).T
    return weights, np.asarray(p.mean, float), np.sqrt(np.asarray(p.variance, float))


def check_optimum(model: Model, data: tb.Dataset, best: float) -> None:
    """Check log p(x) of the learnt weights against the best there is, and q(z|x) against the true posterior."""
    weights, offset, noise = learnt(model)
    reached = multivariate_normal(offset, weights @ weights.T + np.diag(noise**2)).logpdf(data.x).mean()
    assert best - 0.005 < reached < best + 1e-3
    q = jax.vmap(lambda x: (model.posterior(x).mean, model.posterior(x).covariance_matrix))
    means, covariances = (np.asarray(part, float) for part in q(jnp.asarray(data.x)))
    true_means, true = testing.posterior_moments(weights, offset, noise, data.x)
    gaps = [gaussian_kl(m, c, t, true) for m, c, t in zip(means, covariances, true_means, strict=True)]
    assert min(gaps) >= 0 and np.mean(gaps) < 0.005


def principal_components_optimum(x: np.ndarray, latent: int) -> float:
    """The largest mean log p(x) of probabilistic PCA on standardised columns, in the units of x (Tipping & Bishop 1999)."""
    scale = x.std(axis=0, dtype=float)
    values = np.sort(np.linalg.eigvalsh(np.cov(x / scale, rowvar=False, bias=True)))[::-1]
    count, noise = len(values), values[latent:].mean()
    log_det = np.log(values[:latent]).sum() + (count - latent) * np.log(noise)
    return -0.5 * (count * np.log(2 * np.pi) + log_det + count) - np.log(scale).sum()


def test_trained_linear_model_is_probabilistic_pca() -> None:
    x = correlated_rows()
    model, data = fit_linear(x, tb.Gaussian(noise="global"), tb.FullGaussian())
    check_optimum(model, data, principal_components_optimum(x, 2))


def test_trained_linear_model_with_noise_per_site_is_factor_analysis() -> None:
    x = correlated_rows(uneven=True)
    model, data = fit_linear(x, tb.Gaussian(noise="site"), tb.FullGaussian())
    best = FactorAnalysis(2, tol=1e-8, max_iter=10_000, svd_method="lapack").fit(x.astype(float)).score(x.astype(float))
    check_optimum(model, data, best)
