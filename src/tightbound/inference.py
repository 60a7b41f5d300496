"""What a trained model is used for, over many rows: embed, reconstruct, sample. One vmap per verb."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tightbound.errors import DataError, SpecError
from tightbound.model import Model
from tightbound.rows import Rows, RowSource, blocks, both_ways, in_blocks, in_haste, over_blocks, require_fixed

__all__ = ["Embedding", "decode", "embed", "prior_draws", "reconstruct", "sample"]

BLOCK = 256


class Embedding(NamedTuple):
    """Mean and standard deviation of q(z|x) for every row, each (n, L)."""

    mean: np.ndarray
    scale: np.ndarray


def embed(model: Model, data: RowSource) -> Embedding:
    """Return mean and standard deviation of q(z|x) for every row: deterministic, no draw is taken."""
    return Embedding(*over_blocks(_embed, _fixed_blocks(model, data), model))


def reconstruct(model: Model, data: RowSource) -> np.ndarray:
    """Return E[x|z] at the mean of q(z|x) for every row, shape (n, D): deterministic."""
    return over_blocks(_reconstruct, _fixed_blocks(model, data), model)[0]


def sample(model: Model, count: int, *, seed: int = 0, exposure: float | None = None, temperature: float = 1.0) -> np.ndarray:
    """Draw ``count`` rows from p(x), shape (count, D), by ancestral sampling from the model's own prior.

    Row i is a function of (seed, i). Models of counts with exposure draw at the given one (1 by default). ``temperature``
    multiplies the noise of the prior (:func:`tightbound.distributions.cooled`): below 1 rows are more alike and closer to what
    the model is sure of, and no longer draws from p(x).
    """
    problems = [("count", f"expected at least 1, got {count}")] if count < 1 else []
    if not 0 < temperature < math.inf:
        problems.append(("temperature", f"expected a positive number, got {temperature}"))
    if problems:
        raise SpecError("sample", tuple(problems))
    key = jax.random.key(seed)
    if exposure is not None and not (model.spec.sites.exposure and 0 < exposure < math.inf):
        known = "a positive number" if model.spec.sites.exposure else "none: the model's data has no exposures"
        raise DataError(f"exposure={exposure:g}, expected {known}")
    level = None if not model.spec.sites.exposure else jnp.float32(1.0 if exposure is None else exposure)
    noise = None if temperature == 1.0 else jnp.float32(temperature)
    parts = [np.asarray(_sample(model, key, index, level, noise))[:used] for index, used in blocks(count, BLOCK)]
    return np.concatenate(parts)


def decode(model: Model, z: np.ndarray, *, haste: bool = False) -> np.ndarray:
    """Return E[x|z] for every row of z (n, L), shape (n, D); in ``haste``, for few rows, compiled without XLA's optimiser."""
    z = np.asarray(z, np.float32)
    if z.ndim != 2 or z.shape[1] != model.spec.latent:
        raise DataError(f"z has shape {z.shape}, expected (n, {model.spec.latent})")
    parts = [np.asarray(_decode[haste](model, z[np.maximum(index, 0)]))[:used] for index, used in blocks(len(z), BLOCK)]
    return np.concatenate(parts)


@in_haste
def prior_draws(model: Model, keys: Array) -> Float[Array, "n L"]:
    """Return one draw from p(z) for every key."""
    return jax.vmap(lambda key: model.prior().sample(key))(keys)


def _fixed_blocks(model: Model, data: RowSource) -> Iterator[tuple[Rows, Any, int]]:
    require_fixed(model.spec.sites, data)
    return in_blocks(data, BLOCK)


@eqx.filter_jit
def _embed(rows: Rows, index: Array, model: Model) -> tuple[Array, ...]:
    return jax.vmap(lambda row: model.embed(row.x, row.observed))(rows.batch(index, jax.random.key(0)).rows)


@eqx.filter_jit
def _reconstruct(rows: Rows, index: Array, model: Model) -> tuple[Array, ...]:
    return (jax.vmap(lambda row: model.reconstruct(*row))(rows.batch(index, jax.random.key(0)).rows),)


@eqx.filter_jit
def _sample(model: Model, key: Array, index: Array, exposure: Array | None, temperature: Array | None) -> Array:
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(index)
    return jax.vmap(lambda row_key: model.sample(row_key, exposure, temperature))(keys)


@both_ways
def _decode(model: Model, z: Array) -> Array:
    return jax.vmap(model.decode)(z)
