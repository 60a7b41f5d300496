"""Adam with one division per weight, where optax has two: division is what its update waits for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

__all__ = ["scale_by_adam"]

EPSILON = 1e-8


def scale_by_adam(beta1: Float[Array, ""], beta2: Float[Array, ""]) -> optax.GradientTransformation:
    r"""Return Adam's direction m̂ / (√v̂ + ε) with optax's state, equal to optax's to rounding (Kingma & Ba 2015).

    The bias corrections m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ) are one number each for all weights, so that their
    reciprocals are taken once a step and every weight is left with a product.
    """
    library = optax.scale_by_adam(beta1, beta2)

    def update(gradient: optax.Updates, state: optax.OptState, _: optax.Params | None = None) -> tuple[Any, optax.OptState]:
        assert isinstance(state, optax.ScaleByAdamState)
        mean = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, state.mu, gradient)
        square = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * jnp.square(g), state.nu, gradient)
        count = state.count + 1
        of_mean = 1.0 / (1.0 - beta1**count)
        of_root = jax.lax.rsqrt(1.0 - beta2**count)
        direction = jax.tree.map(lambda m, v: of_mean * (m / (of_root * jnp.sqrt(v) + EPSILON)), mean, square)
        return direction, optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(library.init, update)
