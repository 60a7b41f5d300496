"""A linear-Gaussian model with known weights: log p(x), p(z|x) and everything about q(z|x) have closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tightbound as tb
from tightbound.distributions import unconstrained
from tightbound.evidence.exact import affine_decoder
from tightbound.model import Model

LINEAR = tb.MLP(hidden=())
ROWS = 12


def linear_model(latent: int = 2, missing: bool = False, seed: int = 3, **parts: object) -> Model:
    """The weights are random, so that q(z|x) has nothing to do with p(z|x)."""
    sites = tb.Sites(kind="real", shape=(5,), missing=missing)
    given = {"prior": tb.StandardNormal(), "likelihood": tb.Gaussian(noise="fixed", scale=0.7), **parts}
    spec = tb.VAE(sites=sites, latent=latent, encoder=LINEAR, decoder=LINEAR, **given)
    return spec.build(jax.random.key(seed))


def rows_of(model: Model, count: int = ROWS) -> tb.Dataset:
    x = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    observed = None
    if model.spec.sites.missing:
        observed = np.random.default_rng(1).random((count, 5)) < 0.6
        observed[0] = False
    return tb.Dataset(x, model.spec.sites, observed=observed)


def true_precision(model: Model) -> np.ndarray:
    """The precision of p(z|x) under a standard normal prior: the same for every x."""
    weight, _, noise = affine_decoder(model)
    return np.eye(weight.shape[1]) + (weight.T / noise) @ weight


def true_mean(model: Model, x: np.ndarray) -> np.ndarray:
    weight, offset, noise = affine_decoder(model)
    return np.linalg.solve(true_precision(model), (weight.T / noise) @ (x - offset))


def with_good_encoder(model: Model, widening: float = 1.3) -> Model:
    """Give q(z|x) the mean of p(z|x), and its deviations times a factor, for every x."""
    weight, offset, noise = affine_decoder(model)
    slope = np.linalg.solve(true_precision(model), weight.T / noise)
    scale = widening * np.sqrt(np.diag(np.linalg.inv(true_precision(model))))
    raw = np.asarray(unconstrained(scale, 1e-4))
    columns = np.concatenate([slope.T, np.zeros_like(slope.T)], axis=1)
    arrays = jnp.asarray(columns, jnp.float32), jnp.asarray(np.concatenate([-slope @ offset, raw]), jnp.float32)
    return eqx.tree_at(lambda m: (m.encoder.output.weight, m.encoder.output.bias), model, arrays)
