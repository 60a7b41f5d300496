"""Gaussian likelihood for real sites: squared error with its noise level said aloud."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from tightbound.distributions import positive
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, raw_rows, unknown_statistics
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["Gaussian"]


class Gaussian(LikelihoodSpec):
    """p(x_d | z) = N(mean_d + s_d h_d, σ_d²), with mean_d and s_d the training mean and deviation of the site.

    ``noise`` says where σ comes from: ``fixed`` (σ = ``scale``, in the units of x), ``global`` (one trained number
    times s_d), ``site`` (a trained number per site) or ``predicted`` (the decoder gives it). Trained scales are
    s_d (floor + softplus(raw)), so that σ never falls below floor · s_d.

    With fixed σ the reconstruction term is the squared error divided by 2σ², plus D log(σ √(2π)).
    """

    kind: Literal["gaussian"] = "gaussian"
    noise: Literal["fixed", "global", "site", "predicted"] = "global"
    scale: float | None = Field(default=None, gt=0)
    floor: float = Field(default=1e-3, gt=0)
    supports: ClassVar[frozenset[Kind]] = frozenset({"real"})
    references: ClassVar[tuple[str, ...]] = ("kingma2014auto", "rybkin2021simple")

    @model_validator(mode="after")
    def _scale_goes_with_fixed(self) -> Self:
        if (self.noise == "fixed") != (self.scale is not None):
            raise ValueError("scale is given exactly when noise is 'fixed': Gaussian(noise='fixed', scale=0.5)")
        return self

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads one parameter per site, or two with predicted noise."""
        known = statistics or unknown_statistics(sites)
        raw = {"global": jnp.zeros(()), "site": jnp.zeros(sites.count)}.get(self.noise)
        fixed = None if self.scale is None else Constant(jnp.float32(self.scale))
        parameters = 2 if self.noise == "predicted" else 1
        return _Gaussian((parameters, *sites.shape), Constant(known.mean), Constant(known.scale), raw, fixed, self.floor)


class _Gaussian(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    mean: Constant
    spread: Constant
    raw_noise: Array | None
    fixed_noise: Constant | None
    floor: float = eqx.field(static=True)
    measure: ClassVar[Measure] = "lebesgue"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        raw = raw_rows(h, self.parameter_shape[0])
        loc = self.mean() + self.spread() * raw[0]
        if self.fixed_noise is not None:
            return dist.Normal(loc, jnp.broadcast_to(self.fixed_noise(), loc.shape), validate_args=False)
        noise = raw[1] if self.raw_noise is None else self.raw_noise
        return dist.Normal(loc, self.spread() * positive(noise, self.floor), validate_args=False)
