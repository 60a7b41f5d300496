"""Importance sampling: log p(x) from below, with draws from q(z|x).

log p(x) ≥ E log (1/k) Σ_j w_j with w_j = p(x|z_j) p(z_j) / q(z_j|x) and z_j ~ q(z|x) (Burda et al. 2016): the bound
rises with k and is the ELBO for k = 1. The same draws give the ELBO as the mean of log w. Any distribution may take the
place of q(z|x): :class:`~tightbound.evidence.proposals.Proposal`.

How heavy the tail of the weights is says whether their mean can be believed: the shape k̂ of a generalised Pareto
distribution fitted to the largest of them should be below 0.7 (Vehtari et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from blackjax.diagnostics import pareto_khat
from jaxtyping import Array, Float, Int

from tightbound.errors import SpecError
from tightbound.evidence.estimate import Estimate, delta_error, mean_estimate, stated_error
from tightbound.evidence.proposals import Proposal, propose, require_density
from tightbound.model import Model
from tightbound.rows import Row, Rows, RowSource, blocks, both_ways, in_blocks, require_fixed
from tightbound.schema import Measure

__all__ = ["Importance", "importance"]

UNRELIABLE = 0.7  # Pareto shape above which the mean of the weights does not settle with practical numbers of draws
EVEN = 0.1  # share of effective draws from which on a heavy tail costs little
FEW = 10.0  # effective draws below which a standard error by the delta method means little
LEAST_TAIL, MOST_TAIL = 5, 1000  # largest weights that the Pareto shape is fitted to
LEVEL = 0.01  # relative difference between the largest weight and the threshold of the tail that is no tail
DRAWS_AT_ONCE = 100  # draws of one row that are decoded together; the noise is a function of (seed, row, chunk)
ROWS_AT_ONCE = 16
_NO_CHUNK = 2**31 - 1  # its noise is for fitting the proposal


@dataclass(frozen=True)
class Importance:
    """Per-example results of importance sampling, arrays (n,), in nats.

    ``log_evidence`` is the lower bound log (1/k) Σ w, ``se`` the standard error of each by the delta method (NaN where the
    draws are too few for one), ``ess`` the effective sample size (Σw)²/Σw², ``pareto_shape`` the k̂ of the largest weights
    (NaN below 25 draws) and ``elbo`` the mean of log w: the ELBO of the proposal. ``evaluations`` is the cost per example in
    decoder evaluations, the fitting of the proposal included, a gradient counted as three.
    """

    log_evidence: np.ndarray
    se: np.ndarray
    ess: np.ndarray
    pareto_shape: np.ndarray
    elbo: np.ndarray
    draws: int
    proposal: Proposal
    evaluations: int
    measure: Measure

    def bound(self) -> Estimate:
        """Return the mean lower bound on log p(x)."""
        method = self._with_proposal(f"importance sampling, k = {self.draws:,}")
        return mean_estimate(
            self.log_evidence, side="lower", method=method, draws=self.draws, measure=self.measure, ess=self.ess
        )

    def elbo_estimate(self) -> Estimate:
        """Return the mean ELBO, that of q(z|x) or of the proposal which took its place."""
        method = self._with_proposal(f"ELBO, {self.draws:,} draws")
        return mean_estimate(self.elbo, side="lower", method=method, draws=self.draws, measure=self.measure)

    def warnings(self) -> tuple[str, ...]:
        """Return what the weights say against believing the numbers, in words; nothing when they say nothing."""
        found = []
        heavy = int(np.sum((self.pareto_shape > UNRELIABLE) & (self.ess < EVEN * self.draws)))
        few = int(np.sum(self.ess < FEW)) if self.draws >= 2 * FEW else 0
        better = "" if self.proposal.kind == "refined" else "; a refined proposal may mend it"
        if 2 * max(heavy, few) > len(self.ess):
            found.append(
                f"the weights of most examples rest on a few draws (Pareto shape above {UNRELIABLE} in {heavy:,}, effective "
                f"sample size below {FEW:g} in {few:,} of {len(self.ess):,}): the bound holds, but it is far from "
                f"tight{better}"
            )
        elif heavy or few:
            found.append(
                f"{max(heavy, few):,} of {len(self.ess):,} examples have weights that rest on a few draws: their bounds hold, "
                f"but are far from tight{better}"
            )
        if np.isnan(self.se).any():
            found.append("no standard error of single examples: the effective draws are too few for one; draw more")
        return tuple(found)

    def _with_proposal(self, method: str) -> str:
        return ", ".join(part for part in (method, str(self.proposal)) if part)


def importance(
    model: Model,
    data: RowSource,
    *,
    draws: int = 1000,
    proposal: Proposal = Proposal(),  # noqa: B008
    seed: int = 0,
    shared_noise: bool = False,
    haste: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Importance:
    """Estimate log p(x) of every row from below with ``draws`` importance samples, from q(z|x) unless told otherwise.

    The encoder runs once per row; the draws are decoded in chunks, joined by log-mean-exp over exactly ``draws`` of
    them. Memory does not grow with ``draws``. ``report(done, total)`` is called after every block of rows. With
    ``shared_noise`` all rows use the same noise, so that a row's number is the same wherever it stands; means over rows then
    do not average their noise. In ``haste``, for few rows, the program is compiled without XLA's optimiser.

    Raises :class:`~tightbound.errors.SpecError` for less than one draw, :class:`~tightbound.errors.DataError` for rows that
    the model is not for, and :class:`~tightbound.errors.CombinationError` for a fitted proposal where z has no density.
    """
    if draws < 1:
        raise SpecError("importance", (("draws", f"expected at least 1, got {draws}"),))
    require_fixed(model.spec.sites, data)
    if proposal.kind != "posterior":
        require_density(model, f"a {proposal.kind} proposal")
    count, key = len(data.x), jax.random.key(seed)
    tail = min(draws // 5, math.floor(3 * math.sqrt(draws)), MOST_TAIL)
    parts, tails = [], []
    for rows, index, used in in_blocks(data, ROWS_AT_ONCE):
        own = jnp.int32(not shared_noise)
        numbers, largest = _block[haste](model, rows, index, key, jnp.int32(draws), own, proposal, _kept(tail))
        parts.append(np.asarray(numbers)[:, :used])
        tails.append(np.asarray(largest)[:used, : tail + 1])
        if report is not None:
            report(min(int(index[0]) + ROWS_AT_ONCE, count), count)
    log_evidence, se, ess, elbo = np.concatenate(parts, axis=1)
    se = stated_error(se, ess)
    if data.observed is not None:
        nothing = ~np.asarray(data.observed).reshape(count, -1).any(axis=1)
        log_evidence[nothing], se[nothing], ess[nothing] = 0.0, 0.0, draws  # whatever they are: no cells have probability 1
    shape = _pareto_shape(np.concatenate(tails), tail)
    cost = draws + proposal.evaluations(model.spec.latent)
    return Importance(log_evidence, se, ess, shape, elbo, draws, proposal, cost, model.measure)


def _kept(tail: int) -> int:
    """Return how many of the largest weights a program keeps: a power of two, so that few programs are compiled."""
    return 2 ** math.ceil(math.log2(max(tail + 1, 128)))


def _pareto_shape(largest: Float[np.ndarray, "n T"], tail: int) -> Float[np.ndarray, "n"]:
    """Return k̂ from the logarithms of the ``tail`` + 1 largest weights of every row, the smallest being the threshold.

    Where most of them are nothing beside the largest, no tail can be fitted: it is as heavy as can be, k̂ = ∞.
    """
    if tail < LEAST_TAIL:
        return np.full(len(largest), np.nan)
    top = np.where(np.isfinite(largest[:, :1]), largest[:, :1], 0.0)
    weights = np.exp(largest - top, dtype=np.float32)
    fitted = [np.asarray(_fit_tails(weights[index], tail))[:used] for index, used in blocks(len(weights), 64)]
    shape = np.nan_to_num(np.concatenate(fitted), nan=np.inf, posinf=np.inf)
    # Weights that differ by rounding only, as those of a perfect proposal do, have no tail.
    return np.where(weights[:, -1] > 1.0 - LEVEL, 0.0, shape)


@partial(jax.jit, static_argnums=1)
def _fit_tails(weights: Float[Array, "R T"], tail: int) -> Float[Array, "R"]:
    share = (tail + 0.5) / (tail + 1)  # of which int(share · (tail + 1)) makes the tail
    return jax.vmap(partial(pareto_khat, tail="upper", tail_frac=share))(weights)


@both_ways
def _block(
    model: Model, rows: Rows, index: Int[Array, "R"], key: Array, draws: Array, own: Array, proposal: Proposal, kept: int
) -> tuple[Float[Array, "4 R"], Float[Array, "R T"]]:
    batch = rows.batch(index, key)
    prior = model.prior()

    def one(example: Row, number: Array) -> tuple[Array, Array]:
        row_key = jax.random.fold_in(key, number)
        r = propose(proposal, model, prior, example, jax.random.fold_in(row_key, _NO_CHUNK))

        def weigh(z: Array) -> Array:
            log_prior = prior.log_prob(z)
            return model.log_likelihood(z, *example) + log_prior - _mixed(proposal, r.log_prob(z), log_prior)

        def chunk(number: Array, state: tuple[tuple[Array, ...], Array]) -> tuple[tuple[Array, ...], Array]:
            sums, largest = state
            z = _draw(proposal, r, prior, jax.random.fold_in(row_key, number))
            log_weight = jax.vmap(weigh)(z)
            drawn = number * DRAWS_AT_ONCE + jnp.arange(DRAWS_AT_ONCE) < draws
            candidates = jnp.concatenate([largest, jnp.where(drawn, log_weight, -jnp.inf)])
            return _accumulate(sums, log_weight, drawn), jax.lax.top_k(candidates, kept)[0]

        start = (jnp.float32(-jnp.inf), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))
        chunks = (draws + DRAWS_AT_ONCE - 1) // DRAWS_AT_ONCE
        sums, largest = jax.lax.fori_loop(0, chunks, chunk, (start, jnp.full(kept, -jnp.inf)))
        return _summary(sums, draws), largest

    return jax.vmap(one, out_axes=(1, 0))(batch.rows, index * own)


def _draw(proposal: Proposal, r: dist.Distribution, prior: dist.Distribution, key: Array) -> Float[Array, "C L"]:
    if not proposal.defensive:
        return r.sample(key, (DRAWS_AT_ONCE,))
    own_key, prior_key, choice_key = jax.random.split(key, 3)
    z, other = r.sample(own_key, (DRAWS_AT_ONCE,)), prior.sample(prior_key, (DRAWS_AT_ONCE,))
    return jnp.where(jax.random.bernoulli(choice_key, proposal.defensive, (DRAWS_AT_ONCE, 1)), other, z)


def _mixed(proposal: Proposal, log_fitted: Array, log_prior: Array) -> Array:
    """Return the log-density of the proposal with its share of the prior."""
    if not proposal.defensive:
        return log_fitted
    return jnp.logaddexp(math.log1p(-proposal.defensive) + log_fitted, math.log(proposal.defensive) + log_prior)


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
    return jnp.stack([largest + jnp.log(first) - jnp.log(draws), delta_error(ess, draws), ess, logs / draws])
