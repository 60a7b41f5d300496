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
_CHUNK_CELLS = 2**19


class Moments(NamedTuple):
    """Number of observed cells, mean, standard deviation and whether all cells are equal, each of shape (D,)."""

    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    constant: np.ndarray


def chunks(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows of about half a million cells, so that no temporary copy is as large as the data."""
    step = max(1, _CHUNK_CELLS // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def moments(rows: np.ndarray, observed: np.ndarray | None = None) -> Moments:
    """Return mean and spread of every column over its observed cells; a column without any has mean 0 and spread 0."""
    width = rows.shape[1]
    count, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for chunk, seen in _observed_chunks(rows, observed):
        count += len(chunk) if seen is True else seen.sum(axis=0)
        total += chunk.sum(axis=0, where=seen)
        low = np.minimum(low, chunk.min(axis=0, where=seen, initial=np.inf))
        high = np.maximum(high, chunk.max(axis=0, where=seen, initial=-np.inf))
    constant = low >= high
    mean = np.where(low == high, low, total / np.maximum(count, 1))
    for chunk, seen in _observed_chunks(rows, observed):
        squares += np.square(chunk - mean).sum(axis=0, where=seen)
    return Moments(count, mean, np.where(constant, 0.0, np.sqrt(squares / np.maximum(count, 1))), constant)


def _observed_chunks(rows: np.ndarray, observed: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | bool]]:
    for part in chunks(rows):
        yield rows[part].astype(np.float64), True if observed is None else observed[part]


def global_scale(summary: Moments, binarise: bool) -> float:
    """Return the standard deviation over all cells of all columns (of the bits, when x/255 are their probabilities)."""
    cells = max(1.0, summary.count.sum())
    grand = (summary.count * summary.mean).sum() / cells
    if binarise:
        variance = grand / 255 * (1 - grand / 255)
    else:
        variance = (summary.count * (summary.std**2 + (summary.mean - grand) ** 2)).sum() / cells
    return float(np.sqrt(variance)) if variance > 1e-12 else 1.0


def check_precision(rows: np.ndarray, observed: np.ndarray | None, names: tuple[str, ...]) -> Moments:
    """Return the moments of real columns; raise :class:`DataError` when single precision would lose their spread."""
    too_large = (rows.max(axis=0) > LARGEST_REAL) | (rows.min(axis=0) < -LARGEST_REAL)
    if where := column_list(too_large, names):
        raise DataError(f"{where}: values beyond ±{LARGEST_REAL:.2g} do not fit single precision; rescale them")
    summary = moments(rows, observed)
    far = ~summary.constant & (np.abs(summary.mean) > _LARGEST_RATIO * summary.std)
    if where := column_list(far, names):
        first = int(np.flatnonzero(far)[0])
        raise DataError(
            f"{where}: the mean is more than {_LARGEST_RATIO:,.0f} standard deviations away from zero "
            f"(mean {summary.mean[first]:g}, standard deviation {summary.std[first]:.3g}), so single precision would lose "
            "the spread; subtract an offset first"
        )
    if where := column_list(~summary.constant & (summary.std < _SMALLEST_SPREAD), names):
        raise DataError(f"{where}: a spread below {_SMALLEST_SPREAD:g} is lost in single precision; rescale first")
    return summary
