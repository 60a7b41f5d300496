"""What a model says of the unseen cells of a row given the seen ones: impute, draw, and tell which cell is odd.

All of it rests on draws z_k with weights w_k ∝ p(x_seen|z_k) p(z_k) / r(z_k), which stand for p(z|x_seen). They come
from r = ½ q(z|x_seen) + ½ p(z): an encoder that was trained on whole rows may be wrong about rows with holes, and with half of
the draws from the prior no weight exceeds 2 p(x_seen|z).

Several models of one spec are taken for their mixture p(x) = (1/M) Σ_m p_m(x): its latents are (m, z), each member is drawn
from equally often, and its draws have their weight among those of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tightbound.distributions import averages, centre
from tightbound.errors import CombinationError, SpecError
from tightbound.model import Model, stacked
from tightbound.rows import Row, Rows, RowSource, both_ways, in_blocks, in_haste, over_blocks, require_fixed

__all__ = ["Completions", "Models", "complete", "conformal_p_values", "enough", "impute", "latents_given", "site_scores"]

Models = Model | Sequence[Model]
BLOCK = 16  # rows, with all their draws, at once
LARGEST_BLOCK = 2**26  # probabilities of levels, of all draws and sites, in a block


class Completions(NamedTuple):
    """Rows drawn from p(x_unseen | x_seen): ``x`` (m, n, D) with the seen cells as they were.

    ``ess`` (n,) is the effective sample size of the draws that they were chosen from: far above m, or they repeat one another.
    """

    x: np.ndarray
    ess: np.ndarray


def impute(model: Models, data: RowSource, *, draws: int = 1000, whole: bool = True, seed: int = 0) -> np.ndarray:
    """Return the rows (n, D) with every unseen cell at E[x_d | x_seen]; a category at its most probable value.

    ``model`` may be several models of one spec: their mixture. The expectation is Σ_k w_k E[x_d|z_k] over ``draws`` importance
    samples from each, in the scale of the sites (under a logarithm, if that is how the column is modelled). All rows use the
    same noise: a row is filled alike wherever it stands. With ``whole`` what the sites hold as whole numbers is rounded. Raises
    :class:`~tightbound.errors.SpecError` for fewer than two draws, :class:`~tightbound.errors.CombinationError` for models of
    different specs, and the errors of :func:`tightbound.importance` for rows.
    """
    x = _over(_impute, model, data, draws, seed)[0]
    for part in _members(model)[0].spec.sites.pieces:
        if whole and part.sites.kind != "real":
            x[:, part.at] = np.round(x[:, part.at])
    return _kept(data, x)


def complete(model: Models, data: RowSource, count: int, *, draws: int = 1000, seed: int = 0) -> Completions:
    """Return ``count`` draws from p(x_unseen | x_seen) for every row: multiple imputation (Rubin 1987).

    A z is chosen from ``draws`` importance samples by its weight (Rubin 1988), then the unseen cells are drawn from p(x|z):
    all cells of a draw belong together. Raises the errors of :func:`impute`.
    """
    if count < 1:
        raise SpecError("complete", (("count", f"expected at least 1, got {count}"),))
    x, ess = _over(_complete, model, data, draws, seed, count, block=BLOCK if len(data.x) > 1 else 1)
    return Completions(_kept(data, np.moveaxis(x, 1, 0)), ess)


def enough(draws: int, count: int) -> int:
    """Return how many importance samples to choose ``count`` draws from: as asked for, but ten for each at least."""
    return max(draws, 10 * count)


def latents_given(model: Model, data: RowSource, count: int, *, draws: int = 1000, seed: int = 0) -> Float[np.ndarray, "n m L"]:
    """Return ``count`` draws from p(z | x_seen) for every row, chosen as in :func:`complete`; compiled in haste."""
    return _over(_latents, model, data, draws, seed, count)[0]


def site_scores(model: Models, data: RowSource, *, draws: int = 1000, seed: int = 0, haste: bool = False) -> np.ndarray:
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
    function: Any, model: Models, data: RowSource, draws: int, seed: int, *more: int, block: int = BLOCK
) -> tuple[np.ndarray, ...]:
    if draws < 2:
        raise SpecError("completion", (("draws", f"expected at least 2, got {draws}"),))
    members = _members(model)
    sites = members[0].spec.sites
    require_fixed(sites, data)
    levels = sum(part.sites.count * max(part.sites.levels, 1) for part in sites.pieces)
    block = max(1, min(block, LARGEST_BLOCK // (len(members) * draws * levels)))
    return over_blocks(function, in_blocks(data, block), stacked(members), jax.random.key(seed), math.ceil(draws / 2), *more)


def _members(model: Models) -> Sequence[Model]:
    members = [model] if isinstance(model, Model) else model
    if any(member.spec != members[0].spec for member in members):
        raise CombinationError("the models of a mixture are of different specs here: give models of one spec")
    return members


def _kept(data: RowSource, x: np.ndarray) -> np.ndarray:
    """Return rows with the cells that are seen as they were."""
    seen = np.ones(data.x.shape, bool) if data.observed is None else data.observed
    return np.where(seen, data.x, x)


class _Weighted(NamedTuple):
    """Draws of z for one row from M models, with log-weights normalised over all of them, and log p(x_d|z) of every site."""

    z: Float[Array, "M K L"]
    log_weight: Float[Array, "M K"]
    sites: Float[Array, "M K D"]


def _each(function: Any, models: Model, *arguments: Any) -> Any:
    """Return ``function(model, *own)`` of every model, with its own of the arguments, stacked."""
    return eqx.filter_vmap(function, in_axes=(eqx.if_array(0), *(0 for _ in arguments)))(models, *arguments)


def _weighted(models: Model, row: Row, key: Array, half: int) -> _Weighted:
    def drawn(model: Model) -> tuple[Array, Array, Array]:
        q, prior = model.posterior(row.x, row.observed), model.prior()
        q_key, prior_key = jax.random.split(key)
        z = jnp.concatenate([q.sample(q_key, (half,)), prior.sample(prior_key, (half,))])

        def weigh(z: Array) -> tuple[Array, Array]:
            sites, log_prior = model.site_log_likelihoods(z, *row), prior.log_prob(z)
            return jnp.sum(sites) + log_prior - jnp.logaddexp(q.log_prob(z), log_prior), sites

        return z, *jax.vmap(weigh)(z)

    z, log_weight, sites = _each(drawn, models)
    return _Weighted(z, jax.nn.log_softmax(log_weight, axis=(0, 1)), sites)


@eqx.filter_jit
def _impute(rows: Rows, index: Array, models: Model, key: Array, half: int) -> tuple[Array]:
    def one(row: Row) -> Array:
        drawn = _weighted(models, row, key, half)

        def averaged(model: Model, z: Array, weight: Array) -> tuple[Array, ...]:
            parts = jax.vmap(lambda z: averages(model.likelihood(z, row.exposure)))(z)
            return tuple(jnp.tensordot(weight, part, 1) for part in parts)

        known = _each(averaged, models, drawn.z, jnp.exp(drawn.log_weight))
        first = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, models)
        family = first.likelihood(drawn.z[0, 0], row.exposure)
        return centre(family, tuple(jnp.sum(part, axis=0) for part in known))

    return (jax.vmap(one)(rows.batch(index, key).rows),)


class _Chosen(NamedTuple):
    """Draws from p(m, z | x_seen), and the effective sample size of those that they are chosen from."""

    member: Int[Array, "count"]
    z: Float[Array, "count L"]
    ess: Float[Array, ""]


def _chosen(models: Model, row: Row, key: Array, half: int, count: int) -> _Chosen:
    key, choice_key = jax.random.split(key)
    drawn = _weighted(models, row, key, half)
    # By the cumulated weights: a Gumbel number for every pair of a draw and a choice would fill the memory.
    at = jax.random.choice(choice_key, drawn.log_weight.size, (count,), p=jnp.exp(drawn.log_weight.ravel()))
    z = drawn.z.reshape(-1, drawn.z.shape[-1])[at]
    return _Chosen(at // drawn.z.shape[1], z, 1.0 / jnp.sum(jnp.exp(2.0 * drawn.log_weight)))


def _row_keys(key: Array, index: Array) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)


@eqx.filter_jit
def _complete(rows: Rows, index: Array, models: Model, key: Array, half: int, count: int) -> tuple[Array, Array]:
    def one(row: Row, key: Array) -> tuple[Array, Array]:
        key, site_key = jax.random.split(key)
        chosen = _chosen(models, row, key, half, count)

        def draw(member: Array, z: Array, key: Array) -> Array:
            # By every member, of which one is taken: the weights of one each would be gathered for every draw.
            x = _each(lambda model: model.likelihood(z, row.exposure).sample(key).astype(jnp.float32), models)
            return x[member]

        return jax.vmap(draw)(chosen.member, chosen.z, jax.random.split(site_key, count)), chosen.ess

    return jax.vmap(one)(rows.batch(index, key).rows, _row_keys(key, index))


@in_haste
def _latents(rows: Rows, index: Array, models: Model, key: Array, half: int, count: int) -> tuple[Array]:
    def one(row: Row, key: Array) -> Array:
        return _chosen(models, row, key, half, count).z

    return (jax.vmap(one)(rows.batch(index, key).rows, _row_keys(key, index)),)


@both_ways
def _site_scores(rows: Rows, index: Array, models: Model, key: Array, half: int) -> tuple[Array]:
    def one(row: Row) -> Array:
        drawn = _weighted(models, row, key, half)
        return -jax.nn.logsumexp(drawn.log_weight[..., None] - drawn.sites, axis=(0, 1))

    return (jax.vmap(one)(rows.batch(index, key).rows),)
