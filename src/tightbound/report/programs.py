"""What a report computes on the device besides what all faces do: draws of x at given z, by one program for all panels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tightbound.diagnosis.measurements import posteriors
from tightbound.distributions import NegativeBinomial
from tightbound.model import Model
from tightbound.rows import RowSource, blocks, in_haste

__all__ = ["COUNT", "drawn", "replicated"]

COUNT = 99
BLOCK = 256


def replicated(model: Model, data: RowSource) -> Float[np.ndarray, "K n D"]:
    """Return ``COUNT`` draws of every row from p(x|z), all at one z ~ q(z|x) of the row.

    If q(z|x) is the true posterior, (x, z) is a draw from the model, and x is one more draw from p(x|z).
    """
    return drawn(model, posteriors(model, data).draw, data.exposure, COUNT)


def drawn(
    model: Model, z: Float[np.ndarray, "n L"], exposure: np.ndarray | None, count: int = 1, *, seed: int = 0
) -> Float[np.ndarray, "K n D"]:
    """Return ``count`` draws from p(x|z) for every z, at the exposures (n,) if there are any."""
    rates = _over(partial(_rates, model), z, exposure)
    if rates:
        return _counts(rates, count, np.random.default_rng(seed))
    repeated = None if exposure is None else np.tile(exposure, count)
    x = _over(partial(_drawn, model, jax.random.key(seed)), np.tile(z, (count, 1)), repeated)[0]
    return x.reshape(count, len(z), -1)


def _over(function: Callable[..., Any], z: np.ndarray, exposure: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Call a program with blocks of z, exposures and numbers of rows, and return its arrays joined."""
    parts = []
    for index, used in blocks(len(z), BLOCK):
        at = np.maximum(index, 0)
        own = None if exposure is None else jnp.asarray(exposure[at], jnp.float32)
        parts.append([np.asarray(found)[:used] for found in function(jnp.asarray(z[at], jnp.float32), own, index)])
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


@in_haste
def _drawn(model: Model, key: Array, z: Float[Array, "B L"], exposure: Array | None, index: Array) -> tuple[Array]:
    def one(z: Array, exposure: Array | None, number: Array) -> Array:
        return model.likelihood(z, exposure).sample(jax.random.fold_in(key, number)).astype(jnp.float32)

    return (jax.vmap(one)(z, exposure, index),)


@in_haste
def _rates(model: Model, z: Float[Array, "B L"], exposure: Array | None, index: Array) -> tuple[Array, ...]:
    """Return mean and, unless they are Poisson's, concentration (B, D) of counts; nothing for sites of other kinds."""

    def one(z: Array, exposure: Array | None) -> tuple[Array, ...]:
        p = model.likelihood(z, exposure)
        if isinstance(p, NegativeBinomial):
            return p.rate, jnp.broadcast_to(p.concentration, p.rate.shape)
        return (p.rate,) if isinstance(p, dist.Poisson) else ()

    return jax.vmap(one)(z, exposure)


def _counts(rates: tuple[np.ndarray, ...], count: int, rng: np.random.Generator) -> Float[np.ndarray, "K n D"]:
    """Return counts drawn on the host: by rejection, which NumPy does cell by cell and XLA for all cells until the last."""
    mean, *concentration = (rate.astype(np.float64) for rate in rates)
    draws = np.empty((count, *mean.shape), np.float32)
    for number in range(count):
        level = mean * rng.standard_gamma(concentration[0]) / concentration[0] if concentration else mean
        draws[number] = rng.poisson(level)
    return draws
