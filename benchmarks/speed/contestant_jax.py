"""Contestants that run on JAX: ``python contestant_jax.py KIND PROBLEM``.

``tightbound`` is the package with its default plan; ``jax`` a loop written out with optax, an epoch in one scan;
``jax-rbg`` the same with the other random generator; ``numpyro`` its SVI, an epoch in one loop; ``floor`` nothing but the
matrix products of a step: forward, with respect to the weights, and with respect to the activations.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from problems import Problem, Track

Layers = list[tuple[jax.Array, jax.Array]]
LOG_TWO_PI = 1.8378770664093453


def tightbound(problem: Problem) -> Callable[[], int]:
    import tightbound as tb

    data = tb.load(problem.data(), kind="binary" if problem.binary else "real")
    spec = tb.VAE(
        sites=data.sites,
        latent=problem.latent,
        encoder=tb.MLP(hidden=problem.hidden),
        decoder=tb.MLP(hidden=problem.hidden[::-1]),
        likelihood=tb.Bernoulli() if problem.binary else tb.Gaussian(),
    )
    return training(spec, data, problem.batch)


def training(spec: Any, data: Any, batch: int) -> Callable[[], int]:
    """Return a function that makes tightbound's next compiled call and says how many steps it took."""
    import tightbound as tb

    model = spec.build(jax.random.key(0), data.statistics())
    run = tb.train(model, tb.ELBO(), data, tb.Plan(epochs=100_000, batch_size=batch))
    done = 0

    def steps() -> int:
        nonlocal done
        before, done = done, next(run).step
        return done - before

    for _ in range(6):  # the first call compiles, and calls grow from one step until they take long enough
        steps()
    return steps


def perceptron(key: jax.Array, sizes: list[int]) -> Layers:
    keys = jax.random.split(key, len(sizes) - 1)
    limits = [(6.0 / (i + o)) ** 0.5 for i, o in itertools.pairwise(sizes)]
    return [
        (jax.random.uniform(k, (i, o), minval=-limit, maxval=limit), jnp.zeros(o))
        for k, i, o, limit in zip(keys, sizes[:-1], sizes[1:], limits, strict=True)
    ]


def apply(layers: Layers, h: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        h = jax.nn.relu(h @ weight + bias)
    weight, bias = layers[-1]
    return h @ weight + bias


def written_out(problem: Problem, generator: str) -> Callable[[], int]:
    """A batched loss, optax.adam, the epoch's order drawn on the device, an epoch in one scan, buffers donated."""
    encoder, decoder = jax.random.split(jax.random.key(0))
    parameters: dict[str, Any] = {
        "encoder": perceptron(encoder, problem.encoder),
        "decoder": perceptron(decoder, problem.decoder),
    }
    if not problem.binary:
        parameters["log_scale"] = jnp.zeros(())
    rows = jnp.asarray(problem.data())
    optimiser = optax.adam(1e-3)
    per_epoch = problem.rows // problem.batch

    def loss(parameters: dict[str, Any], x: jax.Array, key: jax.Array) -> jax.Array:
        loc, log_variance = jnp.split(apply(parameters["encoder"], x), 2, axis=-1)
        z = loc + jnp.exp(0.5 * log_variance) * jax.random.normal(key, loc.shape)
        output = apply(parameters["decoder"], z)
        if problem.binary:
            site = optax.sigmoid_binary_cross_entropy(output, x)
        else:
            log_scale = parameters["log_scale"]
            site = 0.5 * ((x - output) * jnp.exp(-log_scale)) ** 2 + log_scale + 0.5 * LOG_TWO_PI
        kl = 0.5 * (jnp.exp(log_variance) + loc**2 - 1.0 - log_variance)
        return jnp.mean(jnp.sum(site, axis=-1) + jnp.sum(kl, axis=-1))

    def step(carry: tuple[Any, Any], inputs: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], jax.Array]:
        (parameters, state), (index, key) = carry, inputs
        value, gradient = jax.value_and_grad(loss)(parameters, rows[index].astype(jnp.float32), key)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), value

    @partial(jax.jit, donate_argnums=0)
    def epoch(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, problem.rows)[: per_epoch * problem.batch]
        return jax.lax.scan(step, carry, (order.reshape(per_epoch, -1), jax.random.split(noise_key, per_epoch)))

    carry, key = (parameters, optimiser.init(parameters)), jax.random.key(1, impl=generator)

    def steps() -> int:
        nonlocal carry, key
        key, now = jax.random.split(key)
        carry, values = epoch(carry, now)
        values.block_until_ready()
        return per_epoch

    return steps


def numpyro(problem: Problem) -> Callable[[], int]:
    import numpyro
    import numpyro.distributions as dist

    keys = jax.random.split(jax.random.key(0))
    start = {
        "encoder": perceptron(keys[0], problem.encoder),
        "decoder": perceptron(keys[1], problem.decoder),
    }
    rows = jnp.asarray(problem.data())
    per_epoch = problem.rows // problem.batch

    def model(x: jax.Array) -> None:
        decoder = numpyro.param("decoder", start["decoder"])
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([problem.latent]).to_event(1))
            output = apply(decoder, z)
            numpyro.sample("x", dist.BernoulliLogits(output).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = numpyro.param("encoder", start["encoder"])
        loc, log_variance = jnp.split(apply(encoder, x), 2, axis=-1)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), numpyro.infer.TraceMeanField_ELBO())
    numpyro.enable_validation(False)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        order = jax.random.permutation(key, problem.rows)[: per_epoch * problem.batch].reshape(per_epoch, -1)

        def step(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, total = carry
            state, value = svi.update(state, rows[order[i]].astype(jnp.float32))
            return state, total + value

        return jax.lax.fori_loop(0, per_epoch, step, (state, jnp.zeros(())))

    state, key = svi.init(jax.random.key(1), rows[: problem.batch].astype(jnp.float32)), jax.random.key(2)

    def steps() -> int:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, total = epoch(state, now)
        total.block_until_ready()
        return per_epoch

    return steps


def floor(problem: Problem) -> Callable[[], int]:
    """The products of one step in their order, without anything between them.

    The output stands in for its own gradient. One entry of the first layer's input changes in every turn, so that no
    product can be left out of the loop, and one entry of every product is used, so that none can be left out at all.
    """
    sizes = [*zip(problem.encoder[:-1], problem.encoder[1:], strict=True)]
    sizes += [*zip(problem.decoder[:-1], problem.decoder[1:], strict=True)]
    keys = jax.random.split(jax.random.key(0), len(sizes) + 1)
    weights = [jax.random.normal(k, size) / size[0] ** 0.5 for k, size in zip(keys[1:], sizes, strict=True)]
    x = jax.random.normal(keys[0], (problem.batch, problem.sites))
    turns = 200

    def products(x: jax.Array) -> list[jax.Array]:
        inputs = []
        for weight in weights:
            # Half of the encoder's output goes on as the latents; the other half is what their noise is scaled by.
            x = x[:, : weight.shape[0]]
            inputs.append(x)
            x = jax.lax.optimization_barrier(x @ weight)
        made, gradient = [], x
        for i in reversed(range(len(weights))):
            made.append(jax.lax.optimization_barrier(inputs[i].T @ gradient))
            if i:
                gradient = jax.lax.optimization_barrier(gradient @ weights[i].T)
                gradient = jnp.concatenate([gradient, gradient], 1) if sizes[i - 1][1] > sizes[i][0] else gradient
        return made

    def turn(_: jax.Array, x: jax.Array) -> jax.Array:
        used = sum(product[0, 0] for product in products(x))
        return x.at[0, 0].set(1e-6 * used)

    run = jax.jit(lambda x: jax.lax.fori_loop(0, turns, turn, x))

    def steps() -> int:
        run(x).block_until_ready()
        return turns

    return steps


KINDS: dict[str, Callable[[Problem], Callable[[], int]]] = {
    "tightbound": tightbound,
    "jax": partial(written_out, generator="threefry2x32"),
    "jax-rbg": partial(written_out, generator="rbg"),
    "numpyro": numpyro,
    "floor": floor,
}


def main() -> None:
    track = Track()
    track.serve(KINDS[sys.argv[1]](Problem.read(sys.argv[2])))


if __name__ == "__main__":
    main()
