"""The linear-Gaussian model, whose log p(x) and true posterior are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightbound.data.arrays import Dataset
from tightbound.likelihoods import Gaussian
from tightbound.model import VAE, Model
from tightbound.networks import MLP
from tightbound.posteriors import DiagonalGaussian, FullGaussian
from tightbound.schema import Sites

__all__ = ["LinearGaussian", "conditional_normal", "linear_gaussian", "log_normal", "posterior_moments"]


@dataclass(frozen=True)
class LinearGaussian:
    """A model of which everything is known: z ~ N(0, I), x | z ~ N(W z + b, s² I), and q(z|x) affine in x.

    Hence log p(x) = log N(x; b, W Wᵀ + s² I) and p(z|x) = N(Σ Wᵀ(x − b)/s², Σ) with Σ = (I + WᵀW/s²)⁻¹. The arrays are
    float64 copies of the model's float32 numbers: ``weights`` (D, L), ``offset`` (D,), ``noise`` s.
    """

    model: Model
    weights: np.ndarray
    offset: np.ndarray
    noise: float

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """Return log p(x) in nats for rows x (n, D)."""
        covariance = self.weights @ self.weights.T + self.noise**2 * np.eye(len(self.offset))
        return log_normal(np.asarray(x, np.float64) - self.offset, covariance)

    def true_posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (n, L) and covariance (L, L) of p(z|x) for rows x (n, D)."""
        return posterior_moments(self.weights, self.offset, np.full(len(self.offset), self.noise), x)

    def dataset(self, rows: int, seed: int = 0) -> Dataset:
        """Return rows drawn from the model."""
        rng = np.random.default_rng(seed)
        count, latent = self.weights.shape
        clean = rng.standard_normal((rows, latent)) @ self.weights.T + self.offset
        x = clean + self.noise * rng.standard_normal((rows, count))
        return Dataset(x.astype(np.float32), self.model.spec.sites)


def linear_gaussian(
    *, latent: int = 2, sites: int = 3, noise: float = 0.5, exact: bool = True, diagonal: bool = False, seed: int = 0
) -> LinearGaussian:
    """Return a linear-Gaussian model whose q(z|x) is the true posterior (``exact``) or beside it.

    With ``diagonal`` the columns of W are orthogonal, so that p(z|x) has independent components, and q is a
    DiagonalGaussian; otherwise it is a FullGaussian.
    """
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((sites, sites)))[0][:, :latent]
    mixing = np.eye(latent) if diagonal else np.linalg.qr(rng.standard_normal((latent, latent)))[0]
    weights = np.asarray(directions * np.linspace(1.0, 1.5, latent) @ mixing, np.float32).astype(np.float64)
    offset = np.asarray(rng.standard_normal(sites), np.float32).astype(np.float64)
    affine = MLP(hidden=())
    spec = VAE(
        sites=Sites(kind="real", shape=(sites,)),
        latent=latent,
        encoder=affine,
        decoder=affine,
        posterior=DiagonalGaussian() if diagonal else FullGaussian(),
        likelihood=Gaussian(noise="fixed", scale=noise),
    )
    matrix, shift = _affine_posterior(spec.posterior.floor, weights, offset, noise, exact, diagonal)  # type: ignore[union-attr]
    arrays = [jnp.asarray(array, jnp.float32) for array in (weights.T, offset, matrix, shift)]
    model = eqx.tree_at(
        lambda m: [m.decoder.output.weight, m.decoder.output.bias, m.encoder.output.weight, m.encoder.output.bias],
        spec.build(jax.random.key(seed)),
        arrays,
    )
    return LinearGaussian(model, weights, offset, noise)


def log_normal(residual: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return log N(residual; 0, covariance) in nats for rows (n, D)."""
    distance = np.einsum("nd,nd->n", residual, np.linalg.solve(covariance, residual.T).T)
    return -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])


def conditional_normal(
    mean: np.ndarray, covariance: np.ndarray, x: np.ndarray, wanted: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of some cells of x ~ N(mean, covariance) (D,) given others, both by their numbers."""
    block = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, wanted)]).T
    expected = mean[wanted] + block @ (x[given] - mean[given])
    return expected, covariance[np.ix_(wanted, wanted)] - block @ covariance[np.ix_(given, wanted)]


def posterior_moments(
    weights: np.ndarray, offset: np.ndarray, noise: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (n, L) and covariance (L, L) of p(z|x) when x | z ~ N(W z + b, diag(noise²))."""
    scaled = weights / noise[:, None] ** 2
    covariance = np.linalg.inv(np.eye(weights.shape[1]) + weights.T @ scaled)
    return (np.asarray(x, np.float64) - offset) @ scaled @ covariance, covariance


def _affine_posterior(
    floor: float, weights: np.ndarray, offset: np.ndarray, noise: float, exact: bool, diagonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (D, P) and biases (P,) of the encoder; not ``exact``: means moved by 0.3, scales 1.3 times."""
    count, latent = weights.shape
    zero, covariance = posterior_moments(weights, offset, np.full(count, noise), np.zeros((1, count)))
    mean, triangle = zero[0] + 0.3 * (not exact), np.linalg.cholesky(covariance) * (1.0 if exact else 1.3)
    raw = np.log(np.expm1(np.diagonal(triangle) - floor)) - np.log(np.expm1(1.0))
    below = np.zeros(0) if diagonal else triangle[np.tril_indices(latent, -1)]
    shift = np.concatenate([mean, raw, below])
    matrix = np.zeros((count, len(shift)))
    matrix[:, :latent] = weights @ covariance / noise**2
    return matrix, shift
