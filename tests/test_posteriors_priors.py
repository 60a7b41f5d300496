"""Posteriors and priors: the contract, twins in double precision, and what each is made of."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy import stats
from scipy.special import logsumexp, softmax

import tightbound as tb
from data_checks import refused
from parts import POSTERIORS, PRIORS
from tightbound.distributions import cooled, diagonal_gaussian
from tightbound.errors import SpecError
from tightbound.flows import CouplingFlow
from tightbound.model import Model, merge, to_arrays, trainable
from tightbound.priors import Encoder
from tightbound.schema import Sites, Statistics
from tightbound.spec import Spec
from tightbound.testing import check_posterior, check_prior, example_rows
from tightbound.testing.comparisons import Grid, check_fit, moved

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_contract(name: str, latent: int) -> None:
    check_posterior(POSTERIORS[name], latent=latent)


@pytest.mark.parametrize(("name", "posterior"), [*((name, "diagonal") for name in PRIORS), ("vamp", "full")], ids=str)
def test_prior_contract(name: str, posterior: str) -> None:
    check_prior(PRIORS[name], posterior=POSTERIORS[posterior])


def test_prior_contract_with_one_latent() -> None:
    check_prior(tb.TrainedMixture(components=3), latent=1)


def test_prior_contract_on_categories() -> None:
    check_prior(tb.VampPrior(components=3), sites=Sites(kind="category", shape=(2,), levels=3, missing=True))


def softplus_of_unit(raw: np.ndarray, floor: float) -> np.ndarray:
    """floor + softplus(raw + c) with c such that raw = 0 gives 1 + floor, in double precision."""
    return floor + np.log1p(np.exp(raw + np.log(np.expm1(1.0))))


def test_diagonal_gaussian_reads_means_then_scales() -> None:
    h, z = RNG.normal(size=6), RNG.normal(size=3)
    q = tb.DiagonalGaussian(floor=0.1).build(3)(jnp.asarray(h, jnp.float32))
    twin = stats.norm(h[:3], softplus_of_unit(h[3:], 0.1))
    assert np.isclose(q.log_prob(jnp.asarray(z, jnp.float32)), twin.logpdf(z).sum(), atol=1e-4)
    assert np.allclose(q.mean, h[:3], atol=1e-6) and np.allclose(q.variance, twin.var(), rtol=1e-5)


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_full_gaussian_reads_means_diagonal_and_the_rows_below(latent: int) -> None:
    below = latent * (latent - 1) // 2
    head = tb.FullGaussian(floor=0.1).build(latent)
    assert head.parameters == 2 * latent + below
    h, z = RNG.normal(size=head.parameters), RNG.normal(size=latent)
    triangle = np.diag(softplus_of_unit(h[latent : 2 * latent], 0.1))
    triangle[np.tril_indices(latent, -1)] = h[2 * latent :]
    q = head(jnp.asarray(h, jnp.float32))
    twin = stats.multivariate_normal(h[:latent], triangle @ triangle.T)
    assert np.isclose(q.log_prob(jnp.asarray(z, jnp.float32)), twin.logpdf(z), rtol=1e-4, atol=1e-4)
    assert np.allclose(q.covariance_matrix, triangle @ triangle.T, atol=1e-5)
    draws = np.asarray(q.sample(jax.random.key(0), (50_000,)), float)
    assert np.allclose(np.cov(draws.T), triangle @ triangle.T, atol=0.03 * np.trace(triangle @ triangle.T))


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_a_flow_comes_back_and_counts_its_volume(latent: int) -> None:
    """T⁻¹(T(e)) = e, log |det ∂T⁻¹/∂z| is that of its Jacobian, and with three layers or more every entry moves every other."""
    flow = moved(CouplingFlow.initialise(latent, 3, 4, 8, key=jax.random.key(0)), jax.random.key(1))
    e, context = jnp.asarray(RNG.normal(size=latent), jnp.float32), jnp.asarray(RNG.normal(size=3), jnp.float32)
    z = flow.forward(e, context)
    back, log_determinant = flow.inverse(z, context)
    np.testing.assert_allclose(back, e, atol=1e-4)
    jacobian = jax.jacobian(lambda z: flow.inverse(z, context)[0])(z)
    assert np.isclose(log_determinant, np.linalg.slogdet(np.asarray(jacobian, float))[1], atol=1e-4)
    assert np.all(np.abs(jacobian) > 0)


def test_a_flow_posterior_bends_where_a_gaussian_cannot() -> None:
    """log p(z) = log N(z₁; 0, 1) + log N(z₂; z₁², 0.5²): a Gaussian misses it by 0.5 nats and more, a flow by less than 0.1."""

    def log_p(z: jax.Array) -> jax.Array:
        means, scales = jnp.stack([0.0 * z[0], z[0] ** 2]), jnp.array([1.0, 0.5])
        return diagonal_gaussian(means, scales).log_prob(z)

    def divergence(parts: Any, key: jax.Array, draws: int) -> jax.Array:
        head, h = parts
        q = head(h)
        z = q.sample(key, (draws,))
        return jnp.mean(jax.vmap(lambda z: q.log_prob(z) - log_p(z))(z))

    def fitted(spec: Any) -> float:
        head = spec.build(2, key=jax.random.key(0))
        trained, rest = trainable((head, jnp.zeros(head.parameters)))
        optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, 1500))

        def step(carry: Any, key: jax.Array) -> Any:
            trained, state = carry
            gradient = jax.grad(lambda trained: divergence(merge(trained, rest), key, 64))(trained)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(trained, updates), state), None

        @eqx.filter_jit
        def run(trained: Any) -> jax.Array:
            ends = jax.lax.scan(step, (trained, optimiser.init(trained)), jax.random.split(jax.random.key(1), 1500))[0]
            return divergence(merge(ends[0], rest), jax.random.key(2), 20_000)

        return float(run(trained))

    assert fitted(tb.FullGaussian()) > 0.5
    assert fitted(tb.FlowPosterior(layers=4, width=16, context=1)) < 0.1


def test_moments_of_a_flow_are_near_those_of_its_draws() -> None:
    """128 fixed draws against 20,000: five standard errors of the former."""
    head = moved(tb.FlowPosterior(layers=4, width=8, context=3).build(3, key=jax.random.key(0)), jax.random.key(1))
    q = head(jnp.asarray(RNG.normal(size=9), jnp.float32))
    draws = np.asarray(q.sample(jax.random.key(0), (20_000,)), float)
    assert np.all(np.abs(q.mean - draws.mean(axis=0)) < 5 * draws.std(axis=0) / 128**0.5)
    assert np.all(np.abs(np.log(q.variance / draws.var(axis=0))) < 5 * (stats.kurtosis(draws) + 2) ** 0.5 / 128**0.5)


def test_scales_do_not_fall_below_the_floor() -> None:
    for spec in (tb.DiagonalGaussian(floor=0.25), tb.FullGaussian(floor=0.25)):
        head = spec.build(1)
        assert np.isclose(head(jnp.array([0.0, -1e4])).variance[0], 0.25**2)
        with refused("floor", "greater than 0", error=SpecError):
            spec.replace(floor=0.0)


def test_standard_normal_has_nothing_to_train() -> None:
    head = tb.StandardNormal().build(4)
    assert not jax.tree.leaves(eqx.filter(head, eqx.is_array))
    z = RNG.normal(size=4)
    assert np.isclose(head(None).log_prob(jnp.asarray(z, jnp.float32)), stats.norm.logpdf(z).sum(), atol=1e-5)


def test_trained_mixture_is_the_mixture_of_its_arrays() -> None:
    head = tb.TrainedMixture(components=5, floor=0.2).build(3, key=jax.random.key(0))
    head = eqx.tree_at(lambda h: (h.logits, h.raw_scale), head, (jnp.arange(5.0), jnp.full((5, 3), -0.7)))
    z = RNG.normal(size=3)
    scale = softplus_of_unit(np.asarray(-0.7), 0.2)
    members = stats.norm(np.asarray(head.loc, float), scale).logpdf(z).sum(axis=1) + np.arange(5.0)
    expected = logsumexp(members) - logsumexp(np.arange(5.0))
    assert np.isclose(head(None).log_prob(jnp.asarray(z, jnp.float32)), expected, atol=1e-4)
    assert len(np.unique(np.asarray(head.loc))) == 15  # no two components start alike


@cache
def small(posterior: str, prior: Spec = PRIORS["vamp"]) -> Model:
    spec = tb.VAE(
        sites=Sites(kind="real", shape=(3,)),
        latent=2,
        encoder=tb.MLP(hidden=(5,), activation="tanh"),
        decoder=tb.MLP(hidden=()),
        posterior=POSTERIORS[posterior],
        prior=prior,
        likelihood=tb.Gaussian(),
    )
    data = example_rows(spec.sites, 9)
    return spec.build(jax.random.key(0), data.statistics()._replace(examples=data.x))


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_vamp_prior_is_the_average_posterior_of_its_pseudo_inputs(posterior: str) -> None:
    model = small(posterior)
    members = [model.posterior_head(model.encoder(u)) for u in model.prior_head.pseudo_inputs]
    for z in jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32):
        expected = logsumexp([float(q.log_prob(z)) for q in members]) - np.log(4)
        assert np.isclose(model.prior().log_prob(z), expected, atol=1e-5)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_weights_of_pseudo_inputs_are_trained_where_asked_for(posterior: str) -> None:
    model = small(posterior, tb.VampPrior(components=4, weighted=True))
    assert {"prior_head.pseudo_inputs", "prior_head.logits"} <= to_arrays(model).keys()
    model = eqx.tree_at(lambda m: m.prior_head.logits, model, jnp.arange(4.0))
    members = [model.posterior_head(model.encoder(u)) for u in model.prior_head.pseudo_inputs]
    z = jnp.array([0.3, -1.0])
    expected = logsumexp([float(q.log_prob(z)) for q in members], b=softmax(np.arange(4.0)))
    assert np.isclose(model.prior().log_prob(z), expected, atol=1e-5)
    gradient = eqx.filter_grad(lambda m: m.prior().log_prob(z))(model)
    assert np.all(gradient.prior_head.logits)


def test_vamp_prior_starts_at_training_rows() -> None:
    model, data = small("diagonal"), example_rows(Sites(kind="real", shape=(3,)), 9)
    standardised = (data.x - np.asarray(model.mean())) / np.asarray(model.scale())
    distance = np.abs(np.asarray(model.prior_head.pseudo_inputs)[:, None] - standardised).max(axis=2)
    assert np.all(distance.min(axis=1) < 0.06)
    assert len(set(distance.argmin(axis=1))) == 4


def test_vamp_prior_keeps_the_encoder_once_and_trains_it() -> None:
    model = small("diagonal")
    prior_arrays = [name for name in to_arrays(model) if name.startswith("prior_head")]
    assert prior_arrays == ["prior_head.pseudo_inputs"]
    gradient = eqx.filter_grad(lambda m: m.prior().log_prob(jnp.ones(2)))(model)
    assert np.any(gradient.encoder.output.weight) and np.any(gradient.prior_head.pseudo_inputs)


def test_vamp_prior_without_training_rows_has_the_shapes_to_be_loaded_into() -> None:
    sites = Sites(kind="category", shape=(2,), levels=3, missing=True)
    head = tb.VampPrior(components=6).build(2, sites, key=jax.random.key(0))
    assert head.pseudo_inputs.shape == (6, *sites.feature_shape)
    few = Statistics(np.zeros(2, np.float32), np.ones(2, np.float32), np.zeros((4, 2), np.float32))
    head = tb.VampPrior(components=6).build(2, sites, few, key=jax.random.key(0))
    assert head.pseudo_inputs.shape == (6, *sites.feature_shape)


def test_samples_of_a_model_come_from_its_own_prior() -> None:
    model = eqx.tree_at(lambda m: m.prior_head, small("diagonal"), Far())
    drawn = jax.vmap(model.sample)(jax.random.split(jax.random.key(0), 500))
    decoded = model.likelihood(jnp.full(2, 50.0)).mean
    assert np.allclose(np.mean(drawn, axis=0), decoded, atol=5 * np.std(drawn, axis=0).max() / np.sqrt(500))


@pytest.mark.parametrize(("name", "posterior"), [*((name, "diagonal") for name in PRIORS), ("vamp", "full")], ids=str)
def test_a_cooled_prior_draws_with_less_noise_and_knows_its_density(name: str, posterior: str) -> None:
    prior = small(posterior, PRIORS[name]).prior()
    keys = jax.random.split(jax.random.key(1), 4096)

    def draws(temperature: float) -> np.ndarray:
        return np.asarray(jax.vmap(cooled(prior, temperature).sample)(keys))

    np.testing.assert_allclose(draws(1.0), jax.vmap(prior.sample)(keys), rtol=1e-6)
    half, cold = draws(0.5), draws(1e-6)
    grid = Grid.around(half)
    check_fit(name, grid, np.exp(jax.vmap(cooled(prior, 0.5).log_prob)(jnp.asarray(grid.points, jnp.float32))), half)
    # What is left without noise is a point for each component.
    assert len(np.unique(np.round(cold, 3), axis=0)) <= 2 * getattr(PRIORS[name], "components", 1)
    assert np.mean((half - cold) ** 2) < 0.5 * np.mean((draws(1.0) - cold) ** 2)


def test_what_has_no_noise_is_not_cooled_and_neither_is_a_temperature_below_zero() -> None:
    with refused("Gamma has no noise", "cooled(temperature)", error=tb.CombinationError):
        cooled(dist.Gamma(jnp.ones(2)).to_event(1).base_dist, 0.5)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with refused("temperature", "expected a positive number", error=SpecError):
            tb.sample(small("diagonal"), 2, temperature=wrong)


class Far(eqx.Module):
    """A prior far from zero."""

    def __call__(self, encoder: Encoder) -> Any:
        return tb.distributions.diagonal_gaussian(jnp.full(2, 50.0), jnp.full(2, 1e-3))


def test_trainable_leaves_constants_out_and_merge_brings_them_back() -> None:
    model = small("full")
    trained, rest = trainable(model)
    names = set(to_arrays(trained))
    assert {"encoder.output.weight", "decoder.output.bias", "prior_head.pseudo_inputs", "likelihood_head.raw_noise"} <= names
    assert not {name for name in names if name.startswith(("mean", "scale", "likelihood_head.mean"))}
    assert eqx.tree_equal(tb.model.merge(trained, rest), model)
