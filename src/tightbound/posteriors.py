"""Posteriors q(z|x): the specs, and the heads that turn an encoder's output into a distribution over one z."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import Flow, diagonal_gaussian, positive, unconstrained
from tightbound.flows import CouplingFlow
from tightbound.spec import Custom, Spec

__all__ = ["DiagonalGaussian", "FlowPosterior", "FullGaussian", "PosteriorHead", "PosteriorSpec"]


class PosteriorHead(eqx.Module):
    """q(z|h): maps the ``parameters`` numbers that the encoder gives to a distribution over one z, event shape (L,).

    Its draws must be reparameterised: ``sample`` is differentiable in the parameters.
    """

    parameters: eqx.AbstractVar[int]

    @abstractmethod
    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        """Return q(z|h)."""

    def near(self, loc: Float[Array, "L"], triangle: Float[Array, "L L"]) -> Float[Array, "P"] | None:
        """Return parameters h whose q(z|h) is near N(loc, C Cᵀ), C = ``triangle``; None where nobody knows any."""
        return None

    def of_first(self, count: int) -> np.ndarray | None:
        """Return which of the parameters are those of the first ``count`` latents alone; None where nobody knows.

        They are in the order in which a head of so few latents reads them.
        """
        return None


class DiagonalGaussian(Spec):
    """q(z|x) = N(μ(x), diag(σ(x)²)), the mean-field posterior (Kingma & Welling 2014).

    ``floor`` is the smallest σ; σ = floor + softplus(raw).

    >>> head = DiagonalGaussian().build(latent=2)
    >>> head(jnp.zeros(4)).event_shape
    (2,)
    """

    kind: Literal["diagonal"] = "diagonal"
    floor: float = Field(default=1e-4, gt=0)
    references: ClassVar[tuple[str, ...]] = ("kingma2014auto", "rezende2014stochastic")

    def build(self, latent: int, *, key: Array | None = None) -> PosteriorHead:
        """Return the head for L = ``latent``; it reads 2 L parameters and has no weights of its own."""
        return _DiagonalGaussian(2 * latent, self.floor)


class _DiagonalGaussian(PosteriorHead):
    parameters: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        loc, raw = jnp.split(h, 2)
        return diagonal_gaussian(loc, positive(raw, self.floor))

    def near(self, loc: Float[Array, "L"], triangle: Float[Array, "L L"]) -> Float[Array, "P"]:
        # The mean-field optimum for a Gaussian has its precisions, not its variances.
        precisions = jnp.sum(jnp.linalg.inv(triangle) ** 2, axis=0)
        return jnp.concatenate([loc, unconstrained(precisions**-0.5, self.floor)])

    def of_first(self, count: int) -> np.ndarray:
        return np.r_[:count, self.parameters // 2 : self.parameters // 2 + count]


class FullGaussian(Spec):
    """q(z|x) = N(μ(x), C(x) C(x)ᵀ) with C lower triangular: every correlation between latents.

    The encoder gives L means, L raw diagonal entries (softplus, at least ``floor``) and L(L − 1)/2 entries below.
    """

    kind: Literal["full"] = "full"
    floor: float = Field(default=1e-4, gt=0)
    references: ClassVar[tuple[str, ...]] = ("kingma2019introduction",)

    def build(self, latent: int, *, key: Array | None = None) -> PosteriorHead:
        """Return the head for L = ``latent``; it reads 2 L + L(L − 1)/2 parameters and has no weights of its own."""
        return _FullGaussian(2 * latent + latent * (latent - 1) // 2, latent, self.floor)


class _FullGaussian(PosteriorHead):
    parameters: int = eqx.field(static=True)
    latent: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        size = self.latent
        loc, raw, below = h[:size], h[size : 2 * size], h[2 * size :]
        triangle = jnp.diag(positive(raw, self.floor)).at[jnp.tril_indices(size, -1)].set(below)
        return dist.MultivariateNormal(loc, scale_tril=triangle, validate_args=False)

    def near(self, loc: Float[Array, "L"], triangle: Float[Array, "L L"]) -> Float[Array, "P"]:
        diagonal = unconstrained(jnp.diag(triangle), self.floor)
        return jnp.concatenate([loc, diagonal, triangle[jnp.tril_indices(self.latent, -1)]])

    def of_first(self, count: int) -> np.ndarray:
        # The entries below the diagonal are read row by row, so that those of the first latents come first.
        below = 2 * self.latent + np.arange(count * (count - 1) // 2)
        return np.r_[:count, self.latent : self.latent + count, below]


class FlowPosterior(Spec):
    """q(z|x) = N(e; μ(x), diag(σ(x)²)) moved by an invertible map z = T(e; c(x)): skewed, bent, with several modes.

    T is made of ``layers`` affine coupling layers whose networks have one hidden layer of ``width`` units and read
    ``context`` numbers c of the encoder; it starts near the identity. The encoder gives L means, L raw scales (softplus,
    at least ``floor``) and c. Mean and variance are those of 128 fixed draws.

    >>> import jax
    >>> head = FlowPosterior(context=3).build(latent=2, key=jax.random.key(0))
    >>> head.parameters, head(jnp.zeros(7)).event_shape
    (7, (2,))
    """

    kind: Literal["flow"] = "flow"
    layers: int = Field(default=4, ge=1)
    width: int = Field(default=64, ge=1)
    context: int = Field(default=16, ge=1)
    floor: float = Field(default=1e-4, gt=0)
    references: ClassVar[tuple[str, ...]] = ("rezende2015variational", "dinh2017density")

    def build(self, latent: int, *, key: Array) -> PosteriorHead:
        """Return the head for L = ``latent``; it reads 2 L + ``context`` parameters."""
        flow = CouplingFlow.initialise(latent, self.context, self.layers, self.width, key=key)
        return _FlowPosterior(2 * latent + self.context, flow, latent, self.floor)


class _FlowPosterior(PosteriorHead):
    parameters: int = eqx.field(static=True)
    flow: CouplingFlow
    latent: int = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        size = self.latent
        loc, raw, context = h[:size], h[size : 2 * size], h[2 * size :]
        return Flow(diagonal_gaussian(loc, positive(raw, self.floor)), self.flow, context)


PosteriorSpec = Annotated[DiagonalGaussian | FullGaussian | FlowPosterior | Custom, Field(discriminator="kind")]
