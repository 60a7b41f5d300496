"""Multilayer perceptrons, the linear map among them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, PositiveInt, model_validator

from tightbound.networks.layers import Activation, Linear, Unit
from tightbound.spec import Spec

__all__ = ["MLP", "Perceptron", "gated_has_no_activation"]


def gated_has_no_activation(gated: bool, activation: str) -> None:
    """Raise ValueError when a spec asks for gated units and names an activation that they would not use."""
    if gated and activation != "relu":
        raise ValueError(f"gated units take the place of the activation '{activation}': leave one of the two out")


class Perceptron(eqx.Module):
    """A multilayer perceptron on one example of any shape: flatten, hidden units, affine map, reshape."""

    hidden: tuple[Unit, ...]
    output: Linear
    out_shape: tuple[int, ...] = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the network's output for one example, of shape ``out_shape``."""
        h = x.reshape(-1)
        for unit in self.hidden:
            response = unit(h)
            h = h + response if self.residual and response.shape == h.shape else response
        return self.output(h).reshape(self.out_shape)


class MLP(Spec):
    """A multilayer perceptron: h ← a(h W + b) for every entry of ``hidden``, then an affine map.

    ``gated`` uses h ← (h W₁ + b₁) · sigmoid(h W₂ + b₂) instead; ``residual`` adds h wherever a layer keeps the width.
    ``hidden=()`` is the affine map alone, with which a Gaussian model is probabilistic PCA or factor analysis.

    >>> import jax
    >>> network = MLP(hidden=(300, 300)).build((28, 28, 1), (20,), key=jax.random.key(0))
    >>> network(jax.numpy.zeros((28, 28, 1))).shape
    (20,)
    """

    references: ClassVar[tuple[str, ...]] = ()
    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = Field(default=(300, 300))
    activation: Activation = "relu"
    gated: bool = False
    residual: bool = False

    @model_validator(mode="after")
    def _one_nonlinearity(self) -> Self:
        gated_has_no_activation(self.gated, self.activation)
        return self

    def build(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: PRNGKeyArray) -> Perceptron:
        """Return a network with random weights that maps one example of ``in_shape`` to ``out_shape``."""
        widths = (math.prod(in_shape), *self.hidden)
        *keys, last = jax.random.split(key, len(widths))
        units = tuple(
            Unit.initialise(inputs, outputs, self.activation, self.gated, key=k)
            for inputs, outputs, k in zip(widths[:-1], widths[1:], keys, strict=True)
        )
        return Perceptron(units, Linear.initialise(widths[-1], math.prod(out_shape), key=last), out_shape, self.residual)
