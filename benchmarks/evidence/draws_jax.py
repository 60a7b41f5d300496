"""Importance sampling on JAX: ``python draws_jax.py KIND PROBLEM DRAWS``; a step of a burst is an image.

``tightbound`` is the package. The others are written out for these networks: the encoder on all images at once, then
``image``, a ``lax.map`` over images with all draws of one in one product; ``block``, the same with eight images side by side;
``chunk``, a scan over chunks of 100 draws of sixteen images side by side, joined by log-sum-exp. ``memory`` does not race:
it evaluates the rows once and prints the peak of the process's memory before and after.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from contestant_jax import Layers, apply, perceptron
from problems import Problem, Track

CHUNK = 100


def package(problem: Problem, draws: int) -> Callable[[], int]:
    import tightbound as tb
    from tightbound.evidence.importance import importance

    data = tb.load(problem.data(), kind="binary")
    encoder, decoder = tb.MLP(hidden=problem.hidden), tb.MLP(hidden=problem.hidden[::-1])
    spec = tb.VAE(
        sites=data.sites, latent=problem.latent, encoder=encoder, decoder=decoder, likelihood=tb.Bernoulli()
    )  # fmt: skip
    model = spec.build(jax.random.key(0), data.statistics())
    seed = 0

    def steps() -> int:
        nonlocal seed
        seed += 1
        importance(model, data, draws=draws, seed=seed)
        return problem.rows

    return steps


def log_mean_weight(
    decoder: Layers, draws: int, x: jax.Array, loc: jax.Array, scale: jax.Array, key: jax.Array
) -> jax.Array:  # fmt: skip
    """Return log (1/k) Σ w of one image; the constants of prior and posterior cancel."""
    noise = jax.random.normal(key, (draws, len(loc)))
    z = loc + scale * noise
    logits = apply(decoder, z)
    sites = x * logits - jax.nn.softplus(logits)
    ratio = 0.5 * (noise**2 - z**2) + jnp.log(scale)
    return jax.nn.logsumexp(jnp.sum(sites, axis=1) + jnp.sum(ratio, axis=1)) - jnp.log(draws)


def by_image(decoder: Layers, draws: int, side_by_side: int, *arrays: jax.Array) -> jax.Array:
    one = partial(log_mean_weight, decoder, draws)
    return jax.lax.map(lambda row: one(*row), arrays, batch_size=None if side_by_side == 1 else side_by_side)


def by_chunk(decoder: Layers, draws: int, side_by_side: int, *arrays: jax.Array) -> jax.Array:
    def one(row: tuple[jax.Array, ...]) -> jax.Array:
        x, loc, scale, key = row

        def chunk(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return jnp.logaddexp(total, log_mean_weight(decoder, CHUNK, x, loc, scale, key)), None

        total, _ = jax.lax.scan(chunk, -jnp.inf, jax.random.split(key, draws // CHUNK))
        return total - jnp.log(draws // CHUNK)

    return jax.lax.map(one, arrays, batch_size=side_by_side)


def written_out(over: Callable[..., jax.Array], problem: Problem, draws: int) -> Callable[[], int]:
    keys = jax.random.split(jax.random.key(0))
    encoder, decoder = perceptron(keys[0], problem.encoder), perceptron(keys[1], problem.decoder)
    rows, key = jnp.asarray(problem.data()), jax.random.key(1)

    @jax.jit
    def evaluate(encoder: Layers, decoder: Layers, x: jax.Array, key: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        loc, log_variance = jnp.split(apply(encoder, x), 2, axis=1)
        return over(decoder, draws, x, loc, jnp.exp(0.5 * log_variance), jax.random.split(key, len(x)))

    def steps() -> int:
        nonlocal key
        key, now = jax.random.split(key)
        evaluate(encoder, decoder, rows, now).block_until_ready()
        return problem.rows

    return steps


def memory(problem: Problem, draws: int) -> None:
    """Print the peak of this process in MiB with everything but the evaluation done, and at the end."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    evaluate = package(problem, draws)
    before = peak()
    evaluate()
    print(json.dumps({"before": before, "after": peak()}))


KINDS: dict[str, Callable[[Problem, int], Any]] = {
    "tightbound": package,
    "image": partial(written_out, lambda decoder, draws, *arrays: by_image(decoder, draws, 1, *arrays)),
    "block": partial(written_out, lambda decoder, draws, *arrays: by_image(decoder, draws, 8, *arrays)),
    "chunk": partial(written_out, lambda decoder, draws, *arrays: by_chunk(decoder, draws, 16, *arrays)),
}


def main() -> None:
    kind, problem, draws = sys.argv[1], Problem.read(sys.argv[2]), int(sys.argv[3])
    if kind == "memory":
        memory(problem, draws)
    else:
        track = Track()
        track.serve(KINDS[kind](problem, draws))


if __name__ == "__main__":
    main()
