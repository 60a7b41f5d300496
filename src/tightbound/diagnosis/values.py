"""What is odd about the values of rows: inadmissible ones, extreme ones, and columns that only vary outside training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tightbound.errors import SupportError
from tightbound.rows import RowSource

__all__ = ["EXTREME", "RARE", "Oddity", "inadmissible", "oddities"]

EXTREME = 10.0  # standard deviations: a Gaussian gives such a value 50 nats less than its mean
RARE = 0.05  # share of held-out rows that may differ in a column of bits, levels or counts that never varied in training
FEWEST = 20  # cells that say what a column is like
COLUMNS_AT_ONCE = 64
SHOWN = 3


class Oddity(NamedTuple):
    """What is odd, in words, and which rows (a mask) of which part have it."""

    text: str
    rows: np.ndarray
    held_out: bool


def inadmissible(data: RowSource) -> str | None:
    """Return in words which values the sites cannot take, None when there are none."""
    try:
        data.sites.check(data.x, data.observed, _names(data))
    except SupportError as error:
        return str(error)
    return None


def oddities(training: RowSource, held_out: RowSource | None) -> Iterator[Oddity]:
    """Yield what is odd about the values of all rows, measured by the training rows."""
    parts = [(training, False), *([] if held_out is None or not len(held_out.x) else [(held_out, True)])]
    extreme = [np.zeros((2, len(part.x)), bool) for part, _ in parts]
    columns: list[list[list[int]]] = [[[], []] for _ in parts]
    for start in range(0, training.x.shape[1], COLUMNS_AT_ONCE):
        block = slice(start, start + COLUMNS_AT_ONCE)
        mean, deviation, constant = _moments(*_cells(training, block))
        for (part, is_held_out), rows, named in zip(parts, extreme, columns, strict=True):
            far, new = _odd_cells(part, block, mean, deviation, constant, is_held_out)
            for number, odd in enumerate((far, new)):
                rows[number] |= odd.any(axis=1)
                named[number] += (start + np.flatnonzero(odd.any(axis=0))).tolist()
    texts = (
        f"values more than {EXTREME:g} standard deviations from the training mean",
        "other values where a column was constant in training",
    )
    for (_, is_held_out), rows, named in zip(parts, extreme, columns, strict=True):
        for number, text in enumerate(texts):
            if rows[number].any():
                yield Oddity(f"{text} in {_listed(named[number], training)}", rows[number], is_held_out)


def _odd_cells(
    part: RowSource, block: slice, mean: np.ndarray, deviation: np.ndarray, constant: np.ndarray, held_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells are extreme, and which differ from a column that was constant in training."""
    cells, seen = _cells(part, block)
    real = part.sites.real[block]
    far = seen & ~constant & (np.abs(cells - mean) > EXTREME * deviation) & real
    new = seen & constant & (cells != mean) & held_out
    new &= real | (new.mean(axis=0) > RARE)
    return far, new


def _cells(data: RowSource, block: slice) -> tuple[np.ndarray, np.ndarray]:
    cells = np.asarray(data.x[:, block], np.float64)
    seen = np.isfinite(cells)
    return cells, seen if data.observed is None else seen & data.observed[:, block]


def _moments(cells: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, deviation and whether there is only one value, by column over the cells that are seen.

    A column of which hardly anything is seen has an infinite deviation: nothing is odd there.
    """
    weight = np.maximum(seen.sum(axis=0), 1)
    known = weight >= FEWEST
    low, high = np.where(seen, cells, np.inf).min(axis=0), np.where(seen, cells, -np.inf).max(axis=0)
    constant = known & (low == high)
    mean = np.where(constant, low, np.where(seen, cells, 0.0).sum(axis=0) / weight)
    deviation = np.sqrt((np.where(seen, cells - mean, 0.0) ** 2).sum(axis=0) / weight)
    return mean, np.where(known, deviation, np.inf), constant


def _names(data: RowSource) -> tuple[str, ...]:
    return tuple(getattr(data, "names", ()))


def _listed(columns: list[int], data: RowSource) -> str:
    names = _names(data)
    shown = ", ".join(f"'{names[column]}'" if names else str(column) for column in columns[:SHOWN])
    more = f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else ""
    return f"column {shown}" if len(columns) == 1 else f"columns {shown}{more}"
