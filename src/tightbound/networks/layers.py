"""Layers that the networks share: an affine map of the last axis, and an affine map with its nonlinearity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["ACTIVATIONS", "Activation", "Linear", "Unit"]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
# Activations that are close to zero on half the line keep the variance of their input with twice the weight variance.
_HALVING = ("relu", "leaky_relu", "elu", "gelu", "silu")


class Linear(eqx.Module):
    """The affine map y = x W + b of the last axis: (…, in) → (…, out), with W of shape (in, out).

    Weights start from a uniform distribution: He et al. (2015) with ``halving`` activations behind the layer,
    Glorot and Bengio (2010) otherwise; biases start at zero. ``fan`` is (inputs of one output, outputs of one input)
    where that differs from the shape of W, as in a convolution.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, "outputs"]

    @classmethod
    def initialise(
        cls, inputs: int, outputs: int, *, key: PRNGKeyArray, halving: bool = False, fan: tuple[float, float] | None = None
    ) -> Self:
        """Return a layer with random weights and zero biases."""
        fan_in, fan_out = fan or (inputs, outputs)
        variance = 2.0 / fan_in if halving else 2.0 / (fan_in + fan_out)
        limit = (3.0 * variance) ** 0.5
        return cls(jax.random.uniform(key, (inputs, outputs), minval=-limit, maxval=limit), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """Return x W + b."""
        return x @ self.weight + self.bias


class Unit(eqx.Module):
    """An affine map of the last axis and its nonlinearity, (…, in) → (…, out).

    y = a(x W + b) with activation a or, when ``gated``, y = (x W₁ + b₁) · sigmoid(x W₂ + b₂) (Dauphin et al. 2017),
    whose two halves are one product with a matrix of shape (in, 2 · out).
    """

    linear: Linear
    activation: str = eqx.field(static=True)
    gated: bool = eqx.field(static=True)

    @classmethod
    def initialise(
        cls,
        inputs: int,
        outputs: int,
        activation: str,
        gated: bool,
        *,
        key: PRNGKeyArray,
        fan: tuple[float, float] | None = None,
    ) -> Self:
        """Return a unit with random weights suited to its nonlinearity and zero biases."""
        halving = not gated and activation in _HALVING
        width = 2 * outputs if gated else outputs
        linear = Linear.initialise(inputs, width, key=key, halving=halving, fan=fan or (inputs, outputs))
        return cls(linear, activation, gated)

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """Return the unit's output."""
        return self.respond(self.linear(x))

    def respond(self, y: Float[Array, "... width"]) -> Float[Array, "... outputs"]:
        """Apply the nonlinearity alone, to what the affine map returned."""
        if self.gated:
            value, gate = jnp.split(y, 2, axis=-1)
            return value * jax.nn.sigmoid(gate)
        return ACTIVATIONS[self.activation](y)
