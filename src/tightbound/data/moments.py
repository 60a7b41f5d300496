"""Mean and spread of columns, in double precision and without a double-precision copy of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tightbound.data.columns import column_list
from tightbound.errors import DataError

__all__ = ["LARGEST_REAL", "Moments", "check_precision", "chunks", "global_scale", "moments"]

LARGEST_REAL = float(np.finfo(np.float32).max)
_LARGEST_RATIO = 1e4  # |mean| / std beyond which fewer than about 1,600 float32 numbers lie within one std
_SMALLEST_SPREAD = 1e-34  # smaller spreads run into float32's denormal numbers, which XLA reads as zero
_SMALLEST_VARIANCE = 1e-12  # below is rounding: one odd cell in 10¹² gives more
_CHUNK_CELLS = 2**16  # half a megabyte of float64: stays in the cache


class Moments(NamedTuple):
    """Number (or summed exposure) of observed cells, mean, spread, and whether all cells are equal; each (D,)."""

    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    constant: np.ndarray


def chunks(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows of about 65,000 cells, so that temporary copies stay small."""
    step = max(1, _CHUNK_CELLS // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def moments(rows: np.ndarray, observed: np.ndarray | None = None, exposure: np.ndarray | None = None) -> Moments:
    """Return mean and spread of every column over its observed cells; a column without any has mean 0 and spread 0.

    With an exposure e they are those of the rates x/e, every row weighted by its e: the mean is Σx / Σe.
    """
    width = rows.shape[1]
    weight, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for values, weights in _weighted_chunks(rows, observed, exposure):
        weight += weights.sum(axis=0)
        total += (values * weights).sum(axis=0)
        low = np.minimum(low, values.min(axis=0, where=weights > 0, initial=np.inf))
        high = np.maximum(high, values.max(axis=0, where=weights > 0, initial=-np.inf))
    constant, divisor = low >= high, np.where(weight > 0, weight, 1.0)
    mean = np.where(low == high, low, total / divisor)
    for values, weights in _weighted_chunks(rows, observed, exposure):
        squares += (np.square(values - mean) * weights).sum(axis=0)
    return Moments(weight, mean, np.where(constant, 0.0, np.sqrt(squares / divisor)), constant)


def _weighted_chunks(
    rows: np.ndarray, observed: np.ndarray | None, exposure: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for part in chunks(rows):
        values, weights = rows[part].astype(np.float64), np.ones((len(rows[part]), 1))
        if exposure is not None:
            weights = exposure[part, None].astype(np.float64)
            values /= weights
        yield values, np.broadcast_to(weights if observed is None else weights * observed[part], values.shape)


def global_scale(summary: Moments, binarise: bool) -> float:
    """Return the standard deviation over all cells of all columns (of the bits, when x/255 are their probabilities)."""
    total = summary.weight.sum() or 1.0
    grand = (summary.weight * summary.mean).sum() / total
    if binarise:
        variance = grand / 255 * (1 - grand / 255)
    else:
        variance = (summary.weight * (summary.std**2 + (summary.mean - grand) ** 2)).sum() / total
    return float(np.sqrt(variance)) if variance > _SMALLEST_VARIANCE else 1.0


def check_precision(rows: np.ndarray, observed: np.ndarray | None, names: tuple[str, ...]) -> Moments:
    """Return the moments of real columns; raise :class:`DataError` when single precision would lose their spread."""
    largest = np.maximum(rows.max(axis=0).astype(np.float64), -rows.min(axis=0).astype(np.float64))
    if where := column_list(largest > LARGEST_REAL, names):
        raise DataError(f"{where}: values beyond ±{LARGEST_REAL:.2g} do not fit single precision; rescale them")
    summary = moments(rows, observed)
    far = ~summary.constant & (np.abs(summary.mean) > _LARGEST_RATIO * summary.std)
    if where := column_list(far, names):
        first = int(np.flatnonzero(far)[0])
        raise DataError(
            f"{where}: the mean is more than {_LARGEST_RATIO:,.0f} standard deviations away from zero "
            f"(mean {summary.mean[first]:g}, standard deviation {summary.std[first]:.3g}), so single precision would "
            "lose the spread; subtract an offset first"
        )
    if where := column_list(~summary.constant & (summary.std < _SMALLEST_SPREAD), names):
        raise DataError(f"{where}: a spread below {_SMALLEST_SPREAD:g} is lost in single precision; rescale first")
    return summary
