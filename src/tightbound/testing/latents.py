"""The contracts of posteriors and priors, distributions over one z."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from tightbound.distributions import diagonal_gaussian, kl, training_log_prob
from tightbound.errors import SpecError
from tightbound.model import VAE, default_likelihood, merge, trainable
from tightbound.networks import MLP
from tightbound.posteriors import DiagonalGaussian, PosteriorSpec
from tightbound.priors import Encoder, PriorSpec
from tightbound.schema import Sites
from tightbound.testing.comparisons import (
    Grid,
    at_extremes,
    check_alive,
    check_finite,
    check_fit,
    check_mean,
    check_shapes,
    check_slopes,
    draw,
    label,
    moved,
    require,
    slopes,
)
from tightbound.testing.examples import example_statistics

__all__ = ["check_posterior", "check_prior"]


def check_posterior(spec: PosteriorSpec, *, latent: int = 2, extreme: float = 1e4, seed: int = 0) -> None:
    """Raise AssertionError unless q(z|x) keeps the contract of a posterior.

    At random parameters h of the head, with ``latent`` 1 or 2 so that quadrature is exact:

    - one draw has shape (L,) and one log-density shape ();
    - exp(log_prob) integrates to 1, and the draws fit it (chi-square);
    - draws are reparameterised: the pathwise gradient of an expectation is that of the integral, for every entry of h;
    - every trained array of the head gets a gradient, and the gradient of log_prob is its derivative;
    - the closed-form KL to N(0, I), where there is one, is the integral of q (log q − log p), and not negative;
    - parameters of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison. Raises :class:`SpecError` when ``latent`` is neither 1 nor 2.
    """
    _one_or_two(latent, "check_posterior")
    part_key, h_key, draw_key, path_key = jax.random.split(jax.random.key(seed), 4)
    head, name = spec.build(latent, key=part_key), label(spec)
    h = 0.7 * jax.random.normal(h_key, (head.parameters,))
    check_shapes(name, head, h, (latent,), ())
    draws = np.asarray(eqx.filter_jit(draw)(head, h, draw_key))
    grid = Grid.around(draws)
    report = _examine_posterior(head, h, grid, draws[:4096], path_key, extreme)
    check_fit(name, grid, np.exp(report["log_q"]), draws)
    check_mean(f"{name}: pathwise gradient", report["pathwise"], report["integral"])
    check_alive(name, report["gradient"])
    check_slopes(name, report["slopes"])
    check_finite(f"{name} at parameters of ±{extreme:g}", report["extreme"])
    if "kl" in report:
        log_p = -0.5 * np.sum(grid.points**2, axis=1) - latent * 0.5 * np.log(2 * np.pi)
        truth = grid.integral(np.exp(report["log_q"]) * (report["log_q"] - log_p))
        require(
            np.isclose(report["kl"], truth, rtol=1e-3, atol=1e-3) and report["kl"] >= -1e-6,
            f"{name}: the closed-form KL to N(0, I) is {report['kl']:.5f}, the integral of q (log q − log p) is {truth:.5f}",
        )


def check_prior(
    spec: PriorSpec,
    *,
    latent: int = 2,
    posterior: PosteriorSpec | None = None,
    sites: Sites | None = None,
    extreme: float = 1e4,
    seed: int = 0,
) -> None:
    """Raise AssertionError unless p(z) keeps the contract of a prior.

    In a small model over ``sites`` with the given posterior, its trained arrays moved at random, with ``latent`` 1 or 2:

    - one draw has shape (L,) and one log-density shape ();
    - exp(log_prob) integrates to 1, and the draws fit it (chi-square);
    - the form that training uses has the value and the gradients of log_prob;
    - every trained array of the prior gets a gradient, and the gradient of log_prob is its derivative, also in the
      arrays of an encoder that is borrowed;
    - trained arrays of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison. Raises :class:`SpecError` when ``latent`` is neither 1 nor 2.
    """
    _one_or_two(latent, "check_prior")
    sites = sites or Sites(kind="real", shape=(3,))
    likelihood: Any = default_likelihood(sites.kind)
    vae = VAE(
        sites=sites,
        latent=latent,
        encoder=MLP(hidden=(5,), activation="tanh"),  # smooth: a kink would spoil measured slopes
        decoder=MLP(hidden=()),
        posterior=posterior or DiagonalGaussian(),
        prior=spec,
        likelihood=likelihood,
    )
    name = label(spec)
    build_key, move_key, draw_key = jax.random.split(jax.random.key(seed), 3)
    model = vae.build(build_key, example_statistics(sites))
    encoder = Encoder(model.encoder, model.posterior_head)
    head = moved(model.prior_head, move_key)
    check_shapes(name, head, encoder, (latent,), ())
    draws = np.asarray(eqx.filter_jit(draw)(head, encoder, draw_key))
    grid = Grid.around(draws)
    report = _examine_prior(head, encoder, grid, draws[:64], extreme)
    check_fit(name, grid, np.exp(report["log_p"]), draws)
    for exact, fast in zip(*(jax.tree.leaves(report[form]) for form in ("exact", "fast")), strict=True):
        size = np.max(np.abs(exact), initial=1.0)
        require(
            np.allclose(exact, fast, rtol=0, atol=2e-4 * size),
            f"{name}: training_log_prob differs from log_prob, in value or gradient, by {np.max(np.abs(exact - fast)):.3g}",
        )
    check_alive(name, report["gradient"])
    check_slopes(name, report["slopes"])
    check_finite(f"{name} with trained arrays of ±{extreme:g}", report["extreme"])


def _one_or_two(latent: int, what: str) -> None:
    if latent not in (1, 2):
        raise SpecError(what, (("latent", f"expected 1 or 2, where quadrature is exact, got {latent}"),))


@eqx.filter_jit
def _examine_posterior(head: Any, h: Array, grid: Grid, draws: ArrayLike, key: Array, extreme: float) -> dict[str, Any]:
    points, weights = jnp.asarray(grid.points, jnp.float32), jnp.asarray(grid.weights, jnp.float32)
    direction = jnp.arange(1.0, points.shape[1] + 1)

    def observable(z: Array) -> Array:
        return jnp.sin(z @ direction + 0.5)

    def integral(h: Array) -> Array:
        density = jnp.exp(jax.vmap(lambda z: head(h).log_prob(z))(points))
        return jnp.sum(weights * density * observable(points))

    def scored(h: Array) -> tuple[Array, Array]:
        z = jax.lax.stop_gradient(head(h).sample(key))
        return jax.value_and_grad(lambda h: head(h).log_prob(z))(h)

    trained, rest = trainable(head)

    def mean_log_density(both: tuple[Any, Array]) -> Array:
        part, h = both
        return jnp.mean(jax.vmap(merge(part, rest)(h).log_prob)(draws))

    standard = diagonal_gaussian(jnp.zeros(points.shape[1]), jnp.ones(points.shape[1]))
    divergence = kl(head(h), standard)
    report = {
        "log_q": jax.vmap(head(h).log_prob)(points),
        "integral": jax.grad(integral)(h),
        "pathwise": jax.vmap(lambda k: jax.grad(lambda h: observable(head(h).sample(k)))(h))(jax.random.split(key, 8192)),
        "gradient": jax.grad(mean_log_density)((trained, h))[0],
        "slopes": slopes(mean_log_density, (trained, h), key),
        "extreme": at_extremes(scored, h, extreme),
    }
    return report if divergence is None else {**report, "kl": jnp.sum(divergence)}


@eqx.filter_jit
def _examine_prior(head: Any, encoder: Encoder, grid: Grid, draws: ArrayLike, extreme: float) -> dict[str, Any]:
    trained, rest = trainable(head)
    borrowed, kept = trainable(encoder)

    def mean_log_density(both: tuple[Any, Any]) -> Array:
        prior = merge(both[0], rest)(merge(both[1], kept))
        return jnp.mean(jax.vmap(prior.log_prob)(draws))

    def total(form: Callable[..., Array], part: Any, z: Array) -> Array:
        prior = merge(part, rest)(encoder)
        return jnp.sum(jax.vmap(partial(form, prior))(z))

    def exact(prior: Any, z: Array) -> Array:
        return prior.log_prob(z)

    def with_gradients(form: Callable[..., Array], part: Any = trained) -> Any:
        return jax.value_and_grad(partial(total, form), argnums=(0, 1))(part, draws)

    found = with_gradients(exact)
    return {
        "log_p": jax.vmap(head(encoder).log_prob)(jnp.asarray(grid.points, jnp.float32)),
        "exact": found,
        "fast": with_gradients(training_log_prob),
        "gradient": found[1][0],
        "slopes": slopes(mean_log_density, (trained, borrowed), jax.random.key(1)),
        "extreme": at_extremes(partial(with_gradients, training_log_prob), trained, extreme),
    }
