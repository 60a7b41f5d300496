"""Draws of whole rows given their own latents, for checks of calibration."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tightbound.model import Model
from tightbound.rows import Row, Rows, RowSource, over_blocks, place

__all__ = ["replicated"]

COUNT = 99
BLOCK = 64


def replicated(model: Model, data: RowSource) -> np.ndarray:
    """Return ``COUNT`` draws of every row from p(x|z), all at one z ~ q(z|x) of the row: (COUNT, n, D).

    If q(z|x) is the true posterior, (x, z) is a draw from the model, and x is one more draw from p(x|z).
    """
    (drawn,) = over_blocks(_replicate, place(data), len(data.x), BLOCK, model, jax.random.key(0))
    return np.moveaxis(drawn, 1, 0)


@eqx.filter_jit
def _replicate(rows: Rows, index: Array, model: Model, key: Array) -> tuple[Array]:
    def one(row: Row, key: Array) -> Array:
        z_key, x_key = jax.random.split(key)
        likelihood = model.likelihood(model.posterior(row.x, row.observed).sample(z_key), row.exposure)
        return likelihood.sample(x_key, (COUNT,)).astype(jnp.float32)

    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
    return (jax.vmap(one)(rows.batch(index, key).rows, keys),)
