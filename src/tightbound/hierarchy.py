"""A hierarchy of latents: layers drawn one after the other, in the same order by p and by q.

p(z) = p(z_1) p(z_2|z_1) … p(z_n|z_1, …, z_{n−1}), and q(z|x) in that order too (top-down inference, Sønderby et al. 2016;
Kingma et al. 2016). To everything that uses a model z is still one vector, the layers side by side: p(z) and q(z|x) are
chains over it (:class:`tightbound.distributions.Chain`), which bounds, objectives and samplers need not know.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, PositiveInt, model_validator

from tightbound.distributions import Chain, diagonal_gaussian, positive
from tightbound.errors import SpecError
from tightbound.likelihoods.base import Constant, LikelihoodHead
from tightbound.model import VAE, Model, ModelSpec
from tightbound.networks import MLP, Mixer
from tightbound.networks.layers import ACTIVATIONS, Activation, Linear
from tightbound.networks.mixer import Block
from tightbound.networks.mlp import Perceptron
from tightbound.posteriors import PosteriorHead
from tightbound.priors import Encoder, PriorHead
from tightbound.schema import Statistics

__all__ = ["MODELS", "HierarchicalVAE", "Hierarchy", "model_spec"]

START = 0.1  # of their usual size, for the last weights of every residual block: depth does not change where training starts


class HierarchicalVAE(ModelSpec):
    """A variational autoencoder with several layers of latents as a value; ``latents`` from the top, which is drawn first.

    A state of ``width`` numbers runs up from x and another down from the top, each through ``depth`` residual blocks
    h ← h + W₂ a(W₁ h) between two layers. q(z_l|z_1, …, z_{l−1}, x) reads both, as a shift and a scale of
    p(z_l|z_1, …, z_{l−1}), which reads the one that comes down; ``floor`` is the smallest σ. The ``encoder`` makes the first
    state of x, the ``decoder`` makes p(x|z) of the last one, and ``prior`` is that of the top layer.

    With ``grid`` a state has ``width`` numbers for every patch of an image, the residual blocks are those of a
    :class:`~tightbound.Mixer`, and every layer has as many latents in each patch, made and read there by the same weights
    everywhere. Encoder and decoder are then mixers of the same patch without dense units.

    >>> spec = HierarchicalVAE(sites=dict(kind="binary", shape=(784,)), latents=(8, 16), likelihood=dict(kind="bernoulli"))
    >>> spec.build(jax.random.key(0)).posterior(jnp.zeros(784)).event_shape
    (24,)
    """

    kind: Literal["hierarchical-vae"] = "hierarchical-vae"
    latents: tuple[PositiveInt, ...] = Field(min_length=1, max_length=64)
    width: int = Field(default=256, ge=1)
    depth: int = Field(default=1, ge=0)
    activation: Activation = "silu"
    floor: float = Field(default=1e-3, gt=0)
    grid: bool = False
    references: ClassVar[tuple[str, ...]] = ("sonderby2016ladder", "kingma2016improved", "vahdat2020nvae")
    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "prior", "likelihood")

    @property
    def layers(self) -> tuple[int, ...]:
        """The number of latents in every layer, from the top."""
        return self.latents

    @property
    def latent(self) -> int:
        """The number of latents in all layers together."""
        return sum(self.latents)

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of a state: (width,), or (patches, width)."""
        if not self.grid:
            return (self.width,)
        assert isinstance(self.encoder, Mixer)
        return (self.encoder.places(self.sites.shape), self.width)

    @model_validator(mode="after")
    def _grid_fits(self) -> Self:
        if not self.grid:
            return self
        sides = {network.patch if isinstance(network, Mixer) else None for network in (self.encoder, self.decoder)}
        if len(sides) > 1 or None in sides:
            raise ValueError("grid: needs mixers of the same patch as encoder and decoder")
        if not self.sites.is_image:
            raise ValueError(f"grid: needs images, got {self.sites.describe()}")
        odd = [latents for latents in self.latents if latents % self.state[0]]
        if odd:
            raise ValueError(f"grid: {odd[0]} latents of a layer are not as many in each of {self.state[0]} patches")
        return self

    def assemble(self, key: Array, statistics: Statistics) -> Model:
        """Return the model with random weights."""
        encoder_key, decoder_key, up_key, down_key, prior_key, likelihood_key = jax.random.split(key, 6)
        sites = self.sites
        likelihood = self.likelihood.build(sites, statistics, key=likelihood_key)
        network = self.encoder.build(sites.feature_shape, self.state, key=encoder_key)
        decoder = self.decoder.build(self.state, tuple(likelihood.parameter_shape), key=decoder_key)
        up, down = BottomUp.initialise(self, network, key=up_key), TopDown.initialise(self, key=down_key)
        prior = self.prior.build(self.latents[0], sites, statistics, key=prior_key)
        mean, scale = Constant(statistics.mean), Constant(statistics.scale)
        return Hierarchy(up, down, decoder, prior, likelihood, mean, scale, self)


MODELS: dict[str, type[ModelSpec]] = {"vae": VAE, "hierarchical-vae": HierarchicalVAE}


def model_spec(fields: dict[str, Any]) -> type[ModelSpec]:
    """Return which kind of model the fields of a spec describe: what ``kind`` says, else by ``latent`` or ``latents``.

    Raises :class:`~tightbound.errors.SpecError` for an unknown kind.

    >>> model_spec({"latents": [4, 8]}).__name__
    'HierarchicalVAE'
    """
    kind = fields.get("kind", "hierarchical-vae" if "latents" in fields else "vae")
    if kind not in MODELS:
        raise SpecError("model", (("kind", f"unknown kind '{kind}' (allowed: {', '.join(MODELS)})"),))
    return MODELS[kind]


class Residual(eqx.Module):
    """h ← h + W₂ a(W₁ h + b₁) + b₂, block after block; of a grid the blocks of a mixer."""

    blocks: tuple[Perceptron | Block, ...]

    @classmethod
    def initialise(cls, spec: HierarchicalVAE, *, key: PRNGKeyArray) -> Self:
        """Return ``depth`` blocks that change little at first."""
        keys = jax.random.split(key, spec.depth) if spec.depth else ()
        if spec.grid:
            assert isinstance(spec.encoder, Mixer)
            mixer = spec.encoder.replace(width=spec.width, within=2 * spec.width, activation=spec.activation)
            return cls(tuple(Block.initialise(mixer, spec.state[0], key=k) for k in keys))
        unit = MLP(hidden=(spec.width,), activation=spec.activation)
        return cls(tuple(_calm(unit.build((spec.width,), (spec.width,), key=k)) for k in keys))

    def __call__(self, h: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """Return what the blocks make of a state."""
        for block in self.blocks:
            h = block(h) if isinstance(block, Block) else h + block(h)
        return h


def _calm(network: Perceptron) -> Perceptron:
    return eqx.tree_at(lambda net: net.output.weight, network, replace_fn=lambda weight: START * weight)


class BottomUp(eqx.Module):
    """What the layers of q(z|x) are told of x, a state each, side by side: that of the top layer first."""

    network: Any
    blocks: tuple[Residual, ...]
    told: tuple[Linear, ...]

    @classmethod
    def initialise(cls, spec: HierarchicalVAE, network: Any, *, key: PRNGKeyArray) -> Self:
        """Return the way up, with blocks between every two layers."""
        block_keys, told_keys = (jax.random.split(k, len(spec.layers)) for k in jax.random.split(key))
        blocks = tuple(Residual.initialise(spec, key=k) for k in block_keys[1:])
        return cls(network, blocks, tuple(Linear.initialise(spec.width, spec.width, key=k) for k in told_keys))

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "P"]:
        """Return what each layer is told."""
        h = self.network(features)
        told = [self.told[-1](h)]
        for blocks, tell in zip(reversed(self.blocks), reversed(self.told[:-1]), strict=True):
            h = blocks(h)
            told.append(tell(h))
        return jnp.concatenate([state.ravel() for state in told[::-1]])


class Layer(eqx.Module):
    """One layer of the way down: p and q of its latents given the state, and the state that follows a draw.

    ``own`` gives the raw parameters of p(z_l|z_1, …, z_{l−1}), none at the top, whose prior is a part of the model.
    """

    own: Linear | None
    join: Linear
    read: Linear
    write: Linear
    blocks: Residual
    activation: str = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    @classmethod
    def initialise(cls, spec: HierarchicalVAE, number: int, *, key: PRNGKeyArray) -> Self:
        """Return layer ``number``, in which p and q are both near N(0, I)."""
        keys = jax.random.split(key, 5)
        width, latents = spec.width, spec.layers[number] // math.prod(spec.state[:-1])

        def calm(inputs: int, outputs: int, key: Array) -> Linear:
            layer = Linear.initialise(inputs, outputs, key=key)
            return Linear(START * layer.weight, layer.bias)

        own = calm(width, 2 * latents, keys[0]) if number else None
        join = Linear.initialise(width, width, key=keys[1])
        read, write = calm(width, 2 * latents, keys[2]), Linear.initialise(latents, width, key=keys[3])
        return cls(own, join, read, write, Residual.initialise(spec, key=keys[4]), spec.activation, spec.floor)

    def p(self, state: Float[Array, "*state"]) -> dist.Distribution:
        """Return p(z_l|z_1, …, z_{l−1}), at the top the N(0, I) that q is relative to."""
        if self.own is None:
            latents = self.write.weight.shape[0] * math.prod(state.shape[:-1])
            return diagonal_gaussian(jnp.zeros(latents), jnp.ones(latents))
        loc, raw = _halves(self.own(state))
        return diagonal_gaussian(loc, positive(raw, self.floor))

    def q(self, state: Float[Array, "*state"], told: Float[Array, "*state"]) -> dist.Distribution:
        """Return q(z_l|z_1, …, z_{l−1}, x) = N(μ + σ δ, diag(σ s)²), μ and σ those of p."""
        base = self.p(state).base_dist
        shift, raw = _halves(self.read(ACTIVATIONS[self.activation](self.join(state) + told)))
        return diagonal_gaussian(base.loc + base.scale * shift, base.scale * positive(raw, self.floor))

    def follow(self, state: Float[Array, "*state"], z: Float[Array, "L"]) -> Float[Array, "*state"]:
        """Return the state below this layer."""
        return self.blocks(state + self.write(z.reshape(*state.shape[:-1], -1)))


def _halves(y: Float[Array, "*places two_l"]) -> tuple[Array, Array]:
    """Return the two halves of the last axis, each as a vector over all places."""
    first, second = jnp.split(y, 2, axis=-1)
    return first.ravel(), second.ravel()


class TopDown(eqx.Module):
    """The way down, which p(z), q(z|x) and p(x|z) share."""

    first: Float[Array, "*state"]
    layers: tuple[Layer, ...]

    @classmethod
    def initialise(cls, spec: HierarchicalVAE, *, key: PRNGKeyArray) -> Self:
        """Return the way down from a state of zeros, which is trained."""
        keys = jax.random.split(key, len(spec.layers))
        layers = tuple(Layer.initialise(spec, number, key=k) for number, k in enumerate(keys))
        return cls(jnp.zeros(spec.state), layers)


class Descent(eqx.Module):
    """A path (:class:`tightbound.distributions.Path`) along the way down; what a link is, is left to subclasses."""

    down: TopDown

    def start(self) -> Array:
        """Return the state at the top."""
        return self.down.first

    def follow(self, number: int, state: Float[Array, "*state"], z: Float[Array, "L"]) -> Float[Array, "*state"]:
        """Return the state below a layer."""
        return self.down.layers[number].follow(state, z)


class PriorDescent(Descent):
    """p(z): the prior of the top layer, then what each state says of the next layer."""

    top: dist.Distribution

    def at(self, number: int, state: Array) -> dist.Distribution:
        """Return p(z_l|z_1, …, z_{l−1})."""
        return self.down.layers[number].p(state) if number else self.top


class PosteriorDescent(Descent):
    """q(z|x): every layer is told of x, ``told`` a state each."""

    told: Float[Array, "n *state"]

    def at(self, number: int, state: Array) -> dist.Distribution:
        """Return q(z_l|z_1, …, z_{l−1}, x)."""
        return self.down.layers[number].q(state, self.told[number])


class HierarchyHead(PosteriorHead):
    """q(z|h), h what the layers are told of x."""

    parameters: int = eqx.field(static=True)
    down: TopDown
    sizes: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        """Return q(z|h)."""
        return Chain(PosteriorDescent(self.down, h.reshape(-1, *self.down.first.shape)), self.sizes)


class Hierarchy(Model):
    """The model of a :class:`HierarchicalVAE`; z is all layers side by side, the top one first."""

    encoder: BottomUp
    down: TopDown
    decoder: Any
    prior_head: PriorHead
    likelihood_head: LikelihoodHead
    mean: Constant
    scale: Constant
    spec: HierarchicalVAE = eqx.field(static=True)

    @property
    def posterior_head(self) -> PosteriorHead:
        """What makes q(z|x) of the encoder's output; its weights are those of the way down."""
        return HierarchyHead(self.down.first.size * len(self.spec.layers), self.down, self.spec.layers)

    def prior(self) -> dist.Distribution:
        """Return p(z); the prior of the top layer may borrow the encoder."""
        top, first = self.down.layers[0], self.down.first
        borrowed = Encoder(lambda x: self.encoder(x)[: first.size], lambda told: top.q(first, told.reshape(first.shape)))
        return Chain(PriorDescent(self.down, self.prior_head(borrowed)), self.spec.layers)

    def parameters(self, z: Float[Array, "L"]) -> Float[Array, "..."]:
        """Return what the decoder makes of the last state."""
        state = self.down.first
        for layer, part in zip(self.down.layers, jnp.split(z, np.cumsum(self.spec.layers)[:-1]), strict=True):
            state = layer.follow(state, part)
        return self.decoder(state)
