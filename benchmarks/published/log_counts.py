"""A Gaussian on log counts as a probability of the counts themselves, so that it compares with Poisson and negative binomial.

y = log(1 + x) of a count is no density of x, and no probability either. What a Gaussian on that scale says of the whole
number x is the mass of the numbers that round to it, those between x − ½ and x + ½; everything below ½ is a zero.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import log_ndtr
from numpyro.distributions import constraints

from tightbound.distributions import log_mass, positive
from tightbound.likelihoods import Constant, LikelihoodHead

FLOOR = 1e-3  # of σ


class LogCounts(dist.Distribution):
    """P(x) = Φ((log(x + 3/2) − loc)/scale) − Φ((log(x + ½) − loc)/scale) for x = 1, 2, …; P(0) = Φ((log 3/2 − loc)/scale)."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.nonnegative_integer
    pytree_data_fields = ("loc", "scale")

    def __init__(self, loc: Array, scale: Array) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(jnp.shape(loc), (), validate_args=False)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log P(x) in nats."""
        k = jnp.maximum(x, 1.0)
        width = jnp.log1p(1.0 / (k + 0.5))
        many = log_mass(dist.Normal(self.loc, self.scale, validate_args=False), jnp.log(k + 0.5) + 0.5 * width, width)
        return jnp.where(x > 0, many, log_ndtr((jnp.log(1.5) - self.loc) / self.scale))


class LogCountsHead(LikelihoodHead):
    """The location is log(e · mean_d · exp(h_d)), the log of a rate as in the other likelihoods; σ_d is trained per site."""

    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    raw_scale: Array
    measure: ClassVar[str] = "counting"

    def __call__(self, h: Array, exposure: Array | None = None) -> LogCounts:
        loc = jnp.log(self.mean()) + h.ravel() + (0.0 if exposure is None else jnp.log(exposure))
        return LogCounts(loc, positive(self.raw_scale, FLOOR))


def build(sites: Any, statistics: Any, *, key: Array) -> LogCountsHead:
    """Return the head of the likelihood for these sites."""
    return LogCountsHead((1, *sites.shape), Constant(jnp.maximum(statistics.mean, 1e-4)), jnp.zeros(sites.count))
