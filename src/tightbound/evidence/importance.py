"""Importance sampling: log p(x) from below, with draws from q(z|x).

log p(x) ≥ E log (1/k) Σ_j w_j with w_j = p(x|z_j) p(z_j) / q(z_j|x) and z_j ~ q(z|x) (Burda et al. 2016): the bound
rises with k and is the ELBO for k = 1. The same draws give the ELBO as the mean of log w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tightbound.errors import SpecError
from tightbound.evidence.estimate import Estimate, mean_estimate
from tightbound.model import Model
from tightbound.rows import Rows, RowSource, blocks, place, require_fixed
from tightbound.schema import Measure

__all__ = ["Importance", "importance"]

DRAWS_AT_ONCE = 100  # draws of one row that are decoded together; the noise is a function of (seed, row, chunk)
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Importance:
    """Per-example results of importance sampling, arrays (n,), in nats.

    ``log_evidence`` is the lower bound log (1/k) Σ w, ``se`` the standard error of each by the delta method, ``ess`` the
    effective sample size (Σw)²/Σw² and ``elbo`` the mean of log w.
    """

    log_evidence: np.ndarray
    se: np.ndarray
    ess: np.ndarray
    elbo: np.ndarray
    draws: int
    measure: Measure

    def bound(self) -> Estimate:
        """Return the mean lower bound on log p(x)."""
        method = f"importance sampling, k = {self.draws:,}"
        return mean_estimate(
            self.log_evidence, side="lower", method=method, draws=self.draws, measure=self.measure, ess=self.ess
        )

    def elbo_estimate(self) -> Estimate:
        """Return the mean ELBO."""
        method = f"ELBO, {self.draws:,} draws"
        return mean_estimate(self.elbo, side="lower", method=method, draws=self.draws, measure=self.measure)


def importance(
    model: Model,
    data: RowSource,
    *,
    draws: int = 1000,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Importance:
    """Estimate log p(x) of every row from below with ``draws`` importance samples from q(z|x).

    The encoder runs once per row; the draws are decoded in chunks, joined by log-mean-exp over exactly ``draws`` of
    them. Memory does not grow with ``draws``. ``report(done, total)`` is called after every block of rows.
    """
    if draws < 1:
        raise SpecError("importance", (("draws", f"expected at least 1, got {draws}"),))
    require_fixed(model.spec.sites, data)
    rows, count = place(data), len(data.x)
    key = jax.random.key(seed)
    parts = []
    for index, used in blocks(count, ROWS_AT_ONCE):
        parts.append(np.asarray(_block(model, rows, index, key, jnp.int32(draws)))[:, :used])
        if report is not None:
            report(min(int(index[0]) + ROWS_AT_ONCE, count), count)
    log_evidence, se, ess, elbo = np.concatenate(parts, axis=1)
    return Importance(log_evidence, se, ess, elbo, draws, model.measure)


@eqx.filter_jit
def _block(model: Model, rows: Rows, index: Int[Array, "R"], key: Array, draws: Array) -> Float[Array, "4 R"]:
    batch = rows.batch(index, key)
    prior = model.prior()

    def one(x: Array, observed: Array | None, exposure: Array | None, row: Array) -> Array:
        q = model.posterior(x, observed)
        row_key = jax.random.fold_in(key, row)

        def weigh(z: Array) -> Array:
            return model.log_likelihood(z, x, observed, exposure) + prior.log_prob(z) - q.log_prob(z)

        def chunk(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            z = q.sample(jax.random.fold_in(row_key, number), (DRAWS_AT_ONCE,))
            log_weight = jax.vmap(weigh)(z)
            drawn = number * DRAWS_AT_ONCE + jnp.arange(DRAWS_AT_ONCE) < draws
            return _accumulate(sums, log_weight, drawn)

        start = (jnp.float32(-jnp.inf), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))
        chunks = (draws + DRAWS_AT_ONCE - 1) // DRAWS_AT_ONCE
        return _summary(jax.lax.fori_loop(0, chunks, chunk, start), draws)

    in_axes = (0, None if batch.observed is None else 0, None if batch.exposure is None else 0, 0)
    return jax.vmap(one, in_axes=in_axes, out_axes=1)(batch.x, batch.observed, batch.exposure, index)


def _accumulate(sums: tuple[Array, ...], log_weight: Array, drawn: Array) -> tuple[Array, ...]:
    """Add a chunk to (largest log w, Σ w, Σ w², Σ log w, its rounding error), the weights relative to the largest."""
    largest, first, second, logs, lost = sums
    masked = jnp.where(drawn, log_weight, -jnp.inf)
    new = jnp.maximum(largest, jnp.max(masked))
    safe = jnp.where(jnp.isfinite(new), new, 0.0)
    shrink, weights = jnp.exp(largest - safe), jnp.exp(masked - safe)
    # Compensated summation: tens of thousands of log-weights would otherwise lose the third decimal.
    addend = jnp.sum(jnp.where(drawn, log_weight, 0.0)) - lost
    total = logs + addend
    return (
        new,
        first * shrink + jnp.sum(weights),
        second * shrink**2 + jnp.sum(weights**2),
        total,
        (total - logs) - addend,
    )


def _summary(sums: tuple[Array, ...], draws: Array) -> Array:
    largest, first, second, logs, _ = sums
    ess = first**2 / second
    # Delta method: var(log mean w) = var(w) / (k mean(w)²) = (k / ess − 1) / k, unbiased with k − 1.
    se = jnp.sqrt(jnp.maximum(draws / ess - 1.0, 0.0) / jnp.maximum(draws - 1.0, 1.0))
    return jnp.stack([largest + jnp.log(first) - jnp.log(draws), se, ess, logs / draws])
