"""Exact log p(x), where it can be had: closed form for linear-Gaussian models, quadrature for one or two latents,
enumeration for latents with finitely many values. The oracles that every bound is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from scipy.special import logsumexp

from tightbound.distributions import GaussianMixture, is_diagonal_gaussian
from tightbound.errors import CombinationError, DataError
from tightbound.evidence.estimate import Estimate, mean_estimate
from tightbound.likelihoods import Gaussian
from tightbound.model import Model
from tightbound.networks import MLP
from tightbound.rows import Row, RowSource, example, require_fixed
from tightbound.schema import Measure

__all__ = ["Exact", "Grid", "exact", "linear_gaussian", "posterior_grid"]

COARSE = {1: 513, 2: 129}
FINEST = {1: 8193, 2: 1025}
LOST = 40.0  # log-density below the largest one at which a cell is outside the box: e⁻⁴⁰ of its height
POINTS_AT_ONCE = 1024
MOST_VALUES = 2**16  # combinations of finitely many values that are added up


@dataclass(frozen=True)
class Exact:
    """Per-example log p(x) (n,) in nats, and a bound on the numerical error of each."""

    log_evidence: np.ndarray
    error: np.ndarray
    method: str
    measure: Measure

    def estimate(self) -> Estimate:
        """Return the mean over examples; its standard error is the spread between examples only."""
        return mean_estimate(self.log_evidence, side="exact", method=self.method, draws=0, measure=self.measure)


def exact(model: Model, data: RowSource, *, tolerance: float = 1e-3) -> Exact:
    """Return log p(x) of every row without sampling.

    Quadrature is refined until halving its step changes no row by more than ``tolerance`` nats, or the finest grid is
    reached; the last change is reported as the error. Raises :class:`~tightbound.errors.CombinationError` when the model
    has neither a linear-Gaussian decoder, nor at most two latents, nor a prior with finitely many values.
    """
    require_fixed(model.spec.sites, data)
    if is_linear_gaussian(model):
        values = linear_gaussian(model, data)
        return Exact(values, np.full(len(values), 1e-9), "closed form", model.measure)
    if model.prior().has_enumerate_support:
        values = _over_rows(data, lambda *row: float(_enumerate(model, *row)))
        return Exact(values, np.full(len(values), 1e-5), "enumeration", model.measure)
    if model.spec.latent > 2:
        raise CombinationError(
            f"log p(x) of a model with {model.spec.latent} latents has no exact value here: quadrature is for one or two "
            "latents and the closed form for a linear decoder with Gaussian noise; use importance sampling instead"
        )
    grids = [posterior_grid(model, *row, tolerance=tolerance) for row in _rows(data)]
    values = np.array([grid.log_evidence for grid in grids])
    return Exact(values, np.array([grid.error for grid in grids]), "quadrature", model.measure)


def is_linear_gaussian(model: Model) -> bool:
    """Whether p(x) is a finite mixture of Gaussians: affine decoder, noise that does not depend on z, such a prior."""
    spec = model.spec
    affine = isinstance(spec.decoder, MLP) and not spec.decoder.hidden
    constant_noise = isinstance(spec.likelihood, Gaussian) and spec.likelihood.noise != "predicted"
    prior = model.prior()
    return affine and constant_noise and (is_diagonal_gaussian(prior) or isinstance(prior, GaussianMixture))


def linear_gaussian(model: Model, data: RowSource) -> np.ndarray:
    """Return log p(x) of every row (n,) for x = W z + b + noise, in double precision.

    p(x) = Σ_k w_k N(x; W m_k + b, W S_k Wᵀ + Ψ), over the observed sites of each row.
    """
    weight, offset, noise = affine_decoder(model)
    log_weights, means, scales = _components(model.prior())
    x = np.asarray(data.x, np.float64)
    observed = np.ones(x.shape, bool) if data.observed is None else np.asarray(data.observed)
    values = np.empty(len(x))
    for pattern in np.unique(observed, axis=0):
        rows = (observed == pattern).all(axis=1)
        part = weight[pattern]
        seen, around, psi = x[rows][:, pattern], offset[pattern], np.diag(noise[pattern])
        joint = [
            log_weight + _normal(seen, part @ m + around, (part * s**2) @ part.T + psi)
            for log_weight, m, s in zip(log_weights, means, scales, strict=True)
        ]
        values[rows] = logsumexp(joint, axis=0)
    return values


def affine_decoder(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (W (D, L), b (D,), noise variances (D,)) of a linear-Gaussian model, in the units of x."""
    # From the weights themselves, in double precision: differences of single-precision means would lose digits.
    head: Any = model.likelihood_head
    layer = model.decoder.output
    mean, spread, weight, bias = (
        np.asarray(array, np.float64) for array in (head.mean(), head.spread(), layer.weight, layer.bias)
    )
    noise = np.asarray(model.likelihood(jnp.zeros(model.spec.latent)).scale, np.float64)
    return spread[:, None] * weight.T, mean + spread * bias, noise**2


def _components(prior: dist.Distribution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(prior, GaussianMixture):
        parts = (prior.log_weights, prior.loc, prior.scale)
    else:
        parts = (jnp.zeros(1), prior.base_dist.loc[None], prior.base_dist.scale[None])
    log_weights, loc, scale = (np.asarray(part, np.float64) for part in parts)
    return log_weights, loc, scale


def _normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    if not mean.size:
        return np.zeros(len(x))
    triangle = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(triangle, (x - mean).T)
    return -0.5 * np.sum(whitened**2, axis=0) - np.sum(np.log(np.diag(triangle))) - 0.5 * mean.size * np.log(2 * np.pi)


@dataclass(frozen=True)
class Grid:
    """p(z|x) of one example on a grid over one or two latents.

    ``axes`` are the points along each latent, ``log_density`` the normalised log p(z|x) in nats on their product (first
    latent first), ``log_evidence`` log p(x) and ``error`` what halving the step last changed in it.
    """

    axes: tuple[np.ndarray, ...]
    log_density: np.ndarray
    log_evidence: float
    error: float


def posterior_grid(
    model: Model, x: Array, observed: Array | None = None, exposure: Array | None = None, *, tolerance: float = 1e-3
) -> Grid:
    """Return the true posterior p(z|x) = p(x|z) p(z) / p(x) on a grid, for a model with one or two latents.

    The box starts wide enough for the prior and q(z|x), shrinks to where p(x, z) is not negligible, and is then refined
    with the trapezoidal rule until log p(x) changes by less than ``tolerance`` nats.
    """
    latent = model.spec.latent
    if latent > 2:
        raise CombinationError(f"the model has {latent} latents; a grid of p(z|x) is for one or two")
    low, high = (np.asarray(edge, np.float64) for edge in _box(model, x, observed))
    points, previous = COARSE[latent], None
    for _ in range(3):
        axes, log_joint = _evaluate(model, x, observed, exposure, low, high, points)
        low, high = _shrink(axes, log_joint)
    while True:
        axes, log_joint = _evaluate(model, x, observed, exposure, low, high, points)
        value = _integrate(axes, log_joint)
        error = np.inf if previous is None else abs(value - previous)
        if error < tolerance or points >= FINEST[latent]:
            return Grid(axes, log_joint - value, value, float(max(error, 1e-6 * abs(value))))
        previous, points = value, 2 * points - 1


def _evaluate(
    model: Model, x: Array, observed: Array | None, exposure: Array | None, low: np.ndarray, high: np.ndarray, points: int
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    axes = tuple(np.linspace(a, b, points) for a, b in zip(low, high, strict=True))
    mesh = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], axis=1).astype(np.float32)
    extra = -len(mesh) % POINTS_AT_ONCE
    padded = np.concatenate([mesh, np.repeat(mesh[:1], extra, axis=0)]).reshape(-1, POINTS_AT_ONCE, len(axes))
    values = np.asarray(_log_joint(model, x, observed, exposure, padded), np.float64).ravel()[: len(mesh)]
    return axes, values.reshape([points] * len(axes))


@eqx.filter_jit
def _log_joint(
    model: Model, x: Array, observed: Array | None, exposure: Array | None, z: Float[Array | np.ndarray, "C P L"]
) -> Float[Array, "C P"]:
    prior = model.prior()
    one = jax.vmap(lambda z: model.log_likelihood(z, x, observed, exposure) + prior.log_prob(z))
    return jax.lax.map(one, z)


@eqx.filter_jit
def _box(model: Model, x: Array, observed: Array | None) -> tuple[Array, Array]:
    prior, q = model.prior(), model.posterior(x, observed)
    draws = prior.sample(jax.random.key(0), (4096,))
    centre, spread = jnp.mean(draws, axis=0), jnp.std(draws, axis=0)
    q_spread = jnp.sqrt(q.variance)
    low = jnp.minimum(centre - 9.0 * spread, q.mean - 9.0 * q_spread)
    return low, jnp.maximum(centre + 9.0 * spread, q.mean + 9.0 * q_spread)


def _shrink(axes: tuple[np.ndarray, ...], log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(log_joint.max()):
        raise DataError("log p(x, z) is not finite for any z near the prior or q(z|x): the example is too far from the data")
    kept = log_joint > log_joint.max() - LOST
    low, high = [], []
    for number, axis in enumerate(axes):
        others = tuple(other for other in range(len(axes)) if other != number)
        inside = np.flatnonzero(kept.any(axis=others))
        low.append(axis[max(inside[0] - 1, 0)])
        high.append(axis[min(inside[-1] + 1, len(axis) - 1)])
    return np.array(low), np.array(high)


def _integrate(axes: tuple[np.ndarray, ...], log_joint: np.ndarray) -> float:
    log_weights = np.zeros(log_joint.shape)
    for number, axis in enumerate(axes):
        weights = np.full(len(axis), axis[1] - axis[0])
        weights[[0, -1]] /= 2.0
        shape = [1] * len(axes)
        shape[number] = -1
        log_weights = log_weights + np.log(weights).reshape(shape)
    return float(logsumexp(log_joint + log_weights))


@eqx.filter_jit
def _enumerate(model: Model, x: Array, observed: Array | None, exposure: Array | None) -> Array:
    prior = model.prior()
    support = _support(prior)
    joint = jax.vmap(lambda z: model.log_likelihood(z, x, observed, exposure) + prior.log_prob(z))(support)
    return jax.scipy.special.logsumexp(joint)


def _support(prior: dist.Distribution) -> Float[Array, "V L"]:
    """Return every value of z: for independent latents all combinations of theirs."""
    if not isinstance(prior, dist.Independent):
        return prior.enumerate_support()
    each = prior.base_dist.enumerate_support(expand=False).ravel()
    latents = prior.event_shape[0]
    if len(each) ** latents > MOST_VALUES:
        raise CombinationError(
            f"{latents} latents of {len(each)} values each have {len(each) ** latents:,} combinations, and at most "
            f"{MOST_VALUES:,} are added up; use importance sampling instead"
        )
    return jnp.stack([axis.ravel() for axis in jnp.meshgrid(*[each] * latents, indexing="ij")], axis=1)


def _rows(data: RowSource) -> list[Row]:
    return [example(data, row) for row in range(len(data.x))]


def _over_rows(data: RowSource, function: Callable[..., float]) -> np.ndarray:
    return np.array([function(*row) for row in _rows(data)])
