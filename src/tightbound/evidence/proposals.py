"""Where importance samples come from: q(z|x) itself, or a Gaussian that is fitted to the true posterior of one example.

The fit takes natural-gradient steps on the ELBO of N(m, P⁻¹), full covariance, from the amortised q(z|x): with
expectations over a few draws from it, P ← E[−∇² log p(x, z)] and m ← m + P⁻¹ E[∇ log p(x, z)] (Khan & Lin 2017,
Salimbeni et al. 2018). The curvature of log p(x|z) is taken without that of the decoder (Gauss-Newton, Martens 2020):
with θ(z) the parameters of p(x|z), it is Jᵀ H J, where the columns of J cost one decoder evaluation each and H touches
sites only. At the mean instead of at draws the same steps climb to the mode: Laplace's approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from tightbound.errors import CombinationError, SpecError
from tightbound.model import Model
from tightbound.rows import Row

__all__ = ["WARY", "Proposal", "propose", "require_density"]

CHECKS = 4  # draws that compare a candidate with where it started
GRADIENT_COST = 3  # a value with its gradient, in decoder evaluations: forward, and twice that backward
LEAST_CURVATURE = 0.1  # of the prior's: no proposal is more than about three times as wide
PRIOR_DRAWS = 64


@dataclass(frozen=True)
class Proposal:
    """How importance samples are drawn.

    ``kind`` is ``"posterior"``, the amortised q(z|x); ``"refined"``, a full Gaussian after ``steps`` natural-gradient
    steps with ``draws`` draws each; or ``"laplace"``, a full Gaussian at the mode, after ``steps`` steps. Fitted
    deviations are multiplied by ``widening``: tails that are too thin cost more than a body that is too wide. ``defensive``
    is the share of draws that come from the prior instead: it bounds every weight by p(x|z) / share, so that their
    variance is finite where p(x|z) is bounded (Hesterberg 1995).

    >>> Proposal("refined", defensive=0.05).evaluations(latent=20)
    108
    """

    kind: Literal["posterior", "refined", "laplace"] = "posterior"
    steps: int | None = None
    draws: int = 2
    widening: float = 1.05
    defensive: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in ("posterior", "refined", "laplace"):
            problems.append(("kind", f"expected posterior, refined or laplace, got '{self.kind}'"))
        if self.steps is not None and self.steps < 1:
            problems.append(("steps", f"expected at least 1, got {self.steps}"))
        if self.draws < 2 or self.draws % 2:
            problems.append(("draws", f"expected an even number of at least 2, got {self.draws}: they come in mirrored pairs"))
        if not 0.0 < self.widening < math.inf:
            problems.append(("widening", f"expected a positive factor, got {self.widening}"))
        if not 0.0 <= self.defensive < 1.0:
            problems.append(("defensive", f"expected a share of at least 0 and below 1, got {self.defensive}"))
        if problems:
            raise SpecError("Proposal", tuple(problems))

    @property
    def length(self) -> int:
        """The number of steps: by default two for the refined proposal, four to the mode."""
        if self.kind == "posterior":
            return 0
        return self.steps or (2 if self.kind == "refined" else 4)

    def evaluations(self, latent: int) -> int:
        """Return what fitting the proposal costs, in decoder evaluations per example."""
        if self.kind == "posterior":
            return 0
        points = self.draws if self.kind == "refined" else 1
        curvatures = self.length + (self.kind == "laplace")
        compared = CHECKS * (1 + self.length) if self.kind == "refined" else 2 * CHECKS
        return points * (self.length * GRADIENT_COST + curvatures * (latent + 1)) + compared

    def __str__(self) -> str:
        fitted = f"{self.kind} proposal, {self.length} step" + ("s" if self.length > 1 else "")
        parts = [] if self.kind == "posterior" else [fitted]
        if self.defensive:
            parts.append(f"{self.defensive:.0%} of the draws from the prior")
        return ", ".join(parts)


# For rows unlike those that the encoder learnt from, with other holes or odd cells, where q(z|x) may be far from p(z|x).
WARY = Proposal(defensive=0.5)


def propose(proposal: Proposal, model: Model, prior: dist.Distribution, row: Row, key: Array) -> dist.Distribution:
    """Return the distribution that an example's importance samples come from, ``defensive`` not yet mixed in.

    A step after which the weights of a few draws are neither more even nor larger is not taken, nor one that has gone astray,
    where all are far smaller than any was before: any proposal is valid, and the draws of the estimate are fresh.
    """
    q = model.posterior(row.x, row.observed)
    if proposal.kind == "posterior":
        return q
    start = _Gaussian(q.mean, jnp.diag(jnp.sqrt(q.variance)))

    def log_joint(z: Array) -> Array:
        return model.log_likelihood(z, *row) + prior.log_prob(z)

    fit_key, check_key = jax.random.split(key)
    noise = jax.random.normal(check_key, (CHECKS, len(start.loc)))
    best, best_weights = start, start.log_weights(log_joint, noise)
    for fitted in _steps(proposal, model, prior, row, log_joint, start, fit_key):
        weights = fitted.log_weights(log_joint, noise)
        accepted = _better(weights, best_weights, len(start.loc))
        best, best_weights = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),  # noqa: B023
            (fitted, weights),
            (best, best_weights),
        )
    return dist.MultivariateNormal(best.loc, scale_tril=proposal.widening * best.triangle, validate_args=False)


def _better(new: Float[Array, "S"], old: Float[Array, "S"], latent: int) -> Bool[Array, ""]:
    """Return whether log-weights speak for a new proposal; NaN does not.

    Even weights are what is wanted, and a higher ELBO alone may be luck. But far from p(z|x) weights are even as well, if only
    because single precision cannot tell numbers of that size apart. There all of them are below all the old ones, by more than
    the nat for every latent by which a few draws from too wide a Gaussian may be above log p(x).
    """
    wanted = (jnp.std(new) < jnp.std(old)) | (jnp.mean(new) > jnp.mean(old))
    return wanted & (jnp.max(new) > jnp.min(old) - latent)


def require_density(model: Model, what: str) -> None:
    """Raise :class:`~tightbound.errors.CombinationError` for latents with finitely many values, which have no gradient."""
    if model.prior().has_enumerate_support:
        raise CombinationError(
            f"{what} follows gradients of log p(x, z) in z, but the latents of this model have finitely many values: use "
            "'exact', which adds them up, or importance sampling from q(z|x)"
        )


class _Gaussian(NamedTuple):
    """N(loc, C Cᵀ) with C = ``triangle``, lower triangular."""

    loc: Float[Array, "L"]
    triangle: Float[Array, "L L"]

    def at(self, noise: Float[Array, "S L"]) -> Float[Array, "S L"]:
        return self.loc + noise @ self.triangle.T

    def log_weights(self, log_joint: Callable[[Array], Array], noise: Float[Array, "S L"]) -> Float[Array, "S"]:
        """Return log p(x, z) − log q(z) at the given noise, but for a constant."""
        log_density = -0.5 * jnp.sum(noise**2, axis=1) - jnp.sum(jnp.log(jnp.diag(self.triangle)))
        return jax.vmap(log_joint)(self.at(noise)) - log_density


def _steps(
    proposal: Proposal,
    model: Model,
    prior: dist.Distribution,
    row: Row,
    log_joint: Callable[[Array], Array],
    start: _Gaussian,
    key: Array,
) -> list[_Gaussian]:
    """Return the candidates: every refined step, or the Gaussian at the mode."""
    key, prior_key = jax.random.split(key)
    least = LEAST_CURVATURE / jnp.max(jnp.var(prior.sample(prior_key, (PRIOR_DRAWS,)), axis=0))

    def curvature(points: Array) -> Array:
        each = jax.vmap(lambda z: _curvature(model, prior, row, z))(points)
        return _at_least(jnp.mean(each, axis=0), least)

    def step(at: _Gaussian, points: Array) -> _Gaussian:
        covariance = jnp.linalg.inv(curvature(points))
        gradient = jnp.mean(jax.vmap(jax.grad(log_joint))(points), axis=0)
        return _Gaussian(at.loc + covariance @ gradient, jnp.linalg.cholesky(covariance))

    candidates, at = [], start
    for number in range(proposal.length):
        if proposal.kind == "refined":
            half = jax.random.normal(jax.random.fold_in(key, number), (proposal.draws // 2, len(start.loc)))
            at = step(at, at.at(jnp.concatenate([half, -half])))
            candidates.append(at)
        else:
            at = step(at, at.loc[None])
    if proposal.kind == "laplace":
        candidates.append(_Gaussian(at.loc, jnp.linalg.cholesky(jnp.linalg.inv(curvature(at.loc[None])))))
    return candidates


def _curvature(model: Model, prior: dist.Distribution, row: Row, z: Float[Array, "L"]) -> Float[Array, "L L"]:
    """Return the Gauss-Newton approximation of −∇² log p(x, z)."""

    def parameters(z: Array) -> list[Array]:
        return jax.tree.leaves(eqx.filter(model.likelihood(z, row.exposure), eqx.is_inexact_array))

    varying, fixed = eqx.partition(model.likelihood(z, row.exposure), eqx.is_inexact_array)
    shape = jax.tree.structure(varying)
    known = model.filled(row.x, row.observed)

    def score(leaves: list[Array]) -> Array:
        sites = eqx.combine(jax.tree.unflatten(shape, leaves), fixed).log_prob(known)
        return jnp.sum(sites if row.observed is None else jnp.where(row.observed, sites, 0.0))

    theta, along = jax.linearize(parameters, z)
    directions: Any = jax.vmap(along)(jnp.eye(len(z)))
    curved = jax.vmap(lambda direction: jax.jvp(jax.grad(score), (theta,), (direction,))[1])(directions)
    pairs = zip(directions, curved, strict=True)
    likelihood = sum(a.reshape(len(z), -1) @ b.reshape(len(z), -1).T for a, b in pairs)
    return -likelihood - jax.hessian(prior.log_prob)(z)


def _at_least(curvature: Float[Array, "L L"], least: Float[Array, ""]) -> Float[Array, "L L"]:
    """Return the nearest matrix whose eigenvalues are at least ``least``: a posterior with two modes has negative ones."""
    values, vectors = jnp.linalg.eigh(0.5 * (curvature + curvature.T))
    return (vectors * jnp.maximum(values, least)) @ vectors.T
