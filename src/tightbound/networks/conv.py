"""Convolutional networks for images, their convolutions written as matrix products."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, PositiveInt, model_validator

from tightbound.errors import SpecError
from tightbound.networks.layers import Activation, Linear, Unit
from tightbound.networks.mlp import gated_has_no_activation
from tightbound.spec import Spec

__all__ = ["Convolutional", "ImageDecoder", "ImageEncoder"]


def convolve(x: Float[Array, "height width inputs"], weight: Float[Array, "taps outputs"]) -> Array:
    """Convolve with a 4×4 kernel, stride 2 and zero padding 1; the rows of the weight run over (block, pixel, channel)."""
    height, width, channels = x.shape
    h, w = height // 2, width // 2
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    x = x.reshape(h + 1, 2, w + 1, 2, channels).transpose(0, 2, 1, 3, 4).reshape(h + 1, w + 1, 4 * channels)
    return jnp.concatenate([x[i : h + i, j : w + j] for i in (0, 1) for j in (0, 1)], axis=-1) @ weight


def convolve_transposed(x: Float[Array, "height width inputs"], weight: Float[Array, "taps outputs"]) -> Array:
    """The linear transpose of :func:`convolve` with the roles of its channels exchanged."""
    h, w, _ = x.shape
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    x = jnp.concatenate([x[i : h + 1 + i, j : w + 1 + j] for i in (0, 1) for j in (0, 1)], axis=-1) @ weight
    channels = x.shape[-1] // 4
    x = x.reshape(h + 1, w + 1, 2, 2, channels).transpose(0, 2, 1, 3, 4).reshape(2 * h + 2, 2 * w + 2, channels)
    return x[1:-1, 1:-1]


class ImageEncoder(eqx.Module):
    """Image (height, width, channels) → convolutions that halve it → dense layers → vector."""

    convolutions: tuple[Unit, ...]
    hidden: tuple[Unit, ...]
    output: Linear

    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "outputs"]:
        """Return the network's output for one image."""
        multiple = 2 ** len(self.convolutions)
        x = jnp.pad(x, ((0, -x.shape[0] % multiple), (0, -x.shape[1] % multiple), (0, 0)))
        for unit in self.convolutions:
            x = unit.respond(convolve(x, unit.linear.weight) + unit.linear.bias)
        x = x.reshape(-1)
        for unit in self.hidden:
            x = unit(x)
        return self.output(x)


class ImageDecoder(eqx.Module):
    """Vector → dense layers → transposed convolutions that double an image → (parameters, height, width, channels)."""

    hidden: tuple[Unit, ...]
    convolutions: tuple[Unit, ...]
    output: Linear
    grid: tuple[int, int] = eqx.field(static=True)
    out_shape: tuple[int, int, int, int] = eqx.field(static=True)

    def __call__(self, z: Float[Array, "inputs"]) -> Float[Array, "parameters height width channels"]:
        """Return the parameters of every pixel of one image."""
        for unit in self.hidden:
            z = unit(z)
        x = z.reshape(*self.grid, -1)
        for unit in self.convolutions:
            channels = unit.linear.bias.shape[0]
            x = unit.respond(convolve_transposed(x, unit.linear.weight.reshape(-1, 4 * channels)) + unit.linear.bias)
        x = convolve_transposed(x, self.output.weight.reshape(-1, 4 * self.output.bias.shape[0])) + self.output.bias
        parameters, height, width, channels = self.out_shape
        return jnp.moveaxis(x[:height, :width].reshape(height, width, parameters, channels), 2, 0)


class Convolutional(Spec):
    """Convolutions with 4×4 kernels, stride 2 and zero padding 1; an encoder or a decoder by the shapes it is built for.

    An encoder maps (height, width, channels) to a vector: every entry of ``channels`` halves the image, then come the
    dense layers of ``hidden`` and an affine map. A decoder maps a vector to (P, height, width, channels) and runs
    through the same entries backwards, so that one spec describes both sides of a model. Sides that
    2^len(channels) does not divide are padded with zeros at the far edges, and cropped in the decoder.

    >>> import jax
    >>> encoder = Convolutional(channels=(8, 16)).build((28, 28, 1), (20,), key=jax.random.key(0))
    >>> encoder(jax.numpy.zeros((28, 28, 1))).shape
    (20,)
    """

    references: ClassVar[tuple[str, ...]] = ()
    kind: Literal["convolutional"] = "convolutional"
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    hidden: tuple[PositiveInt, ...] = ()
    activation: Activation = "relu"
    gated: bool = False

    @model_validator(mode="after")
    def _one_nonlinearity(self) -> Self:
        gated_has_no_activation(self.gated, self.activation)
        return self

    def build(
        self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: PRNGKeyArray
    ) -> ImageEncoder | ImageDecoder:
        """Return an encoder or a decoder with random weights; raise SpecError when the shapes are those of neither."""
        if len(in_shape) == 3 and len(out_shape) == 1:
            return self._encoder(in_shape, out_shape[0], key)
        if len(in_shape) == 1 and len(out_shape) == 4:
            return self._decoder(in_shape[0], out_shape, key)
        raise SpecError(
            "Convolutional",
            (
                (
                    "",
                    f"cannot map {in_shape} to {out_shape}: it maps images (height, width, channels) to vectors and "
                    "vectors to (parameters, height, width, channels); for rows of a table use MLP",
                ),
            ),
        )

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        multiple = 2 ** len(self.channels)
        if min(height, width) < multiple:
            raise SpecError(
                "Convolutional",
                (
                    (
                        "channels",
                        f"{len(self.channels)} entries halve the image {len(self.channels)} times and need at least "
                        f"{multiple}×{multiple} pixels, got {height}×{width}: use fewer entries, or MLP",
                    ),
                ),
            )
        return -(-height // multiple), -(-width // multiple)

    def _unit(self, inputs: int, outputs: int, key: PRNGKeyArray) -> Unit:
        return Unit.initialise(inputs, outputs, self.activation, self.gated, key=key)

    def _encoder(self, in_shape: tuple[int, ...], outputs: int, key: PRNGKeyArray) -> ImageEncoder:
        height, width, channels = in_shape
        h, w = self._grid(height, width)
        sizes = (channels, *self.channels)
        widths = (h * w * self.channels[-1], *self.hidden)
        keys = iter(jax.random.split(key, len(sizes) + len(widths) - 1))
        convolutions = tuple(
            Unit.initialise(16 * i, o, self.activation, self.gated, key=next(keys), fan=(16 * i, 4 * o))
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        hidden = tuple(self._unit(i, o, next(keys)) for i, o in zip(widths[:-1], widths[1:], strict=True))
        return ImageEncoder(convolutions, hidden, Linear.initialise(widths[-1], outputs, key=next(keys)))

    def _decoder(self, inputs: int, out_shape: tuple[int, ...], key: PRNGKeyArray) -> ImageDecoder:
        parameters, height, width, channels = out_shape
        h, w = self._grid(height, width)
        *inner, last = self.channels[::-1]
        widths = (inputs, *self.hidden[::-1], h * w * self.channels[-1])
        sizes = (*inner, last)
        keys = iter(jax.random.split(key, len(sizes) + len(widths) - 1))
        hidden = tuple(self._unit(i, o, next(keys)) for i, o in zip(widths[:-1], widths[1:], strict=True))
        convolutions = tuple(
            Unit.initialise(16 * i, o, self.activation, self.gated, key=next(keys), fan=(4 * i, 16 * o))
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        outputs = parameters * channels
        output = Linear.initialise(16 * last, outputs, key=next(keys), fan=(4 * last, 16 * outputs))
        return ImageDecoder(hidden, convolutions, output, (h, w), (parameters, height, width, channels))
