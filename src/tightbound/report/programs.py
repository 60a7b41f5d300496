"""What a report computes on the device besides what all faces do: draws of x at given z.

A program of a report runs over a thousand rows, once: most of its time is spent on compiling it, so that is done in haste.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tightbound.diagnosis.measurements import posteriors
from tightbound.model import Model
from tightbound.rows import RowSource, blocks

__all__ = ["drawn", "replicated"]

COUNT = 99
BLOCK = 256
HASTE = {"xla_backend_optimization_level": 0}  # a mixed table: compiled in 3 s in place of 13, run in 9 ms in place of 3


def drawn(model: Model, z: np.ndarray, exposure: np.ndarray | None, *, seed: int = 0) -> np.ndarray:
    """Return one draw from p(x|z) for every z (n, L), at the exposures (n,) if there are any: (n, D)."""
    key = jax.random.key(seed)
    parts = []
    for index, used in blocks(len(z), BLOCK):
        at = np.maximum(index, 0)
        own = None if exposure is None else jnp.asarray(exposure[at], jnp.float32)
        parts.append(np.asarray(_drawn(model, jnp.asarray(z[at], jnp.float32), own, key, index))[:used])
    return np.concatenate(parts)


@partial(eqx.filter_jit, compiler_options=HASTE)
def _drawn(model: Model, z: Float[Array, "B L"], exposure: Array | None, key: Array, index: Array) -> Float[Array, "B D"]:
    def one(z: Array, exposure: Array | None, number: Array) -> Array:
        return model.likelihood(z, exposure).sample(jax.random.fold_in(key, number)).astype(jnp.float32)

    return jax.vmap(one, in_axes=(0, None if exposure is None else 0, 0))(z, exposure, index)


def replicated(model: Model, data: RowSource) -> np.ndarray:
    """Return ``COUNT`` draws of every row from p(x|z), all at one z ~ q(z|x) of the row: (COUNT, n, D).

    If q(z|x) is the true posterior, (x, z) is a draw from the model, and x is one more draw from p(x|z).
    """
    z = np.tile(posteriors(model, data).draw, (COUNT, 1))
    exposure = None if data.exposure is None else np.tile(data.exposure, COUNT)
    return drawn(model, z, exposure).reshape(COUNT, len(data.x), -1)
