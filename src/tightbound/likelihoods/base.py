"""What every likelihood offers, and the values of a spec that are told by the data."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from tightbound.errors import SupportError
from tightbound.schema import Kind, Measure, Sites, Statistics
from tightbound.spec import Spec

__all__ = ["Constant", "LikelihoodHead", "LikelihoodSpec", "unknown_statistics"]


class Constant(eqx.Module):
    """An array that belongs to the model and its file but is not trained."""

    array: Array

    def __init__(self, array: np.ndarray | Array) -> None:
        self.array = jnp.asarray(array, jnp.float32)

    def __call__(self) -> Array:
        """Return the array, cut off from the gradient."""
        return jax.lax.stop_gradient(self.array)


class LikelihoodHead(eqx.Module):
    """p(x|h): maps the array that the decoder gives to a distribution over one x, batch shape (D,) = sites.

    ``parameter_shape`` is what the decoder must give; ``measure`` is what the density is taken against.
    """

    parameter_shape: eqx.AbstractVar[tuple[int, ...]]
    measure: eqx.AbstractClassVar[Measure]

    def owners(self) -> np.ndarray:
        """Return the site that each of the decoder's numbers belongs to, of shape ``parameter_shape``."""
        parameters, *grid = self.parameter_shape
        return np.broadcast_to(np.arange(math.prod(grid)).reshape(grid), (parameters, *grid))

    @abstractmethod
    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        """Return p(x|h)."""


class LikelihoodSpec(Spec):
    """A likelihood's spec: which kinds of site it is for, in ``supports``, and whether they are ``independent`` given z."""

    supports: ClassVar[frozenset[Kind]]
    independent: ClassVar[bool] = True

    def kinds(self) -> frozenset[Kind]:
        """Return the kinds of site that it is for."""
        return self.supports

    def check(self, sites: Sites) -> None:
        """Raise :class:`SupportError` when the sites are of a kind that the likelihood has no mass or density for.

        Sites that depend on each other given z must all be observed: what is not would have to be integrated out.
        """
        if sites.kind not in self.kinds():
            raise SupportError(
                f"the likelihood '{getattr(self, 'kind', '?')}' is for {' or '.join(sorted(self.kinds()))} sites, "
                f"but the data has {sites.describe()}; choose a likelihood for '{sites.kind}' sites"
            )
        if sites.missing and not self.independent:
            raise SupportError(
                f"the likelihood '{getattr(self, 'kind', '?')}' makes sites depend on each other, so that none may be missing; "
                "fill the holes, or choose a likelihood whose sites are independent given z"
            )


def unknown_statistics(sites: Sites) -> Statistics:
    """Return placeholders of the right shape, for a model whose numbers are about to be loaded."""
    return Statistics(np.zeros(sites.count, np.float32), np.ones(sites.count, np.float32))


def raw_rows(h: Array, parameters: int) -> Array:
    """Return the decoder's array (P, *shape) as (P, D)."""
    return h.reshape(parameters, -1)
