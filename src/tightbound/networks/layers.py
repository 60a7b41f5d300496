"""What the layers of all networks share: initial weights, nonlinearities, and an affine map of the last axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tightbound.errors import SpecError

__all__ = ["ACTIVATIONS", "Activation", "Linear", "Nonlinearity", "Unit", "initial_weights"]

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
# Activations of slope about one half at zero keep the variance of their input with twice the variance of the weights.
HALVING = {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus"}


class Nonlinearity(NamedTuple):
    """What follows an affine map: an activation or, when ``gated``, (value, gate) ↦ value · sigmoid(gate).

    The value and the gate of a gated unit (Dauphin et al. 2017) are the two halves of one affine map's output.
    """

    activation: str
    gated: bool = False

    def check(self, what: str) -> None:
        """Raise :class:`SpecError` when gated units come with an activation that they would not use."""
        if self.gated and self.activation != "relu":
            problem = f"gated units take the place of '{self.activation}': leave out one of activation and gated"
            raise SpecError(what, (("activation", problem),))

    def width(self, outputs: int) -> int:
        """Return how many outputs the affine map needs."""
        return 2 * outputs if self.gated else outputs

    @property
    def halving(self) -> bool:
        """Whether initial weights should be those of He et al. (2015)."""
        return not self.gated and self.activation in HALVING

    def __call__(self, y: Float[Array, "... width"]) -> Float[Array, "... outputs"]:
        """Apply the nonlinearity along the last axis."""
        if self.gated:
            value, gate = jnp.split(y, 2, axis=-1)
            return value * jax.nn.sigmoid(gate)
        return ACTIVATIONS[self.activation](y)


def initial_weights(
    key: PRNGKeyArray, shape: tuple[int, int], fan: tuple[int, int], halving: bool = False
) -> Float[Array, "rows columns"]:
    """Draw weights from a uniform distribution of variance 2/(fan in + fan out), or 2/(fan in) with ``halving``.

    The fan is (inputs of one output, outputs of one input); the first variance is that of Glorot and Bengio (2010), the
    second that of He et al. (2015).
    """
    variance = 2.0 / fan[0] if halving else 2.0 / sum(fan)
    limit = (3.0 * variance) ** 0.5
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class Linear(eqx.Module):
    """The affine map y = x W + b of the last axis: (…, in) → (…, out), with W of shape (in, out)."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, "outputs"]

    @classmethod
    def initialise(cls, inputs: int, outputs: int, *, key: PRNGKeyArray) -> Self:
        """Return a layer with random weights and zero biases."""
        return cls(initial_weights(key, (inputs, outputs), (inputs, outputs)), jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """Return x W + b."""
        return x @ self.weight + self.bias


class Unit(eqx.Module):
    """An affine map of the last axis with its nonlinearity, (…, in) → (…, out)."""

    linear: Linear
    nonlinearity: Nonlinearity = eqx.field(static=True)

    @classmethod
    def initialise(cls, inputs: int, outputs: int, nonlinearity: Nonlinearity, *, key: PRNGKeyArray) -> Self:
        """Return a unit with random weights suited to its nonlinearity and zero biases."""
        width = nonlinearity.width(outputs)
        weight = initial_weights(key, (inputs, width), (inputs, outputs), nonlinearity.halving)
        return cls(Linear(weight, jnp.zeros(width)), nonlinearity)

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """Return the nonlinearity of the affine map of x."""
        return self.nonlinearity(self.linear(x))
