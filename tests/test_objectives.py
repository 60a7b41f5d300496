"""What training minimises: its value, the weight of the KL that is really used, and gradients that mean what they say.

Two estimates of one gradient are compared entry by entry with z-scores. The mean squared z-score of 2,000 repeats is 1 in
expectation; its false-alarm rate is quoted where it is used.
"""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import tightbound as tb
from data_checks import refused
from parts import OBJECTIVES
from tightbound.distributions import stop, training_log_prob
from tightbound.errors import CombinationError, SpecError
from tightbound.model import Model, merge, trainable
from tightbound.objectives import Terms
from tightbound.rows import Batch
from tightbound.testing import check_objective, linear_gaussian

LATE = jnp.int32(1_000_000)


def terms_of(reconstruction: float, divergence: list[float]) -> Terms:
    kl = jnp.asarray(divergence, jnp.float32)
    return Terms(jnp.float32(reconstruction), kl, -jnp.float32(reconstruction) - kl.sum())


def value_of(spec: tb.ELBO, terms: Terms, step: int = 10**6, layers: tuple[int, ...] | None = None) -> Any:
    return spec.build().value(terms, jnp.int32(step), layers)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_contract(name: str) -> None:
    check_objective(OBJECTIVES[name])


def test_weight_one_is_minus_the_bound() -> None:
    loss = value_of(tb.ELBO(), terms_of(10.0, [1.0, 2.0]))
    assert loss.value == -loss.terms.bound == 13.0 and loss.beta == 1.0


def test_a_negative_estimate_of_the_kl_is_not_cut() -> None:
    # Draws may estimate a KL below 0; cutting it there would bias the loss and switch its gradient off.
    loss = value_of(tb.ELBO(gradient="stl"), terms_of(10.0, [-0.5]))
    assert loss.value == -loss.terms.bound == 9.5
    slope = jax.grad(lambda kl: value_of(tb.ELBO(beta=2.0), terms_of(10.0, [0.0])._replace(kl=kl)).value)
    assert slope(jnp.array([-0.5]))[0] == 2.0


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (400, 1.0)])
def test_warmup_counts_steps_and_the_weight_recorded_is_the_one_used(step: int, share: float) -> None:
    loss = value_of(tb.ELBO(beta=8.0, warmup=4), terms_of(10.0, [1.0]), step)
    assert loss.beta == 8.0 * share and loss.value == 10.0 + 8.0 * share


def test_without_warmup_the_weight_is_there_from_the_first_step() -> None:
    assert value_of(tb.ELBO(beta=3.0), terms_of(0.0, [1.0]), step=0).beta == 3.0


def test_records_of_a_run_hold_the_weight_of_their_steps() -> None:
    oracle = linear_gaussian(exact=False)
    plan = tb.Plan(steps=6, batch_size=8, evaluate_every=1)
    records = [p.latest for p in tb.train(oracle.model, tb.ELBO(beta=2.0, warmup=4), oracle.dataset(30), plan)]
    weights = {record.step: record.beta for record in records}
    assert weights[6] == 2.0
    assert all(weight <= 2.0 * min(1.0, (step - 1) / 4) + 1e-6 for step, weight in weights.items())
    last = records[-1]
    assert np.isclose(last.loss, last.reconstruction + last.beta * last.kl, rtol=1e-5)


@pytest.mark.parametrize(
    ("divergence", "layers", "penalised", "pushed"),
    [
        ([0.2, 3.0], (2,), 0.5 + 3.0, [0.0, 1.0]),  # per latent: the first is below its free half nat
        ([0.2, 0.1], (2,), 1.0, [0.0, 0.0]),
        ([1.2], (4,), 2.0, [0.0]),  # one group of four latents: two nats are free
        ([2.5], (4,), 2.5, [1.0]),
    ],
)
def test_free_bits_are_nats_per_latent(
    divergence: list[float], layers: tuple[int, ...], penalised: float, pushed: list[float]
) -> None:
    spec, terms = tb.ELBO(free_bits=0.5), terms_of(10.0, divergence)
    assert np.isclose(value_of(spec, terms, layers=layers).value, 10.0 + penalised)
    slope = jax.grad(lambda kl: value_of(spec, terms._replace(kl=kl), layers=layers).value)(terms.kl)
    assert slope.tolist() == pushed


def test_layers_have_free_bits_and_warmups_of_their_own() -> None:
    """Two latents above one: the upper layer has half a nat free and rises over 4 steps, the lower has none and 8."""
    spec, terms = tb.ELBO(beta=2.0, free_bits=(0.5, 0.0), warmup=(4, 8)), terms_of(10.0, [0.2, 3.0, 0.1])
    loss = value_of(spec, terms, step=2, layers=(2, 1))
    assert np.isclose(loss.value, 10.0 + 1.0 * (0.5 + 3.0) + 0.5 * 0.1) and loss.beta == 0.5
    slope = jax.grad(lambda kl: value_of(spec, terms._replace(kl=kl), step=2, layers=(2, 1)).value)(terms.kl)
    assert slope.tolist() == [0.0, 1.0, 0.5]
    assert tb.ELBO.from_json(spec.to_json()) == spec


def test_numbers_for_layers_that_are_not_there_are_refused() -> None:
    oracle = linear_gaussian(exact=False)
    with refused("ELBO(warmup=(1, 2)) has a number for each of 2 layers", "the model has 1", error=CombinationError):
        next(tb.train(oracle.model, tb.ELBO(warmup=(1, 2)), oracle.dataset(8), tb.Plan(steps=1)))


def test_free_bits_see_the_mean_of_the_batch() -> None:
    oracle = linear_gaussian(diagonal=True, exact=False)
    x = jnp.asarray(oracle.dataset(16).x)
    batch = Batch(x, None, None, jnp.ones(16))
    objective = tb.ELBO(free_bits=0.9).build()
    loss = eqx.filter_jit(objective)(oracle.model, batch, jax.random.key(0), LATE)
    per_row = eqx.filter_jit(objective.rows)(oracle.model, batch, jax.random.key(0)).kl
    expected = loss.terms.reconstruction + np.maximum(np.mean(per_row, axis=0), 0.9).sum()
    assert np.isclose(loss.value, expected, rtol=1e-5)
    assert np.any(np.asarray(per_row) < 0.9) and per_row.shape == (16, 2)


def test_the_loss_of_a_batch_is_the_mean_of_its_rows_of_weight_one() -> None:
    oracle = linear_gaussian(exact=False)
    x = jnp.asarray(oracle.dataset(6).x)
    objective, key = tb.IWAE(k=4).build(), jax.random.key(3)
    terms = eqx.filter_jit(objective.rows)(oracle.model, Batch(x, None, None, jnp.ones(6)), key)
    for kept in (1, 4, 6):
        weight = (jnp.arange(6) < kept).astype(jnp.float32)
        loss = eqx.filter_jit(objective)(oracle.model, Batch(x, None, None, weight), key, LATE)
        assert np.isclose(loss.value, -np.mean(terms.bound[:kept]), rtol=1e-5)


@pytest.mark.parametrize("spec", [tb.IWAE(k=6), tb.IWAE(k=6, gradient="dreg")], ids=["pathwise", "dreg"])
def test_the_bound_of_many_draws_is_the_logarithm_of_an_unbiased_mean(spec: tb.IWAE) -> None:
    oracle = linear_gaussian(exact=False)
    x, objective = oracle.dataset(1).x, spec.build()

    def bound(key: jax.Array) -> jax.Array:
        return objective.example(oracle.model, oracle.model.prior(), tb.Row(jnp.asarray(x[0])), key).bound

    bounds = np.asarray(jax.jit(jax.vmap(bound))(jax.random.split(jax.random.key(0), 20_000)), float)
    ratio = np.exp(bounds - oracle.log_evidence(x))  # the mean of k weights has expectation p(x)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))
    assert bounds.mean() + 5 * bounds.std() / np.sqrt(len(bounds)) < oracle.log_evidence(x)[0]


@cache
def curved() -> Model:
    """A model with a trained prior, correlated latents and a nonlinear decoder: nothing in it is in closed form."""
    sites = tb.Sites(kind="real", shape=(3,))
    small = tb.MLP(hidden=(4,), activation="tanh")
    spec = tb.VAE(
        sites=sites,
        latent=2,
        encoder=small,
        decoder=small,
        posterior=tb.FullGaussian(),
        prior=tb.VampPrior(components=3),
        likelihood=tb.Gaussian(noise="fixed", scale=0.5),
    )
    return spec.build(jax.random.key(0))


def gradients(spec: tb.ELBO | tb.IWAE, count: int = 2000, seed: int = 0, biased: bool = False) -> np.ndarray:
    """Gradients (count, P) of minus the bound of one row, one per key, in every trained number of the model."""
    trained, rest = trainable(curved())
    objective, x = spec.build(), jnp.array([1.0, -0.5, 2.0])

    def loss(part: Model, key: jax.Array) -> jax.Array:
        model = merge(part, rest)
        if biased:
            return -sticking_inside_many_draws(model, x, spec.k, key)
        return -objective.example(model, model.prior(), tb.Row(x), key).bound

    def flat(key: jax.Array) -> jax.Array:
        return ravel_pytree(jax.grad(loss)(trained, key))[0]

    return np.asarray(jax.jit(jax.vmap(flat))(jax.random.split(jax.random.key(seed), count)), float)


def sticking_inside_many_draws(model: Model, x: jax.Array, k: int, key: jax.Array) -> jax.Array:
    """The bound of k draws scored under a fixed q: what IWAE(gradient="stl") would be if it were not refused."""
    q, prior = model.posterior(x), model.prior()
    z = jax.vmap(q.sample)(jax.random.split(key, k))
    weigh = jax.vmap(lambda z: model.log_likelihood(z, x) + training_log_prob(prior, z) - stop(q).log_prob(z))
    return jax.scipy.special.logsumexp(weigh(z)) - jnp.log(k)


def mean_squared_z(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Mean squared z-score of the difference of two means, and the number of entries that vary."""
    variance = one.var(axis=0, ddof=1) / len(one) + other.var(axis=0, ddof=1) / len(other)
    vary = variance > 1e-14
    return float(np.mean((one.mean(axis=0) - other.mean(axis=0))[vary] ** 2 / variance[vary])), int(vary.sum())


# Entries of a gradient are correlated, so that the mean squared z-score varies as if there were far fewer of them; four
# independent ones would exceed this with probability 1e-6.
ALLOWED = stats.chi2.isf(1e-6, 4) / 4


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (tb.ELBO(gradient="stl"), tb.ELBO()),
        (tb.IWAE(k=1), tb.ELBO()),
        (tb.IWAE(k=5, gradient="dreg"), tb.IWAE(k=5)),
        (tb.IWAE(k=1, gradient="dreg"), tb.ELBO(gradient="stl")),
    ],
    ids=["stl", "one draw", "dreg", "dreg of one draw"],
)
def test_gradients_have_the_mean_of_the_pathwise_one(spec: Any, reference: Any) -> None:
    score, entries = mean_squared_z(gradients(spec), gradients(reference, seed=1))
    assert entries > 70
    assert score < ALLOWED


def test_sticking_the_landing_inside_many_draws_would_be_biased() -> None:
    score, _ = mean_squared_z(gradients(tb.IWAE(k=5), biased=True), gradients(tb.IWAE(k=5), seed=1))
    assert score > 5 * ALLOWED  # the test above can see a bias
    with refused("biased for k > 1", "gradient='dreg'", error=CombinationError):
        tb.IWAE(k=5, gradient="stl")


def test_doubly_reparameterised_gradients_are_less_noisy() -> None:
    encoder = len(ravel_pytree(trainable(curved())[0].encoder)[0])
    dreg, pathwise = (gradients(tb.IWAE(k=5, gradient=kind))[:, :encoder] for kind in ("dreg", "pathwise"))
    assert dreg.var(axis=0).sum() < 0.7 * pathwise.var(axis=0).sum()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": -1.0}, ("beta", "greater than or equal to 0")),
        ({"warmup": 1.5}, ("warmup",)),
        ({"free_bits": float("inf")}, ("free_bits", "finite")),
        ({"gradient": "dreg"}, ("gradient", "pathwise")),
        ({"bta": 2.0}, ("did you mean 'beta'?",)),
    ],
)
def test_an_objective_out_of_range_is_refused(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with refused(*words, error=SpecError):
        tb.ELBO(**fields)
