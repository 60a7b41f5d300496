"""Likelihoods: the contract on every kind of data, twins in double precision, and models that use them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tightbound as tb
from data_checks import refused
from parts import LIKELIHOODS
from tightbound.errors import SupportError
from tightbound.model import Model, default_likelihood
from tightbound.schema import Sites, Statistics
from tightbound.testing import check_likelihood, example_rows, example_statistics

RNG = np.random.default_rng(0)
NONSENSE = (np.nan, np.inf, -np.inf, 1e30)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_contract(name: str) -> None:
    likelihood, kind = LIKELIHOODS[name]
    check_likelihood(likelihood, Sites(**{"shape": (3,), **kind}))


@pytest.mark.parametrize("name", ["poisson", "negative-binomial-predicted"])
def test_contract_with_exposure(name: str) -> None:
    check_likelihood(LIKELIHOODS[name][0], Sites(kind="count", shape=(2,), exposure=True))


def test_contract_on_an_image() -> None:
    check_likelihood(tb.DiscretisedLogistic(components=2), Sites(kind="levels", shape=(2, 2, 1), levels=17))


def head_of(spec: Any, sites: Sites, mean: Any, scale: Any) -> Any:
    statistics = Statistics(np.asarray(mean, np.float32), np.asarray(scale, np.float32))
    return spec.build(sites, statistics)


@pytest.mark.parametrize("noise", ["fixed", "global", "site", "predicted"])
def test_gaussian_is_centred_on_the_training_rows(noise: str) -> None:
    sites, mean, scale = Sites(kind="real", shape=(3,)), np.array([1.0, -2.0, 30.0]), np.array([0.5, 2.0, 7.0])
    head = head_of(tb.Gaussian(noise=noise, scale=0.3 if noise == "fixed" else None), sites, mean, scale)
    h = np.zeros(head.parameter_shape)
    h[0] = [0.1, -0.4, 1.0]
    p = head(jnp.asarray(h, jnp.float32))
    deviation = np.full(3, 0.3) if noise == "fixed" else scale * 1.001
    x = mean + scale
    assert np.allclose(p.log_prob(jnp.asarray(x, jnp.float32)), stats.norm(mean + scale * h[0], deviation).logpdf(x), atol=1e-4)


def test_an_untrained_count_predicts_the_training_rate_times_the_exposure() -> None:
    sites = Sites(kind="count", shape=(3,), exposure=True)
    for spec in (tb.Poisson(), tb.NegativeBinomial(), tb.NegativeBinomial(dispersion="predicted")):
        head = head_of(spec, sites, [0.1, 2.0, 300.0], np.ones(3))
        assert np.allclose(head(jnp.zeros(head.parameter_shape), jnp.float32(4.0)).mean, [0.4, 8.0, 1200.0], rtol=1e-5)


def test_counts_against_their_twins() -> None:
    sites, h, x = Sites(kind="count", shape=(3,)), RNG.normal(size=(2, 3)), np.array([0.0, 4.0, 250.0])
    rate = np.array([0.1, 2.0, 300.0]) * np.exp(15 * np.tanh(h[0] / 15))
    head = head_of(tb.Poisson(), sites, [0.1, 2.0, 300.0], np.ones(3))
    p = head(jnp.asarray(h[:1], jnp.float32))
    assert np.allclose(p.log_prob(jnp.asarray(x, jnp.float32)), stats.poisson(rate).logpmf(x), atol=1e-3)
    head = head_of(tb.NegativeBinomial(dispersion="predicted"), sites, [0.1, 2.0, 300.0], np.ones(3))
    p = head(jnp.asarray(h, jnp.float32))
    concentration = 1e-3 + np.log1p(np.exp(h[1] + np.log(np.expm1(1.0))))
    twin = stats.nbinom(concentration, concentration / (concentration + rate))
    assert np.allclose(p.log_prob(jnp.asarray(x, jnp.float32)), twin.logpmf(x), atol=1e-3)
    assert np.allclose(p.variance, twin.var(), rtol=1e-3)


def test_a_discretised_logistic_starts_at_the_training_mean_and_deviation() -> None:
    sites = Sites(kind="levels", shape=(2,), levels=256)
    head = head_of(tb.DiscretisedLogistic(), sites, [100.0, 130.0], [10.0, 30.0])
    p = head(jnp.zeros(head.parameter_shape))
    levels = np.arange(256.0)
    mass = np.exp(np.stack([p.log_prob(jnp.full(2, v)) for v in levels]))
    deviation = np.sqrt(levels**2 @ mass - (levels @ mass) ** 2)
    assert np.allclose(levels @ mass, [100.0, 130.0], atol=0.1) and np.allclose(deviation, [10.0, 30.0], rtol=0.03)


def test_components_of_a_mixture_start_apart() -> None:
    head = head_of(tb.DiscretisedLogistic(components=3), Sites(kind="levels", shape=(2,), levels=16), [7.0, 8.0], [3.0, 3.0])
    assert head(jnp.zeros(head.parameter_shape)).loc.tolist() == [[4.0, 7.0, 10.0], [5.0, 8.0, 11.0]]


@pytest.mark.parametrize("kind", ["binary", "levels", "category", "count", "real"])
def test_every_kind_of_site_has_a_default_likelihood_that_supports_it(kind: str) -> None:
    assert kind in type(default_likelihood(kind)).supports


def masked_model(name: str) -> tuple[Model, Any]:
    likelihood, kind = LIKELIHOODS[name]
    sites = Sites(shape=(4,), missing=True, **kind)
    small = tb.MLP(hidden=(4,), activation="tanh")
    spec = tb.VAE(sites=sites, latent=2, encoder=small, decoder=small, likelihood=likelihood)
    return spec.build(jax.random.key(0), example_statistics(sites)), example_rows(sites, 6)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian-predicted", "categorical", "negative-binomial"])
def test_what_masked_cells_hold_does_not_change_a_bit_of_a_loss(name: str) -> None:
    model, data = masked_model(name)
    objective = tb.ELBO().build()
    seen = np.asarray(data.observed)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model: Model, x: Any) -> Any:
        batch = tb.rows.Batch(x, jnp.asarray(seen), None, jnp.ones(len(seen)))
        return objective(model, batch, jax.random.key(1), jnp.int32(5)).value

    def bits(fill: float) -> list[bytes]:
        x = np.where(seen, data.x, np.float32(fill)).astype(np.float32)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loss(model, jnp.asarray(x)))]

    reference = bits(0.0)
    assert all(bits(nonsense) == reference for nonsense in NONSENSE)
    assert np.all(np.isfinite(loss(model, jnp.asarray(data.x, jnp.float32))[0]))


def test_an_unobserved_site_contributes_nothing_and_an_observed_one_its_own_density() -> None:
    model, data = masked_model("gaussian-site")
    x, z = jnp.asarray(data.x[0]), jnp.ones(2)
    sites = np.asarray(model.likelihood(z).log_prob(x), float)
    for observed in (np.array([True, False, True, True]), np.zeros(4, bool), np.ones(4, bool)):
        assert np.isclose(model.log_likelihood(z, x, jnp.asarray(observed)), sites[observed].sum(), atol=1e-5)
    assert np.isclose(model.log_likelihood(z, x), sites.sum(), atol=1e-5)


def test_levels_decode_to_their_mean_and_categories_to_the_most_probable() -> None:
    for name in ("categorical-levels", "categorical"):
        model, _ = masked_model(name)
        z = jnp.ones(2)
        mass = np.exp(np.stack([model.likelihood(z).log_prob(jnp.full(4, v)) for v in range(4)]))
        expected = np.arange(4) @ mass if name == "categorical-levels" else mass.argmax(axis=0)
        assert np.allclose(model.decode(z), expected, atol=1e-5)


@pytest.mark.parametrize("spec", [tb.Categorical(rank=2), tb.Categorical()])
def test_many_categories_cost_the_decoder_a_few_numbers(spec: tb.Categorical) -> None:
    levels = 5 if spec.rank else 300
    sites = Sites(kind="category", shape=(2,), levels=levels, sizes=(levels, levels - 2))
    head = spec.build(sites, key=jax.random.key(1))
    assert head.parameter_shape == (2 if spec.rank else 32, 2)
    h = jax.random.normal(jax.random.key(2), head.parameter_shape)
    logits = np.stack([head.embedding[d] @ h[:, d] + head.bias[d] for d in range(2)])
    logits[1, -2:] = -np.inf
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(head(h).probs, expected, atol=1e-6)


def test_contract_of_embedded_categories() -> None:
    check_likelihood(tb.Categorical(rank=2), Sites(kind="category", shape=(3,), levels=4))


def test_networks_tell_many_categories_apart() -> None:
    sites = Sites(kind="category", shape=(1,), levels=10_000)
    codes = np.asarray(jax.vmap(lambda x: sites.features(x, None, None, None))(jnp.arange(10_000.0)[:, None]))
    assert codes.shape == (10_000, *sites.feature_shape) and codes.shape[1] < 100
    some = codes[::25]
    distances = np.linalg.norm(some[:, None] - some[None], axis=2) + 10.0 * np.eye(len(some))
    assert distances.min() > 0.3


BITS = Sites(kind="binary", shape=(3, 3, 1))


def autoregressive(**fields: Any) -> tuple[Any, jax.Array]:
    """A head of nine pixels whose neighbours matter, and numbers of the decoder's for it."""
    head = tb.Autoregressive(**{"radius": 1, "units": 4, **fields}).build(BITS, key=jax.random.key(1))
    head = eqx.tree_at(lambda part: part.out.weight, head, 10.0 * head.out.weight)
    return head, jax.random.normal(jax.random.key(2), head.parameter_shape)


def test_a_pixel_knows_its_neighbours_before_it_and_no_other() -> None:
    head, h = autoregressive()
    x = jnp.asarray(RNG.integers(2, size=9), jnp.float32)
    p, moved = head(h), jax.vmap(lambda site: x.at[site].set(1.0 - x[site]))(jnp.arange(9))
    # Of row i flipped: which other factors of log p(x|z) change.
    changes = np.asarray(p.log_prob(moved) != p.log_prob(x)) & ~np.eye(9, dtype=bool)
    near = [{1, 3, 4}, {2, 3, 4, 5}, {4, 5}, {4, 6, 7}, {5, 6, 7, 8}, {7, 8}, {7}, {8}, set()]
    assert [set(np.flatnonzero(row)) for row in changes] == near


def test_the_mean_of_dependent_pixels_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    head, h = autoregressive()
    p, images = head(h), (np.arange(512)[:, None] >> np.arange(9) & 1).astype(np.float32)
    mass = np.exp(np.asarray(p.log_prob(jnp.asarray(images)), np.float64).sum(axis=1))
    exact = mass @ images
    # Standard errors of the conditional means of 4,096 draws are below 0.5 / 64 each: 5 of them, below 1e-5 together.
    monkeypatch.setattr("tightbound.likelihoods.autoregressive.MEAN_DRAWS", 4096)
    assert np.allclose(p.mean, exact, atol=5 * 0.5 / 64)
    assert np.abs(exact - jax.nn.sigmoid(h[0].ravel())).max() > 0.05, "the neighbours make no difference"


def test_without_their_say_neighbours_leave_the_base() -> None:
    head, h = autoregressive()
    silent = eqx.tree_at(lambda part: part.out, head, replace_fn=lambda layer: jax.tree.map(jnp.zeros_like, layer))
    base = tb.Bernoulli().build(BITS)
    x = jnp.asarray(RNG.integers(2, size=9), jnp.float32)
    assert np.allclose(silent(h).log_prob(x), base(h[:1]).log_prob(x), atol=1e-6)
    assert np.allclose(silent(h).mean, base(h[:1]).mean, atol=1e-6)


@pytest.mark.parametrize(("fields", "words"), [({"shape": (9,)}, "neighbours"), ({"missing": True}, "fill the holes")])
def test_neighbours_need_whole_images(fields: dict[str, Any], words: str) -> None:
    spec = tb.VAE(sites=BITS.replace(**fields), latent=2, likelihood=tb.Autoregressive())
    with refused("autoregressive", words, error=SupportError):
        spec.build(jax.random.key(0))
