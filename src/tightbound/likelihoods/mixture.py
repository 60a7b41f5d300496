"""A likelihood for real sites of any shape: several modes, heavy tails."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import LogisticMixture as LogisticMixtureDistribution
from tightbound.distributions import positive
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, raw_rows, unknown_statistics
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["LogisticMixture"]

TAIL = -3.0  # logit of the heavy-tailed component at the start: a few per cent


class LogisticMixture(LikelihoodSpec):
    """p(x_d | z) = Σ_k w_k f_k(x_d): ``components`` logistic densities and a Student t with two degrees of freedom.

    The decoder gives weights, locations and scales, measured from the training mean of the site in units of the training
    deviation. A scale is never below ``floor`` deviations: on values that repeat, such as rounded ones, a density without
    a floor would grow without bound.
    """

    kind: Literal["logistic-mixture"] = "logistic-mixture"
    components: int = Field(default=3, ge=1)
    floor: float = Field(default=0.01, gt=0)
    supports: ClassVar[frozenset[Kind]] = frozenset({"real"})
    references: ClassVar[tuple[str, ...]] = ()

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; with K components it reads K + 1 weights, locations and scales per site."""
        known = statistics or unknown_statistics(sites)
        count = self.components
        # Components that start at one place would stay together; the tail starts in the middle and wide.
        spread = jnp.linspace(-1.0, 1.0, count) if count > 1 else jnp.zeros(1)
        locations = jnp.append(spread, 0.0)
        logits = jnp.append(jnp.zeros(count), TAIL)
        return _LogisticMixture(
            (3 * (count + 1), *sites.shape), Constant(known.mean), Constant(known.scale), Constant(locations), Constant(logits),
            self.floor,
        )  # fmt: skip


class _LogisticMixture(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    spread: Constant
    locations: Constant
    logits: Constant
    floor: float = eqx.field(static=True)
    measure: ClassVar[Measure] = "lebesgue"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        logits, loc, scale = jnp.split(raw_rows(h, self.parameter_shape[0]), 3)
        mean, spread = self.mean(), self.spread()
        # A logistic of scale s has deviation 1.8 s.
        return LogisticMixtureDistribution(
            self.logits()[:, None] + logits,
            mean + spread * (self.locations()[:, None] + loc),
            spread * 0.55 * positive(scale, self.floor),
        )
