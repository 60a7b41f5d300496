"""Convolutional networks for images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, PositiveInt, model_validator

from tightbound.errors import SpecError
from tightbound.networks.convolution import TAPS, convolve, convolve_transposed
from tightbound.networks.layers import Activation, Linear, Nonlinearity, Unit, initial_weights
from tightbound.spec import Spec

__all__ = ["Convolution", "Convolutional", "ImageDecoder", "ImageEncoder"]

# A stride of two reaches every pixel of the larger image with a quarter of the taps.
REACHED = TAPS // 4


class Convolution(eqx.Module):
    """One kernel (inner, 16 · outer) and its bias, in either direction.

    ``down`` halves an image of ``outer`` channels, ``up`` doubles one of ``inner`` channels.
    """

    kernel: Float[Array, "inner taps*outer"]
    bias: Float[Array, "channels"]

    def down(self, x: Float[Array, "height width outer"]) -> Float[Array, "height/2 width/2 inner"]:
        """Return K ∗ x + b."""
        return convolve(x, self.kernel) + self.bias

    def up(self, y: Float[Array, "height width inner"]) -> Float[Array, "2*height 2*width outer"]:
        """Return the transposed convolution of y, plus b."""
        return convolve_transposed(y, self.kernel) + self.bias


class ImageEncoder(eqx.Module):
    """Image (height, width, channels) → convolutions that halve it → dense units → affine map."""

    convolutions: tuple[Convolution, ...]
    hidden: tuple[Unit, ...]
    output: Linear
    nonlinearity: Nonlinearity = eqx.field(static=True)

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "outputs"]:
        """Return the network's output for one image."""
        multiple = 2 ** len(self.convolutions)
        x = jnp.pad(x, ((0, -x.shape[0] % multiple), (0, -x.shape[1] % multiple), (0, 0)))
        for convolution in self.convolutions:
            x = self.nonlinearity(convolution.down(x))
        h = x.reshape(-1)
        for unit in self.hidden:
            h = unit(h)
        return self.output(h)


class ImageDecoder(eqx.Module):
    """Vector → dense units → transposed convolutions that double an image → (parameters, height, width, channels)."""

    hidden: tuple[Unit, ...]
    convolutions: tuple[Convolution, ...]
    output: Convolution
    nonlinearity: Nonlinearity = eqx.field(static=True)
    grid: tuple[int, int] = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, z: Float[Array, "inputs"]) -> Float[Array, "parameters height width channels"]:
        """Return the parameters of every pixel of one image."""
        for unit in self.hidden:
            z = unit(z)
        x = z.reshape(*self.grid, -1)
        for convolution in self.convolutions:
            x = self.nonlinearity(convolution.up(x))
        parameters, height, width, channels = self.out_shape
        x = self.output.up(x)[:height, :width]
        return jnp.moveaxis(x.reshape(height, width, parameters, channels), 2, 0)


class Convolutional(Spec):
    """Convolutions with 4×4 kernels, stride 2 and zero padding 1; an encoder or a decoder by the shapes it is built for.

    An encoder maps (height, width, channels) to a vector: every entry of ``channels`` halves the image, then come the
    dense units of ``hidden`` and an affine map. A decoder maps a vector to (parameters, height, width, channels) and runs
    through the same entries backwards, so that one spec describes both sides of a model. Sides that 2^len(channels) does
    not divide are padded with zeros at the far edges, and cropped there by the decoder. ``gated`` uses
    value · sigmoid(gate) in place of the activation (Dauphin et al. 2017).

    >>> import jax
    >>> network = Convolutional(channels=(8, 16))
    >>> network.build((28, 28, 1), (20,), key=jax.random.key(0))(jax.numpy.zeros((28, 28, 1))).shape
    (20,)
    >>> network.build((20,), (2, 28, 28, 1), key=jax.random.key(0))(jax.numpy.zeros(20)).shape
    (2, 28, 28, 1)
    """

    kind: Literal["convolutional"] = "convolutional"
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    hidden: tuple[PositiveInt, ...] = ()
    activation: Activation = "relu"
    gated: bool = False

    @model_validator(mode="after")
    def _one_nonlinearity(self) -> Self:
        self._nonlinearity.check("Convolutional")
        return self

    @property
    def _nonlinearity(self) -> Nonlinearity:
        return Nonlinearity(self.activation, self.gated)

    def build(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: PRNGKeyArray) -> ImageEncoder | ImageDecoder:
        """Return an encoder or a decoder with random weights.

        Raises :class:`SpecError` when the shapes are those of neither, or the image is too small for the convolutions.
        """
        if len(in_shape) == 3 and len(out_shape) == 1:
            return self._encoder(in_shape, out_shape[0], key)
        if len(in_shape) == 1 and len(out_shape) == 4:
            return self._decoder(in_shape[0], out_shape, key)
        raise _problem(
            "",
            f"cannot map {tuple(in_shape)} to {tuple(out_shape)}: it maps images (height, width, channels) to vectors and "
            "vectors to (parameters, height, width, channels); for rows of a table use MLP",
        )

    def _encoder(self, in_shape: tuple[int, ...], outputs: int, key: PRNGKeyArray) -> ImageEncoder:
        height, width, channels = in_shape
        grid = self._grid(height, width)
        sizes = pairwise((channels, *self.channels))
        keys = _keys(key)
        convolutions = tuple(self._down(outer, inner, next(keys)) for outer, inner in sizes)
        features = math.prod(grid) * self.channels[-1]
        hidden = self._hidden((features, *self.hidden), keys)
        output = Linear.initialise((features, *self.hidden)[-1], outputs, key=next(keys))
        return ImageEncoder(convolutions, hidden, output, self._nonlinearity)

    def _decoder(self, inputs: int, out_shape: tuple[int, ...], key: PRNGKeyArray) -> ImageDecoder:
        parameters, height, width, channels = out_shape
        grid = self._grid(height, width)
        sizes = pairwise(self.channels[::-1])
        keys = _keys(key)
        hidden = self._hidden((inputs, *self.hidden[::-1], math.prod(grid) * self.channels[-1]), keys)
        after = self._nonlinearity
        convolutions = tuple(_up(inner, outer, after.width(outer), after.halving, next(keys)) for inner, outer in sizes)
        sites = parameters * channels
        output = _up(self.channels[0], sites, sites, False, next(keys))
        return ImageDecoder(hidden, convolutions, output, self._nonlinearity, grid, tuple(out_shape))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        depth = len(self.channels)
        multiple = 2**depth
        if min(height, width) < multiple:
            raise _problem(
                "channels",
                f"{depth} convolutions halve the image {depth} times and need at least {multiple}×{multiple} pixels, "
                f"got {height}×{width}: use fewer entries, or MLP",
            )
        return -(-height // multiple), -(-width // multiple)

    def _hidden(self, widths: tuple[int, ...], keys: Iterator[PRNGKeyArray]) -> tuple[Unit, ...]:
        return tuple(Unit.initialise(i, o, self._nonlinearity, key=next(keys)) for i, o in pairwise(widths))

    def _down(self, outer: int, inner: int, key: PRNGKeyArray) -> Convolution:
        width = self._nonlinearity.width(inner)
        fan = (TAPS * outer, REACHED * inner)
        kernel = initial_weights(key, (width, TAPS * outer), fan, self._nonlinearity.halving)
        return Convolution(kernel, jnp.zeros(width))


def _up(inner: int, outer: int, width: int, halving: bool, key: PRNGKeyArray) -> Convolution:
    fan = (REACHED * inner, TAPS * outer)
    return Convolution(initial_weights(key, (inner, TAPS * width), fan, halving), jnp.zeros(width))


def _problem(path: str, message: str) -> SpecError:
    return SpecError("Convolutional", ((path, message),))


def _keys(key: PRNGKeyArray) -> Iterator[PRNGKeyArray]:
    number = 0
    while True:
        yield jax.random.fold_in(key, number)
        number += 1
