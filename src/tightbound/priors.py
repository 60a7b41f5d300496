"""Priors p(z): the specs, and the heads that give a distribution over one z.

A prior head is handed the model's encoder when it is called. Most ignore it; the VampPrior borrows it, so that the
encoder's weights exist once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import (
    Flow,
    GaussianMixture,
    SharedFamilyMixture,
    diagonal_gaussian,
    is_diagonal_gaussian,
    positive,
)
from tightbound.flows import CouplingFlow
from tightbound.schema import Sites, Statistics
from tightbound.spec import Custom, Spec

__all__ = ["Encoder", "FlowPrior", "PriorHead", "PriorSpec", "StandardNormal", "TrainedMixture", "VampPrior"]


class Encoder(NamedTuple):
    """What a prior may borrow: ``network`` maps features to parameters, ``head`` maps parameters to q(z|x)."""

    network: Callable[[Array], Array]
    head: Callable[[Array], dist.Distribution]


class PriorHead(eqx.Module):
    """p(z): gives a distribution over one z, event shape (L,)."""

    @abstractmethod
    def __call__(self, encoder: Encoder) -> dist.Distribution:
        """Return p(z)."""


class StandardNormal(Spec):
    """p(z) = N(0, I).

    >>> round(float(StandardNormal().build(2)(None).log_prob(jnp.zeros(2))), 3)
    -1.838
    """

    kind: Literal["normal"] = "normal"
    references: ClassVar[tuple[str, ...]] = ("kingma2014auto",)

    def build(
        self, latent: int, sites: Sites | None = None, statistics: Statistics | None = None, *, key: Array | None = None
    ) -> PriorHead:
        """Return the head for L = ``latent``; nothing in it is trained."""
        return _StandardNormal(latent)


class _StandardNormal(PriorHead):
    latent: int = eqx.field(static=True)

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        return diagonal_gaussian(jnp.zeros(self.latent), jnp.ones(self.latent))


class TrainedMixture(Spec):
    """p(z) = Σ_k w_k N(μ_k, diag(σ_k²)) with weights, means and scales trained; ``floor`` is the smallest σ."""

    kind: Literal["mixture"] = "mixture"
    components: int = Field(default=50, ge=1)
    floor: float = Field(default=1e-2, gt=0)
    references: ClassVar[tuple[str, ...]] = ("dilokthanakul2016deep",)

    def build(self, latent: int, sites: Sites | None = None, statistics: Statistics | None = None, *, key: Array) -> PriorHead:
        """Return the head for L = ``latent``, its means drawn from N(0, I) so that no two components start alike."""
        shape = (self.components, latent)
        return _TrainedMixture(jnp.zeros(self.components), jax.random.normal(key, shape), jnp.zeros(shape), self.floor)


class _TrainedMixture(PriorHead):
    logits: Float[Array, "K"]
    loc: Float[Array, "K L"]
    raw_scale: Float[Array, "K L"]
    floor: float = eqx.field(static=True)

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        return GaussianMixture(self.logits, self.loc, positive(self.raw_scale, self.floor))


class VampPrior(Spec):
    """p(z) = (1/K) Σ_k q(z|u_k), the posterior averaged over K trained pseudo-inputs (Tomczak & Welling 2018).

    The pseudo-inputs live where the encoder's network reads, that is after centring and scaling, and start at
    training rows. If ``weighted``, weights w_k take the place of 1/K and are trained, too: p(z) then keeps closer to the
    average posterior, and groups of rows are drawn as often as they occur.
    """

    kind: Literal["vamp"] = "vamp"
    components: int = Field(default=500, ge=1)
    weighted: bool = False
    references: ClassVar[tuple[str, ...]] = ("tomczak2018vae",)

    def build(self, latent: int, sites: Sites, statistics: Statistics | None = None, *, key: Array) -> PriorHead:
        """Return the head; without statistics (a model about to be loaded) the pseudo-inputs are noise."""
        noise_key, row_key = jax.random.split(key)
        noise = 0.01 * jax.random.normal(noise_key, (self.components, *sites.feature_shape))
        logits = jnp.zeros(self.components) if self.weighted else None
        if statistics is None or statistics.examples is None:
            return _VampPrior(noise, logits, latent)
        rows = jnp.asarray(statistics.examples, jnp.float32)
        rows = rows[jax.random.permutation(row_key, self.components) % len(rows)]
        mean, scale = jnp.asarray(statistics.mean), jnp.asarray(statistics.scale)
        return _VampPrior(noise + jax.vmap(lambda x: sites.features(x, None, mean, scale))(rows), logits, latent)


class _VampPrior(PriorHead):
    pseudo_inputs: Float[Array, "K ..."]
    logits: Float[Array, "K"] | None
    latent: int = eqx.field(static=True)

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        parameters = jax.vmap(encoder.network)(self.pseudo_inputs)
        logits = jnp.zeros(len(parameters)) if self.logits is None else self.logits
        member = encoder.head(parameters[0])
        if not is_diagonal_gaussian(member):
            return SharedFamilyMixture(encoder.head, parameters, logits, (self.latent,))

        def moments(parameters: Array) -> tuple[Array, Array]:
            q = encoder.head(parameters)
            return q.base_dist.loc, q.base_dist.scale

        loc, scale = jax.vmap(moments)(parameters)
        return GaussianMixture(logits, loc, scale)


class FlowPrior(Spec):
    """p(z): a standard normal variable moved by an invertible map with trained weights.

    The map is made of ``layers`` affine coupling layers whose networks have one hidden layer of ``width`` units; it starts
    near the identity. Mean and variance are those of 128 fixed draws.

    >>> FlowPrior().build(2, key=jax.random.key(0))(None).event_shape
    (2,)
    """

    kind: Literal["flow"] = "flow"
    layers: int = Field(default=8, ge=1)
    width: int = Field(default=128, ge=1)
    references: ClassVar[tuple[str, ...]] = ("dinh2017density", "chen2017variational")

    def build(self, latent: int, sites: Sites | None = None, statistics: Statistics | None = None, *, key: Array) -> PriorHead:
        """Return the head for L = ``latent``; a single latent, which no other could steer, is steered by a constant."""
        context = int(latent == 1)
        return _FlowPrior(CouplingFlow.initialise(latent, context, self.layers, self.width, key=key), latent, context)


class _FlowPrior(PriorHead):
    flow: CouplingFlow
    latent: int = eqx.field(static=True)
    context: int = eqx.field(static=True)

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        base = diagonal_gaussian(jnp.zeros(self.latent), jnp.ones(self.latent))
        return Flow(base, self.flow, jnp.ones(self.context))


PriorSpec = Annotated[StandardNormal | TrainedMixture | VampPrior | FlowPrior | Custom, Field(discriminator="kind")]
