"""The contract of likelihoods, distributions over the sites of one x."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from tightbound.errors import SupportError
from tightbound.likelihoods import AnyLikelihood
from tightbound.model import VAE, Model, merge, trainable
from tightbound.networks import MLP
from tightbound.schema import Part, Sites, Statistics
from tightbound.testing.comparisons import (
    FALSE_ALARM,
    Grid,
    Slopes,
    at_extremes,
    check_alive,
    check_counts,
    check_finite,
    check_shapes,
    check_slopes,
    check_total,
    draw,
    label,
    moved,
    quantile_labels,
    require,
    same_bits,
    slopes,
)
from tightbound.testing.examples import example_statistics

__all__ = ["check_likelihood"]

_NONSENSE = (np.nan, np.inf, -np.inf, 1e30, -1e30)
_LARGEST_COUNT = 2048
_MOST_ROWS = 2**16


def check_likelihood(
    spec: AnyLikelihood, sites: Sites, *, statistics: Statistics | None = None, extreme: float = 1e4, seed: int = 0
) -> None:
    """Raise AssertionError unless p(x|z) keeps the contract of a likelihood over these sites.

    In a model of affine maps, with random weights:

    - the declared measure is that of the sites, draws and site log-densities have shape (D,);
    - each site sums to 1 (over all levels, or counts up to 2,048) or integrates to 1, and the draws fit it (chi-square);
      of sites that depend on each other given z (``independent`` is false), which have to be few, so do all rows together;
    - ``Model.decode`` gives the mean of each independent site, or the most probable category;
    - with an exposure, twice the exposure gives twice the mean;
    - masked sites have no influence on log p(x|z), on q(z|x) or on any gradient, bit for bit, whatever their cells
      hold (NaN, ±inf, ±1e30), and the decoder's numbers for them get a gradient of exactly 0; a likelihood of dependent sites
      refuses them instead;
    - every trained array of the head and the numbers from the decoder get a gradient, which is the derivative;
    - decoder outputs and trained arrays of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison, shared among the sites.
    """
    independent = getattr(spec, "independent", True)
    sites = sites.replace(missing=independent)
    name = f"{label(spec)} on {sites.describe()}"
    statistics = statistics or example_statistics(sites)
    build_key, move_key, z_key, draw_key = jax.random.split(jax.random.key(seed), 4)
    affine = MLP(hidden=())
    model = VAE(sites=sites, latent=2, encoder=affine, decoder=affine, likelihood=spec).build(build_key, statistics)
    model = eqx.tree_at(lambda m: m.likelihood_head, model, moved(model.likelihood_head, move_key))
    require(
        model.measure == sites.measure,
        f"{name}: declares the {model.measure} measure, but the sites have densities against the {sites.measure} measure",
    )
    z, exposure = jax.random.normal(z_key, (2,)), jnp.float32(2.5) if sites.exposure else None
    check_shapes(name, partial(model.likelihood, exposure=exposure), z, (sites.count,), (sites.count,))
    draws = np.asarray(eqx.filter_jit(draw)(partial(model.likelihood, exposure=exposure), z, draw_key), np.float64)
    if independent:
        _check_sites(name, model, z, exposure, draws)
        _check_masked(name, model, z, exposure, draws[:2].astype(np.float32))
    else:
        _check_rows(name, model, z, draws)
        _check_refused(name, spec, sites.replace(missing=True))
    x = jnp.asarray(draws[0], jnp.float32)
    gradient, found = _likelihood_gradient(model.likelihood_head, model.decoder(z), x, exposure)
    check_alive(name, gradient)
    check_slopes(name, found)
    check_finite(f"{name} at ±{extreme:g}", _likelihood_extremes(model.likelihood_head, x, exposure, extreme))


def _check_sites(name: str, model: Model, z: Array, exposure: Array | None, draws: np.ndarray) -> None:
    """Check mass, draws (n, D) and decoded mean of every site."""
    for part in model.spec.sites.pieces:
        _check_part(name, model, z, exposure, draws[:, part.at], part)


def _check_rows(name: str, model: Model, z: Array, draws: np.ndarray) -> None:
    """Check mass and draws (n, D) of all rows that there are, for sites that depend on each other."""
    sites = model.spec.sites
    levels = 2 if sites.kind == "binary" else sites.levels
    count = levels**sites.count
    if count > _MOST_ROWS:
        raise ValueError(f"{name}: {count:,} rows are too many to enumerate, expected at most {_MOST_ROWS:,}: take fewer sites")
    places = levels ** np.arange(sites.count)
    rows = np.arange(count)[:, None] // places % levels
    factors = np.asarray(_log_densities(model, z, None, rows.astype(np.float32)), np.float64)
    mass = np.exp(factors.sum(axis=1))
    check_total(name, float(mass.sum()))
    inside = np.all((draws == np.round(draws)) & (draws >= 0) & (draws < levels))
    require(bool(inside), f"{name}: a draw lies outside the support")
    check_counts(name, mass, np.bincount((draws @ places).astype(int), minlength=count), FALSE_ALARM)


def _check_refused(name: str, spec: Any, sites: Sites) -> None:
    try:
        spec.check(sites)
    except SupportError:
        return
    raise AssertionError(f"{name}: sites depend on each other, yet rows with missing sites are not refused")


def _check_part(name: str, model: Model, z: Array, exposure: Array | None, draws: np.ndarray, part: Part) -> None:
    """Check sites of one kind, from draws (n, d) of theirs."""
    sites, columns = part.sites, part.at
    real, count = sites.kind == "real", len(columns)
    if real:
        grids = [Grid.around(draws[:, [site]]) for site in range(count)]
        support = np.stack([grid.points[:, 0] for grid in grids], axis=1)
    else:
        sizes = {"binary": 2, "count": _LARGEST_COUNT}
        values = np.arange(sizes.get(sites.kind, sites.levels), dtype=np.float64)
        support = np.repeat(values[:, None], count, axis=1)
    rows = np.zeros((len(support), model.spec.sites.count), np.float32)
    rows[:, columns] = support
    log_density, decoded, doubled = (np.asarray(a)[..., columns] for a in _examine_sites(model, z, exposure, rows))
    with np.errstate(over="ignore"):  # a wrong density may well overflow: its mass will say so
        mass = np.exp(np.asarray(log_density, np.float64))
    if real:
        mass *= np.stack([grid.weights for grid in grids], axis=1)
    for site in range(count):
        label = f"{name}, site {columns[site]}"
        check_total(label, float(np.sum(mass[:, site])))
        if real:
            groups = quantile_labels(mass[:, site])
            position = np.searchsorted(grids[site].edges[0], draws[:, site])
            tables = (np.bincount(groups, mass[:, site]), np.bincount(groups[position], minlength=groups.max() + 1))
        else:
            whole = np.round(draws[:, site]).astype(int)
            require(bool(np.all(whole == draws[:, site])), f"{label}: a draw is not a whole number")
            size = sites.sizes[site] if sites.sizes else len(mass)
            require(bool(np.all((whole >= 0) & (whole < size))), f"{label}: a draw lies outside the support")
            tables = (mass[:, site], np.bincount(whole, minlength=len(mass)))
        check_counts(label, *tables, FALSE_ALARM / count)
    mean = np.sum(support * mass, axis=0)
    expected = np.argmax(mass, axis=0) if sites.kind == "category" else mean
    require(
        np.allclose(decoded, expected, rtol=2e-3, atol=2e-3),
        f"{name}: Model.decode gives {np.asarray(decoded)}, the sum over the support is {expected}",
    )
    require(
        exposure is None or np.allclose(doubled, 2 * np.asarray(decoded), rtol=1e-3),
        f"{name}: twice the exposure must give twice the mean, but {decoded} becomes {doubled}",
    )


def _check_masked(name: str, model: Model, z: Array, exposure: Array | None, x: np.ndarray) -> None:
    """Check that masked sites of x (D,) have no influence on values and gradients."""
    row = jnp.asarray(x[0])
    observed = (jnp.arange(len(row)) % 2 == 0) & (len(row) > 1)
    reference = _masked_probe(model, z, row, observed, exposure)
    check_finite(f"{name} with masked sites", reference)
    for nonsense in (*_NONSENSE, float(x[1][-1])):
        other = _masked_probe(model, z, jnp.where(observed, row, jnp.float32(nonsense)), observed, exposure)
        require(
            same_bits(reference, other),
            f"{name}: masked cells that hold {nonsense} change log p(x|z), q(z|x) or a gradient; fill them before use",
        )
    masked = ~np.asarray(observed)[np.ravel(model.likelihood_head.owners())]
    of_masked = np.ravel(reference["decoder"])[masked]
    require(
        not np.any(of_masked),
        f"{name}: the decoder's numbers for masked sites get a gradient of {np.max(np.abs(of_masked), initial=0):.3g}",
    )


@eqx.filter_jit
def _log_densities(model: Model, z: Array, exposure: Array | None, rows: ArrayLike) -> Array:
    """Return what every site of every row adds to log p(x|z), (m, D)."""
    return jax.vmap(lambda x: model.likelihood(z, exposure).log_prob(x))(rows)


@eqx.filter_jit
def _examine_sites(model: Model, z: Array, exposure: Array | None, support: ArrayLike) -> tuple[Array, Array, Array]:
    """Return log-densities of the support (m, D), the decoded means, and those at twice the exposure."""
    twice = None if exposure is None else 2.0 * exposure
    return _log_densities(model, z, exposure, support), model.decode(z, exposure), model.decode(z, twice)


@eqx.filter_jit
def _masked_probe(model: Model, z: Array, x: Array, observed: Array, exposure: Array | None) -> dict[str, Any]:
    trained, rest = trainable(model)

    def both(part: Model) -> tuple[Array, Array]:
        whole = merge(part, rest)
        q = whole.posterior(x, observed)
        log_likelihood = whole.log_likelihood(z, x, observed, exposure)
        return log_likelihood + q.log_prob(z), log_likelihood

    (_, log_likelihood), gradient = jax.value_and_grad(both, has_aux=True)(trained)
    q = model.posterior(x, observed)
    moments = (log_likelihood, q.mean, q.variance)
    return {"value": moments, "gradient": gradient, "decoder": gradient.decoder.output.bias}


def _score(head: Any, x: Array, exposure: Array | None) -> tuple[Any, Callable[[tuple[Any, Array]], Array]]:
    """Return the trained arrays of a head, and log p(x|h) as a function of (those, h)."""
    trained, rest = trainable(head)

    def score(both: tuple[Any, Array]) -> Array:
        part, h = both
        return jnp.sum(merge(part, rest)(h, exposure).log_prob(x))

    return trained, score


@eqx.filter_jit
def _likelihood_gradient(head: Any, h: Array, x: Array, exposure: Array | None) -> tuple[Any, Slopes]:
    trained, score = _score(head, x, exposure)
    return jax.grad(score)((trained, h)), slopes(score, (trained, h), jax.random.key(1))


@eqx.filter_jit
def _likelihood_extremes(head: Any, x: Array, exposure: Array | None, extreme: float) -> Any:
    trained, score = _score(head, x, exposure)
    return at_extremes(jax.value_and_grad(score), (trained, jnp.zeros(head.parameter_shape)), extreme)
