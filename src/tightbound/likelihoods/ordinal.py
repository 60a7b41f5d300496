"""Cumulative-link likelihood for levels in order."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tightbound.distributions import OrderedLogistic, positive
from tightbound.likelihoods.base import LikelihoodHead, LikelihoodSpec, raw_rows
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["Ordinal"]

LEAST_STEP = 1e-3  # between neighbouring cuts
SMALLEST_SCALE = 0.02  # of the logistic variable: a level between cuts one apart then has all but e⁻²⁵ of the probability


class Ordinal(LikelihoodSpec):
    """P(x_d ≤ k | z) = σ((cut_dk − h_d) / s_d): cumulative links between ordered levels, with trained cuts per site.

    The decoder gives a location h and a scale s per site, however many levels there are; only their order is used. With
    s = 1 this is the proportional-odds model. A small s makes one level nearly certain without moving the cuts apart.
    """

    kind: Literal["ordinal"] = "ordinal"
    supports: ClassVar[frozenset[Kind]] = frozenset({"levels"})
    references: ClassVar[tuple[str, ...]] = ("mccullagh1980regression",)

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads two parameters per site. The cuts start where all levels are equally probable."""
        sizes = np.broadcast_to(sites.sizes or sites.levels, sites.count)[:, None]
        below = np.minimum(np.arange(1, sites.levels) / sizes, 1.0 - 1e-6)
        cuts = np.log(below) - np.log1p(-below)
        steps = np.maximum(np.diff(cuts, axis=1) - LEAST_STEP, 1e-6)
        raw = np.concatenate([cuts[:, :1], np.log(np.expm1(steps))], axis=1)
        return _Ordinal((2, *sites.shape), jnp.asarray(raw, jnp.float32), tuple(int(size) for size in sizes[:, 0]))


class _Ordinal(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    raw_cuts: Float[Array, "D n-1"]
    sizes: tuple[int, ...] = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        first, steps = self.raw_cuts[:, :1], LEAST_STEP + jax.nn.softplus(self.raw_cuts[:, 1:])
        cuts = first + jnp.concatenate([jnp.zeros_like(first), jnp.cumsum(steps, axis=1)], axis=1)
        used = np.arange(1, cuts.shape[1] + 1) < np.asarray(self.sizes)[:, None]
        location, raw = raw_rows(h, 2)
        scale = positive(raw, SMALLEST_SCALE)
        return OrderedLogistic(location / scale, jnp.where(used, cuts / scale[:, None], jnp.inf))
