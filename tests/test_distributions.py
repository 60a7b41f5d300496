"""Densities against independent twins in double precision, the table of KL divergences, and what ``stop`` stops.

Ours are computed in single precision: tolerances are relative to 1 + |log p|, which is what float32 can hold.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import digamma, logsumexp, softmax

from tightbound.distributions import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    GaussianMixture,
    NegativeBinomial,
    Poisson,
    SharedFamilyMixture,
    diagonal_gaussian,
    kl,
    positive,
    stop,
    training_log_prob,
)
from tightbound.likelihoods import Bernoulli as BernoulliSpec
from tightbound.schema import Sites, Statistics

RNG = np.random.default_rng(0)
MEANS = 10.0 ** np.arange(-4, 7)
CONCENTRATIONS = 10.0 ** np.arange(-3, 9)
LARGEST_COUNT = 2**24


def single(*arrays: Any) -> list[Any]:
    """The arrays as the library sees them; twins get the same rounded numbers in double precision."""
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def close(ours: Any, twin: Any, tolerance: float) -> bool:
    """Whether |ours − twin| ≤ tolerance · (1 + |twin|) everywhere; −inf where the twin underflows does not count."""
    twin = np.asarray(twin, float)
    return bool(np.all(np.abs(np.asarray(ours, float) - twin) <= tolerance * (1 + np.abs(twin))))


def counts_around(mean: float, deviation: float) -> np.ndarray:
    spread = np.round(mean + deviation * np.array([-2, -1, -0.5, 0, 0.5, 1, 2, 4]))
    return np.clip(np.concatenate([[0, 1, 2, 3, 4, 5, 30], spread]), 0, LARGEST_COUNT)


def count_table(concentrations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, means and concentrations over all magnitudes, flat."""
    rows = [
        (x, m, r)
        for r in concentrations
        for m in MEANS
        for x in counts_around(m, np.sqrt(m + (0 if np.isinf(r) else m * m / r)))
    ]
    return tuple(np.asarray(single(column)[0], float) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def test_negative_binomial_from_tiny_to_huge() -> None:
    x, m, r = count_table(CONCENTRATIONS)
    ours = jax.jit(lambda x, m, r: NegativeBinomial(m, r).log_prob(x))(*single(x, m, r))
    assert close(ours, stats.nbinom.logpmf(x, r, r / (r + m)), 5e-6)


def test_negative_binomial_gradients() -> None:
    x, m, r = count_table(CONCENTRATIONS)
    gradient = jax.grad(lambda m, r, x: NegativeBinomial(m, r).log_prob(x), argnums=(0, 1))
    in_mean, in_concentration = jax.jit(jax.vmap(gradient))(*single(m, r, x))
    # In the logarithms of the parameters, as training sees them.
    assert close(in_mean * m, x - m * (r + x) / (r + m), 5e-6)
    twin = r * (digamma(r + x) - digamma(r) - np.log1p(m / r) + 1 - (r + x) / (r + m))
    reliable = r < 1e4  # beyond, the twin itself cancels
    assert close((in_concentration * r)[reliable], twin[reliable], 2e-4)
    assert np.all(np.isfinite(in_concentration))


def test_negative_binomial_becomes_poisson() -> None:
    x, m, _ = count_table(np.array([1e8]))
    some = m <= 100
    ours = jax.jit(lambda x, m: NegativeBinomial(m, jnp.float32(1e9)).log_prob(x))(*single(x, m))
    assert close(ours[some], stats.poisson.logpmf(x, m)[some], 1e-5)


def test_poisson_from_tiny_to_huge() -> None:
    x, m, _ = count_table(np.array([np.inf]))
    ours = jax.jit(lambda x, m: Poisson(m, validate_args=False).log_prob(x))(*single(x, m))
    assert close(ours, stats.poisson.logpmf(x, m), 5e-6)
    slope = jax.jit(jax.vmap(jax.grad(lambda m, x: Poisson(m, validate_args=False).log_prob(x))))(*single(m, x))
    assert close(slope * m, x - m, 5e-6)


def test_discretised_logistic_far_into_the_tails() -> None:
    loc, scale = np.array([-40.0, 0.0, 3.3, 7.5, 100.0, 1e4]), np.array([0.05, 0.2, 1.0, 5.0, 300.0])
    loc, scale, x = (np.ravel(a) for a in np.meshgrid(loc, scale, np.arange(16.0), indexing="ij"))
    loc, scale = (np.asarray(a, float) for a in single(loc, scale))
    below, above = stats.logistic(loc, scale).logcdf, stats.logistic(loc, scale).logsf
    # log(F(b) − F(a)) from whichever tail does not cancel; the outer bins take the tails.
    from_left = logsumexp([below(x + 0.5), below(x - 0.5)], axis=0, b=[[1], [-1]])
    from_right = logsumexp([above(x - 0.5), above(x + 0.5)], axis=0, b=[[1], [-1]])
    inner = np.where(x < loc, from_left, from_right)
    twin = np.where(x == 0, below(0.5), np.where(x == 15, above(14.5), inner))
    arguments = single(np.zeros((len(x), 1)), loc[:, None], scale[:, None])
    ours = DiscretisedLogistic(*arguments, levels=16).log_prob(single(x)[0])
    assert close(ours, twin, 2e-5)
    assert twin.min() < -1000


def test_discretised_logistic_mixture_and_its_mean() -> None:
    weights, loc, scale = RNG.normal(size=(5, 3)), RNG.uniform(0, 16, (5, 3)), RNG.uniform(0.3, 3, (5, 3))
    mixture = DiscretisedLogistic(*single(weights, loc, scale), levels=16)
    levels = np.arange(16.0)
    mass = np.exp(np.stack([np.asarray(mixture.log_prob(jnp.full(5, v)), float) for v in levels]))
    edges = levels[1:, None, None] - 0.5
    cumulative = np.concatenate([np.zeros((1, 5, 3)), stats.logistic.cdf((edges - loc) / scale), np.ones((1, 5, 3))])
    share = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    assert np.allclose(mass, (np.diff(cumulative, axis=0) * share).sum(axis=2), atol=1e-5)
    assert np.allclose(mixture.mean, levels @ mass, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_gaussian_mixture(scale: float) -> None:
    weights, loc = RNG.normal(size=6), RNG.normal(size=(6, 4))
    scales = scale * RNG.uniform(0.5, 1.5, (6, 4))
    z = np.concatenate([RNG.normal(size=(20, 4)), loc + scale * RNG.normal(size=(6, 4))])
    weights, loc, scales, z = (np.asarray(a, float) for a in single(weights, loc, scales, z))
    mixture = GaussianMixture(*single(weights, loc, scales))
    members = stats.norm(loc, scales).logpdf(z[:, None, :]).sum(axis=2) + weights - logsumexp(weights)
    assert close(jax.vmap(mixture.log_prob)(*single(z)), logsumexp(members, axis=1), 5e-6)
    assert np.allclose(mixture.mean, np.exp(weights - logsumexp(weights)) @ loc, atol=1e-5)


def test_training_form_of_the_mixture_is_exact_in_value_and_gradient() -> None:
    # Scales of 0.03: the gradient of the scales is then good to 1e-3; it loses its digits below 0.01.
    loc = RNG.normal(size=(8, 3))
    parameters = single(RNG.normal(size=8), loc, np.where(np.arange(8)[:, None] % 2, 0.03, 0.7) * np.ones((8, 3)))
    (z,) = single(np.concatenate([loc, loc + 0.03 * RNG.normal(size=(8, 3))]))

    def total(form: Callable[..., Any], parameters: Any, z: Any) -> Any:
        return jnp.sum(jax.vmap(lambda z: form(GaussianMixture(*parameters), z))(z))

    def values(form: Callable[..., Any]) -> Any:
        return jax.jit(jax.value_and_grad(lambda p, z: total(form, p, z), argnums=(0, 1)))(parameters, z)

    direct, fast = values(lambda mixture, z: mixture.log_prob(z)), values(training_log_prob)
    for ours, exact in zip(jax.tree.leaves(fast), jax.tree.leaves(direct), strict=True):
        assert np.linalg.norm(ours - exact) <= 2e-3 * np.linalg.norm(exact)


def test_training_form_is_log_prob_where_there_is_no_other() -> None:
    q = diagonal_gaussian(jnp.zeros(2), jnp.ones(2))
    assert training_log_prob(q, jnp.ones(2)) == q.log_prob(jnp.ones(2))


def test_mixture_of_any_family() -> None:
    parameters = RNG.normal(size=(5, 4))

    def head(h: Any) -> dist.Distribution:
        return diagonal_gaussian(h[:2], jnp.exp(h[2:]))

    weights = softmax(np.arange(5.0))
    mixture = SharedFamilyMixture(head, *single(parameters), jnp.arange(5.0), (2,))
    z = RNG.normal(size=2)
    members = stats.norm(parameters[:, :2], np.exp(parameters[:, 2:])).logpdf(z).sum(axis=1)
    assert np.isclose(mixture.log_prob(*single(z)), logsumexp(members, b=weights), atol=1e-5)
    assert mixture.sample(jax.random.key(0), (7, 3)).shape == (7, 3, 2)
    draws = np.asarray(mixture.sample(jax.random.key(1), (20_000,)), float)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - weights @ parameters[:, :2]) < 5 * error)


def test_categorical() -> None:
    logits, values = RNG.normal(size=(6, 5)), np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.0])
    ours = Categorical(*single(logits), validate_args=False)
    twin = logits - logsumexp(logits, axis=1, keepdims=True)
    assert close(ours.log_prob(*single(values)), twin[np.arange(6), values.astype(int)], 1e-6)
    assert np.allclose(ours.mean, np.exp(twin) @ np.arange(5), atol=1e-5)


def test_bernoulli() -> None:
    """To 1e-7 nats, also far out; its first two derivatives are those of the exact formula, also at 0."""
    logits = np.array([-90.0, -30.0, -2.0, -1e-3, 0.0, 3.0, 17.0, 30.0, 90.0])
    probability = 1.0 / (1.0 + np.exp(-logits))
    for value in (0.0, 1.0):

        def log_prob(logit: jax.Array) -> jax.Array:
            return Bernoulli(logit, validate_args=False).log_prob(value)  # noqa: B023

        (at,) = single(logits)
        np.testing.assert_allclose(log_prob(at), -np.logaddexp(0.0, np.where(value > 0, -logits, logits)), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(jax.vmap(jax.grad(log_prob))(at), value - probability, atol=1e-6)
        np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(log_prob)))(at), -probability * (1 - probability), atol=1e-6)


def test_gaussians() -> None:
    loc, scale, z = RNG.normal(size=3), RNG.uniform(0.1, 2, 3), RNG.normal(size=3)
    assert close(diagonal_gaussian(*single(loc, scale)).log_prob(*single(z)), stats.norm(loc, scale).logpdf(z).sum(), 1e-6)
    triangle = np.tril(RNG.normal(size=(3, 3)), -1) + np.diag(scale)
    full = dist.MultivariateNormal(*single(loc), scale_tril=single(triangle)[0], validate_args=False)
    assert close(full.log_prob(*single(z)), stats.multivariate_normal(loc, triangle @ triangle.T).logpdf(z), 1e-5)


def test_bernoulli_starts_at_the_training_mean() -> None:
    mean = np.array([0.2, 0.5, 0.999, 0.0], np.float32)
    head = BernoulliSpec().build(Sites(kind="binary", shape=(4,)), Statistics(mean, np.ones(4, np.float32)))
    assert np.allclose(head(jnp.zeros((1, 4))).mean, [0.2, 0.5, 0.999, 0.001], atol=1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_kl_against_the_textbook_and_draws(full: bool) -> None:
    loc, scale, p_loc, p_scale = RNG.normal(size=3), RNG.uniform(0.2, 2, 3), RNG.normal(size=3), RNG.uniform(0.5, 2, 3)
    triangle = np.diag(scale) + full * np.tril(RNG.normal(size=(3, 3)), -1)
    p = diagonal_gaussian(*single(p_loc, p_scale))
    q = dist.MultivariateNormal(*single(loc), scale_tril=single(triangle)[0], validate_args=False)
    q = q if full else diagonal_gaussian(*single(loc, scale))
    closed = kl(q, p)
    covariance, other = triangle @ triangle.T, np.diag(p_scale**2)
    textbook = 0.5 * (
        np.trace(covariance @ np.linalg.inv(other))
        + np.sum(((p_loc - loc) / p_scale) ** 2)
        - 3
        + np.linalg.slogdet(other)[1]
        - np.linalg.slogdet(covariance)[1]
    )
    assert closed.shape == ((1,) if full else (3,))
    assert np.isclose(closed.sum(), textbook, atol=1e-5)
    z = q.sample(jax.random.key(0), (50_000,))
    estimates = np.asarray(q.log_prob(z) - p.log_prob(z), float)
    assert abs(estimates.mean() - textbook) < 5 * estimates.std() / np.sqrt(len(estimates))


def test_kl_of_the_seed_formula() -> None:
    mean, deviation = np.array([0.0, 1.0, -3.0]), np.array([1.0, 0.5, 2.0])
    closed = kl(diagonal_gaussian(*single(mean, deviation)), diagonal_gaussian(jnp.zeros(3), jnp.ones(3)))
    assert np.allclose(closed, 0.5 * (mean**2 + deviation**2 - 1 - np.log(deviation**2)), atol=1e-6)
    assert np.all(np.asarray(closed) >= 0) and closed[0] == 0


def test_kl_is_not_invented() -> None:
    mixture = GaussianMixture(jnp.zeros(2), jnp.zeros((2, 2)), jnp.ones((2, 2)))
    q = diagonal_gaussian(jnp.zeros(2), jnp.ones(2))
    full = dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.eye(2), validate_args=False)
    assert kl(q, mixture) is None and kl(mixture, q) is None and kl(q, full) is None


def test_stop_cuts_every_parameter() -> None:
    def scored(parameters: Any, cut: bool) -> Any:
        q = GaussianMixture(*parameters)
        return (stop(q) if cut else q).log_prob(jnp.ones(2))

    parameters = single(np.array([0.1, 0.3]), np.array([[0.0, 1.0], [2.0, 3.0]]), np.ones((2, 2)))
    assert scored(parameters, True) == scored(parameters, False)
    assert not any(np.any(g) for g in jax.tree.leaves(jax.grad(scored)(parameters, True)))
    assert all(np.any(g) for g in jax.tree.leaves(jax.grad(scored)(parameters, False)))


def test_positive_has_a_floor_and_a_gradient() -> None:
    raw = jnp.array([-1e4, -30.0, -5.0, 0.0, 5.0, 1e4])
    values, slopes = jax.vmap(jax.value_and_grad(lambda r: positive(r, 1e-3)))(raw)
    assert np.all(np.diff(np.asarray(values)[1:]) > 0) and np.isclose(values[0], 1e-3) and np.isclose(values[3], 1.001)
    assert np.all(np.isfinite(slopes)) and np.all(np.asarray(slopes)[1:] > 0)
