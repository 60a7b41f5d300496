"""Categorical likelihood for sites whose levels have no order."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import Categorical as CategoricalDistribution
from tightbound.likelihoods.base import LikelihoodHead, LikelihoodSpec, raw_rows
from tightbound.schema import CODE, MANY_LEVELS, Kind, Measure, Sites, Statistics

__all__ = ["Categorical"]

NEVER = -1e9  # logit of a level that a site does not have: its probability is 0 in single precision


class Categorical(LikelihoodSpec):
    """P(x_d = v | z) = softmax(h_d)_v, for categories, and for levels whose order is to be ignored.

    With a ``rank`` r the decoder gives r numbers per site, and the logits are E h + b with a trained embedding E (levels, r):
    the decoder's width then does not grow with the number of levels. By default r = 32 above 128 levels; 0 is never.
    """

    kind: Literal["categorical"] = "categorical"
    rank: int | None = Field(default=None, ge=0)
    supports: ClassVar[frozenset[Kind]] = frozenset({"category", "levels"})
    references: ClassVar[tuple[str, ...]] = ()

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per level and site, or ``rank`` per site."""
        rank = (CODE if sites.levels > MANY_LEVELS else 0) if self.rank is None else self.rank
        if not rank:
            return _Categorical((sites.levels, *sites.shape), sites.sizes)
        key = jax.random.key(0) if key is None else key
        embedding = jax.random.normal(key, (sites.count, sites.levels, rank)) / math.sqrt(rank)
        return _Embedded((rank, *sites.shape), sites.sizes, embedding, jnp.zeros((sites.count, sites.levels)))


class _Categorical(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        return self.of_logits(raw_rows(h, self.parameter_shape[0]).T)

    def of_logits(self, logits: Float[Array, "D V"]) -> dist.Distribution:
        """Return the distribution, in which levels that a site does not have never occur."""
        if self.sizes:
            logits = jnp.where(np.arange(logits.shape[1]) < np.asarray(self.sizes)[:, None], logits, NEVER)
        return CategoricalDistribution(logits, validate_args=False)


class _Embedded(_Categorical):
    embedding: Float[Array, "D V R"]
    bias: Float[Array, "D V"]

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        return self.of_logits(jnp.einsum("dvr,rd->dv", self.embedding, raw_rows(h, self.parameter_shape[0])) + self.bias)
