"""Annealed importance sampling: log p(x) from below on any data, and from above on data the model has drawn itself.

A chain walks from a start distribution r(z) (the prior, q(z|x), or a Gaussian fitted to p(z|x)) to the true posterior
through the densities r(z)^(1 − β) p(x, z)^β with β rising from 0 to 1, by Hamiltonian Monte Carlo; its log-weight collects
Σ_t (β_t − β_{t−1}) log(p(x, z_{t−1}) / r(z_{t−1})), and E w = p(x) (Neal 2001). Run backwards from an exact draw of
p(z|x), which simulated data has, the same sum has E w⁻¹ = 1/p(x): an upper bound. The two together are bidirectional
Monte Carlo (Grosse et al. 2015, Wu et al. 2017); their gap measures the whole evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import hmc
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from tightbound.errors import SpecError
from tightbound.evidence.estimate import Estimate, delta_error, mean_estimate, stated_error
from tightbound.evidence.proposals import Proposal, propose, require_density
from tightbound.model import Model
from tightbound.rows import Row, Rows, RowSource, blocks, place, require_fixed
from tightbound.schema import Measure

__all__ = ["Annealed", "Bracket", "Walk", "annealed", "bracket", "temperatures"]

TARGET = 0.65  # acceptance at which Hamiltonian Monte Carlo is most efficient (Beskos et al. 2013)
SPREAD = 0.5  # share of effective chains below which their weights are called uneven
PILOT_CHAINS = 4
LANES = 128  # chains of all rows of a block together: one matrix product


@dataclass(frozen=True)
class Walk:
    """How chains walk: number of temperatures and chains, leapfrog steps per temperature, start and schedule.

    ``start`` is the distribution at β = 0: ``"prior"``, from which every mode can be found; ``"posterior"``, q(z|x), which
    is nearer; or ``"refined"``, a Gaussian fitted to p(z|x) of each row, nearer still, whose covariance then also is the
    inverse mass matrix.

    Raises :class:`~tightbound.errors.SpecError` for numbers below 1 and names that do not exist.
    """

    steps: int = 200
    chains: int = 16
    leapfrog: int = 10
    start: Literal["prior", "posterior", "refined"] = "refined"
    schedule: Literal["sigmoid", "linear"] = "sigmoid"

    def __post_init__(self) -> None:
        numbers = ("steps", "chains", "leapfrog")
        problems = [(name, f"expected at least 1, got {getattr(self, name)}") for name in numbers if getattr(self, name) < 1]
        for name, choices in (("start", ("prior", "posterior", "refined")), ("schedule", ("sigmoid", "linear"))):
            if getattr(self, name) not in choices:
                problems.append((name, f"expected one of {', '.join(choices)}, got '{getattr(self, name)}'"))
        if problems:
            raise SpecError("Walk", tuple(problems))


@dataclass(frozen=True)
class Annealed:
    """Per-example results (n,), in nats: the estimate, its standard error, effective chains and mean acceptance.

    ``se`` is NaN where the chains are too few for one, and for upper bounds: all chains of a row start at the one draw of
    p(z|x) that there is and share its luck, which only other rows can show. :meth:`estimate` has that error of the mean.
    """

    log_evidence: np.ndarray
    se: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    walk: Walk
    side: Literal["lower", "upper"]
    given: Literal["data", "simulated"]
    measure: Measure

    def warnings(self) -> tuple[str, ...]:
        """Return what speaks against believing the numbers, in words; nothing when nothing does."""
        found = []
        if np.median(self.ess) < SPREAD * self.walk.chains:
            found.append(
                f"the weights of the chains are uneven ({self.side} bound, median effective sample size "
                f"{np.median(self.ess):.1f} of {self.walk.chains}): it holds, but is not tight; use more "
                "temperatures"
            )
        if not np.all(np.abs(self.acceptance - TARGET) < 0.25):
            found.append(
                f"the acceptance of some examples is far from {TARGET} ({self.acceptance.min():.2f} to "
                f"{self.acceptance.max():.2f}): the chains hardly move, or in steps too small"
            )
        if self.side == "lower" and np.isnan(self.se).any():
            found.append("no standard error of single examples: the effective chains are too few for one; use more")
        return tuple(found)

    def estimate(self) -> Estimate:
        """Return the mean over examples."""
        walk = self.walk
        start = {"prior": "the prior", "posterior": "q(z|x)", "refined": "refined proposals"}[walk.start]
        method = f"annealed importance sampling, {walk.steps:,} temperatures, {walk.chains} chains from {start}"
        mean = mean_estimate(
            self.log_evidence, side=self.side, method=method, draws=walk.chains, measure=self.measure, ess=self.ess
        )
        return replace(mean, given=self.given)


@dataclass(frozen=True)
class Bracket:
    """Lower and upper bounds on log p(x) of rows x (n, D) drawn from the model, with the z (n, L) they were drawn from.

    ``gap`` is the mean distance of the bounds in nats.
    """

    lower: Annealed
    upper: Annealed
    x: np.ndarray
    z: np.ndarray

    @property
    def gap(self) -> tuple[float, float]:
        """Return mean and standard error over examples of upper − lower."""
        difference = self.upper.log_evidence.astype(np.float64) - self.lower.log_evidence
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def temperatures(steps: int, schedule: Literal["sigmoid", "linear"]) -> np.ndarray:
    """Return β_0 = 0 < … < β_steps = 1; the sigmoid schedule spends more of them near both ends.

    >>> temperatures(4, "linear").tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    grid = np.linspace(0.0, 1.0, steps + 1)
    if schedule == "sigmoid":
        raw = 1.0 / (1.0 + np.exp(-(8.0 * grid - 4.0)))
        grid = (raw - raw[0]) / (raw[-1] - raw[0])
    return grid


def annealed(
    model: Model,
    data: RowSource,
    walk: Walk = Walk(),
    *,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Annealed:
    """Bound log p(x) of every row from below by annealed importance sampling.

    A pilot adapts the step size of every row and temperature towards an acceptance of 0.65; it is then frozen, so that
    the estimate of p(x) stays unbiased. ``report(done, total)`` is called after every block of rows. Raises
    :class:`~tightbound.errors.CombinationError` where z has no density.
    """
    require_fixed(model.spec.sites, data)
    return _run(model, place(data), len(data.x), None, walk, seed, report)


def bracket(
    model: Model,
    count: int,
    walk: Walk = Walk(),
    *,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Bracket:
    """Draw ``count`` rows from the model and bound log p(x) of them from both sides with the same walk.

    The width of the bracket is what the evaluation chain itself costs. Models of counts with exposure are simulated at
    exposure 1.
    """
    if count < 2:
        raise SpecError("bracket", (("count", f"expected at least 2, got {count}"),))
    z, x = _simulate(model, jax.random.split(jax.random.key(seed), count))
    exposure = jnp.ones(count) if model.spec.sites.exposure else None
    rows = Rows(x, None, exposure, binarise=False)
    lower = _run(model, rows, count, None, walk, seed + 1, report)
    upper = _run(model, rows, count, z, walk, seed + 2, report)
    return Bracket(replace(lower, given="simulated"), upper, np.asarray(x), np.asarray(z))


@eqx.filter_jit
def _simulate(model: Model, keys: Array) -> tuple[Array, Array]:
    def one(key: Array) -> tuple[Array, Array]:
        latent_key, site_key = jax.random.split(key)
        z = model.prior().sample(latent_key)
        exposure = jnp.float32(1.0) if model.spec.sites.exposure else None
        return z, model.likelihood(z, exposure).sample(site_key).astype(jnp.float32)

    return jax.vmap(one)(keys)


def _run(
    model: Model, rows: Rows, count: int, ends: Array | None, walk: Walk, seed: int, report: Callable[[int, int], None] | None
) -> Annealed:
    require_density(model, "annealing by Hamiltonian Monte Carlo")
    betas = jnp.asarray(temperatures(walk.steps, walk.schedule), jnp.float32)
    pilot_steps = max(min(walk.steps, 100), walk.steps // 4)
    pilot = jnp.asarray(temperatures(pilot_steps, walk.schedule), jnp.float32)
    size = max(1, min(LANES // walk.chains, count))
    key = jax.random.key(seed)
    parts = []
    for index, used in blocks(count, size):
        end = None if ends is None else ends[np.maximum(index, 0)]
        parts.append(np.asarray(_block(model, rows, index, end, key, betas, pilot, walk))[:, :used])
        if report is not None:
            report(min(int(index[0]) + size, count), count)
    value, se, ess, acceptance = np.concatenate(parts, axis=1)
    side: Literal["lower", "upper"] = "lower" if ends is None else "upper"
    se = stated_error(se, ess) if ends is None else np.full_like(se, np.nan)
    return Annealed(value, se, ess, acceptance, walk, side, "data" if ends is None else "simulated", model.measure)


@eqx.filter_jit
def _block(
    model: Model,
    rows: Rows,
    index: Int[Array, "R"],
    ends: Array | None,
    key: Array,
    betas: Array,
    pilot: Array,
    walk: Walk,
) -> Float[Array, "4 R"]:
    batch = rows.batch(index, key)

    def one(row: Row, end: Array | None, number: Array) -> Array:
        start_key, pilot_key, *chain_keys = jax.random.split(jax.random.fold_in(key, number), walk.chains + 2)
        path = _path(model, row, walk, start_key)
        step_sizes = jnp.interp(betas, pilot[1:], _pilot(path, pilot_key, pilot))
        if end is None:
            chain = partial(_forward, path, betas=betas, step_sizes=step_sizes)
        else:
            chain = partial(_backward, path, end, betas=betas, step_sizes=step_sizes)
        log_weight, acceptance = jax.vmap(chain)(jnp.stack(chain_keys))
        sign = 1.0 if end is None else -1.0
        ess = jnp.exp(2.0 * logsumexp(sign * log_weight) - logsumexp(2.0 * sign * log_weight))
        value = sign * (logsumexp(sign * log_weight) - jnp.log(walk.chains))
        return jnp.stack([value, delta_error(ess, walk.chains), ess, jnp.mean(acceptance)])

    return jax.vmap(one, out_axes=1)(batch.rows, ends, index)


class _Path(NamedTuple):
    """The densities along the way for one x: start and end log-densities, a draw from the start, and its covariance.

    ``inverse_mass`` is a covariance matrix (L, L), or the variances (L,) alone.
    """

    log_start: Callable[[Array], Array]
    log_end: Callable[[Array], Array]
    draw: Callable[[Array], Array]
    inverse_mass: Array
    leapfrog: int

    def tilt(self, z: Array) -> Array:
        return self.log_end(z) - self.log_start(z)

    def move(self, key: Array, z: Array, beta: Array, step_size: Array) -> tuple[Array, Array]:
        """One Hamiltonian transition that leaves the density at β invariant; the state starts anew at every β."""

        def log_density(z: Array) -> Array:
            return (1.0 - beta) * self.log_start(z) + beta * self.log_end(z)

        move_key, size_key = jax.random.split(key)
        # Trajectories of one length may be whole periods of an almost Gaussian posterior and end where they began.
        size = step_size * jax.random.uniform(size_key, minval=0.6, maxval=1.1)
        start = hmc.init(z, log_density)
        state, info = hmc.build_kernel()(move_key, start, log_density, size, self.inverse_mass, self.leapfrog)
        return state.position, info.acceptance_rate


def _path(model: Model, row: Row, walk: Walk, key: Array) -> _Path:
    prior = model.prior()
    proposal = Proposal("refined" if walk.start == "refined" else "posterior")
    start = prior if walk.start == "prior" else propose(proposal, model, prior, row, key)

    def log_end(z: Array) -> Array:
        return model.log_likelihood(z, *row) + prior.log_prob(z)

    if walk.start == "prior":
        inverse_mass = jnp.ones(model.spec.latent)
    else:
        inverse_mass = start.covariance_matrix if walk.start == "refined" else start.variance
    return _Path(start.log_prob, log_end, start.sample, inverse_mass, walk.leapfrog)


def _pilot(path: _Path, key: Array, betas: Array) -> Float[Array, "T"]:
    """Return a step size per temperature: a few chains walk, and the step follows their acceptance towards the target."""
    start_key, walk_key = jax.random.split(key)
    z = jax.vmap(path.draw)(jax.random.split(start_key, PILOT_CHAINS))

    def step(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        z, log_size = carry
        number, beta = at
        keys = jax.random.split(jax.random.fold_in(walk_key, number), PILOT_CHAINS)
        z, acceptance = jax.vmap(path.move, in_axes=(0, 0, None, None))(keys, z, beta, jnp.exp(log_size))
        # A diverging trajectory reports NaN: it counts as a rejection.
        following = log_size + 0.15 * (jnp.mean(jnp.nan_to_num(acceptance)) - TARGET)
        return (z, following), log_size

    size = 0.5 * jnp.log(jnp.float32(1.0 / len(path.inverse_mass) ** 0.5))
    _, log_sizes = jax.lax.scan(step, (z, size), (jnp.arange(len(betas) - 1), betas[1:]))
    smooth = jnp.ones(9) / 9.0
    padded = jnp.concatenate([jnp.repeat(log_sizes[:1], 4), log_sizes, jnp.repeat(log_sizes[-1:], 4)])
    return jnp.exp(jnp.convolve(padded, smooth, mode="valid"))


def _forward(path: _Path, key: Array, *, betas: Array, step_sizes: Array) -> tuple[Array, Array]:
    start_key, walk_key = jax.random.split(key)

    def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], Array]:
        z, log_weight = carry
        log_weight = log_weight + (betas[t] - betas[t - 1]) * path.tilt(z)
        z, acceptance = path.move(jax.random.fold_in(walk_key, t), z, betas[t], step_sizes[t])
        return (z, log_weight), acceptance

    steps = jnp.arange(1, len(betas))
    (_, log_weight), acceptance = jax.lax.scan(step, (path.draw(start_key), jnp.float32(0.0)), steps)
    return log_weight, jnp.mean(acceptance)


def _backward(path: _Path, end: Array, key: Array, *, betas: Array, step_sizes: Array) -> tuple[Array, Array]:
    def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], Array]:
        z, log_weight = carry
        z, acceptance = path.move(jax.random.fold_in(key, t), z, betas[t], step_sizes[t])
        return (z, log_weight + (betas[t] - betas[t - 1]) * path.tilt(z)), acceptance

    steps = jnp.arange(len(betas) - 1, 0, -1)
    (_, log_weight), acceptance = jax.lax.scan(step, (end, jnp.float32(0.0)), steps)
    return log_weight, jnp.mean(acceptance)
