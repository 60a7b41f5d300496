"""Categorical likelihood for sites whose levels have no order."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tightbound.distributions import Categorical as CategoricalDistribution
from tightbound.likelihoods.base import LikelihoodHead, LikelihoodSpec, raw_rows
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["Categorical"]

NEVER = -1e9  # logit of a level that a site does not have: its probability is 0 in single precision


class Categorical(LikelihoodSpec):
    """P(x_d = v | z) = softmax(h_d)_v, for categories, and for levels whose order is to be ignored."""

    kind: Literal["categorical"] = "categorical"
    supports: ClassVar[frozenset[Kind]] = frozenset({"category", "levels"})
    references: ClassVar[tuple[str, ...]] = ()

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per level and site."""
        return _Categorical((sites.levels, *sites.shape), sites.sizes)


class _Categorical(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        logits = raw_rows(h, self.parameter_shape[0]).T
        if self.sizes:
            logits = jnp.where(np.arange(logits.shape[1]) < np.asarray(self.sizes)[:, None], logits, NEVER)
        return CategoricalDistribution(logits, validate_args=False)
