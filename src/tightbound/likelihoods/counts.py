"""Poisson and negative binomial likelihoods for counts, by their means, with an exposure per row."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import NegativeBinomial as NegativeBinomialDistribution
from tightbound.distributions import Poisson as PoissonDistribution
from tightbound.distributions import positive
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, raw_rows, unknown_statistics
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["NegativeBinomial", "Poisson"]

# The log of a rate moves at most this far from the log of the training mean: e^±15 is wider than any data, and the
# soft limit keeps a wild decoder from overflowing while its gradient stays alive.
LOG_RANGE = 15.0


def _rate(mean: Constant, raw: Array, exposure: Array | None) -> Array:
    rate = mean() * jnp.exp(LOG_RANGE * jnp.tanh(raw / LOG_RANGE))
    return rate if exposure is None else exposure * rate


def _mean_rate(sites: Sites, statistics: Statistics | None) -> Constant:
    return Constant(jnp.maximum((statistics or unknown_statistics(sites)).mean, 1e-4))


class Poisson(LikelihoodSpec):
    """p(x_d | z) = Poisson(e · mean_d · exp(h_d)), with e the row's exposure (1 if the data has none)."""

    kind: Literal["poisson"] = "poisson"
    supports: ClassVar[frozenset[Kind]] = frozenset({"count"})
    references: ClassVar[tuple[str, ...]] = ()

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per site."""
        return _Poisson((1, *sites.shape), _mean_rate(sites, statistics))


class _Poisson(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        return PoissonDistribution(_rate(self.mean, jnp.ravel(h), exposure), validate_args=False)


class NegativeBinomial(LikelihoodSpec):
    """p(x_d | z) with mean m = e · mean_d · exp(h_d) and variance m + m²/r: counts that vary more than Poisson.

    ``dispersion`` says whether the concentration r is trained per ``site`` or ``predicted`` by the decoder; e is the
    row's exposure. r is softplus(raw), at least ``floor``.
    """

    kind: Literal["negative-binomial"] = "negative-binomial"
    dispersion: Literal["site", "predicted"] = "site"
    floor: float = Field(default=1e-3, gt=0)
    supports: ClassVar[frozenset[Kind]] = frozenset({"count"})
    references: ClassVar[tuple[str, ...]] = ("lopez2018deep",)

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per site, or two with predicted dispersion."""
        predicted = self.dispersion == "predicted"
        raw = None if predicted else jnp.zeros(sites.count)
        return _NegativeBinomial((1 + predicted, *sites.shape), _mean_rate(sites, statistics), raw, self.floor)


class _NegativeBinomial(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    raw_concentration: Array | None
    floor: float = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        raw = raw_rows(h, self.parameter_shape[0])
        concentration = raw[1] if self.raw_concentration is None else self.raw_concentration
        return NegativeBinomialDistribution(_rate(self.mean, raw[0], exposure), positive(concentration, self.floor))
