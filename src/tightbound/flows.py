"""Invertible maps of z with trained weights, of which flow posteriors and flow priors are made."""

from __future__ import annotations

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tightbound.networks.mlp import MLP, Perceptron

__all__ = ["Coupling", "CouplingFlow"]

STEEPEST = 2.0  # |log scale| of a layer, at most: products of layers stay finite
START = 0.01  # of their usual size, for the last weights of each layer: the map starts near the identity


class Coupling(eqx.Module):
    """y_d = e_d exp(s_d) + t_d for one half of the entries, with s and t from a network of the other half, which stays.

    The network also reads ``context``. Both directions cost the same (Dinh et al. 2017).
    """

    network: Perceptron
    number: int = eqx.field(static=True)

    def moved(self, latent: int) -> Bool[np.ndarray, "L"]:
        """Return which entries are moved: of two layers each moves one half, and every pair has halves of its own.

        They are drawn by a generator whose numbers never change, and so need not be stored.
        """
        order = np.random.RandomState(self.number // 2).permutation(latent)
        return np.isin(np.arange(latent), order[latent // 2 :] if self.number % 2 == 0 else order[: (latent + 1) // 2])

    def steps(self, entries: Float[Array, "L"], context: Float[Array, "C"]) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
        """Return s and t, 0 for the entries that stay; those that are moved have no influence on them."""
        moved = self.moved(len(entries))
        raw, shift = jnp.split(self.network(jnp.concatenate([jnp.where(moved, 0.0, entries), context])), 2)
        return jnp.where(moved, STEEPEST * jnp.tanh(raw / STEEPEST), 0.0), jnp.where(moved, shift, 0.0)


class CouplingFlow(eqx.Module):
    """z = T(e; context), an invertible map of L numbers made of coupling layers."""

    layers: tuple[Coupling, ...]

    @classmethod
    def initialise(cls, latent: int, context: int, layers: int, width: int, *, key: PRNGKeyArray) -> Self:
        """Return a map near the identity; the network of each layer has one hidden layer of ``width`` units."""
        # Smooth and bounded units: wherever its weights go, the map and its gradient stay finite.
        spec = MLP(hidden=(width,), activation="tanh")
        networks = [spec.build((latent + context,), (2 * latent,), key=k) for k in jax.random.split(key, layers)]
        started = [eqx.tree_at(lambda net: net.output.weight, net, replace_fn=lambda w: START * w) for net in networks]
        return cls(tuple(Coupling(network, number) for number, network in enumerate(started)))

    def forward(self, e: Float[Array, "L"], context: Float[Array, "C"]) -> Float[Array, "L"]:
        """Return z = T(e; context)."""
        for layer in self.layers:
            log_scale, shift = layer.steps(e, context)
            e = e * jnp.exp(log_scale) + shift
        return e

    def inverse(self, z: Float[Array, "L"], context: Float[Array, "C"]) -> tuple[Float[Array, "L"], Float[Array, ""]]:
        """Return e with z = T(e; context), and log |det ∂e/∂z|."""
        log_determinant = jnp.float32(0.0)
        for layer in reversed(self.layers):
            log_scale, shift = layer.steps(z, context)
            z = (z - shift) * jnp.exp(-log_scale)
            log_determinant -= jnp.sum(log_scale)
        return z, log_determinant
