"""What the checks measure on the device: three small programs, each over blocks of rows.

Everything that leaves this module is a NumPy array: the checks themselves are arithmetic on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from tightbound.distributions import (
    GaussianMixture,
    SharedFamilyMixture,
    diagonal_gaussian,
    divergence,
    is_diagonal_gaussian,
)
from tightbound.model import Model
from tightbound.rows import Row, Rows, RowSource, both_ways, hasty, in_blocks, over_blocks

__all__ = ["Posteriors", "Prior", "gaussian_family", "posteriors", "prior"]

BLOCK = 64  # a mixture prior of thousands of components meets every draw of a block at once
DRAWS = 4  # of every row, where the KL has no closed form
PRIOR_DRAWS = 2000
POINTS_AT_ONCE = 32
SEED = 0


class Posteriors(NamedTuple):
    """q(z|x) of n rows: means and deviations (n, L), the KL from the prior in nats and one draw of each row.

    ``kl`` is (n, L) where it splits into latents and (n, 1) otherwise. ``log_prior`` (n,) is log p(z) at ``draw``
    (n, L). ``noise`` (n, D) is σ of p(x|z) at the mean of q(z|x), (n, 0) unless the likelihood is Gaussian.
    """

    mean: np.ndarray
    scale: np.ndarray
    kl: np.ndarray
    draw: np.ndarray
    log_prior: np.ndarray
    noise: np.ndarray


class Prior(NamedTuple):
    """p(z): its variance per latent (L,), and what is special about it.

    ``gaussian`` holds mean and deviation (2, L) of a diagonal Gaussian prior. A mixture has ``weights`` (K,) and, in
    ``responsibility`` (K,), the largest probability with which any of the given points came from each component.
    """

    variance: np.ndarray
    gaussian: np.ndarray | None = None
    weights: np.ndarray | None = None
    responsibility: np.ndarray | None = None


def posteriors(model: Model, data: RowSource) -> Posteriors:
    """Return what q(z|x) is for every row; the noise is a function of the row's number."""
    count, key = len(data.x), jax.random.key(SEED)
    program = _posteriors[hasty(data, DRAWS)]
    # Gaussian noise is drawn on the host: the random generator would take longer to compile than the rest.
    noise = np.random.default_rng(SEED).standard_normal((count, DRAWS, model.spec.latent), np.float32)

    def of_block(rows: Rows, index: Any) -> tuple[Array, ...]:
        return program(rows, index, model, noise[index], key)

    return Posteriors(*over_blocks(of_block, in_blocks(data, BLOCK)))


def gaussian_family(model: Model) -> Literal["diagonal", "full"] | None:
    """Return which kind of Gaussian q(z|x) is, None when it is none."""
    found: list[Literal["diagonal", "full"] | None] = []

    def look(x: Array) -> Array:
        q = model.posterior(x)
        found.append("diagonal" if is_diagonal_gaussian(q) else "full" if isinstance(q, dist.MultivariateNormal) else None)
        return q.mean

    jax.eval_shape(look, jax.ShapeDtypeStruct((model.spec.sites.count,), jnp.float32))
    return found[0]


def prior(model: Model, points: np.ndarray) -> Prior:
    """Return what p(z) is, with the responsibilities of its components for ``points`` (n, L)."""
    variance, *special = _prior(model, jnp.asarray(points), jax.random.key(SEED + 1))
    return Prior(np.asarray(variance), *(None if part is None else np.asarray(part) for part in special))


@both_ways
def _posteriors(
    rows: Rows, index: Int[Array, "B"], model: Model, noise: Float[Array, "B S L"], key: Array
) -> tuple[Array, ...]:
    p_z = model.prior()

    def one(row: Row, number: Array, noise: Array) -> tuple[Array, ...]:
        q = model.posterior(row.x, row.observed)
        draws = _draw(q, noise, jax.random.fold_in(key, number))
        log_prior = jax.vmap(p_z.log_prob)(draws)
        rate = jnp.mean(jax.vmap(lambda z: divergence(q, p_z, z))(draws), axis=0)
        p_x = model.likelihood(q.mean, row.exposure)
        sigma = p_x.scale if isinstance(p_x, dist.Normal) else jnp.zeros(0)
        return q.mean, jnp.sqrt(q.variance), rate, draws[0], log_prior[0], sigma

    return jax.vmap(one)(rows.batch(index, key).rows, index, noise)


def _draw(q: dist.Distribution, noise: Float[Array, "S L"], key: Array) -> Float[Array, "S L"]:
    """Return draws from q(z|x), made of standard normal noise where it is Gaussian and of the key otherwise."""
    if is_diagonal_gaussian(q):
        return q.base_dist.loc + q.base_dist.scale * noise
    if isinstance(q, dist.MultivariateNormal):
        return q.loc + noise @ q.scale_tril.T
    return q.sample(key, (DRAWS,))


@eqx.filter_jit
def _prior(model: Model, points: Float[Array, "n L"], key: Array) -> tuple[Array, Array | None, Array | None, Array | None]:
    p_z = model.prior()
    if is_diagonal_gaussian(p_z):
        return p_z.base_dist.scale**2, jnp.stack([p_z.base_dist.loc, p_z.base_dist.scale]), None, None
    variance = jnp.var(p_z.sample(key, (PRIOR_DRAWS,)), axis=0)
    components = _components(p_z)
    if components is None:
        return variance, None, None, None
    log_weights, member = components

    def responsibilities(z: Array) -> Array:
        return jax.nn.softmax(log_weights + member(z))

    largest = jnp.max(jax.lax.map(responsibilities, points, batch_size=POINTS_AT_ONCE), axis=0)
    return variance, None, jnp.exp(log_weights), largest


def _components(p_z: Any) -> tuple[Array, Callable[[Array], Array]] | None:
    """Return log-weights (K,) and the log-densities (K,) of a mixture's members as a function of z, or None."""
    if isinstance(p_z, GaussianMixture):
        normal = jax.vmap(lambda loc, scale, z: diagonal_gaussian(loc, scale).log_prob(z), in_axes=(0, 0, None))
        return p_z.log_weights, lambda z: normal(p_z.loc, p_z.scale, z)
    if isinstance(p_z, SharedFamilyMixture):
        head: Any = p_z.head
        member = jax.vmap(lambda parameters, z: head(parameters).log_prob(z), in_axes=(0, None))
        return p_z.log_weights, lambda z: member(p_z.parameters, z)
    return None
