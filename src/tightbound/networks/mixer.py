"""Networks of image patches that are matrix products throughout: perceptrons across patches and perceptrons within them."""

from __future__ import annotations

import math
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import PositiveInt

from tightbound.errors import SpecError
from tightbound.networks.layers import Activation, Linear, Nonlinearity, Unit
from tightbound.networks.mlp import MLP, Perceptron
from tightbound.spec import Spec

__all__ = ["Mixer", "PatchDecoder", "PatchEncoder"]

START = 0.3  # of their usual size, for the last weights of every residual branch
_STEADY = 1e-6


class Norm(eqx.Module):
    """h ↦ s · h / √(mean h²) along the last axis (Zhang & Sennrich 2019)."""

    scale: Float[Array, "C"]

    def __call__(self, h: Float[Array, "T C"]) -> Float[Array, "T C"]:
        """Return every row at length √C times the trained scales."""
        return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + _STEADY) * self.scale


class Branch(eqx.Module):
    """A residual branch: norm, hidden unit, affine map, along the last axis of what it is given."""

    norm: Norm
    hidden: Unit
    output: Linear

    @classmethod
    def initialise(cls, channels: int, size: int, hidden: int, activation: str, *, key: PRNGKeyArray) -> Self:
        """Return a branch from ``size`` numbers through ``hidden`` units back to ``size``, that says little at first."""
        first, last = jax.random.split(key)
        output = Linear.initialise(hidden, size, key=last)
        unit = Unit.initialise(size, hidden, Nonlinearity(activation), key=first)
        return cls(Norm(jnp.ones(channels)), unit, Linear(START * output.weight, output.bias))


class Block(eqx.Module):
    """h ← h + (perceptron across patches), then h ← h + (perceptron within each patch), h (patches, channels)."""

    across: Branch
    within: Branch

    @classmethod
    def initialise(cls, spec: Mixer, patches: int, *, key: PRNGKeyArray) -> Self:
        """Return a block with random weights."""
        across, within = jax.random.split(key)
        return cls(
            Branch.initialise(spec.width, patches, spec.across, spec.activation, key=across),
            Branch.initialise(spec.width, spec.width, spec.within, spec.activation, key=within),
        )

    def __call__(self, h: Float[Array, "T C"]) -> Float[Array, "T C"]:
        """Return the block's output."""
        columns = self.across.norm(h).T
        h = h + self.across.output(self.across.hidden(columns)).T
        return h + self.within.output(self.within.hidden(self.within.norm(h)))


class PatchEncoder(eqx.Module):
    """Image (height, width, channels) → patches, each mapped to ``width`` numbers → blocks → a vector, or numbers per patch.

    ``output`` is a perceptron of all patches at once, or an affine map of each.
    """

    patches: Linear
    positions: Float[Array, "T C"]
    blocks: tuple[Block, ...]
    output: Perceptron | Linear
    side: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "*outputs"]:
        """Return the network's output for one image."""
        height, width, channels = x.shape
        x = jnp.pad(x, ((0, -height % self.side), (0, -width % self.side), (0, 0)))
        rows, columns = (size // self.side for size in x.shape[:2])
        cells = x.reshape(rows, self.side, columns, self.side, channels).swapaxes(1, 2)
        h = self.patches(cells.reshape(rows * columns, -1)) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.output(h)


class PatchDecoder(eqx.Module):
    """Vector, or numbers per patch → all patches → blocks → affine map of each → (parameters, height, width, channels).

    ``input`` is a perceptron to all patches at once, or an affine map of each.
    """

    input: Perceptron | Linear
    blocks: tuple[Block, ...]
    norm: Norm
    patches: Linear
    side: int = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, z: Float[Array, "*inputs"]) -> Float[Array, "parameters height width channels"]:
        """Return the parameters of every pixel of one image."""
        parameters, height, width, channels = self.out_shape
        rows, columns = _grid(height, width, self.side)
        h = self.input(z)
        for block in self.blocks:
            h = block(h)
        cells = self.patches(self.norm(h)).reshape(rows, columns, self.side, self.side, parameters, channels)
        image = cells.transpose(4, 0, 2, 1, 3, 5).reshape(parameters, rows * self.side, columns * self.side, channels)
        return image[:, :height, :width]


def _grid(height: int, width: int, side: int) -> tuple[int, int]:
    return -(-height // side), -(-width // side)


class Mixer(Spec):
    """An MLP-Mixer (Tolstikhin et al. 2021) on patches of ``patch`` × ``patch`` pixels; encoder or decoder by its shapes.

    Every patch becomes ``width`` numbers. A block is two residual perceptrons of one hidden layer: one across patches, of
    ``across`` units and the same for every number of a patch, and one within each patch, of ``within`` units and the same
    for every patch. Between the patches and the vector are the dense units of ``hidden``, backwards in a decoder. Sides that
    ``patch`` does not divide are padded with zeros at the far edges, and cropped there by the decoder. Weights are shared
    between patches, so that it learns from fewer images than a multilayer perceptron does, and it is made of matrix products
    alone, which processors do fast. A grid (patches, numbers) may stand in place of the vector, if there is no ``hidden``.

    >>> network = Mixer(width=8, depth=1, across=4, within=8)
    >>> network.build((28, 28, 1), (20,), key=jax.random.key(0))(jnp.zeros((28, 28, 1))).shape
    (20,)
    >>> network.build((20,), (2, 28, 20, 1), key=jax.random.key(0))(jnp.zeros(20)).shape
    (2, 28, 20, 1)
    """

    kind: Literal["mixer"] = "mixer"
    patch: PositiveInt = 7
    width: PositiveInt = 96
    depth: PositiveInt = 2
    across: PositiveInt = 32
    within: PositiveInt = 192
    hidden: tuple[PositiveInt, ...] = ()
    activation: Activation = "silu"

    def build(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: PRNGKeyArray) -> PatchEncoder | PatchDecoder:
        """Return an encoder or a decoder with random weights; raise :class:`SpecError` when the shapes are those of neither."""
        if len(in_shape) == 3 and len(out_shape) in (1, 2):
            return self._encoder(in_shape, out_shape, key)
        if len(in_shape) in (1, 2) and len(out_shape) == 4:
            return self._decoder(in_shape, out_shape, key)
        problem = (
            f"cannot map {tuple(in_shape)} to {tuple(out_shape)}: it maps images (height, width, channels) to vectors and "
            "vectors to (parameters, height, width, channels); for rows of a table use MLP"
        )
        raise SpecError("Mixer", (("", problem),))

    def _encoder(self, image: tuple[int, ...], out_shape: tuple[int, ...], key: Array) -> PatchEncoder:
        first, last, *keys = jax.random.split(key, 2 + self.depth)
        count = self.places(image)
        patches = Linear.initialise(self.patch**2 * image[2], self.width, key=first)
        output: Perceptron | Linear
        if len(out_shape) == 2:
            self._require_grid(count, out_shape)
            output = Linear.initialise(self.width, out_shape[1], key=last)
        else:
            output = MLP(hidden=self.hidden, activation=self.activation).build((count, self.width), out_shape, key=last)
        return PatchEncoder(patches, jnp.zeros((count, self.width)), self._blocks(count, keys), output, self.patch)

    def _decoder(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], key: Array) -> PatchDecoder:
        first, last, *keys = jax.random.split(key, 2 + self.depth)
        parameters, *image = out_shape
        count = self.places(tuple(image))
        given: Perceptron | Linear
        if len(in_shape) == 2:
            self._require_grid(count, in_shape)
            given = Linear.initialise(in_shape[1], self.width, key=first)
        else:
            dense = MLP(hidden=self.hidden[::-1], activation=self.activation)
            given = dense.build(in_shape, (count, self.width), key=first)
        patches = Linear.initialise(self.width, self.patch**2 * parameters * image[2], key=last)
        blocks, norm = self._blocks(count, keys), Norm(jnp.ones(self.width))
        return PatchDecoder(given, blocks, norm, patches, self.patch, tuple(out_shape))

    def places(self, image: tuple[int, ...]) -> int:
        """Return the number of patches of an image (height, width, channels)."""
        return math.prod(_grid(image[0], image[1], self.patch))

    def _require_grid(self, places: int, shape: tuple[int, ...]) -> None:
        if self.hidden:
            raise SpecError("Mixer", (("hidden", "stands between patches and a vector, and a grid has none: leave it out"),))
        if shape[0] != places:
            raise SpecError("Mixer", (("patch", f"gives {places} patches, but the grid has {shape[0]}"),))

    def _blocks(self, patches: int, keys: list[Array]) -> tuple[Block, ...]:
        return tuple(Block.initialise(self, patches, key=key) for key in keys)
