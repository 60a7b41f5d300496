"""Contracts that every part keeps, for the library's own tests and for parts of your own.

A part that passes may be trusted in any combination: its densities sum or integrate to 1, its draws come from the density
it reports, what is not observed has no influence, and every trained number gets a gradient. The checks are plain
functions that raise :class:`AssertionError` with what was measured and what was expected; they need no test framework.

Every statistical comparison is made at a false-alarm rate of 1e-6 for a right part over the choice of the seed. The seed
is fixed, so that a verdict does not change from run to run.

>>> from tightbound import Bernoulli, Sites, StandardNormal
>>> check_prior(StandardNormal())
>>> check_likelihood(Bernoulli(), Sites(kind="binary", shape=(3,)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc
from jaxtyping import Array

from tightbound.data.arrays import Dataset
from tightbound.distributions import diagonal_gaussian, kl, training_log_prob
from tightbound.errors import SpecError
from tightbound.evidence.estimate import Estimate
from tightbound.likelihoods import Gaussian
from tightbound.model import VAE, Model, merge, trainable
from tightbound.networks import MLP
from tightbound.objectives import ObjectiveSpec
from tightbound.posteriors import DiagonalGaussian, FullGaussian
from tightbound.priors import Encoder
from tightbound.rows import Batch
from tightbound.schema import Sites, Statistics
from tightbound.spec import Spec

__all__ = [
    "FALSE_ALARM",
    "LinearGaussian",
    "check_estimate",
    "check_likelihood",
    "check_objective",
    "check_posterior",
    "check_prior",
    "example_rows",
    "example_statistics",
    "linear_gaussian",
]

FALSE_ALARM = 1e-6
_SIGMAS = NormalDist().inv_cdf(1 - FALSE_ALARM / 2)
_DRAWS = 20_000
_BINS = 12
_NONSENSE = (np.nan, np.inf, -np.inf, 1e30, -1e30)
_LARGEST_COUNT = 2048


def check_posterior(spec: Spec, *, latent: int = 2, extreme: float = 1e4, seed: int = 0) -> None:
    """Raise AssertionError unless q(z|x) keeps the contract of a posterior.

    At random parameters h of the head, with ``latent`` 1 or 2 so that quadrature is exact:

    - one draw has shape (L,) and one log-density shape ();
    - exp(log_prob) integrates to 1, and the draws fit it (chi-square);
    - draws are reparameterised: the pathwise gradient of an expectation is that of the integral, for every entry of h;
    - every trained array of the head gets a gradient;
    - the closed-form KL to N(0, I), where there is one, is the integral of q (log q − log p), and not negative;
    - parameters of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison. Raises :class:`SpecError` when ``latent`` is neither 1 nor 2.
    """
    _one_or_two(latent, "check_posterior")
    part_key, h_key, draw_key, path_key = jax.random.split(jax.random.key(seed), 4)
    head, name = spec.build(latent, key=part_key), _name(spec)  # type: ignore[attr-defined]
    h = 0.7 * jax.random.normal(h_key, (head.parameters,))
    _check_shapes(name, head, h, (latent,), ())
    draws = np.asarray(eqx.filter_jit(_draw)(head, h, draw_key))
    grid = _Grid.around(draws)
    report = _examine_posterior(head, h, grid, draws[:4096], path_key, extreme)
    _check_fit(name, grid, np.exp(report["log_q"]), draws)
    _check_mean(f"{name}: pathwise gradient", report["pathwise"], report["integral"])
    _check_alive(name, report["gradient"])
    _check_finite(f"{name} at parameters of ±{extreme:g}", report["extreme"])
    if "kl" in report:
        log_p = -0.5 * np.sum(grid.points**2, axis=1) - latent * 0.5 * np.log(2 * np.pi)
        truth = grid.integral(np.exp(report["log_q"]) * (report["log_q"] - log_p))
        _require(
            np.isclose(report["kl"], truth, rtol=1e-3, atol=1e-3) and report["kl"] >= -1e-6,
            f"{name}: the closed-form KL to N(0, I) is {report['kl']:.5f}, the integral of q (log q − log p) is {truth:.5f}",
        )


def check_prior(
    spec: Spec,
    *,
    latent: int = 2,
    posterior: Spec | None = None,
    sites: Sites | None = None,
    extreme: float = 1e4,
    seed: int = 0,
) -> None:
    """Raise AssertionError unless p(z) keeps the contract of a prior.

    In a small model over ``sites`` with the given posterior, its trained arrays moved at random, with ``latent`` 1 or 2:

    - one draw has shape (L,) and one log-density shape ();
    - exp(log_prob) integrates to 1, and the draws fit it (chi-square);
    - the form that training uses has the value and the gradients of log_prob;
    - every trained array of the prior gets a gradient;
    - trained arrays of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison. Raises :class:`SpecError` when ``latent`` is neither 1 nor 2.
    """
    _one_or_two(latent, "check_prior")
    sites = sites or Sites(kind="real", shape=(3,))
    parts = {"posterior": posterior or DiagonalGaussian(), "prior": spec, "likelihood": Gaussian()}
    vae = VAE(sites=sites, latent=latent, encoder=MLP(hidden=(5,)), decoder=MLP(hidden=()), **parts)
    name = _name(spec)
    build_key, move_key, draw_key = jax.random.split(jax.random.key(seed), 3)
    model = vae.build(build_key, example_statistics(sites))
    encoder = Encoder(model.encoder, model.posterior_head)
    head = _moved(model.prior_head, move_key)
    _check_shapes(name, head, encoder, (latent,), ())
    draws = np.asarray(eqx.filter_jit(_draw)(head, encoder, draw_key))
    grid = _Grid.around(draws)
    report = _examine_prior(head, encoder, grid, draws[:64], extreme)
    _check_fit(name, grid, np.exp(report["log_p"]), draws)
    for exact, fast in zip(*(jax.tree.leaves(report[form]) for form in ("exact", "fast")), strict=True):
        size = np.max(np.abs(exact), initial=1.0)
        _require(
            np.allclose(exact, fast, rtol=0, atol=2e-4 * size),
            f"{name}: training_log_prob differs from log_prob, in value or gradient, by {np.max(np.abs(exact - fast)):.3g}",
        )
    _check_alive(name, report["gradient"])
    _check_finite(f"{name} with trained arrays of ±{extreme:g}", report["extreme"])


def check_likelihood(
    spec: Spec, sites: Sites, *, statistics: Statistics | None = None, extreme: float = 1e4, seed: int = 0
) -> None:
    """Raise AssertionError unless p(x|z) keeps the contract of a likelihood over these sites.

    In a model of affine maps, with random weights:

    - the declared measure is that of the sites, draws and site log-densities have shape (D,);
    - each site sums to 1 (over all levels, or counts up to 2,048) or integrates to 1, and the draws fit it (chi-square);
    - ``Model.decode`` gives the mean of each site, or the most probable category;
    - with an exposure, twice the exposure gives twice the mean;
    - masked sites have no influence on log p(x|z), on q(z|x) or on any gradient, bit for bit, whatever their cells
      hold (NaN, ±inf, ±1e30), and the decoder's numbers for them get a gradient of exactly 0;
    - every trained array of the head and every number from the decoder gets a gradient;
    - decoder outputs and trained arrays of ±``extreme`` give finite log-densities and gradients.

    False-alarm rate: 1e-6 for each comparison, shared among the sites.
    """
    sites = sites.replace(missing=True)
    name = f"{_name(spec)} on {sites.describe()}"
    statistics = statistics or example_statistics(sites)
    build_key, move_key, z_key, draw_key = jax.random.split(jax.random.key(seed), 4)
    affine = MLP(hidden=())
    model = VAE(sites=sites, latent=2, encoder=affine, decoder=affine, likelihood=spec).build(build_key, statistics)
    model = eqx.tree_at(lambda m: m.likelihood_head, model, _moved(model.likelihood_head, move_key))
    _require(
        model.measure == sites.measure,
        f"{name}: declares the {model.measure} measure, but the sites have densities against the {sites.measure} measure",
    )
    z, exposure = jax.random.normal(z_key, (2,)), jnp.float32(2.5) if sites.exposure else None
    _check_shapes(name, partial(model.likelihood, exposure=exposure), z, (sites.count,), (sites.count,))
    draws = np.asarray(eqx.filter_jit(_draw)(partial(model.likelihood, exposure=exposure), z, draw_key), np.float64)
    _check_sites(name, model, z, exposure, draws)
    _check_masked(name, model, z, exposure, draws[:2].astype(np.float32))
    x = jnp.asarray(draws[0], jnp.float32)
    _check_alive(name, _likelihood_gradient(model.likelihood_head, model.decoder(z), x, exposure))
    _check_finite(f"{name} at ±{extreme:g}", _likelihood_extremes(model.likelihood_head, x, exposure, extreme))


def check_objective(spec: ObjectiveSpec, *, repeats: int = 256, seed: int = 0) -> None:
    """Raise AssertionError unless a loss keeps the contract of an objective.

    On the linear-Gaussian model, whose log p(x) is known:

    - loss, terms and gradient are finite, and every trained array of the model gets a gradient;
    - rows of weight 0 have no influence on the loss or its gradient, bit for bit;
    - the terms' ``bound`` lies, averaged over ``repeats`` seeds and up to its standard error, at or below log p(x).

    False-alarm rate: 1e-6 for each comparison.
    """
    name, oracle = _name(spec), linear_gaussian(exact=False)
    objective, x = spec.build(), oracle.dataset(8, seed).x
    weight = (np.arange(8) < 5).astype(np.float32)
    other = np.where(weight[:, None] > 0, x, 50.0)
    keys = jax.random.split(jax.random.key(seed), repeats)
    (loss, gradient), bounds = _examine_objective(objective, oracle.model, x, weight, keys)
    _check_finite(name, (loss, gradient))
    _check_alive(name, gradient)
    (padded_loss, padded), _ = _examine_objective(objective, oracle.model, other, weight, keys)
    _require(
        _same_bits((loss, gradient), (padded_loss, padded)),
        f"{name}: rows of weight 0 change the loss or its gradient; divide by the sum of the weights of the batch",
    )
    _check_side(name, bounds, "lower", float(np.mean(oracle.log_evidence(x[:5]))))


def check_estimate(
    estimate: Callable[[Model, Dataset, int], Estimate], *, repeats: int = 64, rows: int = 5, tolerance: float = 2e-3
) -> None:
    """Raise AssertionError unless an estimator of log p(x), called as ``estimate(model, data, seed)``, keeps its promise.

    On the linear-Gaussian model, whose log p(x) is known:

    - the mean over ``repeats`` seeds is on the side of the truth that the record names, up to its standard error;
    - where q(z|x) is the true posterior, the value is log p(x) for 1, 7, 16, 17 and 33 rows, within ``tolerance`` or
      five standard deviations of the seeds: no row is dropped, counted twice or divided by the wrong number;
    - the record names the model's measure, the number of rows, and a standard error that is not negative.

    False-alarm rate: 1e-6 for each comparison.
    """
    oracle = linear_gaussian(exact=False)
    data = oracle.dataset(rows, seed=1)
    records = [estimate(oracle.model, data, seed) for seed in range(repeats)]
    name, values = records[0].method, np.array([record.value for record in records])
    _require(np.isfinite(values).all(), f"{name}: a value is not finite")
    _check_side(name, values, records[0].side, float(np.mean(oracle.log_evidence(data.x))))
    tight = linear_gaussian(exact=True)
    for count in (1, 7, 16, 17, 33):
        data = tight.dataset(count, seed=2)
        record, truth = estimate(tight.model, data, 0), float(np.mean(tight.log_evidence(data.x)))
        allowed = tolerance + 5 * float(np.std(values)) * (record.side != "lower")
        _require(
            abs(record.value - truth) <= allowed,
            f"{name}: {record.value:.5f} for {count} rows where log p(x) is {truth:.5f} and q is the true posterior",
        )
        _require(
            record.measure == tight.model.measure and record.examples == count and not record.se < 0,
            f"{name}: the record says measure {record.measure}, {record.examples} examples and se {record.se}; expected "
            f"{tight.model.measure}, {count} and a standard error",
        )


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


def example_statistics(sites: Sites) -> Statistics:
    """Return statistics that rows of such sites may have."""
    middle, spread = (sites.levels - 1) / 2, max(sites.levels / 4, 0.5)
    known = {"binary": (0.3, 0.5), "levels": (middle, spread), "count": (3.0, 2.0), "real": (1.0, 2.0)}
    mean, scale = known.get(sites.kind, (0.0, 1.0))
    tilt = np.linspace(0.8, 1.2, sites.count, dtype=np.float32)
    return Statistics(mean * tilt, np.full(sites.count, scale, np.float32))


def example_rows(sites: Sites, count: int, seed: int = 0) -> Dataset:
    """Return random rows that such sites can hold, some cells missing and exposures uneven where the sites say so."""
    rng, shape = np.random.default_rng(seed), (count, sites.count)
    x = {
        "binary": lambda: rng.integers(0, 2, shape),
        "count": lambda: rng.poisson(3.0, shape),
        "real": lambda: 1.0 + 2.0 * rng.standard_normal(shape),
    }.get(sites.kind, lambda: rng.integers(0, sites.levels, shape))()
    observed = rng.random(shape) < 0.7 if sites.missing else None
    exposure = rng.uniform(0.5, 3.0, count) if sites.exposure else None
    return Dataset(x, sites, observed=observed, exposure=exposure)


class _Grid(eqx.Module):
    """Nodes x = c + s sinh(t) with t equidistant along 1 or 2 axes, and the weights that integrate over them.

    The trapezoid rule in t converges faster than any power of the step for smooth densities, heavy tails included.
    """

    points: np.ndarray
    weights: np.ndarray
    edges: tuple[np.ndarray, ...]

    @classmethod
    def around(cls, draws: np.ndarray) -> _Grid:
        """Return a grid for the density that the draws (n, d) come from."""
        reach, size = (15.0, 4001) if draws.shape[1] == 1 else (7.0, 281)
        t, step = np.linspace(-reach, reach, size, retstep=True)
        low, centre, high = np.quantile(draws.astype(np.float64), (0.16, 0.5, 0.84), axis=0)
        scale = np.maximum(high - low, 1e-6) / 2
        axes = [c + s * np.sinh(t) for c, s in zip(centre, scale, strict=True)]
        weights = [s * np.cosh(t) * step for s in scale]
        inner = t[1:] - step / 2
        return cls(
            np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)),
            weights[0] if len(axes) == 1 else np.outer(*weights).ravel(),
            tuple(c + s * np.sinh(inner) for c, s in zip(centre, scale, strict=True)),
        )

    def integral(self, values: np.ndarray) -> float:
        """Return the integral of a function given at the points."""
        return float(np.sum(self.weights * values))


def _check_fit(name: str, grid: _Grid, density: np.ndarray, draws: np.ndarray) -> None:
    """Check that a density on a grid has mass 1 and that the draws (n, d) come from it."""
    mass = grid.weights * density
    _check_total(name, float(np.sum(mass)))
    cells = mass.reshape([len(edges) + 1 for edges in grid.edges])
    labels = [
        _quantile_labels(cells.sum(axis=tuple(other for other in range(cells.ndim) if other != axis)))
        for axis in range(cells.ndim)
    ]
    position = [np.searchsorted(edges, draws[:, axis]) for axis, edges in enumerate(grid.edges)]
    expected = np.zeros([_BINS] * cells.ndim)
    observed = np.zeros_like(expected)
    np.add.at(expected, np.ix_(*labels), cells)
    np.add.at(observed, tuple(label[p] for label, p in zip(labels, position, strict=True)), 1)
    _check_counts(name, expected.ravel(), observed.ravel(), FALSE_ALARM)


def _quantile_labels(mass: np.ndarray) -> np.ndarray:
    """Return for every cell along an axis which of the bins of about equal mass it belongs to."""
    below = np.cumsum(mass) - mass / 2
    return np.minimum((below / np.sum(mass) * _BINS).astype(int), _BINS - 1)


def _check_counts(name: str, probability: np.ndarray, counts: np.ndarray, level: float) -> None:
    """Check counts against probabilities by a chi-square test, cells that expect fewer than 10 joined to one."""
    expected = probability / np.sum(probability) * np.sum(counts)
    rare = expected < 10
    expected = np.append(expected[~rare], max(float(np.sum(expected[rare])), 1e-9))
    counts = np.append(counts[~rare], np.sum(counts[rare]))
    if expected[-1] < 10:  # too little to be a cell of its own: it belongs to the next smallest
        smallest = int(np.argmin(expected[:-1]))
        expected[smallest] += expected[-1]
        counts[smallest] += counts[-1]
        expected, counts = expected[:-1], counts[:-1]
    freedom = len(expected) - 1
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    chance = 1.0 if freedom == 0 else float(gammaincc(freedom / 2, statistic / 2))
    _require(
        chance >= level,
        f"{name}: the draws do not come from the density that log_prob reports (chi-square {statistic:.0f} with {freedom} "
        f"degrees of freedom, expected about {freedom}; probability {chance:.1e})",
    )


def _check_sites(name: str, model: Model, z: Array, exposure: Array | None, draws: np.ndarray) -> None:
    """Check mass, draws (n, D) and decoded mean of every site."""
    real, count = model.spec.sites.kind == "real", draws.shape[1]
    if real:
        grids = [_Grid.around(draws[:, [site]]) for site in range(count)]
        support = np.stack([grid.points[:, 0] for grid in grids], axis=1)
    else:
        sizes = {"binary": 2, "count": _LARGEST_COUNT}
        values = np.arange(sizes.get(model.spec.sites.kind, model.spec.sites.levels), dtype=np.float64)
        support = np.repeat(values[:, None], count, axis=1)
    log_density, decoded, doubled = _examine_sites(model, z, exposure, support.astype(np.float32))
    mass = np.exp(np.asarray(log_density, np.float64))
    if real:
        mass *= np.stack([grid.weights for grid in grids], axis=1)
    for site in range(count):
        label = f"{name}, site {site}"
        _check_total(label, float(np.sum(mass[:, site])))
        if real:
            groups = _quantile_labels(mass[:, site])
            position = np.searchsorted(grids[site].edges[0], draws[:, site])
            tables = (np.bincount(groups, mass[:, site]), np.bincount(groups[position], minlength=groups.max() + 1))
        else:
            whole = np.round(draws[:, site]).astype(int)
            _require(bool(np.all(whole == draws[:, site])), f"{label}: a draw is not a whole number")
            _require(bool(np.all((whole >= 0) & (whole < len(mass)))), f"{label}: a draw lies outside the support")
            tables = (mass[:, site], np.bincount(whole, minlength=len(mass)))
        _check_counts(label, *tables, FALSE_ALARM / count)
    mean = np.sum(support * mass, axis=0)
    expected = np.argmax(mass, axis=0) if model.spec.sites.kind == "category" else mean
    _require(
        np.allclose(decoded, expected, rtol=2e-3, atol=2e-3),
        f"{name}: Model.decode gives {np.asarray(decoded)}, the sum over the support is {expected}",
    )
    _require(
        exposure is None or np.allclose(doubled, 2 * np.asarray(decoded), rtol=1e-3),
        f"{name}: twice the exposure must give twice the mean, but {decoded} becomes {doubled}",
    )


def _check_masked(name: str, model: Model, z: Array, exposure: Array | None, x: np.ndarray) -> None:
    """Check that masked sites of x (D,) have no influence on values and gradients."""
    row = x[0].copy()
    observed = np.arange(len(row)) % 2 == 0
    reference = _masked_probe(model, z, row, observed, exposure)
    _check_finite(f"{name} with masked sites", reference)
    for nonsense in (*_NONSENSE, float(x[1][-1])):
        other = _masked_probe(model, z, np.where(observed, row, np.float32(nonsense)), observed, exposure)
        _require(
            _same_bits(reference, other),
            f"{name}: masked cells that hold {nonsense} change log p(x|z), q(z|x) or a gradient; fill them before use",
        )
    of_sites = np.asarray(reference["decoder"]).reshape(-1, len(row))
    _require(
        not np.any(of_sites[:, ~observed]),
        f"{name}: the decoder's numbers for masked sites get a gradient of {np.max(np.abs(of_sites[:, ~observed])):.3g}",
    )


def _check_total(name: str, total: float) -> None:
    _require(abs(total - 1) < 2e-3, f"{name}: the density has mass {total:.5f}, expected 1")


def _check_mean(name: str, samples: np.ndarray, truth: np.ndarray) -> None:
    """Check that samples (n, P) have the given mean (P,) within their standard errors."""
    mean, error = np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    level = _SIGMAS + 0.5 * np.log(1 + np.size(truth))  # a little more for several comparisons
    far = np.abs(mean - truth) > level * error + 1e-3 * np.abs(truth) + 1e-4
    _require(not np.any(far), f"{name} is {mean} ± {error} on average, expected {truth}")


def _check_side(name: str, values: np.ndarray, side: str, truth: float) -> None:
    """Check that the mean of independent values is on its side of the truth."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    slack = _SIGMAS * error + 1e-4
    above, below = mean > truth + slack, mean < truth - slack
    wrong = {"lower": above, "upper": below, "exact": above or below, "none": False}[side]
    kind = {"lower": "a lower bound", "upper": "an upper bound", "exact": "exact", "none": ""}[side]
    _require(not wrong, f"{name}: said to be {kind}, but its mean is {mean:.5f} ± {error:.5f} where log p(x) is {truth:.5f}")


def _check_alive(name: str, gradient: Any) -> None:
    """Check that every array of a gradient is finite and not all zero."""
    _check_finite(name, gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        _require(bool(np.any(np.asarray(leaf))), f"{name}: no gradient reaches {jax.tree_util.keystr(path) or 'its numbers'}")


def _check_finite(name: str, tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        _require(bool(np.all(np.isfinite(leaf))), f"{name}: {jax.tree_util.keystr(path)} has values that are not finite")


def _check_shapes(name: str, part: Callable[..., Any], given: Any, drawn: tuple[int, ...], scored: tuple[int, ...]) -> None:
    """Check the shapes of one draw and of its log-density, without computing either."""

    def shapes(given: Any) -> tuple[Array, Array]:
        distribution = part(given)
        draw = distribution.sample(jax.random.key(0))
        return draw, distribution.log_prob(draw)

    found = tuple(leaf.shape for leaf in eqx.filter_eval_shape(shapes, given))
    _require(found == (drawn, scored), f"{name}: one draw and its log-density have shapes {found}, expected {(drawn, scored)}")


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _one_or_two(latent: int, what: str) -> None:
    if latent not in (1, 2):
        raise SpecError(what, (("latent", f"expected 1 or 2, where quadrature is exact, got {latent}"),))


def _name(spec: Any) -> str:
    return str(getattr(spec, "target", None) or repr(spec))


def _same_bits(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def _moved(head: Any, key: Array) -> Any:
    """Return a part whose trained arrays have been moved at random, so that symmetric starts are left."""
    trained, rest = trainable(head)
    leaves, structure = jax.tree.flatten(trained)
    keys = jax.random.split(key, max(len(leaves), 1))
    moved = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=False)]
    return merge(jax.tree.unflatten(structure, moved), rest)


def _extremes(tree: Any, size: float) -> list[Any]:
    """Return copies of a pytree of arrays with entries all +size, all −size, and alternating."""
    flat, rebuild = jax.flatten_util.ravel_pytree(tree)
    signs = jnp.where(jnp.arange(flat.size) % 2 == 0, 1.0, -1.0)
    return [rebuild(size * pattern) for pattern in (jnp.ones_like(flat), -jnp.ones_like(flat), signs, -signs)]


def _draw(part: Callable[..., Any], given: Any, key: Array) -> Array:
    return jax.vmap(part(given).sample)(jax.random.split(key, _DRAWS))


@eqx.filter_jit
def _examine_posterior(head: Any, h: Array, grid: _Grid, draws: Array, key: Array, extreme: float) -> dict[str, Any]:
    points, weights = jnp.asarray(grid.points, jnp.float32), jnp.asarray(grid.weights, jnp.float32)
    direction = jnp.arange(1.0, points.shape[1] + 1)

    def observable(z: Array) -> Array:
        return jnp.sin(z @ direction + 0.5)

    def integral(h: Array) -> Array:
        density = jnp.exp(jax.vmap(lambda z: head(h).log_prob(z))(points))
        return jnp.sum(weights * density * observable(points))

    def at_extreme(h: Array) -> tuple[Array, Array]:
        z = jax.lax.stop_gradient(head(h).sample(key))
        return jax.value_and_grad(lambda h: head(h).log_prob(z))(h)

    trained, rest = trainable(head)
    standard = diagonal_gaussian(jnp.zeros(points.shape[1]), jnp.ones(points.shape[1]))
    divergence = kl(head(h), standard)
    report = {
        "log_q": jax.vmap(head(h).log_prob)(points),
        "integral": jax.grad(integral)(h),
        "pathwise": jax.vmap(lambda k: jax.grad(lambda h: observable(head(h).sample(k)))(h))(jax.random.split(key, 8192)),
        "gradient": jax.grad(lambda part: jnp.sum(jax.vmap(merge(part, rest)(h).log_prob)(draws)))(trained),
        "extreme": [at_extreme(extreme_h) for extreme_h in _extremes(h, extreme)],
    }
    return report if divergence is None else {**report, "kl": jnp.sum(divergence)}


@eqx.filter_jit
def _examine_prior(head: Any, encoder: Encoder, grid: _Grid, draws: Array, extreme: float) -> dict[str, Any]:
    trained, rest = trainable(head)

    def total(form: Callable[..., Array], part: Any, z: Array) -> Array:
        prior = merge(part, rest)(encoder)
        return jnp.sum(jax.vmap(partial(form, prior))(z))

    def exact(prior: Any, z: Array) -> Array:
        return prior.log_prob(z)

    def with_gradients(form: Callable[..., Array], part: Any = trained) -> Any:
        return jax.value_and_grad(partial(total, form), argnums=(0, 1))(part, draws)

    found = with_gradients(exact)
    return {
        "log_p": jax.vmap(head(encoder).log_prob)(jnp.asarray(grid.points, jnp.float32)),
        "exact": found,
        "fast": with_gradients(training_log_prob),
        "gradient": found[1][0],
        "extreme": [with_gradients(training_log_prob, part) for part in _extremes(trained, extreme)],
    }


@eqx.filter_jit
def _examine_sites(model: Model, z: Array, exposure: Array | None, support: Array) -> tuple[Array, Array, Array]:
    """Return log-densities of the support (m, D), the decoded means, and those at twice the exposure."""
    twice = None if exposure is None else 2.0 * exposure
    log_density = jax.vmap(lambda x: model.likelihood(z, exposure).log_prob(x))(support)
    return log_density, model.decode(z, exposure), model.decode(z, twice)


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


@eqx.filter_jit
def _likelihood_gradient(head: Any, h: Array, x: Array, exposure: Array | None) -> Any:
    trained, rest = trainable(head)
    return jax.grad(lambda part, h: jnp.sum(merge(part, rest)(h, exposure).log_prob(x)), argnums=(0, 1))(trained, h)


@eqx.filter_jit
def _likelihood_extremes(head: Any, x: Array, exposure: Array | None, extreme: float) -> Any:
    trained, rest = trainable(head)

    def score(both: tuple[Any, Array]) -> Array:
        part, h = both
        return jnp.sum(merge(part, rest)(h, exposure).log_prob(x))

    return [jax.value_and_grad(score)(both) for both in _extremes((trained, jnp.zeros(head.parameter_shape)), extreme)]


@eqx.filter_jit
def _examine_objective(
    objective: Any, model: Model, x: Array, weight: Array, keys: Sequence[Array]
) -> tuple[tuple[Array, Any], Array]:
    """Return loss and gradient of a batch with the first key, and the bound averaged over rows with every key."""
    trained, rest = trainable(model)
    batch = Batch(jnp.asarray(x, jnp.float32), None, None, jnp.asarray(weight))

    def loss(part: Model) -> Array:
        return objective(merge(part, rest), batch, keys[0], jnp.int32(1_000_000)).value

    def bound(key: Array) -> Array:
        return objective(model, batch, key, jnp.int32(1_000_000)).terms.bound

    return jax.value_and_grad(loss)(trained), jax.lax.map(bound, keys)
