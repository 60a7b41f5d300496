"""Bernoulli likelihood for binary sites."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tightbound import distributions
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, unknown_statistics
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["Bernoulli"]


class Bernoulli(LikelihoodSpec):
    """P(x_d = 1 | z) = σ(logit(mean_d) + h_d), for binary sites only.

    The training mean of the site is the starting point, so that an untrained decoder already predicts the marginals.
    Grey levels are refused: their cross-entropy is not a log-likelihood.
    """

    kind: Literal["bernoulli"] = "bernoulli"
    supports: ClassVar[frozenset[Kind]] = frozenset({"binary"})
    references: ClassVar[tuple[str, ...]] = ("kingma2014auto",)

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per site."""
        mean = jnp.clip((statistics or unknown_statistics(sites)).mean, 1e-3, 1 - 1e-3)
        return _Bernoulli((1, *sites.shape), Constant(jnp.log(mean) - jnp.log1p(-mean)))


class _Bernoulli(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    logit_mean: Constant
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        return distributions.Bernoulli(self.logit_mean() + jnp.ravel(h), validate_args=False)
