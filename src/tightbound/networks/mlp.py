"""Multilayer perceptrons, the affine map among them."""

from __future__ import annotations

import math
from typing import Literal, Self

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import PositiveInt, model_validator

from tightbound.networks.layers import Activation, Linear, Nonlinearity, Unit
from tightbound.spec import Spec

__all__ = ["MLP", "Perceptron"]


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

    ``gated`` uses h ← (h W₁ + b₁) · sigmoid(h W₂ + b₂) instead (Dauphin et al. 2017); ``residual`` adds h wherever a layer
    keeps the width. ``hidden=()`` is the affine map alone, with which a Gaussian model is probabilistic PCA.

    >>> import jax
    >>> network = MLP(hidden=(300, 300)).build((28, 28, 1), (20,), key=jax.random.key(0))
    >>> network(jax.numpy.zeros((28, 28, 1))).shape
    (20,)
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (300, 300)
    activation: Activation = "relu"
    gated: bool = False
    residual: bool = False

    @model_validator(mode="after")
    def _one_nonlinearity(self) -> Self:
        self._nonlinearity.check("MLP")
        return self

    @property
    def _nonlinearity(self) -> Nonlinearity:
        return Nonlinearity(self.activation, self.gated)

    def build(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, key: PRNGKeyArray) -> Perceptron:
        """Return a network with random weights that maps one example of ``in_shape`` to ``out_shape``."""
        widths = (math.prod(in_shape), *self.hidden)
        *keys, last = jax.random.split(key, len(widths))
        units = tuple(
            Unit.initialise(inputs, outputs, self._nonlinearity, key=k)
            for inputs, outputs, k in zip(widths[:-1], widths[1:], keys, strict=True)
        )
        output = Linear.initialise(widths[-1], math.prod(out_shape), key=last)
        return Perceptron(units, output, tuple(out_shape), self.residual)
