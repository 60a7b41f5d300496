"""Comparisons that raise AssertionError: densities with draws, means with truths, gradients with life."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import gammaincc
from jax.typing import ArrayLike
from jaxtyping import Array

from tightbound.model import merge, trainable

__all__ = [
    "FALSE_ALARM",
    "Grid",
    "Slopes",
    "at_extremes",
    "check_alive",
    "check_counts",
    "check_finite",
    "check_fit",
    "check_mean",
    "check_shapes",
    "check_side",
    "check_slopes",
    "check_total",
    "draw",
    "label",
    "moved",
    "quantile_labels",
    "require",
    "same_bits",
    "slopes",
]

FALSE_ALARM = 1e-6
_SIGMAS = NormalDist().inv_cdf(1 - FALSE_ALARM / 2)
_DRAWS = 20_000
_BINS = 12
_STEP = 0.02


def require(condition: bool | np.bool_, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def label(spec: Any) -> str:
    """Return what a message calls a part: its target if it is a custom one."""
    return str(getattr(spec, "target", None) or repr(spec))


def same_bits(one: Any, other: Any) -> bool:
    """Whether two pytrees hold the same arrays, bit for bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


class Grid(eqx.Module):
    """Nodes x = c + s sinh(t) with t equidistant along 1 or 2 axes, and the weights that integrate over them.

    The trapezoid rule in t converges faster than any power of the step for smooth densities, heavy tails included.
    """

    points: np.ndarray
    weights: np.ndarray
    edges: tuple[np.ndarray, ...]

    @classmethod
    def around(cls, draws: np.ndarray) -> Grid:
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


def check_fit(name: str, grid: Grid, density: np.ndarray, draws: np.ndarray) -> None:
    """Check that a density on a grid has mass 1 and that the draws (n, d) come from it."""
    mass = grid.weights * density
    check_total(name, float(np.sum(mass)))
    cells = mass.reshape([len(edges) + 1 for edges in grid.edges])
    labels = [
        quantile_labels(cells.sum(axis=tuple(other for other in range(cells.ndim) if other != axis)))
        for axis in range(cells.ndim)
    ]
    position = [np.searchsorted(edges, draws[:, axis]) for axis, edges in enumerate(grid.edges)]
    expected = np.zeros([_BINS] * cells.ndim)
    observed = np.zeros_like(expected)
    np.add.at(expected, np.ix_(*labels), cells)
    np.add.at(observed, tuple(label[p] for label, p in zip(labels, position, strict=True)), 1)
    check_counts(name, expected.ravel(), observed.ravel(), FALSE_ALARM)


def quantile_labels(mass: np.ndarray) -> np.ndarray:
    """Return for every cell along an axis which of the bins of about equal mass it belongs to."""
    below = np.cumsum(mass) - mass / 2
    return np.minimum((below / np.sum(mass) * _BINS).astype(int), _BINS - 1)


def check_counts(name: str, probability: np.ndarray, counts: np.ndarray, level: float) -> None:
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
    require(
        chance >= level,
        f"{name}: the draws do not come from the density that log_prob reports (chi-square {statistic:.0f} with {freedom} "
        f"degrees of freedom, expected about {freedom}; probability {chance:.1e})",
    )


def check_total(name: str, total: float) -> None:
    """Check that a density sums or integrates to 1."""
    require(abs(total - 1) < 2e-3, f"{name}: the density has mass {total:.5f}, expected 1")


def check_mean(name: str, samples: np.ndarray, truth: np.ndarray) -> None:
    """Check that samples (n, P) have the given mean (P,) within their standard errors."""
    mean, error = np.mean(samples, axis=0), np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    level = _SIGMAS + 0.5 * np.log(1 + np.size(truth))  # a little more for several comparisons
    far = np.abs(mean - truth) > level * error + 1e-3 * np.abs(truth) + 1e-4
    require(not np.any(far), f"{name} is {mean} ± {error} on average, expected {truth}")


def check_side(name: str, values: ArrayLike, side: str, truth: float) -> None:
    """Check that the mean of independent values is on its side of the truth."""
    values = np.asarray(values, np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    slack = _SIGMAS * error + 1e-4
    above, below = mean > truth + slack, mean < truth - slack
    wrong = {"lower": above, "upper": below, "exact": above or below, "none": False}[side]
    kind = {"lower": "a lower bound", "upper": "an upper bound", "exact": "exact", "none": ""}[side]
    require(not wrong, f"{name}: said to be {kind}, but its mean is {mean:.5f} ± {error:.5f} where log p(x) is {truth:.5f}")


def check_alive(name: str, gradient: Any) -> None:
    """Check that every array of a gradient is finite and not all zero."""
    check_finite(name, gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        require(bool(np.any(np.asarray(leaf))), f"{name}: no gradient reaches {jax.tree_util.keystr(path) or 'its numbers'}")


def check_finite(name: str, tree: Any) -> None:
    """Check that every array of a pytree is finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        require(bool(np.all(np.isfinite(leaf))), f"{name}: {jax.tree_util.keystr(path)} has values that are not finite")


def check_shapes(name: str, part: Callable[..., Any], given: Any, drawn: tuple[int, ...], scored: tuple[int, ...]) -> None:
    """Check the shapes of one draw and of its log-density, without computing either."""

    def shapes(given: Any) -> tuple[Array, Array]:
        distribution = part(given)
        draw = distribution.sample(jax.random.key(0))
        return draw, distribution.log_prob(draw)

    found = tuple(leaf.shape for leaf in eqx.filter_eval_shape(shapes, given))
    require(found == (drawn, scored), f"{name}: one draw and its log-density have shapes {found}, expected {(drawn, scored)}")


def moved(head: Any, key: Array) -> Any:
    """Return a part whose trained arrays have been moved at random, so that symmetric starts are left."""
    trained, rest = trainable(head)
    leaves, structure = jax.tree.flatten(trained)
    keys = jax.random.split(key, max(len(leaves), 1))
    moved = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=False)]
    return merge(jax.tree.unflatten(structure, moved), rest)


def at_extremes(function: Callable[[Any], Any], tree: Any, size: float) -> Any:
    """Call a function with a pytree whose entries are all +size, all −size, and alternating both ways; stack the results."""
    flat, rebuild = ravel_pytree(tree)
    if not flat.size:
        return ()
    signs = jnp.where(jnp.arange(flat.size) % 2 == 0, 1.0, -1.0)
    patterns = jnp.stack([jnp.ones_like(flat), -jnp.ones_like(flat), signs, -signs])
    return jax.lax.map(lambda pattern: function(rebuild(size * pattern)), patterns)


class Slopes(NamedTuple):
    """A value, its slopes along some directions by automatic differentiation, and those measured by differences."""

    value: Array
    predicted: Array
    measured: Array


def slopes(function: Callable[[Any], Array], tree: Any, key: Array) -> Slopes:
    """Return the slopes of a function of a pytree along eight random directions of length 1."""
    flat, rebuild = ravel_pytree(tree)
    if not flat.size:
        return Slopes(jnp.zeros(()), jnp.zeros(8), jnp.zeros(8))
    value, gradient = jax.value_and_grad(lambda x: function(rebuild(x)))(flat)
    directions = jax.random.rademacher(key, (8, flat.size), jnp.float32) / jnp.sqrt(flat.size)

    def measured(direction: Array) -> Array:
        step = _STEP * direction
        return (function(rebuild(flat + step)) - function(rebuild(flat - step))) / (2 * _STEP)

    return Slopes(value, directions @ gradient, jax.lax.map(measured, directions))


def check_slopes(name: str, found: Slopes) -> None:
    """Check that a gradient is the derivative, within a twentieth of its size and the rounding of the differences."""
    predicted, measured = np.asarray(found.predicted), np.asarray(found.measured)
    allowed = 0.05 * np.sqrt(np.mean(measured**2)) + 1e-3 * max(1.0, abs(float(found.value)) / 10)
    require(
        np.max(np.abs(predicted - measured)) <= allowed,
        f"{name}: the gradient of the log-density is not the derivative: slopes {predicted}, measured {measured}; "
        "look for a stop_gradient or a clamp",
    )


def draw(part: Callable[..., Any], given: Any, key: Array) -> Array:
    """Return 20,000 draws from the distribution that a part gives."""
    return jax.vmap(part(given).sample)(jax.random.split(key, _DRAWS))
