"""Convolutional contestants that run on JAX: ``python contestant_images_jax.py KIND PROBLEM``.

``tightbound`` is the package with its default plan; ``xla`` a loop written out with optax for the same networks made of XLA's
own convolutions, one compiled call per step, which is the faster way to run those on a processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import contestant_jax
import jax
import jax.numpy as jnp
import optax
from images import ImageProblem
from jax import lax
from problems import Track

import tightbound as tb

LAYOUT = ("NHWC", "HWIO", "NHWC")


def tightbound(problem: ImageProblem) -> Callable[[], int]:
    data = tb.load(problem.data())
    network = tb.Convolutional(channels=problem.channels)
    spec = tb.VAE(sites=data.sites, latent=problem.latent, encoder=network, decoder=network, likelihood=tb.Bernoulli())
    return contestant_jax.training(spec, data, problem.batch)


def xla(problem: ImageProblem) -> tuple[Any, Any]:
    """Return the same for convolutions as XLA compiles them."""
    sizes = (problem.shape[2], *problem.channels)
    pairs = list(pairwise(sizes))
    features = problem.grid[0] * problem.grid[1] * sizes[-1]
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(pairs) + 2))

    def weights(*shape: int) -> jax.Array:
        return 0.05 * jax.random.normal(next(keys), shape)

    parameters = {
        "down": [(weights(4, 4, outer, inner), jnp.zeros(inner)) for outer, inner in pairs],
        "encoded": (weights(features, 2 * problem.latent), jnp.zeros(2 * problem.latent)),
        "decoded": (weights(problem.latent, features), jnp.zeros(features)),
        "up": [(weights(4, 4, inner, outer), jnp.zeros(outer)) for outer, inner in reversed(pairs)],
    }

    def apply(parameters: Any, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, ...]:
        for kernel, bias in parameters["down"]:
            y = lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)
            x = jax.nn.relu(y + bias)
        weight, bias = parameters["encoded"]
        mean, raw = jnp.split(x.reshape(len(x), -1) @ weight + bias, 2, axis=1)
        weight, bias = parameters["decoded"]
        y = (mean + jax.nn.softplus(raw) * noise) @ weight + bias
        y = y.reshape(len(x), *problem.grid, -1)
        for kernel, bias in parameters["up"]:
            y = lax.conv_transpose(jax.nn.relu(y), kernel, (2, 2), "SAME", dimension_numbers=LAYOUT) + bias
        return y, mean, raw

    return parameters, apply


def training(problem: ImageProblem, parameters: Any, apply: Any) -> Callable[[], int]:
    rows = jnp.asarray(problem.data())
    optimiser = optax.adam(1e-3)

    def loss(parameters: Any, x: jax.Array, noise: jax.Array) -> jax.Array:
        logits, mean, raw = apply(parameters, x, noise)
        scale = jax.nn.softplus(raw)
        kl = 0.5 * (mean**2 + scale**2 - 1.0) - jnp.log(scale)
        return (jnp.sum(jax.nn.softplus(logits) - x * logits) + jnp.sum(kl)) / len(x)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        parameters, state = carry
        index = jax.random.randint(key, (problem.batch,), 0, problem.rows)
        noise = jax.random.normal(key, (problem.batch, problem.latent))
        value, gradient = jax.value_and_grad(loss)(parameters, rows[index].astype(jnp.float32), noise)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), value

    advance = jax.jit(step, donate_argnums=0)
    carry, key = (parameters, optimiser.init(parameters)), jax.random.key(2)

    def steps() -> int:
        nonlocal carry, key
        key, now = jax.random.split(key)
        carry, value = advance(carry, now)
        value.block_until_ready()
        return 1

    return steps


def main() -> None:
    track = Track()
    kind, problem = sys.argv[1], ImageProblem.read(sys.argv[2])
    track.serve(tightbound(problem) if kind == "tightbound" else training(problem, *xla(problem)))


if __name__ == "__main__":
    main()
