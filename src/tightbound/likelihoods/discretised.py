"""Discretised logistic likelihood, single or mixture, for sites with ordered levels such as 8-bit pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import DiscretisedLogistic as DiscretisedLogisticDistribution
from tightbound.distributions import positive
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, raw_rows, unknown_statistics
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["DiscretisedLogistic"]


class DiscretisedLogistic(LikelihoodSpec):
    """P(x_d | z): a logistic variable, or a mixture of ``components`` of them, rounded to the levels 0 … n − 1.

    Location and scale are measured from the site's training mean in units of the training deviation. ``noise``
    says whether the scale is ``predicted`` by the decoder or trained per ``site``; it is never below ``floor`` levels.
    """

    kind: Literal["discretised-logistic"] = "discretised-logistic"
    components: int = Field(default=1, ge=1)
    noise: Literal["predicted", "site"] = "predicted"
    floor: float = Field(default=0.05, gt=0)
    supports: ClassVar[frozenset[Kind]] = frozenset({"levels"})
    references: ClassVar[tuple[str, ...]] = ("salimans2017pixelcnn", "kingma2016improved")

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; with K components it reads K locations, K scales (if predicted) and K weights (if K > 1)."""
        known = statistics or unknown_statistics(sites)
        count = self.components
        roles = 1 + (self.noise == "predicted") + (count > 1)
        raw = None if self.noise == "predicted" else jnp.zeros((count, sites.count))
        # Components that start at one place would stay together: spread them over ± one deviation.
        offsets = jnp.linspace(-1.0, 1.0, count) if count > 1 else jnp.zeros(1)
        return _DiscretisedLogistic(
            (roles * count, *sites.shape),
            Constant(known.mean),
            Constant(known.scale),
            Constant(offsets),
            raw,
            sites.levels,
            self.floor,
        )


class _DiscretisedLogistic(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    spread: Constant
    offsets: Constant
    raw_scale: Array | None
    levels: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        offsets = self.offsets()
        count = len(offsets)
        roles = list(raw_rows(h, self.parameter_shape[0]).reshape(-1, count, h[0].size))
        loc = self.mean() + self.spread() * (offsets[:, None] + roles.pop(0))
        raw_scale = roles.pop(0) if self.raw_scale is None else self.raw_scale
        # A logistic of scale s has deviation 1.8 s: raw = 0 stands for the training deviation.
        scale = self.floor + 0.55 * self.spread() * positive(raw_scale, 0.0)
        logits = roles.pop(0) if roles else jnp.zeros_like(loc)
        return DiscretisedLogisticDistribution(logits.T, loc.T, scale.T, self.levels)
