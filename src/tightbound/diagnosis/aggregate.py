r"""How far the aggregate posterior q(z) = E_x q(z|x) is from the prior: lower bounds on KL(q(z) ‖ p(z)) in nats.

The ELBO falls short of log p(x) by this KL, among others, so a prior that equals the aggregate posterior would raise it
by as much with the same networks (Hoffman and Johnson 2016). The KL itself is not known, but three numbers lie below it:

- **joint**: E log q₋ᵢ(z) − log p(z) with z from q(z|x_i) and q₋ᵢ the mixture of q(z|x_j) over the other rows. Leaving row
  i out makes the mixture independent of z, so that E log q₋ᵢ ≤ log q by Jensen's inequality. Sharp for few latents.
- **marginals**: the same for every latent alone, summed. For a prior with independent latents the KL is the sum over
  latents plus the total correlation, which is not negative. Sharp for any number of latents that are independent.
- **moments**: the KL from the prior of the Gaussian with the mean and covariance of q(z). For a Gaussian prior the KL is
  this plus the KL of q(z) from that Gaussian. Sharp for any Gaussian aggregate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, logsumexp

__all__ = ["Gap", "best", "joint", "marginals", "moments"]

_HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


class Gap(NamedTuple):
    """A lower bound (in expectation) on KL(q(z) ‖ p(z)) in nats, and its standard error over rows."""

    nats: float
    se: float

    @property
    def certain(self) -> float:
        """What the gap exceeds with near certainty: three standard errors below the estimate."""
        return self.nats - 3.0 * self.se


def best(gaps: Iterator[Gap]) -> Gap:
    """Return the sharpest of several lower bounds, by what each exceeds with near certainty."""
    return max(gaps, key=lambda gap: gap.certain)


def joint(log_density: np.ndarray, log_prior: np.ndarray) -> Gap:
    """Return the bound from log q(z_i|x_j) of shape (rows j, points i), point i drawn for row i, and log p(z_i) (n,)."""
    return _mean(_leave_one_out(log_density) - log_prior)


def marginals(z: np.ndarray, mean: np.ndarray, scale: np.ndarray, prior: np.ndarray) -> tuple[Gap, np.ndarray]:
    """Return the bound summed over latents for Gaussian q, and Σ_l log q(z_l|x_j) of shape (rows, points).

    ``z`` (n, L) holds one draw of each row, ``mean`` and ``scale`` (n, L) are the moments of q(z|x), ``prior`` (2, L)
    mean and deviation of the Gaussian prior. The second result is log q(z_i|x_j) where q has independent latents.
    """
    total, terms = np.zeros((len(z), len(z))), np.zeros(len(z))
    for latent in range(z.shape[1]):
        density = _log_normal(z[:, latent], mean[:, latent, None], scale[:, latent, None])
        terms += _leave_one_out(density) - _log_normal(z[:, latent], *prior[:, latent])
        total += density
    return _mean(terms), total


def moments(z: np.ndarray, prior: np.ndarray) -> Gap | None:
    """Return the bound by mean and covariance for a Gaussian prior; None without a covariance.

    A covariance needs finite draws, and twice as many rows as latents. The error that one of n rows makes on average, if
    they are Gaussian, is taken off. The standard error is that of the influence of single rows.
    """
    count, latents = z.shape
    if count < 2 * latents + 2 or not np.isfinite(z).all():
        return None
    standardised = (z.astype(np.float64) - prior[0]) / prior[1]
    centred = standardised - standardised.mean(axis=0)
    covariance = centred.T @ centred / (count - 1)
    sign, log_volume = np.linalg.slogdet(covariance)
    if sign <= 0:
        return None
    offset = float(np.sum(standardised.mean(axis=0) ** 2))
    lost = np.sum(digamma((count - np.arange(1, latents + 1)) / 2) + np.log(2 / (count - 1)))
    nats = 0.5 * (np.trace(covariance) + offset - latents / count - latents - log_volume + lost)
    influence = np.sum(standardised**2, axis=1) - np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
    return Gap(float(nats), float(0.5 * influence.std() / np.sqrt(count)))


def _mean(terms: np.ndarray) -> Gap:
    return Gap(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms))))


def _leave_one_out(log_density: np.ndarray) -> np.ndarray:
    others = np.array(log_density)
    np.fill_diagonal(others, -np.inf)
    return np.asarray(logsumexp(others, axis=0)) - np.log(len(others) - 1)


def _log_normal(z: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray(-0.5 * ((z - mean) / scale) ** 2 - np.log(scale) - _HALF_LOG_TWO_PI)
