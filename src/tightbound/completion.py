"""What a model says of the unseen cells of a row given the seen ones: impute, draw, and tell which cell is odd.

All of it rests on draws z_k with weights w_k ∝ p(x_seen|z_k) p(z_k) / r(z_k), which stand for p(z|x_seen). They come
from r = ½ q(z|x_seen) + ½ p(z): an encoder that was trained on whole rows may be wrong about rows with holes, and with half of
the draws from the prior no weight exceeds 2 p(x_seen|z).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tightbound.distributions import averages, centre
from tightbound.errors import SpecError
from tightbound.model import Model
from tightbound.rows import Row, Rows, RowSource, both_ways, in_blocks, in_haste, over_blocks, require_fixed

__all__ = ["Completions", "complete", "conformal_p_values", "impute", "latents_given", "site_scores"]

BLOCK = 16  # rows, with all their draws, at once
LARGEST_BLOCK = 2**26  # probabilities of levels, of all draws and sites, in a block


class Completions(NamedTuple):
    """Rows drawn from p(x_unseen | x_seen): ``x`` (m, n, D) with the seen cells as they were.

    ``ess`` (n,) is the effective sample size of the draws that they were chosen from: far above m, or they repeat one another.
    """

    x: np.ndarray
    ess: np.ndarray


def impute(model: Model, data: RowSource, *, draws: int = 1000, whole: bool = True, seed: int = 0) -> np.ndarray:
    """Return the rows (n, D) with every unseen cell at E[x_d | x_seen]; a category at its most probable value.

    The expectation is Σ_k w_k E[x_d|z_k] over ``draws`` importance samples, in the scale of the sites (under a logarithm, if
    that is how the column is modelled). All rows use the same noise: a row is filled alike wherever it stands. With ``whole``
    what the sites hold as whole numbers is rounded. Raises :class:`~tightbound.errors.SpecError` for fewer than two draws, and
    the errors of :func:`tightbound.importance` for rows.
    """
    x = _over(_impute, model, data, draws, seed)[0]
    for part in model.spec.sites.pieces:
        if whole and part.sites.kind != "real":
            x[:, part.at] = np.round(x[:, part.at])
    return _kept(data, x)


def complete(model: Model, data: RowSource, count: int, *, draws: int = 1000, seed: int = 0) -> Completions:
    """Return ``count`` draws from p(x_unseen | x_seen) for every row: multiple imputation (Rubin 1987).

    A z is chosen from ``draws`` importance samples by its weight (Rubin 1988), then the unseen cells are drawn from p(x|z):
    all cells of a draw belong together. Raises the errors of :func:`impute`.
    """
    if count < 1:
        raise SpecError("complete", (("count", f"expected at least 1, got {count}"),))
    x, ess = _over(_complete, model, data, draws, seed, count, block=BLOCK if len(data.x) > 1 else 1)
    return Completions(_kept(data, np.moveaxis(x, 1, 0)), ess)


def latents_given(model: Model, data: RowSource, count: int, *, draws: int = 1000, seed: int = 0) -> Float[np.ndarray, "n m L"]:
    """Return ``count`` draws from p(z | x_seen) for every row, chosen as in :func:`complete`; compiled in haste."""
    return _over(_latents, model, data, draws, seed, count)[0]


def site_scores(model: Model, data: RowSource, *, draws: int = 1000, seed: int = 0, haste: bool = False) -> np.ndarray:
    """Return log p(x_d | the other seen cells) in nats for every seen cell (n, D), NaN for the others: low is odd.

    p(x_d | x_rest) = p(x) / p(x_rest) = Σ_k w_k / Σ_k (w_k / p(x_d|z_k)): both are means over the same draws, so that the
    estimate is on neither side of the truth. In ``haste``, for few rows, the program is compiled without XLA's optimiser.
    Raises the errors of :func:`impute`.
    """
    scores = _over(_site_scores[haste], model, data, draws, seed)[0]
    return scores if data.observed is None else np.where(data.observed, scores, np.nan)


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return the share of calibration rows, and the row itself, whose score is as low or lower: p = (1 + #{c ≤ s}) / (m + 1).

    ``calibration`` (m,) are the scores of rows like the normal ones that the model was not trained on. Of rows from the same
    source at most a share α has p ≤ α, whatever the scores are (Vovk et al. 2005): the false-alarm rate of the alarm "p ≤ α".
    The smallest p is 1/(m + 1).

    >>> conformal_p_values(np.array([0.5, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [0.25, 1.0]
    """
    ranked = np.sort(calibration)
    return (1.0 + np.searchsorted(ranked, scores, side="right")) / (len(ranked) + 1.0)


def _over(
    function: Any, model: Model, data: RowSource, draws: int, seed: int, *more: int, block: int = BLOCK
) -> tuple[np.ndarray, ...]:
    if draws < 2:
        raise SpecError("completion", (("draws", f"expected at least 2, got {draws}"),))
    require_fixed(model.spec.sites, data)
    levels = sum(part.sites.count * max(part.sites.levels, 1) for part in model.spec.sites.pieces)
    block = max(1, min(block, LARGEST_BLOCK // (draws * levels)))
    return over_blocks(function, in_blocks(data, block), model, jax.random.key(seed), math.ceil(draws / 2), *more)


def _kept(data: RowSource, x: np.ndarray) -> np.ndarray:
    """Return rows with the cells that are seen as they were."""
    seen = np.ones(data.x.shape, bool) if data.observed is None else data.observed
    return np.where(seen, data.x, x)


class _Weighted(NamedTuple):
    """Draws of z for one row, with their normalised log-weights, and log p(x_d|z) of every site."""

    z: Float[Array, "K L"]
    log_weight: Float[Array, "K"]
    sites: Float[Array, "K D"]


def _weighted(model: Model, row: Row, key: Array, half: int) -> _Weighted:
    q, prior = model.posterior(row.x, row.observed), model.prior()
    q_key, prior_key = jax.random.split(key)
    z = jnp.concatenate([q.sample(q_key, (half,)), prior.sample(prior_key, (half,))])

    def weigh(z: Array) -> tuple[Array, Array]:
        sites, log_prior = model.site_log_likelihoods(z, *row), prior.log_prob(z)
        return jnp.sum(sites) + log_prior - jnp.logaddexp(q.log_prob(z), log_prior), sites

    log_weight, sites = jax.vmap(weigh)(z)
    return _Weighted(z, jax.nn.log_softmax(log_weight), sites)


@eqx.filter_jit
def _impute(rows: Rows, index: Array, model: Model, key: Array, half: int) -> tuple[Array]:
    def one(row: Row) -> Array:
        drawn = _weighted(model, row, key, half)
        parts = jax.vmap(lambda z: averages(model.likelihood(z, row.exposure)))(drawn.z)
        weight = jnp.exp(drawn.log_weight)
        averaged = tuple(jnp.tensordot(weight, part, 1) for part in parts)
        return centre(model.likelihood(drawn.z[0], row.exposure), averaged)

    return (jax.vmap(one)(rows.batch(index, key).rows),)


def _chosen(model: Model, row: Row, key: Array, half: int, count: int) -> tuple[Array, Array]:
    """Return draws (count, L) from p(z | x_seen), and the effective sample size of those that they are chosen from."""
    key, choice_key = jax.random.split(key)
    drawn = _weighted(model, row, key, half)
    chosen = drawn.z[jax.random.categorical(choice_key, drawn.log_weight, shape=(count,))]
    return chosen, 1.0 / jnp.sum(jnp.exp(2.0 * drawn.log_weight))


def _row_keys(key: Array, index: Array) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)


@eqx.filter_jit
def _complete(rows: Rows, index: Array, model: Model, key: Array, half: int, count: int) -> tuple[Array, Array]:
    def one(row: Row, key: Array) -> tuple[Array, Array]:
        key, site_key = jax.random.split(key)
        chosen, ess = _chosen(model, row, key, half, count)
        keys = jax.random.split(site_key, count)
        x = jax.vmap(lambda z, k: model.likelihood(z, row.exposure).sample(k).astype(jnp.float32))(chosen, keys)
        return x, ess

    return jax.vmap(one)(rows.batch(index, key).rows, _row_keys(key, index))


@in_haste
def _latents(rows: Rows, index: Array, model: Model, key: Array, half: int, count: int) -> tuple[Array]:
    def one(row: Row, key: Array) -> Array:
        return _chosen(model, row, key, half, count)[0]

    return (jax.vmap(one)(rows.batch(index, key).rows, _row_keys(key, index)),)


@both_ways
def _site_scores(rows: Rows, index: Array, model: Model, key: Array, half: int) -> tuple[Array]:
    def one(row: Row) -> Array:
        drawn = _weighted(model, row, key, half)
        return -jax.nn.logsumexp(drawn.log_weight[:, None] - drawn.sites, axis=0)

    return (jax.vmap(one)(rows.batch(index, key).rows),)
