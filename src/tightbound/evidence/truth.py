"""The true posterior p(z|x) = p(x|z) p(z) / p(x): draws from it by the No-U-Turn sampler.

With one or two latents, :func:`tightbound.evidence.exact.posterior_grid` has its density as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import blackjax
import equinox as eqx
import jax
import numpy as np
from blackjax import diagnostics
from jaxtyping import Array

from tightbound.errors import DataError, SpecError
from tightbound.evidence.proposals import require_density
from tightbound.model import Model
from tightbound.rows import Row, RowSource, example, require_fixed

__all__ = ["PosteriorDraws", "true_posterior"]

TOO_DIFFERENT = 1.01  # R-hat above which chains have not found the same distribution (Vehtari et al. 2021)
TOO_FEW = 100  # effective draws per chain that rank-normalised diagnostics need
OVERDISPERSION = 2.0


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws z (chains, draws, L) from p(z|x), and whether to believe them.

    ``r_hat`` and ``ess`` (L,) are the rank-normalised potential scale reduction and the bulk effective sample size of
    Vehtari et al. (2021); ``divergences`` counts trajectories that left the region where the sampler can be trusted.
    """

    z: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    divergences: int
    acceptance: float

    @property
    def mean(self) -> np.ndarray:
        """E[z|x], shape (L,)."""
        return self.z.mean(axis=(0, 1))

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of z given x, shape (L, L)."""
        return np.atleast_2d(np.cov(self.z.reshape(-1, self.z.shape[-1]), rowvar=False))

    def warnings(self) -> tuple[str, ...]:
        """Return what speaks against believing the draws, in words; nothing when nothing does."""
        found = []
        if not np.all(self.r_hat <= TOO_DIFFERENT):
            found.append(
                f"the chains disagree (R-hat up to {np.max(self.r_hat):.3f}, expected at most {TOO_DIFFERENT}): p(z|x) may "
                "have several modes; draw more, with a longer warm-up, and look at the chains one by one"
            )
        if np.min(self.ess) < TOO_FEW * len(self.z):
            found.append(f"only {np.min(self.ess):.0f} effective draws for one of the latents: draw more")
        if self.divergences:
            found.append(f"{self.divergences:,} divergent trajectories: the draws may miss a narrow part of p(z|x)")
        return tuple(found)


def true_posterior(
    model: Model, data: RowSource, row: int = 0, *, draws: int = 1000, chains: int = 4, warmup: int = 500, seed: int = 0
) -> PosteriorDraws:
    """Draw from p(z|x) of one row by the No-U-Turn sampler (Hoffman & Gelman 2014), ``draws`` from each chain.

    Chains start at draws that are spread with twice the variance of q(z|x); step size and a diagonal mass matrix are adapted
    during ``warmup`` and then frozen. Raises :class:`~tightbound.errors.SpecError` for too few draws, chains or steps of
    warm-up, and :class:`~tightbound.errors.CombinationError` where z has no density.
    """
    given = (("draws", draws, 4), ("chains", chains, 2), ("warmup", warmup, 20))
    problems = tuple((name, f"expected at least {least}, got {value}") for name, value, least in given if value < least)
    if problems:
        raise SpecError("true_posterior", problems)
    require_fixed(model.spec.sites, data)
    require_density(model, "the No-U-Turn sampler")
    keys = jax.random.split(jax.random.key(seed), chains)
    z, divergent, acceptance = (np.asarray(part) for part in _chains(model, example(data, row), keys, warmup, draws))
    if not np.isfinite(z).all():
        raise DataError(f"p(z|x) of row {row} could not be sampled: its log-density is not finite where q(z|x) is")
    return PosteriorDraws(
        z,
        np.atleast_1d(diagnostics.rhat(z)),
        np.atleast_1d(diagnostics.ess_bulk(z)),
        int(divergent.sum()),
        float(acceptance.mean()),
    )


@eqx.filter_jit
def _chains(model: Model, row: Row, keys: Array, warmup: int, draws: int) -> tuple[Array, Array, Array]:
    prior = model.prior()

    def log_density(z: Array) -> Array:
        return model.log_likelihood(z, *row) + prior.log_prob(z)

    def chain(key: Array) -> tuple[Array, Array, Array]:
        start_key, warmup_key, draw_key = jax.random.split(key, 3)
        q = model.posterior(row.x, row.observed)
        start = q.mean + math.sqrt(OVERDISPERSION) * (q.sample(start_key) - q.mean)
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, parameters), _ = adaptation.run(warmup_key, start, num_steps=warmup)
        kernel = blackjax.nuts(log_density, **parameters)

        def step(state: Any, key: Array) -> tuple[Any, tuple[Array, Array, Array]]:
            state, told = kernel.step(key, state)
            return state, (state.position, told.is_divergent, told.acceptance_rate)

        return jax.lax.scan(step, state, jax.random.split(draw_key, draws))[1]

    return jax.vmap(chain)(keys)
