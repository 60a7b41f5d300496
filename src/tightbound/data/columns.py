"""From whatever a user holds to rows of numbers and a mask, or a message that names the columns in the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from tightbound.errors import DataError

__all__ = ["Missing", "Rows", "column_list", "flatten", "mark_missing", "observed_cells", "regrid"]

Missing = Literal["refuse", "mask"]


class Rows(NamedTuple):
    """Cells (n, D), the shape of one example, the column names, and which cells a masked array hides."""

    cells: np.ndarray
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    hidden: np.ndarray | None = None


def column_list(chosen: Any, names: tuple[str, ...] = ()) -> str | None:
    """Return the chosen columns as words, five at the most, or None when there is none.

    >>> column_list([True, False, True], ("age", "sex", "weight"))
    "columns 'age', 'weight'"
    """
    columns = np.flatnonzero(chosen)
    if not len(columns):
        return None
    shown = ", ".join(f"'{names[j]}'" if names else str(j) for j in columns[:5])
    more = f" and {len(columns) - 5:,} more" if len(columns) > 5 else ""
    return f"{'column' if len(columns) == 1 else 'columns'} {shown}{more}"


def flatten(x: Any) -> Rows:
    """Return x as rows of numbers; raise :class:`DataError` when it has no such form."""
    names = tuple(str(name) for name in getattr(x, "columns", ()))
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise DataError(f"x cannot become an array ({error}); expected rows of equal length") from None
    if array.ndim == 0:
        raise DataError(
            f"x is a {type(x).__name__}, expected an array of numbers of shape (n, D); a sparse matrix needs .toarray()"
        )
    _only_numbers(array, names)
    shape = _example_shape(array.shape)
    cells = array.reshape(len(array), -1)
    hidden = np.ma.getmaskarray(x).reshape(cells.shape) if isinstance(x, np.ma.MaskedArray) else None
    return Rows(cells, shape, names, hidden)


def _only_numbers(array: np.ndarray, names: tuple[str, ...]) -> None:
    if array.dtype.kind in "buif":
        return
    if array.dtype.kind == "c":
        raise DataError("x holds complex numbers, expected real ones; pass the real and imaginary parts as columns")
    if array.dtype.kind not in "OUS" or array.ndim != 2:
        raise DataError(f"x has type {array.dtype}, expected numbers (bool, integer or float)")
    where = column_list([not _all_numbers(column) for column in array.T], names)
    if where is None:
        raise DataError(f"x has type {array.dtype} although its cells are numbers; pass x.astype(float)")
    raise DataError(f"text or objects in {where}, expected numbers; encode or drop what is not a number")


def _all_numbers(column: Iterable[Any]) -> bool:
    try:
        return all(isinstance(float(cell), float) for cell in column)
    except (TypeError, ValueError):
        return False


def _example_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 1:
        raise DataError(
            f"x has one dimension of {shape[0]}, expected rows: x.reshape(-1, 1) makes {shape[0]} examples of one "
            "number, x.reshape(1, -1) one example"
        )
    if not 2 <= len(shape) <= 4:
        raise DataError(f"x has {len(shape)} dimensions, expected (n, D), (n, height, width) or (n, height, width, channels)")
    if 0 in shape:
        raise DataError(f"x has shape {shape}, which is empty; expected at least one row and one column")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        raise DataError(f"x has shape {shape}, which looks like channels first; expected channels last: np.moveaxis(x, 1, -1)")
    return (*shape[1:], 1) if len(shape) == 3 else tuple(shape[1:])


def regrid(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the wanted shape of one example, with a channel axis; raise :class:`DataError` when its size differs."""
    full = (*wanted, 1) if len(wanted) == 2 else tuple(wanted)
    if len(full) not in (1, 3) or min(full) < 1 or math.prod(full) != math.prod(shape):
        raise DataError(
            f"shape={tuple(wanted)} does not fit examples of {math.prod(shape)} values, expected (height, width, channels)"
        )
    return full


def mark_missing(rows: Rows, observed: Any, missing: Missing) -> np.ndarray | None:
    """Return which cells are observed, None for all; raise when some are missing and that was not allowed for."""
    seen = None if observed is None else _same_cells(observed, rows.cells)
    gone = np.zeros(rows.cells.shape, bool) if rows.hidden is None else rows.hidden
    if rows.cells.dtype.kind == "f":
        gone = gone | np.isnan(rows.cells)
    if seen is not None:
        gone = gone & seen
    if not gone.any():
        return seen
    if missing == "refuse":
        raise DataError(_where_missing(gone, rows.names))
    return ~gone if seen is None else seen & ~gone


def observed_cells(rows: Rows, seen: np.ndarray | None) -> np.ndarray:
    """Return the cells with 0, a value of every kind, where nothing was observed; refuse infinite values."""
    cells = rows.cells if seen is None else np.where(seen, rows.cells, np.zeros((), rows.cells.dtype))
    if cells.dtype.kind == "f" and not np.isfinite(cells).all():
        where = column_list(np.isinf(cells).any(axis=0), rows.names)
        raise DataError(f"infinite values in {where}; replace them, or mark them as not observed")
    return cells


def _same_cells(observed: Any, cells: np.ndarray) -> np.ndarray:
    seen = np.array(observed)
    if seen.dtype != bool or len(seen) != len(cells) or seen.size != cells.size:
        raise DataError(f"observed has shape {seen.shape} and type {seen.dtype}, expected true or false for every cell of x")
    return seen.reshape(cells.shape)


def _where_missing(gone: np.ndarray, names: tuple[str, ...]) -> str:
    rows = np.flatnonzero(gone.any(axis=1))
    shown = ", ".join(str(row) for row in rows[:5])
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    rows_word = "row" if len(rows) == 1 else "rows"
    return (
        f"missing values (NaN) in {column_list(gone.any(axis=0), names)}, {rows_word} {shown}{more}, counted from 0; "
        "pass missing='mask' to model them as not observed, or fill them"
    )
